// The page: connects user actions, the embedding queue and the views.

import { Collection } from "./collection.js";
import { drawDescriptions } from "./descriptions.js";
import { byId, make, Tabs } from "./elements.js";
import { Embedding } from "./embedding.js";
import { fetchSamples, listenForFiles, listSamples } from "./intake.js";
import { Matrix } from "./matrix.js";
import { askKey, Problems, setStatus, showProgress } from "./messages.js";
import { count, formatScore, rough } from "./numbers.js";
import { rank, Ranking } from "./ranking.js";
import { Service } from "./service.js";
import { Snippets } from "./snippets.js";
import { captureFrames, Thumbnails } from "./thumbnails.js";
import { VideoView } from "./video.js";

const DESCRIPTIONS = ["a cup of coffee", "a cat", "a rocket", "coins"];

class Playground {
  collection = new Collection();
  problems = new Problems(byId("errors"));
  thumbnails = new Thumbnails();
  speeds = new Map();
  model = null;
  skipped = ""; // which files were skipped, reported together with the next result
  #captured = Promise.resolve();
  #scheduled = false;

  constructor() {
    const { collection, thumbnails } = this;
    this.service = new Service({
      askKey,
      onbusy: seconds => setStatus(`The server is busy; retrying in ${seconds} s.`),
    });
    this.embedding = new Embedding(this.service, {
      onprogress: queue => this.#progress(queue),
      onerror: (item, error) => this.#failed(item, error),
      onend: (queue, stopped) => this.#ended(queue, stopped),
    });
    const video = new VideoView(byId("video"), collection, thumbnails, item => this.#sample(item));
    this.views = {
      video,
      ranking: new Ranking(byId("ranking"), collection, thumbnails, {
        onvideo: (item, frame) => { this.tabs.show("video"); video.show(item, frame); },
        onquery: item => collection.setQuery(item),
      }),
      matrix: new Matrix(byId("matrix"), collection, thumbnails),
      code: new Snippets(byId("code"), collection, () => this.service.hasKey),
    };
    this.tabs = new Tabs(document.querySelector(".tabs"), view => this.views[view].draw());
    collection.addEventListener("change", () => this.#redraw());
    this.#listen();
    this.#redraw();
  }

  async start() {
    await this.service.ready(text => setStatus(`Not ready: ${text}.`));
    setStatus("");
    this.model = await this.service.get("model/current");
    const { supports_text: texts, supports_image: images } = await this.service.get("model/capabilities");
    for (const element of document.querySelectorAll(".media")) element.hidden = !images;
    byId("search").hidden = byId("open-texts").hidden = !texts;
    byId("intake-hint").textContent = images ? byId("intake-hint").textContent
      : "This model embeds texts only: add texts, then search them.";
    byId("docs-link").hidden = byId("metrics-link").hidden = this.service.hasKey;
    this.#drawFacts();
    const samples = images && texts ? await listSamples() : [];
    byId("try-samples").addEventListener("click", () => this.#trySamples(samples));
    byId("try-samples").hidden = !samples.length; // not earlier: a click would be lost
  }

  #listen() {
    listenForFiles(files => this.#addFiles(files));
    byId("stop").addEventListener("click", () => this.embedding.stop());
    byId("clear").addEventListener("click", () => {
      this.embedding.stop();
      this.collection.remove([...this.collection.items]);
      this.problems.clear();
      setStatus("Removed all items.");
      byId("choose-files").focus();
    });
    byId("open-texts").addEventListener("click", () => {
      const open = byId("texts-form").toggleAttribute("hidden") === false;
      byId("open-texts").setAttribute("aria-expanded", String(open));
      if (open) byId("texts").focus();
    });
    byId("texts-form").addEventListener("submit", event => {
      event.preventDefault();
      this.embedding.add(this.collection.addTexts(byId("texts").value.split("\n")));
      byId("texts").value = "";
    });
    byId("search").addEventListener("submit", event => {
      event.preventDefault();
      const text = byId("description").value.trim();
      if (text) this.#search(text);
    });
  }

  #addFiles(files) {
    const { added, duplicates, unsupported } = this.collection.addFiles(files);
    const reasons = [
      duplicates ? `${count(duplicates, "file")} already added` : "",
      unsupported ? `${count(unsupported, "file")} neither image nor video` : "",
    ].filter(Boolean).join("; ");
    this.skipped = reasons && ` Skipped: ${reasons}.`;
    setStatus(this.skipped.trim());
    this.embedding.add(added);
  }

  async #trySamples(names) {
    byId("try-samples").disabled = true;
    try {
      const present = new Set(this.collection.items.map(item => item.name));
      this.#addFiles(await fetchSamples(names.filter(name => !present.has(name))));
      for (const text of DESCRIPTIONS) await this.#describe(text);
      this.collection.setQuery(this.collection.findDescription(DESCRIPTIONS[0]));
    } catch (error) {
      this.problems.add(null, error);
    }
    byId("try-samples").disabled = false;
  }

  async #search(text) {
    try {
      const query = await this.#describe(text);
      this.collection.setQuery(query);
      byId("description").select();
      const [best] = rank(query, this.collection.ready);
      setStatus(best
        ? `Best match: ${best.item.name}, ${formatScore(best.score)}.`
        : "Add images, videos or texts to rank.");
    } catch (error) {
      this.problems.add(`“${text}”`, error);
    }
  }

  async #describe(text) {
    const existing = this.collection.findDescription(text);
    if (existing) return existing;
    const start = performance.now();
    const { vectors } = await this.service.embed({ type: "text", text });
    this.speeds.set("text", `${rough(performance.now() - start)} ms per text`);
    this.#drawFacts();
    return this.collection.findDescription(text) ?? this.collection.addDescription(text, vectors);
  }

  #sample(item) {
    this.embedding.add([item]); // the current frames stay until the new ones arrive
  }

  #progress(queue) {
    showProgress(queue);
    this.collection.changed();
  }

  #failed(item, error) {
    this.problems.add(item.name, error);
    if (!item.ready) this.collection.remove([item]);
  }

  #ended(queue, stopped) {
    showProgress(null);
    this.collection.remove(this.collection.items.filter(item => !item.ready));
    const images = queue.speed("image");
    const frames = queue.speed("video");
    if (images) this.speeds.set("image", `${rough(images)} images/s`);
    if (frames) this.speeds.set("video", `${rough(frames)} video frames/s`);
    this.#drawFacts();
    const seconds = rough((performance.now() - queue.started) / 1000);
    const result = stopped ? "Stopped." : `Embedded ${count(queue.done, "item")} in ${seconds} s.`;
    setStatus(result + this.skipped);
    this.skipped = "";
    for (const item of this.collection.videos) this.#capture(item);
  }

  /** Capture the frames of a video, one video after the other. */
  #capture(item) {
    if (item.captured === item.frames) return;
    item.captured = item.frames;
    const capture = () => captureFrames(item, () => this.#redraw());
    this.#captured = this.#captured.then(capture);
  }

  #drawFacts() {
    if (this.model === null) return;
    const { model, device, precision, dimension, fingerprint, notice } = this.model;
    const facts = {
      Model: model,
      Device: `${device}, ${precision}`,
      Dimension: dimension,
      Fingerprint: fingerprint,
      Speed: [...this.speeds.values()].join(" · ") || "not measured yet",
    };
    byId("facts").replaceChildren(...Object.entries(facts).map(([name, value]) =>
      make("div", { class: name.toLowerCase() }, make("dt", {}, name),
        make("dd", { title: value }, String(value)))));
    byId("notice").textContent = notice ?? "";
    byId("notice").hidden = !notice;
  }

  /** At most once per animation frame, and only the visible view. */
  #redraw() {
    if (this.#scheduled) return;
    this.#scheduled = true;
    requestAnimationFrame(() => {
      this.#scheduled = false;
      byId("clear").hidden = !this.collection.items.length;
      drawDescriptions(this.collection);
      this.views[this.tabs.current].draw();
    });
  }
}

const playground = new Playground();
playground.start().catch(error => playground.problems.add(null, error));

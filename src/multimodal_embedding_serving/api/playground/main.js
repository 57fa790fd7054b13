// The page: what the reader does, and what is drawn of it.

import { Collection } from "./collection.js";
import { drawDescriptions } from "./descriptions.js";
import { byId, make, Tabs } from "./elements.js";
import { Embedding } from "./embedding.js";
import { Film } from "./film.js";
import { fetchSamples, listenForFiles, listSamples } from "./intake.js";
import { Matrix } from "./matrix.js";
import { askKey, note, Problems, showProgress } from "./messages.js";
import { count, likeness, rough } from "./numbers.js";
import { captureFrames, Pictures } from "./pictures.js";
import { rank, Ranking } from "./ranking.js";
import { Service } from "./service.js";
import { Snippets } from "./snippets.js";

const DESCRIPTIONS = ["a cup of coffee", "a cat", "a rocket", "coins"];

class Playground {
  collection = new Collection();
  problems = new Problems(byId("errors"));
  pictures = new Pictures();
  speeds = new Map();
  model = null;
  left = ""; // which files were not taken, until it is said with what was embedded
  #captured = Promise.resolve();
  #scheduled = false;

  constructor() {
    const { collection, pictures } = this;
    this.service = new Service({
      askKey,
      onbusy: seconds => note(`The server is busy; trying again in ${seconds} s.`),
    });
    this.embedding = new Embedding(this.service, {
      onprogress: queue => this.#progress(queue),
      onerror: (item, error) => this.#failed(item, error),
      onend: (queue, stopped) => this.#ended(queue, stopped),
    });
    const film = new Film(byId("film"), collection, pictures, item => this.#sample(item));
    this.views = {
      film,
      ranking: new Ranking(byId("ranking"), collection, pictures, {
        onfilm: (item, frame) => { this.tabs.show("film"); film.show(item, frame); },
        onquery: item => collection.ask(item),
      }),
      matrix: new Matrix(byId("matrix"), collection, pictures),
      code: new Snippets(byId("code"), collection, () => this.service.hasKey),
    };
    this.tabs = new Tabs(document.querySelector(".tabs"), view => this.views[view].draw());
    collection.addEventListener("change", () => this.#redraw());
    this.#listen();
    this.#redraw();
  }

  async start() {
    await this.service.ready((text, percent) => note(`Not ready: ${text} (${percent} %)`));
    note("");
    this.model = await this.service.get("model/current");
    const { supports_text: texts, supports_image: images } = await this.service.get("model/capabilities");
    for (const element of document.querySelectorAll(".media")) element.hidden = !images;
    byId("search").hidden = byId("open-texts").hidden = !texts;
    byId("intake-hint").textContent = images ? byId("intake-hint").textContent
      : "This model embeds texts only: add some, then search in them.";
    byId("docs-link").hidden = byId("metrics-link").hidden = this.service.hasKey;
    this.#drawFacts();
    const samples = images && texts ? await listSamples() : [];
    byId("try-samples").addEventListener("click", () => this.#trySamples(samples));
    byId("try-samples").hidden = !samples.length; // not before: a click would be lost
  }

  #listen() {
    listenForFiles(files => this.#addFiles(files));
    byId("stop").addEventListener("click", () => this.embedding.stop());
    byId("clear").addEventListener("click", () => {
      this.embedding.stop();
      this.collection.remove([...this.collection.items]);
      this.problems.clear();
      note("Removed.");
      byId("choose-files").focus();
    });
    byId("open-texts").addEventListener("click", () => {
      const opened = byId("texts-form").toggleAttribute("hidden") === false;
      byId("open-texts").setAttribute("aria-expanded", String(opened));
      if (opened) byId("texts").focus();
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
    const { added, known, others } = this.collection.addFiles(files);
    const left = [
      known ? `${count(known, "file is", "files are")} here already` : "",
      others ? `${count(others, "file is", "files are")} neither picture nor video` : "",
    ].filter(Boolean).join("; ");
    this.left = left && ` Left out: ${left}.`;
    note(this.left.trim());
    this.embedding.add(added);
  }

  async #trySamples(names) {
    byId("try-samples").disabled = true;
    try {
      const known = new Set(this.collection.items.map(item => item.name));
      this.#addFiles(await fetchSamples(names.filter(name => !known.has(name))));
      for (const text of DESCRIPTIONS) await this.#describe(text);
      this.collection.ask(this.collection.described(DESCRIPTIONS[0]));
    } catch (error) {
      this.problems.add(null, error);
    }
    byId("try-samples").disabled = false;
  }

  async #search(text) {
    try {
      const query = await this.#describe(text);
      this.collection.ask(query);
      byId("description").select();
      const [best] = rank(query, this.collection.ready);
      note(best
        ? `Most similar: ${best.item.name}, ${likeness(best.score)}.`
        : "Add something to be ranked.");
    } catch (error) {
      this.problems.add(`“${text}”`, error);
    }
  }

  async #describe(text) {
    const known = this.collection.described(text);
    if (known) return known;
    const began = performance.now();
    const { vectors } = await this.service.embed({ type: "text", text });
    this.speeds.set("text", `${rough(performance.now() - began)} ms a text`);
    this.#drawFacts();
    return this.collection.described(text) ?? this.collection.describe(text, vectors);
  }

  #sample(item) {
    this.embedding.add([item]); // until it is done, the frames that are here stay
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
    const pictures = queue.speed("image");
    const frames = queue.speed("film");
    if (pictures) this.speeds.set("image", `${rough(pictures)} pictures/s`);
    if (frames) this.speeds.set("film", `${rough(frames)} video frames/s`);
    this.#drawFacts();
    const seconds = rough((performance.now() - queue.started) / 1000);
    const told = stopped ? "Stopped." : `Embedded ${count(queue.done, "item")} in ${seconds} s.`;
    note(told + this.left);
    this.left = "";
    for (const item of this.collection.films) this.#capture(item);
  }

  /** The pictures of a film's frames, one film after the other. */
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

  /** Once a frame at most, and only what is seen. */
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

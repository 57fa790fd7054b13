// The page: connects user actions, the embedding queue, the store and the views.

import { Calibration } from "./calibration.js";
import { Collection } from "./collection.js";
import { drawDescriptions } from "./descriptions.js";
import { byId, Tabs } from "./elements.js";
import { Embedding } from "./embedding.js";
import { drawFacts, foldFacts } from "./facts.js";
import { fetchSamples, listenForFiles, listSamples } from "./intake.js";
import { MapView } from "./map.js";
import { Matrix } from "./matrix.js";
import { announce, askKey, Problems, setStatus, showProgress } from "./messages.js";
import { count, formatMatch, formatScore, rough } from "./numbers.js";
import { Ranking } from "./ranking.js";
import { Search } from "./search.js";
import { Service } from "./service.js";
import { Snippets } from "./snippets.js";
import { Store } from "./store.js";
import { readTexts } from "./textfiles.js";
import { captureFrames, Thumbnails } from "./thumbnails.js";
import { VideoView } from "./video.js";
import { Viewer } from "./viewer.js";

const DESCRIPTIONS = ["a cup of coffee", "a cat", "a rocket", "a clock"];
const MAX_NAMED = 3; // skipped files that are named

class Playground {
  collection = new Collection();
  problems = new Problems(byId("errors"), items => this.#retry(items));
  thumbnails = new Thumbnails();
  speeds = new Map();
  model = null;
  store = null;
  samples = []; // names; empty until they can be added
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
      onready: items => this.store?.keepItems(items),
      onerror: (item, error) => this.#failed(item, error),
      onend: (queue, stopped) => this.#ended(queue, stopped),
      onreturn: () => this.#returned(),
    });
    this.search = new Search(this.service, collection, {
      onkeep: description => this.#keep(description),
      onfound: query => this.#found(query),
      onspeed: text => this.#measured("text", text),
      onerror: error => this.problems.add(null, error),
    });
    this.#buildViews(collection, thumbnails);
    this.tabs = new Tabs(document.querySelector(".tabs"), view => this.views[view].draw());
    collection.addEventListener("change", () => this.#redraw());
    this.#listen();
    this.#redraw();
  }

  #buildViews(collection, thumbnails) {
    const viewer = new Viewer(item => collection.setQuery(item));
    const video = new VideoView(byId("video"), collection, thumbnails, item => this.#sample(item));
    const ranking = new Ranking(byId("ranking"), collection, thumbnails, {
      onopen: (results, index) => viewer.open(results, index),
      onvideo: (item, frame) => { this.tabs.show("video"); video.show(item, frame); },
      onquery: item => collection.setQuery(item),
    });
    const map = new MapView(byId("map"), ranking, thumbnails, item => {
      const results = ranking.results();
      viewer.open(results, results.findIndex(each => each.item === item));
    });
    const matrix = new Matrix(byId("matrix"), collection, thumbnails);
    const code = new Snippets(byId("code"), collection, () => this.service.hasKey);
    this.views = { video, ranking, map, matrix, code };
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
    byId("metrics-link").hidden = this.service.hasKey; // a link can't carry the key
    if (images && texts) {
      this.calibration = new Calibration(this.service, this.model, () => this.#redraw());
      this.views.ranking.calibration = this.calibration;
    }
    await this.#restore();
    this.#drawFacts();
    this.samples = images && texts ? await listSamples() : [];
    byId("try-samples").addEventListener("click", () => this.#trySamples());
    this.#redraw();
  }

  /** Show what was kept for this model. */
  async #restore() {
    this.store = new Store(this.model.fingerprint, () => setStatus(
      "This browser does not keep the collection: it is gone when you close the page."));
    await this.store.open();
    this.collection.restore(await this.store.load());
    for (const item of this.collection.videos) this.#capture(item);
    if (this.collection.ready.length) setStatus(`${count(this.collection.ready.length, "item")} kept from your last visit.`);
  }

  #listen() {
    listenForFiles(files => this.#addFiles(files), file => this.search.byImage(file));
    byId("stop").addEventListener("click", () => this.embedding.stop());
    byId("clear").addEventListener("click", () => {
      this.embedding.stop();
      this.store?.removeItems(this.collection.items);
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
  }

  async #addFiles(files) {
    const { added, textFiles, duplicates, unsupported } = this.collection.addFiles(files);
    const named = unsupported.slice(0, MAX_NAMED).map(name => name.split("/").pop()).join(", ");
    const more = unsupported.length - MAX_NAMED;
    const reasons = [
      duplicates ? `${count(duplicates, "file")} already added` : "",
      named ? `${named}${more > 0 ? ` and ${count(more, "more file")}` : ""} (no image, video or text file)` : "",
    ].filter(Boolean).join("; ");
    this.skipped = reasons && ` Skipped: ${reasons}.`;
    setStatus(this.skipped.trim());
    this.embedding.add(added);
    for (const file of textFiles) this.embedding.add(this.collection.addTexts(await readTexts(file)));
  }

  #retry(items) {
    this.collection.addAgain(items);
    this.embedding.add(items);
  }

  async #trySamples() {
    byId("try-samples").disabled = true;
    try {
      await this.#addFiles(await fetchSamples(this.samples));
      byId("description").focus(); // the button is gone now
      for (const text of DESCRIPTIONS.toReversed()) this.#keep(await this.search.describe(text));
      this.collection.setQuery(this.collection.findDescription(DESCRIPTIONS[0]));
      this.calibration?.load();
    } catch (error) {
      this.problems.add(null, error);
    }
    byId("try-samples").disabled = false;
  }

  #keep(description) {
    if (this.collection.findDescription(description.name)) return;
    this.collection.addDescription(description);
    this.store?.keepDescription(description);
  }

  /** A search that was asked for is done: show its results. */
  #found(query) {
    this.problems.clearSearches();
    this.calibration?.load();
    const [best] = this.views.ranking.results();
    if (!best) {
      setStatus("Add images, videos or texts to rank.");
      return;
    }
    setStatus("");
    const score = best.match === null ? formatScore(best.score) : formatMatch(best.match);
    announce(`Best match: ${best.item.name}, ${score}.`);
    if (query !== this.collection.query) return;
    if (matchMedia("(pointer: coarse)").matches) byId("description").blur(); // the keyboard covers the results
    if (this.tabs.current === "ranking") this.views.ranking.show();
  }

  #forget(query) {
    if (this.collection.descriptions.includes(query)) {
      this.collection.removeDescription(query);
      this.store?.removeDescription(query);
    } else {
      this.collection.dropQuery();
    }
  }

  #sample(item) {
    this.embedding.add([item]); // the current frames stay until the new ones arrive
  }

  #progress(queue) {
    showProgress(queue);
    this.collection.changed();
  }

  #failed(item, error) {
    this.problems.add(item, error);
    if (!item.ready) this.collection.remove([item]);
  }

  #ended(queue, stopped) {
    showProgress(null);
    this.collection.remove(this.collection.items.filter(item => !item.ready));
    const images = queue.speed("image");
    const frames = queue.speed("video");
    if (images) this.#measured("image", `${rough(images)} images/s`);
    if (frames) this.#measured("video", `${rough(frames)} video frames/s`);
    const seconds = rough((performance.now() - queue.started) / 1000);
    const all = queue.embedded === queue.total ? "" : `${queue.embedded.toLocaleString("en")} of `;
    const embedded = `${stopped ? "Stopped: embedded" : "Embedded"} ${all}${count(queue.total, "item")} in ${seconds} s.`;
    setStatus(embedded + this.skipped);
    this.skipped = "";
    for (const item of this.collection.videos) this.#capture(item);
  }

  /** A lost server answers again -> whether it still serves the same model. */
  async #returned() {
    const { model, fingerprint } = await this.service.get("model/current");
    if (fingerprint === this.model.fingerprint) return true;
    this.problems.add(null, new Error(`the server now serves ${model} with other vectors: reload this page`));
    return false;
  }

  /** Capture the frames of a video, one video after the other. */
  #capture(item) {
    if (item.captured === item.frames) return;
    item.captured = item.frames;
    const capture = () => captureFrames(item, () => this.#redraw());
    this.#captured = this.#captured.then(capture);
  }

  #measured(kind, text) {
    this.speeds.set(kind, text);
    this.#drawFacts();
  }

  #drawFacts() {
    if (this.model !== null) drawFacts(this.model, [...this.speeds.values()]);
  }

  /** At most once per animation frame, and only the visible view. */
  #redraw() {
    if (this.#scheduled) return;
    this.#scheduled = true;
    requestAnimationFrame(() => {
      this.#scheduled = false;
      const filled = this.collection.items.length > 0;
      document.body.classList.toggle("filled", filled);
      byId("clear").hidden = !filled;
      byId("try-samples").hidden = filled || !this.samples.length; // not earlier: a click would be lost
      if (filled) foldFacts();
      drawDescriptions(this.collection, query => this.#forget(query));
      this.views[this.tabs.current].draw();
    });
  }
}

const playground = new Playground();
playground.start().catch(error => playground.problems.add(null, error));

// The search field: by text, while typing too, and by an image that is not in the collection.

import { queryItem } from "./collection.js";
import { byId } from "./elements.js";
import { base64 } from "./intake.js";
import { rough } from "./numbers.js";

const TYPING_PAUSE = 250; // milliseconds without a key before a search while typing
const MIN_LIVE = 3; // characters
const MAX_KNOWN = 200;

export class Search {
  #known = new Map(); // text -> description, the oldest first
  #timer = null;
  #latest = 0;

  /**
   * `onkeep(description)`: add it to the descriptions; `onfound(query)`: a search that was asked for is
   * done; `onspeed(text)`: what it took; `onerror(error)`.
   */
  constructor(service, collection, callbacks) {
    Object.assign(this, { service, collection }, callbacks);
    byId("description").addEventListener("input", () => this.#typed());
    byId("search").addEventListener("submit", event => {
      event.preventDefault();
      const text = byId("description").value.trim();
      if (text) this.byText(text);
    });
  }

  async byText(text) {
    clearTimeout(this.#timer);
    const turn = (this.#latest += 1);
    try {
      const query = await this.describe(text);
      this.onkeep(query);
      if (turn !== this.#latest) return;
      this.collection.setQuery(query);
      byId("description").select();
      this.onfound(query);
    } catch (error) {
      this.onerror(error);
    }
  }

  async byImage(file) {
    clearTimeout(this.#timer);
    this.#latest += 1;
    try {
      const input = { type: "image_base64", image_base64: await base64(file) };
      const { vectors } = await this.service.embed(input);
      const query = queryItem("image", file.name, vectors, file);
      byId("description").value = "";
      this.collection.setQuery(query);
      this.onfound(query);
    } catch (error) {
      this.onerror(error);
    }
  }

  /** The description of a text, embedded at most once. */
  async describe(text) {
    const known = this.collection.findDescription(text) ?? this.#known.get(text);
    if (known) return known;
    const start = performance.now();
    const { vectors } = await this.service.embed({ type: "text", text });
    this.onspeed(`${rough(performance.now() - start)} ms per text`);
    const description = this.collection.findDescription(text) ?? queryItem("description", text, vectors);
    this.#known.set(text, description);
    if (this.#known.size > MAX_KNOWN) this.#known.delete(this.#known.keys().next().value);
    return description;
  }

  #typed() {
    clearTimeout(this.#timer);
    const text = byId("description").value.trim();
    const turn = (this.#latest += 1);
    if (!this.collection.ready.length) return;
    if (text.length >= MIN_LIVE) this.#timer = setTimeout(() => this.#preview(text, turn), TYPING_PAUSE);
    else if (!text) this.collection.dropQuery();
  }

  /** Search without keeping the description; an error waits for a search that was asked for. */
  async #preview(text, turn) {
    try {
      const query = await this.describe(text);
      if (turn === this.#latest) this.collection.setQuery(query);
    } catch {
      // the ranking stays as it is
    }
  }
}

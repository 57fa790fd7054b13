// The large view of an item: a dialog with keys (arrows, Home, End, Escape) and swipes.

import { byId, make } from "./elements.js";
import { formatMatch, formatScore, moment } from "./numbers.js";

const SWIPE = 50; // pixels
const INTO_FRAME = 0.002; // seconds: rounding must not show the previous frame

export class Viewer {
  #results = []; // [{item, score, match, frame}], as ranked
  #at = 0;
  #touched = null;

  /** `onquery(item)`: rank by this item. */
  constructor(onquery) {
    this.dialog = byId("viewer");
    this.stage = byId("viewer-stage");
    const listen = (id, action) => byId(id).addEventListener("click", action);
    listen("viewer-previous", () => this.#go(this.#at - 1));
    listen("viewer-next", () => this.#go(this.#at + 1));
    listen("viewer-close", () => this.dialog.close());
    listen("viewer-like", () => {
      const { item } = this.#results[this.#at];
      this.dialog.close();
      onquery(item);
    });
    this.dialog.addEventListener("keydown", event => this.#key(event));
    this.dialog.addEventListener("close", () => this.stage.replaceChildren()); // a video stops
    this.dialog.addEventListener("click", event => {
      if (event.target === this.dialog) this.dialog.close(); // the backdrop
    });
    this.stage.addEventListener("touchstart", event => { this.#touched = event.touches[0].clientX; }, { passive: true });
    this.stage.addEventListener("touchend", event => this.#swipe(event.changedTouches[0].clientX));
  }

  /** Show one of the results. */
  open(results, at) {
    this.#results = results;
    if (!this.dialog.open) this.dialog.showModal();
    this.#go(at);
    byId("viewer-close").focus();
  }

  #go(at) {
    if (at < 0 || at >= this.#results.length) return;
    this.#at = at;
    const { item, score, match, frame } = this.#results[at];
    const time = item.kind === "video" && score !== null ? `best at ${moment(item.frames[frame]?.timestamp ?? 0)}` : "";
    const parts = [
      `${at + 1} of ${this.#results.length.toLocaleString("en")}`,
      match === null ? "" : `match ${formatMatch(match)}`,
      score === null ? "" : `similarity ${formatScore(score)}`,
      time,
    ];
    byId("viewer-name").textContent = item.kind === "text" ? "Text" : item.name;
    byId("viewer-score").textContent = parts.filter(Boolean).join(" · ");
    byId("viewer-previous").disabled = at === 0;
    byId("viewer-next").disabled = at === this.#results.length - 1;
    this.stage.replaceChildren(this.#show(item, frame));
    if (document.activeElement?.disabled || document.activeElement === document.body) byId("viewer-close").focus();
  }

  #show(item, frame) {
    if (item.kind === "text") return make("p", { class: "large-text" }, item.name);
    if (item.kind === "video") {
      const video = make("video", { controls: true, playsinline: true, "aria-label": item.name });
      video.muted = true;
      video.src = item.address;
      video.currentTime = (item.frames[frame]?.timestamp ?? 0) + INTO_FRAME;
      return video;
    }
    const image = make("img", { alt: item.name, src: item.address });
    image.addEventListener("error", () => image.replaceWith(
      make("p", { class: "large-text" }, "This browser can't show this image format; the server can read it.")));
    return image;
  }

  #key(event) {
    if (event.target.tagName === "VIDEO") return; // its own keys seek
    const to = {
      ArrowRight: this.#at + 1, ArrowLeft: this.#at - 1, Home: 0, End: this.#results.length - 1,
    }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    this.#go(to);
  }

  #swipe(x) {
    const distance = x - (this.#touched ?? x);
    this.#touched = null;
    if (Math.abs(distance) > SWIPE) this.#go(this.#at + (distance < 0 ? 1 : -1));
  }
}

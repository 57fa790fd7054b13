// The sampled frames of a video; each is a button that seeks to it.

import { make, Pager } from "./elements.js";
import { formatScore, moment } from "./numbers.js";

const PAGE = 64;

export class Strip {
  #drawn = {};
  #canvases = [];

  /** `onjump(index)`: a frame was selected; `onturn()`: another page is shown. */
  constructor(thumbnails, onjump, onturn) {
    Object.assign(this, { thumbnails, onjump });
    this.list = make("ol", { class: "strip", "aria-label": "Sampled frames" });
    this.pager = new Pager("frames", PAGE, () => {
      this.draw(this.#drawn.item, this.#drawn.scores);
      onturn();
    });
  }

  /** Draw the frames of the current page; `scores` of all frames, or null. */
  draw(item, scores) {
    const next = { item, scores, frames: item.frames, page: this.pager.page };
    if (Object.keys(next).some(key => next[key] !== this.#drawn[key])) this.#fill(next);
    this.#drawn = next;
    for (const [index, canvas] of this.#canvases) this.thumbnails.paint(canvas, item, index);
  }

  /** Mark a frame as the current one; `index` counts all sampled frames. */
  mark(index) {
    this.#canvases.forEach(([each], at) => {
      const button = this.list.children[at].firstChild;
      if (each === index) button.setAttribute("aria-current", "true");
      else button.removeAttribute("aria-current");
    });
  }

  #fill({ frames, scores }) {
    const best = scores ? scores.indexOf(Math.max(...scores)) : -1;
    const page = this.pager.slice(frames.map((frame, index) => [index, frame]));
    this.#canvases = page.map(([index]) => [index, make("canvas", { "aria-hidden": "true" })]);
    this.list.replaceChildren(...page.map(([index, frame], at) => {
      const time = moment(frame.timestamp);
      const score = scores ? formatScore(scores[index]) : "";
      return make("li", {}, make("button", {
        type: "button",
        class: index === best ? "best" : null,
        onclick: () => this.onjump(index),
      }, make("span", { class: "thumbnail" }, this.#canvases[at][1]),
      make("span", {}, time), score ? make("span", { class: "unseen" }, ", similarity ") : null,
      make("b", {}, score)));
    }));
  }
}

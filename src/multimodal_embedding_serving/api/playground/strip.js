// The sampled frames of a film, each a button that jumps there.

import { make, Pager } from "./elements.js";
import { likeness, moment } from "./numbers.js";

const PAGE = 64;

export class Strip {
  #seen = {};
  #canvases = [];

  /** `onjump(place)`: a frame was chosen; `onturn()`: another page is shown. */
  constructor(pictures, onjump, onturn) {
    Object.assign(this, { pictures, onjump });
    this.list = make("ol", { class: "strip", "aria-label": "Sampled frames" });
    this.pager = new Pager("frames", PAGE, () => {
      this.draw(this.#seen.item, this.#seen.scores);
      onturn();
    });
  }

  /** The page's frames; `scores` of all frames, or null. */
  draw(item, scores) {
    const seen = { item, scores, frames: item.frames, page: this.pager.page };
    if (Object.keys(seen).some(key => seen[key] !== this.#seen[key])) this.#fill(seen);
    this.#seen = seen;
    for (const [place, canvas] of this.#canvases) this.pictures.paint(canvas, item, place);
  }

  /** Mark the frame in a place among all sampled frames as the current one. */
  mark(place) {
    this.#canvases.forEach(([each], at) => {
      const button = this.list.children[at].firstChild;
      if (each === place) button.setAttribute("aria-current", "true");
      else button.removeAttribute("aria-current");
    });
  }

  #fill({ frames, scores }) {
    const best = scores ? scores.indexOf(Math.max(...scores)) : -1;
    const page = this.pager.slice(frames.map((frame, place) => [place, frame]));
    this.#canvases = page.map(([place]) => [place, make("canvas", { "aria-hidden": "true" })]);
    this.list.replaceChildren(...page.map(([place, frame], at) => {
      const time = moment(frame.timestamp);
      const score = scores ? likeness(scores[place]) : "";
      return make("li", {}, make("button", {
        type: "button",
        class: place === best ? "best" : null,
        "aria-label": score ? `${time}, similarity ${score}` : time,
        onclick: () => this.onjump(place),
      }, make("span", { class: "picture" }, this.#canvases[at][1]),
      make("span", {}, time), make("b", {}, score)));
    }));
  }
}

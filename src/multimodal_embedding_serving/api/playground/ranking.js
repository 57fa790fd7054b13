// The ranking: pages of cards, best match first.

import { arrange, make, Pager } from "./elements.js";
import { compare, count, formatScore, moment, share } from "./numbers.js";

const PAGE = 24;

/** Items with their similarity to a query, best match first; in their own order without a query. */
export function rank(query, items) {
  if (query === null) return items.map(item => ({ item, score: null, frame: 0 }));
  return items.filter(item => item !== query)
    .map(item => ({ item, ...compare(query, item) }))
    .sort((a, b) => b.score - a.score);
}

export class Ranking {
  #cards = new Map(); // item id -> card, so that a thumbnail is painted only once
  #query = null;

  /** `onvideo(item, frame)`: show this frame; `onquery(item)`: rank by this item. */
  constructor(element, collection, thumbnails, { onvideo, onquery }) {
    Object.assign(this, { collection, thumbnails, onvideo, onquery });
    this.heading = make("p", { class: "heading", tabindex: -1 });
    this.list = make("ol", { class: "cards", "aria-label": "Results, best match first" });
    this.pager = new Pager("results", PAGE, () => { this.draw(); element.scrollIntoView(); });
    element.append(this.heading, this.list, this.pager.element);
  }

  draw() {
    const { query, ready } = this.collection;
    if (query !== this.#query) this.pager.page = 0;
    this.#query = query;
    const ranked = rank(query, ready);
    const page = this.pager.slice(ranked);
    const start = this.pager.page * PAGE;
    this.heading.textContent = headingOf(query, ranked.length);
    const scores = { high: ranked[0]?.score ?? 0, low: ranked.at(-1)?.score ?? 0 };
    const shown = page.map((each, place) => this.#card(each, start + place + 1, scores));
    this.list.start = start + 1;
    arrange(this.list, shown);
    const visible = new Set(page.map(({ item }) => item.id));
    for (const id of this.#cards.keys()) if (!visible.has(id)) this.#cards.delete(id);
  }

  #card({ item, score, frame }, place, { low, high }) {
    if (!this.#cards.has(item.id)) this.#cards.set(item.id, this.#build(item));
    const card = this.#cards.get(item.id);
    card.moment = frame;
    card.element.classList.toggle("ranked", score !== null);
    card.place.textContent = score === null ? "" : place;
    card.score.textContent = score === null ? "" : formatScore(score);
    card.bar.style.setProperty("--share", score === null ? 0 : share(score, low, high));
    if (item.kind === "video") {
      const at = item.frames[frame]?.timestamp ?? 0;
      card.show.textContent = score === null ? "Show video" : `Best at ${moment(at)}`;
    }
    if (card.canvas) this.thumbnails.paint(card.canvas, item, frame);
    return card.element;
  }

  #build(item) {
    const card = { moment: 0 };
    card.place = make("span", { class: "place" });
    card.score = make("span", { class: "score" });
    card.bar = make("span", { class: "bar", "aria-hidden": "true" });
    card.canvas = item.kind === "text" ? null
      : make("canvas", { role: "img", "aria-label": item.name });
    card.show = item.kind !== "video" ? null : make("button", {
      type: "button",
      onclick: () => this.onvideo(item, card.moment),
    });
    const like = make("button", {
      type: "button",
      class: "quiet",
      "aria-label": `More like ${item.name}`,
      onclick: () => { this.onquery(item); this.heading.focus(); },
    }, "More like this");
    const thumbnail = make("div", { class: card.canvas ? "thumbnail" : "thumbnail text" },
      card.canvas ?? make("p", {}, item.name), card.place);
    const name = item.name.split("/").pop();
    card.element = make("li", { class: "card" }, thumbnail,
      make("div", { class: "caption" },
        make("span", { class: "name", title: item.name }, card.canvas ? name : "Text"), card.score),
      card.bar,
      make("div", { class: "row actions" }, card.show, like));
    return card;
  }
}

function headingOf(query, total) {
  if (!total) return "Nothing here yet. Add images, videos or texts, then describe what you are looking for.";
  const results = count(total, "result");
  if (query === null) return `${count(total, "item")}, not ranked yet. Describe what you are looking for.`;
  const target = query.kind === "description" ? `for “${query.name}”` : `similar to ${query.name}`;
  return `${results} ${target}. The number is the cosine similarity.`;
}

// The ranking: a page of cards, the most similar first.

import { arrange, make, Pager } from "./elements.js";
import { compare, count, likeness, moment, share } from "./numbers.js";

const PAGE = 24;

/** Items with their likeness to a query, the greatest first; in their order without a query. */
export function rank(query, items) {
  if (query === null) return items.map(item => ({ item, score: null, frame: 0 }));
  return items.filter(item => item !== query)
    .map(item => ({ item, ...compare(query, item) }))
    .sort((a, b) => b.score - a.score);
}

export class Ranking {
  #cards = new Map(); // item id -> card, so that a picture is painted once
  #asked = null;

  /** `onfilm(item, frame)`: show this moment; `onquery(item)`: rank by this item. */
  constructor(element, collection, pictures, { onfilm, onquery }) {
    Object.assign(this, { collection, pictures, onfilm, onquery });
    this.heading = make("p", { class: "heading", tabindex: -1 });
    this.list = make("ol", { class: "cards", "aria-label": "Results, the most similar first" });
    this.pager = new Pager("results", PAGE, () => { this.draw(); element.scrollIntoView(); });
    element.append(this.heading, this.list, this.pager.element);
  }

  draw() {
    const { query, ready } = this.collection;
    if (query !== this.#asked) this.pager.page = 0;
    this.#asked = query;
    const ranked = rank(query, ready);
    const page = this.pager.slice(ranked);
    const start = this.pager.page * PAGE;
    this.heading.textContent = headingOf(query, ranked.length);
    const scores = { high: ranked[0]?.score ?? 0, low: ranked.at(-1)?.score ?? 0 };
    const shown = page.map((each, place) => this.#card(each, start + place + 1, scores));
    this.list.start = start + 1;
    arrange(this.list, shown);
    const kept = new Set(page.map(({ item }) => item.id));
    for (const id of this.#cards.keys()) if (!kept.has(id)) this.#cards.delete(id);
  }

  #card({ item, score, frame }, place, { low, high }) {
    if (!this.#cards.has(item.id)) this.#cards.set(item.id, this.#build(item));
    const card = this.#cards.get(item.id);
    card.moment = frame;
    card.element.classList.toggle("ranked", score !== null);
    card.place.textContent = score === null ? "" : place;
    card.score.textContent = score === null ? "" : likeness(score);
    card.bar.style.setProperty("--share", score === null ? 0 : share(score, low, high));
    if (item.kind === "film") {
      const at = item.frames[frame]?.timestamp ?? 0;
      card.show.textContent = score === null ? "Show the video" : `Best at ${moment(at)}`;
    }
    if (card.canvas) this.pictures.paint(card.canvas, item, frame);
    return card.element;
  }

  #build(item) {
    const card = { moment: 0 };
    card.place = make("span", { class: "place" });
    card.score = make("span", { class: "score" });
    card.bar = make("span", { class: "bar", "aria-hidden": "true" });
    card.canvas = item.kind === "text" ? null
      : make("canvas", { role: "img", "aria-label": item.name });
    card.show = item.kind !== "film" ? null : make("button", {
      type: "button",
      onclick: () => this.onfilm(item, card.moment),
    });
    const like = make("button", {
      type: "button",
      class: "quiet",
      "aria-label": `More like ${item.name}`,
      onclick: () => { this.onquery(item); this.heading.focus(); },
    }, "More like this");
    const picture = make("div", { class: card.canvas ? "picture" : "picture words" },
      card.canvas ?? make("p", {}, item.name), card.place);
    const name = item.name.split("/").pop();
    card.element = make("li", { class: "card" }, picture,
      make("div", { class: "caption" },
        make("span", { class: "name", title: item.name }, card.canvas ? name : "Text"), card.score),
      card.bar,
      make("div", { class: "row actions" }, card.show, like));
    return card;
  }
}

function headingOf(query, total) {
  if (!total) return "Nothing here yet. Add pictures, a video or texts, then describe one of them.";
  const things = count(total, "result");
  if (query === null) return `${count(total, "item")}, not ranked yet: describe what you are looking for.`;
  const asked = query.kind === "description" ? `“${query.name}”` : `like ${query.name}`;
  return `${things} for ${asked}. The number is the cosine similarity.`;
}

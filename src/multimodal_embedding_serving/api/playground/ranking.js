// The ranking: pages of cards, best match first.

import { arrange, make, Pager } from "./elements.js";
import { compare, count, formatMatch, formatScore, moment } from "./numbers.js";

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
  calibration = null; // once the model is known

  /** `onopen(results, index)`, `onvideo(item, frame)`: show this; `onquery(item)`: rank by this item. */
  constructor(element, collection, thumbnails, { onopen, onvideo, onquery }) {
    Object.assign(this, { collection, thumbnails, onopen, onvideo, onquery });
    this.heading = make("p", { class: "heading", tabindex: -1 });
    this.meaning = make("p", { class: "hint" });
    this.about = make("details", { class: "about" }, make("summary", {}, "What do the numbers mean?"), this.meaning);
    this.list = make("ol", { class: "cards", "aria-label": "Results, best match first" });
    this.pager = new Pager("results", PAGE, () => { this.draw(); this.show(); });
    element.append(this.heading, this.list, this.pager.element, this.about);
    this.element = element;
  }

  /** Scroll to the results, if they are not in view. */
  show() {
    const { top } = this.element.getBoundingClientRect();
    if (top < 0 || top > innerHeight / 2) this.element.scrollIntoView();
  }

  /** Every item as [{item, score, frame, match}], best match first. `match` is null if it has none. */
  results() {
    const { query, ready } = this.collection;
    const match = this.calibration?.scorer(query, ready) ?? (() => null);
    return rank(query, ready).map(each => ({ ...each, match: match(each.item, each.score) }));
  }

  /** Those of the results that fit; without absolute scores, a tenth of them. */
  matches(results) {
    const rated = results.filter(({ match }) => match !== null);
    if (rated.length) return rated.filter(({ match }) => match >= this.calibration.threshold);
    return this.collection.query === null ? [] : results.slice(0, Math.ceil(results.length / 10));
  }

  draw() {
    const { query } = this.collection;
    if (query !== this.#query) this.pager.page = 0;
    this.#query = query;
    const results = this.results();
    const page = this.pager.slice(results);
    const start = this.pager.page * PAGE;
    const rated = results.filter(({ match }) => match !== null);
    const nothing = rated.length > 0 && !this.matches(results).length;
    this.heading.textContent = headingOf(query, results.length, nothing);
    this.heading.classList.toggle("nothing", nothing);
    this.about.hidden = query === null || !results.length;
    this.meaning.textContent = rated.length ? this.calibration.meaning
      : "The number is the cosine similarity: 1 for the same content, about 0 for unrelated content.";
    this.list.classList.toggle("weak", nothing);
    this.list.start = start + 1;
    arrange(this.list, page.map((each, place) => this.#card(each, start + place, results)));
    const visible = new Set(page.map(({ item }) => item.id));
    for (const id of this.#cards.keys()) if (!visible.has(id)) this.#cards.delete(id);
  }

  #card({ item, score, match, frame }, place, results) {
    if (!this.#cards.has(item.id)) this.#cards.set(item.id, this.#build(item));
    const card = this.#cards.get(item.id);
    Object.assign(card, { results, index: place, moment: frame });
    card.element.classList.toggle("ranked", score !== null);
    card.place.textContent = score === null ? "" : place + 1;
    card.score.textContent = score === null ? "" : formatScore(score);
    card.match.textContent = match === null ? "" : formatMatch(match);
    card.bar.style.setProperty("--share", match ?? Math.max(score ?? 0, 0));
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
    card.score = make("span", { class: "score", title: "Cosine similarity" });
    card.match = make("b", { class: "match" });
    card.bar = make("span", { class: "bar", "aria-hidden": "true" });
    card.canvas = item.kind === "text" ? null : make("canvas", { "aria-hidden": "true" });
    card.show = item.kind !== "video" ? null : make("button", {
      type: "button",
      onclick: () => this.onvideo(item, card.moment),
    });
    const like = make("button", {
      type: "button",
      class: "quiet",
      "aria-label": `More like this: ${item.name}`,
      onclick: () => { this.onquery(item); this.heading.focus(); },
    }, "More like this");
    const thumbnail = make("button", {
      type: "button",
      class: card.canvas ? "thumbnail" : "thumbnail text",
      "aria-label": `View ${item.name}`,
      onclick: () => this.onopen(card.results, card.index),
    }, card.canvas ?? make("span", { class: "words" }, item.name));
    const name = item.name.split("/").pop();
    card.element = make("li", { class: "card" },
      make("div", { class: "picture" }, thumbnail, card.place, card.score),
      make("div", { class: "caption" },
        make("span", { class: "name", title: item.name }, card.canvas ? name : "Text"), card.match),
      card.bar,
      make("div", { class: "row actions" }, card.show, like));
    return card;
  }
}

function headingOf(query, total, nothing) {
  if (!total) return "Nothing here yet. Add images, videos or texts, then describe what you are looking for.";
  if (query === null) return `${count(total, "item")}, not ranked yet. Describe what you are looking for.`;
  if (nothing) {
    return `Nothing fits “${query.name}” well. ${total === 1 ? "The only item:" : `The closest of ${total.toLocaleString("en")}:`}`;
  }
  const target = query.kind === "description" ? `for “${query.name}”` : `similar to ${query.name}`;
  return `${count(total, "result")} ${target}`;
}

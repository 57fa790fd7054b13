// A map of the collection: similar items lie close together.

import { arrange, make } from "./elements.js";
import { count } from "./numbers.js";
import { average, project } from "./pca.js";

const MAX_POINTS = 300;
const MAX_MARKED = 20; // of the best matches

export class MapView {
  #points = new Map(); // item id -> its button
  #drawn = { key: null };

  /** `ranking`: what is ranked, and how well it matches; `onopen(item)`: show an item. */
  constructor(element, ranking, thumbnails, onopen) {
    Object.assign(this, { ranking, thumbnails, onopen });
    this.heading = make("p", { class: "heading" });
    this.plane = make("div", { class: "plane", role: "group", "aria-label": "Map of the collection" });
    this.plane.addEventListener("keydown", event => this.#move(event));
    element.append(this.heading, this.plane);
  }

  draw() {
    const results = this.ranking.results();
    const shown = results.slice(0, MAX_POINTS).map(({ item }) => item);
    const best = new Set(this.ranking.matches(results).slice(0, MAX_MARKED).map(({ item }) => item));
    this.heading.textContent = headingOf(results.length, shown.length, best.size);
    this.plane.hidden = shown.length < 2;
    if (this.plane.hidden) return;
    this.#place(shown);
    arrange(this.plane, shown.map((item, index) => {
      const point = this.#point(item);
      point.classList.toggle("best", best.has(item));
      point.tabIndex = index === 0 ? 0 : -1;
      return point;
    }));
  }

  /** Compute the positions, unless the items are those of the last time. */
  #place(items) {
    const key = items.map(item => `${item.id}/${item.vectors.length}`).sort().join(" ");
    if (key === this.#drawn.key) return;
    const places = project(items.map(item => average(item.vectors)));
    const [left, width] = range(places.map(([x]) => x));
    const [top, height] = range(places.map(([, y]) => y));
    items.forEach((item, index) => {
      const [x, y] = places[index];
      const point = this.#point(item);
      point.style.setProperty("--x", ((x - left) / width).toFixed(4));
      point.style.setProperty("--y", ((y - top) / height).toFixed(4));
    });
    for (const id of this.#points.keys()) if (!items.some(item => item.id === id)) this.#points.delete(id);
    this.#drawn = { key };
  }

  #point(item) {
    const existing = this.#points.get(item.id);
    if (existing) return existing;
    const canvas = item.kind === "text" ? null : make("canvas", { "aria-hidden": "true" });
    const point = make("button", {
      type: "button",
      class: canvas ? "point" : "point text",
      "aria-label": `View ${item.name}`,
      title: item.name,
      onclick: () => this.onopen(item),
    }, canvas ? make("span", { class: "thumbnail" }, canvas) : item.name.slice(0, 24));
    if (canvas) this.thumbnails.paint(canvas, item, Math.floor(item.vectors.length / 2));
    this.#points.set(item.id, point);
    return point;
  }

  /** The arrow keys go to the nearest point in their direction. */
  #move(event) {
    const step = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] }[event.key];
    const from = document.activeElement;
    if (!step || !from.classList.contains("point")) return;
    event.preventDefault();
    const start = center(from);
    let nearest = { distance: Infinity };
    for (const point of this.plane.children) {
      const [dx, dy] = center(point).map((value, axis) => value - start[axis]);
      const along = dx * step[0] + dy * step[1];
      const across = Math.abs(dx * step[1]) + Math.abs(dy * step[0]);
      if (point === from || along <= 0 || across > 2 * along) continue;
      const distance = along + 2 * across;
      if (distance < nearest.distance) nearest = { distance, point };
    }
    if (!nearest.point) return;
    from.tabIndex = -1;
    nearest.point.tabIndex = 0;
    nearest.point.focus();
  }
}

/** The lowest value and the distance to the highest; 1 if they are equal. */
function range(values) {
  const low = Math.min(...values);
  return [low, Math.max(...values) - low || 1];
}

function center(element) {
  const box = element.getBoundingClientRect();
  return [box.left + box.width / 2, box.top + box.height / 2];
}

function headingOf(total, shown, marked) {
  if (total < 2) return "Add at least two images, videos or texts to see how they relate.";
  const what = shown < total
    ? `${count(shown, "item")} of ${total.toLocaleString("en")}`
    : count(total, "item");
  const framed = marked ? ` ${marked === 1 ? "The match" : `The ${marked} matches`} of the search ${marked === 1 ? "is" : "are"} framed.` : "";
  return `${what}: the closer, the more similar (two principal components of the vectors).${framed}`;
}

// A table of the similarities between descriptions and items.

import { make, Pager } from "./elements.js";
import { compare, share } from "./numbers.js";

const COLUMNS = 24;
const ROWS = 24;

export class Matrix {
  /** Rows and columns are descriptions or items, as selected. */
  constructor(element, collection, thumbnails) {
    Object.assign(this, { collection, thumbnails });
    const redraw = () => this.draw();
    this.choice = make("select", { id: "matrix-choice", onchange: redraw },
      make("option", { value: "across" }, "Descriptions × items"),
      make("option", { value: "items" }, "Items × items"),
      make("option", { value: "descriptions" }, "Descriptions × descriptions"));
    this.heading = make("p", { class: "heading" });
    this.columns = new Pager("columns", COLUMNS, redraw);
    this.rows = new Pager("rows", ROWS, redraw);
    this.table = make("table", { class: "matrix" });
    this.frame = make("div", {
      class: "sideways", tabindex: 0, role: "region", "aria-label": "Similarity matrix",
    }, this.table);
    element.append(
      make("div", { class: "row wrap choices" },
        make("label", { for: "matrix-choice" }, "Compare"), this.choice),
      this.heading, this.columns.element, this.frame, this.rows.element);
  }

  draw() {
    const { descriptions, ready } = this.collection;
    const kind = this.choice.value;
    const down = kind === "items" ? ready : descriptions;
    const across = kind === "descriptions" ? descriptions : ready;
    const empty = !down.length || !across.length;
    this.frame.hidden = empty;
    this.heading.textContent = empty
      ? "Add items and search for something: each description becomes a row."
      : "Cosine similarities: the stronger the color, the more similar. The best match of each row is bold.";
    const columns = this.columns.slice(across);
    const rows = this.rows.slice(down);
    if (!empty) this.#fill(rows, columns);
  }

  #fill(rows, columns) {
    const scores = rows.map(row => columns.map(column => compare(row, column).score));
    const others = scores.flatMap((line, r) => line.filter((_, c) => rows[r] !== columns[c]));
    const [low, high] = [Math.min(...others), Math.max(...others)];
    const cell = (row, column, score, best) => make("td", {
      class: [best ? "best" : "", row === column ? "same" : ""].join(" ").trim() || null,
      "data-shade": row === column ? null : Math.round(9 * share(score, low, high)),
    }, score.toFixed(2));
    this.table.replaceChildren(
      make("thead", {}, make("tr", {}, make("td", {}), ...columns.map(each => this.#title(each, "col")))),
      make("tbody", {}, ...rows.map((row, r) => {
        const best = Math.max(...scores[r].filter((_, c) => rows[r] !== columns[c]));
        return make("tr", {}, this.#title(row, "row"),
          ...columns.map((column, c) => cell(row, column, scores[r][c], scores[r][c] === best)));
      })));
  }

  #title(item, scope) {
    const name = item.name.split("/").pop();
    if (!["image", "video"].includes(item.kind)) {
      return make("th", { scope, class: "text", title: item.name }, make("span", {}, item.name));
    }
    const canvas = make("canvas", { "aria-hidden": "true" });
    const title = make("th", { scope, title: item.name },
      make("span", { class: "thumbnail" }, canvas), make("span", { class: "under" }, name));
    this.thumbnails.paint(canvas, item, Math.floor(item.vectors.length / 2));
    return title;
  }
}

// Create elements. Text is always set as text, never as markup.

const SVG = "http://www.w3.org/2000/svg";

export const byId = id => document.getElementById(id);

/** An element with attributes, listeners (`onclick: f`) and children (nodes or strings). */
export function make(tag, attributes = {}, ...children) {
  return furnish(document.createElement(tag), attributes, children);
}

/** The same for SVG. */
export function draw(tag, attributes = {}, ...children) {
  return furnish(document.createElementNS(SVG, tag), attributes, children);
}

function furnish(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.filter(child => child !== null && child !== undefined));
  return element;
}

/** Make `children` the children of `parent`. If they already are, leave them alone to keep the focus. */
export function arrange(parent, children) {
  const same = parent.children.length === children.length
    && children.every((child, index) => parent.children[index] === child);
  if (!same) parent.replaceChildren(...children);
}

/** A button that copies `text()` to the clipboard and confirms it briefly. */
export function copyButton(label, text) {
  const button = make("button", { class: "quiet copy", type: "button", "aria-label": label }, "Copy");
  button.addEventListener("click", async () => {
    const copied = await copy(text());
    button.textContent = copied ? "Copied" : "Copy failed: select the text";
    setTimeout(() => { button.textContent = "Copy"; }, 1600);
  });
  return button;
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return copyBySelection(text); // browsers offer no clipboard over plain HTTP, except on localhost
  }
}

function copyBySelection(text) {
  const area = make("textarea", { class: "unseen", "aria-hidden": "true" });
  area.value = text;
  const focused = document.activeElement;
  document.body.append(area);
  area.select();
  const copied = document.execCommand("copy");
  area.remove();
  focused?.focus();
  return copied;
}

/** Tabs with keyboard support (arrows, Home, End). Calls `onselect(id)` with the panel shown. */
export class Tabs {
  constructor(list, onselect) {
    this.tabs = [...list.querySelectorAll("[role=tab]")];
    this.onselect = onselect;
    for (const tab of this.tabs) tab.addEventListener("click", () => this.select(tab));
    list.addEventListener("keydown", event => this.#move(event));
  }

  get current() {
    return this.tabs.find(tab => tab.getAttribute("aria-selected") === "true").getAttribute("aria-controls");
  }

  show(panel) {
    this.select(this.tabs.find(tab => tab.getAttribute("aria-controls") === panel));
  }

  select(selected) {
    for (const tab of this.tabs) {
      tab.setAttribute("aria-selected", String(tab === selected));
      tab.tabIndex = tab === selected ? 0 : -1;
      byId(tab.getAttribute("aria-controls")).hidden = tab !== selected;
    }
    this.onselect(this.current);
  }

  #move(event) {
    const at = this.tabs.indexOf(document.activeElement);
    const count = this.tabs.length;
    const places = { ArrowRight: at + 1, ArrowLeft: at - 1 + count, Home: 0, End: count - 1 };
    if (at < 0 || !(event.key in places)) return;
    event.preventDefault();
    const tab = this.tabs[places[event.key] % count];
    tab.focus();
    this.select(tab);
  }
}

/** "1–24 of 1,000" with buttons; hidden if everything fits on one page. */
export class Pager {
  constructor(what, size, onchange) {
    this.size = size;
    this.page = 0;
    this.#text = make("span", {});
    const turn = step => { this.page += step; onchange(); };
    this.#back = make("button", { type: "button", onclick: () => turn(-1) }, "Previous");
    this.#next = make("button", { type: "button", onclick: () => turn(1) }, "Next");
    this.element = make("nav", { class: "pager", "aria-label": `Pages of ${what}` },
      this.#back, this.#text, this.#next);
  }

  #text; #back; #next;

  /** The items of the current page. */
  slice(all) {
    const pages = Math.max(1, Math.ceil(all.length / this.size));
    this.page = Math.min(this.page, pages - 1);
    const start = this.page * this.size;
    const end = Math.min(start + this.size, all.length);
    this.element.hidden = pages === 1;
    this.#text.textContent = `${start + 1}–${end} of ${all.length.toLocaleString("en")}`;
    this.#back.disabled = this.page === 0;
    this.#next.disabled = this.page === pages - 1;
    return all.slice(start, end);
  }
}

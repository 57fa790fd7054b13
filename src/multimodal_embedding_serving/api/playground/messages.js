// Messages to the user: status, progress, errors, and the prompt for an API key.

import { byId, make } from "./elements.js";
import { count, duration, rough } from "./numbers.js";

const MAX_GROUPS = 3; // reasons shown
const MAX_NAMES = 200; // names listed for one reason

/** Set the status line, which screen readers announce. */
export function setStatus(text) {
  byId("status").textContent = text;
}

/** Show the progress of a queue; null hides the bar. */
export function showProgress(queue) {
  byId("progress").hidden = queue === null;
  if (queue === null) return;
  const { done, total, rate, secondsLeft, lost } = queue;
  byId("progress").classList.toggle("lost", lost);
  byId("progress-bar").max = total;
  byId("progress-bar").value = done;
  const of = `${done.toLocaleString("en")} of ${total.toLocaleString("en")}`;
  if (lost) {
    byId("progress-text").textContent = `The server is gone: ${queue.embedded.toLocaleString("en")} of `
      + `${total.toLocaleString("en")} embedded. The rest is sent when it answers again.`;
    return;
  }
  const pace = secondsLeft === null ? "" : ` · ${rough(rate)} per second · ${duration(secondsLeft)} left`;
  byId("progress-text").textContent = of + pace;
}

/** Announce something to screen readers that the page shows elsewhere. */
export function announce(text) {
  byId("announcement").textContent = text;
}

/** Errors, grouped by their reason; each group can be dismissed and its files tried again. */
export class Problems {
  #groups = new Map(); // reason -> {text, names, items}

  /** `onretry(items)`: embed these items again. */
  constructor(element, onretry) {
    Object.assign(this, { element, onretry });
  }

  /** `item`: what failed: an item, or null for anything else, such as a search. */
  add(item, error) {
    const status = error.status ? ` (${error.status})` : "";
    const reason = `${item ? "item" : "other"} ${error.message.replace(/\d+/g, "#")}${status}`;
    const group = this.#groups.get(reason) ?? { text: `${error.message}${status}`, items: [] };
    if (item) group.items.push(item);
    this.#groups.set(reason, group);
    this.#draw();
  }

  /** Forget the errors that are not about items: a later search worked. */
  clearSearches() {
    for (const [reason, { items }] of this.#groups) if (!items.length) this.#groups.delete(reason);
    this.#draw();
  }

  clear() {
    this.#groups.clear();
    this.#draw();
  }

  #draw() {
    const all = [...this.#groups.entries()];
    const rest = all.slice(MAX_GROUPS).flatMap(([, { items }]) => items).length;
    this.element.replaceChildren(
      ...all.slice(0, MAX_GROUPS).map(([reason, group]) => this.#build(reason, group)),
      ...(rest ? [make("p", { class: "hint" }, `${count(rest, "more file")} failed for other reasons.`)] : []),
    );
  }

  #build(reason, { text, items }) {
    const close = () => {
      this.#groups.delete(reason);
      this.#draw();
      byId("description").focus();
    };
    const retry = () => {
      close();
      this.onretry(items);
    };
    return make("div", { class: "problem" }, describe(text, items),
      make("div", {},
        items.length ? make("button", { type: "button", class: "quiet", onclick: retry }, "Try again") : null,
        make("button", { type: "button", class: "quiet", onclick: close }, "Dismiss")));
  }
}

function describe(text, items) {
  if (items.length < 2) return make("p", {}, items.length ? `${items[0].name}: ${text}` : sentence(text));
  const names = items.slice(0, MAX_NAMES).map(item => make("li", {}, item.name));
  const more = items.length - names.length;
  if (more > 0) names.push(make("li", {}, `and ${count(more, "more file")}`));
  return make("details", {}, make("summary", {}, `${count(items.length, "file")}: ${text}`),
    make("ul", {}, ...names));
}

const sentence = text => `${text[0].toUpperCase()}${text.slice(1)}.`;

/** Prompt for the API key -> Promise of the key. `rejected`: the server rejected the previous one. */
export function askKey(rejected) {
  const form = byId("key-form");
  form.hidden = false;
  setStatus(rejected ? "The server rejected this key." : "Enter an API key to use this server.");
  byId("key").value = "";
  byId("key").focus();
  return new Promise(done => {
    form.addEventListener("submit", event => {
      event.preventDefault();
      form.hidden = true;
      setStatus("");
      done(byId("key").value.trim());
    }, { once: true });
  });
}

// What the page tells: status, progress, errors, and the question for a key.

import { byId, make } from "./elements.js";
import { count, duration, rough } from "./numbers.js";

const LISTED = 5; // errors that are written out

/** A line that screen readers speak when it changes. */
export function note(text) {
  byId("status").textContent = text;
}

/** How far a queue is; null hides the bar. */
export function showProgress(queue) {
  byId("progress").hidden = queue === null;
  if (queue === null) return;
  const { done, total, rate, secondsLeft } = queue;
  byId("progress-bar").max = total;
  byId("progress-bar").value = done;
  const of = `${done.toLocaleString("en")} of ${total.toLocaleString("en")}`;
  const pace = secondsLeft === null ? "" : ` · ${rough(rate)} a second · ${duration(secondsLeft)} left`;
  byId("progress-text").textContent = of + pace;
}

/** What went wrong, the first few in full. */
export class Problems {
  #all = [];

  constructor(element) {
    this.element = element;
  }

  /** `name`: what the error is about, or null. */
  add(name, error) {
    const status = error.status ? ` (${error.status})` : "";
    this.#all.push(`${name ? `${name}: ` : ""}${error.message}${status}`);
    this.#draw();
  }

  clear() {
    this.#all = [];
    this.#draw();
  }

  #draw() {
    const more = this.#all.length - LISTED;
    const lines = this.#all.slice(0, LISTED).map(text => make("li", {}, text));
    if (more > 0) lines.push(make("li", {}, `and ${count(more, "more error")}`));
    this.element.replaceChildren(...(!lines.length ? [] : [
      make("div", { class: "problems" }, make("ul", {}, ...lines),
        make("button", { type: "button", class: "quiet", onclick: () => this.clear() }, "Dismiss")),
    ]));
  }
}

/** Ask for the server's key -> Promise of it. `refused`: the one before was wrong. */
export function askKey(refused) {
  const form = byId("key-form");
  form.hidden = false;
  note(refused ? "The server refused this key." : "The server asks for an API key.");
  byId("key").value = "";
  byId("key").focus();
  return new Promise(done => {
    form.addEventListener("submit", event => {
      event.preventDefault();
      form.hidden = true;
      note("");
      done(byId("key").value.trim());
    }, { once: true });
  });
}

// Messages to the user: status, progress, errors, and the prompt for an API key.

import { byId, make } from "./elements.js";
import { count, duration, rough } from "./numbers.js";

const MAX_LISTED = 5; // errors shown in full

/** Set the status line, which screen readers announce. */
export function setStatus(text) {
  byId("status").textContent = text;
}

/** Show the progress of a queue; null hides the bar. */
export function showProgress(queue) {
  byId("progress").hidden = queue === null;
  if (queue === null) return;
  const { done, total, rate, secondsLeft } = queue;
  byId("progress-bar").max = total;
  byId("progress-bar").value = done;
  const of = `${done.toLocaleString("en")} of ${total.toLocaleString("en")}`;
  const pace = secondsLeft === null ? "" : ` · ${rough(rate)} per second · ${duration(secondsLeft)} left`;
  byId("progress-text").textContent = of + pace;
}

/** The list of errors, the first few in full. */
export class Problems {
  #all = [];

  constructor(element) {
    this.element = element;
  }

  /** `name`: the item that failed, or null. */
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
    const more = this.#all.length - MAX_LISTED;
    const lines = this.#all.slice(0, MAX_LISTED).map(text => make("li", {}, text));
    if (more > 0) lines.push(make("li", {}, `and ${count(more, "more error")}`));
    this.element.replaceChildren(...(!lines.length ? [] : [
      make("div", { class: "problems" }, make("ul", {}, ...lines),
        make("button", { type: "button", class: "quiet", onclick: () => this.clear() }, "Dismiss")),
    ]));
  }
}

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

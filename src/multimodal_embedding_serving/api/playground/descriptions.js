// The descriptions so far, as chips: a click asks again, the cross forgets.

import { arrange, byId, make } from "./elements.js";

const chips = new WeakMap(); // description -> its chip, so that the focus stays where it is

export function drawDescriptions(collection) {
  arrange(byId("descriptions"), collection.descriptions.map(each => {
    if (!chips.has(each)) chips.set(each, build(each, collection));
    const chip = chips.get(each);
    chip.firstChild.setAttribute("aria-pressed", String(each === collection.query));
    return chip;
  }));
}

function build(description, collection) {
  const ask = make("button", { type: "button", onclick: () => collection.ask(description) },
    description.name);
  const forget = make("button", {
    type: "button",
    class: "forget",
    "aria-label": `Forget “${description.name}”`,
    onclick: () => {
      collection.forget(description);
      byId("description").focus();
    },
  }, "×");
  return make("li", {}, ask, forget);
}

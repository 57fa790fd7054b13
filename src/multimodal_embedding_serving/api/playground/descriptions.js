// Previous descriptions as chips: click one to search again, or its cross to remove it.

import { arrange, byId, make } from "./elements.js";

const chips = new WeakMap(); // description -> its chip; reusing chips keeps the focus

export function drawDescriptions(collection) {
  arrange(byId("descriptions"), collection.descriptions.map(each => {
    if (!chips.has(each)) chips.set(each, build(each, collection));
    const chip = chips.get(each);
    chip.firstChild.setAttribute("aria-pressed", String(each === collection.query));
    return chip;
  }));
}

function build(description, collection) {
  const search = make("button", { type: "button", onclick: () => collection.setQuery(description) },
    description.name);
  const remove = make("button", {
    type: "button",
    class: "remove",
    "aria-label": `Remove “${description.name}”`,
    onclick: () => {
      collection.removeDescription(description);
      byId("description").focus();
    },
  }, "×");
  return make("li", {}, search, remove);
}

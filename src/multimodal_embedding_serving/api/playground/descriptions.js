// Searches as chips: click one to search again, or its cross to remove it. A search by an image is a
// chip as long as it lasts.

import { arrange, byId, make } from "./elements.js";

const chips = new WeakMap(); // description -> its chip; reusing chips keeps the focus

/** `onremove(description)`: forget it, or end the search by this item. */
export function drawDescriptions(collection, onremove) {
  const { descriptions, query } = collection;
  const byItem = query && query.kind !== "description" ? [query] : [];
  const list = byId("descriptions");
  arrange(list, [...byItem, ...descriptions.toReversed()].map(each => {
    if (!chips.has(each)) chips.set(each, build(each, collection, onremove));
    const chip = chips.get(each);
    chip.firstChild.setAttribute("aria-pressed", String(each === query));
    return chip;
  }));
  const pressed = query && chips.get(query);
  if (list.dataset.query !== String(query?.id) && pressed?.parentElement === list) {
    list.scrollLeft = pressed.offsetLeft - list.offsetLeft;
  }
  list.dataset.query = String(query?.id);
}

function build(description, collection, onremove) {
  const name = description.kind === "description" ? description.name : `Like ${shortName(description)}`;
  const search = make("button", { type: "button", onclick: () => collection.setQuery(description) }, name);
  const remove = make("button", {
    type: "button",
    class: "remove",
    "aria-label": `Remove “${name}”`,
    onclick: () => {
      onremove(description);
      byId("description").focus();
    },
  }, "×");
  return make("li", {}, search, remove);
}

const shortName = ({ name }) => name.split("/").pop().slice(0, 40);

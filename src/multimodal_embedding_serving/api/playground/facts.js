// What is served: a line about the model, and its details.

import { byId, make } from "./elements.js";

/** `speeds`: what was measured on this page, as texts. */
export function drawFacts(model, speeds) {
  const { model: name, device, precision, dimension, fingerprint, notice } = model;
  const facts = {
    Device: `${device}, ${precision}`,
    Dimension: dimension,
    Fingerprint: fingerprint,
    Speed: speeds.join(" · ") || "not measured yet",
  };
  byId("model").hidden = false;
  byId("model-summary").textContent = `${name} · ${device} · ${dimension} numbers per vector`;
  byId("facts").replaceChildren(...Object.entries(facts).map(([term, value]) =>
    make("div", { class: term.toLowerCase() }, make("dt", {}, term),
      make("dd", { title: value }, String(value)))));
  byId("notice").textContent = notice ?? "";
  byId("notice").hidden = !notice;
}

/** Fold the details away once there is something to look at; the reader may open them again. */
export function foldFacts() {
  if (byId("model").dataset.folded) return;
  byId("model").dataset.folded = "yes";
  byId("model").open = false;
}

// Absolute scores: how likely a description fits an image, from 0 to 1.
//
// A model with a bias (SigLIP) was trained to give that probability. The cosines of other models
// (CLIP) have no scale of their own: 0.3 can be a perfect match. There, a description is compared
// with neutral texts: how many standard deviations is it above their similarity to the same items?

import { compare } from "./numbers.js";

const NEUTRAL = [
  "a photo", "an image", "a picture of something", "a scene", "an object", "a place", "a drawing",
  "a screenshot", "a page of text", "a person", "an animal", "a building", "a landscape", "food",
  "a vehicle", "a tool", "furniture", "clothing", "a plant", "the sky", "water", "a toy",
  "an electronic device", "a document", "a crowd of people", "a room", "a street", "a sign",
  "a sports event", "a painting",
];
const MAX_SAMPLED = 300; // items that the neutral texts are compared with
const HALF = 1.8; // standard deviations above neutral at which a match is as likely as not
const SLOPE = 0.35; // standard deviations from there to a likelihood of 73 %
const MIN_MATCH = { calibrated: 0.5, trained: 0.05 };

/** Whether the two can be compared with an absolute score: a text with an image or a video. */
const comparable = (query, item) => query?.kind === "description" && item.kind !== "text";

const sigmoid = value => 1 / (1 + Math.exp(-value));

export class Calibration {
  #neutral = null;
  #loading = null;
  #fitted = { key: null };

  /** `model`: the server's description, with `logit_scale` and `logit_bias` if the model has them. */
  constructor(service, model, onload) {
    Object.assign(this, { service, onload });
    this.scale = model.logit_scale;
    this.bias = model.logit_bias;
  }

  get #trained() {
    return Number.isFinite(this.scale) && Number.isFinite(this.bias);
  }

  /** The lowest score of an item that fits. */
  get threshold() {
    return this.#trained ? MIN_MATCH.trained : MIN_MATCH.calibrated;
  }

  /** What the score is, in a sentence. */
  get meaning() {
    return this.#trained
      ? "The percentage is the probability that the model assigns to the pair; the small number is the cosine similarity."
      : `The percentage compares the cosine similarity (the small number) with that of ${NEUTRAL.length} neutral `
        + `texts such as “a person”: 50% is ${HALF} standard deviations above them.`;
  }

  /** Embed the neutral texts, once. Without them there are no percentages; searches work. */
  load() {
    if (this.#trained) return;
    this.#loading ??= this.service.embedQueries(NEUTRAL).then(vectors => {
      this.#neutral = vectors.map(vector => ({ vectors: [vector] }));
      this.onload();
    }).catch(() => { this.#loading = null; });
  }

  /** A function from (item, cosine) to the score, or to null where there is none. */
  scorer(query, items) {
    if (query?.kind !== "description") return () => null;
    if (this.#trained) {
      return (item, cosine) => (comparable(query, item) ? sigmoid(this.scale * cosine + this.bias) : null);
    }
    const { mean, deviation } = this.#fit(items.filter(item => item.kind !== "text"));
    if (!deviation) return () => null;
    return (item, cosine) => (
      comparable(query, item) ? sigmoid(((cosine - mean) / deviation - HALF) / SLOPE) : null);
  }

  /** Mean and standard deviation of the neutral texts' similarity to the items. */
  #fit(items) {
    if (this.#neutral === null || !items.length) return {};
    const key = `${items.length}/${items.at(-1).id}/${items.reduce((sum, item) => sum + item.vectors.length, 0)}`;
    if (this.#fitted.key === key) return this.#fitted;
    const step = Math.ceil(items.length / MAX_SAMPLED);
    const sample = items.filter((_, index) => index % step === 0);
    const scores = sample.flatMap(item => this.#neutral.map(text => compare(text, item).score));
    const mean = scores.reduce((sum, score) => sum + score, 0) / scores.length;
    const variance = scores.reduce((sum, score) => sum + (score - mean) ** 2, 0) / scores.length;
    this.#fitted = { key, mean, deviation: Math.sqrt(variance) };
    return this.#fitted;
  }
}

// The queue of what is to be embedded: batches of requests, a few at a time, with progress.

import { base64 } from "./intake.js";

const REQUESTS = 3; // in flight: one is sent while others are computed
const BATCH = 16;
const BATCH_BYTES = 24e6; // a third more as base64: well below the server's default of 64 MB

export class Embedding {
  #waiting = [];
  #running = 0;
  #stopping = new AbortController();
  #clocks = {};
  total = 0;
  done = 0;

  /** Tells `onprogress(this)` after each batch, `onerror(item, error)`, `onend(this, stopped)`. */
  constructor(service, { onprogress, onerror, onend }) {
    this.service = service;
    this.told = { onprogress, onerror, onend };
  }

  add(items) {
    if (!items.length) return;
    if (!this.#running || this.#stopping.signal.aborted) this.#begin();
    this.total += items.length;
    this.#waiting.push(...items);
    this.told.onprogress(this);
    while (this.#running < REQUESTS && this.#waiting.length) this.#work();
  }

  /** Give up what is not embedded yet. */
  stop() {
    this.#waiting = [];
    this.#stopping.abort();
  }

  /** Things a second since the queue was last empty. */
  get rate() {
    return this.done / Math.max((performance.now() - this.started) / 1000, 0.001);
  }

  get secondsLeft() {
    return this.done ? (this.total - this.done) / this.rate : null;
  }

  /** Measured in this run, of a kind: vectors a second, or null. */
  speed(kind) {
    const clock = this.#clocks[kind];
    return clock ? (1000 * clock.vectors) / Math.max(clock.last - clock.first, 1) : null;
  }

  #begin() {
    this.#stopping = new AbortController();
    this.#clocks = {};
    this.total = this.done = 0;
    this.started = performance.now();
  }

  async #work() {
    this.#running += 1;
    while (this.#waiting.length) {
      const batch = this.#take();
      await this.#embed(batch, this.#stopping.signal);
      this.done += batch.length;
      this.told.onprogress(this);
    }
    this.#running -= 1;
    if (!this.#running) this.told.onend(this, this.#stopping.signal.aborted);
  }

  /** The next items that may share a request: of one kind, not too many, not too large. */
  #take() {
    const [first] = this.#waiting;
    let bytes = first.file?.size ?? 0;
    let size = 1;
    while (first.kind !== "film" && size < BATCH && this.#waiting[size]?.kind === first.kind) {
      bytes += this.#waiting[size].file?.size ?? 0;
      if (bytes > BATCH_BYTES) break;
      size += 1;
    }
    return this.#waiting.splice(0, size);
  }

  async #embed(batch, signal) {
    const began = performance.now();
    try {
      const { vectors, frames } = await this.service.embed(await inputFor(batch), signal);
      batch.forEach((item, place) => {
        item.vectors = item.kind === "film" ? vectors : [vectors[place]];
        item.frames = frames;
        item.ready = true;
      });
      this.#measure(batch[0].kind, vectors.length, began);
    } catch (error) {
      if (signal.aborted) return;
      await this.#spare(batch, error, signal);
    }
  }

  /** One bad item must not cost its neighbours: what the error does not concern is sent again. */
  async #spare(batch, error, signal) {
    if (batch.length === 1) {
      this.told.onerror(batch[0], error);
    } else if (error.index !== null && batch[error.index]) {
      const culprit = batch[error.index];
      this.told.onerror(culprit, error);
      await this.#embed(batch.filter(item => item !== culprit), signal);
    } else if (!(error.status >= 500)) {
      for (const item of batch) await this.#embed([item], signal);
    } else {
      for (const item of batch) this.told.onerror(item, error);
    }
  }

  /** From the start of the first request that was answered to the end of the last. */
  #measure(kind, vectors, began) {
    const clock = (this.#clocks[kind] ??= { first: began, vectors: 0 });
    clock.vectors += vectors;
    clock.last = performance.now();
  }
}

/** The native API's input for a batch of one kind. */
async function inputFor(batch) {
  const [{ kind, file, sampled }] = batch;
  if (kind === "text") return { type: "text", text: batch.map(item => item.name) };
  if (kind === "film") {
    const segment = { num_frames: sampled };
    return { type: "video_base64", video_base64: await base64(file), segment_config: segment };
  }
  const pictures = await Promise.all(batch.map(item => base64(item.file)));
  return { type: "image_base64", image_base64: pictures };
}

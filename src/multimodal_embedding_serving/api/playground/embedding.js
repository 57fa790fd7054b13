// The queue of items to embed: a few batched requests at a time, with progress.

import { base64 } from "./intake.js";

const MAX_REQUESTS = 3; // in flight: one uploads while the server computes the others
const MAX_BATCH = 16;
const MAX_BATCH_BYTES = 24e6; // base64 adds a third; the server's default limit is 64 MB

export class Embedding {
  #waiting = [];
  #running = 0;
  #stopping = new AbortController();
  #clocks = {};
  total = 0;
  done = 0;

  /** Calls `onprogress(this)` after each batch, `onerror(item, error)` and `onend(this, stopped)`. */
  constructor(service, { onprogress, onerror, onend }) {
    this.service = service;
    this.callbacks = { onprogress, onerror, onend };
  }

  add(items) {
    if (!items.length) return;
    if (!this.#running || this.#stopping.signal.aborted) this.#begin();
    this.total += items.length;
    this.#waiting.push(...items);
    this.callbacks.onprogress(this);
    while (this.#running < MAX_REQUESTS && this.#waiting.length) this.#work();
  }

  /** Cancel everything that is not embedded yet. */
  stop() {
    this.#waiting = [];
    this.#stopping.abort();
  }

  /** Items per second since the queue was last empty. */
  get rate() {
    return this.done / Math.max((performance.now() - this.started) / 1000, 0.001);
  }

  get secondsLeft() {
    return this.done ? (this.total - this.done) / this.rate : null;
  }

  /** Vectors per second of a kind, measured in this run; null if there are none. */
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
      this.callbacks.onprogress(this);
    }
    this.#running -= 1;
    if (!this.#running) this.callbacks.onend(this, this.#stopping.signal.aborted);
  }

  /** The next items that can share a request: the same kind, within the limits above. */
  #take() {
    const [first] = this.#waiting;
    let bytes = first.file?.size ?? 0;
    let size = 1;
    while (first.kind !== "video" && size < MAX_BATCH && this.#waiting[size]?.kind === first.kind) {
      bytes += this.#waiting[size].file?.size ?? 0;
      if (bytes > MAX_BATCH_BYTES) break;
      size += 1;
    }
    return this.#waiting.splice(0, size);
  }

  async #embed(batch, signal) {
    const start = performance.now();
    try {
      const { vectors, frames } = await this.service.embed(await inputFor(batch), signal);
      batch.forEach((item, index) => {
        item.vectors = item.kind === "video" ? vectors : [vectors[index]];
        item.frames = frames;
        item.ready = true;
      });
      this.#measure(batch[0].kind, vectors.length, start);
    } catch (error) {
      if (signal.aborted) return;
      await this.#retry(batch, error, signal);
    }
  }

  /** One bad item must not fail its batch: send the other items again. */
  async #retry(batch, error, signal) {
    if (batch.length === 1) {
      this.callbacks.onerror(batch[0], error);
    } else if (error.index !== null && batch[error.index]) {
      const culprit = batch[error.index];
      this.callbacks.onerror(culprit, error);
      await this.#embed(batch.filter(item => item !== culprit), signal);
    } else if (!(error.status >= 500)) {
      for (const item of batch) await this.#embed([item], signal);
    } else {
      for (const item of batch) this.callbacks.onerror(item, error);
    }
  }

  /** Time from the start of the first successful request to the end of the last. */
  #measure(kind, vectors, start) {
    const clock = (this.#clocks[kind] ??= { first: start, vectors: 0 });
    clock.vectors += vectors;
    clock.last = performance.now();
  }
}

/** The input of the native API for a batch of one kind. */
async function inputFor(batch) {
  const [{ kind, file, sampled }] = batch;
  if (kind === "text") return { type: "text", text: batch.map(item => item.name) };
  if (kind === "video") {
    const segment = { num_frames: sampled };
    return { type: "video_base64", video_base64: await base64(file), segment_config: segment };
  }
  const images = await Promise.all(batch.map(item => base64(item.file)));
  return { type: "image_base64", image_base64: images };
}

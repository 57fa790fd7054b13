// The queue of items to embed: a few batched requests at a time, with progress.

import { base64 } from "./intake.js";
import { pause, ServerLost } from "./service.js";

const MAX_REQUESTS = 3; // in flight: one uploads while the server computes the others
const MAX_BATCH = 16;
const RETRY_SECONDS = 2; // between two looks for a server that is gone
const MAX_BATCH_BYTES = 24e6; // base64 adds a third; the server's default limit is 64 MB

export class Embedding {
  #waiting = [];
  #running = 0;
  #stopping = new AbortController();
  #clocks = {};
  total = 0;
  done = 0; // embedded or failed
  failed = 0;
  lost = false; // the server can't be reached: the queue waits for it

  /**
   * Calls `onprogress(this)` after each batch, `onready(items)` with what was embedded,
   * `onerror(item, error)`, `onend(this, stopped)`, and awaits `onreturn()` when a lost server answers
   * again: the queue goes on if that returns true.
   */
  constructor(service, callbacks) {
    this.service = service;
    this.callbacks = callbacks;
  }

  add(items) {
    if (!items.length) return;
    if (!this.active || this.#stopping.signal.aborted) this.#begin();
    for (const item of items) item.answered = false;
    this.total += items.length;
    this.#waiting.push(...items);
    this.callbacks.onprogress(this);
    this.#start();
  }

  get active() {
    return this.#running > 0 || this.lost;
  }

  get embedded() {
    return this.done - this.failed;
  }

  /** Cancel everything that is not embedded yet. */
  stop() {
    this.#waiting = [];
    this.#stopping.abort();
    if (!this.lost) return;
    this.lost = false;
    if (!this.#running) this.callbacks.onend(this, true); // else the last request that ends does
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
    this.total = this.done = this.failed = 0;
    this.started = performance.now();
  }

  #start() {
    while (!this.lost && this.#running < MAX_REQUESTS && this.#waiting.length) this.#work();
  }

  async #work() {
    const { signal } = this.#stopping;
    this.#running += 1;
    while (this.#waiting.length && !this.lost) {
      const batch = this.#take();
      try {
        await this.#embed(batch, signal);
      } catch (error) {
        if (!(error instanceof ServerLost)) throw error;
        this.#lose(batch.filter(item => !item.answered));
      }
      this.done += batch.filter(item => item.answered).length; // none of a batch that was stopped
      this.callbacks.onprogress(this);
    }
    this.#running -= 1;
    if (!this.#running && !this.lost) this.callbacks.onend(this, signal.aborted);
  }

  /** Keep a batch that the server did not answer, and wait for the server. */
  #lose(batch) {
    this.#waiting.unshift(...batch);
    if (this.lost) return;
    this.lost = true;
    this.#recover(this.#stopping.signal);
  }

  async #recover(signal) {
    let goOn = null; // not known yet
    while (goOn === null) {
      if (await this.service.answers()) goOn = await this.callbacks.onreturn().catch(() => null);
      else await pause(RETRY_SECONDS);
      if (signal.aborted) return;
    }
    if (!goOn) {
      this.stop();
      return;
    }
    this.lost = false;
    this.callbacks.onprogress(this);
    this.#start();
  }

  #fail(item, error) {
    this.failed += 1;
    item.answered = true;
    this.callbacks.onerror(item, error);
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
        item.ready = item.answered = true;
      });
      this.callbacks.onready(batch);
      this.#measure(batch[0].kind, vectors.length, start);
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof ServerLost) throw error;
      await this.#retry(batch, error, signal);
    }
  }

  /** One bad item must not fail its batch: send the other items again. */
  async #retry(batch, error, signal) {
    if (batch.length === 1) {
      this.#fail(batch[0], error);
    } else if (error.index !== null && batch[error.index]) {
      const culprit = batch[error.index];
      this.#fail(culprit, error);
      await this.#embed(batch.filter(item => item !== culprit), signal);
    } else if (!(error.status >= 500)) {
      for (const item of batch) await this.#embed([item], signal);
    } else {
      for (const item of batch) this.#fail(item, error);
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

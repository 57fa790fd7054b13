// The server's API: the key, its errors, and patience where it is busy.

import { decodeVector } from "./numbers.js";

const BUSY = new Set([429, 503]);
const ATTEMPTS = 6;
const STORED = "embedding-api-key";
const LOST = "the server can't be reached, or it closed the connection: "
  + "a file may be larger than it accepts in one request";

export const pause = seconds => new Promise(done => { setTimeout(done, seconds * 1000); });

/** What the server refused. `index` is the item at fault, where the server names one. */
export class ServiceError extends Error {
  constructor(status, message, index = null) {
    super(message);
    this.status = status;
    this.index = index;
  }
}

export class Service {
  #key = readStored();
  #asking = null;

  /** `askKey(refused)` -> Promise of a key; `onbusy(seconds)` is told when the server is waited for. */
  constructor({ askKey, onbusy }) {
    this.askKey = askKey;
    this.onbusy = onbusy;
  }

  get hasKey() {
    return this.#key !== null;
  }

  async get(path) {
    return (await this.#request(path, {})).json();
  }

  /** Embed one input of the native API -> {vectors: [Float32Array], frames: [{index, timestamp}]}. */
  async embed(input, signal) {
    const answer = await this.#request("embeddings", {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ input, encoding_format: "base64" }),
      signal,
    });
    const { embedding, frames } = await answer.json();
    return { vectors: [embedding].flat().map(decodeVector), frames: frames ?? [] };
  }

  /** Wait until the model is open; `onstage(text, percent)` is told how far it is. */
  async ready(onstage) {
    for (;;) {
      try {
        const answer = await fetch("ready", { cache: "no-store" });
        if (answer.ok) return;
        const { detail, percent } = await answer.json();
        onstage(detail ?? `the server answered ${answer.status}`, percent ?? 0);
      } catch {
        onstage("the server can't be reached; trying again", 0);
      }
      await pause(1);
    }
  }

  async #request(path, options) {
    for (let attempt = 1; ; attempt += 1) {
      const key = this.#key;
      const answer = await send(path, options, key);
      if (answer.ok) return answer;
      if (answer.status === 401) {
        await this.#renewKey(key);
      } else if (BUSY.has(answer.status) && attempt < ATTEMPTS) {
        const seconds = Math.min(Number(answer.headers.get("retry-after")) || 1, 10);
        this.onbusy(seconds);
        await pause(seconds);
      } else {
        throw await refusal(answer);
      }
    }
  }

  /** One question for all the requests that wait; none if another has brought a new key already. */
  async #renewKey(used) {
    if (used !== this.#key) return;
    this.#asking ??= this.askKey(used !== null).then(key => {
      this.#key = key;
      store(key);
      this.#asking = null;
    });
    await this.#asking;
  }
}

async function send(path, options, key) {
  const headers = { ...options.headers, ...(key === null ? {} : { authorization: `Bearer ${key}` }) };
  try {
    return await fetch(path, { ...options, headers, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServiceError(0, LOST);
  }
}

async function refusal(answer) {
  const text = await answer.text();
  try {
    const { detail, index } = JSON.parse(text);
    return new ServiceError(answer.status, detail ?? text, index ?? null);
  } catch {
    return new ServiceError(answer.status, text.slice(0, 300) || answer.statusText);
  }
}

// A browser may forbid storage: the key then lives as long as the page.
function readStored() {
  try {
    return sessionStorage.getItem(STORED);
  } catch {
    return null;
  }
}

function store(key) {
  try {
    sessionStorage.setItem(STORED, key);
  } catch {
    // kept in memory
  }
}

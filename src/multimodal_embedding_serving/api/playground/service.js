// A client of the server's API: the API key, errors, and retries while the server is busy.

import { decodeVector } from "./numbers.js";

const BUSY = new Set([429, 503]);
const MAX_ATTEMPTS = 6;
const STORAGE_KEY = "embedding-api-key";
const CONNECTION_CLOSED = "the server closed the connection; the file may exceed its limit for one request";

export const pause = seconds => new Promise(done => { setTimeout(done, seconds * 1000); });

/** An error from the server. `index` is the item that caused it, if the server names one. */
export class ServiceError extends Error {
  constructor(status, message, index = null) {
    super(message);
    this.status = status;
    this.index = index;
  }
}

/** The server can't be reached. */
export class ServerLost extends ServiceError {
  constructor() {
    super(0, "the server can't be reached");
  }
}

export class Service {
  #key = loadKey();
  #asking = null;

  /** `askKey(rejected)` -> Promise of a key; `onbusy(seconds)` is called before each retry. */
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

  /** Embed one input with the native API -> {vectors: [Float32Array], frames: [{index, timestamp}]}. */
  async embed(input, signal) {
    const response = await this.#request("embeddings", {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ input, encoding_format: "base64" }),
      signal,
    });
    const { embedding, frames } = await response.json();
    return { vectors: [embedding].flat().map(decodeVector), frames: frames ?? [] };
  }

  /** Embed texts as queries, with the OpenAI API -> [Float32Array]. */
  async embedQueries(texts) {
    const response = await this.#request("v1/embeddings", {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ input: texts, input_type: "query", encoding_format: "base64" }),
    });
    const { data } = await response.json();
    return data.map(({ embedding }) => decodeVector(embedding));
  }

  /** Whether the server accepts requests. */
  async answers() {
    try {
      return (await fetch("ready", { cache: "no-store" })).ok;
    } catch {
      return false;
    }
  }

  /** Wait until the model is loaded; until then, calls `onstage(text)` every second. */
  async ready(onstage) {
    for (;;) {
      try {
        const response = await fetch("ready", { cache: "no-store" });
        if (response.ok) return;
        const { detail } = await response.json();
        onstage(detail ?? `the server responded with ${response.status}`);
      } catch {
        onstage("the server can't be reached; retrying");
      }
      await pause(1);
    }
  }

  async #request(path, options) {
    for (let attempt = 1; ; attempt += 1) {
      const key = this.#key;
      const response = await this.#send(path, options, key);
      if (response.ok) return response;
      if (response.status === 401) {
        await this.#renewKey(key);
      } else if (BUSY.has(response.status) && attempt < MAX_ATTEMPTS) {
        const seconds = Math.min(Number(response.headers.get("retry-after")) || 1, 10);
        this.onbusy(seconds);
        await pause(seconds);
      } else {
        throw await readError(response);
      }
    }
  }

  async #send(path, options, key) {
    const headers = { ...options.headers, ...(key === null ? {} : { authorization: `Bearer ${key}` }) };
    try {
      return await fetch(path, { ...options, headers, cache: "no-store" });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      // A server that answers others rejected this request before it had read all of it.
      throw await this.answers() ? new ServiceError(0, CONNECTION_CLOSED) : new ServerLost();
    }
  }

  /** Prompt once for all waiting requests, and not at all if another request already got a new key. */
  async #renewKey(used) {
    if (used !== this.#key) return;
    this.#asking ??= this.askKey(used !== null).then(key => {
      this.#key = key;
      saveKey(key);
      this.#asking = null;
    });
    await this.#asking;
  }
}

async function readError(response) {
  const text = await response.text();
  try {
    const { detail, index } = JSON.parse(text);
    return new ServiceError(response.status, detail ?? text, index ?? null);
  } catch {
    return new ServiceError(response.status, text.slice(0, 300) || response.statusText);
  }
}

// The browser may block storage; the key then lasts as long as the page.
function loadKey() {
  try {
    return sessionStorage.getItem(STORAGE_KEY);
  } catch {
    return null;
  }
}

function saveKey(key) {
  try {
    sessionStorage.setItem(STORAGE_KEY, key);
  } catch {
    // the key stays in memory
  }
}

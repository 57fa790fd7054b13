// The collection, kept in this browser (IndexedDB) under the model's fingerprint: vectors of another
// model are of no use, but stay for when that model is served again.

const NAME = "multimodal-embedding-playground";
const VERSION = 1;

/** Where IndexedDB is missing or full, the page works without it; `onfull()` is called once. */
export class Store {
  #database = null;
  #reported = false;

  constructor(fingerprint, onfull) {
    Object.assign(this, { fingerprint, onfull });
  }

  async open() {
    try {
      const request = indexedDB.open(NAME, VERSION);
      request.onupgradeneeded = () => {
        for (const name of ["items", "descriptions"]) {
          request.result.createObjectStore(name, { keyPath: ["fingerprint", "key"] });
        }
      };
      this.#database = await finished(request);
    } catch {
      this.#report();
    }
  }

  /** Everything that was kept, in the order in which it was added. */
  async load() {
    const all = await this.#run("readonly", stores => Promise.all(
      stores.map(store => finished(store.getAll(this.#all())))));
    const [items, descriptions] = all ?? [[], []];
    return { items: items.sort(byAge), descriptions: descriptions.sort(byAge) };
  }

  keepItems(items) {
    return this.#run("readwrite", ([store]) => {
      for (const item of items) store.put(this.#record(item));
    });
  }

  keepDescription(item) {
    return this.#run("readwrite", ([, store]) => store.put(this.#record(item)));
  }

  removeItems(items) {
    return this.#run("readwrite", ([store]) => {
      for (const item of items) store.delete([this.fingerprint, item.key]);
    });
  }

  removeDescription(item) {
    return this.#run("readwrite", ([, store]) => store.delete([this.fingerprint, item.key]));
  }

  #all() {
    return IDBKeyRange.bound([this.fingerprint], [this.fingerprint, []]); // an array is above any string
  }

  #record({ added, key, kind, name, file, vectors, frames, sampled }) {
    const times = frames.map(({ index, timestamp }) => ({ index, timestamp }));
    return { fingerprint: this.fingerprint, age: added, key, kind, name, file, vectors, frames: times, sampled };
  }

  async #run(mode, work) {
    if (this.#database === null) return null;
    try {
      const transaction = this.#database.transaction(["items", "descriptions"], mode);
      const complete = new Promise((done, fail) => {
        transaction.oncomplete = done;
        transaction.onabort = transaction.onerror = () => fail(transaction.error);
      });
      const result = work(["items", "descriptions"].map(name => transaction.objectStore(name)));
      await complete;
      return await result;
    } catch {
      this.#report();
      return null;
    }
  }

  #report() {
    if (!this.#reported) this.onfull();
    this.#reported = true;
  }
}

const byAge = (a, b) => a.age - b.age;

function finished(request) {
  return new Promise((done, fail) => {
    request.onsuccess = () => done(request.result);
    request.onerror = request.onblocked = () => fail(request.error);
  });
}

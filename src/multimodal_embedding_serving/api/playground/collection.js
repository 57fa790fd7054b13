// The items to rank, the descriptions searched for, and the current query.

import { isTextFile } from "./textfiles.js";

/** An image, video or text to rank, or a description to rank them by. */
export class Item {
  static #last = 0;

  constructor(kind, name, file = null) {
    this.id = (Item.#last += 1);
    this.kind = kind; // "image", "video", "text" or "description"
    this.name = name;
    this.file = file;
    this.vectors = []; // one; for a video, one per frame
    this.frames = []; // of a video: {index, timestamp, image}
    this.sampled = 32; // of a video: frames to request
    this.ready = false;
    this.added = Date.now() + this.id / 1e6; // those of one millisecond stay in order
  }

  get address() {
    this.url ??= URL.createObjectURL(this.file);
    return this.url;
  }

  release() {
    if (this.url) URL.revokeObjectURL(this.url);
  }
}

const MEDIA = [
  ["image", /\.(jpe?g|jp2|j2k|png|webp|gif|bmp|dib|tiff?|ico|p[bgpn]m|tga|pcx|sgi|dds|qoi|avif|hei[cf])$/i],
  ["video", /\.(mp4|m4v|mov|mkv|webm|avi|mpe?g|ts|ogv|wmv|flv|3gp)$/i],
];

/** "image", "video" or null: by the MIME type, or by the name if the browser knows no type. */
function kindOf(file) {
  if (file.type.startsWith("image/") && file.type !== "image/svg+xml") return "image";
  if (file.type.startsWith("video/")) return "video";
  return MEDIA.find(([, pattern]) => pattern.test(file.name))?.[0] ?? null;
}

/** Dispatches "change" whenever its contents change. */
export class Collection extends EventTarget {
  items = [];
  descriptions = [];
  query = null;
  #keys = new Set();

  get ready() {
    return this.items.filter(item => item.ready);
  }

  get videos() {
    return this.items.filter(item => item.kind === "video" && item.ready);
  }

  /** Files -> {added: [Item], textFiles: [File], duplicates: number already added, unsupported: [names]}. */
  addFiles(files) {
    const result = { added: [], textFiles: [], duplicates: 0, unsupported: [] };
    for (const file of files) {
      const kind = kindOf(file);
      const name = file.webkitRelativePath || file.path_ || file.name;
      const key = `${name}|${file.size}|${file.lastModified}`;
      if (kind === null && isTextFile(file)) {
        result.textFiles.push(file);
      } else if (kind === null) {
        result.unsupported.push(name);
      } else if (this.#keys.has(key)) {
        result.duplicates += 1;
      } else {
        this.#keys.add(key);
        result.added.push(Object.assign(new Item(kind, name, file), { key }));
      }
    }
    this.items.push(...result.added);
    this.changed();
    return result;
  }

  addTexts(lines) {
    const fresh = [...new Set(lines.map(line => line.trim()))]
      .filter(line => line && !this.#keys.has(`text|${line}`));
    const added = fresh.map(line => Object.assign(new Item("text", line), { key: `text|${line}` }));
    for (const item of added) this.#keys.add(item.key);
    this.items.push(...added);
    this.changed();
    return added;
  }

  /** Add items that were removed, to embed them again. */
  addAgain(items) {
    for (const item of items) this.#keys.add(item.key);
    this.items.push(...items);
    this.changed();
  }

  /** Add what was kept from an earlier visit: records of `Store`. */
  restore({ items, descriptions }) {
    for (const { kind, name, file, ...rest } of items) {
      if (this.#keys.has(rest.key)) continue;
      this.#keys.add(rest.key);
      this.items.push(Object.assign(new Item(kind, name, file), restored(rest)));
    }
    for (const { name, ...rest } of descriptions) {
      this.descriptions.push(Object.assign(new Item("description", name), restored(rest)));
    }
    this.changed();
  }

  /** Remove items; their files can then be added again. */
  remove(items) {
    const removed = new Set(items);
    for (const item of removed) {
      this.#keys.delete(item.key);
      item.release();
    }
    this.items = this.items.filter(item => !removed.has(item));
    if (removed.has(this.query)) this.query = null;
    this.changed();
  }

  findDescription(text) {
    return this.descriptions.find(each => each.name === text);
  }

  addDescription(description) {
    this.descriptions.push(description);
    return description;
  }

  /** Search by the last description again, or by nothing. */
  dropQuery() {
    this.setQuery(this.descriptions.at(-1) ?? null);
  }

  removeDescription(description) {
    this.descriptions = this.descriptions.filter(each => each !== description);
    if (this.query === description) this.query = this.descriptions.at(-1) ?? null;
    this.changed();
  }

  setQuery(query) {
    this.query = query;
    this.changed();
  }

  changed() {
    this.dispatchEvent(new Event("change"));
  }
}

const restored = ({ key, vectors, frames, sampled, age }) => (
  { key, vectors, frames, sampled, added: age, ready: true });

/** An item that is a query only: a description, or an image that is not in the collection. */
export function queryItem(kind, name, vectors, file = null) {
  return Object.assign(new Item(kind, name, file), { vectors, key: `${kind}|${name}`, ready: true });
}

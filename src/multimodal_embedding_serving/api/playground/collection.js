// What has been added, what has been asked, and which of it is the query.

/** A picture, film or text to be ranked; or a description, which ranks. */
export class Item {
  static #last = 0;

  constructor(kind, name, file = null) {
    this.id = (Item.#last += 1);
    this.kind = kind; // image, film, text, description
    this.name = name;
    this.file = file;
    this.vectors = []; // one; for a film one a frame
    this.frames = []; // of a film: {index, timestamp, picture}
    this.sampled = 32; // of a film: frames to ask for
    this.ready = false;
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
  ["film", /\.(mp4|m4v|mov|mkv|webm|avi|mpe?g|ts|ogv|wmv|flv|3gp)$/i],
];

/** image, film, or null: by its type, or by its name where the browser knows no type. */
function kindOf(file) {
  if (file.type.startsWith("image/") && file.type !== "image/svg+xml") return "image";
  if (file.type.startsWith("video/")) return "film";
  return MEDIA.find(([, pattern]) => pattern.test(file.name))?.[0] ?? null;
}

/** Raises "change" whenever what it holds has changed. */
export class Collection extends EventTarget {
  items = [];
  descriptions = [];
  query = null;
  #known = new Set();

  get ready() {
    return this.items.filter(item => item.ready);
  }

  get films() {
    return this.items.filter(item => item.kind === "film" && item.ready);
  }

  /** Files -> {added: [Item], known: files that are here already, others: files of other kinds}. */
  addFiles(files) {
    const found = { added: [], known: 0, others: 0 };
    for (const file of files) {
      const kind = kindOf(file);
      const name = file.webkitRelativePath || file.path_ || file.name;
      const mark = `${name}|${file.size}|${file.lastModified}`;
      if (kind === null) {
        found.others += 1;
      } else if (this.#known.has(mark)) {
        found.known += 1;
      } else {
        this.#known.add(mark);
        found.added.push(Object.assign(new Item(kind, name, file), { mark }));
      }
    }
    this.items.push(...found.added);
    this.changed();
    return found;
  }

  addTexts(lines) {
    const fresh = [...new Set(lines.map(line => line.trim()))]
      .filter(line => line && !this.#known.has(`text|${line}`));
    const added = fresh.map(line => Object.assign(new Item("text", line), { mark: `text|${line}` }));
    for (const item of added) this.#known.add(item.mark);
    this.items.push(...added);
    this.changed();
    return added;
  }

  /** Take items out again; their files may then be added anew. */
  remove(items) {
    const gone = new Set(items);
    for (const item of gone) {
      this.#known.delete(item.mark);
      item.release();
    }
    this.items = this.items.filter(item => !gone.has(item));
    if (gone.has(this.query)) this.query = null;
    this.changed();
  }

  described(text) {
    return this.descriptions.find(each => each.name === text);
  }

  describe(text, vectors) {
    const description = Object.assign(new Item("description", text), { vectors, ready: true });
    this.descriptions.push(description);
    return description;
  }

  forget(description) {
    this.descriptions = this.descriptions.filter(each => each !== description);
    if (this.query === description) this.query = this.descriptions.at(-1) ?? null;
    this.changed();
  }

  ask(query) {
    this.query = query;
    this.changed();
  }

  changed() {
    this.dispatchEvent(new Event("change"));
  }
}

// The same again without this page: the requests as curl lines, the ranking as a Python program.

import { copyButton, make } from "./elements.js";

const NAMED = 8; // files that a snippet names

export class Snippets {
  /** `keyed()` says whether requests carry a key. */
  constructor(element, collection, keyed) {
    Object.assign(this, { collection, keyed });
    this.heading = make("p", { class: "heading" });
    this.curl = make("code", {});
    this.python = make("code", {});
    this.blocks = make("div", {}, block("curl", this.curl), block("Python", this.python));
    element.append(this.heading, this.blocks);
  }

  draw() {
    const server = new URL(".", location.href).href.replace(/\/$/, "");
    const done = summary(this.collection);
    const nothing = !done.query && !done.images.length && !done.film && !done.texts.length;
    this.blocks.hidden = nothing;
    const left = done.left ? ` Of the files, ${done.left} more are left out.` : "";
    this.heading.textContent = nothing
      ? "Here you find what you have done as curl lines and as Python, ready to be pasted."
      : `What you have just done, to be pasted in the folder of your files.${left}`;
    this.curl.textContent = curlLines(server, done, this.keyed());
    this.python.textContent = pythonLines(server, done, this.keyed());
  }
}

function block(name, code) {
  return make("figure", { class: "snippet" },
    make("figcaption", {}, name, copyButton(`Copy the ${name} lines`, () => code.textContent)),
    make("pre", { tabindex: 0, role: "region", "aria-label": `${name} lines` }, code));
}

/** What the snippets repeat: the query and the newest film in full, pictures and texts up to a few. */
function summary({ items, query }) {
  const ready = items.filter(item => item.ready);
  const of = kind => ready.filter(item => item.kind === kind);
  const images = of("image").slice(0, NAMED);
  const texts = of("text").slice(0, NAMED);
  const film = of("film").at(-1) ?? null;
  return { query, images, texts, film, left: of("image").length - images.length };
}

// Spaces as people write them; a string never holds a line break of its own.
const json = value => JSON.stringify(value, null, 1).replace(/([[{])\n\s*|\n\s*([\]}])/g, "$1$2")
  .replace(/\n\s*/g, " ");

const quoted = text => `'${text.replaceAll("'", "'\\''")}'`;

function curlLines(server, { query, images, texts, film }, keyed) {
  const asked = query?.kind === "description" ? { type: "text", text: query.name } : null;
  const lines = ["embed() {", `  curl -sf ${quoted(`${server}/embeddings`)} -d @- \\`,
    ...(keyed ? ['    -H "authorization: Bearer $EMBEDDING_API_KEY" \\'] : []),
    "    -H 'content-type: application/json'", "}"];
  const send = input => ["", `printf '%s' ${quoted(json({ input }))} | embed`];
  if (asked) lines.push(...send(asked));
  if (texts.length) lines.push(...send({ type: "text", text: texts.map(item => item.name) }));
  if (images.length) {
    lines.push("", `for photo in ${images.map(item => quoted(item.name)).join(" ")}; do`,
      `  printf '{"input": {"type": "image_base64", "image_base64": "%s"}}' \\`,
      `    ${dataOf("photo")} | embed`,
      "done");
  }
  if (film) {
    const segment = json({ num_frames: film.sampled });
    lines.push("", `film=${quoted(film.name)}`,
      `printf '{"input": {"type": "video_base64", "video_base64": "%s", "segment_config": ${segment}}}' \\`,
      `  ${dataOf("film")} | embed`);
  }
  return lines.join("\n");
}

const dataOf = name => `"$(base64 < "$${name}" | tr -d '\\n')"`;

function pythonLines(server, { query, images, texts, film }, keyed) {
  const names = each => json(each.map(item => item.name));
  const key = keyed ? ', api_key=os.environ["EMBEDDING_API_KEY"]' : "";
  const head = [...(keyed ? ["import os", ""] : []),
    "from multimodal_embedding_serving import Client", "",
    `client = Client(${JSON.stringify(server)}${key})`];
  const queries = {
    description: item => `client.embed_texts(${JSON.stringify(item.name)})`,
    text: item => `client.embed_texts(${names([item])})`,
    image: item => `client.embed_images(${names([item])})`,
    film: item => `client.embed_video(${JSON.stringify(item.name)}).vectors`,
  };
  const lines = query ? [`query = ${queries[query.kind](query)}`] : [];
  const ranked = ["for likeness, name in sorted(zip((vectors @ query.T).max(axis=1), names), reverse=True):",
    '    print(f"{likeness:.3f} {name}")'];
  for (const [each, method] of [[images, "embed_images"], [texts, "embed_texts"]]) {
    if (!each.length) continue;
    lines.push("", `names = ${names(each)}`, `vectors = client.${method}(names)`,
      ...(query ? ranked : ["print(vectors.shape)"]));
  }
  if (film) {
    lines.push("", `film = client.embed_video(${JSON.stringify(film.name)}, `
      + `segment={"num_frames": ${film.sampled}})`,
    ...(query
      ? ["for frame, likeness in zip(film.frames, (film.vectors @ query.T).max(axis=1)):",
        '    print(f"{frame.timestamp:6.1f} s {likeness:.3f}")']
      : ["print(film.vectors.shape)"]));
  }
  return [...head, ...lines].join("\n");
}

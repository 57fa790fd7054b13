// What this page did, as code: the requests as curl commands, the ranking as a Python program.

import { copyButton, make } from "./elements.js";

const MAX_LISTED = 8; // files listed in a snippet

export class Snippets {
  /** `keyed()` returns whether requests carry an API key. */
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
    const content = summary(this.collection);
    const empty = !content.query && !content.images.length && !content.video && !content.texts.length;
    this.blocks.hidden = empty;
    const more = content.more ? ` ${content.more} more images are not listed.` : "";
    this.heading.textContent = empty
      ? "This tab shows what you did on this page as curl commands and Python code."
      : `What you just did, as code. Run it in the folder with your files.${more}`;
    this.curl.textContent = curlLines(server, content, this.keyed());
    this.python.textContent = pythonLines(server, content, this.keyed());
  }
}

function block(name, code) {
  return make("figure", { class: "snippet" },
    make("figcaption", {}, name, copyButton(`Copy the ${name} code`, () => code.textContent)),
    make("pre", { tabindex: 0, role: "region", "aria-label": `${name} code` }, code));
}

/** What the snippets contain: the query, the newest video, and a few images and texts. */
function summary({ items, query }) {
  const ready = items.filter(item => item.ready);
  const of = kind => ready.filter(item => item.kind === kind);
  const images = of("image").slice(0, MAX_LISTED);
  const texts = of("text").slice(0, MAX_LISTED);
  const video = of("video").at(-1) ?? null;
  return { query, images, texts, video, more: of("image").length - images.length };
}

// JSON on one line, with a space after commas and colons; strings contain no raw line breaks.
const json = value => JSON.stringify(value, null, 1).replace(/([[{])\n\s*|\n\s*([\]}])/g, "$1$2")
  .replace(/\n\s*/g, " ");

const quoted = text => `'${text.replaceAll("'", "'\\''")}'`;

function curlLines(server, { query, images, texts, video }, keyed) {
  const description = query?.kind === "description" ? { type: "text", text: query.name } : null;
  const lines = ["embed() {", `  curl -sS --fail-with-body ${quoted(`${server}/embeddings`)} -d @- \\`,
    ...(keyed ? ['    -H "authorization: Bearer $EMBEDDING_API_KEY" \\'] : []),
    "    -H 'content-type: application/json'", "}"];
  const send = input => ["", `printf '%s' ${quoted(json({ input }))} | embed`];
  if (description) lines.push(...send(description));
  if (texts.length) lines.push(...send({ type: "text", text: texts.map(item => item.name) }));
  if (images.length) {
    lines.push("", `for image in ${images.map(item => quoted(item.name)).join(" ")}; do`,
      `  printf '{"input": {"type": "image_base64", "image_base64": "%s"}}' \\`,
      `    ${dataOf("image")} | embed`,
      "done");
  }
  if (video) {
    const segment = json({ num_frames: video.sampled });
    lines.push("", `video=${quoted(video.name)}`,
      `printf '{"input": {"type": "video_base64", "video_base64": "%s", "segment_config": ${segment}}}' \\`,
      `  ${dataOf("video")} | embed`);
  }
  return lines.join("\n");
}

const dataOf = name => `"$(base64 < "$${name}" | tr -d '\\n')"`;

function pythonLines(server, { query, images, texts, video }, keyed) {
  const names = each => json(each.map(item => item.name));
  const key = keyed ? ', api_key=os.environ["EMBEDDING_API_KEY"]' : "";
  const head = [...(keyed ? ["import os", ""] : []),
    "from multimodal_embedding_serving import Client", "",
    `client = Client(${JSON.stringify(server)}${key})`];
  const queries = {
    description: item => `client.embed_texts(${JSON.stringify(item.name)})`,
    text: item => `client.embed_texts(${names([item])})`,
    image: item => `client.embed_images(${names([item])})`,
    video: item => `client.embed_video(${JSON.stringify(item.name)}).vectors`,
  };
  const lines = query ? [`query = ${queries[query.kind](query)}`] : [];
  const ranked = ["for score, name in sorted(zip((vectors @ query.T).max(axis=1), names), reverse=True):",
    '    print(f"{score:.3f} {name}")'];
  for (const [each, method] of [[images, "embed_images"], [texts, "embed_texts"]]) {
    if (!each.length) continue;
    lines.push("", `names = ${names(each)}`, `vectors = client.${method}(names)`,
      ...(query ? ranked : ["print(vectors.shape)"]));
  }
  if (video) {
    lines.push("", `video = client.embed_video(${JSON.stringify(video.name)}, `
      + `segment={"num_frames": ${video.sampled}})`,
    ...(query
      ? ["for frame, score in zip(video.frames, (video.vectors @ query.T).max(axis=1)):",
        '    print(f"{frame.timestamp:6.1f} s {score:.3f}")']
      : ["print(video.vectors.shape)"]));
  }
  return [...head, ...lines].join("\n");
}

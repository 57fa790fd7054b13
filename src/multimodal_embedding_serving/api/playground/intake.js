// Files from the two choosers, from a drop (folders too), and from the server's samples.

import { byId } from "./elements.js";

/** Calls `onfiles(files)` for whatever is chosen or dropped. */
export function listenForFiles(onfiles) {
  for (const [button, input] of [["choose-files", "files"], ["choose-folder", "folder"]]) {
    byId(button).addEventListener("click", () => byId(input).click());
    byId(input).addEventListener("change", () => {
      onfiles([...byId(input).files]);
      byId(input).value = ""; // the same file may be chosen again
    });
  }
  listenForDrops(onfiles);
}

function listenForDrops(onfiles) {
  const page = document.documentElement;
  const carriesFiles = event => event.dataTransfer?.types.includes("Files");
  page.addEventListener("dragover", event => {
    if (!carriesFiles(event)) return;
    event.preventDefault();
    page.classList.add("dragging");
  });
  page.addEventListener("dragleave", event => {
    if (event.relatedTarget === null) page.classList.remove("dragging");
  });
  page.addEventListener("drop", async event => {
    page.classList.remove("dragging");
    if (!carriesFiles(event)) return;
    event.preventDefault();
    // The entries must be taken before the first await: the list is emptied after it.
    const entries = [...event.dataTransfer.items].map(item => item.webkitGetAsEntry?.());
    const plain = [...event.dataTransfer.files];
    const found = entries.some(entry => entry?.isDirectory) ? await walk(entries) : plain;
    onfiles(found);
  });
}

/** Every file below the entries, in the order of their paths. */
async function walk(entries) {
  const found = [];
  const open = entries.filter(Boolean);
  while (open.length) {
    const entry = open.shift();
    if (entry.isDirectory) open.push(...await list(entry));
    else found.push(await read(entry));
  }
  return found.filter(Boolean).sort((a, b) => (a.path_ < b.path_ ? -1 : 1));
}

async function list(folder) {
  const reader = folder.createReader();
  const all = [];
  for (;;) {
    // A reader gives a hundred at most, and an empty list at the end.
    const some = await new Promise(done => { reader.readEntries(done, () => done([])); });
    if (!some.length) return all;
    all.push(...some);
  }
}

async function read(entry) {
  const file = await new Promise(done => { entry.file(done, () => done(null)); });
  return file && Object.assign(file, { path_: entry.fullPath.replace(/^\//, "") });
}

/** The samples that the server ships: their names. */
export async function listSamples() {
  const answer = await fetch("playground/samples.json");
  return answer.ok ? (await answer.json()).samples : [];
}

/** The samples as files. */
export async function fetchSamples(names) {
  return Promise.all(names.map(async name => {
    const answer = await fetch(`playground/samples/${encodeURIComponent(name)}`);
    if (!answer.ok) throw new Error(`the sample ${name} can't be read (${answer.status})`);
    const blob = await answer.blob();
    return new File([blob], name, { type: blob.type, lastModified: 0 });
  }));
}

/** A file's bytes as base64. */
export function base64(file) {
  return new Promise((done, fail) => {
    const reader = new FileReader();
    reader.onload = () => done(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = () => fail(new Error("the browser can't read this file"));
    reader.readAsDataURL(file);
  });
}

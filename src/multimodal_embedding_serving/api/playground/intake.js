// Files from the two file choosers, from drag and drop (folders too), and from the server's samples.

import { byId } from "./elements.js";

/**
 * Calls `onfiles(files)` with the files that are chosen, dropped or pasted, and `onquery(file)` with an
 * image that is dropped or pasted on the search field.
 */
export function listenForFiles(onfiles, onquery) {
  for (const [button, input] of [["choose-files", "files"], ["choose-folder", "folder"]]) {
    byId(button).addEventListener("click", () => byId(input).click());
    byId(input).addEventListener("change", () => {
      onfiles([...byId(input).files]);
      byId(input).value = ""; // so that the same file can be chosen again
    });
  }
  const take = (files, target) => {
    const search = target instanceof Element && target.closest("#search");
    if (search && files.length === 1 && files[0].type.startsWith("image/")) onquery(files[0]);
    else onfiles(files);
  };
  byId("by-image").addEventListener("click", () => byId("query-file").click());
  byId("query-file").addEventListener("change", () => {
    const [file] = byId("query-file").files;
    byId("query-file").value = "";
    if (file) onquery(file);
  });
  document.addEventListener("paste", event => {
    const files = [...event.clipboardData?.files ?? []];
    if (!files.length) return; // text, for the field that has the focus
    event.preventDefault();
    take(files, event.target);
  });
  listenForDrops(take);
}

function listenForDrops(take) {
  const page = document.documentElement;
  const carriesFiles = event => event.dataTransfer?.types.includes("Files");
  page.addEventListener("dragover", event => {
    if (!carriesFiles(event)) return;
    event.preventDefault();
    page.classList.add("dragging");
    byId("search").classList.toggle("target", Boolean(event.target.closest?.("#search")));
  });
  page.addEventListener("dragleave", event => {
    if (event.relatedTarget === null) page.classList.remove("dragging");
  });
  page.addEventListener("drop", async event => {
    page.classList.remove("dragging");
    if (!carriesFiles(event)) return;
    event.preventDefault();
    // Read the entries before the first await: the browser empties the list after it.
    const entries = [...event.dataTransfer.items].map(item => item.webkitGetAsEntry?.());
    const plain = [...event.dataTransfer.files];
    byId("search").classList.remove("target");
    const { target } = event;
    take(entries.some(entry => entry?.isDirectory) ? await walk(entries) : plain, target);
  });
}

/** All files under the entries, sorted by path. */
async function walk(entries) {
  const files = [];
  const pending = entries.filter(Boolean);
  while (pending.length) {
    const entry = pending.shift();
    if (entry.isDirectory) pending.push(...await list(entry));
    else files.push(await read(entry));
  }
  return files.filter(Boolean).sort((a, b) => (a.path_ < b.path_ ? -1 : 1));
}

async function list(folder) {
  const reader = folder.createReader();
  const all = [];
  for (;;) {
    // readEntries returns at most a hundred entries per call, and an empty list at the end.
    const entries = await new Promise(done => { reader.readEntries(done, () => done([])); });
    if (!entries.length) return all;
    all.push(...entries);
  }
}

async function read(entry) {
  const file = await new Promise(done => { entry.file(done, () => done(null)); });
  return file && Object.assign(file, { path_: entry.fullPath.replace(/^\//, "") });
}

/** The names of the samples that ship with the server. */
export async function listSamples() {
  const response = await fetch("playground/samples.json");
  return response.ok ? (await response.json()).samples : [];
}

/** Download samples as files. */
export async function fetchSamples(names) {
  return Promise.all(names.map(async name => {
    const response = await fetch(`playground/samples/${encodeURIComponent(name)}`);
    if (!response.ok) throw new Error(`could not load the sample ${name} (${response.status})`);
    const blob = await response.blob();
    return new File([blob], name, { type: blob.type, lastModified: 0 });
  }));
}

/** The bytes of a file as base64. */
export function base64(file) {
  return new Promise((done, fail) => {
    const reader = new FileReader();
    reader.onload = () => done(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = () => fail(new Error("the browser could not read this file"));
    reader.readAsDataURL(file);
  });
}

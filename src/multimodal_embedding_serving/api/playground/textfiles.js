// Texts from files: the lines of a .txt, or one column of a .csv or .tsv.

const NAMES = /\.(txt|md|csv|tsv)$/i;
const COLUMNS = ["text", "caption", "description", "title", "content", "sentence"];
const MAX_TEXTS = 10000;

export const isTextFile = file => NAMES.test(file.name);

/** The texts of a file, at most MAX_TEXTS. */
export async function readTexts(file) {
  const content = (await file.text()).replace(/^\uFEFF/, "");
  const delimiter = { csv: ",", tsv: "\t" }[file.name.split(".").pop().toLowerCase()];
  const texts = delimiter ? column(rows(content, delimiter)) : content.split(/\r?\n/);
  return texts.map(text => text.trim()).filter(Boolean).slice(0, MAX_TEXTS);
}

/** The column that a header names as text; without such a header, the first column of every row. */
function column(table) {
  const header = (table[0] ?? []).map(name => name.trim().toLowerCase());
  const at = COLUMNS.map(name => header.indexOf(name)).find(index => index >= 0);
  return at === undefined ? table.map(row => row[0] ?? "") : table.slice(1).map(row => row[at] ?? "");
}

/** RFC 4180: fields may be quoted, and quoted fields may contain delimiters and line breaks. */
function rows(content, delimiter) {
  const table = [[]];
  let field = "";
  let quoted = false;
  for (let i = 0; i < content.length; i += 1) {
    const letter = content[i];
    if (quoted && letter === "\"" && content[i + 1] === "\"") {
      field += letter;
      i += 1;
    } else if (letter === "\"" && (quoted || field === "")) {
      quoted = !quoted;
    } else if (!quoted && (letter === delimiter || letter === "\n")) {
      table.at(-1).push(field.replace(/\r$/, ""));
      field = "";
      if (letter === "\n") table.push([]);
    } else {
      field += letter;
    }
  }
  table.at(-1).push(field);
  return table;
}

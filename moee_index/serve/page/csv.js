// The list as a file for spreadsheets.

const ACTING = ["=", "+", "-", "@", "\t", "\r"];

// One cell. A text that a spreadsheet would take for a formula begins with an apostrophe.
function cell(value) {
  if (value === null || value === undefined) return "";
  if (typeof value === "number" || typeof value === "boolean") return String(value);
  let text = typeof value === "string" ? value : JSON.stringify(value);
  if (ACTING.includes(text.charAt(0))) text = `'${text}`;
  return `"${text.replaceAll('"', '""')}"`;
}

// hits: [{ rank, hit, score }].
export function csv(hits) {
  const fields = new Set();
  for (const { hit } of hits) for (const name of Object.keys(hit.metadata)) fields.add(name);
  const names = [...fields];
  const head = ["rank", "id", "passage", "score", "hs", "rw", "words", "text", ...names.map((name) => `metadata.${name}`)];
  const lines = [head.map(cell).join(",")];
  for (const { rank, hit, score } of hits) {
    const known = [rank, hit.id, hit.passage ?? null, score, hit.hs, hit.rw, hit.lexical ?? null, hit.text];
    lines.push([...known, ...names.map((name) => (Object.hasOwn(hit.metadata, name) ? hit.metadata[name] : null))].map(cell).join(","));
  }
  return `${lines.join("\r\n")}\r\n`;
}

export function download(name, text) {
  // The mark at the beginning tells spreadsheets that this is UTF-8.
  const address = URL.createObjectURL(new Blob(["\ufeff", text], { type: "text/csv;charset=utf-8" }));
  const link = document.createElement("a");
  link.href = address;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}

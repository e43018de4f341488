// The list of hits: what each says, its shares as one bar, what can be done with it.

import { append, element, foreign, marked, number, replace, shown } from "./dom.js";

const BEGINNING = 280;
const NAMES = { sum: "HS", concat: "HS and RW", hs: "HS", rw: "RW" };
const MOST_FIELDS = 8;
const LONGEST = 120;

export const nameOf = (hit) => hit.passage ?? hit.id;

export const titleOf = (hit) =>
  typeof hit.metadata.title === "string" && hit.metadata.title.trim() ? hit.metadata.title : hit.id;

// Fill the list. ranked: of a pool; view: { method, words (their weight), chosen (names of hits to compare), actions }.
export function showHits(list, ranked, view) {
  const reach = extent(ranked);
  replace(list, ...ranked.map((each) => card(each, reach, view)));
}

// How far the bars go, to the left of zero and to its right.
function extent(ranked) {
  let low = 0;
  let high = 0;
  for (const { shares } of ranked) {
    low = Math.min(low, shares.reduce((sum, share) => sum + Math.min(share, 0), 0));
    high = Math.max(high, shares.reduce((sum, share) => sum + Math.max(share, 0), 0));
  }
  return { low, width: high - low || 1 };
}

function card(each, reach, view) {
  const { hit, rank, score } = each;
  const name = nameOf(hit);
  const titleId = `hit-${rank}`;
  const compare = element("input", {
    type: "checkbox", checked: view.chosen.includes(name), "aria-describedby": titleId,
    on: { change: (event) => view.actions.choose(name, event.target.checked) },
  });
  const made = element("li", { class: "hit", "data-id": name, "aria-labelledby": titleId },
    element("div", { class: "hit-head" },
      element("span", { class: "rank", "aria-hidden": "true" }, rank),
      element("h3", { class: "hit-title", id: titleId }, foreign("span", titleOf(hit))),
      element("span", { class: "score", title: "Score" }, element("span", { class: "hidden" }, "Score "), number(score))),
    snippet(hit),
    bar(each, reach, view),
    fields(hit),
    element("div", { class: "actions" },
      button("Whole text", titleId, () => view.actions.text(name)),
      hit.hs === null ? null : button("Routing", titleId, () => view.actions.routing(name), { "aria-expanded": "false", "data-routing": "" }),
      button("More like this", titleId, () => view.actions.like(hit.id)),
      element("label", { class: "check" }, compare, " Compare")));
  return made;
}

function button(label, describedBy, action, more = {}) {
  return element("button", { type: "button", class: "quiet", "aria-describedby": describedBy, on: { click: action }, ...more }, label);
}

// The best part of the text with its marked words, or its beginning where the server marks none.
function snippet(hit) {
  if (typeof hit.snippet === "string") {
    const text = foreign("p", "", { class: "snippet foreign" });
    append(text, marked(hit.snippet, hit.marks ?? []));
    return text;
  }
  const characters = Array.from(hit.text.slice(0, 2 * BEGINNING + 2));
  const cut = characters.length > BEGINNING;
  return foreign("p", cut ? `${characters.slice(0, BEGINNING).join("").trimEnd()}…` : hit.text, { class: "snippet foreign" });
}

function bar({ shares, hit }, reach, view) {
  const { method } = view;
  if (hit.hs === null) shares = [0, 0, shares[2]];
  const kinds = method === "rw" ? ["of-rw", "of-none", "of-words"] : ["of-hs", "of-rw", "of-words"];
  const names = [NAMES[method], "RW", "words"];
  const zero = (-reach.low / reach.width) * 100;
  let right = zero;
  let left = zero;
  const pieces = [];
  const said = [];
  shares.forEach((share, at) => {
    if (at === 1 && method !== "sum") return;
    if (at === 2 && (hit.lexical === undefined || !view.words)) return;
    said.push([kinds[at], `${names[at]} ${number(share)}`]);
    const size = (Math.abs(share) / reach.width) * 100;
    if (!size) return;
    const piece = element("span", { class: `share ${kinds[at]}${share < 0 ? " below" : ""}` });
    if (share < 0) left -= size;
    piece.style.left = `${share < 0 ? left : right}%`;
    piece.style.width = `${size}%`;
    if (share > 0) right += size;
    pieces.push(piece);
  });
  const axis = element("span", { class: "zero" });
  axis.style.left = `${zero}%`;
  return element("div", { class: "shares" },
    element("div", { class: "bar", "aria-hidden": "true" }, ...pieces, reach.low < 0 ? axis : null),
    element("ul", { class: "numbers", "aria-label": "Shares of the score" }, ...said.map(([kind, text]) => element("li", { class: kind }, text))));
}

// Metadata but for the title, which stands above.
function fields(hit) {
  const entries = Object.entries(hit.metadata).filter(([name]) => name !== "title");
  const title = titleOf(hit);
  if (title !== hit.id) entries.unshift(["id", nameOf(hit)]);
  if (!entries.length) return null;
  const some = entries.slice(0, MOST_FIELDS);
  const list = element("dl", { class: "fields" });
  for (const [name, value] of some) {
    const text = shown(value);
    const short = Array.from(text.slice(0, 2 * LONGEST + 2));
    const cut = short.length > LONGEST ? `${short.slice(0, LONGEST).join("")}…` : text;
    list.append(element("div", {}, foreign("dt", name), foreign("dd", cut)));
  }
  if (entries.length > some.length) list.append(element("div", {}, element("dt", {}, "…"), element("dd", {}, `${entries.length - some.length} more`)));
  return list;
}

// All metadata, for whole texts.
export function allFields(metadata) {
  const entries = Object.entries(metadata);
  if (!entries.length) return null;
  const list = element("dl", { class: "fields whole" });
  for (const [name, value] of entries) list.append(element("div", {}, foreign("dt", name), foreign("dd", shown(value))));
  return list;
}

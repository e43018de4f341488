// What the page shows, in its address. It stands behind `#`, which a browser sends to no server, so
// that queries are in no log and reach no other site.

const WHOLE = { page: 1, k: 10 };
const TEXTS = ["index", "q", "like", "method", "filter", "text", "routing"];
const DEFAULTS = { index: "", q: "", like: "", method: "sum", filter: "", text: "", routing: "" };

export const EMPTY = Object.freeze({
  ...DEFAULTS, ...WHOLE, alpha: null, words: null, passages: false, picks: [], pair: [],
});

// picks: [field, condition] of the chosen facets. pair: names of two hits side by side. alpha,
// words: null is the index's own.
export function read(hash) {
  const given = new URLSearchParams(hash.startsWith("#") ? hash.slice(1) : hash);
  const state = { ...EMPTY, picks: [], pair: [] };
  for (const name of TEXTS) if (given.has(name)) state[name] = given.get(name);
  for (const name of Object.keys(WHOLE)) state[name] = whole(given.get(name), WHOLE[name]);
  state.alpha = weight(given.get("alpha"), 1e6);
  state.words = weight(given.get("words"), 1);
  state.passages = given.get("passages") === "1";
  const picks = given.getAll("pick");
  for (let at = 0; at + 1 < picks.length; at += 2) state.picks.push([picks[at], picks[at + 1]]);
  const pair = given.getAll("pair");
  if (pair.length === 2) state.pair = pair;
  if (!["sum", "concat", "hs", "rw"].includes(state.method)) state.method = "sum";
  return state;
}

export function write(state) {
  const said = new URLSearchParams();
  for (const name of TEXTS) if (state[name] !== DEFAULTS[name]) said.set(name, state[name]);
  for (const [name, usual] of Object.entries(WHOLE)) if (state[name] !== usual) said.set(name, String(state[name]));
  if (state.alpha !== null) said.set("alpha", String(state.alpha));
  if (state.words !== null) said.set("words", String(state.words));
  if (state.passages) said.set("passages", "1");
  for (const [field, condition] of state.picks) {
    said.append("pick", field);
    said.append("pick", condition);
  }
  for (const name of state.pair) said.append("pair", name);
  const text = said.toString();
  return text ? `#${text}` : "";
}

function whole(text, usual) {
  const value = Number(text ?? "");
  return Number.isInteger(value) && value >= 1 && value <= 1000 ? value : usual;
}

function weight(text, most) {
  if (text === null || text === "") return null;
  const value = Number(text);
  return Number.isFinite(value) && value >= 0 && value <= most ? value : null;
}

// The condition that picks and the written filter make together; without: a field whose picks are
// left out, for counting its own values.
export function condition(state, without = null) {
  const byField = new Map();
  for (const [field, said] of state.picks) {
    if (field !== without) byField.set(field, [...(byField.get(field) ?? []), said]);
  }
  const parts = state.filter.trim() ? [`(${state.filter.trim()})`] : [];
  for (const said of byField.values()) parts.push(`(${said.join(" or ")})`);
  return parts.join(" and ");
}

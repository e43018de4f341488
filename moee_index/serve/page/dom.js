// Elements made of parts. Text, whoever wrote it, only ever becomes a text node.

export const byId = (id) => document.getElementById(id);

// An element. properties: DOM properties, `class`, `on` (event → listener), `data-…`, `aria-…` and
// `role`; children: elements, or values that become text.
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined) continue;
    if (name === "class") made.className = value;
    else if (name === "on") for (const [event, listener] of Object.entries(value)) made.addEventListener(event, listener);
    else if (name === "role" || name.includes("-")) made.setAttribute(name, String(value));
    else made[name] = value;
  }
  append(made, ...children);
  return made;
}

export function append(parent, ...children) {
  for (const child of children) {
    if (child === null || child === undefined) continue;
    parent.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
}

export function replace(parent, ...children) {
  parent.replaceChildren();
  append(parent, ...children);
}

// Somebody's text in an element of its own: its direction is its own, and ends with it.
export const foreign = (tag, text, properties = {}) => element(tag, { dir: "auto", class: "foreign", ...properties }, text);

// A text with marked characters. marks: [start, stop) by code points, as Python counts.
export function marked(text, marks) {
  const characters = Array.from(text);
  const parts = document.createDocumentFragment();
  let at = 0;
  for (const [start, stop] of marks) {
    parts.append(characters.slice(at, start).join(""));
    parts.append(element("mark", {}, characters.slice(start, stop).join("")));
    at = stop;
  }
  parts.append(characters.slice(at).join(""));
  return parts;
}

export const number = (value, digits = 3) =>
  value === null || value === undefined ? "–" : value.toFixed(digits).replace("-", "−");

const grouped = new Intl.NumberFormat("en");
export const counted = (count, noun) => `${grouped.format(count)} ${noun}${count === 1 ? "" : "s"}`;

// What a metadata value looks like.
export const shown = (value) => (typeof value === "string" ? value : JSON.stringify(value));

// Calls a function once nothing has asked for it during so many milliseconds.
export function later(milliseconds, action) {
  let timer = 0;
  const waiting = (...values) => {
    clearTimeout(timer);
    timer = setTimeout(() => action(...values), milliseconds);
  };
  waiting.cancel = () => clearTimeout(timer);
  return waiting;
}

// The filter's field: names of fields completed as they are typed, faults shown where they are.

import { indexPath, post } from "./api.js";
import { byId, counted, element, foreign, later, replace } from "./dom.js";

const MOST = 8;
const WORDS = new Set(["and", "or", "not", "in", "contains", "exists", "true", "false", "null"]);

const continues = (character) => character === "_" || character === "-" || character === "." || character === "`" ||
  character.toLowerCase() !== character.toUpperCase() || (character >= "0" && character <= "9") || character > "\u007f";

export class FilterField {
  constructor() {
    this.input = byId("filter");
    this.list = byId("filter-fields");
    this.note = byId("filter-note");
    this.index = null;
    this.active = -1;
    this.offered = [];
    this.look = later(300, () => this.check());
    this.input.addEventListener("input", () => {
      this.offer();
      this.look();
    });
    this.input.addEventListener("keydown", (event) => this.#key(event));
    this.input.addEventListener("blur", () => this.close());
    this.list.addEventListener("pointerdown", (event) => event.preventDefault());
  }

  // index: an entry of /v1/indexes.
  of(index) {
    this.index = index;
    const names = this.#fields().map(([name]) => name);
    this.input.placeholder = names.length ? `Fields: ${names.slice(0, 6).join(", ")}${names.length > 6 ? ", …" : ""}` : "";
    this.clear();
  }

  // [name as filters ask for it, kinds of its values].
  #fields() {
    const own = (name) => ["id", "text"].includes(name.split(".")[0]);
    return Object.entries(this.index?.fields ?? {}).map(([name, kinds]) => [own(name) ? `.${name}` : name, kinds]);
  }

  clear() {
    this.input.removeAttribute("aria-invalid");
    replace(this.note);
  }

  // The word before the cursor, if a field's name may stand there.
  #word() {
    const text = this.input.value.slice(0, this.input.selectionStart);
    let quote = "";
    for (const character of text) {
      if (quote) quote = character === quote ? "" : quote;
      else if (character === '"' || character === "'") quote = character;
    }
    if (quote) return null;
    let start = text.length;
    while (start > 0 && continues(text[start - 1])) start -= 1;
    return { start, text: text.slice(start) };
  }

  offer() {
    const word = this.#word();
    const fields = this.#fields();
    const begun = word === null ? "" : word.text.toLowerCase();
    const fits = begun && !WORDS.has(begun) ? fields.filter(([name]) => name.toLowerCase().includes(begun) && name !== word.text) : [];
    fits.sort((left, right) => Number(right[0].toLowerCase().startsWith(begun)) - Number(left[0].toLowerCase().startsWith(begun)));
    this.offered = fits.slice(0, MOST).map(([name]) => name);
    this.active = -1;
    replace(this.list, ...fits.slice(0, MOST).map(([name, kinds], at) => element("li", {
      role: "option", id: `field-${at}`, "aria-selected": "false", on: { click: () => this.take(at) },
    }, foreign("span", name), element("span", { class: "kind" }, kinds.join(", ")))));
    this.list.hidden = !this.offered.length;
    this.input.setAttribute("aria-expanded", String(Boolean(this.offered.length)));
    this.#mark();
  }

  #mark() {
    [...this.list.children].forEach((option, at) => option.setAttribute("aria-selected", String(at === this.active)));
    if (this.active >= 0) {
      this.input.setAttribute("aria-activedescendant", `field-${this.active}`);
      this.list.children[this.active].scrollIntoView({ block: "nearest" });
    } else this.input.removeAttribute("aria-activedescendant");
  }

  #key(event) {
    if (this.list.hidden) {
      if (event.key === "ArrowDown") this.offer();
      return;
    }
    const count = this.offered.length;
    if (event.key === "ArrowDown") this.active = (this.active + 1) % count;
    else if (event.key === "ArrowUp") this.active = (this.active - 1 + count) % count;
    else if (event.key === "Escape") this.close();
    else if ((event.key === "Enter" || event.key === "Tab") && this.active >= 0) this.take(this.active);
    else return;
    event.preventDefault();
    this.#mark();
  }

  take(at) {
    const word = this.#word();
    const end = this.input.selectionStart;
    this.input.setRangeText(`${this.offered[at]} `, word === null ? end : word.start, end, "end");
    this.close();
    this.input.focus();
    this.look();
  }

  close() {
    this.offered = [];
    this.active = -1;
    this.list.hidden = true;
    this.input.setAttribute("aria-expanded", "false");
    this.#mark();
  }

  // A search was answered that had this filter.
  taken(text) {
    if (this.input.value !== text) return;
    this.look.cancel();
    if (this.input.hasAttribute("aria-invalid")) this.clear();
  }

  // Ask whether the filter can be read; says how many documents match, or where it is wrong.
  async check() {
    const text = this.input.value;
    if (!text.trim() || this.index === null) {
      this.clear();
      return;
    }
    try {
      const answer = await post(indexPath(this.index.name, "filter"), { filter: text });
      if (this.input.value !== text) return;
      if (answer.error) this.wrong(text, answer.error);
      else {
        this.clear();
        replace(this.note, `${counted(answer.matching, "document")} match`);
      }
    } catch (error) {
      if (this.input.value === text) replace(this.note, error.message);
    }
  }

  // error: { message, position }, the position counted in characters from 1.
  wrong(text, { message, position }) {
    const characters = Array.from(text);
    const at = Math.min(position - 1, characters.length);
    this.input.setAttribute("aria-invalid", "true");
    // The server's message begins with the place and its surroundings, which are shown here.
    const reason = message.slice(message.indexOf(": ") + 2) || message;
    replace(this.note, element("code", { class: "where", dir: "ltr" },
      characters.slice(Math.max(0, at - 24), at).join(""),
      element("mark", { class: "fault" }, characters[at] ?? " "),
      characters.slice(at + 1, at + 25).join("")), element("span", {}, foreign("span", reason)));
  }
}

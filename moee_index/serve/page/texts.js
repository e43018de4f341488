// Dialogs with whole texts: one with the passages before and behind it, and two side by side.

import { get, indexPath } from "./api.js";
import { append, byId, element, foreign, replace } from "./dom.js";
import { allFields } from "./hits.js";
import { routingPicture } from "./routing.js";

// Characters that are shown at once.
const MOST = 100_000;

const read = (index, name) => get(indexPath(index.name, `passages?${new URLSearchParams({ id: name })}`));
const title = (found) => (typeof found.metadata.title === "string" && found.metadata.title.trim() ? found.metadata.title : found.document);

function whole(text) {
  const place = foreign("p", text.slice(0, MOST), { class: "whole-text foreign" });
  if (text.length <= MOST) return [place];
  const more = element("button", { type: "button", class: "quiet", on: { click: () => {
    place.textContent = text;
    more.remove();
  } } }, "Show all of it");
  return [place, more];
}

export class TextDialog {
  // go: called with the name of another passage; closed: called when the dialog was closed.
  constructor(go, closed) {
    this.dialog = byId("text-dialog");
    this.name = "";
    this.beside = {};
    for (const side of ["previous", "next"]) byId(`text-${side}`).addEventListener("click", () => this.beside[side] && go(this.beside[side]));
    closing(this.dialog, closed);
  }

  async show(index, name) {
    if (!name) {
      this.name = "";
      if (this.dialog.open) this.dialog.close();
      return;
    }
    if (this.name === name && this.dialog.open) return;
    this.name = name;
    replace(byId("text-title"), foreign("span", name));
    replace(byId("text-body"), element("p", { class: "note" }, "Reading…"));
    if (!this.dialog.open) this.dialog.showModal();
    try {
      const found = await read(index, name);
      if (this.name === name) this.#fill(found);
    } catch (error) {
      if (this.name === name) replace(byId("text-body"), element("p", { class: "fault-text", role: "alert" }, error.message));
    }
  }

  #fill(found) {
    replace(byId("text-title"), foreign("span", title(found)));
    replace(byId("text-body"), ...whole(found.text), allFields({ id: found.document, ...found.metadata }));
    byId("text-body").scrollTop = 0;
    byId("text-foot").hidden = found.of === 1;
    replace(byId("text-place"), `Passage ${found.number} of ${found.of}`);
    this.beside = found;
    for (const side of ["previous", "next"]) byId(`text-${side}`).disabled = found[side] === null;
  }
}

export class PairDialog {
  constructor(closed) {
    this.dialog = byId("pair-dialog");
    this.key = "";
    closing(this.dialog, closed);
  }

  async show(index, pair) {
    const key = JSON.stringify(pair);
    if (!pair.length) {
      this.key = "";
      if (this.dialog.open) this.dialog.close();
      return;
    }
    if (this.key === key && this.dialog.open) return;
    this.key = key;
    replace(byId("pair-body"), element("p", { class: "note" }, "Reading…"));
    if (!this.dialog.open) this.dialog.showModal();
    try {
      const both = await Promise.all(pair.map((name) => read(index, name)));
      if (this.key !== key) return;
      const columns = both.map((found) => {
        const column = element("article", {}, element("h3", {}, foreign("span", title(found))));
        append(column, ...whole(found.text), allFields({ id: found.id, ...found.metadata }));
        return column;
      });
      replace(byId("pair-body"), element("div", { class: "pair" }, ...columns),
        routingPicture(index, { document: pair[1], other: pair[0] }, ["First text", "Second text"]));
    } catch (error) {
      if (this.key === key) replace(byId("pair-body"), element("p", { class: "fault-text", role: "alert" }, error.message));
    }
  }
}

// A dialog that its button and a click beside it close. closed: told of the user's closing alone.
function closing(dialog, closed) {
  dialog.querySelector("[data-close]").addEventListener("click", () => closed());
  dialog.addEventListener("cancel", (event) => {
    event.preventDefault();
    closed();
  });
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) closed();
  });
}

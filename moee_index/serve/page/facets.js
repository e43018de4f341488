// Values of fields with their counts, each of which narrows the search down.

import { indexPath, post } from "./api.js";
import { byId, element, foreign, number, replace, shown } from "./dom.js";
import { condition } from "./state.js";

const SHOWN = 8;
const grouped = new Intl.NumberFormat("en");

export class Facets {
  // pick: called with a field, a condition, and whether it is to hold.
  constructor(pick) {
    this.pick = pick;
    this.panel = byId("facets-panel");
    this.place = byId("facets");
    this.asked = null;
    this.running = null;
    this.wide = new Set();
  }

  // Count for a state of the page, unless the same was counted. query: whose signs are conditions on
  // documents, null where it has none.
  async show(index, state, query) {
    const key = JSON.stringify([index.name, index.digest, state.filter, state.picks, query]);
    if (key === this.asked) return;
    this.asked = key;
    this.running?.abort();
    this.running = new AbortController();
    try {
      const counted = await this.#count(index, state, query, this.running.signal);
      if (this.asked === key) this.#draw(counted, state);
    } catch (error) {
      if (error.name === "AbortError") return;
      this.asked = null;
      this.panel.hidden = true;
    }
  }

  // A field's values are counted without its own picks, so that others of it can be added.
  async #count(index, state, query, signal) {
    const ask = (fields, said) => post(indexPath(index.name, "facets"), { fields, filter: said || null, values: 50, query }, signal);
    const all = await ask(null, condition(state));
    const picked = [...new Set(state.picks.map(([field]) => field))];
    const own = await Promise.all(picked.map(async (field) => (await ask([field], condition(state, field))).facets[0]));
    const others = all.facets.filter(({ field }) => !picked.includes(field));
    return [...own, ...others];
  }

  #draw(facets, state) {
    const focused = document.activeElement?.dataset?.condition;
    const filled = facets.filter(({ values }) => values.some((value) => value.filter !== null));
    replace(this.place, ...filled.map((facet) => this.#field(facet, state)));
    this.panel.hidden = !filled.length;
    if (focused) [...this.place.querySelectorAll("input")].find((box) => box.dataset.condition === focused)?.focus();
  }

  #field(facet, state) {
    const held = new Set(state.picks.filter(([field]) => field === facet.field).map(([, said]) => said));
    const usable = facet.values.filter((value) => value.filter !== null);
    const open = this.wide.has(facet.field);
    const some = open ? usable : usable.filter((value, at) => at < SHOWN || held.has(value.filter));
    const most = Math.max(1, ...usable.map((value) => value.count));
    const group = element("fieldset", { class: "facet" }, element("legend", {}, foreign("span", facet.field)),
      ...some.map((value) => this.#value(facet.field, value, held.has(value.filter), most)));
    if (usable.length > some.length || open) {
      group.append(element("button", { type: "button", class: "quiet small", "aria-expanded": String(open), on: { click: () => {
        if (open) this.wide.delete(facet.field);
        else this.wide.add(facet.field);
        group.replaceWith(this.#field(facet, state));
      } } }, open ? "Fewer" : `${usable.length - some.length} more`));
    }
    return group;
  }

  #value(field, { value, count, filter }, checked, most) {
    const box = element("input", { type: "checkbox", checked, "data-condition": filter, on: { change: (event) => this.pick(field, filter, event.target.checked) } });
    const size = element("span", { class: "size", "aria-hidden": "true" });
    size.style.width = `${(count / most) * 100}%`;
    const text = typeof value === "number" ? number(value, Number.isInteger(value) ? 0 : 3) : shown(value);
    return element("label", { class: "value" }, box, foreign("span", text || "(empty)", { class: "foreign value-text" }),
      element("span", { class: "count" }, grouped.format(count)), size);
  }
}

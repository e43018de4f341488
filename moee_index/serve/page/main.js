// The page: a state, which stands in the address, and what is shown for it.

import { get, post } from "./api.js";
import { csv, download } from "./csv.js";
import { byId, counted, element, foreign, number, replace } from "./dom.js";
import { Facets } from "./facets.js";
import { FilterField } from "./filter.js";
import { nameOf, showHits, titleOf } from "./hits.js";
import { askForKeys } from "./key.js";
import { Pool } from "./pool.js";
import { routingPicture } from "./routing.js";
import { condition, EMPTY, read, write } from "./state.js";
import { PairDialog, TextDialog } from "./texts.js";
import { Weights } from "./weights.js";

// Hits that are fetched at least, for sliders to have something to put in order.
const DEPTH = 50;
// Without a weight hits would not say how much of their words match; this one changes no order that
// anybody sees, and the pool counts it in.
const LEAST_WORDS = 1e-6;
const MOST_HITS = 5000;
const ONE_MOVEMENT = 1500;

// Whether an answer can lack documents, and how many of the ten best such a search finds.
function exactness(answer) {
  if (answer.exact) return "exact";
  return answer.recall === undefined ? "approximate" : `approximate, recall ${number(answer.recall, 3)}`;
}

class Page {
  constructor() {
    this.state = read(location.hash);
    this.indexes = [];
    this.takesSyntax = false;
    this.pool = null;
    this.poolKey = "";
    this.running = null;
    this.chosen = [];
    this.answer = null;
    this.routed = null;
    this.filter = new FilterField();
    this.facets = new Facets((field, said, held) => this.#pick(field, said, held));
    this.weights = new Weights((weights) => this.#weigh(weights), () => this.#settle());
    this.text = new TextDialog((name) => this.go({ text: name }, true), () => this.#close({ text: "" }));
    this.pair = new PairDialog(() => this.#close({ pair: [] }));
    this.#listen();
  }

  get index() {
    return this.indexes.find(({ name }) => name === this.state.index) ?? this.indexes[0] ?? null;
  }

  get searches() {
    return Boolean(this.state.q.trim() || this.state.like);
  }

  get hasWords() {
    return this.index.language !== null && !this.state.like;
  }

  // Weights that hold now.
  get alpha() {
    return this.state.alpha ?? this.index.alpha;
  }

  get words() {
    return this.hasWords ? (this.state.words ?? this.index.lexical) : 0;
  }

  async start() {
    try {
      const [indexes, described] = await Promise.all([get("/v1/indexes"), get("/openapi.json")]);
      this.indexes = indexes.data;
      this.takesSyntax = "syntax" in (described.components?.schemas?.SearchBody?.properties ?? {});
    } catch (error) {
      this.#fault(error, () => this.start());
      return;
    }
    replace(byId("index"), ...this.indexes.map(({ name }) => element("option", { value: name }, name)));
    if (!this.indexes.length) {
      this.#say("This server has no index. Start it with one: moee-index serve INDEX");
      byId("search").hidden = true;
      return;
    }
    this.render();
    if (!this.searches) byId("query").focus();
  }

  // Another state. push: as an entry of the history of its own.
  go(change, push) {
    this.state = { ...this.state, ...change };
    const address = `${location.pathname}${write(this.state)}`;
    if (push) history.pushState({ within: true }, "", address);
    else history.replaceState(history.state, "", address);
    this.render();
  }

  // A dialog was closed: back to where it was opened from, if that is in the history.
  #close(change) {
    if (history.state?.within) history.back();
    else this.go(change, false);
  }

  #listen() {
    addEventListener("popstate", () => {
      this.state = read(location.hash);
      if (this.indexes.length) this.render();
    });
    byId("search").addEventListener("submit", (event) => {
      event.preventDefault();
      this.filter.close();
      this.#search(byId("query").value.trim() ? { q: byId("query").value, like: "" } : {});
    });
    byId("index").addEventListener("change", (event) => this.#search({ index: event.target.value, picks: [], filter: "", like: "", alpha: null, words: null, passages: false }));
    byId("method").addEventListener("change", (event) => this.#search({ method: event.target.value }));
    byId("k").addEventListener("change", (event) => this.#search({ k: Number(event.target.value) }));
    byId("passages").addEventListener("change", (event) => this.#search({ passages: event.target.checked }));
    byId("previous").addEventListener("click", () => this.#turn(-1));
    byId("next").addEventListener("click", () => this.#turn(1));
    byId("compare").addEventListener("click", () => this.go({ pair: this.chosen.slice(0, 2) }, true));
    byId("exact").addEventListener("click", () => this.#compareExact());
    byId("csv").addEventListener("click", () => download(`${this.index.name}.csv`, csv(this.#page())));
    byId("home").addEventListener("click", (event) => {
      event.preventDefault();
      this.chosen = [];
      this.go({ ...EMPTY, index: this.state.index }, true);
      byId("query").focus();
    });
    byId("skip").addEventListener("click", (event) => {
      event.preventDefault();
      byId("results").focus();
    });
  }

  // A search from the form: its first page, with no text open.
  #search(change) {
    this.go({ filter: byId("filter").value, page: 1, text: "", routing: "", pair: [], ...change }, true);
  }

  #turn(step) {
    this.go({ page: Math.max(1, this.state.page + step), routing: "" }, true);
    byId("results").focus();
    byId("results").scrollIntoView();
  }

  #pick(field, said, held) {
    const others = this.state.picks.filter((each) => each[0] !== field || each[1] !== said);
    this.#search({ picks: held ? [...others, [field, said]] : others });
  }

  #weigh(weights) {
    // The first step is an entry of the history, so that `back` undoes the whole movement; steps by
    // the keyboard that follow each other soon are one.
    const now = performance.now();
    const begins = !this.moving && now - (this.moved ?? -Infinity) > ONE_MOVEMENT;
    this.moved = now;
    this.moving = true;
    this.go({ ...weights, page: 1 }, begins);
  }

  #settle() {
    this.moving = false;
    if (this.searches) this.#complete();
  }

  // Show the state.
  render() {
    const { state, index } = this;
    document.title = state.q ? `${state.q} – moee-index` : "moee-index";
    byId("index").value = index.name;
    if (document.activeElement !== byId("query") || byId("query").value.trim() !== state.q.trim()) byId("query").value = state.q;
    byId("filter").value = state.filter;
    byId("method").value = state.method;
    this.#showK();
    byId("passages").checked = state.passages;
    byId("passages-option").hidden = index.chunk === null;
    if (this.filter.index !== index) this.filter.of(index);
    byId("side").hidden = !this.searches;
    byId("columns").classList.toggle("begun", this.searches);
    if (!this.searches) {
      this.#welcome();
      return;
    }
    this.weights.show(index, state, this.hasWords);
    this.facets.show(index, state, this.#signed());
    const key = this.#key();
    if (key !== this.poolKey) {
      this.poolKey = key;
      this.pool = null;
      this.chosen = state.pair.length ? [...state.pair] : [];
      this.#fetch();
    } else if (this.pool !== null) {
      if (this.drawn !== this.#view()) this.#show();
      if (!this.moving) this.#complete();
    }
    this.text.show(index, state.text);
    this.pair.show(index, state.pair);
  }

  // All that the list depends on but the pool: while it is the same, what has the focus stays.
  #view() {
    const { page, k, routing } = this.state;
    return JSON.stringify([this.poolKey, this.alpha, this.words, page, k, routing]);
  }

  // The index has changed: its documents and fields are others.
  async #renew() {
    try {
      this.indexes = (await get("/v1/indexes")).data;
      this.render();
    } catch {
      // The next search says what is wrong.
    }
  }

  #showK() {
    const choice = byId("k");
    if (![...choice.options].some((option) => option.value === String(this.state.k))) choice.append(element("option", {}, this.state.k));
    choice.value = String(this.state.k);
  }

  // What hits are the same for: where words alone count they are others.
  #key() {
    const { q, like, method, passages } = this.state;
    return JSON.stringify([this.index.name, q, like, method, passages, condition(this.state), this.words === 1]);
  }

  // The query if it may hold signs: a quotation mark, plus or minus.
  #signed() {
    const { q, like } = this.state;
    return !like && this.takesSyntax && ['"', "+", "-"].some((sign) => q.includes(sign)) ? q : null;
  }

  // Fetch a deeper list if the one that is known may not be the right one.
  #complete() {
    if (this.pool === null || this.running !== null) return;
    const { alpha, words } = this;
    if (this.fetched?.alpha === alpha && this.fetched.words === words && this.pool.hits.size >= this.#needed()) return;
    if (!this.pool.knows(this.#needed(), alpha, words)) this.#fetch();
  }

  #needed() {
    const most = this.state.passages ? this.index.rows : this.index.documents;
    return Math.min(this.state.page * this.state.k, most, MOST_HITS);
  }

  #body(asked) {
    const { state, index, words } = this;
    const body = { index: index.name, k: asked, method: state.method };
    if (state.like) body.like = state.like;
    else body.query = state.q;
    if (state.method === "sum") body.alpha = this.alpha;
    if (this.hasWords) body.lexical = words < 1 ? Math.max(words, LEAST_WORDS) : 1;
    const said = condition(state);
    if (said) body.filter = said;
    if (state.passages) body.passages = true;
    if (this.takesSyntax && !state.like) body.syntax = true;
    return body;
  }

  async #fetch() {
    this.running?.abort();
    const running = new AbortController();
    this.running = running;
    const { alpha, words } = this;
    const asked = Math.min(MOST_HITS, Math.max(DEPTH, (this.state.page + 2) * this.state.k));
    byId("hits").setAttribute("aria-busy", "true");
    if (this.pool === null) {
      replace(byId("message"));
      replace(byId("status"), "Searching…");
    }
    try {
      const body = this.#body(asked);
      const answer = await post("/v1/search", body, running.signal);
      if (this.running !== running) return;
      this.running = null;
      const exact = answer.exact && words < 1 && (this.index.chunk === null || this.state.passages);
      if (this.pool === null || this.pool.revision !== answer.revision) {
        this.pool = new Pool(this.state.method, exact);
        this.pool.revision = answer.revision;
      }
      this.pool.exact &&= exact;
      this.pool.add(answer.hits, alpha, body.lexical ?? 0, asked);
      this.answer = answer;
      if (answer.revision !== this.index.revision) this.#renew();
      this.fetched = { alpha, words };
      this.filter.taken(this.state.filter);
      this.#show();
      // A slider may have moved on meanwhile.
      if (!this.moving) this.#complete();
    } catch (error) {
      if (error.name === "AbortError" || this.running !== running) return;
      this.running = null;
      this.pool = null;
      this.poolKey = "";
      this.#fault(error, () => this.render());
    } finally {
      if (this.running === null) byId("hits").setAttribute("aria-busy", "false");
    }
  }

  // The hits of the page that is shown.
  #page() {
    const start = (this.state.page - 1) * this.state.k;
    return this.pool === null ? [] : this.pool.ordered(this.alpha, this.words).slice(start, start + this.state.k);
  }

  #show() {
    const hits = this.#page();
    const { state, index } = this;
    const focus = focusWithin(byId("hits"));
    this.drawn = this.#view();
    replace(byId("message"));
    this.#status(hits);
    if (!hits.length) this.#nothing();
    byId("legend").hidden = !hits.length;
    byId("legend-words").hidden = !this.words;
    byId("tools").hidden = !hits.length;
    showHits(byId("hits"), hits, {
      method: state.method, words: this.words, chosen: this.chosen,
      actions: {
        text: (name) => this.go({ text: name }, true),
        routing: (name) => this.go({ routing: this.state.routing === name ? "" : name }, true),
        like: (id) => this.go({ ...EMPTY, index: state.index, method: state.method, k: state.k, filter: state.filter, picks: state.picks, like: id }, true),
        choose: (name, held) => this.#choose(name, held),
      },
    });
    this.#showRouting();
    byId("compare").disabled = this.chosen.length !== 2;
    byId("exact").hidden = this.answer.exact;
    replace(byId("missed"));
    const known = this.pool.hits.size > state.page * state.k;
    byId("pages").hidden = state.page === 1 && !known;
    byId("previous").disabled = state.page === 1;
    byId("next").disabled = !known;
    replace(byId("page-number"), `Page ${state.page}`);
    focus();
    byId("hits").setAttribute("start", String((state.page - 1) * state.k + 1));
    if (index.unreadable) byId("status").append(" The index on disk cannot be read; this is the version before.");
  }

  // What an approximate index has missed of the hits that are shown.
  async #compareExact() {
    const shown = this.#page();
    const asked = this.state.page * this.state.k;
    const view = this.#view();
    replace(byId("missed"), element("p", { class: "note" }, "Scoring every row…"));
    try {
      const answer = await post("/v1/search", { ...this.#body(asked), exact: true });
      if (this.drawn !== view) return;
      const names = new Set(shown.map(({ hit }) => nameOf(hit)));
      const right = answer.hits.slice(asked - this.state.k);
      const missed = right.filter((hit) => !names.has(nameOf(hit)));
      replace(byId("missed"), element("div", { class: "missed" },
        element("p", {}, element("strong", {}, missed.length ? `${right.length - missed.length} of ${right.length} are right` : `All ${right.length} are right`),
          ` · approximate ${number(this.answer.took_ms, 0)} ms, exact ${number(answer.took_ms, 0)} ms`),
        missed.length ? element("ul", {}, ...missed.map((hit) => element("li", {}, `Rank ${hit.rank}, ${number(hit.score)}: `, foreign("span", titleOf(hit))))) : null));
    } catch (error) {
      replace(byId("missed"), element("p", { class: "fault-text" }, error.message));
    }
  }

  #choose(name, held) {
    this.chosen = this.chosen.filter((each) => each !== name);
    if (held) this.chosen = [...this.chosen, name].slice(-2);
    for (const hit of byId("hits").children) hit.querySelector("input[type=checkbox]").checked = this.chosen.includes(hit.dataset.id);
    byId("compare").disabled = this.chosen.length !== 2;
  }

  // The picture of one hit stays as it is while hits change places.
  #showRouting() {
    const name = this.state.routing;
    const hit = name ? [...byId("hits").children].find((each) => each.dataset.id === name) : null;
    if (!hit) {
      this.routed = null;
      return;
    }
    const key = JSON.stringify([this.index.name, name, this.state.q, this.state.like]);
    if (this.routed?.key !== key) {
      const { like, q } = this.state;
      const body = like ? { document: name, other: like } : { document: name, query: q };
      if (this.takesSyntax && !like) body.syntax = true;
      this.routed = { key, section: routingPicture(this.index, body, [like ? "First text" : "Query", "Document"], (other) => this.go({ text: other }, true)) };
    }
    hit.append(this.routed.section);
    hit.querySelector("[data-routing]")?.setAttribute("aria-expanded", "true");
  }

  #status(hits) {
    const first = (this.state.page - 1) * this.state.k + 1;
    const parts = [];
    if (hits.length) parts.push(hits.length === 1 ? `Hit ${first}` : `Hits ${first} to ${first + hits.length - 1}`);
    else parts.push("No hits");
    parts.push(exactness(this.answer));
    parts.push(`${Math.max(1, Math.round(this.answer.took_ms))} ms`);
    parts.push(`${counted(this.index.documents, "document")}, revision ${this.answer.revision}`);
    replace(byId("status"), parts.join(" · "));
    if (this.state.like) {
      byId("status").prepend("Documents like ", foreign("strong", this.state.like), ": ");
    }
  }

  #nothing() {
    const narrowed = condition(this.state);
    replace(byId("message"), element("div", { class: "empty" },
      element("p", { class: "empty-title" }, "No document matches"),
      element("p", {}, narrowed ? "Nothing passes the filter and the values that are chosen." : this.state.page > 1 ? "There are no hits on this page." : "No document holds what the query asks for."),
      narrowed ? element("button", { type: "button", class: "quiet", on: { click: () => {
        byId("filter").value = "";
        this.#search({ filter: "", picks: [] });
      } } }, "Search without them") : null));
  }

  #clear() {
    this.running?.abort();
    this.running = null;
    this.pool = null;
    this.poolKey = "";
    replace(byId("hits"));
    replace(byId("status"));
    replace(byId("missed"));
    for (const name of ["legend", "tools", "pages"]) byId(name).hidden = true;
  }

  #welcome() {
    this.#clear();
    const { index } = this;
    const hints = [
      "Every hit shows what its score is made of: the model’s hidden state (HS), its routing (RW), and the words.",
      "Move the weights, and the hits change places at once.",
      "Routing draws which experts the query and a document pass, and what both share.",
    ];
    if (this.takesSyntax) hints.push("In a query, \"a phrase\" and +word must be in a document, −word must not.");
    replace(byId("message"), element("div", { class: "welcome" },
      element("p", { class: "welcome-title" }, "Search ", counted(index.documents, "document"), " of ", foreign("strong", index.name)),
      element("ul", {}, ...hints.map((hint) => element("li", {}, hint))),
      element("p", { class: "note" }, `Model ${index.model} · ${index.dims.hs} dimensions of HS, ${index.dims.rw} of RW · revision ${index.revision}`)));
    this.text.show(index, "");
    this.pair.show(index, []);
  }

  #say(text) {
    replace(byId("message"), element("div", { class: "empty" }, element("p", {}, text)));
  }

  #fault(error, again) {
    this.#clear();
    const waits = [0, 429, 503].includes(error.status);
    const box = element("div", { class: "empty fault-box", role: "alert" }, element("p", { class: "empty-title" }, titles(error)), element("p", {}, foreign("span", error.message)));
    if (waits || error.status === 401) box.append(element("button", { type: "button", class: "quiet", on: { click: again } }, "Try again"));
    replace(byId("message"), box);
    if (error.code === "filter") this.filter.check();
  }
}

// Remembers what has the focus in a hit; gives what puts it there in the hit that took its place.
function focusWithin(list) {
  const active = document.activeElement;
  const id = active?.closest(".hit")?.dataset.id;
  if (id === undefined || !list.contains(active)) return () => {};
  const all = (hit) => [...hit.querySelectorAll(".actions :is(button, input)")];
  const at = all(active.closest(".hit")).indexOf(active);
  return () => {
    if (list.contains(document.activeElement)) return;
    const hit = [...list.children].find((each) => each.dataset.id === id);
    if (hit) (active.isConnected ? active : all(hit)[at])?.focus({ preventScroll: true });
  };
}

function titles(error) {
  if (error.code === "filter") return "The filter cannot be read";
  if (error.status === 401) return "A key is needed";
  if (error.status === 429 || error.status === 503) return error.wait ? `The server is busy; try again in ${counted(error.wait, "second")}` : "The server is busy";
  if (error.status === 0) return "No answer";
  return "This search failed";
}

// On a phone the hits come first.
if (matchMedia("(max-width: 56rem)").matches) for (const panel of document.querySelectorAll("#side details")) panel.open = false;

askForKeys();
new Page().start();

// The routing picture: how two texts pass the experts, layer by layer, and what both share.

import { get, indexPath, post } from "./api.js";
import { counted, element, foreign, later, number, replace } from "./dom.js";

const GUTTER = 30;
const LEAST_CELL = 4;
const TOP = 6;

// names: what the left and the right text are called; open: called with the name of a document that
// the user wants to read, null where none can be. Gives the section; it fills itself.
export function routingPicture(index, body, names, open = null) {
  const place = element("section", { class: "routing", "aria-label": "Routing", "aria-busy": "true" }, element("p", { class: "note" }, "Reading the routing…"));
  post(indexPath(index.name, "routing"), body).then(
    (answer) => new Picture(place, index, answer, names, open),
    (error) => replace(place, element("p", { class: "fault-text", role: "alert" }, error.message)),
  ).finally(() => place.setAttribute("aria-busy", "false"));
  return place;
}

class Picture {
  constructor(place, index, answer, names, open) {
    this.open = open;
    this.index = index;
    this.answer = answer;
    this.names = names;
    this.layers = answer.layers;
    this.widest = Math.max(...this.layers.map((layer) => layer.shared.length));
    this.cell = null;
    this.documents = new Map();
    this.soon = later(250, () => this.#askDocuments());
    this.maps = [
      { title: names[0], values: (layer) => layer.left, color: "use" },
      { title: names[1], values: (layer) => layer.right, color: "use" },
      { title: "Both", values: (layer) => layer.shared, color: "shared" },
    ];
    for (const map of this.maps) {
      map.most = Math.max(1e-12, ...this.layers.map((layer) => Math.max(...map.values(layer).map(Math.abs))));
      map.least = Math.min(...this.layers.map((layer) => Math.min(...map.values(layer))));
    }
    this.#build(place);
    this.#choose(...this.#strongest(1)[0]);
    this.#askDocuments();
    new ResizeObserver(() => this.draw()).observe(this.stack);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  #build(place) {
    const { layers, answer } = this;
    for (const map of this.maps) {
      map.canvas = element("canvas", { role: "img", "aria-label": `${map.title}: ${this.#summary(map)}` });
      map.canvas.addEventListener("pointermove", (event) => this.#point(map, event));
      map.canvas.addEventListener("click", (event) => {
        this.#point(map, event);
        this.#askDocuments();
      });
    }
    this.readout = element("p", { class: "readout", role: "status" });
    this.stack = element("div", {
      class: "maps", tabIndex: 0, role: "application", "aria-label": "Cells of the routing picture: arrow keys go from expert to expert and from layer to layer",
      on: { keydown: (event) => this.#key(event) },
    }, ...this.maps.map((map) => element("figure", {}, element("figcaption", {}, element("strong", {}, map.title), ` ${this.#scale(map)}`), map.canvas)));
    this.used = element("div", { class: "used" });
    replace(place,
      element("p", { class: "routing-intro" }, element("strong", {}, `RW similarity ${number(answer.rw)}`),
        ` is the sum of all cells of the third picture. ${counted(layers.length, "layer")} from top to bottom, ${counted(this.widest, "expert")} from left to right.`),
      this.stack, this.readout,
      element("div", { class: "routing-columns" },
        element("div", {}, element("h4", {}, "Documents that use this expert most"), this.used),
        element("div", {}, element("h4", {}, "Layers that agree most"), this.#layers(), element("h4", {}, "Experts that add most"), this.#experts())));
  }

  #scale(map) {
    if (map.color === "shared") return `what each expert adds to RW, up to ±${number(map.most)}`;
    return `how much it uses each expert, from ${this.#amount(map.least)} to ${this.#amount(map.most)}`;
  }

  #summary(map) {
    if (map.color === "shared") return `the ${TOP} experts that add most are listed below.`;
    const [layer, expert] = this.layers.flatMap((each, at) => map.values(each).map((value, place) => [at, place, value])).reduce((best, each) => (each[2] > best[2] ? each : best));
    return `most used is expert ${expert} of layer ${layer + 1}.`;
  }

  #amount(value) {
    return this.answer.kind === "sigmoid" ? number(value) : `${number(100 * value, 1)}\u00a0%`;
  }

  // The experts that add most: [[layer, expert]].
  #strongest(count) {
    return this.layers.flatMap((layer, at) => layer.shared.map((value, expert) => [at, expert, value]))
      .sort((left, right) => right[2] - left[2]).slice(0, count);
  }

  #layers() {
    const ranked = this.layers.map((layer, at) => ({ ...layer, at })).sort((left, right) => right.contribution - left.contribution).slice(0, TOP);
    const most = Math.max(1e-12, ...ranked.map((layer) => Math.abs(layer.contribution)));
    return element("ol", { class: "layers" }, ...ranked.map((layer) => {
      const size = element("span", { class: `size${layer.contribution < 0 ? " below" : ""}`, "aria-hidden": "true" });
      size.style.width = `${(Math.abs(layer.contribution) / most) * 100}%`;
      return element("li", {}, element("span", { class: "layer-name" }, `Layer ${layer.at + 1}`), element("span", { class: "track" }, size),
        element("span", { class: "amount" }, `adds ${number(layer.contribution)}, cosine ${number(layer.agreement, 2)}`));
    }));
  }

  #experts() {
    return element("ul", { class: "experts" }, ...this.#strongest(TOP).map(([layer, expert, value]) => element("li", {}, element("button", {
      type: "button", class: "quiet small", on: { click: () => {
        this.#choose(layer, expert);
        this.#askDocuments();
      } },
    }, `Layer ${layer + 1}, expert ${expert}: ${number(value)}`))));
  }

  #choose(layer, expert) {
    this.cell = [layer, expert];
    const { left, right, shared } = this.layers[layer];
    replace(this.readout, element("strong", {}, `Layer ${layer + 1}, expert ${expert}:`),
      ` ${this.names[0]} ${this.#amount(left[expert])} · ${this.names[1]} ${this.#amount(right[expert])} · adds ${number(shared[expert], 4)}`);
    this.draw();
  }

  #point(map, event) {
    const { width, height } = this.size;
    const expert = Math.floor((event.offsetX - GUTTER) / width);
    const layer = Math.floor(event.offsetY / height);
    if (layer < 0 || layer >= this.layers.length || expert < 0 || expert >= this.layers[layer].shared.length) return;
    if (this.cell[0] === layer && this.cell[1] === expert) return;
    this.#choose(layer, expert);
    this.soon();
  }

  #key(event) {
    const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
    if (!(event.key in steps)) return;
    event.preventDefault();
    const layer = Math.min(this.layers.length - 1, Math.max(0, this.cell[0] + steps[event.key][0]));
    const expert = Math.min(this.layers[layer].shared.length - 1, Math.max(0, this.cell[1] + steps[event.key][1]));
    this.#choose(layer, expert);
    this.#reveal(expert);
    this.soon();
  }

  // Where the pictures are wider than their room, they follow the keys.
  #reveal(expert) {
    const at = GUTTER + expert * this.size.width;
    const { scrollLeft, clientWidth } = this.stack;
    if (at < scrollLeft + GUTTER) this.stack.scrollLeft = at - 2 * GUTTER;
    else if (at + this.size.width > scrollLeft + clientWidth) this.stack.scrollLeft = at - clientWidth + 2 * GUTTER;
  }

  async #askDocuments() {
    this.soon.cancel();
    const [layer, expert] = this.cell;
    const key = `${layer} ${expert}`;
    if (!this.documents.has(key)) {
      const query = new URLSearchParams({ layer, expert, without: this.answer.document });
      this.documents.set(key, get(indexPath(this.index.name, `routing/documents?${query}`)));
    }
    this.used.setAttribute("aria-busy", "true");
    let found;
    try {
      found = this.#used(await this.documents.get(key));
    } catch (error) {
      this.documents.delete(key);
      found = [element("p", { class: "fault-text" }, error.message)];
    }
    if (this.cell[0] !== layer || this.cell[1] !== expert) return;
    replace(this.used, ...found);
    this.used.setAttribute("aria-busy", "false");
  }

  #used(answer) {
    const all = answer.looked_at === answer.rows;
    const where = all ? `among all ${counted(answer.rows, "row")}` : `among ${counted(answer.looked_at, "row")} of ${answer.rows.toLocaleString("en")}, drawn by chance (seed ${answer.seed})`;
    return [
      element("ol", { class: "uses" }, ...answer.documents.map((document) => element("li", {},
        this.#title(document), element("span", { class: "amount" }, this.#amount(document.amount))))),
      element("p", { class: "note" }, `Layer ${answer.layer + 1}, expert ${answer.expert}, ${where}.`),
    ];
  }

  #title(document) {
    const text = document.title || document.text;
    if (this.open === null) return foreign("span", text, { class: "foreign use-title" });
    return foreign("button", text, { type: "button", class: "foreign use-title link", on: { click: () => this.open(document.passage) } });
  }

  draw() {
    const room = this.stack.clientWidth;
    if (!room) return;
    const count = this.layers.length;
    this.size = {
      width: Math.max(LEAST_CELL, Math.min(20, (room - GUTTER - 1) / this.widest)),
      height: count <= 8 ? 18 : count <= 16 ? 14 : count <= 32 ? 9 : 6,
    };
    const style = getComputedStyle(this.stack);
    const colors = Object.fromEntries(["map-empty", "map-use", "map-plus", "map-minus", "ink", "muted"].map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
    for (const map of this.maps) this.#drawMap(map, colors);
  }

  #drawMap(map, colors) {
    const { width, height } = this.size;
    const scale = devicePixelRatio || 1;
    const across = GUTTER + width * this.widest + 1;
    const down = height * this.layers.length + 1;
    map.canvas.width = Math.ceil(across * scale);
    map.canvas.height = Math.ceil(down * scale);
    map.canvas.style.width = `${across}px`;
    map.canvas.style.height = `${down}px`;
    const pen = map.canvas.getContext("2d");
    pen.scale(scale, scale);
    pen.font = "10px system-ui, sans-serif";
    pen.textBaseline = "middle";
    const gap = width >= 6 ? 1 : 0.5;
    const every = Math.ceil(12 / height);
    this.layers.forEach((layer, row) => {
      pen.fillStyle = colors.muted;
      if (row % every === 0) pen.fillText(`L${row + 1}`, 2, row * height + height / 2);
      map.values(layer).forEach((value, column) => {
        const full = map.color === "use" ? colors["map-use"] : value < 0 ? colors["map-minus"] : colors["map-plus"];
        const share = map.color === "use" ? (value - map.least) / (map.most - map.least || 1) : (Math.abs(value) / map.most) ** 0.6;
        pen.fillStyle = between(colors["map-empty"], full, share);
        pen.fillRect(GUTTER + column * width, row * height, width - gap, height - gap);
      });
    });
    const [layer, expert] = this.cell;
    pen.strokeStyle = colors.ink;
    pen.lineWidth = 1.5;
    pen.strokeRect(GUTTER + expert * width - 0.75, layer * height + 0.75 - (layer ? 1 : 0), width + 0.5, height);
  }
}

// A color between two, both written #rrggbb.
function between(from, to, share) {
  const parts = [1, 3, 5].map((at) => {
    const start = parseInt(from.slice(at, at + 2), 16);
    return Math.round(start + (parseInt(to.slice(at, at + 2), 16) - start) * share);
  });
  return `rgb(${parts.join(" ")})`;
}

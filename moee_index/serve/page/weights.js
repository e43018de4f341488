// The sliders: the weight of routing, α, and that of words, w.

import { byId, number, replace } from "./dom.js";

// The slider says how much of the similarity is routing's, in hundredths: α/(1+α).
const MOST = 95;
const alphaAt = (value) => Math.round((value / (100 - value)) * 100) / 100;
const placeOf = (alpha) => Math.min(MOST, Math.round((100 * alpha) / (1 + alpha)));

export class Weights {
  // moved: called with { alpha, words } while a slider moves; settled: once it is let go.
  constructor(moved, settled) {
    this.alpha = byId("alpha");
    this.words = byId("words");
    this.alpha.max = String(MOST);
    this.alpha.addEventListener("input", () => moved({ alpha: alphaAt(this.alpha.valueAsNumber) }));
    this.words.addEventListener("input", () => moved({ words: this.words.valueAsNumber / 100 }));
    for (const slider of [this.alpha, this.words]) slider.addEventListener("change", () => settled());
    byId("weights-reset").addEventListener("click", () => {
      moved({ alpha: null, words: null });
      settled();
    });
  }

  // index: whose defaults hold; hasWords: whether words can count in this search.
  show(index, state, hasWords) {
    const alpha = state.alpha ?? index.alpha;
    const words = state.words ?? index.lexical;
    byId("alpha-field").hidden = state.method !== "sum";
    byId("words-field").hidden = !hasWords;
    if (Number(this.alpha.value) !== placeOf(alpha)) this.alpha.value = String(placeOf(alpha));
    if (Number(this.words.value) !== Math.round(100 * words)) this.words.value = String(Math.round(100 * words));
    replace(byId("alpha-value"), number(alpha, 2));
    replace(byId("words-value"), number(words, 2));
    this.alpha.setAttribute("aria-valuetext", `α ${number(alpha, 2)}`);
    this.words.setAttribute("aria-valuetext", `w ${number(words, 2)}`);
    byId("weights-reset").disabled = state.alpha === null && state.words === null;
  }
}

// Hits that are known, put in order under other weights without asking.
//
// A hit's score is c · x. x are its parts: for `sum` the similarities HS and RW and its share of
// words, for other methods the similarity by that method and its share of words. c are the weights:
// (1−w)/(1+α), (1−w)·α/(1+α) and w; without words (w = 0) the server leaves the factor 1/(1+α) away,
// which changes no order.
//
// When may the order change beyond what is known? Every list that was fetched says of all documents
// that are not in it: cⱼ · x ≤ Tⱼ, where cⱼ are the weights it was fetched under and Tⱼ is the score
// of its last hit. Parts lie in [−1, 1], words in [0, 1]. So no unknown document scores more under
// the weights c than the largest c · x that meets all of these: a linear program of three unknowns.
// The first n hits are the right ones if the n-th scores at least that. A list that holds fewer hits
// than were asked for holds everything: nothing is unknown.
//
// This is no proof, and the list is fetched anew, where an index answers approximately, where a
// document of several passages is one hit (another passage of it may be its best under other
// weights), and where words alone count (w = 1: hits have no similarities then, and documents
// without a word of the query are none).

// Similarities are rounded to float32.
const SLACK = 1e-6;
const MOST_LISTS = 12;

// Weights of the parts, of a score between −1 and 1.
export function weights(method, alpha, words) {
  if (method !== "sum") return [1 - words, 0, words];
  return [(1 - words) / (1 + alpha), ((1 - words) * alpha) / (1 + alpha), words];
}

const inner = (left, right) => left[0] * right[0] + left[1] * right[1] + left[2] * right[2];

export class Pool {
  // exact: whether lists of this search prove anything (see above).
  constructor(method, exact) {
    this.method = method;
    this.exact = exact;
    this.whole = false;
    this.hits = new Map();
    this.lists = [];
  }

  // A list that was fetched under alpha and words, with room for `asked` hits.
  add(hits, alpha, words, asked) {
    for (const hit of hits) {
      this.hits.set(hit.passage ?? hit.id, { hit, parts: this.#parts(hit, words) });
    }
    if (hits.length < asked) this.whole = true;
    if (!hits.length) return;
    const under = weights(this.method, alpha, words);
    const last = hits[hits.length - 1];
    this.lists.push({ weights: under, most: inner(under, this.#parts(last, words)) });
    this.lists = this.lists.slice(-MOST_LISTS);
  }

  #parts(hit, words) {
    const share = hit.lexical ?? 0;
    if (this.method === "sum") return [hit.hs, hit.rw, share];
    if (this.method === "hs") return [hit.hs, 0, share];
    if (this.method === "rw") return [hit.rw, 0, share];
    // The cosine of the joined vectors is in the score alone.
    return [words < 1 ? (hit.score - words * share) / (1 - words) : 0, 0, share];
  }

  // All known hits under some weights, best first: [{ rank, hit, score, shares }]. shares: of HS (or
  // of the method's only similarity), RW and words; they add up to the score.
  ordered(alpha, words) {
    const under = weights(this.method, alpha, words);
    // As the server counts where no word counts.
    const span = words === 0 && this.method === "sum" ? 1 + alpha : 1;
    const found = [...this.hits.values()].map(({ hit, parts }, place) => {
      const shares = parts.map((part, at) => part * under[at] * span);
      return { hit, place, shares, score: shares[0] + shares[1] + shares[2] };
    });
    found.sort((left, right) => right.score - left.score || left.place - right.place);
    return found.map((each, at) => ({ ...each, rank: at + 1 }));
  }

  // Whether the first `most` hits under these weights are certainly the right ones.
  knows(most, alpha, words) {
    if (this.whole) return true;
    if (!this.exact || this.hits.size < most) return false;
    const span = words === 0 && this.method === "sum" ? 1 + alpha : 1;
    const last = this.ordered(alpha, words)[most - 1].score / span;
    return last >= this.bound(weights(this.method, alpha, words)) + SLACK;
  }

  // What no document in none of the lists can exceed under some weights. By duality of linear
  // programs every choice of factors λ ≥ 0 gives such a bound: Σ λⱼ·Tⱼ and the most that the rest of
  // the weights, c − Σ λⱼ·cⱼ, can make of any parts. So rounding makes it loose, never wrong; the
  // least one is where as many of the rest vanish as lists are used.
  bound(under) {
    const low = this.method === "sum" ? [-1, -1, 0] : [-1, 0, 0];
    const high = this.method === "sum" ? [1, 1, 1] : [1, 0, 1];
    const most = (factors, lists) => {
      const rest = [...under];
      let total = 0;
      lists.forEach((list, at) => {
        total += factors[at] * list.most;
        for (let part = 0; part < 3; part += 1) rest[part] -= factors[at] * list.weights[part];
      });
      return rest.reduce((sum, value, part) => sum + Math.max(value * low[part], value * high[part]), total);
    };
    let best = most([], []);
    for (let size = 1; size <= 3; size += 1) {
      for (const lists of choices(this.lists, size)) {
        for (const parts of choices([0, 1, 2], size)) {
          const factors = solve(parts.map((part) => [...lists.map((list) => list.weights[part]), under[part]]));
          if (factors && factors.every((factor) => factor >= 0)) best = Math.min(best, most(factors, lists));
        }
      }
    }
    return best;
  }
}

// All ways to take `size` of some things, in their order.
function choices(things, size) {
  if (size === 0) return [[]];
  return things.flatMap((thing, at) => choices(things.slice(at + 1), size - 1).map((rest) => [thing, ...rest]));
}

// The solution of linear equations, rows of coefficients and right side; null where there is none.
function solve(rows) {
  const size = rows.length;
  for (let at = 0; at < size; at += 1) {
    const pivot = rows.slice(at).reduce((best, row, place) => (Math.abs(row[at]) > Math.abs(rows[best][at]) ? at + place : best), at);
    [rows[at], rows[pivot]] = [rows[pivot], rows[at]];
    if (Math.abs(rows[at][at]) < 1e-12) return null;
    for (let other = 0; other < size; other += 1) {
      if (other === at) continue;
      const factor = rows[other][at] / rows[at][at];
      for (let column = at; column <= size; column += 1) rows[other][column] -= factor * rows[at][column];
    }
  }
  return rows.map((row, at) => row[size] / row[at]);
}

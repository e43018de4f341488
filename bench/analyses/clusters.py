"""Do HS and RW group texts alike? Paper, section 3.2, table 1: k-means on each, then agreement.

The paper states neither its texts nor k nor how labels were aligned; here all three are said, and
beside the agreement stand what two runs on the same vectors agree in (its ceiling) and what
shuffled clusters agree in (its floor).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np
import numpy.typing as npt

from moee_index.bench.analyses.section import Entries, Plot, Section, panels, table, value_at
from moee_index.bench.analyses.similarity import FORMS, Form
from moee_index.bench.analyses.task_texts import Labelled, seed_of
from moee_index.bench.report.markup import Cell, Table
from moee_index.bench.report.plots import STYLES, below
from moee_index.fusion import Standardizer, unit_vectors
from moee_index.types import Embeddings, FloatArray

Labels = npt.NDArray[np.int64]

KS = (3, 10, 30)
SEEDS = (0, 1, 2)
# k-means on more texts takes minutes and changes nothing that is visible.
MOST_TEXTS = 3000


@dataclass(frozen=True, eq=False)
class ToCluster:
    """n texts' vectors to be clustered. labels: the task's own, or None (then k is one of KS)."""

    name: str
    embeddings: Embeddings
    labels: Labels | None


def chosen(name: str, texts: int) -> Labels:
    """Which of so many texts are clustered: all, or MOST_TEXTS drawn with the task's seed."""
    order = np.random.default_rng(seed_of(name)).permutation(texts)[:MOST_TEXTS]
    return np.sort(order).astype(np.int64)


def some_of(task: Labelled) -> Labelled:
    """A clustering task cut to what is clustered; labels are numbered anew."""
    rows = chosen(task.name, len(task.texts))
    labels = np.unique(task.labels[rows], return_inverse=True)[1]
    return Labelled(task.name, [task.texts[row] for row in rows], labels)


def agreement(first: Labels, second: Labels) -> dict[str, float]:
    """How far two clusterings of the same texts agree, each from 0 (or chance) to 1.

    ami, nmi: mutual information, adjusted for chance or normalised by the mean entropy. jaccard:
    of the pairs of texts that share a cluster in either, those that do in both. exact: texts in
    the same cluster after the numbering that fits best (Hungarian matching).
    """
    from scipy.optimize import linear_sum_assignment
    from sklearn.metrics import adjusted_mutual_info_score, normalized_mutual_info_score
    from sklearn.metrics.cluster import contingency_matrix

    table = contingency_matrix(first, second).astype(np.int64)
    rows, columns = linear_sum_assignment(table, maximize=True)
    together = _same(table)
    either = _same(table.sum(axis=1)) + _same(table.sum(axis=0)) - together
    return {
        "ami": float(adjusted_mutual_info_score(first, second)),
        "nmi": float(normalized_mutual_info_score(first, second)),
        "jaccard": together / either if either else 1.0,
        "exact": float(table[rows, columns].sum()) / len(first),
    }


def _same(sizes: Labels) -> float:
    return float((sizes * (sizes - 1) // 2).sum())


def cluster(rows: FloatArray, k: int, seed: int) -> Labels:
    """k-means (Lloyd, one k-means++ start), Euclidean."""
    from sklearn.cluster import KMeans

    found = KMeans(n_clusters=k, init="k-means++", n_init=1, random_state=seed).fit_predict(rows)
    return np.asarray(found, dtype=np.int64)


def compare(embeddings: Embeddings, k: int, labels: Labels | None = None) -> dict[str, Any]:
    """Mean agreement over SEEDS of HS with RW, with what it is to be measured by.

    Seeds always differ: with one seed k-means starts from the same texts on both sides. `hs_hs`,
    `rw_rw`: two seeds on the same vectors. `chance`: HS clusters with RW clusters shuffled.
    `hs_labels`, `rw_labels`: with the task's own labels, where it has any.
    """
    hs = [cluster(embeddings.hs, k, seed) for seed in SEEDS]
    rw = [cluster(embeddings.rw, k, seed) for seed in SEEDS]
    shuffle = np.random.default_rng(0)
    apart = list(permutations(range(len(SEEDS)), 2))
    found = {
        "hs_rw": _mean(agreement(hs[a], rw[b]) for a, b in apart),
        "hs_hs": _mean(agreement(hs[a], hs[b]) for a, b in apart if a < b),
        "rw_rw": _mean(agreement(rw[a], rw[b]) for a, b in apart if a < b),
        "chance": _mean(agreement(hs[a], shuffle.permutation(rw[b])) for a, b in apart),
    }
    if labels is not None:
        found["hs_labels"] = _mean(agreement(a, labels) for a in hs)
        found["rw_labels"] = _mean(agreement(b, labels) for b in rw)
    return found


def _mean(several: Iterable[dict[str, float]]) -> dict[str, float]:
    found = list(several)
    return {name: float(np.mean([one[name] for one in found])) for name in found[0]}


def in_form(embeddings: Embeddings, form: Form) -> Embeddings:
    """Raw vectors, or standardised over these texts and of length 1, as `sum` uses them."""
    if form == "raw":
        return embeddings
    units = unit_vectors(embeddings, Standardizer.fit(embeddings))
    return Embeddings(units.hs.astype(np.float32), units.rw.astype(np.float32))


def analyse(sets: Iterable[ToCluster]) -> Section:
    """Agreement for each set of texts, form of the vectors and k; sets come one at a time."""
    record: list[dict[str, Any]] = []
    for one in sets:
        n = len(one.embeddings)
        ks = [k for k in KS if 3 * k <= n] if one.labels is None else [int(one.labels.max()) + 1]
        for form in FORMS:
            vectors = in_form(one.embeddings, form)
            for k in ks:
                found = compare(vectors, k, one.labels)
                record.append({"set": one.name, "texts": n, "vectors": form, "k": k, **found})
    return Section(
        name="clusters",
        title="Do HS and RW group texts alike?",
        notes=[
            "k-means (k-means++, one start, Euclidean) on HS and on RW of the same texts. Of a "
            f"task at most {MOST_TEXTS} distinct texts, drawn with a seed from its name. On STS "
            f"texts k is {', '.join(map(str, KS))}, on clustering tasks the number of its labels. "
            f"Means over pairs of different seeds of {', '.join(map(str, SEEDS))}. Raw vectors as "
            "they are; standardised ones at length 1, as `sum` uses them.",
            "Jaccard: of the pairs of texts that share a cluster in HS or RW, those that do in "
            "both. Exact: texts in the same cluster after Hungarian matching of the numbers. Only "
            "AMI is adjusted for chance: `chance` is the same measure with RW's clusters shuffled, "
            "HS–HS and RW–RW are two seeds on the same vectors, which is as much as k-means agrees "
            "with itself.",
            "The paper's table 1 prints AMI 0.29, NMI 0.29, Jaccard 0.06, exact 45.54 % and says "
            "neither k nor the texts nor how labels were aligned: no like can be set beside it.",
        ],
        tables=[
            _summary(record),
            table("Set by set", record, _SET | _AGREEMENT | _LABELS),
        ]
        if record
        else [],
        plots=[_plot(record)] if record else [],
        record={"seeds": list(SEEDS), "most_texts": MOST_TEXTS, "rows": record},
    )


_AGREEMENT = {
    "AMI": "hs_rw.ami",
    "NMI": "hs_rw.nmi",
    "Jaccard": "hs_rw.jaccard",
    "exact": "hs_rw.exact",
    "AMI HS–HS": "hs_hs.ami",
    "AMI RW–RW": "rw_rw.ami",
    "Jaccard by chance": "chance.jaccard",
    "exact by chance": "chance.exact",
}
_SET = {"texts of": "set", "n": "texts", "vectors": "vectors", "k": "k"}
_LABELS = {"AMI HS–labels": "hs_labels.ami", "AMI RW–labels": "rw_labels.ami"}


def _summary(record: Entries) -> Table:
    """Mean over the sets of a kind."""
    rows: list[list[Cell]] = []
    kinds = dict.fromkeys((one["vectors"], _kind(one)) for one in record)
    for form, kind in sorted(kinds, key=lambda one: (FORMS.index(one[0]), kind_order(one[1]))):
        sets = [one for one in record if (one["vectors"], _kind(one)) == (form, kind)]
        means = [np.mean([value_at(one, at) for one in sets]) for at in _AGREEMENT.values()]
        rows.append([form, kind, len(sets), *map(float, means)])
    return Table(["vectors", "k", "sets", *_AGREEMENT], rows, "Mean over sets of texts")


def _kind(one: Mapping[str, Any]) -> str:
    return "labels" if "hs_labels" in one else str(one["k"])


def kind_order(kind: str) -> int:
    """Numbers by size, then `labels`."""
    return int(kind) if kind.isdecimal() else 10**9


def _plot(record: list[dict[str, Any]]) -> Plot:
    def draw(figure: Any) -> None:
        forms = [form for form in FORMS if any(one["vectors"] == form for one in record)]
        axes = panels(figure, [f"{form} vectors" for form in forms])
        shown = (("HS–RW", "hs_rw", "sum"), ("HS–HS", "hs_hs", "HS"), ("RW–RW", "rw_rw", "RW"))
        for axis, form in zip(axes, forms, strict=True):
            rows = [one for one in record if one["vectors"] == form]
            kinds = sorted({_kind(one) for one in rows}, key=kind_order)
            for place, (label, which, style) in enumerate(shown):
                values = [
                    float(np.mean([one[which]["ami"] for one in rows if _kind(one) == kind]))
                    for kind in kinds
                ]
                where, color = np.arange(len(kinds)) + 0.27 * (place - 1), STYLES[style].color
                axis.bar(where, values, 0.27, label=label, color=color)
            axis.set_xticks(range(len(kinds)), [f"k = {kind}" for kind in kinds])
            axis.set_ylim(min(0.0, axis.get_ylim()[0]), 1.0)
        axes[0].set_ylabel("AMI, mean over sets")
        below(figure, axes[-1])

    return Plot("clusters", "Agreement of clusters of HS and RW", draw, (8.0, 3.6))

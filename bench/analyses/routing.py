"""Which layers' routing is worth anything? STS score of each MoE layer's RW alone, and of all
layers but one. The paper has no such table.

Cosines of any set of layers come from each layer's own products: a · b and the squared lengths add
up over layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from moee_index.bench.analyses.section import Plot, Section, by_layer
from moee_index.bench.analyses.similarity import BLOCK, FORMS, Form, spearman
from moee_index.bench.analyses.task_texts import Pairs
from moee_index.bench.report.markup import Cell, Table
from moee_index.bench.report.plots import COLORS, below
from moee_index.fusion import Float64Array, PartStandardizer
from moee_index.types import FloatArray


@dataclass(frozen=True, eq=False)
class LayerProducts:
    """float64 [MoE layers, pairs] each: products of the two texts' RW, and squared lengths."""

    product: Float64Array
    left: Float64Array
    right: Float64Array

    def cosine(self, layers: Sequence[int]) -> Float64Array:
        """Cosine of each pair over the RW of these layers (from 0) joined; 0 for empty vectors."""
        chosen = list(layers)
        lengths = np.sqrt(self.left[chosen].sum(axis=0) * self.right[chosen].sum(axis=0))
        found: Float64Array = self.product[chosen].sum(axis=0) / np.where(lengths > 0, lengths, 1.0)
        return found


def layer_products(
    own: FloatArray, pairs: Pairs, columns: Sequence[slice], form: Form
) -> LayerProducts:
    """Products layer by layer; own: RW [m, layers * experts] of the task's distinct texts."""
    frozen = PartStandardizer.fit(own, "rw") if form == "standardised" else None
    shape = (len(columns), len(pairs))
    product, left, right = np.empty(shape), np.empty(shape), np.empty(shape)
    for start in range(0, len(pairs), BLOCK):
        block = slice(start, start + BLOCK)
        sides = [own[rows].astype(np.float64) for rows in (pairs.left[block], pairs.right[block])]
        if frozen is not None:
            sides = [frozen.apply(side) for side in sides]
        for layer, of in enumerate(columns):
            one, other = sides[0][:, of], sides[1][:, of]
            product[layer, block] = (one * other).sum(axis=1)
            left[layer, block] = np.square(one).sum(axis=1)
            right[layer, block] = np.square(other).sum(axis=1)
    return LayerProducts(product, left, right)


def measure(own: FloatArray, pairs: Pairs, columns: Sequence[slice], form: Form) -> dict[str, Any]:
    """STS scores: of `all` layers, of each `alone`, and `without` each (NaN with one layer)."""
    found = layer_products(own, pairs, columns, form)
    layers = range(len(columns))

    def score(chosen: Sequence[int]) -> float:
        return spearman(found.cosine(chosen), pairs.gold) if chosen else float("nan")

    return {
        "all": score(layers),
        "alone": [score([layer]) for layer in layers],
        "without": [score([other for other in layers if other != layer]) for layer in layers],
    }


def alone(own: FloatArray, pairs: Pairs, columns: Sequence[slice], form: Form) -> list[float]:
    """STS score of each MoE layer's RW alone."""
    found = layer_products(own, pairs, columns, form)
    return [spearman(found.cosine([layer]), pairs.gold) for layer in range(len(columns))]


def analyse(
    tasks: Sequence[tuple[Pairs, FloatArray]],
    columns: Sequence[slice],
    names: Sequence[int],
    pooling: str,
    kind: str,
) -> Section:
    """STS scores layer by layer; tasks: pairs and RW of their distinct texts. names: the decoder
    layer, from 1, that each MoE layer is. kind: of RW, `logits` or another."""
    record: list[dict[str, Any]] = [
        {"task": pairs.name, "vectors": form, **measure(own, pairs, columns, form)}
        for pairs, own in tasks
        for form in FORMS
    ]
    return Section(
        name="routing",
        title="Which layers' routing is worth anything?",
        notes=[
            f"RW of each MoE layer alone, and of all layers but one; kind `{kind}`, pooling "
            f"`{pooling}`, cosine, Spearman × 100. `loss` is what leaving the layer out costs: "
            "below 0, the others do better without it. Layers are counted from 1 as decoder "
            "layers; dense ones have no RW.",
            "The paper has no such table.",
        ],
        tables=[_mean_table(record, names, form) for form in FORMS] if record else [],
        plots=[_plot(record, names)] if record else [],
        record={"layers": list(names), "pooling": pooling, "kind": kind, "rows": record},
    )


def means(record: Sequence[dict[str, Any]], form: Form) -> dict[str, Any]:
    """`all`, `alone` and `without` as means over tasks."""
    rows = [one for one in record if one["vectors"] == form]
    return {
        "all": float(np.mean([one["all"] for one in rows])),
        "alone": np.mean([one["alone"] for one in rows], axis=0),
        "without": np.mean([one["without"] for one in rows], axis=0),
    }


def _mean_table(record: list[dict[str, Any]], names: Sequence[int], form: Form) -> Table:
    rows = [one for one in record if one["vectors"] == form]
    mean = means(record, form)
    tasks = [one["task"] for one in rows]
    body: list[list[Cell]] = [
        [
            f"layer {name}",
            float(mean["alone"][place]),
            float(mean["without"][place]),
            float(mean["all"] - mean["without"][place]),
            *(float(one["alone"][place]) for one in rows),
        ]
        for place, name in enumerate(names)
    ]
    body.append(["all layers", mean["all"], None, None, *(float(one["all"]) for one in rows)])
    head = ["", "alone, mean", "all but it, mean", "loss", *(f"alone, {task}" for task in tasks)]
    return Table(head, body, f"RW by layer, {form} vectors")


def _plot(record: list[dict[str, Any]], names: Sequence[int]) -> Plot:
    def draw(figure: Any) -> None:
        axes = figure.subplots(1, 2)
        for place, form in enumerate(FORMS):
            mean, color = means(record, form), COLORS[form]
            axes[0].plot(
                names, mean["alone"], "o-", color=color, label=f"{form}: layer alone, or left out"
            )
            axes[0].axhline(mean["all"], color=color, ls="--", label=f"{form}: all layers")
            offset = np.asarray(names) + 0.4 * (place - 0.5)
            axes[1].bar(offset, mean["all"] - mean["without"], 0.4, color=color)
        axes[0].set_ylabel("Spearman × 100, mean over tasks")
        axes[1].set_ylabel("loss without the layer")
        axes[1].axhline(0, color="black", linewidth=0.8)
        for axis in axes:
            by_layer(axis)
        below(figure, axes[0])

    return Plot("routing", "RW layer by layer", draw, (10.0, 4.0))

"""Does RW get right what HS gets wrong? Paper, section 3.2, figure 2, on STS pairs.

An error is the paper's kind: the rank of a pair's similarity lies further from the rank of its gold
score than a threshold. The paper states no threshold, so several are shown, and beside every share
what chance would give.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from moee_index.bench.analyses.section import Plot, Section, panels, table
from moee_index.bench.analyses.similarity import FORMS, Form
from moee_index.bench.report.plots import STYLES, below
from moee_index.fusion import Float64Array, Rows
from moee_index.tune.correlation import average_ranks

# Rank distance, as a share of all ranks, above which a pair counts as an error.
THRESHOLDS = (0.1, 0.2, 0.3)
SHOWN = 0.2

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Judged:
    """One task's scores in one form. `scores`: `hs`, `rw`, `sum`, and `other`, a second HS that is
    no RW (another layer's), or none; float64 [pairs] each."""

    name: str
    form: Form
    gold: Float64Array
    scores: Mapping[str, Float64Array]


def rank_distance(scores: Rows, gold: Rows) -> Float64Array:
    """|rank of score − rank of gold| / pairs, float64 [pairs]; equal values share their mean
    rank."""
    found: Float64Array = np.abs(average_ranks(scores) - average_ranks(gold)) / len(gold)
    return found


def overlap(first: Flags, second: Flags) -> dict[str, float]:
    """How errors of two scores meet; shares of all pairs, and of pairs where either errs.

    one_sided: of the pairs where either errs, those where exactly one does (what the paper calls
    complementary). by_chance: the same if errors fell independently at the two rates. phi: their
    correlation, 1 where both err alike, 0 where independent. NaN where it is not defined.
    """
    one, other, both = float(first.mean()), float(second.mean()), float((first & second).mean())
    either = one + other - both
    expected = one + other - one * other
    spread = np.sqrt(one * (1 - one) * other * (1 - other))
    return {
        "first": one,
        "second": other,
        "both": both,
        "only_first": one - both,
        "only_second": other - both,
        "neither": 1.0 - either,
        "one_sided": (either - both) / either if either > 0 else float("nan"),
        "by_chance": (expected - one * other) / expected if expected > 0 else float("nan"),
        "phi": float((both - one * other) / spread) if spread > 0 else float("nan"),
    }


def rescued(first: Flags, second: Flags, fused: Flags) -> dict[str, float]:
    """Of the pairs where only HS, only RW or both err: how many `sum` gets right; and of those
    where neither errs, how many it gets wrong. NaN where there are none."""

    def share(where: Flags, flags: Flags) -> float:
        return float(flags[where].mean()) if where.any() else float("nan")

    return {
        "only_hs": share(first & ~second, ~fused),
        "only_rw": share(second & ~first, ~fused),
        "both": share(first & second, ~fused),
        "spoiled": share(~first & ~second, fused),
    }


def analyse(tasks: list[Judged], other: str | None) -> Section:
    """Overlap of errors, thresholds one by one. `other` names the second HS in words."""
    record: list[dict[str, Any]] = []
    for task in tasks:
        distances = {name: rank_distance(one, task.gold) for name, one in task.scores.items()}
        for threshold in THRESHOLDS:
            errs = {name: one > threshold for name, one in distances.items()}
            row: dict[str, Any] = {
                "task": task.name,
                "vectors": task.form,
                "pairs": len(task.gold),
                "threshold": threshold,
                "hs_rw": overlap(errs["hs"], errs["rw"]),
                "sum": rescued(errs["hs"], errs["rw"], errs["sum"]),
                "sum_errs": float(errs["sum"].mean()),
            }
            if "other" in errs:
                row["hs_other"] = overlap(errs["hs"], errs["other"])
            record.append(row)
    notes = [
        "A pair is an error when |rank of its similarity − rank of its gold score| is more than a "
        "share of all pairs (the threshold); equal values share their mean rank. The paper calls "
        "errors the same way, states no threshold, and says that of all pairs where HS or RW errs "
        "more than half are one-sided (DeepSeekMoE-16B, STS12).",
        "One-sided errors alone prove little: two scores with unrelated errors have many. Beside "
        "their share stands what independent errors at the same rates would give, and phi, the "
        "correlation of the errors (0 independent, 1 the same).",
    ]
    if other is not None:
        notes.append(
            f"The control takes {other} in RW's place: if its errors are as one-sided against HS, "
            "the gain is not the router's."
        )
    return Section(
        name="complementarity",
        title="Does RW get right what HS gets wrong?",
        notes=notes,
        tables=[
            table("Errors of HS and RW", record, _ERRORS),
            table("What becomes of the errors in sum (α = 1)", record, _RESCUED),
        ],
        plots=[_plot(record)] if record else [],
        record={"thresholds": list(THRESHOLDS), "control": other, "rows": record},
    )


_PLACE = {"task": "task", "vectors": "vectors", "threshold": "threshold"}
_ERRORS = _PLACE | {
    "only HS errs, %": "hs_rw.only_first",
    "only RW errs, %": "hs_rw.only_second",
    "both err, %": "hs_rw.both",
    "one-sided of all errors, %": "hs_rw.one_sided",
    "if independent, %": "hs_rw.by_chance",
    "phi": "hs_rw.phi",
    "control: one-sided, %": "hs_other.one_sided",
    "control: phi": "hs_other.phi",
}
_RESCUED = _PLACE | {
    "HS errs, %": "hs_rw.first",
    "RW errs, %": "hs_rw.second",
    "sum errs, %": "sum_errs",
    "right in sum where only HS errs, %": "sum.only_hs",
    "where only RW errs, %": "sum.only_rw",
    "where both err, %": "sum.both",
    "wrong in sum where neither errs, %": "sum.spoiled",
}


def _plot(record: list[dict[str, Any]]) -> Plot:
    def draw(figure: Any) -> None:
        axes = panels(figure, [f"{form} vectors" for form in FORMS])
        parts = (
            ("only HS errs", "only_first", STYLES["HS"].color),
            ("only RW errs", "only_second", STYLES["RW"].color),
            ("both err", "both", "#6E6E6E"),
        )
        for axis, form in zip(axes, FORMS, strict=True):
            rows = [one for one in record if one["vectors"] == form and one["threshold"] == SHOWN]
            bottom = np.zeros(len(rows))
            for label, name, color in parts:
                values = np.array([100 * one["hs_rw"][name] for one in rows])
                axis.bar(range(len(rows)), values, 0.7, bottom=bottom, label=label, color=color)
                bottom += values
            names = [one["task"] for one in rows]
            axis.set_xticks(range(len(rows)), names, rotation=30, ha="right", fontsize=8)
        axes[0].set_ylabel(f"pairs that err, % (threshold {SHOWN})")
        below(figure, axes[-1])

    return Plot("complementarity", "Which of HS and RW errs", draw, (9.0, 4.0))

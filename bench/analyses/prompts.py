"""How much do HS and RW depend on the prompt? Paper, section 3.2, figures 4 and 5.

For every two prompts, and for HS against RW, Spearman's correlation of the pairs' similarities; and
how far the STS scores of the prompts lie apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from moee_index.bench.analyses.section import Entries, Plot, Section, file_name
from moee_index.bench.analyses.similarity import FORMS, Form, method_scores, spearman
from moee_index.bench.analyses.task_texts import Pairs
from moee_index.bench.report.markup import Cell, Table
from moee_index.bench.report.plots import STYLES, below
from moee_index.encode.prompts import TEMPLATES
from moee_index.fusion import Float64Array
from moee_index.tune.correlation import rank_correlations
from moee_index.types import Embeddings

# The paper's nine; `none` is its tenth template, and no prompt.
NINE = tuple(name for name in TEMPLATES if name != "none")
METHODS = ("hs", "rw", "concat", "sum")
LABELS = {"hs": "HS", "rw": "RW", "concat": "concat", "sum": "sum"}


@dataclass(eq=False)
class PromptScores:
    """Scores of one task's pairs: form → prompt → method → float64 [pairs]."""

    pairs: Pairs
    scores: dict[Form, dict[str, dict[str, Float64Array]]] = field(
        default_factory=lambda: {form: {} for form in FORMS}
    )

    def add(self, prompt: str, own: Embeddings) -> None:
        """Take the vectors of the task's distinct texts under one prompt; keeps scores alone."""
        for form in FORMS:
            self.scores[form][prompt] = method_scores(own, self.pairs, form)


def correlations(scores: Mapping[str, Mapping[str, Float64Array]]) -> Float64Array:
    """Spearman's correlations [2 prompts, 2 prompts] of similarities: HS of each prompt, then RW
    of each, in the prompts' order."""
    lists = [one[part] for part in ("hs", "rw") for one in scores.values()]
    return rank_correlations(lists)


def block_means(matrix: Float64Array) -> dict[str, float]:
    """Means of `correlations`' blocks. Within HS and within RW without the diagonal; HS against
    RW over all pairs of prompts, and over the same prompt alone. NaN where nothing is defined."""
    count = len(matrix) // 2
    apart = ~np.eye(count, dtype=bool)
    across = matrix[:count, count:]
    return {
        "hs_hs": _mean(matrix[:count, :count][apart]),
        "rw_rw": _mean(matrix[count:, count:][apart]),
        "hs_rw": _mean(across),
        "hs_rw_same_prompt": _mean(np.diag(across)),
    }


def _mean(values: Float64Array) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")


def spread(values: Float64Array) -> dict[str, float]:
    """Mean, deviation (n − 1), lowest, highest and their distance, over prompts."""
    known = values[np.isfinite(values)]
    if not len(known):
        return dict.fromkeys(("mean", "std", "min", "max", "range"), float("nan"))
    return {
        "mean": float(known.mean()),
        "std": float(known.std(ddof=1)) if len(known) > 1 else float("nan"),
        "min": float(known.min()),
        "max": float(known.max()),
        "range": float(known.max() - known.min()),
    }


def analyse(tasks: list[PromptScores], pooling: str) -> Section:
    """Correlations between prompts and spread of STS scores, task by task and form by form."""
    record: list[dict[str, Any]] = []
    for task in tasks:
        for form in FORMS:
            by_prompt = task.scores[form]
            matrix = correlations(by_prompt)
            gold = task.pairs.gold
            sts = {
                method: {name: spearman(one[method], gold) for name, one in by_prompt.items()}
                for method in METHODS
            }
            spreads = {method: spread(np.array(list(sts[method].values()))) for method in METHODS}
            record.append(
                {
                    "task": task.pairs.name,
                    "pairs": len(task.pairs),
                    "vectors": form,
                    "prompts": list(by_prompt),
                    "correlations": matrix,
                    "means": block_means(matrix),
                    "sts": sts,
                    "spread": spreads,
                }
            )
    under_mean = (
        " Under `mean` the template's own tokens are left out: a prompt acts only through what of "
        "it stands before the text. The paper pools `last`."
    )
    return Section(
        name="prompts",
        title="How much do HS and RW depend on the prompt?",
        notes=[
            f"The paper's nine prompts, pooling `{pooling}`, all pairs of an STS task. Correlation "
            "is Spearman's, between the pairs' cosine similarities under two prompts (or by HS and "
            "by RW): 1 means that two prompts put the pairs in the same order. Averages within HS "
            "and within RW leave out a prompt with itself."
            + (under_mean if pooling == "mean" else ""),
            "STS scores are Spearman's correlation with the gold scores × 100, for each prompt; "
            "deviation with n − 1. `concat` and `sum` (α = 1) stand on the same vectors.",
            "The paper prints means of 0.52 (HS–HS), 0.63 (RW–RW) and 0.51 (HS–RW) on STS12, and "
            "says that RW varies less with the prompt than HS; it names no standardising.",
        ],
        tables=[_correlation_table(record), _spread_table(record), *_score_tables(record)],
        plots=_plots(record),
        record={"prompts": list(NINE), "pooling": pooling, "rows": record},
    )


def _correlation_table(record: Entries) -> Table:
    rows = [[one["task"], one["vectors"], one["pairs"], *one["means"].values()] for one in record]
    head = ["task", "vectors", "pairs", "HS–HS", "RW–RW", "HS–RW", "HS–RW, same prompt"]
    return Table(head, rows, "Mean correlation of similarities between prompts")


def _spread_table(record: Entries) -> Table:
    rows = [
        [one["task"], one["vectors"], LABELS[method], *one["spread"][method].values()]
        for one in record
        for method in METHODS
    ]
    head = ["task", "vectors", "method", "mean", "deviation", "lowest", "highest", "range"]
    return Table(head, rows, "STS score over the nine prompts")


def _score_tables(record: list[dict[str, Any]]) -> list[Table]:
    """One table a form: task and method by prompt."""
    tables = []
    for form in FORMS:
        rows: list[list[Cell]] = [
            [one["task"], LABELS[method], *one["sts"][method].values()]
            for one in record
            if one["vectors"] == form
            for method in METHODS
        ]
        if rows:
            prompts = next(one["prompts"] for one in record if one["vectors"] == form)
            tables.append(
                Table(["task", "method", *prompts], rows, f"STS score by prompt, {form} vectors")
            )
    return tables


def _plots(record: list[dict[str, Any]]) -> list[Plot]:
    plots = [
        _heat_map(task, [one for one in record if one["task"] == task])
        for task in dict.fromkeys(one["task"] for one in record)
    ]
    return [*plots, _box_plot(record)] if record else []


def _heat_map(task: str, rows: list[dict[str, Any]]) -> Plot:
    def draw(figure: Any) -> None:
        axes = figure.subplots(1, len(rows), squeeze=False)[0]
        image = None
        lowest = min(0.0, *(float(np.nanmin(one["correlations"], initial=0.0)) for one in rows))
        for number, (axis, one) in enumerate(zip(axes, rows, strict=True)):
            count = len(one["prompts"])
            image = axis.imshow(one["correlations"], vmin=lowest, vmax=1, cmap="viridis")
            labels = [f"{part} {prompt}" for part in ("HS", "RW") for prompt in one["prompts"]]
            axis.set_xticks(range(2 * count), labels, rotation=90, fontsize=6)
            axis.set_yticks(range(2 * count), labels if number == 0 else [], fontsize=6)
            axis.axhline(count - 0.5, color="white", linewidth=1.5)
            axis.axvline(count - 0.5, color="white", linewidth=1.5)
            axis.set_title(f"{one['vectors']} vectors", fontsize=10)
        figure.colorbar(image, ax=list(axes), shrink=0.8, label="Spearman")

    title = f"Correlation of pair similarities between prompts, {task}"
    return Plot(f"prompts-{file_name(task)}", title, draw, (10.5, 5.2))


def _box_plot(record: list[dict[str, Any]]) -> Plot:
    def draw(figure: Any) -> None:
        tasks = list(dict.fromkeys(one["task"] for one in record))
        axes = figure.subplots(len(FORMS), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
        for axis, form in zip(axes, FORMS, strict=True):
            rows = {one["task"]: one for one in record if one["vectors"] == form}
            for place, method in enumerate(METHODS):
                values = [
                    [score for score in rows[task]["sts"][method].values() if np.isfinite(score)]
                    for task in tasks
                ]
                color = STYLES[LABELS[method]].color
                axis.boxplot(
                    values,
                    positions=np.arange(len(tasks)) + 0.2 * (place - 1.5),
                    widths=0.16,
                    manage_ticks=False,
                    patch_artist=True,
                    boxprops={"facecolor": color, "alpha": 0.5},
                    medianprops={"color": "black"},
                    flierprops={"markersize": 3},
                )
                axis.plot([], [], color=color, linewidth=6, alpha=0.5, label=LABELS[method])
            axis.set_xticks(range(len(tasks)), tasks, rotation=20)
            axis.set_ylabel("Spearman × 100")
            axis.set_title(f"{form} vectors", fontsize=10)
            axis.grid(axis="y", alpha=0.3)
        below(figure, axes[0])

    return Plot("prompts-scores", "STS scores over the nine prompts", draw, (8.0, 6.4))

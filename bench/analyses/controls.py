"""The controls that the paper lacks: HS standardised, of each layer, of all layers, mean-pooled.

A router is a linear map of its layer's state, so RW's fair rival is not the last layer's raw HS but
the states of the layers that it reads, standardised as RW is.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np

from moee_index.bench.analyses import routing
from moee_index.bench.analyses.layers import POOLINGS, LayerShape, LayerVectors, Pooling
from moee_index.bench.analyses.section import Plot, Section, by_layer, panels
from moee_index.bench.analyses.similarity import FORMS, Form, cosines, method_scores, spearman
from moee_index.bench.analyses.task_texts import Pairs
from moee_index.bench.report.markup import Cell, Table
from moee_index.bench.report.plots import COLORS, STYLES, below
from moee_index.fusion import PartStandardizer

# (key, what the tables call it); the paper's four methods first.
ROWS = (
    ("hs", "HS"),
    ("rw", "RW"),
    ("concat", "concat"),
    ("sum", "sum (α = 1)"),
    ("hs_layers_mean", "HS, mean of all layers"),
    ("hs_layers_sum", "HS, sum of all layers' similarities"),
    ("hs_layers_rw", "HS, all layers' similarities + RW's"),
)


def measure(vectors: LayerVectors, pairs: Pairs, pooling: Pooling) -> dict[Form, dict[str, Any]]:
    """STS scores of one task: form → key of ROWS → Spearman × 100; `hs_layers`, a list by decoder
    layer, and `rw_layers`, one by MoE layer.

    Layers are read one at a time; a mean of all layers is kept as a running sum, float32 [m, d].
    """
    own = vectors.embeddings(pooling, pairs.rows)
    layers = vectors.shape.layers
    columns = [vectors.shape.rw_columns(layer) for layer in range(len(vectors.shape.rw_widths))]
    found: dict[Form, dict[str, Any]] = {}
    for form in FORMS:
        scores = method_scores(own, pairs, form)
        found[form] = {key: spearman(one, pairs.gold) for key, one in scores.items()}
        found[form]["hs_layers"] = []
        found[form]["rw_layers"] = routing.alone(own.rw, pairs, columns, form)
        total = np.zeros_like(own.hs)
        together = np.zeros(len(pairs))
        for layer in range(1, layers + 1):
            rows = vectors.hs(pooling, layer)[pairs.rows]
            similarity = cosines(rows, pairs, form)
            found[form]["hs_layers"].append(spearman(similarity, pairs.gold))
            together += similarity / layers
            if form == "standardised":
                # Each layer standardised first: else the widest layers are the mean.
                rows = PartStandardizer.fit(rows, "hs").apply(rows).astype(np.float32)
            total += rows / np.float32(layers)
        found[form]["hs_layers_mean"] = spearman(cosines(total, pairs, "raw"), pairs.gold)
        found[form]["hs_layers_sum"] = spearman(together, pairs.gold)
        found[form]["hs_layers_rw"] = spearman(together + scores["rw"], pairs.gold)
    return found


def analyse(vectors: LayerVectors, tasks: Sequence[Pairs]) -> Section:
    """Every control beside HS, RW, concat and sum, for both poolings and forms."""
    record = [
        {"task": pairs.name, "pooling": pooling, "vectors": form, **scores}
        for pairs, pooling in product(tasks, POOLINGS)
        for form, scores in measure(vectors, pairs, pooling).items()
    ]
    return Section(
        name="controls",
        title="What else would do? The controls that the paper lacks",
        notes=[
            "Spearman × 100 of cosine similarity and gold scores. `last`: the last token, the "
            "paper's choice; `mean`: mean over the text's own tokens, template left out. "
            "Standardised: mean and deviation of each dimension over the task's distinct texts; "
            "the paper's HS is raw, its RW, concat and sum are standardised (batch by batch).",
            "HS of layer l is the state that decoder layer l hands on, of the last layer the state "
            "after the final norm. Mean of all layers: mean of the raw (or standardised) states, "
            "the token embeddings left out; sum of all layers' similarities: each layer's cosine "
            "counts alike.",
            "A layer picked by its score on the same pairs is no fair rival: the tables show all "
            "of them.",
        ],
        tables=[_main_table(record), *_layer_tables(record, vectors.shape)] if record else [],
        plots=[_layers_plot(record, vectors.shape), _bars(record)] if record else [],
        record={"rows": record},
    )


def _some(record: list[dict[str, Any]], pooling: str, form: str) -> list[dict[str, Any]]:
    return [one for one in record if (one["pooling"], one["vectors"]) == (pooling, form)]


def _mean(record: list[dict[str, Any]], pooling: str, form: str, key: str) -> Any:
    return np.mean([one[key] for one in _some(record, pooling, form)], axis=0)


def _main_table(record: list[dict[str, Any]]) -> Table:
    tasks = list(dict.fromkeys(one["task"] for one in record))
    rows: list[list[Cell]] = []
    for (key, label), pooling, form in product(ROWS, POOLINGS, FORMS):
        scores = [float(one[key]) for one in _some(record, pooling, form)]
        rows.append([label, pooling, form, float(_mean(record, pooling, form, key)), *scores])
    head = ["", "pooling", "vectors", "mean", *tasks]
    return Table(head, rows, "Controls beside the paper's four methods")


def _by_decoder_layer(values: Sequence[float], shape: LayerShape) -> list[float]:
    """RW's list by MoE layer as one by decoder layer, NaN where a layer does not route."""
    found = [float("nan")] * shape.layers
    for layer, value in zip(shape.rw_layers, values, strict=True):
        found[layer - 1] = float(value)
    return found


def _layer_tables(record: list[dict[str, Any]], shape: LayerShape) -> list[Table]:
    """Mean over tasks by layer, then task by task."""
    tasks = list(dict.fromkeys(one["task"] for one in record))
    head = ["", *(f"{part} {form}" for form in FORMS for part in ("HS", "RW"))]
    tables = []
    for pooling in POOLINGS:
        columns = []
        for form in FORMS:
            columns.append(list(_mean(record, pooling, form, "hs_layers")))
            columns.append(_by_decoder_layer(_mean(record, pooling, form, "rw_layers"), shape))
        body = _rows_of(columns, shape)
        tables.append(Table(head, body, f"Layer by layer, pooling {pooling}, mean over tasks"))
    for pooling, form in product(POOLINGS, FORMS) if len(tasks) > 1 else ():
        title = f"HS by layer, pooling {pooling}, {form} vectors"
        body = _rows_of([one["hs_layers"] for one in _some(record, pooling, form)], shape)
        tables.append(Table(["", *tasks], body, title))
    return tables


def _rows_of(columns: Sequence[Sequence[float]], shape: LayerShape) -> list[list[Cell]]:
    return [
        [f"layer {layer + 1}", *(float(column[layer]) for column in columns)]
        for layer in range(shape.layers)
    ]


def _layers_plot(record: list[dict[str, Any]], shape: LayerShape) -> Plot:
    def draw(figure: Any) -> None:
        axes = panels(figure, [f"pooling {pooling}" for pooling in POOLINGS])
        for axis, pooling in zip(axes, POOLINGS, strict=True):
            for form, stroke in zip(FORMS, (":", "-"), strict=True):
                for part, places in (("hs", range(1, shape.layers + 1)), ("rw", shape.rw_layers)):
                    style = STYLES[part.upper()]
                    axis.plot(
                        places,
                        _mean(record, pooling, form, f"{part}_layers"),
                        color=style.color,
                        marker=style.marker,
                        ls=stroke,
                        label=f"{part.upper()} of the layer, {form}",
                    )
                level = _mean(record, pooling, form, "sum")
                axis.axhline(level, color=STYLES["sum"].color, ls=stroke, label=f"sum, {form}")
            by_layer(axis)
        axes[0].set_ylabel("Spearman × 100, mean over tasks")
        below(figure, *axes)

    return Plot("controls-layers", "HS and RW of each layer beside sum", draw, (10.0, 4.6))


def _bars(record: list[dict[str, Any]]) -> Plot:
    def draw(figure: Any) -> None:
        axis = figure.subplots()
        places = np.arange(len(ROWS))[::-1]
        for number, (pooling, form) in enumerate(product(POOLINGS, FORMS)):
            values = [float(_mean(record, pooling, form, key)) for key, _ in ROWS]
            axis.barh(
                places + 0.2 * (1.5 - number),
                values,
                0.2,
                label=f"{pooling}, {form}",
                color=COLORS[form],
                alpha=1.0 if pooling == "last" else 0.5,
            )
        axis.set_yticks(places, [label for _, label in ROWS])
        axis.set_xlabel("Spearman × 100, mean over tasks")
        below(figure, axis)
        axis.grid(axis="x", alpha=0.3)

    return Plot("controls", "Controls beside the paper's methods", draw, (9.0, 5.4))

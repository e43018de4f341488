"""The report's comparison of several runs: side by side, with differences.

Columns of two runs stand side by side where they are the same but for what the runs differ in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from moee_index.bench.report.markup import NOTHING, Table, TableRow, quoted
from moee_index.bench.report.runs import differing
from moee_index.bench.report.table import (
    SERIES_FIELDS,
    Cell,
    Figure,
    Scores,
    Series,
    System,
    Unit,
    average,
    common,
    in_order,
    tasks_of,
    type_order,
    unit_order,
)
from moee_index.bench.report.view import SAMPLE, View, counted, text_of
from moee_index.bench.run_dir import Run

# What a column may be told apart by, besides its run and its method. alpha counts for sum alone.
_SETTING = tuple(name for name in SERIES_FIELDS if name != "run")
_Columns = list[Mapping[Unit, Cell] | None]


def comparison(runs: Sequence[Run], view: View) -> dict[str, Any] | None:
    """Scores that two runs have at least side by side, each less the first's; None for one run.

    differences: of the records, None where there are none. fixed: (field, each run's value) in
    which the runs differ as a whole. tables: one a setting.
    """
    if len(runs) < 2:
        return None
    labels = [run.label for run in runs]
    fixed = {
        name: values
        for name in (*_SETTING, "alpha")
        if (values := _fixed(view.scores, labels, name))
    }
    said = [
        (name, ", ".join(f"{label}: {_said(v)}" for label, v in zip(labels, values, strict=True)))
        for name, values in fixed.items()
    ]
    tables = list(_tables(view, labels, fixed))
    return {"differences": differing(runs), "fixed": said, "tables": tables}


def _said(value: object) -> str:
    if value is None:
        return NOTHING
    return f"{value:g}" if isinstance(value, float) else str(value)


def _inside(scores: Scores, label: str) -> list[System]:
    return [s for s in scores.columns if not s.outside and s.series.run == label]


def _fixed(scores: Scores, labels: Sequence[str], name: str) -> list[object]:
    """Each run's value of a field that has one value in each and not the same in all; else none."""
    values: list[set[object]] = []
    for label in labels:
        systems = _inside(scores, label)
        if name == "alpha":
            values.append({s.alpha for s in systems if s.method == "sum"})
        else:
            values.append({getattr(s.series, name) for s in systems})
    single = [value for found in values if len(found) == 1 for value in found]
    return single if len(single) == len(labels) and len(set(single)) > 1 else []


def _tables(view: View, labels: Sequence[str], fixed: Mapping[str, object]) -> Iterator[Table]:
    """One table for each setting that at least two runs have, its methods below each other."""
    matched: dict[Series, dict[System, _Columns]] = {}
    anything: dict[str, Any] = {name: None for name in fixed if name != "alpha"} | {"run": ""}
    for i, label in enumerate(labels):
        for system in _inside(view.scores, label):
            setting = replace(system.series, **anything)
            method = replace(system, series=setting)
            method = replace(method, alpha=None) if "alpha" in fixed else method
            columns = matched.setdefault(setting, {}).setdefault(method, [None] * len(labels))
            columns[i] = view.scores.columns[system]
    heads = [*map(quoted, labels), *(f"{quoted(x)} less {quoted(labels[0])}" for x in labels[1:])]
    for setting, methods in matched.items():
        several = {
            view.column(method): methods[method]
            for method in in_order(methods)
            if sum(column is not None for column in methods[method]) > 1
        }
        rows = list(_rows(several))
        if rows:
            values = ((name, getattr(setting, name)) for name in _SETTING)
            caption = ", ".join(f"{name} {_said(v)}" for name, v in values if v is not None)
            yield Table(["Task", "Method", *heads], rows, quoted(caption), labels=2)


def _rows(methods: Mapping[str, _Columns]) -> Iterator[TableRow]:
    """For each type its averages, method by method, then its tasks; what two runs have at least."""
    shared = {name: common([c for c in columns if c]) for name, columns in methods.items()}
    count = Counter((n, u) for n, columns in methods.items() for c in columns for u in c or ())
    units = unit_order({unit for (_, unit), times in count.items() if times > 1})
    for kind in type_order(unit.type for unit in units):
        for name, columns in methods.items():
            mine = [unit for unit in shared[name] if unit.type == kind]
            label = f"{quoted(kind)}, average of {counted(tasks_of(mine))}"
            yield from _row(label, name, columns, mine, strong=True)
        for task in dict.fromkeys(unit.task for unit in units if unit.type == kind):
            for name, columns in methods.items():
                mine = [u for u in units if u.task == task and count[name, u] > 1]
                yield from _row(quoted(task), name, columns, mine, strong=False)


def _row(
    label: str, method: str, columns: _Columns, units: Sequence[Unit], *, strong: bool
) -> Iterator[TableRow]:
    """The averages over these units; nothing where there are none."""
    if units:
        values = [average(column or {}, units) for column in columns]
        shown = [text_of(value) for value in values]
        shown += [_less(value, values[0]) for value in values[1:]]
        sampled = any(value is not None and value.sample for value in values)
        yield TableRow([f"{label} ({SAMPLE})" if sampled else label, method, *shown], strong)


def _less(value: Figure | None, first: Figure | None) -> str:
    """A difference; none between a sample and the whole."""
    if value is None or first is None or value.sample != first.sample:
        return NOTHING
    return f"{100 * (value.score - first.score):+.2f}"

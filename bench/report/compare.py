"""The report's comparison of several runs: side by side, with differences.

Columns of two runs stand side by side where they are the same but for what the runs differ in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from moee_index.bench.report.markup import NOTHING, Table, TableRow, quoted
from moee_index.bench.report.runs import differing
from moee_index.bench.report.table import (
    SERIES_FIELDS,
    Average,
    Cell,
    Scores,
    System,
    Unit,
    average,
    common,
    tasks_of,
    type_order,
    unit_order,
)
from moee_index.bench.report.view import METHOD_NAMES, SAMPLE, counted, text_of
from moee_index.bench.run_dir import Run
from moee_index.fusion import METHODS

# What a column may be told apart by, besides its run and its method. alpha counts for sum alone.
_SETTING = tuple(name for name in SERIES_FIELDS if name != "run")
_Method = tuple[str, object]
_Columns = list[Mapping[Unit, Cell] | None]


@dataclass(frozen=True)
class Comparison:
    """differences: of the records, None where there are none. fixed: (field, each run's value) in
    which the runs differ as a whole. tables: scores that two runs have at least, by setting.
    """

    differences: Table | None
    fixed: list[tuple[str, str]]
    tables: list[Table]


def comparison(runs: Sequence[Run], scores: Scores) -> Comparison | None:
    """Scores that two runs have at least side by side, each less the first's; None for one run."""
    if len(runs) < 2:
        return None
    labels = [run.label for run in runs]
    fixed = {
        name: values for name in (*_SETTING, "alpha") if (values := _fixed(scores, labels, name))
    }
    said = [
        (name, ", ".join(f"{label}: {_said(v)}" for label, v in zip(labels, values, strict=True)))
        for name, values in fixed.items()
    ]
    return Comparison(differing(runs), said, list(_tables(scores, labels, fixed)))


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


def _tables(scores: Scores, labels: Sequence[str], fixed: Mapping[str, object]) -> Iterator[Table]:
    """One table for each setting that at least two runs have, its methods below each other."""
    names = [name for name in _SETTING if name not in fixed]
    matched: dict[tuple[object, ...], dict[_Method, _Columns]] = {}
    for i, label in enumerate(labels):
        for system in _inside(scores, label):
            setting = tuple(getattr(system.series, name) for name in names)
            method = system.method, None if "alpha" in fixed else system.alpha
            columns = matched.setdefault(setting, {}).setdefault(method, [None] * len(labels))
            columns[i] = scores.columns[system]
    heads = [*map(quoted, labels), *(f"{quoted(x)} less {quoted(labels[0])}" for x in labels[1:])]
    for setting, methods in matched.items():
        several = {
            _method(key): columns
            for key, columns in sorted(methods.items(), key=lambda item: _order(item[0]))
            if sum(column is not None for column in columns) > 1
        }
        rows = list(_rows(several))
        if rows:
            said = (f"{n} {_said(v)}" for n, v in zip(names, setting, strict=True) if v is not None)
            yield Table(["Task", "Method", *heads], rows, quoted(", ".join(said)), labels=2)


def _method(key: _Method) -> str:
    method, alpha = key
    return METHOD_NAMES[method] + ("" if alpha is None else f" (α = {_said(alpha)})")


def _order(key: _Method) -> tuple[int, float]:
    method, alpha = key
    return METHODS.index(method), alpha if isinstance(alpha, float) else 0.0


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


def _less(value: Average | None, first: Average | None) -> str:
    """A difference; none between a sample and the whole."""
    if value is None or first is None or value.sample != first.sample:
        return NOTHING
    return f"{100 * (value.score - first.score):+.2f}"

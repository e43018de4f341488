"""The report's comparison of several runs: side by side, with differences.

Columns of two runs stand side by side where they are the same but for what the runs differ in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from moee_index.bench.report.markup import (
    NOTHING,
    Block,
    Heading,
    Paragraph,
    Table,
    TableRow,
    quoted,
)
from moee_index.bench.report.names import METHOD_NAMES, SAMPLE, counted, text_of
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
from moee_index.bench.run_dir import Run
from moee_index.fusion import METHODS

# What a column may be told apart by, besides its run and its method. alpha counts for sum alone.
_FIELDS = (*(name for name in SERIES_FIELDS if name != "run"), "alpha")
Columns = list[System | None]


def comparison(runs: Sequence[Run], scores: Scores) -> list[Block]:
    """Scores that two runs have at least side by side, each less the first's; empty for one run."""
    if len(runs) < 2:
        return []
    labels = [run.label for run in runs]
    blocks: list[Block] = [Heading(2, "The runs side by side")]
    differences = differing(runs)
    if differences:
        heads = ["What", *map(quoted, labels)]
        caption = "What run.json and the rows record differently."
        blocks.append(Table(heads, differences, caption, labels=len(heads)))
    else:
        blocks.append(Paragraph("The records of the runs do not differ."))
    fixed = _fixed(scores, labels)
    for name, values in fixed.items():
        said = ", ".join(f"{label}: {_said(v)}" for label, v in zip(labels, values, strict=True))
        blocks.append(Paragraph(f"Compared although {name} differs ({quoted(said)})."))
    tables = list(_tables(scores, labels, [name for name in _FIELDS if name not in fixed]))
    if not tables:
        text = "No score of one run has its like in another, so there is nothing to compare."
        return [*blocks, Paragraph(text)]
    return [*blocks, *tables]


def _said(value: object) -> str:
    if value is None:
        return NOTHING
    return f"{value:g}" if isinstance(value, float) else str(value)


def _field(system: System, name: str) -> object:
    return system.alpha if name == "alpha" else getattr(system.series, name)


def _inside(scores: Scores, label: str) -> list[System]:
    return [s for s in scores.columns if not s.outside and s.series.run == label]


def _fixed(scores: Scores, labels: Sequence[str]) -> dict[str, list[object]]:
    """Fields in which the runs differ as a whole: one value in each run, not the same in all."""
    fixed: dict[str, list[object]] = {}
    for name in _FIELDS:
        values: list[list[object]] = []
        for label in labels:
            systems = [s for s in _inside(scores, label) if name != "alpha" or s.method == "sum"]
            values.append(list(dict.fromkeys(_field(s, name) for s in systems)))
        if all(len(found) == 1 for found in values) and len({found[0] for found in values}) > 1:
            fixed[name] = [found[0] for found in values]
    return fixed


def _tables(scores: Scores, labels: Sequence[str], fields: Sequence[str]) -> Iterator[Table]:
    """One table for each setting that at least two runs have, its methods below each other."""
    matched: dict[tuple[object, ...], dict[tuple[str, object], Columns]] = {}
    for i, label in enumerate(labels):
        for system in _inside(scores, label):
            setting = tuple(_field(system, name) for name in fields if name != "alpha")
            row = system.method, system.alpha if "alpha" in fields else None
            columns = matched.setdefault(setting, {}).setdefault(row, [None] * len(labels))
            columns[i] = system
    heads = [*map(quoted, labels), *(f"{quoted(x)} less {quoted(labels[0])}" for x in labels[1:])]
    names = [name for name in fields if name != "alpha"]
    for setting, methods in matched.items():
        several = {
            _method(key): columns
            for key, columns in sorted(methods.items(), key=_method_order)
            if sum(column is not None for column in columns) > 1
        }
        rows = list(_rows(scores, several))
        if rows:
            said = (f"{n} {_said(v)}" for n, v in zip(names, setting, strict=True) if v is not None)
            yield Table(["Task", "Method", *heads], rows, quoted(", ".join(said)), labels=2)


def _method(key: tuple[str, object]) -> str:
    method, alpha = key
    return METHOD_NAMES[method] + ("" if alpha is None else f" (α = {_said(alpha)})")


def _method_order(item: tuple[tuple[str, object], Columns]) -> tuple[int, float]:
    method, alpha = item[0]
    return METHODS.index(method), alpha if isinstance(alpha, float) else 0.0


def _rows(scores: Scores, methods: Mapping[str, Columns]) -> Iterator[TableRow]:
    """For each type its averages, method by method, then its tasks; what two runs have at least."""
    cells: dict[str, list[Mapping[Unit, Cell]]] = {
        name: [{} if column is None else scores.columns[column] for column in columns]
        for name, columns in methods.items()
    }
    shared = {name: common([c for c in found if c]) for name, found in cells.items()}
    count = Counter((n, u) for n, found in cells.items() for column in found for u in column)
    units = unit_order({unit for (_, unit), times in count.items() if times > 1})
    for kind in type_order(unit.type for unit in units):
        for name, found in cells.items():
            mine = [unit for unit in shared[name] if unit.type == kind]
            if mine:
                label = f"{quoted(kind)}, average of {counted(tasks_of(mine))}"
                values = [average(column, mine) for column in found]
                yield _row(label, name, values, strong=True)
        for task in dict.fromkeys(unit.task for unit in units if unit.type == kind):
            for name, found in cells.items():
                of_task = [u for u in units if u.task == task and count[name, u] > 1]
                if of_task:
                    values = [average(column, of_task) for column in found]
                    yield _row(quoted(task), name, values, strong=False)


def _row(label: str, method: str, values: Sequence[Average | None], *, strong: bool) -> TableRow:
    shown = [text_of(value) for value in values]
    shown += [_less(value, values[0]) for value in values[1:]]
    sampled = any(value is not None and value.sample for value in values)
    return TableRow([f"{label} ({SAMPLE})" if sampled else label, method, *shown], strong)


def _less(value: Average | None, first: Average | None) -> str:
    """A difference; none between a sample and the whole."""
    if value is None or first is None or value.sample != first.sample:
        return NOTHING
    return f"{100 * (value.score - first.score):+.2f}"

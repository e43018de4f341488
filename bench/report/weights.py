"""The report's section on words: each method's scores by the weight of words, task by task."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from moee_index.bench.adapter.vectors import WORDS
from moee_index.bench.report import plots
from moee_index.bench.report.markup import Picture, Table, TableRow, Words, quoted
from moee_index.bench.report.table import Cell, Series, System, Unit, unit_order
from moee_index.bench.report.view import View, sampled, score_row

# Method and α → weight of words → its scores.
_Lines = Mapping[str, Mapping[float, Mapping[Unit, Cell]]]


def weights(view: View) -> Iterator[tuple[Words, Table, Picture | None]]:
    """The table and the picture of each series that has columns with words."""
    for series in view.scores.series():
        if any(system.lexical for system in view.scores.inside(series)):
            yield view.series[series], *_of_series(view, series)


def _of_series(view: View, series: Series) -> tuple[Table, Picture | None]:
    lines = _lines(view, series)
    alone = _words_alone(view, series)
    fused = [column for line in lines.values() for weight, column in line.items() if weight]
    units = unit_order({unit for column in fused for unit in column})
    rows: list[TableRow] = []
    panels: dict[str, dict[str, plots.Points]] = {}
    every: list[Cell | None] = []
    for unit in units:
        of_unit = {name: _points(line, alone, unit) for name, line in lines.items()}
        for weight in sorted({weight for points in of_unit.values() for weight in points}):
            found = [points.get(weight) for points in of_unit.values()]
            rows.append(score_row([_name(unit), f"{weight:g}"], found))
            every += found
        panels[f"{_name(unit)}, {_metric(fused, unit)}"] = {
            name: [(weight, cell.score) for weight, cell in points.items()]
            for name, points in of_unit.items()
        }
    title = f"{view.series[series]}: score against the weight of words{sampled(every)}"
    picture = view.pictures.add(
        "words",
        view.series[series],
        "Curves",
        title,
        lambda t: plots.weight_curves(t, panels),
    )
    return Table(["Task", "w", *lines], rows, labels=2), picture


def _lines(view: View, series: Series) -> _Lines:
    lines: dict[str, dict[float, Mapping[Unit, Cell]]] = {}
    for system in view.scores.inside(series):
        dense = System(system.series, system.method, system.alpha, system.outside)
        line = lines.setdefault(view.column(dense), {})
        line[system.lexical or 0.0] = view.scores.columns[system]
    return lines


def _points(
    line: Mapping[float, Mapping[Unit, Cell]], alone: Mapping[Unit, Cell], unit: Unit
) -> dict[float, Cell]:
    """Weight of words, ascending → a method's score; at 1 that of words alone."""
    columns = {**line, 1.0: alone}
    return {weight: columns[weight][unit] for weight in sorted(columns) if unit in columns[weight]}


def _words_alone(view: View, series: Series) -> Mapping[Unit, Cell]:
    """The scores of words alone in the same run."""
    for system in view.scores.beside_series(series):
        if system.method == WORDS:
            return view.scores.columns[system]
    return {}


def _name(unit: Unit) -> str:
    more = [name for name in (unit.split, unit.subset) if name not in ("test", "default")]
    return quoted(f"{unit.task} ({', '.join(more)})" if more else unit.task)


def _metric(columns: list[Mapping[Unit, Cell]], unit: Unit) -> str:
    return next(quoted(column[unit].metric) for column in columns if unit in column)

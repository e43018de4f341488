"""The tables and pictures of scores: all series at a glance, one series by task, α, the radar."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from moee_index.bench.report import paper, plots
from moee_index.bench.report.markup import Picture, Table, TableRow, Words, quoted
from moee_index.bench.report.table import (
    Cell,
    Figure,
    Scores,
    Series,
    System,
    Unit,
    average,
    by_type,
    mean_of_types,
    tasks_of,
    type_order,
    unit_order,
)
from moee_index.bench.report.view import METHOD_NAMES, View, counted, pictured, sampled, score_row

_BESIDE = {
    "cosine_ap": "cosine_ap",
    "ami": "AMI",
    "nmi": "NMI",
    "v_measure": "V-measure of AMI's clusters",
}


@dataclass(frozen=True)
class Interval(Figure):
    """A main score with its interval, which is shown in its place."""

    low: float
    high: float

    @property
    def text(self) -> str:
        return f"{100 * self.low:.1f} to {100 * self.high:.1f}"


def overview(view: View) -> Table | None:
    """Averages by type of every column, as in the paper's tables 3 and 4."""
    scores = view.scores
    inside = [system for series in scores.series() for system in scores.main(series)]
    outside = scores.outside()
    units = scores.common(inside or outside)
    if not units:
        return None
    systems = [*inside, *outside]
    averages = by_type(scores, systems, units)
    lines = zip(systems, zip(*averages.values(), strict=True), strict=True)
    rows = [
        score_row([view.systems[system]], [*line, *_means(scores.columns[system], units)])
        for system, line in lines
    ]
    heads = [f"{quoted(kind)} ({tasks_of(units, kind)})" for kind in averages]
    caption = (
        f"Over the {counted(tasks_of(units))} that every column of MoEE has; behind each type the "
        "number of its tasks. Mean of types is the paper's average, mean of tasks is MTEB's."
    )
    columns = ["Model, prompt: method", *heads, "Mean of types", "Mean of tasks"]
    return Table(columns, rows, caption)


def _means(column: Mapping[Unit, Cell], units: Sequence[Unit]) -> tuple[Figure | None, ...]:
    return mean_of_types(column, units), average(column, units)


def series_report(view: View, series: Series) -> dict[str, Any]:
    """The table of one series by type and task, outside baselines beside it, and its pictures."""
    scores, name = view.scores, view.series[series]
    inside = scores.main(series)
    systems = [*inside, *scores.beside_series(series)]
    shared = scores.common(inside)
    seen = unit_order({unit for system in systems for unit in scores.columns[system]})
    heads = [view.column(system) for system in systems]
    shown = [system for system in systems if pictured(system)]
    return {
        "series": series,
        "name": name,
        "raw_hs": series in scores.raw_hs,
        "table": Table(["Task", "Metric", *heads], _rows(scores, systems, shared, seen), labels=2),
        "bars": _bars(view, name, shown, shared),
        **_intervals(view, name, shown, [unit for unit in seen if unit.type == "STS"]),
    }


def _rows(
    scores: Scores, systems: Sequence[System], shared: Sequence[Unit], seen: Sequence[Unit]
) -> list[TableRow]:
    """Each type's averages over the shared units and below them its tasks; at the end the means."""
    rows: list[TableRow] = []
    averages = by_type(scores, systems, shared, type_order(unit.type for unit in seen))
    for kind, found in averages.items():
        tasks, every = tasks_of(shared, kind), tasks_of(seen, kind)
        over = counted(tasks) if tasks == every else f"{tasks} of {counted(every)}"
        label = f"{quoted(kind)}, average of {over}" if tasks else f"{quoted(kind)}, no average"
        rows.append(score_row([label, ""], found, strong=True))
        units = [unit for unit in seen if unit.type == kind]
        for unit in units:
            rows += _unit_rows(scores, systems, unit, _unit_name(unit, units))
    if sum(any(found) for found in averages.values()) > 1:
        types = len({unit.type for unit in shared})
        labels = [f"Mean of {types} types", f"Mean of {counted(tasks_of(shared))}"]
        means = zip(*(_means(scores.columns[system], shared) for system in systems), strict=True)
        for label, figures in zip(labels, means, strict=True):
            rows.append(score_row([label, ""], figures, strong=True))
    return rows


def _unit_name(unit: Unit, units: Sequence[Unit]) -> str:
    """The task, and split and subset where there are several."""
    same_task = [other for other in units if other.task == unit.task]
    more = [
        getattr(unit, name)
        for name in ("split", "subset")
        if len({getattr(other, name) for other in same_task}) > 1
    ]
    return quoted(f"{unit.task} ({', '.join(more)})" if more else unit.task)


def _interval(scores: Scores, system: System, unit: Unit) -> Interval | None:
    cell = scores.columns[system].get(unit)
    beside = scores.beside.get((system, unit), {})
    if cell is None or "ci95_low" not in beside or "ci95_high" not in beside:
        return None
    return Interval(cell.score, cell.sample, beside["ci95_low"], beside["ci95_high"])


def _unit_rows(
    scores: Scores, systems: Sequence[System], unit: Unit, name: str
) -> Iterator[TableRow]:
    """The row of main scores, and below it what stands beside them."""
    cells = [scores.columns[system].get(unit) for system in systems]
    metrics = dict.fromkeys(quoted(cell.metric) for cell in cells if cell is not None)
    yield score_row([name, ", ".join(metrics)], cells)
    intervals = [_interval(scores, system, unit) for system in systems]
    if any(intervals):
        yield score_row([name, "95 % interval"], intervals)
    beside = [scores.beside.get((system, unit), {}) for system in systems]
    # The clusters' own V-measure is told only where they are not those that mteb measured.
    same = all(
        cell is None or abs(b.get("v_measure", cell.score) - cell.score) < 5e-5
        for b, cell in zip(beside, cells, strict=True)
    )
    for key in dict.fromkeys(key for b in beside for key in b):
        if not key.startswith("ci95_") and not (key == "v_measure" and same):
            figures = [
                Figure(b[key], cell is not None and cell.sample) if key in b else None
                for b, cell in zip(beside, cells, strict=True)
            ]
            yield score_row([name, _BESIDE.get(key, quoted(key))], figures)


def _bars(
    view: View, name: str, systems: Sequence[System], units: Sequence[Unit]
) -> Picture | None:
    """Averages by type."""
    averages = by_type(view.scores, systems, units)
    shown = {quoted(kind): found for kind, found in averages.items() if any(found)}
    if not shown:
        return None
    title = f"{name}: averages by type{sampled(a for found in shown.values() for a in found)}"
    lengths = {
        view.column(system): [None if a is None else a.score for a in line]
        for system, line in zip(systems, zip(*shown.values(), strict=True), strict=True)
        if any(line)
    }
    return view.pictures.add(
        "types", name, "Bars", title, lambda t: plots.bars(t, list(shown), lengths, view.others)
    )


def _intervals(
    view: View, name: str, systems: Sequence[System], units: Sequence[Unit]
) -> dict[str, Any]:
    """Whether there are intervals of scores, and their picture."""
    found = {s: [_interval(view.scores, s, unit) for unit in units] for s in systems}
    points = {
        view.column(system): [None if f is None else (f.score, f.low, f.high) for f in line]
        for system, line in found.items()
        if any(line)
    }
    if not points:
        return {"with_intervals": False}
    marks = sampled(f for line in found.values() for f in line)
    title = f"{name}: STS with 95 % bootstrap intervals{marks}"
    tasks = [_unit_name(unit, units) for unit in units]
    picture = view.pictures.add(
        "intervals",
        name,
        "Scores with error bars",
        title,
        lambda t: plots.intervals(t, tasks, points, view.others),
    )
    return {"with_intervals": True, "intervals": picture}


def alphas(view: View) -> Iterator[tuple[Words, Table | None, Picture | None]]:
    """Averages by type for every alpha of `sum`, between HS (0) and RW (without end), of each
    series with several; no table where no task has them all.
    """
    for series in view.scores.series():
        systems = view.scores.of(series)
        sums = [system for system in systems if system.method == "sum"]
        if len(sums) > 1:
            yield view.series[series], *_alphas(view, series, systems, sums)


def _alphas(
    view: View, series: Series, systems: Sequence[System], sums: Sequence[System]
) -> tuple[Table | None, Picture | None]:
    scores, name = view.scores, view.series[series]
    units = scores.common(systems)
    if not units:
        return None, None
    levels = {system.method: system for system in systems if system.method != "sum"}
    shown = [system for system in (levels.get("hs"), *sums, levels.get("rw")) if system is not None]
    rows, curves, every = [], [], []
    for kind, averages in by_type(scores, systems, units).items():
        found = {s: a for s, a in zip(systems, averages, strict=True) if a is not None}
        every += averages
        label = f"{quoted(kind)} ({counted(tasks_of(units, kind))})"
        rows.append(score_row([label], [found.get(system) for system in shown]))
        points = [(s.alpha or 0.0, found[s].score) for s in sums if s in found]
        flat = {METHOD_NAMES[m]: found[s].score for m, s in levels.items() if s in found}
        curves.append(plots.Curve(label, points, flat, series in scores.raw_hs))
    heads = [
        METHOD_NAMES[s.method] if s.alpha is None or s.method != "sum" else f"α = {s.alpha:g}"
        for s in shown
    ]
    title = f"{name}: score against α{sampled(every)}"
    picture = view.pictures.add(
        "alpha", name, "Curves", title, lambda t: plots.alpha_curves(t, curves)
    )
    return Table(["Type", *heads], rows), picture


def radars(view: View) -> Iterator[tuple[Words, Picture]]:
    """The paper's figure 1 for every series that has at least three of its six types."""
    for series in view.scores.series():
        systems = view.scores.main(series)
        units = view.scores.common(systems)
        kinds = [kind for kind in paper.TYPES if any(unit.type == kind for unit in units)]
        if len(kinds) >= 3:
            yield from _radar(view, view.series[series], systems, units, kinds)


def _radar(
    view: View,
    name: str,
    systems: Sequence[System],
    units: Sequence[Unit],
    kinds: Sequence[str],
) -> Iterator[tuple[Words, Picture]]:
    averages = list(by_type(view.scores, systems, units, kinds).values())
    title = f"{name}: averages by type{sampled(a for found in averages for a in found)}"
    lines = {
        view.column(system): [a.score for a in line if a is not None]
        for system, line in zip(systems, zip(*averages, strict=True), strict=True)
    }
    lacking = [kind for kind in paper.TYPES if kind not in kinds]
    note = f" Not among its six types: {', '.join(lacking)}." if lacking else ""
    picture = view.pictures.add(
        "radar",
        name,
        "Radar plot",
        title,
        lambda t: plots.radar(t, kinds, lines),
        f"spokes: {', '.join(kinds)}. The figures are in the tables above.",
    )
    if picture is not None:
        yield Words(f"{title}.{note}"), picture

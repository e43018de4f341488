"""The tables and pictures of scores: all series at a glance, one series by task, α, the radar."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from moee_index.bench.report import paper, plots
from moee_index.bench.report.markup import Picture, Table, TableRow, Words, quoted
from moee_index.bench.report.names import METHOD_NAMES, Names, Pictures, counted, sampled, score_row
from moee_index.bench.report.table import (
    Average,
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

_BESIDE = {
    "cosine_ap": "cosine_ap",
    "ami": "AMI",
    "nmi": "NMI",
    "v_measure": "V-measure of AMI's clusters",
}
_ABOVE = "the figures are in the table above."


@dataclass(frozen=True)
class Interval(Figure):
    """From `score` to `high`."""

    high: float

    @property
    def text(self) -> str:
        return f"{100 * self.score:.1f} to {100 * self.high:.1f}"


@dataclass(frozen=True)
class SeriesReport:
    """One series' table and pictures. with_intervals: some of its scores have one."""

    series: Series
    name: Words
    raw_hs: bool
    table: Table
    bars: Picture | None
    with_intervals: bool
    intervals: Picture | None


def overview(scores: Scores, names: Names) -> Table | None:
    """Averages by type of every column, as in the paper's tables 3 and 4."""
    inside = [system for series in scores.series() for system in scores.main(series)]
    outside = scores.outside()
    units = scores.common(inside or outside)
    if not units:
        return None
    averages = by_type(scores, [*inside, *outside], units)
    rows = []
    for i, system in enumerate([*inside, *outside]):
        column = scores.columns[system]
        means = [mean_of_types(column, units), average(column, units)]
        rows.append(
            score_row([names.systems[system]], [*(a[i] for a in averages.values()), *means])
        )
    heads = [f"{quoted(kind)} ({tasks_of(units, kind)})" for kind in averages]
    caption = (
        f"Over the {counted(tasks_of(units))} that every column of MoEE has; behind each type the "
        "number of its tasks. Mean of types is the paper's average, mean of tasks is MTEB's."
    )
    columns = ["Model, prompt: method", *heads, "Mean of types", "Mean of tasks"]
    return Table(columns, rows, caption)


def series_report(scores: Scores, series: Series, names: Names, pictures: Pictures) -> SeriesReport:
    """The table of one series by type and task, outside baselines beside it, and its pictures."""
    inside = scores.main(series)
    systems = [*inside, *scores.beside_series(series)]
    shared = scores.common(inside)
    seen = unit_order({unit for system in systems for unit in scores.columns[system]})
    averages = by_type(scores, systems, shared, type_order(unit.type for unit in seen))
    rows: list[TableRow] = []
    for kind, found in averages.items():
        tasks, every = tasks_of(shared, kind), tasks_of(seen, kind)
        over = counted(tasks) if tasks == every else f"{tasks} of {counted(every)}"
        label = f"{quoted(kind)}, average of {over}" if tasks else f"{quoted(kind)}, no average"
        rows.append(score_row([label, ""], found, strong=True))
        units = [unit for unit in seen if unit.type == kind]
        for unit in units:
            rows += _unit_rows(scores, systems, unit, units)
    if sum(any(found) for found in averages.values()) > 1:
        columns = [scores.columns[system] for system in systems]
        label = f"Mean of {len({unit.type for unit in shared})} types"
        means = [mean_of_types(column, shared) for column in columns]
        rows.append(score_row([label, ""], means, strong=True))
        means = [average(column, shared) for column in columns]
        rows.append(score_row([f"Mean of {counted(tasks_of(shared))}", ""], means, strong=True))
    heads = [names.column(system) for system in systems]
    shown = [system for system in systems if names.pictured(system)]
    lines = {kind: dict(zip(systems, found, strict=True)) for kind, found in averages.items()}
    bars = _bars(lines, shown, names.series[series], names, pictures)
    with_intervals, intervals = _intervals(scores, shown, seen, names, pictures)
    return SeriesReport(
        series,
        names.series[series],
        series in scores.raw_hs,
        Table(["Task", "Metric", *heads], rows, labels=2),
        bars,
        with_intervals,
        intervals,
    )


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
    return Interval(beside["ci95_low"], cell.sample, beside["ci95_high"])


def _unit_rows(
    scores: Scores, systems: Sequence[System], unit: Unit, units: Sequence[Unit]
) -> Iterator[TableRow]:
    """The row of main scores, and below it what stands beside them."""
    cells = [scores.columns[system].get(unit) for system in systems]
    metrics = dict.fromkeys(quoted(cell.metric) for cell in cells if cell is not None)
    name = _unit_name(unit, units)
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
    averages: Mapping[str, Mapping[System, Average | None]],
    systems: Sequence[System],
    name: str,
    names: Names,
    pictures: Pictures,
) -> Picture | None:
    shown = {
        quoted(kind): [found[system] for system in systems]
        for kind, found in averages.items()
        if any(found[system] for system in systems)
    }
    if not shown:
        return None
    title = f"{name}: averages by type{sampled(a for found in shown.values() for a in found)}"
    lengths = {}
    for i, system in enumerate(systems):
        line = [found[i] for found in shown.values()]
        if any(line):
            lengths[names.column(system)] = [None if a is None else a.score for a in line]
    return pictures.add(
        "types",
        name,
        f"Bars: {title}; {_ABOVE}",
        lambda: plots.bars(title, list(shown), lengths, names.others),
    )


def _intervals(
    scores: Scores,
    systems: Sequence[System],
    units: Sequence[Unit],
    names: Names,
    pictures: Pictures,
) -> tuple[bool, Picture | None]:
    """Whether there are intervals of STS scores, and their picture."""
    points: dict[str, list[tuple[float, float, float] | None]] = {}
    shown = [unit for unit in units if unit.type == "STS"]
    every: list[Interval | None] = []
    for system in systems:
        line = [_interval(scores, system, unit) for unit in shown]
        every += line
        if any(line):
            points[names.column(system)] = [
                None if f is None else (scores.columns[system][unit].score, f.score, f.high)
                for unit, f in zip(shown, line, strict=True)
            ]
    if not points:
        return False, None
    name = names.series[systems[0].series]
    title = f"{name}: STS with 95 % bootstrap intervals{sampled(every)}"
    tasks = [_unit_name(unit, shown) for unit in shown]
    return True, pictures.add(
        "intervals",
        name,
        f"Scores with error bars: {title}; {_ABOVE}",
        lambda: plots.intervals(title, tasks, points, names.others),
    )


def alphas(
    scores: Scores, names: Names, pictures: Pictures
) -> list[tuple[Words, Table | None, Picture | None]]:
    """Averages by type for every alpha of `sum`, between HS (0) and RW (without end), of each
    series with several; no table where no task has them all.
    """
    found: list[tuple[Words, Table | None, Picture | None]] = []
    for series in scores.series():
        systems = scores.of(series)
        sums = [system for system in systems if system.method == "sum"]
        units = scores.common(systems)
        name = names.series[series]
        if len(sums) > 1 and not units:
            found.append((name, None, None))
        elif len(sums) > 1:
            found.append((name, *_alphas(scores, series, sums, units, names, pictures)))
    return found


def _alphas(
    scores: Scores,
    series: Series,
    sums: Sequence[System],
    units: Sequence[Unit],
    names: Names,
    pictures: Pictures,
) -> tuple[Table, Picture | None]:
    levels = {system.method: system for system in scores.of(series) if system.method != "sum"}
    shown = [system for system in (levels.get("hs"), *sums, levels.get("rw")) if system is not None]
    systems = [*sums, *levels.values()]
    rows, curves, every = [], [], []
    for kind, averages in by_type(scores, systems, units).items():
        found = dict(zip(systems, averages, strict=True))
        every += averages
        label = f"{quoted(kind)} ({counted(tasks_of(units, kind))})"
        rows.append(score_row([label], [found[system] for system in shown]))
        points = [(s.alpha or 0.0, a.score) for s in sums if (a := found[s]) is not None]
        flat = {METHOD_NAMES[m]: a.score for m, s in levels.items() if (a := found[s]) is not None}
        curves.append(plots.Curve(label, points, flat, series in scores.raw_hs))
    heads = [
        METHOD_NAMES[s.method] if s.alpha is None or s.method != "sum" else f"α = {s.alpha:g}"
        for s in shown
    ]
    title = f"{names.series[series]}: score against α{sampled(every)}"
    picture = pictures.add(
        "alpha",
        names.series[series],
        f"Curves: {title}; {_ABOVE}",
        lambda: plots.alpha_curves(title, curves),
    )
    return Table(["Type", *heads], rows), picture


def radars(scores: Scores, names: Names, pictures: Pictures) -> Iterator[tuple[Words, Picture]]:
    """The paper's figure 1 for every series that has at least three of its six types."""
    for series in scores.series():
        systems = scores.main(series)
        units = scores.common(systems)
        kinds = [kind for kind in paper.TYPES if any(unit.type == kind for unit in units)]
        if len(kinds) < 3:
            continue
        averages = by_type(scores, systems, units, kinds)
        name = names.series[series]
        title = (
            f"{name}: averages by type{sampled(a for found in averages.values() for a in found)}"
        )
        lines = {
            names.column(system): [a.score for found in averages.values() if (a := found[i])]
            for i, system in enumerate(systems)
        }
        lacking = [kind for kind in paper.TYPES if kind not in kinds]
        note = f" Not among its six types: {', '.join(lacking)}." if lacking else ""
        alt = (
            f"Radar plot: {title}; spokes: {', '.join(kinds)}. The figures are in the tables above."
        )

        def draw(
            title: str = title, kinds: list[str] = kinds, lines: dict[str, list[float]] = lines
        ) -> bytes:
            return plots.radar(title, kinds, lines)

        picture = pictures.add("radar", name, alt, draw)
        if picture is not None:
            yield Words(f"{title}.{note}"), picture

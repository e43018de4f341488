"""The report's scores: an overview, a table for every series, curves over alpha, the radar.

Knows columns, averages and pictures. Refuses to know files, and the paper's figures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from moee_index.bench.report import paper, plots
from moee_index.bench.report.document import (
    NOTHING,
    Block,
    Bullets,
    Heading,
    Paragraph,
    Table,
    TableRow,
    quoted,
)
from moee_index.bench.report.parts import (
    METHOD_NAMES,
    NO_VALUE,
    SAMPLE,
    Names,
    Pictures,
    Value,
    counted,
    sampled,
    score_row,
    value_of,
)
from moee_index.bench.report.table import (
    Average,
    Scores,
    Series,
    System,
    Unit,
    average,
    common,
    mean_of_types,
    type_order,
    unit_order,
)

_BESIDE = {
    "cosine_ap": "cosine_ap",
    "ami": "AMI",
    "nmi": "NMI",
    "v_measure": "V-measure of AMI's clusters",
}


def overview(scores: Scores, names: Names) -> list[Block]:
    """Averages by type of every column, as in the paper's tables 3 and 4."""
    inside = [system for series in scores.series() for system in scores.main(series)]
    outside = scores.outside()
    columns = scores.columns
    units = common([columns[system] for system in inside or outside])
    blocks: list[Block] = [Heading(2, "Averages by type")]
    if not units:
        text = "No task is in every column, so nothing can be averaged over all; see each table."
        return [*blocks, Paragraph(text)]
    types = type_order(unit.type for unit in units)
    here = {kind: [unit for unit in units if unit.type == kind] for kind in types}
    heads = [f"{quoted(kind)} ({len({u.task for u in here[kind]})})" for kind in types]
    rows = []
    for system in [*inside, *outside]:
        averages = [average(columns[system], here[kind]) for kind in types]
        averages += [mean_of_types(columns[system], units), average(columns[system], units)]
        rows.append(score_row([names.systems[system]], [value_of(a) for a in averages]))
    total = len({unit.task for unit in units})
    caption = (
        f"Over the {counted(total)} that every column of MoEE has; behind each type the number of "
        "its tasks. Mean of types is the paper's average, mean of tasks is MTEB's."
    )
    heads = ["Model, prompt: method", *heads, "Mean of types", "Mean of tasks"]
    return [*blocks, Table(heads, rows, caption)]


def series_scores(scores: Scores, series: Series, names: Names, pictures: Pictures) -> list[Block]:
    """The table of one series by type and task, outside baselines beside it, and its pictures."""
    inside, outside = scores.main(series), scores.beside_series(series)
    systems = [*inside, *outside]
    columns = {system: scores.columns[system] for system in systems}
    shared = common([columns[system] for system in inside])
    seen = unit_order({unit for system in systems for unit in columns[system]})
    heads = [names.column(system) for system in systems]
    rows: list[TableRow] = []
    averages: dict[str, list[Average | None]] = {}
    for kind in type_order(unit.type for unit in seen):
        units = [unit for unit in seen if unit.type == kind]
        kept = [unit for unit in shared if unit.type == kind]
        averages[kind] = [average(columns[system], kept) for system in systems]
        tasks, all_tasks = len({u.task for u in kept}), len({u.task for u in units})
        over = counted(tasks) if tasks == all_tasks else f"{tasks} of {counted(all_tasks)}"
        label = f"{quoted(kind)}, average of {over}" if tasks else f"{quoted(kind)}, no average"
        rows.append(score_row([label, ""], list(map(value_of, averages[kind])), strong=True))
        for unit in units:
            rows += _unit_rows(scores, systems, unit, units)
    if len([kind for kind in averages if any(averages[kind])]) > 1:
        means = [mean_of_types(columns[system], shared) for system in systems]
        label = f"Mean of {len({unit.type for unit in shared})} types"
        rows.append(score_row([label, ""], list(map(value_of, means)), strong=True))
        means = [average(columns[system], shared) for system in systems]
        label = f"Mean of {counted(len({unit.task for unit in shared}))}"
        rows.append(score_row([label, ""], list(map(value_of, means)), strong=True))
    blocks: list[Block] = [
        Heading(3, names.series[series]),
        Paragraph(_options(series, raw_hs=series in scores.raw_hs)),
        Table(["Task", "Metric", *heads], rows, labels=2),
    ]
    shown = [i for i, system in enumerate(systems) if names.pictured(system)]
    lines = {kind: {heads[i]: found[i] for i in shown} for kind, found in averages.items()}
    blocks += _bars(lines, series, names, pictures)
    blocks += _intervals(scores, [systems[i] for i in shown], seen, names, pictures)
    return blocks


def _options(series: Series, *, raw_hs: bool) -> str:
    fit = quoted(series.fit or NOTHING) + (" (transductive)" if series.fit == "corpus" else "")
    standardized = quoted(series.standardize or NOTHING) + (" (HS alone: raw)" if raw_hs else "")
    rw, pooling = quoted(series.rw or NOTHING), quoted(series.pooling or NOTHING)
    return (
        f"Model {quoted(series.model)}; standardized: {standardized}, fit: {fit}; RW: {rw}; "
        f"pooling: {pooling}."
    )


def _unit_name(unit: Unit, units: Sequence[Unit]) -> str:
    """The task, and split and subset where there are several."""
    mine = [other for other in units if other.task == unit.task]
    more = []
    if len({other.split for other in mine}) > 1:
        more.append(unit.split)
    if len({other.subset for other in mine}) > 1:
        more.append(unit.subset)
    return quoted(f"{unit.task} ({', '.join(more)})" if more else unit.task)


def _unit_rows(
    scores: Scores, systems: Sequence[System], unit: Unit, units: Sequence[Unit]
) -> list[TableRow]:
    """The row of main scores, and below it what stands beside them."""
    cells = [scores.columns[system].get(unit) for system in systems]
    metrics = dict.fromkeys(quoted(cell.metric) for cell in cells if cell is not None)
    name = _unit_name(unit, units)
    values = [Value(f"{100 * c.score:.2f}", c.sample) if c else NO_VALUE for c in cells]
    rows = [score_row([name, ", ".join(metrics)], values)]
    beside = [scores.beside.get((system, unit), {}) for system in systems]
    sample = [bool(cell and cell.sample) for cell in cells]
    if any("ci95_low" in b and "ci95_high" in b for b in beside):
        ranges = [
            Value(f"{100 * b['ci95_low']:.1f} to {100 * b['ci95_high']:.1f}", s)
            if "ci95_low" in b and "ci95_high" in b
            else NO_VALUE
            for b, s in zip(beside, sample, strict=True)
        ]
        rows.append(score_row([name, "95 % interval"], ranges))
    # The clusters' own V-measure is told only where they are not those that mteb measured.
    same = all(
        cell is None or abs(b.get("v_measure", cell.score) - cell.score) < 5e-5
        for b, cell in zip(beside, cells, strict=True)
    )
    for key in dict.fromkeys(key for b in beside for key in b):
        if key.startswith("ci95_") or (key == "v_measure" and same):
            continue
        label = _BESIDE.get(key, quoted(key))
        found = [
            Value(f"{100 * b[key]:.2f}", s) if key in b else NO_VALUE
            for b, s in zip(beside, sample, strict=True)
        ]
        rows.append(score_row([name, label], found))
    return rows


def _bars(
    averages: Mapping[str, Mapping[str, Average | None]],
    series: Series,
    names: Names,
    pictures: Pictures,
) -> list[Block]:
    kinds = [kind for kind in averages if any(averages[kind].values())]
    if not kinds:
        return []
    title = f"{names.series[series]}: averages by type"
    title += sampled([a for kind in kinds for a in averages[kind].values()])
    lengths: dict[str, list[float | None]] = {}
    for head in averages[kinds[0]]:
        found = [averages[kind][head] for kind in kinds]
        if any(found):
            lengths[head] = [None if a is None else a.score for a in found]
    return pictures.add(
        "types",
        names.series[series],
        f"Bars: {title}; the figures are in the table above.",
        lambda: plots.bars(title, [quoted(kind) for kind in kinds], lengths, names.others),
    )


def _intervals(
    scores: Scores,
    systems: Sequence[System],
    units: Sequence[Unit],
    names: Names,
    pictures: Pictures,
) -> list[Block]:
    points: dict[str, list[tuple[float, float, float] | None]] = {}
    shown = [unit for unit in units if unit.type == "STS"]
    sample = ""
    for system in systems:
        line: list[tuple[float, float, float] | None] = []
        for unit in shown:
            beside, cell = (
                scores.beside.get((system, unit), {}),
                scores.columns[system].get(unit),
            )
            if cell is None or "ci95_low" not in beside or "ci95_high" not in beside:
                line.append(None)
                continue
            sample = f" ({SAMPLE})" if cell.sample else sample
            line.append((cell.score, beside["ci95_low"], beside["ci95_high"]))
        if any(line):
            points[names.column(system)] = line
    if not points:
        return []
    series = systems[0].series
    title = f"{names.series[series]}: STS with 95 % bootstrap intervals{sample}"
    text = (
        "Intervals: the pairs are drawn anew 2,000 times. They tell what another draw of pairs "
        "would change. All columns see the same draws, so overlapping intervals do not make two "
        "columns equal."
    )
    tasks = [_unit_name(unit, shown) for unit in shown]
    return [
        Paragraph(text),
        *pictures.add(
            "intervals",
            names.series[series],
            f"Scores with error bars: {title}; the figures are in the table above.",
            lambda: plots.intervals(title, tasks, points, names.others),
        ),
    ]


def alphas(scores: Scores, names: Names, pictures: Pictures) -> list[Block]:
    """Averages by type for every alpha of `sum`, between HS (0) and RW (without end)."""
    blocks: list[Block] = []
    for series in scores.series():
        systems = [s for s in scores.of(series) if s.method == "sum"]
        if len(systems) > 1:
            blocks += _alphas(scores, series, systems, names, pictures)
    if not blocks:
        return []
    opening: list[Block] = [
        Heading(2, "α of sum"),
        Paragraph(
            "sum is sim_HS + α · sim_RW: HS at α = 0, RW without end. These are test scores: the "
            "α that is best here was chosen by looking at them, and is no result."
        ),
    ]
    return [*opening, *blocks]


def _alphas(
    scores: Scores, series: Series, sums: Sequence[System], names: Names, pictures: Pictures
) -> list[Block]:
    levels = {s.method: s for s in scores.of(series) if s.method != "sum"}
    hs, rw = levels.get("hs"), levels.get("rw")
    shown = [*([hs] if hs else []), *sums, *([rw] if rw else [])]
    units = common([scores.columns[system] for system in (*sums, *levels.values())])
    if not units:
        text = f"{names.series[series]}: no task has every α and every other method."
        return [Paragraph(text)]
    rows, curves, every = [], [], []
    for kind in type_order(unit.type for unit in units):
        kept = [unit for unit in units if unit.type == kind]
        found = {s: average(scores.columns[s], kept) for s in (*sums, *levels.values())}
        every += list(found.values())
        tasks = counted(len({unit.task for unit in kept}))
        rows.append(score_row([f"{quoted(kind)} ({tasks})"], [value_of(found[s]) for s in shown]))
        points = [(s.alpha or 0.0, a.score) for s in sums if (a := found[s]) is not None]
        flat = {METHOD_NAMES[m]: a.score for m, s in levels.items() if (a := found[s]) is not None}
        curves.append(
            plots.Curve(f"{quoted(kind)} ({tasks})", points, flat, series in scores.raw_hs)
        )
    heads = [
        f"α = {s.alpha:g}" if s.method == "sum" and s.alpha is not None else METHOD_NAMES[s.method]
        for s in shown
    ]
    title = f"{names.series[series]}: score against α{sampled(every)}"
    return [
        Heading(3, names.series[series]),
        Table(["Type", *heads], rows),
        *pictures.add(
            "alpha",
            names.series[series],
            f"Curves: {title}; the figures are in the table above.",
            lambda: plots.alpha_curves(title, curves),
        ),
    ]


def radars(scores: Scores, names: Names, pictures: Pictures) -> list[Block]:
    """The paper's figure 1 for every series that has at least three of its six types."""
    blocks: list[Block] = []
    for series in scores.series():
        systems = scores.main(series)
        units = common([scores.columns[system] for system in systems])
        kinds = [kind for kind in paper.TYPES if any(unit.type == kind for unit in units)]
        if len(kinds) < 3:
            continue
        found = {
            system: [
                average(scores.columns[system], [u for u in units if u.type == kind])
                for kind in kinds
            ]
            for system in systems
        }
        title = f"{names.series[series]}: averages by type"
        title += sampled([a for line in found.values() for a in line])
        lines = {
            names.column(system): [a.score for a in line if a is not None]
            for system, line in found.items()
        }
        blocks += _radar(title, kinds, lines, names.series[series], pictures)
    if not blocks:
        return []
    missing_types = Bullets(
        [
            "A spoke is the average of its type's tasks, the same as in the tables above.",
            "The paper's own figure (DeepSeekMoE-16B, prompteol) draws a best of several as MoEE: "
            "its 72.4 for PairClassification is concat's, its 29.3 for Summarization is RW's.",
        ]
    )
    return [Heading(2, "The paper's figure 1"), missing_types, *blocks]


def _radar(
    title: str,
    kinds: Sequence[str],
    lines: Mapping[str, Sequence[float]],
    about: str,
    pictures: Pictures,
) -> list[Block]:
    lacking = [kind for kind in paper.TYPES if kind not in kinds]
    note = f" Not among its six types: {', '.join(lacking)}." if lacking else ""
    alt = f"Radar plot: {title}; spokes: {', '.join(kinds)}. The figures are in the tables above."
    drawn = pictures.add("radar", about, alt, lambda: plots.radar(title, kinds, lines))
    return [Paragraph(f"{title}.{note}"), *drawn] if drawn else []

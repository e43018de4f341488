"""The report's section on the paper's own figures, for the paper's three models.

It says which figures of the paper stand beside which of ours, and where a difference is no gap.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from moee_index.bench.report import paper
from moee_index.bench.report.markup import (
    NOTHING,
    Block,
    Bullets,
    Heading,
    Table,
    TableRow,
    quoted,
)
from moee_index.bench.report.names import SAMPLE, Names, counted
from moee_index.bench.report.table import Scores, Series, System, natural, type_order


@dataclass(frozen=True)
class _Pair:
    """One cell of ours beside the paper's, both from 0 to 1."""

    system: System
    task: str
    type: str
    ours: float
    theirs: float
    sample: bool
    note: paper.Note | None

    @property
    def counts(self) -> bool:
        return self.note is None and not self.sample


def gap(scores: Scores, names: Names) -> list[Block]:
    """Our scores beside the paper's, series by series; empty where no row has a paper's cell."""
    blocks: list[Block] = []
    for series in scores.series():
        pairs = list(_pairs(scores, series))
        if pairs:
            blocks += [Heading(3, names.series[series]), *_series(pairs, names)]
    return blocks


def _pairs(scores: Scores, series: Series) -> Iterator[_Pair]:
    """A task's units are averaged; the paper has one figure for each task."""
    for system in scores.main(series):
        cells = [(u, c) for u, c in scores.columns[system].items() if c.paper is not None]
        for task in sorted({unit.task for unit, _ in cells}, key=natural):
            mine = [(unit, cell) for unit, cell in cells if unit.task == task]
            unit, cell = mine[0]
            yield _Pair(
                system,
                task,
                unit.type,
                sum(cell.score for _, cell in mine) / len(mine),
                cell.paper or 0.0,
                any(cell.sample for _, cell in mine),
                paper.note(series.model, series.prompt, system.method, task),
            )


def _series(pairs: Sequence[_Pair], names: Names) -> list[Block]:
    blocks: list[Block] = []
    sound = [pair for pair in pairs if pair.counts]
    if sound:
        rows = list(_averages(sound, names))
        caption = "Averages over tasks whose figure in the paper is sound and not in doubt."
        heads = ["Type", "Method", "Tasks", "Here", "Paper", "Gap"]
        blocks.append(Table(heads, rows, caption, labels=2))
    remarks = list(dict.fromkeys(pair.note.text for pair in pairs if pair.note is not None))
    types = type_order(pair.type for pair in pairs)
    tasks = sorted({(types.index(p.type), natural(p.task), p.task) for p in pairs})
    rows = []
    for _, _, task in tasks:
        rows += [_row(pair, names, remarks) for pair in pairs if pair.task == task]
    blocks.append(Table(["Task", "Method", "Here", "Paper", "Gap"], rows, labels=2))
    if remarks:
        blocks.append(Bullets([f"[{i}] {text}." for i, text in enumerate(remarks, 1)]))
    return blocks


def _averages(sound: Sequence[_Pair], names: Names) -> Iterator[TableRow]:
    for kind in type_order(pair.type for pair in sound):
        for system in dict.fromkeys(pair.system for pair in sound):
            mine = [p for p in sound if p.type == kind and p.system == system]
            if mine:
                ours = sum(pair.ours for pair in mine) / len(mine)
                theirs = sum(pair.theirs for pair in mine) / len(mine)
                labels = [quoted(kind), names.column(system), str(len(mine))]
                yield TableRow([*labels, *_figures(ours, theirs)])


def _figures(ours: float, theirs: float) -> list[str]:
    return [f"{100 * ours:.2f}", f"{100 * theirs:.2f}", f"{100 * (ours - theirs):+.2f}"]


def _row(pair: _Pair, names: Names, remarks: Sequence[str]) -> TableRow:
    mark = f" [{remarks.index(pair.note.text) + 1}]" if pair.note is not None else ""
    ours, theirs, difference = _figures(pair.ours, pair.theirs)
    difference += mark
    if pair.note is not None and pair.note.unsound:
        difference = f"no gap{mark}"
    task = quoted(pair.task)
    if pair.sample:
        task, difference = f"{task} ({SAMPLE})", f"{NOTHING}{mark}"
    return TableRow([task, names.column(pair.system), ours, theirs, difference])


def trained(scores: Scores, names: Names) -> Table | None:
    """The trained encoders of the paper's table 4 beside a series that has all of its tasks."""
    wanted = paper.tasks()
    whole = [
        series
        for series in scores.series()
        if all(
            set(wanted) <= {unit.task for unit in scores.columns[system]}
            for system in scores.main(series)
        )
    ]
    if not whole:
        return None
    rows = []
    for series in whole:
        for system in scores.main(series):
            column = scores.columns[system]
            sample = any(cell.sample for unit, cell in column.items() if unit.task in wanted)
            means = []
            for kind in paper.TYPES:
                tasks = [task for task in wanted if wanted[task] == kind]
                found = [[c.score for u, c in column.items() if u.task == t] for t in tasks]
                means.append(sum(sum(f) / len(f) for f in found) / len(found))
            name = f"{names.series[series]}: {names.column(system)}"
            rows.append(_trained_row(f"{name} ({SAMPLE})" if sample else name, means))
    for name, cells in paper.trained_baselines().items():
        rows.append(_trained_row(quoted(name), [cells[kind] for kind in paper.TYPES]))
    caption = (
        f"The {counted(len(wanted))} of the paper. Trained encoders as its table 4 quotes them "
        "from MTEB's leaderboard (P2: in the camera-ready version alone)."
    )
    heads = ["Model", *paper.TYPES, "Mean of types"]
    return Table(heads, rows, caption)


def _trained_row(name: str, means: Sequence[float]) -> TableRow:
    return TableRow([name, *(f"{100 * m:.2f}" for m in (*means, sum(means) / len(means)))])

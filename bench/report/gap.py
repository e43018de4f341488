"""The report's section on the paper's own figures, for the paper's three models.

It says which figures of the paper stand beside which of ours, and where a difference is no gap.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from moee_index.bench.report import paper
from moee_index.bench.report.markup import NOTHING, Table, TableRow, Words, quoted
from moee_index.bench.report.table import (
    Figure,
    Series,
    System,
    average,
    by_type,
    mean_of_types,
    type_order,
    unit_order,
)
from moee_index.bench.report.view import SAMPLE, View, counted, score_row


@dataclass(frozen=True)
class _Beside:
    """A task's score of ours beside the paper's, both from 0 to 1."""

    system: System
    task: str
    type: str
    ours: Figure
    theirs: float
    note: paper.Note | None

    @property
    def counts(self) -> bool:
        return self.note is None and not self.ours.sample


def gaps(view: View) -> Iterator[dict[str, Any]]:
    """Our scores beside the paper's, of each series with a task of which the paper has a figure.

    remarks: what the numbers in brackets stand for.
    """
    for series in view.scores.series():
        found = list(_beside(view, series))
        if found:
            remarks = list(dict.fromkeys(one.note.text for one in found if one.note is not None))
            rows = [_row(one, view, remarks) for one in found]
            tasks = Table(["Task", "Method", "Here", "Paper", "Gap"], rows, labels=2)
            averages = _averages([one for one in found if one.counts], view, series)
            yield {
                "name": view.series[series],
                "averages": averages,
                "tasks": tasks,
                "remarks": [Words(remark) for remark in remarks],
            }


def _beside(view: View, series: Series) -> Iterator[_Beside]:
    """By task, then by method. A task's units are averaged; the paper has one figure for each."""
    systems = view.scores.main(series)
    columns = {
        system: {u: c for u, c in view.scores.columns[system].items() if c.paper is not None}
        for system in systems
    }
    units = unit_order({unit for column in columns.values() for unit in column})
    for task in dict.fromkeys(unit.task for unit in units):
        for system, column in columns.items():
            mine = [unit for unit in units if unit.task == task and unit in column]
            if (ours := average(column, mine)) is not None:
                theirs = column[mine[0]].paper or 0.0
                note = paper.note(series.model, series.prompt, system.method, task)
                yield _Beside(system, task, mine[0].type, ours, theirs, note)


def _averages(sound: Sequence[_Beside], view: View, series: Series) -> Table | None:
    """Of the tasks that count, by type and method."""
    rows = []
    for kind in type_order(one.type for one in sound):
        for system in view.scores.main(series):
            mine = [one for one in sound if one.type == kind and one.system == system]
            if mine:
                ours = sum(one.ours.score for one in mine) / len(mine)
                theirs = sum(one.theirs for one in mine) / len(mine)
                labels = [quoted(kind), view.column(system), str(len(mine))]
                rows.append(TableRow([*labels, *_figures(ours, theirs)]))
    caption = "Averages over tasks whose figure in the paper is sound and not in doubt."
    heads = ["Type", "Method", "Tasks", "Here", "Paper", "Gap"]
    return Table(heads, rows, caption, labels=2) if rows else None


def _figures(ours: float, theirs: float) -> list[str]:
    return [f"{100 * ours:.2f}", f"{100 * theirs:.2f}", f"{100 * (ours - theirs):+.2f}"]


def _row(one: _Beside, view: View, remarks: Sequence[str]) -> TableRow:
    ours, theirs, difference = _figures(one.ours.score, one.theirs)
    task = quoted(one.task)
    if one.ours.sample:
        task, difference = f"{task} ({SAMPLE})", NOTHING
    elif one.note is not None and one.note.unsound:
        difference = "no gap"
    mark = f" [{remarks.index(one.note.text) + 1}]" if one.note is not None else ""
    return TableRow([task, view.column(one.system), ours, theirs, difference + mark])


def trained(view: View) -> Table | None:
    """The trained encoders of the paper's table 4 beside a series that has all of its tasks."""
    wanted, rows = paper.tasks(), []
    for series in view.scores.series():
        systems = view.scores.main(series)
        columns = [view.scores.columns[system] for system in systems]
        if all(set(wanted) <= {unit.task for unit in column} for column in columns):
            for system, column in zip(systems, columns, strict=True):
                units = unit_order(unit for unit in column if unit.task in wanted)
                averages = by_type(view.scores, [system], units, paper.TYPES)
                figures = [*(found for (found,) in averages.values()), mean_of_types(column, units)]
                rows.append(score_row([view.systems[system]], figures))
    if not rows:
        return None
    for name, cells in paper.trained_baselines().items():
        means = [cells[kind] for kind in paper.TYPES]
        means.append(sum(means) / len(means))
        rows.append(score_row([quoted(name)], [Figure(mean, False) for mean in means]))
    caption = (
        f"The {counted(len(wanted))} of the paper. Trained encoders as its table 4 quotes them "
        "from MTEB's leaderboard (P2: in the camera-ready version alone)."
    )
    return Table(["Model", *paper.TYPES, "Mean of types"], rows, caption)

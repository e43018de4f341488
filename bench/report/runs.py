"""What runs are about, what was run, what is missing: from their records and their rows."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from moee_index.bench.report import paper
from moee_index.bench.report.markup import NOTHING, Table, quoted
from moee_index.bench.report.table import Scores, short, unit_order
from moee_index.bench.report.view import View, model_label
from moee_index.bench.run_dir import Run
from moee_index.fusion import METHODS

_MODEL = ("bits", "prompt", "query_prompt", "rw", "pooling")


def about(runs: Sequence[Run], scores: Scores) -> dict[str, Any]:
    """What these runs are about: the report's template has a caveat for some of it."""
    inside = [system.series for system in scores.columns if not system.outside]
    every = [system.series for system in scores.columns]
    units = {unit for column in scores.columns.values() for unit in column}
    options = [given for run in runs if isinstance(given := run.record.get("options"), dict)]
    return {
        "models": {short(series.model).lower() for series in every},
        "untrained": any("untrained" in short(series.model).lower() for series in every),
        "instruction": any((series.prompt or "").endswith("+instruction") for series in every),
        "sample": any(c.sample for column in scores.columns.values() for c in column.values()),
        "fits": {series.fit for series in inside},
        "paper": {paper.model_of(series.model) for series in inside},
        "tasks": {unit.task for unit in units},
        "types": {unit.type for unit in units},
        "options": {name for given in options for name in given if given[name]},
    }


def what_ran(runs: Sequence[Run]) -> Table | None:
    """Models, their options, counts, time and memory as run.json has them."""
    rows = [[*_label(runs, run), *_ran(entry)] for run in runs for entry in _runs(run.record)]
    first = ["Run"] if len(runs) > 1 else []
    words = [*first, "Model", "Fingerprint", "Bits", "Prompt", "Query prompt", "RW", "Pooling"]
    counts = ["Max tokens", "Tasks", "Texts", "Computed", "Minutes", "Texts/s", "Peak memory"]
    caption = (
        "Computed: texts that went through the model in this run; the others were at hand. "
        "Minutes: the whole, evaluation included. Texts/s: while computing."
    )
    return Table([*words, *counts], rows, caption, labels=len(words)) if rows else None


def _label(runs: Sequence[Run], run: Run) -> list[str]:
    """What tells the runs apart where there are several."""
    return [quoted(run.label)] if len(runs) > 1 else []


def _objects(found: object) -> list[dict[str, Any]]:
    """The objects of a list from a record, without what is none."""
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def _runs(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    return _objects(record.get("runs"))


def _ran(entry: Mapping[str, Any]) -> list[str]:
    def number(name: str) -> float | None:
        value = entry.get(name)
        return float(value) if isinstance(value, int | float) else None

    def shown(value: float | None, form: str) -> str:
        return NOTHING if value is None else f"{value:{form}}"

    computed, spent = number("texts_computed"), number("seconds_computed")
    whole, peak = number("seconds"), number("peak_rss_bytes")
    tasks = entry.get("tasks")
    return [
        _model(entry, NOTHING),
        quoted(entry.get("fingerprint") or NOTHING)[:12],
        *(_value(entry.get(name)) for name in (*_MODEL, "max_tokens")),
        str(len(tasks)) if isinstance(tasks, list) else NOTHING,
        shown(number("texts"), ",.0f"),
        shown(computed, ",.0f"),
        shown(whole and whole / 60, ".1f"),
        shown(computed / spent if computed and spent else None, ".0f"),
        NOTHING if peak is None else f"{peak / 2**30:.2f} GiB",
    ]


def _model(entry: Mapping[str, Any], absent: str) -> str:
    return model_label(short(str(entry.get("model", absent))))


def times(runs: Sequence[Run]) -> list[tuple[str, str, str]]:
    """(label, started, finished) of each run that tells."""
    return [
        (run.label, _value(run.record["started"]), _value(run.record.get("finished")))
        for run in runs
        if run.record.get("started") is not None
    ]


def facts(runs: Sequence[Run]) -> list[Table]:
    """Versions, machine and options as run.json has them, one column a run."""
    tables = []
    for title in ("Versions", "Machine", "Options"):
        rows = _rows([_flat(run.record.get(title.lower())) for run in runs])
        if rows:
            heads = [label for run in runs for label in _label(runs, run)] or ["Value"]
            columns = [title, *heads]
            tables.append(Table(columns, rows, labels=len(columns)))
    return tables


def _rows(facts: Sequence[Mapping[str, str]]) -> list[list[str]]:
    """Every fact that a run has at least: its name, then one cell a run."""
    keys = dict.fromkeys(key for found in facts for key in found)
    return [[quoted(key), *(found.get(key, NOTHING) for found in facts)] for key in keys]


def _value(value: object) -> str:
    """A value from a record in words."""
    if value is None or value == []:
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list) and all(isinstance(v, str | int | float) for v in value):
        return quoted(", ".join(map(str, value)))
    if isinstance(value, dict | list):
        return quoted(json.dumps(value, ensure_ascii=False, sort_keys=True))
    return quoted(value)


def _flat(section: object) -> dict[str, str]:
    """A dictionary's facts in words; those of a dictionary within it stand among them."""
    facts: dict[str, str] = {}
    for key, value in section.items() if isinstance(section, dict) else ():
        inside = value.items() if isinstance(value, dict) else ()
        facts |= {f"{key}: {name}": _fact(str(name), one) for name, one in inside}
        if not isinstance(value, dict):
            facts[str(key)] = _fact(str(key), value)
    return facts


def _fact(name: str, value: object) -> str:
    if name.endswith("_bytes") and isinstance(value, int | float):
        return f"{value / 2**30:.1f} GiB"
    return _value(value)


def differing(runs: Sequence[Run]) -> Table | None:
    """Every fact in which recorded runs differ, one column a run."""
    recorded = [1 + i for i, run in enumerate(runs) if run.record]
    rows = _rows([_of_run(run) for run in runs])
    rows = [row for row in rows if len({row[column] for column in recorded}) > 1]
    columns = ["What", *(quoted(run.label) for run in runs)]
    caption = "What run.json and the rows record differently."
    return Table(columns, rows, caption, labels=len(columns)) if rows else None


def _of_run(run: Run) -> dict[str, str]:
    """Facts of a record, and of its rows, by name; outside baselines have no say."""
    facts: dict[str, str] = {}
    for name in ("options", "versions", "machine"):
        facts |= {f"{name}: {key}": v for key, v in _flat(run.record.get(name)).items()}
    ours = [entry for entry in _runs(run.record) if entry.get("bits") is not None]
    rows = [row for row in run.rows if row.method in METHODS]
    values = {name: [e.get(name) for e in ours] for name in ("model", "fingerprint", *_MODEL)}
    values |= {name: [getattr(row, name) for row in rows] for name in ("standardize", "fit")}
    return facts | {
        name: ", ".join(sorted(set(map(_value, found)))) or NOTHING
        for name, found in values.items()
    }


def missing(runs: Sequence[Run], view: View) -> dict[str, Any]:
    """What was to be here and is not; empty where everything is.

    table: tasks that did not run, with the reason. broken: (column, task) whose score is no
    number. holes: (column, tasks) that it lacks beside the others.
    """
    rows: dict[tuple[str, ...], list[str]] = {}
    for run in runs:
        for task, why, prompt in _not_run(_runs(run.record)):
            prompts = rows.setdefault(
                (quoted(task), quoted(why or NOTHING), *_label(runs, run)), []
            )
            if prompt not in prompts:
                prompts.append(prompt)
    lines = [[task, "; ".join(of), *more] for (task, *more), of in rows.items()]
    columns = ["Task", "Model, prompt", "Why", *(["Run"] if len(runs) > 1 else [])]
    table = Table(columns, lines, "These did not run.", labels=len(columns)) if lines else None
    broken = [(view.systems[system], unit.task) for system, unit in view.scores.broken]
    found = {"table": table, "broken": broken, "holes": list(_holes(view))}
    return found if any(found.values()) else {}


def _not_run(entries: Sequence[dict[str, Any]]) -> Iterator[tuple[object, object, str]]:
    """Task, reason, model and prompt of what no later run into the same directory made up for."""
    for number, entry in enumerate(entries):
        for one in _objects(entry.get("missing")):
            task = one.get("task")
            if not any(_made_up_for(entry, task, later) for later in entries[number + 1 :]):
                prompt = f", {quoted(entry['prompt'])}" if entry.get("prompt") else ""
                yield task, one.get("why"), _model(entry, "None") + prompt


def _made_up_for(entry: Mapping[str, Any], task: object, later: Mapping[str, Any]) -> bool:
    """Whether a later run had the task, whole."""
    same = all(entry.get(name) == later.get(name) for name in ("model", "prompt"))
    ran = later.get("tasks")
    whole = all(one.get("task") != task for one in _objects(later.get("missing")))
    return same and whole and isinstance(ran, list) and task in ran


def _holes(view: View) -> Iterator[tuple[str, str]]:
    for series in view.scores.series():
        columns = {system: view.scores.columns[system] for system in view.scores.of(series)}
        seen = unit_order({unit for column in columns.values() for unit in column})
        for system, column in columns.items():
            lacking = dict.fromkeys(unit.task for unit in seen if unit not in column)
            if lacking:
                yield view.systems[system], ", ".join(lacking)


def paper_tasks(scores: Scores) -> tuple[list[str], list[str]]:
    """The paper's tasks that are in here, and those that are not."""
    have = {u.task for s in scores.columns if not s.outside for u in scores.columns[s]}
    wanted = paper.tasks()
    return [task for task in wanted if task in have], [t for t in wanted if t not in have]

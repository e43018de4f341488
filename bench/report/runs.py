"""What runs are about, what was run, what is missing: from their records and their rows."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from moee_index.bench.report import paper
from moee_index.bench.report.markup import (
    NOTHING,
    Block,
    Bullets,
    Table,
    TableRow,
    quoted,
)
from moee_index.bench.report.names import model_label
from moee_index.bench.report.table import Scores, System, short, unit_order
from moee_index.bench.run_dir import Run
from moee_index.fusion import METHODS


def about(runs: Sequence[Run], scores: Scores) -> set[str]:
    """What these runs are about: the report's template has a caveat for some of it."""
    inside = [system for system in scores.columns if not system.outside]
    models = [short(system.series.model).lower() for system in scores.columns]
    cells = {unit: cell for column in scores.columns.values() for unit, cell in column.items()}
    facts = {f"fit {system.series.fit}" for system in inside}
    facts |= {f"task {unit.task}" for unit in cells} | {f"type {unit.type}" for unit in cells}
    facts |= {f"option {name}" for name in ("paper_protocol", "data") if _given(runs, name)}
    facts |= {f"model {model}" for model in models}
    facts |= {f"paper's {paper.model_of(system.series.model)}" for system in inside}
    prompts = [system.series.prompt or "" for system in scores.columns]
    for name, applies in {
        "untrained": any("untrained" in model for model in models),
        "instruction": any(prompt.endswith("+instruction") for prompt in prompts),
        "sample": any(c.sample for column in scores.columns.values() for c in column.values()),
    }.items():
        facts |= {name} if applies else set()
    return facts


def _given(runs: Sequence[Run], name: str) -> bool:
    options = [run.record.get("options") for run in runs]
    return any(isinstance(found, dict) and found.get(name) for found in options)


def what_ran(runs: Sequence[Run]) -> Table | None:
    """Models, their options, counts, time and memory as run.json has them."""
    rows = [row for run in runs for row in _run_rows(run, len(runs) > 1)]
    if rows:
        first = ["Run"] if len(runs) > 1 else []
        words = [*first, "Model", "Fingerprint", "Bits", "Prompt", "Query prompt", "RW", "Pooling"]
        counts = ["Max tokens", "Tasks", "Texts", "Computed", "Minutes", "Texts/s", "Peak memory"]
        caption = (
            "Computed: texts that went through the model in this run; the others were at hand. "
            "Minutes: the whole, evaluation included. Texts/s: while computing."
        )
        return Table([*words, *counts], rows, caption, labels=len(words))
    return None


def record(runs: Sequence[Run]) -> list[Block]:
    """Times, versions, machine and options as run.json has them."""
    blocks: list[Block] = []
    times = [
        f"{quoted(run.label)}: started {_value(run.record.get('started'))}, finished "
        f"{_value(run.record.get('finished'))}"
        for run in runs
        if run.record.get("started") is not None
    ]
    if times:
        blocks.append(Bullets(times))
    for name, title in (("versions", "Versions"), ("machine", "Machine"), ("options", "Options")):
        blocks += _facts(runs, name, title)
    return blocks


def entries(run: Run) -> list[dict[str, Any]]:
    """The `runs` of a record, without what is no object."""
    found = run.record.get("runs")
    return [e for e in found if isinstance(e, dict)] if isinstance(found, list) else []


def _run_rows(run: Run, labelled: bool) -> Iterator[TableRow]:
    for entry in entries(run):
        computed, seconds = _number(entry, "texts_computed"), _number(entry, "seconds_computed")
        whole, peak = _number(entry, "seconds"), _number(entry, "peak_rss_bytes")
        tasks = entry.get("tasks")
        yield TableRow(
            [
                *([quoted(run.label)] if labelled else []),
                model_label(short(str(entry.get("model", NOTHING)))),
                quoted(entry.get("fingerprint") or NOTHING)[:12],
                *(
                    _value(entry.get(name))
                    for name in ("bits", "prompt", "query_prompt", "rw", "pooling", "max_tokens")
                ),
                str(len(tasks)) if isinstance(tasks, list) else NOTHING,
                _count(_number(entry, "texts")),
                _count(computed),
                NOTHING if whole is None else f"{whole / 60:.1f}",
                f"{computed / seconds:.0f}" if computed and seconds else NOTHING,
                NOTHING if peak is None else f"{peak / 2**30:.2f} GiB",
            ]
        )


def _number(entry: Mapping[str, Any], name: str) -> float | None:
    value = entry.get(name)
    return float(value) if isinstance(value, int | float) else None


def _count(value: float | None) -> str:
    return NOTHING if value is None else f"{value:,.0f}"


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


def _facts(runs: Sequence[Run], name: str, title: str) -> list[Block]:
    """A dictionary of the record as a table, one column a run."""
    facts = [_flat(run.record.get(name)) for run in runs]
    keys = list(dict.fromkeys(key for fact in facts for key in fact))
    if not keys:
        return []
    columns = [title, *([quoted(run.label) for run in runs] if len(runs) > 1 else ["Value"])]
    rows = [TableRow([quoted(k), *(fact.get(k, NOTHING) for fact in facts)]) for k in keys]
    return [Table(columns, rows, labels=len(columns))]


def _flat(section: object) -> dict[str, str]:
    """A dictionary's facts in words; those of a dictionary within it stand among them."""
    facts: dict[str, str] = {}
    for key, value in section.items() if isinstance(section, dict) else ():
        if isinstance(value, dict):
            facts |= {f"{key}: {inner}": _fact(str(inner), one) for inner, one in value.items()}
        else:
            facts[str(key)] = _fact(str(key), value)
    return facts


def _fact(name: str, value: object) -> str:
    if name.endswith("_bytes") and isinstance(value, int | float):
        return f"{value / 2**30:.1f} GiB"
    return _value(value)


def differing(runs: Sequence[Run]) -> list[TableRow]:
    """Every fact in which recorded runs differ: what, then one cell a run."""
    facts = [_of_run(run) for run in runs]
    rows = []
    for key in dict.fromkeys(key for found in facts for key in found):
        cells = [found.get(key, NOTHING) for found in facts]
        if len({cell for cell, run in zip(cells, runs, strict=True) if run.record}) > 1:
            rows.append(TableRow([quoted(key), *cells]))
    return rows


def _of_run(run: Run) -> dict[str, str]:
    """Facts of a record, and of its rows, by name; outside baselines have no say."""
    facts: dict[str, str] = {}
    for name in ("options", "versions", "machine"):
        facts |= {f"{name}: {key}": v for key, v in _flat(run.record.get(name)).items()}
    ours = [entry for entry in entries(run) if entry.get("bits") is not None]
    for name in ("model", "fingerprint", "bits", "prompt", "query_prompt", "rw", "pooling"):
        facts[name] = ", ".join(sorted({_value(entry.get(name)) for entry in ours})) or NOTHING
    rows = [row for row in run.rows if row.method in METHODS]
    for name in ("standardize", "fit"):
        facts[name] = ", ".join(sorted({_value(getattr(row, name)) for row in rows})) or NOTHING
    return facts


def missing(runs: Sequence[Run], scores: Scores, label: Mapping[System, str]) -> list[Block]:
    """Tasks that did not run, with the reason, and scores that a column lacks beside the others."""
    rows: dict[tuple[str, str, str], list[str]] = {}
    for run in runs:
        for number, entry in enumerate(entries(run)):
            later = entries(run)[number + 1 :]
            for one in _lacking(entry):
                task, why = one.get("task"), one.get("why")
                if any(_made_up_for(entry, task, other) for other in later):
                    continue
                key = quoted(run.label), quoted(task), quoted(why or NOTHING)
                prompts = rows.setdefault(key, [])
                what = model_label(short(str(entry.get("model"))))
                if entry.get("prompt"):
                    what += f", {quoted(entry['prompt'])}"
                if what not in prompts:
                    prompts.append(what)
    lines = [TableRow([t, "; ".join(of), why, name]) for (name, t, why), of in rows.items()]
    holes = [*_not_numbers(scores, label), *_holes(scores, label)]
    blocks: list[Block] = []
    if lines:
        columns = ["Task", "Model, prompt", "Why", "Run"]
        if len(runs) == 1:
            columns, lines = columns[:3], [TableRow(line.cells[:3]) for line in lines]
        blocks.append(Table(columns, lines, "These did not run.", labels=len(columns)))
    if holes:
        blocks.append(Bullets(holes))
    return blocks


def _lacking(entry: Mapping[str, Any]) -> list[dict[str, Any]]:
    found = entry.get("missing")
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def _made_up_for(entry: Mapping[str, Any], task: object, later: Mapping[str, Any]) -> bool:
    """Whether a later run into the same directory had the task, whole."""
    same = all(entry.get(name) == later.get(name) for name in ("model", "prompt"))
    ran = later.get("tasks")
    whole = all(one.get("task") != task for one in _lacking(later))
    return same and whole and isinstance(ran, list) and task in ran


def _not_numbers(scores: Scores, label: Mapping[System, str]) -> Iterator[str]:
    for system, unit in scores.broken:
        yield f"{label[system]}: the score of {quoted(unit.task)} is no number."


def _holes(scores: Scores, label: Mapping[System, str]) -> Iterator[str]:
    for series in scores.series():
        systems = scores.of(series)
        seen = unit_order({unit for system in systems for unit in scores.columns[system]})
        for system in systems:
            lacking = dict.fromkeys(u.task for u in seen if u not in scores.columns[system])
            if lacking:
                yield (
                    f"{label[system]} lacks {quoted(', '.join(lacking))}, which other columns of "
                    "its table have."
                )


def paper_tasks(scores: Scores) -> tuple[list[str], list[str]]:
    """The paper's tasks that are in here, and those that are not."""
    have = {u.task for s in scores.columns if not s.outside for u in scores.columns[s]}
    wanted = paper.tasks()
    return [task for task in wanted if task in have], [t for t in wanted if t not in have]

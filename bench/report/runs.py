"""The report's opening: what to know before reading a figure, what was run, what is missing.

Knows run records and which rows a column lacks. Refuses to know scores' values.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from moee_index.bench.report import paper
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
from moee_index.bench.report.parts import SAMPLE, model_label
from moee_index.bench.report.table import Scores, System, short, unit_order
from moee_index.bench.run_files import Run
from moee_index.fusion import METHODS


def caveats(runs: Sequence[Run], scores: Scores) -> list[Block]:
    """What a reader must know first, only as far as it applies to these runs."""
    return [Heading(2, "Read this first"), Bullets(list(_caveats(runs, scores)))]


def _caveats(runs: Sequence[Run], scores: Scores) -> Iterator[str]:
    models = {short(system.series.model).lower() for system in scores.columns}
    fits = {s.series.fit for s in scores.columns if not s.outside}
    tasks = {unit.task for column in scores.columns.values() for unit in column}
    if "tiny" in models:
        yield (
            "The model `tiny` is distilled from all-MiniLM-L6-v2. It demonstrates the program, "
            "not the method: MoEE takes its vectors from a language model that nobody trained for "
            "embeddings. Its figures say nothing about the paper."
        )
    if any("untrained" in model for model in models):
        yield (
            "Untrained weights show what architecture, tokenizer and standardising give alone; "
            "what training adds lies above them."
        )
    if any(cell.sample for column in scores.columns.values() for cell in column.values()):
        yield (
            f"Some figures were taken on a part of the data (`--limit`). They are marked “{SAMPLE}”"
            " and compare with nothing outside this run."
        )
    if any(_option(run, "paper_protocol") for run in runs):
        yield (
            "`--paper-protocol`: the authors' way, for comparison with the paper alone. Its vectors"
            " depend on the batch that they happen to be in."
        )
    if any((s.series.prompt or "").endswith("+instruction") for s in scores.columns):
        yield "A prompt with `+instruction`: the authors' instruction stands before every text."
    if "corpus" in fits:
        yield (
            "Fit `corpus` is transductive: mean and deviation come from the unlabelled texts of "
            "the very split that is evaluated (retrieval and reranking: from the corpus alone). "
            "Labels are never seen. A leaderboard's models see one text at a time; compare with "
            "them by fit `calibrated`."
        )
    if "calibrated" in fits:
        yield (
            "Fit `calibrated`: mean and deviation come from a fixed set of reference texts, so a "
            "vector is a function of its text alone."
        )
    if "batch" in fits:
        yield (
            "Fit `batch` standardises each batch by itself, as the authors' code does: a vector "
            "depends on its neighbours. It is there to reproduce, not to use."
        )
    if any(_option(run, "data") for run in runs):
        yield (
            "Data sets came from a local folder (`--data`). Where such a copy differs from the "
            "hub's data set, its score compares with runs on the same copy alone."
        )
    if "SummEval" in tasks:
        yield (
            "SummEval's score is mteb's deprecated one, a mean over correlations and p-values; "
            "SummEvalSummarization.v2 is the correlation alone."
        )
    if any(unit.type == "PairClassification" for c in scores.columns.values() for unit in c):
        yield (
            "PairClassification's `max_ap` takes the best of several measures, Manhattan distance "
            "among them, for which `sum` is no weighted sum; `cosine_ap` stands beside it."
        )
    if any(unit.type == "Clustering" for column in scores.columns.values() for unit in column):
        yield (
            "V-measure is not corrected for chance: random clusters score above 0, and the more, "
            "the more clusters there are. AMI is 0 for random clusters and stands beside it."
        )
    yield (
        "Scores are mteb's main scores times 100. An average is taken over the tasks that every "
        "column of MoEE in its table has; an outside baseline that lacks one of them has none. "
        "Within a task, splits and subsets count alike."
    )


def _option(run: Run, name: str) -> Any:
    options = run.record.get("options")
    return options.get(name) if isinstance(options, dict) else None


def what_ran(runs: Sequence[Run]) -> list[Block]:
    """Models, their options, counts, time and memory as run.json has them."""
    blocks: list[Block] = [Heading(2, "What was run")]
    unrecorded = [run.label for run in runs if not run.record]
    if unrecorded:
        blocks.append(Paragraph(f"No run.json: {quoted(', '.join(unrecorded))}."))
    rows = [row for run in runs for row in _run_rows(run, len(runs) > 1)]
    if rows:
        first = ["Run"] if len(runs) > 1 else []
        words = [*first, "Model", "Fingerprint", "Bits", "Prompt", "Query prompt", "RW", "Pooling"]
        counts = ["Max tokens", "Tasks", "Texts", "Computed", "Minutes", "Texts/s", "Peak memory"]
        caption = (
            "Computed: texts that went through the model in this run; the others were at hand. "
            "Minutes: the whole, evaluation included. Texts/s: while computing."
        )
        blocks.append(Table([*words, *counts], rows, caption, labels=len(words)))
    return blocks


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
    return [Heading(2, "The record"), *blocks] if blocks else []


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
                model_label(quoted(short(str(entry.get("model", NOTHING))))),
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
                what = model_label(quoted(short(str(entry.get("model")))))
                if entry.get("prompt"):
                    what += f", {quoted(entry['prompt'])}"
                if what not in prompts:
                    prompts.append(what)
    lines = [TableRow([t, "; ".join(of), why, name]) for (name, t, why), of in rows.items()]
    holes = [*_not_numbers(scores, label), *_holes(scores, label)]
    if not lines and not holes:
        return []
    blocks: list[Block] = [Heading(2, "What is missing")]
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


def twenty(scores: Scores) -> list[Block]:
    """Why the abstract's 20 data sets are 19, and which of them are in here."""
    wanted = paper.tasks()
    have = {u.task for s in scores.columns if not s.outside for u in scores.columns[s]}
    here = [task for task in wanted if task in have]
    if not here:
        return []
    lacking = [task for task in wanted if task not in have]
    text = f"{paper.TWENTY} In this report: {len(here)}"
    text += f"; lacking: {', '.join(lacking)}." if lacking else "."
    return [Heading(2, "The paper's data sets"), Paragraph(text)]

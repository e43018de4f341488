"""The run directory: rows of scores, what stands beside them, and the record of runs.

    summary.json   one row for each task, split, subset, metric and setting (INTERFACE)
    extras.json    what our own second look at the vectors found (intervals.py)
    run.json       versions, machine, options, and for each prompt of each run what it took

Files are replaced whole, after every setting: a run that is killed loses none. Several runs may
share a directory, one after the other; a row of the same key is replaced. A sample never replaces
a score.

The one schema, reader and writer of these files: `Records` for a run that adds to them, `read_runs`
for reports. How scores are made and shown is left to others.
"""

from __future__ import annotations

import json
import math
import os
import platform
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from moee_index.atomic import json_bytes, write_file
from moee_index.environment import versions
from moee_index.errors import MisuseError, MoeeIndexError
from moee_index.types import EncoderOptions

SUMMARY = "summary.json"
EXTRAS = "extras.json"
RECORD = "run.json"
SETTING = ("model", "method", "prompt", "alpha", "standardize", "fit", "rw", "pooling")
"""What tells the columns of summary.json apart, beside `lexical` where words count."""
_PLACE = ("task", "split", "subset")
EXTRA_SETTING = ("model", "method", "prompt", "alpha", "standardize", "fit")
"""Those of them that extras.json has."""
_EXTRA = (*_PLACE, *EXTRA_SETTING, "name")
# mteb's files round scores to 6 digits.
_ROUNDED = 2e-6
# What decides a score and is in no row: runs that share a directory must agree in it.
_UNSEEN = ("fingerprint", *EncoderOptions.names(without=SETTING))
_MORE_LIBRARIES = (
    "datasets",
    "huggingface_hub",
    "scikit-learn",
    "scipy",
    "sentence-transformers",
    "tokenizers",
    "pytrec-eval-terrier",
)

Entry = dict[str, Any]
T = TypeVar("T", list[Any], dict[str, Any])


@dataclass(frozen=True)
class Row:
    """One line of summary.json. score: mteb's scale, None where it is no finite number."""

    task: str
    type: str
    split: str
    subset: str
    model: str
    method: str
    prompt: str | None
    alpha: float | None
    standardize: str | None
    fit: str | None
    rw: str | None
    pooling: str | None
    metric: str
    score: float | None
    sample: bool
    paper: float | None
    lexical: float | None = None


@dataclass(frozen=True)
class Run:
    """One run directory. label: its name in the report; record: run.json, empty where absent."""

    label: str
    record: dict[str, Any]
    rows: list[Row]
    extras: list[dict[str, Any]]


class Records:
    """The JSON files of one run directory, read when it is made.

    Raises MoeeIndexError naming a file that cannot be read.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self.rows = _read_entries(out / SUMMARY, (*_PLACE, *SETTING, "metric", "score", "sample"))
        self.extras = _read_entries(out / EXTRAS, _EXTRA)
        self.record = _read(out / RECORD, dict) or {"runs": []}
        runs = self.record.get("runs")
        if not isinstance(runs, list) or not all(isinstance(run, dict) for run in runs):
            raise _broken(out / RECORD, "no record of runs")

    def check(self, entries: Sequence[Mapping[str, Any]]) -> None:
        """Refuse to mix in one directory what its rows could not tell apart.

        entries: runs to come, as in run.json. Raises MisuseError naming both values.
        """
        held = {row["model"] for row in self.rows}
        for entry in entries:
            for before in self.record["runs"]:
                same = all(before.get(name) == entry.get(name) for name in ("model", "prompt"))
                if not same or entry["model"] not in held:
                    continue
                for name in _UNSEEN:
                    if before.get(name) != entry.get(name):
                        raise MisuseError(
                            f"{self.out} holds results of {entry['model']} with "
                            f"{name.replace('_', ' ')} {before.get(name)!r}, and this run has "
                            f"{entry.get(name)!r}; give another directory with --out"
                        )

    def holds(self, setting: Mapping[str, Any], expected: Iterable[Entry], *, sample: bool) -> bool:
        """Whether all of these rows are there, with these scores as mteb rounds them.

        expected: rows with `task`, `split`, `subset`, `metric`, `score`. A sample is also held
        where there is a score in its place.
        """
        found = {_key(row): row for row in self.rows}
        for row in expected:
            there = found.get(_key({**setting, **row}))
            if there is None or (there["sample"] and not sample):
                return False
            if there["sample"] == sample and not _same(there["score"], row["score"]):
                return False
        return True

    def put(self, rows: Sequence[Entry], extras: Sequence[Entry]) -> None:
        """Add or replace rows, and the extras of the same places and settings; on disk on return.

        Raises StorageError.
        """
        merged = {_key(row): row for row in self.rows}
        put = {
            _key(row): row
            for row in rows
            if not row["sample"] or merged.get(_key(row), row)["sample"]
        }
        if not put:
            return
        self.rows = [*(merged | put).values()]
        renewed = {_extra_key(row) for row in put.values()}
        self.extras = [one for one in self.extras if _extra_key(one) not in renewed]
        self.extras += extras
        write_file(self.out / SUMMARY, json_bytes(self.rows))
        if self.extras or (self.out / EXTRAS).is_file():
            write_file(self.out / EXTRAS, json_bytes(self.extras))

    def write_record(
        self,
        runs: Sequence[Mapping[str, Any]],
        *,
        started: str,
        finished: str | None,
        options: Mapping[str, Any],
    ) -> None:
        """Write run.json: this run's entries behind those of earlier runs. Raises StorageError."""
        record = {
            "started": started,
            "finished": finished,
            "versions": versions(_MORE_LIBRARIES),
            "machine": machine(),
            "options": dict(options),
            "runs": [*self.record["runs"], *map(dict, runs)],
        }
        write_file(self.out / RECORD, json_bytes(record))


def _key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row.get(name) for name in (*_PLACE, *SETTING, "lexical", "metric"))


def _extra_key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in _EXTRA[:-1])


def _same(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is other
    return abs(one - other) <= _ROUNDED


_CORRELATED = {"STS", "Summarization"}


def finite(value: Any) -> float | None:
    """A score for JSON: None where it is no finite number (mteb gives NaN for constant vectors)."""
    number = float(value) if value is not None else math.nan
    return number if math.isfinite(number) else None


def without_score(kind: str, rows: Sequence[Entry]) -> str:
    """The line for a task of a kind whose rows have no score; all of them are of that task."""
    why = "mteb found nothing to measure in it"
    if kind in _CORRELATED:
        why = (
            "all of its similarities, or all of its gold scores, are equal, which leaves no rank "
            "correlation"
        )
    methods = ", ".join(dict.fromkeys(str(row["method"]) for row in rows))
    metrics = ", ".join(dict.fromkeys(str(row["metric"]) for row in rows))
    return (
        f"{rows[0]['task']}: {metrics} is not a number with {methods}: {why}; summary.json has "
        "null for it"
    )


def read_runs(directories: Sequence[Path]) -> list[Run]:
    """The runs in the order given. Raises MisuseError, MoeeIndexError naming directory or file."""
    if not directories:
        raise MisuseError("no run directory given; name one that `moee-index bench --out` wrote")
    places = [Path(directory).resolve() for directory in directories]
    for i, place in enumerate(places):
        if place in places[:i]:
            raise MisuseError(f"{directories[i]}: given twice; name each run directory once")
    names = [place.name for place in places]
    labels = [
        f"{place.parent.name}/{place.name}" if names.count(place.name) > 1 else place.name
        for place in places
    ]
    if len(set(labels)) < len(labels):
        labels = [f"{i}: {label}" for i, label in enumerate(labels, 1)]
    return [_read_run(Path(d), label) for d, label in zip(directories, labels, strict=True)]


def _read_run(directory: Path, label: str) -> Run:
    if not directory.is_dir():
        raise MoeeIndexError(f"{directory}: no such directory; name one that `bench --out` wrote")
    path = directory / SUMMARY
    if not path.is_file():
        raise MoeeIndexError(
            f"{directory}: no {SUMMARY} in it; run `moee-index bench --out {directory}` first"
        )
    rows = [_row(path, i, entry) for i, entry in enumerate(_read(path, list), 1)]
    if not rows:
        raise MoeeIndexError(f"{path}: holds no score; run the bench again and see what it says")
    extras = _read(directory / EXTRAS, list)
    for i, entry in enumerate(extras, 1):
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            raise _broken(directory / EXTRAS, f"entry {i} is no object with a name")
    return Run(label, _read(directory / RECORD, dict), rows, extras)


def _read_entries(path: Path, needed: Sequence[str]) -> list[Entry]:
    entries = _read(path, list)
    for number, entry in enumerate(entries, 1):
        if not isinstance(entry, dict):
            raise _broken(path, f"entry {number} is no object")
        if lacking := [name for name in needed if name not in entry]:
            raise _broken(path, f"entry {number} has no {lacking[0]!r}")
    return entries


def _read(path: Path, kind: type[T]) -> T:
    """The list or object in a file, empty where there is no file; NaN becomes None."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda _: None)
    except FileNotFoundError:
        return kind()
    except json.JSONDecodeError as error:
        raise _broken(path, f"broken JSON ({error.msg} at line {error.lineno})") from None
    except UnicodeDecodeError:
        raise _broken(path, "not UTF-8") from None
    except RecursionError:
        raise _broken(path, "broken JSON (nested too deeply)") from None
    except OSError as error:
        raise MoeeIndexError(
            f"{path}: cannot be read ({error.strerror or error}); check its permissions"
        ) from None
    if not isinstance(value, kind):
        raise _broken(path, f"no JSON {'list' if kind is list else 'object'}")
    return value


def _broken(path: Path, what: str) -> MoeeIndexError:
    return MoeeIndexError(
        f"{path}: {what}; remove it and run the bench again (mteb's results beside it are kept), "
        "or give another directory with --out"
    )


_TEXTS = ("task", "type", "split", "subset", "model", "method", "metric")
_MAYBE = ("prompt", "standardize", "fit", "rw", "pooling")
_NUMBERS = ("alpha", "score", "paper", "lexical")


def _row(path: Path, number: int, entry: Any) -> Row:
    if not isinstance(entry, dict):
        raise _broken(path, f"entry {number} is no object")
    fields: dict[str, Any] = {name: entry.get(name) for name in (*_TEXTS, *_MAYBE, *_NUMBERS)}
    for name, value in fields.items():
        if value is None and name not in _TEXTS:
            continue
        if name in _NUMBERS:
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise _broken(path, f"entry {number}: `{name}` is no number")
            fields[name] = finite(value)
        elif not isinstance(value, str):
            raise _broken(path, f"entry {number}: `{name}` is missing or no text")
    return Row(**fields, sample=bool(entry.get("sample")))


def machine() -> dict[str, Any]:
    """Processor, cores and memory that a run had."""
    memory = None
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_bytes": memory,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def peak_rss_bytes() -> int | None:
    """The most memory this process ever held; None where the system does not tell."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024

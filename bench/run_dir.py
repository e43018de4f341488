"""The run directory: rows of scores, what stands beside them, and the record of runs.

    summary.json   one row for each task, split, subset, metric and setting (INTERFACE)
    extras.json    what our own second look at the vectors found (extras.py)
    run.json       versions, machine, options, and for each prompt of each run what it took

Files are replaced whole, after every setting: a run that is killed loses none. Several runs may
share a directory, one after the other; a row of the same key is replaced. A sample never replaces
a score.

Knows rows and files. Refuses to know how scores are made and how they are shown.
"""

from __future__ import annotations

import datetime
import json
import math
import os
import platform
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from moee_index.atomic import json_bytes, write_file
from moee_index.bench.run_files import EXTRAS, RECORD, SUMMARY
from moee_index.environment import versions
from moee_index.errors import MisuseError, MoeeIndexError
from moee_index.types import EncoderOptions

SETTING = ("model", "method", "prompt", "alpha", "standardize", "fit", "rw", "pooling")
"""What tells the columns of summary.json apart."""
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

Row = dict[str, Any]


class Records:
    """The JSON files of one run directory, read when it is made.

    Raises MoeeIndexError naming a file that cannot be read.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self.rows: list[Row] = _read_list(out / SUMMARY)
        self.extras: list[Row] = _read_list(out / EXTRAS)
        self.record = _read_record(out / RECORD)

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

    def holds(self, setting: Mapping[str, Any], expected: Iterable[Row], *, sample: bool) -> bool:
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

    def put(self, rows: Sequence[Row], extras: Sequence[Row]) -> None:
        """Add or replace rows, and the extras of the same places and settings; on disk on return.

        Raises StorageError.
        """
        merged = {_key(row): row for row in self.rows}
        put = []
        for row in rows:
            there = merged.get(_key(row))
            if there is None or there["sample"] or not row["sample"]:
                merged[_key(row)] = row
                put.append(row)
        if not put:
            return
        self.rows = list(merged.values())
        renewed = {tuple(row[name] for name in _EXTRA[:-1]) for row in put}
        self.extras = [
            extra
            for extra in self.extras
            if tuple(extra[name] for name in _EXTRA[:-1]) not in renewed
        ]
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
            "versions": all_versions(),
            "machine": machine(),
            "options": dict(options),
            "runs": [*self.record["runs"], *map(dict, runs)],
        }
        write_file(self.out / RECORD, json_bytes(record))


def _key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row.get(name) for name in (*_PLACE, *SETTING, "metric"))


def _same(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is other
    return abs(one - other) <= _ROUNDED


def finite(value: Any) -> float | None:
    """A score for JSON: None where it is no finite number (mteb gives NaN for constant vectors)."""
    number = float(value) if value is not None else math.nan
    return number if math.isfinite(number) else None


def _read_list(path: Path) -> list[Row]:
    value = _read(path)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(row, dict) for row in value):
        raise _broken(path, "no list of JSON objects")
    needed = _EXTRA if path.name == EXTRAS else (*_PLACE, *SETTING, "metric", "score", "sample")
    for number, row in enumerate(value, 1):
        if lacking := [name for name in needed if name not in row]:
            raise _broken(path, f"entry {number} has no {lacking[0]!r}")
    return value


def _read_record(path: Path) -> dict[str, Any]:
    value = _read(path)
    if value is None:
        return {"runs": []}
    runs = value.get("runs") if isinstance(value, dict) else None
    if not isinstance(runs, list) or not all(isinstance(run, dict) for run in runs):
        raise _broken(path, "no record of runs")
    return dict(value)


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise _broken(path, f"broken ({str(error).splitlines()[0]})") from None


def _broken(path: Path, what: str) -> MoeeIndexError:
    return MoeeIndexError(
        f"{path}: {what}; remove it and run again (mteb's results beside it are kept), or give "
        "another directory with --out"
    )


def now() -> str:
    """This moment, ISO 8601 with its zone, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def all_versions() -> dict[str, str]:
    """`machine.versions` (bitsandbytes included) and the libraries that evaluate."""
    return versions(_MORE_LIBRARIES)


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

"""Reading what a run left behind: summary.json, extras.json and run.json of one directory.

Knows these three files and how they may be wrong. Refuses to know what is made of them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moee_index.errors import MisuseError, MoeeIndexError

SUMMARY = "summary.json"
RECORD = "run.json"
EXTRAS = "extras.json"


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


@dataclass(frozen=True)
class Run:
    """One run directory. label: its name in the report; record: run.json, empty where absent."""

    label: str
    record: dict[str, Any]
    rows: list[Row]
    extras: list[dict[str, Any]]


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
    return [_read(Path(d), label) for d, label in zip(directories, labels, strict=True)]


def _read(directory: Path, label: str) -> Run:
    if not directory.is_dir():
        raise MoeeIndexError(f"{directory}: no such directory; name one that `bench --out` wrote")
    path = directory / SUMMARY
    if not path.is_file():
        raise MoeeIndexError(
            f"{directory}: no {SUMMARY} in it; run `moee-index bench --out {directory}` first"
        )
    rows = [_row(path, i, entry) for i, entry in enumerate(_list(path), 1)]
    if not rows:
        raise MoeeIndexError(f"{path}: holds no score; run the bench again and see what it says")
    extras_path, record_path = directory / EXTRAS, directory / RECORD
    extras = _list(extras_path) if extras_path.is_file() else []
    for i, entry in enumerate(extras, 1):
        if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
            raise _broken(extras_path, f"entry {i} is no object with a name")
    record = _json(record_path) if record_path.is_file() else {}
    if not isinstance(record, dict):
        raise _broken(record_path, "no JSON object")
    return Run(label, record, rows, extras)


def _broken(path: Path, what: str) -> MoeeIndexError:
    return MoeeIndexError(f"{path}: {what}; run the bench again, results at hand are used")


def _json(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8")
        return json.loads(text, parse_constant=lambda _: None)
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


def _list(path: Path) -> list[Any]:
    value = _json(path)
    if not isinstance(value, list):
        raise _broken(path, "no JSON list")
    return value


_TEXTS = ("task", "type", "split", "subset", "model", "method", "metric")
_MAYBE = ("prompt", "standardize", "fit", "rw", "pooling")


def _row(path: Path, number: int, entry: Any) -> Row:
    if not isinstance(entry, dict):
        raise _broken(path, f"entry {number} is no object")
    for name in (*_TEXTS, *_MAYBE):
        value = entry.get(name)
        if not isinstance(value, str) and not (value is None and name in _MAYBE):
            raise _broken(path, f"entry {number}: `{name}` is missing or no text")
    numbers = {}
    for name in ("alpha", "score", "paper"):
        value = entry.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise _broken(path, f"entry {number}: `{name}` is no number")
        numbers[name] = None if value is None or not math.isfinite(value) else float(value)
    texts = {name: entry.get(name) for name in (*_TEXTS, *_MAYBE)}
    fields: dict[str, Any] = {**texts, **numbers, "sample": bool(entry.get("sample"))}
    return Row(**fields)

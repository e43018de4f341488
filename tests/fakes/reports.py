"""Made-up run directories for the tests of the report: shaped like real ones, values invented."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

TASKS: dict[str, tuple[str, str]] = {
    "EmotionClassification": ("Classification", "accuracy"),
    "Banking77Classification": ("Classification", "accuracy"),
    "TwentyNewsgroupsClustering": ("Clustering", "v_measure"),
    "TwitterURLCorpus": ("PairClassification", "max_ap"),
    "WikiQALocal": ("Reranking", "map_at_1000"),
    "STS12": ("STS", "cosine_spearman"),
    "STS13": ("STS", "cosine_spearman"),
    "BIOSSES": ("STS", "cosine_spearman"),
    "SummEval": ("Summarization", "cosine_spearman"),
    "SciFact": ("Retrieval", "ndcg_at_10"),
}
BASE = {"hs": 0.58, "rw": 0.47, "concat": 0.6, "sum": 0.63, "dense": 0.68, "bm25": 0.5}


def made_up(*parts: object) -> float:
    """A number from 0 to 1 that depends on the parts alone."""
    return zlib.crc32(repr(parts).encode()) / 2**32


def row(task: str, method: str, alpha: float | None = None, **changes: Any) -> dict[str, Any]:
    """One row of summary.json."""
    kind, metric = TASKS.get(task, ("STS", "main"))
    bump = 0.04 * (alpha or 0) - 0.03 * (alpha or 0) ** 2
    found: dict[str, Any] = {
        "task": task,
        "type": kind,
        "split": "test",
        "subset": "default",
        "model": "tiny",
        "method": method,
        "prompt": "prompteol",
        "alpha": alpha,
        "standardize": "both",
        "fit": "corpus",
        "rw": "logits",
        "pooling": "mean",
        "metric": metric,
        "sample": False,
        "paper": None,
        **changes,
    }
    spread = 0.25 * made_up(found["task"], found["type"]) - 0.15
    noise = 0.05 * made_up(found["model"], found["prompt"], method, task)
    found.setdefault("score", round(BASE.get(method, 0.4) + bump + spread + noise, 6))
    return found


def rows(
    tasks: Iterable[str] = TASKS, alphas: Sequence[float] = (1.0,), **changes: Any
) -> list[dict[str, Any]]:
    """Rows of all four methods over the tasks, `cosine_ap` beside `max_ap`."""
    found = []
    for task in tasks:
        for method in ("hs", "rw", "concat", "sum"):
            for alpha in alphas if method == "sum" else (None,):
                one = row(task, method, alpha, **changes)
                found.append(one)
                if one["metric"] == "max_ap":
                    beside = {**one, "metric": "cosine_ap", "score": one["score"] - 0.012}
                    found.append(beside)
    return found


def outside(tasks: Iterable[str] = TASKS) -> list[dict[str, Any]]:
    """all-MiniLM on every task, BM25 on retrieval and reranking, untrained weights."""
    none = {"prompt": None, "standardize": None, "fit": None, "rw": None, "pooling": None}
    found = []
    for task in tasks:
        minilm = "sentence-transformers/all-MiniLM-L6-v2"
        found.append(row(task, "dense", model=minilm, **none))
        if TASKS[task][0] in ("Retrieval", "Reranking"):
            found.append(row(task, "bm25", model="bm25", **none))
        found.append(row(task, "sum", 1.0, model="tiny-untrained", score=0.21))
    return found


def extras(summary: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Intervals for STS, AMI for clustering."""
    names = ("task", "split", "subset", "model", "method", "prompt", "alpha", "standardize", "fit")
    found = []
    for one in summary:
        setting = {name: one[name] for name in names}
        values: dict[str, float] = {}
        if one["type"] == "STS":
            values = {"ci95_low": one["score"] - 0.021, "ci95_high": one["score"] + 0.019}
        if one["type"] == "Clustering":
            values = {"ami": one["score"] - 0.1, "v_measure": one["score"]}
        found += [{**setting, "name": name, "value": value} for name, value in values.items()]
    return found


def record(**changes: Any) -> dict[str, Any]:
    """run.json."""
    run = {
        "model": "tiny",
        "fingerprint": "153f35886d9d518bd35e20a130272592ffd67d96f990853018a2fb8dec281d20",
        "bits": 4,
        "prompt": "prompteol",
        "query_prompt": None,
        "rw": "logits",
        "pooling": "mean",
        "max_tokens": 512,
        "texts": 61234,
        "tokens": 1234567,
        "texts_computed": 60000,
        "seconds_computed": 200.0,
        "seconds": 612.0,
        "peak_rss_bytes": 1503238553,
        "tasks": list(TASKS),
        "missing": [],
        **changes,
    }
    return {
        "started": "2026-11-22T01:02:03+00:00",
        "finished": "2026-11-22T01:12:15+00:00",
        "versions": {"moee-index": "0.1.0", "mteb": "2.26.24", "torch": "2.13.0+cpu"},
        "machine": {"cores": 2, "processor": "x86_64", "memory_bytes": 8 * 2**30},
        "runs": [run],
        "options": {"tasks": ["STS", "paper"], "data": None, "limit": None, "alpha": [1.0]},
    }


def write(
    directory: Path,
    summary: list[dict[str, Any]],
    record_: dict[str, Any] | None = None,
    extras_: list[dict[str, Any]] | None = None,
) -> Path:
    """A run directory."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "summary.json").write_text(json.dumps(summary), "utf-8")
    (directory / "run.json").write_text(json.dumps(record() if record_ is None else record_))
    found = extras(summary) if extras_ is None else extras_
    (directory / "extras.json").write_text(json.dumps(found), "utf-8")
    return directory

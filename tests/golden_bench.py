"""A small run of the bench in 32 bits: its rows, its files, and a finished one from before.

The finished run lies in an archive with its data sets and vectors: mteb's own file names are
longer than some file systems allow.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from golden import GOLDEN, read, run, write

ARCHIVE = GOLDEN / "bench-run.zip"
GOLDEN_FILE = "bench.json"
# "within 0.5" on the scale of the paper's tables.
SCORE_TOLERANCE = 0.005
ARGS = (
    *("-q", "bench", "--data", "sets", "--tasks", "BIOSSES,WikiQA,SciFact", "--bits", "32"),
    *("--methods", "hs,rw,concat,sum", "--batch-tokens", "2048", "--threads", "1"),
    *("--out", "out", "--vectors", "vectors"),
)
SAMPLE = (
    *("-q", "bench", "--data", "sets", "--tasks", "BIOSSES", "--bits", "32", "--limit", "10"),
    *("--methods", "hs,sum", "--alpha", "0.5,2", "--out", "sample", "--vectors", "vectors"),
)
# Pictures need matplotlib; mteb's own notes change with its releases.
_NOT_KEPT = re.compile(r".*\.(png|html)|.*/(model_meta\.json|run_settings\.jsonl)|.*lock")


def bench(*more: str, arguments: tuple[str, ...] = ARGS) -> None:
    """Run in the working directory, where `sets` lie."""
    run(*arguments, *more)


def rows(out: str = "out", name: str = "summary.json") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(Path(out, name).read_text(encoding="utf-8"))
    return found


def last_run(out: str = "out") -> dict[str, Any]:
    """The last entry of run.json."""
    found: dict[str, Any] = json.loads(Path(out, "run.json").read_text())["runs"][-1]
    return found


# What a run takes down but numbers of this machine and this moment.
_PASSING = ("started", "finished", "seconds", "peak_rss_bytes")


def taken_down(out: str = "out") -> dict[str, Any]:
    record = json.loads(Path(out, "run.json").read_text(encoding="utf-8"))
    return {
        "keys": list(record),
        "options": record["options"],
        "runs": [
            {key: None if key.startswith(_PASSING) else one[key] for key in one}
            for one in record["runs"]
        ],
    }


def files(out: str = "out") -> list[str]:
    """The files of a run directory, pictures and mteb's own notes left out."""
    paths = [path.relative_to(out).as_posix() for path in Path(out).rglob("*") if path.is_file()]
    return sorted(name for name in paths if not _NOT_KEPT.fullmatch(name) or name == "report.html")


def found() -> dict[str, Any]:
    return {
        "summary": rows(),
        "extras": rows(name="extras.json"),
        "record": taken_down(),
        "files": files(),
        "sample": rows("sample"),
    }


def report() -> list[str]:
    """What `bench report` makes of the finished run, line by line."""
    run("-q", "bench", "report", "out", "--out", "report")
    return Path("report/report.md").read_text(encoding="utf-8").splitlines()


def unpack(*folders: str) -> None:
    """Folders of the archive (`sets`, `out`, `vectors`) into the working directory."""
    with zipfile.ZipFile(ARCHIVE) as archive:
        archive.extractall(members=[n for n in archive.namelist() if n.split("/")[0] in folders])


def write_bench() -> None:
    """In an empty working directory."""
    _write_sets()
    bench()
    bench(arguments=SAMPLE)
    _pack(path for folder in ("out", "sets", "vectors") for path in Path(folder).rglob("*"))
    write(GOLDEN_FILE, {**found(), "report": report()})


def _pack(paths: Iterator[Path]) -> None:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(paths):
            if path.is_file() and not _left_out(path):
                archive.writestr(zipfile.ZipInfo(path.as_posix()), path.read_bytes(), 8, 9)
    ARCHIVE.write_bytes(content.getvalue())


def _left_out(path: Path) -> bool:
    return path.suffix in (".png", ".html") or path.name in ("lock", "report.md")


# Data sets in the hub's layout, of sentences from texts.json


def _write_sets() -> None:
    """Hard ones: scores of 100 would tell little."""
    words = [row["text"].split() for row in read("texts.json")["documents"]]
    pairs = [_pair(number, words) for number in range(24)]
    _lines("mteb/biosses-sts/test.jsonl", pairs)
    texts, hints = _texts(words)
    lists = [
        {"query": hints[i], "positive": [texts[i]], "negative": texts[i + 1 : i + 7]}
        for i in range(0, 40, 3)
    ]
    _lines("rerank/WikiQA/test.jsonl", lists)
    numbers = range(0, 48, 4)
    corpus = [{"_id": f"d{i}", "title": words[i][0], "text": texts[i]} for i in range(48)]
    _lines("mteb/scifact/corpus.jsonl", corpus)
    _lines("mteb/scifact/queries.jsonl", [{"_id": f"q{i}", "text": hints[i]} for i in numbers])
    judged = [{"query-id": f"q{i}", "corpus-id": f"d{i}", "score": 1} for i in numbers]
    _lines("mteb/scifact/qrels.jsonl", judged)
    Path("sets/mteb/scifact/README.md").write_text(_CONFIGS, encoding="utf-8")


def _pair(number: int, words: list[list[str]]) -> dict[str, Any]:
    """Two sentences that share as many of ten words as their score is high."""
    shared = number * 7 % 11
    first, other = words[number], words[number + 24]
    second = [*first[10 - shared : 10], *other[: 10 - shared]]
    return {"sentence1": " ".join(first[:10]), "sentence2": " ".join(second), "score": shared / 2}


def _texts(words: list[list[str]]) -> tuple[list[str], list[str]]:
    """How reports begin, and two words of how they go on."""
    return [" ".join(one[:14]) for one in words], [" ".join(one[18:20]) for one in words]


def _lines(name: str, entries: list[dict[str, Any]]) -> None:
    path = Path("sets", name)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries)
    path.write_text(text, encoding="utf-8")


def _config(name: str, split: str, file: str) -> str:
    return f"- config_name: {name}\n  data_files:\n  - split: {split}\n    path: {file}.jsonl\n"


_CONFIGS = (
    "---\nconfigs:\n"
    + _config("corpus", "corpus", "corpus")
    + _config("queries", "queries", "queries")
    + _config("default", "test", "qrels")
    + "---\n"
)

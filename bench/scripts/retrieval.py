"""Retrieval and reranking through the command line alone, beside BM25 and TF-IDF.

    python bench/scripts/retrieval.py --data DIR [DIR …] [--model NAME|PATH …] [--json]

Uses the commands `build`, `query --trec` and `rerank --json`, and two forms of data: a BEIR folder
(corpus.jsonl, queries.jsonl, qrels/test.tsv or .jsonl; nDCG@10) and a folder of candidate lists
(test.jsonl with `query`, `positive`, `negative`; MAP). It does not touch the library behind the
commands: what is measured here is what a user gets.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from moee_index.bench import baselines
from moee_index.bench.candidate_lists import ListData, list_key, load_lists
from moee_index.errors import CorpusError, MoeeIndexError
from moee_index.readers.corpus import read_corpora
from moee_index.readers.queries import read_queries
from moee_index.readers.trec import Qrels, Run, read_qrels, run_scores
from moee_index.tune import metrics as measures

METHODS = ("hs", "rw", "concat", "sum")
DEPTH = 100
_NAMES = {"bm25": "BM25", "tfidf": "TF-IDF"}


@dataclass(frozen=True)
class Score:
    """One cell of the table. score: from 0 to 1; seconds: what embedding and search took."""

    data: str
    metric: str
    system: str
    method: str | None
    score: float
    queries: int
    seconds: float


class CommandError(RuntimeError):
    """A command failed; the message holds what it said."""


def moee_index(*arguments: str | Path) -> str:
    """Run one command and return its stdout; its stderr is shown only when it fails.

    Raises CommandError.
    """
    command = [str(Path(sys.executable).with_name("moee-index")), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["nothing"]
        raise CommandError(f"{' '.join(command)}: status {done.returncode}: {said[-1]}")
    return done.stdout


def qrels_of(folder: Path) -> Qrels:
    """A BEIR folder's test judgements. Raises CorpusError when there are none."""
    for name in ("test.tsv", "test.jsonl"):
        if (folder / "qrels" / name).is_file():
            return read_qrels(folder / "qrels" / name)
    raise CorpusError(f"{folder}: no qrels/test.tsv or qrels/test.jsonl")


def retrieval_baseline(kind: baselines.Baseline, folder: Path, qrels: Qrels) -> Run:
    """The run of a baseline on a BEIR folder: 100 documents for each judged query."""
    documents = list(read_corpora([folder]))
    model = baselines.fit(kind, [document.content for document in documents])
    return {
        query.id: {documents[i].id: score for i, score in model.top(query.text, DEPTH)}
        for query in read_queries(folder)
        if query.id in qrels
    }


def rerank_baseline(kind: baselines.Baseline, data: ListData) -> Run:
    """The run of a baseline on candidate lists, fitted on all of their texts together."""
    texts = sorted({text for texts in data.texts for text in texts})
    position = {text: i for i, text in enumerate(texts)}
    model = baselines.fit(kind, texts)
    run: Run = {}
    for number, query in enumerate(data.queries):
        scores = model.scores(query)
        run[str(number)] = {
            list_key(i): float(scores[position[text]]) for i, text in enumerate(data.texts[number])
        }
    return run


def retrieval_run(
    folder: Path, qrels: Qrels, index: Path, method: str, weight: Sequence[str]
) -> tuple[Run, float]:
    """(run, seconds) of `query --trec` over an index that is there."""
    queries = index.with_name(index.name + ".queries.jsonl")
    with queries.open("w", encoding="utf-8") as file:
        for query in read_queries(folder):
            if query.id in qrels:
                file.write(json.dumps({"_id": query.id, "text": query.text}) + "\n")
    started = time.perf_counter()
    out = moee_index(
        *("--quiet", "query", "--index", index, "--queries", queries, "--trec"),
        *("-k", str(DEPTH), "--method", method, *weight),
    )
    seconds = time.perf_counter() - started
    path = index.with_name(f"{index.name}.{method}.trec")
    path.write_text(out, encoding="utf-8")
    return run_scores(path), seconds


def rerank_run(
    data: ListData, work: Path, method: str, options: Sequence[str]
) -> tuple[Run, float]:
    """(run, seconds) of `rerank --candidates --json`."""
    path = work / "lists.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for number, query in enumerate(data.queries):
            candidates = [{"id": list_key(i), "text": t} for i, t in enumerate(data.texts[number])]
            one = {"query": query, "query_id": str(number), "candidates": candidates}
            file.write(json.dumps(one) + "\n")
    started = time.perf_counter()
    out = moee_index(
        "--quiet", "rerank", "--candidates", path, "--json", "--method", method, *options
    )
    seconds = time.perf_counter() - started
    answers: list[dict[str, Any]] = [json.loads(line) for line in out.splitlines()]
    return {a["query_id"]: {h["id"]: h["score"] for h in a["hits"]} for a in answers}, seconds


@dataclass(frozen=True)
class Asked:
    """What to measure. models: None is the bundled one; the commands choose what is None."""

    work: Path
    models: Sequence[str | None]
    methods: Sequence[str]
    kinds: Sequence[baselines.Baseline]
    alpha: float | None = None
    standardize: str | None = None

    @property
    def fit(self) -> list[str]:
        return ["--standardize", self.standardize] if self.standardize else []

    def weight(self, method: str) -> list[str]:
        """alpha as options: it acts on `sum` alone."""
        return [] if self.alpha is None or method != "sum" else ["--alpha", str(self.alpha)]


def measure_folder(folder: Path, asked: Asked, tell: Callable[[str], None]) -> Iterator[Score]:
    """The scores of every system on one data folder, each as soon as it is known.

    Raises CorpusError for a folder of neither form, CommandError.
    """
    if (folder / "corpus.jsonl").is_file():
        return _measure_retrieval(folder, asked, tell)
    if (folder / "test.jsonl").is_file():
        return _measure_lists(folder, asked)
    if not folder.is_dir():
        raise CorpusError(f"{folder}: no such folder; is the data at hand?")
    raise CorpusError(f"{folder}: neither corpus.jsonl nor test.jsonl is in it")


def _measure_retrieval(folder: Path, asked: Asked, tell: Callable[[str], None]) -> Iterator[Score]:
    name, qrels = folder.resolve().name, qrels_of(folder)

    def scored(system: str, method: str | None, run: Run, seconds: float) -> Score:
        score = measures.ndcg(qrels, run, complete=True)
        return Score(name, "nDCG@10", system, method, score, len(qrels), seconds)

    for kind in asked.kinds:
        started = time.perf_counter()
        run = retrieval_baseline(kind, folder, qrels)
        yield scored(_NAMES[kind], None, run, time.perf_counter() - started)
    for model in asked.models:
        index = asked.work / f"{name}-{_short(model)}"
        tell(f"{name}: building an index with {_short(model)}")
        options = [*_chosen(model), *asked.fit]
        tell(moee_index("--quiet", "build", folder, "--index", index, "--json", *options).strip())
        for method in asked.methods:
            run, seconds = retrieval_run(folder, qrels, index, method, asked.weight(method))
            yield scored(_short(model), method, run, seconds)


def _measure_lists(folder: Path, asked: Asked) -> Iterator[Score]:
    name, data = folder.resolve().name, load_lists(folder / "test.jsonl")

    def scored(system: str, method: str | None, run: Run, seconds: float) -> Score:
        score = measures.average_precision(data.qrels, run, complete=True)
        return Score(name, "MAP", system, method, score, len(data.qrels), seconds)

    for kind in asked.kinds:
        started = time.perf_counter()
        run = rerank_baseline(kind, data)
        yield scored(_NAMES[kind], None, run, time.perf_counter() - started)
    for model in asked.models:
        for method in asked.methods:
            options = [*_chosen(model), *asked.fit, *asked.weight(method)]
            run, seconds = rerank_run(data, asked.work, method, options)
            yield scored(_short(model), method, run, seconds)


def _short(model: str | None) -> str:
    return "tiny" if model is None else Path(model).name


def _chosen(model: str | None) -> list[str]:
    return [] if model is None else ["--model", model]


def table(scores: Sequence[Score]) -> str:
    """A Markdown table: systems down, data across, 100 times the score."""
    data = list(dict.fromkeys((s.data, s.metric) for s in scores))
    systems = list(dict.fromkeys((s.system, s.method) for s in scores))
    cells = {(s.data, s.system, s.method): f"{100 * s.score:.2f}" for s in scores}
    lines = ["| system | " + " | ".join(f"{name} ({metric})" for name, metric in data) + " |"]
    lines.append("|---|" + "---:|" * len(data))
    for system, method in systems:
        row = [cells.get((name, system, method), "–") for name, _ in data]
        lines.append(f"| {system}{f', {method}' if method else ''} | " + " | ".join(row) + " |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 1 when a folder or a command failed, the others ran."""
    parser = argparse.ArgumentParser(
        prog="python bench/scripts/retrieval.py", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--data", type=Path, nargs="+", required=True, metavar="DIR")
    parser.add_argument("--model", action="append", metavar="NAME|PATH", help="repeatable")
    parser.add_argument("--methods", default=",".join(METHODS), help="comma list; empty for none")
    parser.add_argument("--baselines", default=",".join(baselines.BASELINES), help="comma list")
    parser.add_argument("--alpha", type=float, help="weight of RW in `sum`")
    parser.add_argument("--standardize", metavar="WHICH", help="both, rw, hs or none")
    parser.add_argument("--work", type=Path, help="keep the indexes here, and use those there")
    parser.add_argument("--json", action="store_true", help="one score a line instead of a table")
    options = parser.parse_args(arguments)
    methods = [m for m in options.methods.split(",") if m]
    kinds = [kind for kind in baselines.BASELINES if kind in options.baselines.split(",")]
    if set(methods) - set(METHODS):
        parser.error(f"--methods: of {', '.join(METHODS)}")

    scores: list[Score] = []
    failed = False
    models: list[str | None] = options.model or [None]
    with tempfile.TemporaryDirectory() as temporary:
        work: Path = options.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        asked = Asked(
            work, models if methods else [], methods, kinds, options.alpha, options.standardize
        )
        for folder in options.data:
            try:
                for score in measure_folder(folder, asked, _tell):
                    scores.append(score)
                    if options.json:
                        print(json.dumps(asdict(score)), flush=True)
                    _tell(f"{score.data}: {score.system} {score.method or ''} {score.score:.4f}")
            except (MoeeIndexError, CommandError) as error:
                failed = True
                _tell(f"Error: {error}")
    if not options.json and scores:
        print(table(scores))
    return int(failed)


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())

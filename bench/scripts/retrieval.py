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
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from moee_index.bench import baselines
from moee_index.bench.candidate_lists import list_key, load_lists
from moee_index.errors import CorpusError, MoeeIndexError
from moee_index.readers.corpus import read_corpora
from moee_index.readers.queries import read_queries
from moee_index.readers.trec import Qrels, Run, read_qrels, run_scores
from moee_index.tune import metrics as measures

METHODS = ("hs", "rw", "concat", "sum")
DEPTH = 100
_NAMES: dict[baselines.Baseline, str] = {"bm25": "BM25", "tfidf": "TF-IDF"}


class CommandError(RuntimeError):
    """A command failed; the message holds what it said."""


def moee_index(*arguments: object) -> str:
    """Run one command and return its stdout; its stderr is shown only when it fails.

    Raises CommandError.
    """
    command = [str(Path(sys.executable).with_name("moee-index")), "--quiet", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["nothing"]
        raise CommandError(f"{' '.join(command)}: status {done.returncode}: {said[-1]}")
    return done.stdout


def write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


class Retrieval:
    """A BEIR folder: an index for each model, queries against it."""

    metric = "nDCG@10"
    score = staticmethod(measures.ndcg)

    def __init__(self, folder: Path, work: Path) -> None:
        self.folder, self.work, self.name = folder, work, folder.resolve().name
        self.qrels = self._qrels()
        self.queries = [query for query in read_queries(folder) if query.id in self.qrels]

    def _qrels(self) -> Qrels:
        for name in ("test.tsv", "test.jsonl"):
            if (self.folder / "qrels" / name).is_file():
                return read_qrels(self.folder / "qrels" / name)
        raise CorpusError(f"{self.folder}: no qrels/test.tsv or qrels/test.jsonl")

    def baseline(self, kind: baselines.Baseline) -> Run:
        """100 documents for each judged query."""
        documents = list(read_corpora([self.folder]))
        model = baselines.fit(kind, [document.content for document in documents])
        return {
            query.id: {documents[i].id: score for i, score in model.top(query.text, DEPTH)}
            for query in self.queries
        }

    def prepare(self, model: str | None, options: Sequence[str]) -> None:
        """Build the index of a model."""
        tell(f"{self.name}: building an index with {short(model)}")
        tell(moee_index("build", self.folder, "--index", self._index(model), "--json", *options))
        queries = ({"_id": query.id, "text": query.text} for query in self.queries)
        write_lines(self.work / "queries.jsonl", queries)

    def _index(self, model: str | None) -> Path:
        return self.work / f"{self.name}-{short(model)}"

    def run(self, model: str | None, _options: Sequence[str], weight: Sequence[str]) -> Run:
        """What `query --trec` answers over the index that is there."""
        index, ranking = self._index(model), self.work / "ranking.trec"
        given = ("--index", index, "--queries", self.work / "queries.jsonl", "--trec", "-k", DEPTH)
        ranking.write_text(moee_index("query", *given, *weight), encoding="utf-8")
        return run_scores(ranking)


class Reranking:
    """A folder of candidate lists."""

    metric = "MAP"
    score = staticmethod(measures.average_precision)

    def __init__(self, folder: Path, work: Path) -> None:
        self.name, self.lists = folder.resolve().name, work / "lists.jsonl"
        self.data = load_lists(folder / "test.jsonl")
        self.qrels = self.data.qrels

    def baseline(self, kind: baselines.Baseline) -> Run:
        """Fitted on all texts of all lists together."""
        texts = sorted({text for texts in self.data.texts for text in texts})
        position = {text: i for i, text in enumerate(texts)}
        model = baselines.fit(kind, texts)
        run: dict[str, dict[str, float]] = {}
        for number, query in enumerate(self.data.queries):
            scores = model.scores(query)
            listed = enumerate(self.data.texts[number])
            run[str(number)] = {list_key(i): float(scores[position[t]]) for i, t in listed}
        return run

    def prepare(self, model: str | None, options: Sequence[str]) -> None:
        """Write the lists as `rerank` reads them."""
        lists = enumerate(zip(self.data.queries, self.data.texts, strict=True))
        write_lines(
            self.lists,
            (
                {
                    "query": query,
                    "query_id": str(number),
                    "candidates": [{"id": list_key(i), "text": t} for i, t in enumerate(texts)],
                }
                for number, (query, texts) in lists
            ),
        )

    def run(self, _model: str | None, options: Sequence[str], weight: Sequence[str]) -> Run:
        """What `rerank --candidates --json` answers."""
        out = moee_index("rerank", "--candidates", self.lists, "--json", *options, *weight)
        answers = map(json.loads, out.splitlines())
        return {a["query_id"]: {hit["id"]: hit["score"] for hit in a["hits"]} for a in answers}


def measure(folder: Path, work: Path, given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A row for every system on one data folder, each as soon as it is known. score: from 0 to 1;
    seconds: what embedding and search took.

    Raises CorpusError for a folder of neither form, CommandError.
    """
    if (folder / "corpus.jsonl").is_file():
        data: Retrieval | Reranking = Retrieval(folder, work)
    elif (folder / "test.jsonl").is_file():
        data = Reranking(folder, work)
    else:
        raise CorpusError(f"{folder}: neither corpus.jsonl nor test.jsonl; is the data at hand?")

    def row(system: str, method: str | None, answer: Callable[[], Run]) -> dict[str, Any]:
        started = time.perf_counter()
        run = answer()
        spent = time.perf_counter() - started
        score = data.score(data.qrels, run, complete=True)
        return {
            **{"data": data.name, "metric": data.metric, "system": system, "method": method},
            **{"score": score, "queries": len(data.qrels), "seconds": spent},
        }

    for kind in given.baselines:
        yield row(_NAMES[kind], None, partial(data.baseline, kind))
    for model in given.model if given.methods else ():
        options = ["--model", model] if model is not None else []
        options += ["--standardize", given.standardize] if given.standardize else []
        data.prepare(model, options)
        for method in given.methods:
            weight = ["--method", method]
            weight += ["--alpha", given.alpha] if given.alpha and method == "sum" else []
            # Words weigh by the statistics of an index, which candidate lists have none of here.
            weight += ["--lexical", given.lexical] if isinstance(data, Retrieval) else []
            yield row(short(model), method, partial(data.run, model, options, weight))


def short(model: str | None) -> str:
    return "tiny" if model is None else Path(model).name


def table(rows: Sequence[dict[str, Any]]) -> str:
    """A Markdown table: systems down, data across, 100 times the score."""
    data = list(dict.fromkeys((row["data"], row["metric"]) for row in rows))
    systems = list(dict.fromkeys((row["system"], row["method"]) for row in rows))
    cells = {(r["data"], r["system"], r["method"]): f"{100 * r['score']:.2f}" for r in rows}
    lines = ["| system | " + " | ".join(f"{name} ({metric})" for name, metric in data) + " |"]
    lines.append("|---|" + "---:|" * len(data))
    for system, method in systems:
        line = [cells.get((name, system, method), "–") for name, _ in data]
        lines.append(f"| {system}{f', {method}' if method else ''} | " + " | ".join(line) + " |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 1 when a folder or a command failed, the others ran."""
    parser = argparse.ArgumentParser(
        prog="python bench/scripts/retrieval.py", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--data", type=Path, nargs="+", required=True, metavar="DIR")
    parser.add_argument("--model", action="append", metavar="NAME|PATH", help="repeatable")
    parser.add_argument(
        "--methods", type=names(METHODS), default=METHODS, help="comma list; empty for none"
    )
    parser.add_argument(
        "--baselines", type=names(_NAMES), default=baselines.BASELINES, help="comma list"
    )
    parser.add_argument("--alpha", help="weight of RW in `sum`")
    parser.add_argument("--lexical", default="0", help="weight of words, in BEIR folders alone")
    parser.add_argument("--standardize", metavar="WHICH", help="both, rw, hs or none")
    parser.add_argument("--work", type=Path, help="keep the indexes here, and use those there")
    parser.add_argument("--json", action="store_true", help="one score a line instead of a table")
    given = parser.parse_args(arguments)
    given.model = given.model or [None]
    rows, failed = [], False
    with tempfile.TemporaryDirectory() as temporary:
        work: Path = given.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        for folder in given.data:
            try:
                for row in measure(folder, work, given):
                    rows.append(row)
                    if given.json:
                        print(json.dumps(row), flush=True)
                    tell(f"{row['data']}: {row['system']} {row['method'] or ''} {row['score']:.4f}")
            except (MoeeIndexError, CommandError) as error:
                failed = True
                tell(f"Error: {error}")
    if rows and not given.json:
        print(table(rows))
    return int(failed)


def names(known: Iterable[str]) -> Callable[[str], list[str]]:
    """Reads a comma list of known names."""

    def read(text: str) -> list[str]:
        found = [name for name in text.split(",") if name]
        if set(found) - set(known):
            raise argparse.ArgumentTypeError(f"of {', '.join(known)}")
        return found

    return read


def tell(line: str) -> None:
    print(line.strip(), file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())

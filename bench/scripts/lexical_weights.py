"""Words and vectors together: one score for each method and each weight of words.

    python bench/scripts/lexical_weights.py --data DIR [DIR …] [--half choose|report|all] [--json]

Takes two forms of data: a BEIR folder (corpus.jsonl, queries.jsonl, qrels/test.tsv or .jsonl;
nDCG@10) and a folder of candidate lists (dev.jsonl, test.jsonl; MAP, over an index of all texts of
the split). `--half choose` takes one half of a BEIR folder's queries, drawn by `--seed`, and the
dev lists; `report` the other half, and the test lists; `all` all queries, and the test lists.

An index is built once a folder; all weights search it through the library. At weight 1 words alone
count: BM25 of ours, beside which stands that of the package bm25s on the same words, where it is
installed; how far the two are apart is told.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from moee_index import Encoder, Index
from moee_index.bench.candidate_lists import load_lists
from moee_index.errors import CorpusError, MoeeIndexError
from moee_index.fusion import METHODS
from moee_index.index.lexical.bm25 import LUCENE, Bm25
from moee_index.index.lexical.words import Words
from moee_index.readers.corpus import read_corpora
from moee_index.readers.queries import read_queries
from moee_index.readers.trec import Qrels, Run, read_qrels
from moee_index.tune import metrics
from moee_index.types import Document, Embeddings, Query

HALVES = ("choose", "report", "all")
DEPTH = 100
WORDS, THEIRS = "words", "bm25s"
_SHOWN = {"hs": "HS", "rw": "RW", "concat": "concat", "sum": "sum"}


@dataclass(frozen=True)
class Judged:
    """Documents, queries and judgements. candidates: query → its candidates, of lists alone."""

    name: str
    metric: str
    documents: list[Document]
    queries: list[Query]
    qrels: Qrels
    candidates: dict[str, list[str]]

    def score(self, run: Run) -> float:
        """100 times the mean over the queries."""
        judged = {query.id: self.qrels[query.id] for query in self.queries}
        measure = metrics.average_precision if self.candidates else metrics.ndcg
        return 100 * measure(judged, run, complete=True)


def load(folder: Path, half: str, seed: int) -> Judged:
    """Raises CorpusError for a folder of neither form."""
    name = folder.resolve().name
    if (folder / "corpus.jsonl").is_file():
        named = [folder / "qrels" / name for name in ("test.tsv", "test.jsonl")]
        found = next((path for path in named if path.is_file()), None)
        if found is None:
            raise CorpusError(f"{folder}: no qrels/test.tsv or qrels/test.jsonl")
        qrels = read_qrels(found)
        judged = [query for query in read_queries(folder) if query.id in qrels]
        queries = halved(judged, half, seed)
        return Judged(name, "nDCG@10", list(read_corpora([folder])), queries, qrels, {})
    split = "dev" if half == "choose" else "test"
    if (folder / f"{split}.jsonl").is_file():
        return listed(f"{name} {split}", folder / f"{split}.jsonl")
    raise CorpusError(f"{folder}: neither corpus.jsonl nor {split}.jsonl; is the data at hand?")


def halved(queries: Sequence[Query], half: str, seed: int) -> list[Query]:
    """One half of the queries, drawn from their sorted ids, or all of them. Of an odd number
    `report` has one more."""
    in_order = sorted(queries, key=lambda query: query.id)
    drawn = np.random.default_rng(seed).permutation(len(in_order))
    middle = len(in_order) // 2
    numbers = {"choose": drawn[:middle], "report": drawn[middle:], "all": drawn}[half]
    return [in_order[number] for number in numbers]


def listed(name: str, path: Path) -> Judged:
    """Candidate lists; candidates of equal text are one document."""
    lists = load_lists(path)
    texts = sorted({text for texts in lists.texts for text in texts})
    ids = {text: f"d{number:06}" for number, text in enumerate(texts)}
    queries, qrels, candidates = [], {}, {}
    for (query, judged), text, each in zip(
        lists.qrels.items(), lists.queries, lists.texts, strict=True
    ):
        queries.append(Query(query, text))
        candidates[query] = [ids[text] for text in each]
        qrels[query] = dict(zip(candidates[query], judged.values(), strict=True))
    documents = [Document(identifier, text) for text, identifier in ids.items()]
    return Judged(name, "MAP", documents, queries, qrels, candidates)


@dataclass(frozen=True)
class Searcher:
    """Judged data in an opened index, their queries embedded."""

    data: Judged
    index: Index
    embeddings: Embeddings
    alpha: float | None
    bm25: Bm25

    def run(self, method: str, weight: float) -> Run:
        """Query → document → score. Of candidates each has one, 0 where it is no hit."""
        options: dict[str, Any] = {"method": method, "lexical": weight, **vars(self.bm25)}
        options["alpha"] = self.alpha if method == "sum" else None
        queries, search = self.data.queries, self.index.search_embeddings
        texts = [query.text for query in queries]
        if not self.data.candidates:
            answers = search(self.embeddings, DEPTH, texts=texts, **options)
            each = zip(queries, answers, strict=True)
            return {query.id: {hit.id: hit.score for hit in hits} for query, hits in each}
        run: dict[str, dict[str, float]] = {}
        for row, query in enumerate(queries):
            ids = self.data.candidates[query.id]
            # A filter changes no score.
            listed = ", ".join(json.dumps(identifier) for identifier in ids)
            one = self.embeddings.map(lambda part, row=row: part[row : row + 1])
            (hits,) = search(
                Embeddings(one.hs, one.rw), len(ids), texts=[query.text],
                filter=f"id in ({listed})", **options,
            )  # fmt: skip
            run[query.id] = dict.fromkeys(ids, 0.0) | {hit.id: hit.score for hit in hits}
        return run


def measure(data: Judged, given: argparse.Namespace, work: Path) -> Iterator[dict[str, Any]]:
    """A row for each method and weight on one set of data, each as soon as it is known."""
    bm25 = Bm25(given.k1, given.b)

    def row(system: str, method: str, weight: float, run: Run) -> dict[str, Any]:
        told = {"data": data.name, "metric": data.metric, "half": given.half, "seed": given.seed}
        what = {"system": system, "method": method, "lexical": weight}
        return {**told, **what, "score": data.score(run), "queries": len(data.queries)}

    if (run := by_bm25s(data, given.language, bm25)) is not None:
        yield row(THEIRS, WORDS, 1.0, run)
    texts = [query.text for query in data.queries]
    for model in given.model or [None]:
        encoder = Encoder.load(model, pooling=given.pooling)
        name, pooling = encoder.spec.model, encoder.spec.pooling
        directory = work / f"{data.name} {name} {pooling} {given.language}".replace(" ", "-")
        tell(f"{data.name}: an index of {len(data.documents)} documents with {name}")
        options: dict[str, Any] = {"language": given.language, "standardize": given.standardize}
        with Index.build(directory, data.documents, encoder, **options) as index:
            tell(f"{data.name}: the index's own weight of words is {index.lexical:g}")
            embeddings = index.encoder().encode(texts, query=True)
            searcher = Searcher(data, index, embeddings, given.alpha, bm25)
            if 1 in given.weights:
                yield row(name, WORDS, 1.0, searcher.run("hs", 1.0))
            for method in given.methods:
                for weight in given.weights:
                    if weight < 1:
                        yield row(name, method, weight, searcher.run(method, weight))


def by_bm25s(data: Judged, language: str, bm25: Bm25) -> Run | None:
    """The scores of the package bm25s on our words; None where it is not installed."""
    try:
        import bm25s  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        tell("bm25s is not installed (pip install bm25s): no comparison with its BM25")
        return None
    words = Words(language)
    model = bm25s.BM25(method="lucene", k1=bm25.k1, b=bm25.b)
    corpus = [words.terms(document.content) for document in data.documents]
    model.index(corpus, show_progress=False)
    row_of = {document.id: row for row, document in enumerate(data.documents)}
    run: dict[str, dict[str, float]] = {}
    for query in data.queries:
        # Words that no document holds have no number there.
        terms = [term for term in words.terms(query.text) if term in model.vocab_dict]
        scores = model.get_scores(terms) if terms else np.zeros(len(corpus))
        ids = data.candidates.get(query.id)
        rows = np.argsort(-scores, kind="stable")[:DEPTH]
        if ids is None:
            ids = [data.documents[row].id for row in rows if scores[row] > 0]
        run[query.id] = {identifier: float(scores[row_of[identifier]]) for identifier in ids}
    return run


def tables(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown: for each data and model a table, weights down and methods across."""
    found = []
    for data, system in dict.fromkeys((row["data"], row["system"]) for row in rows):
        these = [row for row in rows if (row["data"], row["system"]) == (data, system)]
        methods = list(dict.fromkeys(row["method"] for row in these))
        weights = sorted({row["lexical"] for row in these})
        cells = {(row["method"], row["lexical"]): f"{row['score']:.2f}" for row in these}
        first = these[0]
        found += [
            f"{data}, {system}: {first['metric']} of {first['queries']} queries "
            f"({first['half']}, seed {first['seed']})\n",
            "| w | " + " | ".join(methods) + " |",
            "|---:|" + "---:|" * len(methods),
        ]
        for weight in weights:
            line = [cells.get((method, weight), "") for method in methods]
            found.append(f"| {weight:g} | " + " | ".join(line) + " |")
        found.append("")
    return "\n".join(found)


def means(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown: for each system the mean over all data, weights down and methods across; what some
    data lack is left out."""
    data = dict.fromkeys(row["data"] for row in rows)
    found: dict[tuple[str, str, float], list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault((row["system"], row["method"], row["lexical"]), []).append(row)
    mean = [
        {
            **{**these[0], "data": f"mean of {len(data)}", "metric": "score"},
            "score": math.fsum(row["score"] for row in these) / len(these),
            "queries": sum(row["queries"] for row in these),
        }
        for these in found.values()
        if len(these) == len(data)
    ]
    return tables(mean)


def apart(rows: Sequence[dict[str, Any]]) -> list[str]:
    """How far our BM25 is from that of bm25s, in points, for each set of data that has both."""
    alone = [row for row in rows if row["method"] == WORDS]
    theirs = {row["data"]: row["score"] for row in alone if row["system"] == THEIRS}
    ours = {row["data"]: row["score"] for row in alone if row["system"] != THEIRS}
    return [
        f"{data}: BM25 is {ours[data] - theirs[data]:+.2f} points from that of bm25s"
        for data in ours
        if data in theirs
    ]


def plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Curves of each method over the weight of words, a panel for each data and model."""
    from moee_index.bench.report import plots

    panels: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for row in (row for row in rows if row["method"] != WORDS):
        name = f"{row['data']}, {row['system']}: {row['metric']}"
        line = panels.setdefault(name, {}).setdefault(_SHOWN[row["method"]], [])
        line.append((row["lexical"], row["score"] / 100))
    for row in (row for row in rows if row["method"] == WORDS and row["system"] != THEIRS):
        for line in panels.get(f"{row['data']}, {row['system']}: {row['metric']}", {}).values():
            line.append((1.0, row["score"] / 100))
    half = f"half {rows[0]['half']}, seed {rows[0]['seed']}"
    path.write_bytes(plots.weight_curves(f"Scores by the weight of words ({half})", panels))


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python bench/scripts/lexical_weights.py", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--data", type=Path, nargs="+", required=True, metavar="DIR")
    parser.add_argument("--half", choices=HALVES, default="all")
    parser.add_argument("--seed", type=int, default=0, help="of the halves")
    parser.add_argument("--model", action="append", metavar="NAME|PATH", help="repeatable")
    parser.add_argument("--pooling", help="instead of the model's own")
    parser.add_argument("--methods", type=methods, default=list(METHODS), help="comma list")
    parser.add_argument(
        "--weights", type=weights, default=[step / 10 for step in range(11)], help="comma list"
    )
    parser.add_argument("--alpha", type=float, help="weight of RW in `sum`")
    parser.add_argument("--language", default="none", help="stem words in this language")
    parser.add_argument("--k1", type=float, default=LUCENE.k1)
    parser.add_argument("--b", type=float, default=LUCENE.b)
    parser.add_argument("--standardize", metavar="WHICH", help="both, rw, hs or none")
    parser.add_argument("--work", type=Path, help="keep the indexes here, and use those there")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="curves; needs matplotlib")
    parser.add_argument("--json", action="store_true", help="one score a line instead of tables")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 1 when a folder failed, the others ran."""
    given = make_parser().parse_args(arguments)
    rows, failed = [], False
    with tempfile.TemporaryDirectory() as temporary:
        for folder in given.data:
            try:
                data = load(folder, given.half, given.seed)
                for row in measure(data, given, given.work or Path(temporary)):
                    rows.append(row)
                    if given.json:
                        print(json.dumps(row), flush=True)
            except MoeeIndexError as error:
                failed = True
                tell(f"Error: {error}")
    if rows and not given.json:
        print(tables(rows))
        print(means(rows))
    for line in apart(rows):
        tell(line)
    if given.plot and rows:
        plot(rows, given.plot)
    return int(failed)


def methods(text: str) -> list[str]:
    """Reads a comma list of methods."""
    found = text.split(",")
    if set(found) - set(METHODS):
        raise argparse.ArgumentTypeError(f"of {', '.join(METHODS)}")
    return found


def weights(text: str) -> list[float]:
    """Reads a comma list of weights, 0 to 1."""
    found = [float(weight) for weight in text.split(",")]
    if not all(0 <= weight <= 1 for weight in found):
        raise argparse.ArgumentTypeError("from 0 to 1")
    return found


def tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())

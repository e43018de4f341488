"""What words cost beside vectors: postings as they are written, and a search by both.

    python bench/scripts/speed/lexical.py --texts FILE… [--data DIR] [--documents 100000]
        [--runs 9] [--language none] [--dims olmoe tiny] [--json]

Sentences of real text (a corpus as `moee-index build` reads it; there must be enough of them),
random unit vectors, method `sum`, k = 10, weight 0.4. All ways run in turn, so that whatever else
the machine does hits all alike; figures are medians. Told:

postings  seconds to write them from the documents, megabytes of text a second, bytes a document
first     the first search by words in a process, over a later one, from memory
queries   of 3, 8 and 20 words out of one sentence, by both and by words alone, over vectors alone
memory    anonymous memory of a search by both above one by vectors alone

DIR keeps the data for the next time.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from harness import PeakAnonymous, make_parser, memory, say, seconds, show
from search import in_turn
from search_data import OLMOE, make, open_searcher, queries

from moee_index.fusion import UnitVectors
from moee_index.index.lexical.bm25 import LUCENE
from moee_index.index.lexical.postings import Postings
from moee_index.index.lexical.scores import WordScores
from moee_index.index.lexical.segment import write_lexical
from moee_index.index.lexical.statistics import OpenWords, Statistics
from moee_index.index.lexical.words import Words
from moee_index.index.search.pair import PairSearcher
from moee_index.index.store.checksums import piece_crcs
from moee_index.index.store.documents import DocumentStore, PreparedDocument
from moee_index.index.store.layout import DOCUMENTS, postings_name
from moee_index.readers.corpus import read_corpora
from moee_index.types import Document, Pair, blocks, ignore

_K, _ALPHA, _WEIGHT = 10, 1.0, 0.4
_WORDS = (3, 8, 20)
_QUERIES = 8
_DIMS = {"olmoe": OLMOE, "tiny": Pair(256, 256)}
_SENTENCE = re.compile(r"(?<=[.!?])\s+")
_BLOCK = 2000


def sentences(paths: list[str]) -> Iterator[str]:
    """Sentences of some words, in the order of the files."""
    for document in read_corpora(paths):
        for sentence in _SENTENCE.split(document.text):
            if 20 <= len(sentence) <= 1000:
                yield sentence


def make_documents(folder: Path, paths: list[str], count: int) -> None:
    """The documents of a segment, unless they are there."""
    if (folder / "texts.json").is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    (folder / DOCUMENTS).unlink(missing_ok=True)
    made, size = 0, 0
    with DocumentStore(folder / DOCUMENTS) as store:
        for some in blocks(itertools.islice(sentences(paths), count), _BLOCK):
            prepared = [
                PreparedDocument.of(Document(f"s{number}", text)).split([(0, len(text))])
                for number, text in enumerate(some, made)
            ]
            store.append(made, prepared, [False] * len(prepared))
            made += len(some)
            size += sum(len(text.encode()) for text in some)
        store.finish()
    if made < count:
        raise SystemExit(f"{', '.join(paths)}: {made} sentences, not {count}; give more --texts")
    (folder / "texts.json").write_text(json.dumps({"bytes": size}))


def measure_postings(given: argparse.Namespace, folder: Path) -> None:
    size = json.loads((folder / "texts.json").read_text())["bytes"]
    write = partial(write_lexical, folder, given.language, 1, ignore)
    with PeakAnonymous() as watched:
        before = memory()["anonymous"]
        spent = seconds(write)
    held = (folder / postings_name(1)).stat().st_size
    row = {
        "documents": given.documents,
        "language": given.language,
        "seconds": spent,
        "text_mb_s": size / 1e6 / spent,
        "bytes_a_document": held / given.documents,
        "text_bytes_a_document": size / given.documents,
        "anonymous_gb": watched.peak - before,
    }
    show(
        row,
        given.json,
        f"postings of {given.documents:,} sentences: {spent:.1f} s, {row['text_mb_s']:.1f} MB of "
        f"text a second, {row['bytes_a_document']:.0f} bytes a document (texts "
        f"{row['text_bytes_a_document']:.0f}), {row['anonymous_gb'] * 1e3:.0f} MB of memory",
    )


def open_statistics(folder: Path, rows: int, language: str) -> Statistics:
    path = folder / postings_name(1)
    postings = Postings(path, piece_crcs(path), rows)
    return Statistics([OpenWords(postings, None)], Words(language))


def texts_of(paths: list[str], documents: int, words: int) -> list[str]:
    """Queries: the first words of sentences that are spread over the documents."""
    long = (
        sentence.split()[:words]
        for sentence in itertools.islice(sentences(paths), documents)
        if len(sentence.split()) >= words
    )
    every = max(1, documents // (4 * _QUERIES))
    return [" ".join(taken) for taken in itertools.islice(long, 0, every * _QUERIES, every)]


def by_both(
    searcher: PairSearcher, statistics: Statistics, asked: UnitVectors, texts: list[str]
) -> Callable[[], object]:
    """Each query on its own, as somebody who types."""

    def run() -> None:
        for text in texts:
            words = WordScores([text], statistics, _WEIGHT, LUCENE).segment(0)
            searcher.search(asked, _K, "sum", _ALPHA, words=words)

    return run


def by_words(statistics: Statistics, texts: list[str]) -> Callable[[], object]:
    def run() -> None:
        for text in texts:
            WordScores([text], statistics, 1.0, LUCENE).segment(0).ranked(0, _K, None)

    return run


def by_vectors(searcher: PairSearcher, asked: UnitVectors) -> Callable[[], object]:
    def run() -> None:
        for _ in range(_QUERIES):
            searcher.search(asked, _K, "sum", _ALPHA)

    return run


def measure_queries(given: argparse.Namespace, folder: Path, name: str, vectors: Path) -> None:
    searcher, asked = open_searcher(vectors), queries(1, _DIMS[name])
    texts = {words: texts_of(given.texts, given.documents, words) for words in _WORDS}
    by_vectors(searcher, asked)()
    fresh = open_statistics(folder, given.documents, given.language)
    first = seconds(by_both(searcher, fresh, asked, texts[8][:1]))
    statistics = open_statistics(folder, given.documents, given.language)
    ways = {"vectors": by_vectors(searcher, asked)}
    for words in _WORDS:
        ways[f"both {words}"] = by_both(searcher, statistics, asked, texts[words])
        ways[f"words {words}"] = by_words(statistics, texts[words])
    found = {way: spent / _QUERIES for way, spent in in_turn(ways, given.runs).items()}
    peaks: dict[str, float] = {}
    for way in ("vectors", "both 20"):
        before = memory()["anonymous"]
        with PeakAnonymous() as watched:
            ways[way]()
        peaks[way] = watched.peak - before
    searcher.close()
    row: dict[str, Any] = {
        "dims": dict(_DIMS[name]),
        "documents": given.documents,
        "seconds": found,
        "first_s": first,
        "bytes_a_document": (peaks["both 20"] - peaks["vectors"]) * 1e9 / given.documents,
    }
    both = ", ".join(
        f"{words}: {found[f'both {words}'] * 1e3:.1f} ms "
        f"({found[f'both {words}'] / found['vectors']:.2f} times; words alone "
        f"{found[f'words {words}'] * 1e3:.1f} ms)"
        for words in _WORDS
    )
    show(
        row,
        given.json,
        f"{name}: vectors alone {found['vectors'] * 1e3:.1f} ms; with so many words {both}; the "
        f"first {first * 1e3:.1f} ms; {row['bytes_a_document']:.0f} bytes of memory a document",
    )


def main() -> None:
    """Make what is missing, measure, print."""
    parser = make_parser(__doc__)
    parser.add_argument("--texts", nargs="+", required=True)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--language", default="none")
    parser.add_argument("--dims", nargs="+", choices=_DIMS, default=list(_DIMS))
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        data = given.data or Path(temporary)
        folder = data / f"sentences-{given.documents}"
        say(f"making {given.documents:,} documents in {data}, unless they are there")
        make_documents(folder, given.texts, given.documents)
        measure_postings(given, folder)
        for name in given.dims:
            vectors = data / f"{name}-{given.documents}"
            make(vectors, given.documents, _DIMS[name])
            measure_queries(given, folder, name, vectors)


if __name__ == "__main__":
    main()

r"""A build by one process against the same by several, and by actors of Ray, in turn.

    python bench/scripts/speed/workers.py TEXT.txt.zst DIRECTORY [--documents 20000] \
        [--workers 2] [--threads 2] [--rounds 2] [--ways one workers ray]

TEXT is plain running text, zstandard-compressed; its sentences of 8 to 22 words are the documents.
One process has --threads threads; workers share as many processors. The indexes go to DIRECTORY and
are removed at the end. Told: documents a second of each build, the starting of processes and the
reading of models included and not, and whether the indexes are equal: the same ids, how far vectors
and scores differ, and whether the ten best are the same wherever scores differ by more than 1e-5.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from harness import make_parser, say, show
from large_build import sentences

from moee_index.types import Document

WAYS = ("one", "workers", "ray")
_QUERIES = 200
_CLOSE = 1e-5


def build(way: str, directory: Path, documents: Sequence[Document], given: Any) -> dict[str, float]:
    """One build; seconds of all, and of embedding alone."""
    from moee_index.encode.encoder import Encoder
    from moee_index.encode.recipe import Recipe
    from moee_index.index import build_index
    from moee_index.index.workers.start import Workers

    began = time.perf_counter()
    options = {"model": given.model}
    if way == "one":
        encoder = Encoder.load(**options, threads=given.threads)
        report = build_index(directory, documents, encoder, index_type="flat")
    else:
        workers = Workers(given.workers, ray="" if way == "ray" else None)
        report = build_index(
            directory, documents, Recipe(options), index_type="flat", workers=workers, notify=say
        )
    whole = time.perf_counter() - began
    return {
        "seconds": whole,
        "documents_per_second": len(documents) / whole,
        "embedding_per_second": report.texts_per_second,
    }


def least_cosine(one: Any, other: Any) -> float:
    """Of each row with the same row of the other matrix."""
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return float((np.sum(one * other, axis=1) / lengths).min())


def differences(one: Path, several: Path) -> dict[str, Any]:
    """How two indexes of the same documents differ."""
    from moee_index.index import Index

    with Index.open(one) as first, Index.open(several) as second:
        ids = [document.id for document, _ in first.in_order()]
        same_ids = sorted(ids) == sorted(document.id for document, _ in second.in_order())
        queries = ids[:: max(1, len(ids) // _QUERIES)]
        ours, theirs = first.vectors(queries), second.vectors(queries)
        cosines = [
            float(
                (np.sum(a * b, 1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))).min()
            )
            for a, b in ((ours.hs, theirs.hs), (ours.rw, theirs.rw))
        ]
        answers = [index.search_embeddings(ours, 10, lexical=0.0) for index in (first, second)]
    score, other = 0.0, 0
    for hits, again in zip(*answers, strict=True):
        known = {hit.id: hit.score for hit in hits}
        score = max(score, *(abs(a.score - b.score) for a, b in zip(hits, again, strict=True)))
        clear = [hit for hit in again if hit.score > hits[-1].score + _CLOSE + score]
        other += sum(hit.id not in known for hit in clear)
    return {
        "same_ids": same_ids,
        "least_cosine": min(cosines),
        "largest_difference_of_scores": score,
        "other_hits": other,
        "queries": len(queries),
    }


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Each way in turn, several times, and what they have built."""
    documents = list(sentences(given.text, given.documents))
    if "ray" in given.ways:
        from moee_index.index.workers.on_ray import _import_ray

        os.environ.setdefault("PYTHONPATH", "")
        _import_ray().init(
            num_cpus=given.threads, include_dashboard=False, log_to_driver=False, address="local"
        )
    found: dict[str, list[dict[str, float]]] = {way: [] for way in given.ways}
    for turn in range(given.rounds):
        for way in given.ways:
            directory = given.directory / way
            shutil.rmtree(directory, ignore_errors=True)
            found[way].append(build(way, directory, documents, given))
            say(f"{turn + 1} {way}: {found[way][-1]}")
    row: dict[str, Any] = {"documents": len(documents), "workers": given.workers}
    for way, builds in found.items():
        row[way] = {name: statistics.median(each[name] for each in builds) for name in builds[0]}
    for way in given.ways:
        if way != "one" and "one" in given.ways:
            row[way] |= differences(given.directory / "one", given.directory / way)
    for way in given.ways:
        shutil.rmtree(given.directory / way)
    return row


def main() -> None:
    """Measure and print."""
    parser = make_parser(__doc__)
    parser.add_argument("text", type=Path)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--documents", type=int, default=20_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--model")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    given = parser.parse_args()
    given.directory.mkdir(parents=True, exist_ok=True)
    row = measure(given)
    told = [
        f"{way} {row[way]['documents_per_second']:.0f} documents/s "
        f"({row[way]['embedding_per_second']:.0f} embedding)"
        for way in given.ways
    ]
    show(row, given.json, f"{row['documents']} documents: {'; '.join(told)}")


if __name__ == "__main__":
    main()

"""Small data sets in the hub's layout, made on the spot, for the tests of the bench."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

SUBJECTS = ("a boy", "two dogs", "the old sailor", "my neighbour", "a choir", "the engineer")
VERBS = ("paints", "follows", "repairs", "watches", "forgets", "sells")
OBJECTS = ("a red boat", "the garden gate", "an owl", "seven letters", "the last train", "a violin")


# Where mteb's tasks had their data when these tests were written.
PLACES = {
    "AmazonCounterfactualClassification": "mteb/amazon_counterfactual",
    "BIOSSES": "mteb/biosses-sts",
    "Banking77Classification": "mteb/banking77",
    "STS12": "mteb/sts12-sts",
    "STS13": "mteb/sts13-sts",
    "STS17": "mteb/sts17-crosslingual-sts",
    "STSBenchmark": "mteb/stsbenchmark-sts",
    "SciFact": "mteb/scifact",
    "SummEvalSummarization.v2": "mteb/summeval",
    "TwentyNewsgroupsClustering": "mteb/twentynewsgroups-clustering",
    "TwitterURLCorpus": "mteb/twitterurlcorpus-pairclassification",
}


def keep_places(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tasks that tests write data for have them in these places, wherever mteb moves them."""
    import mteb

    for name, path in PLACES.items():
        task = mteb.get_task(name)
        if task.metadata.dataset["path"] != path:
            dataset = {**task.metadata.dataset, "path": path}
            moved = task.metadata.model_copy(update={"dataset": dataset})
            monkeypatch.setattr(type(task), "metadata", moved)


def sentence(draw: np.random.Generator) -> str:
    return " ".join(str(draw.choice(words)) for words in (SUBJECTS, VERBS, OBJECTS))


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_sts(data: Path, name: str = "stsbenchmark-sts", count: int = 40, seed: int = 3) -> Path:
    """An STS data set of `count` distinct pairs, split `test`."""
    draw = np.random.default_rng(seed)
    rows = [
        {
            "sentence1": f"{sentence(draw)} {number}",
            "sentence2": f"{sentence(draw)} in May {number}",
            "score": round(float(draw.uniform(0, 5)), 1),
        }
        for number in range(count)
    ]
    return write_lines(data / "mteb" / name / "test.jsonl", rows)


def write_labelled(
    data: Path, name: str, labels: Sequence[str], test: int = 30, seed: int = 5
) -> None:
    """A classification data set: 12 training texts a label."""
    draw = np.random.default_rng(seed)
    for split, count in (("train", 12 * len(labels)), ("test", test)):
        rows = [
            {
                "text": f"{sentence(draw)} {labels[number % len(labels)]} {number}",
                "label": number % len(labels),
                "label_text": labels[number % len(labels)],
            }
            for number in range(count)
        ]
        write_lines(data / "mteb" / name / f"{split}.jsonl", rows)


def write_lists(data: Path, count: int = 12, seed: int = 7) -> Path:
    """Candidate lists as WikiQA's: one right and three wrong candidates a question."""
    draw = np.random.default_rng(seed)
    rows = [
        {
            "query": f"who {draw.choice(VERBS)} {draw.choice(OBJECTS)} {number}",
            "positive": [f"{sentence(draw)} {number}"],
            "negative": [f"{sentence(draw)} {number} {other}" for other in range(3)],
        }
        for number in range(count)
    ]
    return write_lines(data / "rerank" / "WikiQA" / "test.jsonl", rows)


CONFIGS = """---
configs:
- config_name: corpus
  data_files:
  - split: corpus
    path: corpus.jsonl
- config_name: queries
  data_files:
  - split: queries
    path: queries.jsonl
- config_name: default
  default: true
  data_files:
  - split: test
    path: qrels.jsonl
---
"""


def write_retrieval(data: Path, path: str = "mteb/scifact", documents: int = 40) -> Path:
    """A retrieval data set: a query for every second document."""
    draw = np.random.default_rng(9)
    folder = data / path
    texts = [f"{sentence(draw)} {number}" for number in range(documents)]
    write_lines(
        folder / "corpus.jsonl",
        ({"_id": f"d{i}", "title": f"Note {i}", "text": text} for i, text in enumerate(texts)),
    )
    asked = range(0, documents, 2)
    write_lines(folder / "queries.jsonl", ({"_id": f"q{i}", "text": texts[i][:20]} for i in asked))
    write_lines(
        folder / "qrels.jsonl",
        ({"query-id": f"q{i}", "corpus-id": f"d{i}", "score": 1} for i in asked),
    )
    (folder / "README.md").write_text(CONFIGS, encoding="utf-8")
    return folder

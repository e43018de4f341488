"""The bundled model in several processes, over real sentences; and the commands."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import one_line_error, run

from fakes.workers import fork
from moee_index.encode.encoder import Encoder
from moee_index.index import Index, build_index, verify_index
from moee_index.index.store.manifest import Manifest
from moee_index.types import Document

CORPUS = Path(__file__).parents[3] / "corpora" / "wikinews.jsonl"


@pytest.fixture(autouse=True)
def quick_start() -> None:
    fork()


def sentences(count: int) -> list[Document]:
    """Of the bundled corpus; every tenth comes twice, under an id of its own."""
    once = count - count // 10
    found: list[str] = []
    for line in CORPUS.read_text(encoding="utf-8").splitlines():
        texts = re.split(r"(?<=[.!?])\s+", json.loads(line)["text"])
        found += [text for text in texts if 20 < len(text) < 200]
        if len(found) >= once:
            break
    texts = [*found[:once], *found[: count // 10]]
    assert len(texts) == count
    return [Document(f"s{number}", text) for number, text in enumerate(texts)]


def test_the_index_of_one_process(tmp_path: Path) -> None:
    documents = sentences(600)
    encoder = Encoder.load(bits=32, threads=1)
    build_index(tmp_path / "one", documents, encoder)
    build_index(tmp_path / "two", documents, encoder, workers=2)
    assert verify_index(tmp_path / "two", full=True).ok
    with (
        Index.open(tmp_path / "one", encoder) as first,
        Index.open(tmp_path / "two", encoder) as second,
    ):
        manifest = second.manifest
        assert (manifest.shards, manifest.computed_on) == (2, {"cpu float32": 600})
        assert manifest.model_bytes == encoder.weight_bytes
        ids = [each.id for each in documents]
        ours, theirs = first.vectors(ids), second.vectors(ids)
        np.testing.assert_allclose(ours.hs, theirs.hs, rtol=0, atol=2e-5)
        np.testing.assert_allclose(ours.rw, theirs.rw, rtol=0, atol=2e-5)
        queries = encoder.encode([each.text for each in documents[::20]], query=True)
        for options in ({"alpha": 0.25}, {"alpha": 4.0}, {"method": "concat"}):
            answers = [
                index.search_embeddings(queries, 20, lexical=0.0, **options)  # type: ignore[arg-type]
                for index in (first, second)
            ]
            for hits, again in zip(*answers, strict=True):
                same_hits(hits, again)


def same_hits(hits: Any, again: Any) -> None:
    """The same wherever scores differ by more than 1e-5."""
    assert [hit.score for hit in again] == pytest.approx([hit.score for hit in hits], abs=1e-5)
    known = {hit.id for hit in hits}
    assert all(hit.id in known for hit in again if hit.score > hits[-1].score + 1e-5)


def test_token_weights_of_the_corpus(tmp_path: Path) -> None:
    """Counted by a process, though this one reads the corpus: the same table."""
    documents = sentences(120)
    encoder = Encoder.load(pooling="idf", threads=1)
    options: dict[str, Any] = {"idf": "corpus", "chunk": "16:4", "standardize": "both"}
    build_index(tmp_path / "one", documents, encoder, **options)
    build_index(tmp_path / "two", documents, encoder, workers=2, **options)
    one, two = Manifest.read(tmp_path / "one"), Manifest.read(tmp_path / "two")
    assert one.spec.token_weights == two.spec.token_weights is not None
    assert (one.rows, one.language) == (two.rows, two.language)
    assert verify_index(tmp_path / "two", full=True).ok


def test_commands(tmp_path: Path) -> None:
    lines = [
        json.dumps({"id": each.id, "text": each.text, "n": number}) + "\n"
        for number, each in enumerate(sentences(90))
    ]
    index = tmp_path / "i"
    result = run("build", "-", "--index", index, "--workers", "2", "--json",
                 stdin="".join(lines[:60]))  # fmt: skip
    assert json.loads(result.stdout)["embedded"] == 60
    assert "2 workers with " in result.stderr and "model tiny: device cpu" in result.stderr
    (tmp_path / "more.jsonl").write_text("".join(lines[50:]))
    result = run("add", index, tmp_path / "more.jsonl", "--workers", "3", "--threads", "1")
    assert "added 30" in result.stdout and "unchanged 10" in result.stdout
    assert verify_index(index, full=True).documents == 90
    result = run(
        "query", "an election", "--index", index, "-k", "3", "--filter", "n < 90", "--json"
    )
    assert len(json.loads(result.stdout)["hits"]) == 3
    for wrong in ("0", "-1", "two", "1.5"):
        result = run("add", index, tmp_path / "more.jsonl", "--workers", wrong, status=2)
        assert "--workers" in one_line_error(result)
    command = ("build", "-", "--index", tmp_path / "j", "--workers", "2", "--pooling", "idf")
    error = one_line_error(run(*command, stdin=lines[0], status=2))
    assert "stdin cannot be built with --pooling idf" in error

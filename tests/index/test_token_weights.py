"""An index whose model brings no token weights: counted once over its corpus, frozen, and used by
every query, addition and restart."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from commands import one_line_error, run
from paths import PARITY

from fakes.indexes import index_bytes
from moee_index import Encoder
from moee_index.errors import (
    CorpusError,
    FingerprintMismatchError,
    IndexChangedError,
    IndexDamagedError,
    MisuseError,
)
from moee_index.index import (
    Index,
    add_documents,
    build_index,
    compact_index,
    reindex,
    verify_index,
)
from moee_index.index.store.manifest import Manifest
from moee_index.index.store.token_weights import token_weights_of
from moee_index.index.sync import sync_index
from moee_index.token_weights import TokenCounts, TokenWeights
from moee_index.types import Document

WORDS = "river bank money rain under the a of"
TEXTS = [
    " ".join(np.random.default_rng(number).choice(WORDS.split(), 12)) + f" unique{number}"
    for number in range(70)
]
DOCUMENTS = [Document(f"d{number}", text) for number, text in enumerate(TEXTS)]


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    """It lacks a table."""
    return Encoder.load(PARITY / "olmoe", bits=32, pooling="idf", prompt="none")


def counted_over(encoder: Encoder, texts: list[str]) -> TokenWeights:
    counts = TokenCounts()
    encoder.count_tokens(texts, counts)
    return counts.weights()


def tables(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.rglob("token-weights*"))


def test_it_is_counted_over_the_corpus_and_stays(tmp_path: Path, encoder: Encoder) -> None:
    directory, told = tmp_path / "index", list[str]()
    build_index(directory, DOCUMENTS, encoder, notify=told.append)
    assert any("token weights: counted over 70 texts" in line for line in told)
    wanted = counted_over(encoder, TEXTS)
    manifest = Manifest.read(directory)
    assert manifest.spec.token_weights == wanted.checksum
    name = f"token-weights-{wanted.checksum[:16]}.npy"
    assert tables(directory) == [name]
    assert name in manifest.files
    raw = encoder.with_token_weights(wanted).encode(TEXTS)
    with Index.open(directory, encoder) as index:
        stored = index.vectors([document.id for document in DOCUMENTS])
        assert np.allclose(stored.hs, raw.hs, atol=1e-6)
        # A query is pooled by the index's table, however the encoder came.
        assert index.search(TEXTS[5], 1)[0].id == "d5"
    with Index.open(directory, lambda spec: Encoder.for_spec(spec)) as index:
        assert index.search(TEXTS[5], 1)[0].score == pytest.approx(2, abs=1e-4)
    # Whatever becomes of the index, the table stays what it was.
    add_documents(directory, [Document("new", "rain of new money")], encoder)
    reindex(directory, standardize="none")
    compact_index(directory)
    after = [*DOCUMENTS[:60], Document("newer", "rain of newer money")]
    sync_index(directory, after, lambda spec: Encoder.for_spec(spec))
    assert tables(directory) == [name]
    assert Manifest.read(directory).spec.token_weights == wanted.checksum
    assert verify_index(directory, full=True).ok
    with Index.open(directory) as index:
        found = index.vectors(["newer"]).hs
    wanted_row = encoder.with_token_weights(wanted).encode(["rain of newer money"]).hs
    assert np.allclose(found, wanted_row, atol=1e-6)


def test_the_same_corpus_gives_the_same_bytes(tmp_path: Path, encoder: Encoder) -> None:
    for name in ("a", "b"):
        build_index(tmp_path / name, DOCUMENTS, encoder)
    assert index_bytes(tmp_path / "a") == index_bytes(tmp_path / "b")
    assert build_index(tmp_path / "a", DOCUMENTS, encoder).unchanged
    with pytest.raises(IndexChangedError, match="'d3' has different text"):
        build_index(tmp_path / "a", changed(), encoder)
    build_index(tmp_path / "a", changed(), encoder, overwrite=True)
    assert verify_index(tmp_path / "a", full=True).ok
    assert len(tables(tmp_path / "a")) == 1
    assert tables(tmp_path / "a") != tables(tmp_path / "b")


def changed() -> list[Document]:
    return [
        Document(document.id, "quite another text") if document.id == "d3" else document
        for document in DOCUMENTS
    ]


class Interrupted(BaseException):
    """As KeyboardInterrupt."""


def interrupting(encoder: Encoder, after: int) -> Encoder:
    """The same encoder, of which the given call of `embed` never returns."""
    other = encoder.with_batch_tokens(200)
    inner, calls = encoder.running, 0

    class Running:
        def __getattr__(self, name: str) -> object:
            return getattr(inner, name)

        def embed(self, texts: object) -> object:
            nonlocal calls
            calls += 1
            if calls > after:
                raise Interrupted
            return inner.embed(texts)  # type: ignore[arg-type]

    other.running = Running()  # type: ignore[assignment]
    return other


def test_a_restart_takes_the_table_that_was_begun_with(
    tmp_path: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = encoder.with_batch_tokens(200)
    build_index(tmp_path / "whole", DOCUMENTS, small, window=16)
    directory = tmp_path / "index"
    with pytest.raises(Interrupted):
        build_index(directory, DOCUMENTS, interrupting(encoder, 3), window=16)
    assert tables(directory) == ["token-weights.npy"]
    with pytest.raises(IndexChangedError, match="'d3' has different text"):
        build_index(directory, changed(), small, window=16)
    with monkeypatch.context() as patch:
        patch.setattr(Encoder, "count_tokens", lambda *_: pytest.fail("counted again"))
        report = build_index(directory, DOCUMENTS, small, window=16)
    assert report.resumed
    assert index_bytes(directory) == index_bytes(tmp_path / "whole")


def test_another_corpus_with_overwrite_is_counted_again(tmp_path: Path, encoder: Encoder) -> None:
    small = encoder.with_batch_tokens(200)
    build_index(tmp_path / "whole", changed(), small, window=16)
    directory = tmp_path / "index"
    with pytest.raises(Interrupted):
        build_index(directory, DOCUMENTS, interrupting(encoder, 3), window=16)
    told = list[str]()
    build_index(directory, changed(), small, window=16, overwrite=True, notify=told.append)
    assert any("starting over" in line and "other token weights" in line for line in told)
    with Index.open(directory) as found, Index.open(tmp_path / "whole") as wanted:
        assert found.spec == wanted.spec
        assert found.vectors(["d3"]).hs.tobytes() == wanted.vectors(["d3"]).hs.tobytes()


def test_a_models_table_can_be_passed_over(tmp_path: Path, encoder: Encoder) -> None:
    own = encoder.with_token_weights(counted_over(encoder, TEXTS[:5]))
    build_index(tmp_path / "model", DOCUMENTS, own)
    assert Manifest.read(tmp_path / "model").spec == own.spec
    build_index(tmp_path / "corpus", DOCUMENTS, own, idf="corpus")
    assert build_index(tmp_path / "corpus", DOCUMENTS, own, idf="corpus").unchanged
    build_index(tmp_path / "lacking", DOCUMENTS, encoder)
    assert index_bytes(tmp_path / "corpus") == index_bytes(tmp_path / "lacking")
    with pytest.raises(IndexChangedError, match="other token weights"):
        build_index(tmp_path / "corpus", DOCUMENTS, own)
    mean = Encoder.load(PARITY / "olmoe", bits=32, pooling="mean", prompt="none")
    with pytest.raises(MisuseError, match="--idf corpus is for --pooling idf"):
        build_index(tmp_path / "mean", DOCUMENTS, mean, idf="corpus")
    with pytest.raises(MisuseError, match="idf is 'both'"):
        build_index(tmp_path / "mean", DOCUMENTS, mean, idf="both")  # type: ignore[arg-type]


def test_other_weights_are_refused_by_name(tmp_path: Path, encoder: Encoder) -> None:
    directory = tmp_path / "index"
    build_index(directory, DOCUMENTS, encoder)
    other = encoder.with_token_weights(counted_over(encoder, TEXTS[:5]))
    message = r"other token weights \(recorded [0-9a-f]{12}…, now [0-9a-f]{12}…"
    with pytest.raises(FingerprintMismatchError, match=message):
        Index.open(directory, other)
    with pytest.raises(FingerprintMismatchError, match=message):
        add_documents(directory, [Document("new", "text")], other)
    mean = Encoder.load(PARITY / "olmoe", bits=32, pooling="mean", prompt="none")
    with pytest.raises(FingerprintMismatchError, match="pooling 'idf'"):
        Index.open(directory, mean)


def test_passages_are_what_is_counted(tmp_path: Path, encoder: Encoder) -> None:
    long = Document("long", " ".join(TEXTS))
    build_index(tmp_path / "index", [long], encoder, chunk="16")
    with Index.open(tmp_path / "index") as index:
        passages = [passage.text for passage in index.passages(["long"])["long"]]
        assert len(passages) > 10
        assert index.spec.token_weights == counted_over(encoder, passages).checksum


@pytest.mark.parametrize("where", ["index", "unfinished"])
@pytest.mark.parametrize("damage", [lambda content: b"", lambda content: content[:-1] + b"\x7f"])
def test_a_damaged_table_is_named(
    tmp_path: Path, encoder: Encoder, where: str, damage: Callable[[bytes], bytes]
) -> None:
    directory = tmp_path / "index"
    small = encoder.with_batch_tokens(200)
    if where == "index":
        build_index(directory, DOCUMENTS, encoder)
    else:
        with pytest.raises(Interrupted):
            build_index(directory, DOCUMENTS, interrupting(encoder, 2), window=16)
    (path,) = directory.rglob("token-weights*")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(IndexDamagedError, match=path.name):
        if where == "index":
            Index.open(directory, lambda spec: Encoder.for_spec(spec)).search("rain")
        else:
            build_index(directory, DOCUMENTS, small, window=16)
    if where == "index":
        assert path.name in " ".join(verify_index(directory, full=True).problems)
    build_index(directory, DOCUMENTS, small, window=16, overwrite=True)
    assert verify_index(directory, full=True).ok


def test_documents_that_can_be_read_once_are_refused(tmp_path: Path, encoder: Encoder) -> None:
    def once() -> Iterator[Document]:
        yield from DOCUMENTS

    with pytest.raises(MisuseError, match="documents are read twice"):
        build_index(tmp_path / "index", once(), encoder)
    with pytest.raises(CorpusError, match="no text to count tokens in"):
        build_index(tmp_path / "index", [Document("a", " ")], encoder)
    assert not (tmp_path / "index").exists()


def test_the_commands_say_what_to_do(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.jsonl"
    rows = [{"id": document.id, "text": document.text} for document in DOCUMENTS]
    corpus.write_text("\n".join(map(json.dumps, rows)))
    model = ("--model", PARITY / "olmoe", "--pooling", "idf", "--prompt", "none", "--bits", "32")
    index = tmp_path / "index"
    refused = run("build", "-", "--index", index, *model, stdin=corpus.read_text(), status=2)
    assert "stdin cannot be built with --pooling idf" in one_line_error(refused)
    assert not index.exists()
    run("build", corpus, "--index", index, *model, "--dry-run")
    run("build", corpus, "--index", index, *model)
    found = run("query", "--index", index, TEXTS[7], "-k", "1", "--json", "--lexical", "0")
    assert json.loads(found.stdout)["hits"][0]["id"] == "d7"
    embedded = run("embed", TEXTS[7], "--index", index, "--raw", "--method", "hs")
    with Index.open(index) as opened:
        stored = opened.vectors(["d7"]).hs[0].tolist()
    assert np.allclose(json.loads(embedded.stdout)["vector"], stored, atol=1e-5)
    candidates = tmp_path / "candidates.jsonl"
    candidates.write_text(json.dumps({"query": "a", "candidates": ["b", "c"]}))
    run("rerank", candidates, "--index", index)
    for command in (("embed", "a text"), ("rerank", candidates)):
        wrong = run(*command, *model, status=2)
        assert "needs a table of token weights" in one_line_error(wrong)
    extended = tmp_path / "more.jsonl"
    extended.write_text(json.dumps({"id": "more", "text": "more rain"}))
    run("add", index, extended)
    assert Manifest.read(index).documents == 71
    assert token_weights_of(index, Manifest.read(index)) is not None

"""Builds: interrupted at any moment, started again, refused, overwritten."""

from __future__ import annotations

import json
import os
import random
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import forks
import numpy as np
import pytest

from fakes.indexes import build_slowly, fake_documents, index_bytes
from fakes.word_encoder import FakeEncoder, fake_spec
from moee_index.atomic import WriterLock
from moee_index.errors import (
    CorpusError,
    IndexChangedError,
    IndexDamagedError,
    IndexLockedError,
    MisuseError,
    ModelError,
    NotAnIndexError,
    StorageError,
)
from moee_index.index import Index, build_index, verify_index
from moee_index.index.write import pipeline as embed_module
from moee_index.readers.corpus import read_corpora
from moee_index.types import Document

WINDOW = 32
# More than the suite's five: MOEE_INDEX_KILLS=100 pytest tests/test_index_build.py -k kill
KILLS = int(os.environ.get("MOEE_INDEX_KILLS", "5"))


def build(directory: Path, documents: Any, encoder: FakeEncoder | None = None, **options: Any):  # type: ignore[no-untyped-def]
    return build_index(directory, documents, encoder or FakeEncoder(), window=WINDOW, **options)


class Interrupted(BaseException):
    """As KeyboardInterrupt: no `except Exception` may swallow it."""


def interrupt_at(batch: int) -> FakeEncoder:
    def on_batch(number: int) -> None:
        if number == batch:
            raise Interrupted

    return FakeEncoder(on_batch=on_batch)


@pytest.fixture(autouse=True)
def commit_every_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embed_module, "_COMMIT_SECONDS", 0.0)


@pytest.fixture
def documents() -> list[Document]:
    return fake_documents(100)


def test_report_and_files(tmp_path: Path, documents: list[Document]) -> None:
    told: list[str] = []
    stages: list[tuple[str, int, int | None]] = []
    report = build(
        tmp_path / "a b?#",
        [*documents, Document("empty", " \n"), Document("long", "w " * 50)],
        notify=told.append,
        progress=lambda *args: stages.append(args),
        total=102,
    )
    as_json = report.as_json()
    assert {"read": 102, "embedded": 101, "truncated": 1, "skipped": 1, "rejected": 0}.items() <= (
        as_json.items()
    )
    assert as_json["dims"] == {"hs": 24, "rw": 12}
    assert as_json["texts_per_second"] > 0
    assert list(as_json) == [
        "index", "read", "embedded", "truncated", "skipped", "rejected", "dims", "seconds",
        "texts_per_second", "tokens_per_second",
    ]  # fmt: skip
    assert any(message.startswith("standardize both: ") for message in told)
    assert any(message.startswith("index type flat: ") for message in told)
    embedding = [done for stage, done, total in stages if stage == "embedding" and total == 102]
    assert embedding == sorted(embedding)
    assert embedding[-1] == 101
    assert {path.name for path in (tmp_path / "a b?#").iterdir()} == {
        "manifest.json", "lock", "segment-0001", "standardizer-0001.safetensors",
    }  # fmt: skip
    assert {path.name for path in (tmp_path / "a b?#/segment-0001").iterdir()} == {
        "documents.sqlite", "fields.sqlite", "hs.f32", "rw.f32", "rows.crc", "norms-0001.f32",
        "hs-0001.faiss", "rw-0001.faiss", "hs-0001.crc", "rw-0001.crc",
        "lexical-0001.postings", "lexical-0001.crc",
    }  # fmt: skip
    assert verify_index(tmp_path / "a b?#", full=True).ok
    raw = np.fromfile(tmp_path / "a b?#/segment-0001/hs.f32", "<f4").reshape(101, 24)
    assert np.array_equal(raw[:100], FakeEncoder().encode([d.content for d in documents]).hs)


def test_interrupted_at_every_batch(tmp_path: Path, documents: list[Document]) -> None:
    whole = FakeEncoder()
    build(tmp_path / "whole", documents, whole)
    expected = index_bytes(tmp_path / "whole")
    calls, batch = 0, 1
    while True:
        encoder = interrupt_at(batch % 3 + 1)
        try:
            report = build(tmp_path / "again", documents, encoder)
            calls += len(encoder.calls)
            break
        except Interrupted:
            calls += len(encoder.calls)
            batch += 1
            with pytest.raises(NotAnIndexError, match="an unfinished build"):
                Index.open(tmp_path / "again")
    assert batch > 3
    # The interrupted batch itself, nothing else, was asked for twice.
    assert calls == len(whole.calls) + batch - 1
    assert report.resumed > 0
    assert report.embedded == 100
    assert index_bytes(tmp_path / "again") == expected


def test_killed_at_random_moments(tmp_path: Path) -> None:
    """SIGKILL, started again until it ends: the same bytes, the same hits."""
    context = forks.context()
    seed = random.randrange(1 << 30)
    chance = random.Random(seed)

    def run(directory: Path, seconds: float | None) -> int | None:
        process = context.Process(target=build_slowly, args=(str(directory),))
        process.start()
        process.join(seconds)
        process.kill()
        process.join()
        return process.exitcode

    run(tmp_path / "warm", None)
    began = time.perf_counter()
    assert run(tmp_path / "whole", None) == 0
    length = time.perf_counter() - began
    expected = index_bytes(tmp_path / "whole")
    directory, kills = tmp_path / "killed-0", 0
    for number in range(KILLS):
        # Every third time wherever it then is, else further on than before.
        if run(directory, chance.uniform(0.0, length * (1.1 if number % 3 else 0.4))) == 0:
            assert index_bytes(directory) == expected, f"seed {seed}"
            directory = tmp_path / f"killed-{number + 1}"
        else:
            kills += 1
    assert run(directory, None) == 0, f"seed {seed}"
    assert index_bytes(directory) == expected, f"seed {seed}"
    assert verify_index(directory, full=True).ok
    with Index.open(directory, FakeEncoder()) as one, Index.open(tmp_path / "whole") as other:
        query = FakeEncoder().encode(["w3 w14", "w15 w9 w2"])
        assert one.search_embeddings(query) == other.search_embeddings(query)
    assert kills or KILLS < 5


def test_killed_overwrites_leave_an_index_that_answers(tmp_path: Path) -> None:
    context = forks.context()
    documents = fake_documents(200)
    build(tmp_path / "i", documents[:70])
    build(tmp_path / "new", documents)
    chance = random.Random(4)
    for _ in range(5):
        process = context.Process(target=build_slowly, args=(str(tmp_path / "i"), True))
        process.start()
        process.join(chance.uniform(0.1, 1.5))
        process.kill()
        process.join()
        assert verify_index(tmp_path / "i", full=True).ok
        with Index.open(tmp_path / "i", FakeEncoder()) as index:
            assert len(index) in (70, 200)
            assert index.search(documents[5].text, 1)[0].hs == 1.0
    report = build(tmp_path / "i", documents, overwrite=True)
    assert report.embedded == 200
    assert index_bytes(tmp_path / "i") == index_bytes(tmp_path / "new")
    left = {path.name for path in (tmp_path / "i").iterdir() if path.is_dir()}
    assert len(left) == 1


@pytest.mark.parametrize("batch", [2, 9])
def test_started_again_with_another_corpus(
    tmp_path: Path, documents: list[Document], batch: int
) -> None:
    with pytest.raises(Interrupted):
        build(tmp_path / "i", documents, interrupt_at(batch))
    before = index_bytes(tmp_path / "i")
    first = Document("d0", documents[0].text, {"x": 2}, source="c.jsonl:1")
    for changed, told in (
        ([Document("new", "other words"), *documents], "document 1 is 'new', where 'd0' was"),
        (
            [Document("d0", "other words", {"x": 1}), *documents[1:]],
            "document 'd0' has different text",
        ),
        ([first, *documents[1:]], "c.jsonl:1: document 'd0' has different metadata"),
        ([documents[1], documents[0], *documents[2:]], "document 1 is 'd1', where 'd0' was"),
        (documents[:20], "document 'd20' is missing"),
    ):
        with pytest.raises(IndexChangedError, match=told):
            build(tmp_path / "i", changed)
    assert index_bytes(tmp_path / "i") == before
    assert not build(tmp_path / "i", documents).unchanged


def test_documents_behind_the_interrupted_end(tmp_path: Path) -> None:
    """The last window was committed as the corpus's end: a longer corpus is another one."""
    documents = fake_documents(50)
    with pytest.raises(Interrupted):
        build(tmp_path / "i", documents[:40], interrupt_at(10))
    with pytest.raises(IndexChangedError, match="'d40' is new"):
        build(tmp_path / "i", documents)
    build(tmp_path / "i", documents, overwrite=True)
    build(tmp_path / "whole", documents)
    assert index_bytes(tmp_path / "i") == index_bytes(tmp_path / "whole")


def test_finished_index_is_recognised(tmp_path: Path, documents: list[Document]) -> None:
    build(tmp_path / "i", documents)
    before = index_bytes(tmp_path / "i")
    encoder = FakeEncoder(batch_tokens=99)
    report = build(tmp_path / "i", iter(documents), encoder)
    assert report.unchanged
    assert (report.read, report.embedded, report.resumed) == (100, 100, 100)
    assert not encoder.calls
    assert build(tmp_path / "i", documents, standardize="both", index_type="flat").unchanged
    extra = Document("d100", "more")
    for changed, told in (
        ([*documents, extra], "'d100' is new"),
        (documents[:-1], "'d99' is missing"),
        ([], "'d0' is missing"),
        ([extra, *documents], "document 1 is 'd100'"),
    ):
        with pytest.raises(IndexChangedError, match=told):
            build(tmp_path / "i", changed)
    assert index_bytes(tmp_path / "i") == before


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"standardize": "none"}, r"standardize .* \(now 'none'\)"),
        ({"index_type": "HNSW8"}, r"index-type 'flat' \(now 'HNSW8'\)"),
        ({"store": "float16"}, r"store 'float32' \(now 'float16'\)"),
        ({"encoder": {"prompt": "{text}"}}, r"prompt 'none' \(now '{text}'\)"),
        ({"encoder": {"bits": 4, "pooling": "mean"}}, r"bits 32 .*pooling 'last' \(now 'mean'\)"),
        ({"encoder": {"fingerprint": "0" * 64}}, "another model .*fingerprint ffff"),
    ],
)
def test_started_again_with_other_options(
    tmp_path: Path, documents: list[Document], finished: bool, options: Any, told: str
) -> None:
    if finished:
        build(tmp_path / "i", documents)
    else:
        with pytest.raises(Interrupted):
            build(tmp_path / "i", documents, interrupt_at(3))
    options = dict(options)
    encoder = FakeEncoder(spec=fake_spec(**options.pop("encoder", {})))
    with pytest.raises(IndexChangedError, match=told):
        build(tmp_path / "i", documents, encoder, **options)
    assert build(tmp_path / "i", documents).unchanged is finished


def test_first_batch_budget_is_kept(tmp_path: Path, documents: list[Document]) -> None:
    build(tmp_path / "whole", documents)
    with pytest.raises(Interrupted):
        build(tmp_path / "i", documents, interrupt_at(8))
    told: list[str] = []
    build(tmp_path / "i", documents, FakeEncoder(batch_tokens=7), notify=told.append)
    assert any("batch tokens 20" in message for message in told)
    assert index_bytes(tmp_path / "i") == index_bytes(tmp_path / "whole")


def test_a_window_planned_otherwise_is_embedded_again(
    tmp_path: Path, documents: list[Document]
) -> None:
    """As after an upgrade of the tokeniser's library: batches done say nothing any more."""
    with pytest.raises(Interrupted):
        build(tmp_path / "i", documents, interrupt_at(8))
    with sqlite3.connect(tmp_path / "i/segment-0001/documents.sqlite") as connection:
        connection.execute("UPDATE windows SET plan = 'other' WHERE NOT done")
    connection.close()
    told: list[str] = []
    build(tmp_path / "i", documents, notify=told.append)
    assert any("batches have changed" in message for message in told)
    build(tmp_path / "whole", documents)
    assert index_bytes(tmp_path / "i") == index_bytes(tmp_path / "whole")


def test_overwrite_keeps_the_old_index_until_the_new_is_whole(
    tmp_path: Path, documents: list[Document]
) -> None:
    directory = tmp_path / "i"
    build(directory, documents)
    old = Index.open(directory, FakeEncoder())
    expected = old.search(documents[3].text, 3)
    newer = [Document(f"n{i}", f"{document.text} x") for i, document in enumerate(documents)]

    def still_there(_: int) -> None:
        with Index.open(directory, FakeEncoder()) as index:
            assert index.search(documents[3].text, 3) == expected

    with pytest.raises(Interrupted):
        build(directory, newer, interrupt_at(5), overwrite=True)
    still_there(0)
    told: list[str] = []
    encoder = FakeEncoder(on_batch=still_there)
    report = build(directory, newer, encoder, overwrite=True, notify=told.append)
    assert report.resumed > 0
    assert any("resuming" in message for message in told)
    with Index.open(directory, FakeEncoder()) as index:
        assert index.search(newer[3].text, 1)[0].id == "n3"
    assert sorted(path.name for path in directory.iterdir()) == [
        "lock", "manifest.json", "segment-0002", "standardizer-0002.safetensors",
    ]  # fmt: skip
    # A reader keeps the version that it opened.
    assert old.search(documents[3].text, 3) == expected
    assert old.vectors(["d99"]).hs.shape == (1, 24)
    old.close()


def test_overwrite_of_an_interrupted_build(tmp_path: Path, documents: list[Document]) -> None:
    with pytest.raises(Interrupted):
        build(tmp_path / "i", documents, interrupt_at(20))
    # Another index type needs no new vectors; a changed document only those from its window on.
    changed = [*documents[:40], Document("d40", "quite other words"), *documents[41:]]
    encoder, told = FakeEncoder(), list[str]()
    report = build(tmp_path / "i", changed, encoder, overwrite=True, index_type="SQ8",
                   notify=told.append)  # fmt: skip
    assert report.resumed == WINDOW
    assert any("document 'd40' has different text" in message for message in told)
    whole = FakeEncoder()
    build(tmp_path / "whole", changed, whole, index_type="SQ8")
    assert len(encoder.calls) < len(whole.calls)
    assert index_bytes(tmp_path / "i") == index_bytes(tmp_path / "whole")
    with pytest.raises(Interrupted):
        build(tmp_path / "j", documents, interrupt_at(20))
    other = FakeEncoder(spec=fake_spec(prompt="{text}"))
    assert build(tmp_path / "j", documents, other, overwrite=True).resumed == 0


def test_equal_texts_are_embedded_once(tmp_path: Path) -> None:
    texts = [f"words number {i % 20}" for i in range(200)]
    documents = [Document(str(i), text) for i, text in enumerate(texts)]
    encoder = FakeEncoder()
    build(tmp_path / "i", documents, encoder)
    windows_with_new_texts = 1
    assert len(encoder.calls) <= windows_with_new_texts * 20
    with Index.open(tmp_path / "i", FakeEncoder()) as index:
        found = index.vectors([document.id for document in documents])
        assert np.array_equal(found.rw, FakeEncoder().encode(texts).rw)
        assert [hit.id for hit in index.search("words number 7", 10)] == [
            str(i) for i in range(7, 200, 20)
        ]


def test_duplicate_ids(tmp_path: Path, documents: list[Document]) -> None:
    second = Document("d3", "other words", source="b.jsonl:9")
    with_duplicate = [*documents, second]
    for position in (50, 101):
        some = [*with_duplicate[:position], second] if position == 50 else with_duplicate
        with pytest.raises(CorpusError, match=r"b.jsonl:9: id 'd3' .*\(c.jsonl:4\)"):
            build(tmp_path / str(position), some)
    # What was embedded before is kept.
    encoder = FakeEncoder()
    assert build(tmp_path / "101", documents, encoder).resumed == 3 * WINDOW
    for name in ("skip", "50"):
        for _ in range(2):
            report = build(tmp_path / name, with_duplicate, on_bad="skip")
        assert (report.read, report.embedded, report.rejected) == (101, 100, 1)
        assert report.unchanged
        lines = (tmp_path / name / "rejected.jsonl").read_text().splitlines()
        assert len(lines) == 1
        assert json.loads(lines[0])["source"] == "b.jsonl:9"
        assert "already used" in json.loads(lines[0])["reason"]


def test_rejected_lines_of_a_reader(tmp_path: Path) -> None:
    corpus = tmp_path / "c.jsonl"
    lines = [json.dumps({"id": f"d{i}", "text": f"words {i} w{i}"}) for i in range(100)]
    lines[10], lines[80] = "no json", '{"id": "d80"}'
    corpus.write_text("\n".join(lines))

    def read(reject: Any) -> Any:
        return read_corpora([corpus], on_bad="skip", reject=reject)

    with pytest.raises(CorpusError, match=r"c.jsonl:11"):
        build(tmp_path / "i", read_corpora([corpus]))
    with pytest.raises(Interrupted):
        build(tmp_path / "i", read, interrupt_at(12), on_bad="skip")
    report = build(tmp_path / "i", read, on_bad="skip")
    assert (report.read, report.embedded, report.rejected) == (100, 98, 2)
    rejected = (tmp_path / "i/rejected.jsonl").read_text().splitlines()
    assert [json.loads(line)["line"] for line in rejected] == ["no json", '{"id": "d80"}']
    assert build(tmp_path / "i", read, on_bad="skip").rejected == 2
    assert (tmp_path / "i/rejected.jsonl").read_text().splitlines() == rejected
    build(tmp_path / "i", fake_documents(10), overwrite=True)
    assert not (tmp_path / "i/rejected.jsonl").exists()


def test_nothing_to_index_leaves_nothing(tmp_path: Path) -> None:
    for documents in ([], [Document("a", ""), Document("b", " \t")]):
        with pytest.raises(CorpusError, match="no document"):
            build(tmp_path / "new" / "i", documents)
        assert not (tmp_path / "new" / "i").exists()
    (tmp_path / "there").mkdir()
    with pytest.raises(CorpusError):
        build(tmp_path / "there", [])
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["lock"]
    build(tmp_path / "i", fake_documents(5))
    with pytest.raises(CorpusError):
        build(tmp_path / "i", [], overwrite=True)
    assert verify_index(tmp_path / "i", full=True).ok
    assert not (tmp_path / "i/segment-0002").exists()


def test_errors_of_the_corpus_keep_what_is_done(tmp_path: Path, documents: list[Document]) -> None:
    def broken() -> Iterator[Document]:
        yield from documents[:70]
        raise CorpusError("c.jsonl:71: no JSON")

    with pytest.raises(CorpusError, match=r"c\.jsonl:71"):
        build(tmp_path / "i", broken())
    encoder = FakeEncoder()
    assert build(tmp_path / "i", documents, encoder).resumed == 2 * WINDOW


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_vectors_that_are_not_finite_name_the_document(
    tmp_path: Path, documents: list[Document], bad: float
) -> None:
    class Bad(FakeEncoder):
        def vectors(self, texts: Any) -> Any:
            found = super().vectors(texts)
            for row, text in enumerate(texts):
                if text == documents[45].text:
                    found.rw[row, 3] = bad
            return found

    with pytest.raises(ModelError, match=r"RW of document 'd45' \(c.jsonl:46\)"):
        build(tmp_path / "i", documents, Bad())
    assert build(tmp_path / "i", documents).resumed >= WINDOW


def test_an_encoder_that_breaks_the_seam_is_told(tmp_path: Path) -> None:
    class Short(FakeEncoder):
        def vectors(self, texts: Any) -> Any:
            return super().vectors(texts[1:])

    with pytest.raises(ModelError, match="shape"):
        build(tmp_path / "i", fake_documents(5), Short())


def test_texts_of_all_kinds(tmp_path: Path) -> None:
    metadata = {"large": "x" * 3_000_000, "nested": [{"ü": None}, 1.5, True], "title": "Über"}
    documents = [
        Document("日本語/ü\n'\";--", "text with \0 zero", metadata),
        Document("a\0b", "right\u2028to\u202eleft 🎉", {"n": 10**30}),
        Document(" ", "x", title="Title only in front"),
    ]
    with Index.build(tmp_path / "i", documents, FakeEncoder()) as index:
        hits = {hit.id: hit for hit in index.search("Title zero", 5)}
        assert set(hits) == {document.id for document in documents}
        for document in documents:
            assert hits[document.id].text == document.text
            assert hits[document.id].metadata == document.metadata
    assert build(tmp_path / "i", documents).unchanged
    for wrong in (
        Document("x", "half \ud800"),
        Document("x\udfff", "text"),
        Document("x", "text", {"a": float("nan")}),
        Document("x", "text", {"a": {1, 2}}),
    ):
        with pytest.raises(CorpusError, match="document 'x"):
            build(tmp_path / "j", [*fake_documents(3), wrong])
        report = build(tmp_path / "k", [*fake_documents(3), wrong], on_bad="skip", overwrite=True)
        assert (report.embedded, report.rejected) == (3, 1)
        assert len((tmp_path / "k/rejected.jsonl").read_text().splitlines()) == 1


def test_few_documents_are_not_standardised(tmp_path: Path) -> None:
    told: list[str] = []
    build(tmp_path / "i", fake_documents(63), notify=told.append)
    assert any("standardize none: too few rows to fit on (63," in message for message in told)
    with Index.open(tmp_path / "i") as index:
        assert index.standardizer.which == "none"
        assert index.info()["standardize"] == "none"
    build(tmp_path / "j", fake_documents(63), standardize="rw")
    with Index.open(tmp_path / "j") as index:
        assert index.standardizer.which == "rw"


def test_one_writer_at_a_time(tmp_path: Path, documents: list[Document]) -> None:
    refused = []

    def second_writer(number: int) -> None:
        if number == 3:
            with pytest.raises(IndexLockedError, match="another process is writing"):
                build(tmp_path / "i", documents)
            refused.append(number)

    build(tmp_path / "i", documents, FakeEncoder(on_batch=second_writer))
    assert refused
    with WriterLock(tmp_path / "i"):
        # Readers, and builds that find nothing to do, need no lock.
        assert build(tmp_path / "i", documents).unchanged
        with pytest.raises(IndexLockedError):
            build(tmp_path / "i", documents, overwrite=True)
    assert build(tmp_path / "i", documents, overwrite=True).embedded == 100


def test_directories_that_are_no_place_for_an_index(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(MisuseError, match="is a file"):
        build(tmp_path / "file", fake_documents(3))
    with pytest.raises(MisuseError, match="holds other files"):
        build(tmp_path, fake_documents(3))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    with pytest.raises(StorageError, match=r"cannot write|failed"):
        build(tmp_path / "file" / "below", fake_documents(3))


@pytest.mark.parametrize(
    "wrong", [{"standardize": "all"}, {"store": "int8"}, {"on_bad": "ignore"}, {"index_type": "x"}]
)
def test_options_out_of_range(tmp_path: Path, wrong: Any) -> None:
    with pytest.raises(MisuseError):
        build(tmp_path / "i", fake_documents(3), **wrong)
    assert not (tmp_path / "i").exists()


def test_too_few_documents_for_a_type_keep_their_vectors(tmp_path: Path) -> None:
    with pytest.raises(MisuseError, match=r"IVF64.*cannot be built for HS from 50"):
        build(tmp_path / "i", fake_documents(50), index_type="IVF64,Flat")
    encoder = FakeEncoder()
    report = build(tmp_path / "i", fake_documents(50), encoder, overwrite=True, index_type="flat")
    assert report.resumed == 50
    assert not encoder.calls


def test_damaged_interrupted_builds(tmp_path: Path, documents: list[Document]) -> None:
    for number, damage in enumerate(("building.json", "documents.sqlite", "hs.f32")):
        directory = tmp_path / str(number)
        with pytest.raises(Interrupted):
            build(directory, documents, interrupt_at(20))
        path = directory / "segment-0001" / damage
        path.write_bytes(b"garbage" * 40)
        with pytest.raises(IndexDamagedError, match=damage if number < 2 else "lacks vectors"):
            build(directory, documents)
        build(directory, documents, overwrite=True)
        assert verify_index(directory, full=True).ok

"""One index and one encoder used by many threads: each call answers as it would alone."""

from __future__ import annotations

import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from fakes.indexes import fake_documents
from fakes.word_encoder import FakeEncoder, fake_spec
from moee_index.encode.encoder import Encoder
from moee_index.errors import FingerprintMismatchError, MisuseError
from moee_index.index import Index, build_index
from moee_index.index.in_use import InUse
from moee_index.types import Document, TextEncoder
from stress.threads import call, run, same, texts

THREADS = 8


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder.load(threads=1)


@pytest.fixture
def index(tmp_path: Path, encoder: Encoder) -> Any:
    documents = [
        Document(f"d{number}", text, {"n": number % 5}) for number, text in enumerate(texts(80, 1))
    ]
    build_index(tmp_path / "i", documents, encoder, chunk="16:4")
    with Index.open(tmp_path / "i", lambda _: encoder) as opened:
        yield opened


def test_mixed_calls_answer_as_they_do_alone(index: Index, encoder: Encoder) -> None:
    asked = encoder.encode(texts(20, 2), query=True)
    calls = [call(number, encoder, index, asked) for number in range(300)]
    alone, _ = run(calls, 1)
    filters = warnings.filters[:]
    answers, _ = run(calls, THREADS)
    assert all(same(found, expected) for found, expected in zip(answers, alone, strict=True))
    assert warnings.filters == filters  # the process's, which threads would undo for one another


def test_an_encoder_is_loaded_once(tmp_path: Path) -> None:
    build_index(tmp_path / "i", fake_documents(80), FakeEncoder())
    loaded: list[TextEncoder] = []

    def load(_: Any) -> TextEncoder:
        time.sleep(0.05)
        loaded.append(FakeEncoder())
        return loaded[-1]

    with Index.open(tmp_path / "i", load) as index, ThreadPoolExecutor(THREADS) as pool:
        hits = list(pool.map(lambda _: index.search("w3 w4"), range(THREADS)))
    assert len(loaded) == 1
    assert all(each == hits[0] for each in hits)


def test_a_loader_that_fails_is_asked_again(tmp_path: Path) -> None:
    build_index(tmp_path / "i", fake_documents(80), FakeEncoder())
    answers: list[Any] = [None, FakeEncoder(fake_spec(pooling="mean")), FakeEncoder()]
    with Index.open(tmp_path / "i", lambda _: answers.pop(0)) as index:
        with pytest.raises(MisuseError, match="an encoder is needed, not NoneType"):
            index.search("w3")
        with pytest.raises(FingerprintMismatchError, match="pooling"):
            index.search("w3")
        assert index.search("w3")


def test_closing_while_others_search(tmp_path: Path) -> None:
    """Each call ends with its answer or says that the index is closed; nothing crashes."""
    build_index(tmp_path / "i", fake_documents(80), FakeEncoder())
    embeddings = FakeEncoder().vectors(["w3 w4"])
    for pause in (0.0, 0.001, 0.01, 0.03):
        index = Index.open(tmp_path / "i", FakeEncoder())
        expected = index.search_embeddings(embeddings, 5)
        ended: list[str] = []

        def work(index: Index = index, expected: Any = expected, ended: Any = ended) -> None:
            steps = [
                lambda: index.search_embeddings(embeddings, 5) == expected,
                lambda: len(index.search("w3 w4", 5, filter="x = 1")) == 5,
                lambda: len(index.documents(["d1", "d2"])) == 2,
                lambda: len(index.vectors(["d1"]).hs) == 1,
                lambda: next(iter(index.in_order()))[0].id == "d0",
                lambda: index.info()["documents"] == 80,
            ]
            try:
                while True:
                    for step in steps:
                        assert step()
            except MisuseError as error:
                ended.append(str(error))

        threads = [threading.Thread(target=work) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        time.sleep(pause)
        index.close()
        for thread in threads:
            thread.join(60)
        assert len(ended) == THREADS
        assert all("is closed; open it again with Index.open" in each for each in ended)


def test_what_is_in_flight_is_closed_by_the_last_one() -> None:
    closed: list[int] = []
    use = InUse(lambda: closed.append(1), lambda: MisuseError("closed"))
    with use.held():
        with use.held():
            use.close()
            assert closed == []
        with pytest.raises(MisuseError), use.held():
            pass
        assert closed == []
    assert closed == [1]
    use.close()
    assert closed == [1]
    with pytest.raises(MisuseError):
        use.each(iter([1]))


def test_an_iterator_that_was_begun_says_that_the_index_is_closed(tmp_path: Path) -> None:
    build_index(tmp_path / "i", fake_documents(80), FakeEncoder())
    index = Index.open(tmp_path / "i")
    ids, documents = index.ids(), index.in_order()
    assert next(ids) == "d0"
    assert next(documents)[0].id == "d0"
    index.close()
    for begun in (ids, documents):
        with pytest.raises(MisuseError, match="is closed"):
            next(begun)
    index.close()

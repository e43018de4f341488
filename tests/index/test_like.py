"""More like a document: from its stored vectors, itself left out, as brute force finds them; and
without a model, or torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import one_line_error, run
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes.word_encoder import FakeEncoder
from moee_index.errors import MisuseError
from moee_index.fusion import score, unit_vectors
from moee_index.index import Index, add_documents, build_index, delete_documents
from moee_index.types import Document, Embeddings


def documents(count: int) -> list[Document]:
    """Texts of several passages each, some of them equal to others'."""
    return [
        Document(
            f"d{n}", " ".join(f"w{(n * k) % 7}" for k in range(1, 4 + 9 * (n % 3))), {"x": n % 2}
        )
        for n in range(count)
    ]


@pytest.fixture(scope="module", params=[None, "8:2"])
def index(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two segments with deleted documents."""
    directory = tmp_path_factory.mktemp("like") / "i"
    build_index(directory, documents(20), FakeEncoder(), chunk=request.param)
    add_documents(directory, documents(30), FakeEncoder())
    delete_documents(directory, ["d4", "d25"])
    return directory


def expected(opened: Index, of: str, alpha: float, only: int | None) -> dict[str, float]:
    """Each other document's best score over pairs of passages, by brute force."""
    every = {document.id: (document, rows) for document, rows in opened.in_order()}
    query = unit_vectors(every[of][1], opened.standardizer)
    found = {}
    for identifier, (document, rows) in every.items():
        if identifier != of and only in (None, document.metadata["x"]):
            one = unit_vectors(Embeddings(rows.hs, rows.rw), opened.standardizer)
            scores = [score(query[i : i + 1], one, "sum", alpha).score for i in range(len(query))]
            found[identifier] = float(np.max(scores))
    return found


@given(
    of=st.sampled_from([f"d{n}" for n in range(30) if n not in (4, 25)]),
    k=st.integers(1, 40),
    alpha=st.sampled_from([0.0, 0.5, 2.0]),
    only=st.sampled_from([None, 0, 1]),
)
@settings(max_examples=60, deadline=None)
def test_more_like_is_what_brute_force_finds(
    index: Path, of: str, k: int, alpha: float, only: int | None
) -> None:
    with Index.open(index) as opened:
        condition = None if only is None else f"x = {only}"
        hits = opened.like(of, k, alpha=alpha, filter=condition)
        wanted = expected(opened, of, alpha, only)
        assert [hit.rank for hit in hits] == list(range(1, len(hits) + 1))
        assert len(hits) == min(k, len(wanted)) and of not in {hit.id for hit in hits}
        best = sorted(wanted.values(), reverse=True)[:k]
        np.testing.assert_allclose([hit.score for hit in hits], best, atol=1e-5)
        for hit in hits:
            assert hit.score == pytest.approx(wanted[hit.id], abs=1e-5)
        # Equal ones are in the order of the index.
        places = {document.id: n for n, (document, _) in enumerate(opened.in_order())}
        keys = [(-hit.score, places[hit.id]) for hit in hits]
        assert keys == sorted(keys)


def test_passages_are_hits_of_their_own(tmp_path: Path) -> None:
    build_index(tmp_path / "i", documents(9), FakeEncoder(), chunk="8:2")
    with Index.open(tmp_path / "i") as opened:
        hits = opened.like("d2", 50, passages=True)
        assert not any(hit.id.startswith("d2#") for hit in hits)
        assert len({hit.id for hit in hits}) == len(hits) > 9
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


def test_documents_that_are_not_there(index: Path) -> None:
    with Index.open(index) as opened:
        for wrong in ("nope", "d4", ""):
            with pytest.raises(MisuseError, match="has no document"):
                opened.like(wrong)
        with pytest.raises(MisuseError, match="the id is of type int"):
            opened.like(3)  # type: ignore[arg-type]
        with pytest.raises(MisuseError, match="k is 0"):
            opened.like("d1", 0)


# As a command


@pytest.fixture
def built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    texts = {"a": "ships at sea", "b": "boats on the ocean", "c": "bread and butter"}
    lines = [json.dumps({"id": name, "text": text}) for name, text in texts.items()]
    (tmp_path / "c.jsonl").write_text("\n".join(lines))
    run("-q", "build", "c.jsonl", "--index", "i")
    return tmp_path


def test_like_as_a_command(built: Path) -> None:
    result = run("query", "--index", "i", "--like", "a", "-k", 1)
    assert result.stdout.startswith("like a   (") and "  b  boats" in result.stdout
    assert "model" not in result.stderr
    found = json.loads(run("query", "--index", "i", "--like", "a", "--json").stdout)
    assert (found["query"], found["query_id"], found["like"]) == (None, None, "a")
    assert [hit["id"] for hit in found["hits"]] == ["b", "c"]
    lines = run("query", "--index", "i", "--like", "a", "--trec").stdout.splitlines()
    assert [line.split()[:4] for line in lines] == [["a", "Q0", "b", "1"], ["a", "Q0", "c", "2"]]


@pytest.mark.parametrize("arguments", [["--like", "a"], ["--lexical", "1", "ships"]])
def test_neither_torch_nor_a_model_is_imported(built: Path, arguments: list[str]) -> None:
    code = (
        "import sys; from moee_index.cli import cli\n"
        "try: cli.main(sys.argv[1:])\n"
        "finally: print(*(name for name in ('torch', 'transformers') if name in sys.modules))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, "-q", "query", "--index", "i", *arguments],
        cwd=built,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "ships" in result.stdout or "boats" in result.stdout
    assert result.stdout.splitlines()[-1] == ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--like", "a", "ships"], "--like asks by the vectors of a document"),
        (["--like", "a", "--queries", "c.jsonl"], "--like asks by the vectors"),
        (["--like", "a", "--lexical", "0.5"], "--like asks by the vectors"),
        (["--like", "zz"], "has no document 'zz'"),
    ],
)
def test_what_is_like_nothing(built: Path, arguments: list[str], words: str) -> None:
    assert words in one_line_error(run("query", "--index", "i", *arguments, status=2))

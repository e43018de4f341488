"""The script that compares early exit with reading every row, on a small index."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from measuring import run

from moee_index import Document, Encoder, Index
from moee_index.index.search.native.library import library
from moee_index.index.write import leading

pytestmark = pytest.mark.skipif(library() is None, reason="installed without a C++ compiler")


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exit") / "index"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(leading, "_LEAST_BYTES", 0)
        patch.setattr(leading, "_MOST_READ", 1e9)
        texts = [f"Sentence {i} of {i % 17} about {i % 5} things." for i in range(300)]
        documents = [Document(str(i), text) for i, text in enumerate(texts)]
        Index.build(path, documents, Encoder.load("tiny")).close()
    return path


@pytest.fixture
def asked(tmp_path: Path) -> Path:
    path = tmp_path / "queries.jsonl"
    path.write_text("".join(json.dumps({"text": f"{i} things"}) + "\n" for i in range(3)))
    return path


def test_both_ways_are_timed_and_compared(index: Path, asked: Path) -> None:
    row = json.loads(run("speed/early_exit.py", index, "--queries", asked, "--rounds", 1, "--json"))
    assert row["documents"] == 300
    assert row["bytes_of_codes"] == 1024
    assert set(row["ways"]) >= {"sum, alpha 1", "hs", "rw", "concat", "sum, words"}
    for one in row["ways"].values():
        assert one["whole_ms"] > 0
        assert one["early_ms"] > 0
        assert 0 < one["rows_read"] <= 1
    assert set(row["together"]) == {"1", "2"}
    text = run("speed/early_exit.py", index, "--queries", asked, "--rounds", 1)
    assert "| sum, alpha 4 |" in text

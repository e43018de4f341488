"""An index that changes on disk, or can no longer be read, while it is served."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import Served, build_news, news, serving, wait_for

from moee_index import Document, Encoder
from moee_index.errors import MisuseError
from moee_index.index import add_documents, build_index, compact_index, delete_documents
from moee_index.serve.errors import NotReadyError
from moee_index.serve.indexes import ServedIndex
from moee_index.serve.local import Directory


@pytest.fixture
def index(tmp_path: Path, tiny: Encoder) -> Path:
    return build_news(tmp_path / "news", 20, tiny)


@pytest.fixture
def reloading(index: Path) -> Iterator[Served]:
    with serving(index) as running:
        yield running


def count(served: Served) -> tuple[int, int]:
    """Revision, and how many documents there are."""
    answer = served.post("/v1/search", {"query": "a", "k": 1000}).json
    return answer["revision"], len(answer["hits"])


def test_the_next_request_sees_the_newest_version(
    reloading: Served, index: Path, tiny: Encoder
) -> None:
    assert count(reloading) == (1, 20)
    add_documents(index, [Document("new", "a text that is new")], tiny)
    assert count(reloading) == (2, 21)
    delete_documents(index, [news(1)[0].id])
    assert count(reloading) == (3, 20)
    compact_index(index)
    assert count(reloading) == (4, 20)
    assert reloading.metric("moee_index_revision", index="news") == 4
    assert reloading.metric("moee_index_reloads", index="news") == 3


def test_without_requests_it_is_seen_within_seconds(
    reloading: Served, index: Path, tiny: Encoder
) -> None:
    add_documents(index, [Document("new", "a text that is new")], tiny)
    wait_for(lambda: reloading.get("/readyz").json["indexes"] == {"news": 2}, reloading, 20)


@pytest.mark.parametrize("damage", ["manifest", "gone", "files"])
def test_one_that_becomes_unreadable_is_answered_from_the_open_version(
    reloading: Served, index: Path, tmp_path: Path, damage: str
) -> None:
    before = reloading.post("/v1/search", {"query": "rain", "k": 5}).json["hits"]
    kept = shutil.copytree(index, tmp_path / "kept")
    if damage == "manifest":
        (index / "manifest.json").write_text("{", encoding="utf-8")
    elif damage == "gone":
        shutil.rmtree(index)
    else:
        delete_documents(kept, [before[0]["id"]])
        shutil.copy(kept / "manifest.json", index / "manifest.json")
    for _ in range(2):
        after = reloading.post("/v1/search", {"query": "rain", "k": 5}).json["hits"]
        assert [hit["id"] for hit in after] == [hit["id"] for hit in before]
    ready = reloading.get("/readyz")
    assert ready.status == 200
    assert "news" in ready.json["unreadable"]
    assert str(tmp_path) not in ready.content.decode()
    assert reloading.metric("moee_index_unreadable", index="news") == 1
    # Whole again.
    shutil.rmtree(index, ignore_errors=True)
    shutil.copytree(kept, index)
    wait_for(lambda: not reloading.get("/readyz").json["unreadable"], reloading, 30)
    assert count(reloading)[1] == (19 if damage == "files" else 20)
    assert reloading.metric("moee_index_unreadable", index="news") == 0


def test_one_built_anew_with_other_options_needs_a_restart(
    reloading: Served, index: Path, tiny: Encoder
) -> None:
    build_index(index, news(30), tiny.with_prompt("prompteol"), overwrite=True)
    assert count(reloading)[1] == 20
    assert "restart" in reloading.get("/readyz").json["unreadable"]["news"]


def test_one_built_anew_with_the_same_options_is_served(
    reloading: Served, index: Path, tiny: Encoder
) -> None:
    build_index(index, news(30), tiny, overwrite=True)
    assert count(reloading)[1] == 30


def test_who_reads_the_old_version_finishes(index: Path, tiny: Encoder) -> None:
    served = ServedIndex("news", Directory(index))
    with served.held() as old:
        add_documents(index, [Document("new", "a text that is new")], tiny)
        with served.held() as now:
            assert (now.revision, len(now.index)) == (2, 21)
        assert (old.revision, len(old.index)) == (1, 20)
        with old.held():
            pass  # other threads of the same request hold it too
        query = tiny.encode(["a"], query=True)
        assert len(old.index.search_embeddings(query, 100)[0]) == 20
    with pytest.raises(MisuseError, match="closed"):
        old.index.search_embeddings(query)
    with pytest.raises(NotReadyError), old.held():
        pass
    served.close()
    assert served.reloads == 1

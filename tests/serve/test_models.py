"""Which models a server holds: one for indexes that were built alike, more for others."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from commands import one_line_error, run
from serving import build_news, serving

from moee_index import Encoder, Index
from moee_index.errors import NotAnIndexError
from moee_index.export.single_vectors import embed_texts
from moee_index.serve.indexes import Indexes
from moee_index.serve.local import Directory
from moee_index.serve.server import Models, Server
from moee_index.serve.settings import Settings


def test_indexes_that_were_built_alike_share_a_model(
    news_index: Path, passages_index: Path, tiny: Encoder
) -> None:
    loaded = []

    def load(index: Index) -> Encoder:
        loaded.append(index.directory)
        return tiny

    directories = {"news": news_index, "passages": passages_index}
    server = Server(Settings(directories), Models(lambda: tiny, load))
    server.start()
    server.engine.model.loaded.result(60)
    assert loaded == [news_index]
    assert list(server.model_names()) == ["tiny"]
    assert {served.model for served in server.indexes} == {"tiny"}
    server.stop()


def test_another_prompt_is_another_model(tmp_path: Path, news_index: Path, tiny: Encoder) -> None:
    other = build_news(tmp_path / "other", 20, tiny.with_prompt("prompteol"))
    with serving("--name", f"renamed={other}", news_index) as served:
        names = [entry["id"] for entry in served.get("/v1/models").json["data"]]
        assert names[:2] == ["tiny", "tiny@renamed"]
        for name, index in (("news", news_index), ("renamed", other)):
            body = {"model": f"{name}#hs", "input": "a text"}
            found = served.post("/v1/embeddings", body).json["data"][0]["embedding"]
            with Index.open(index) as opened:
                encoder = tiny if name == "news" else tiny.with_prompt("prompteol")
                expected = embed_texts(["a text"], encoder, opened, method="hs")
            np.testing.assert_allclose(found, expected[0], atol=1e-2)
        assert served.post("/v1/search", {"index": "renamed", "query": "a"}).json["hits"]
        entries = {entry["name"]: entry for entry in served.get("/v1/indexes").json["data"]}
        assert entries["renamed"]["model"] == "tiny@renamed"
        assert entries["renamed"]["encoder"]["prompt"] == "prompteol"
        # Without an index the command means the model as it is shipped, which is here too.
        assert run("embed", "a", "--server", served.url).stdout


def test_an_index_may_not_have_a_models_name(news_index: Path) -> None:
    result = run("serve", "--name", f"tiny={news_index}", "--port", "0", status=2)
    assert "name of an index and of a model" in one_line_error(result)


def test_an_index_that_cannot_be_opened_closes_the_others(news_index: Path, tmp_path: Path) -> None:
    with pytest.raises(NotAnIndexError):
        Indexes({"news": Directory(news_index), "none": Directory(tmp_path)})


def test_without_the_extra_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec

    def missing(name: str) -> object:
        return None if name == "uvicorn" else find(name)

    monkeypatch.setattr("moee_index.serve.libraries.find_spec", missing)
    assert "pip install 'moee-index[serve]'" in one_line_error(run("serve", status=1))

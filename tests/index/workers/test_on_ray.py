"""Builds and adds by actors of a Ray cluster of two processors, which runs on this machine."""

from __future__ import annotations

import importlib.util
import logging
import os
import tempfile
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from commands import one_line_error, run

from fakes.indexes import fake_documents
from fakes.word_encoder import FakeEncoder, FakeRecipe
from fakes.workers import WINDOW, documents_to_add, same
from moee_index.errors import LibraryError, MisuseError, StorageError, WorkerError
from moee_index.index import add_documents, build_index
from moee_index.index.store.manifest import Manifest
from moee_index.index.workers import on_ray
from moee_index.index.workers.start import Workers

BY_RAY = Workers(2, ray="")


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    if importlib.util.find_spec("ray") is None:
        pytest.skip("ray is not installed: pip install 'moee-index[ray]'")
    before = dict(os.environ)
    # Where actors find the encoders of the tests.
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[2])
    module = on_ray._import_ray()
    module.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        address="local",
    )
    yield module
    module.shutdown()
    os.environ.clear()
    os.environ.update(before)


def test_a_build_and_an_add_are_those_of_one_process(ray: Any, tmp_path: Path) -> None:
    told: list[str] = []
    documents, more = fake_documents(200), documents_to_add(fake_documents(200))
    build_index(tmp_path / "one", documents, FakeEncoder(), window=WINDOW)
    build_index(
        tmp_path / "ray", documents, FakeRecipe(), window=WINDOW, workers=BY_RAY,
        notify=told.append,
    )  # fmt: skip
    same(tmp_path / "one", tmp_path / "ray")
    assert "Ray: 2 workers on 1 node, 1 processor and 1 thread each" in told
    assert Manifest.read(tmp_path / "ray").shards == 2
    add_documents(tmp_path / "one", more, FakeEncoder(), update=True)
    add_documents(tmp_path / "ray", more, FakeRecipe(), update=True, workers=BY_RAY)
    same(tmp_path / "one", tmp_path / "ray")
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
    assert ray.is_initialized()  # who has connected ends the connection
    name = sha256(os.fsencode(tmp_path / "ray")).hexdigest()[:16]
    assert not (Path(tempfile.gettempdir()) / f"moee-index-{name}").exists()


def test_an_actor_that_dies_is_started_again(ray: Any, tmp_path: Path) -> None:
    alive = tmp_path / "alive"
    alive.touch()
    build_index(tmp_path / "one", fake_documents(200), FakeEncoder(), window=WINDOW)
    build_index(
        tmp_path / "ray", fake_documents(200), FakeRecipe(dies_at=3, alive=alive), window=WINDOW,
        workers=BY_RAY,
    )  # fmt: skip
    assert not alive.exists()
    same(tmp_path / "one", tmp_path / "ray")


def test_an_actor_that_always_dies_is_an_error(
    ray: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_ray, "RESTARTS", 1)
    with pytest.raises(WorkerError, match=r"worker \d died again and again at shard \d"):
        build_index(
            tmp_path / "ray", fake_documents(60), FakeRecipe(dies_at=2), window=WINDOW,
            workers=BY_RAY,
        )  # fmt: skip


def test_a_target_that_is_not_shared(
    ray: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver's probe is written elsewhere: actors do not see it."""
    from moee_index.index.workers import writing

    original = writing.write_file

    def elsewhere(path: Path, content: bytes) -> None:
        original(path.with_name("hidden") if path.name == "run" else path, content)

    monkeypatch.setattr(writing, "write_file", elsewhere)
    monkeypatch.setattr(writing, "_SEEN_SECONDS", 0.5)
    with pytest.raises(StorageError, match=r"does not see what is written to .* all nodes share"):
        build_index(
            tmp_path / "ray", fake_documents(20), FakeRecipe(), window=WINDOW, workers=BY_RAY
        )
    assert not (tmp_path / "ray").exists()


def test_more_workers_than_processors(ray: Any, tmp_path: Path) -> None:
    with pytest.raises(MisuseError, match="--workers 3 is more than the 2 processors of the clus"):
        build_index(tmp_path / "i", fake_documents(2), FakeRecipe(), workers=Workers(3, ray=""))


@pytest.mark.parametrize(
    ("nodes", "count", "expected"),
    [
        ([{"CPU": 8.0}, {"CPU": 4.0}], None, (2, {"num_cpus": 4}, 4)),
        ([{"CPU": 8.0}, {"CPU": 4.0}], 3, (3, {"num_cpus": 4}, 4)),
        ([{"CPU": 8.0}, {"CPU": 2.0}], 2, (2, {"num_cpus": 4}, 4)),
        ([{"CPU": 16.0, "GPU": 4.0}, {"CPU": 64.0}], None, (4, {"num_gpus": 1, "num_cpus": 1}, 4)),
        ([{"CPU": 16.0, "GPU": 4.0}], 2, (2, {"num_gpus": 1, "num_cpus": 1}, 4)),
    ],
)
def test_shares_of_a_cluster(
    nodes: list[dict[str, float]], count: int | None, expected: tuple[Any, ...]
) -> None:
    assert on_ray._share(nodes, count) == expected


def test_addresses(tmp_path: Path) -> None:
    """In the command: one line each, soon."""
    corpus = tmp_path / "c.jsonl"
    corpus.write_text('{"id": "a", "text": "b"}\n')
    command = ("build", corpus, "--index", tmp_path / "i")
    error = one_line_error(run(*command, "--ray", "127.0.0.1:1", status=1))
    assert "no Ray cluster answers at 127.0.0.1:1" in error and "ray start --head" in error
    for address in ("nowhere", "ray://a:1", "http://a", "a:b"):
        error = one_line_error(run(*command, "--ray", address, status=2))
        assert "is not the HOST:PORT of a cluster" in error
    assert not (tmp_path / "i").exists()


def test_without_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(LibraryError, match=r"--ray needs ray: pip install 'moee-index\[ray\]'"):
        on_ray._import_ray()

"""What the bench does with an mteb, datasets or hub client other than those it was tested with."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import datasets
import pytest
from huggingface_hub import constants

from fakes.mock_tasks import mock_tasks
from fakes.task_data import keep_places, write_sts
from fakes.tasks import classification_task, reseed, stored_over
from moee_index.bench import mteb_internals as installed
from moee_index.bench.data import DataSets, _datasets_config, quiet
from moee_index.bench.options import BenchOptions
from moee_index.bench.run import Outcome, plan, run
from moee_index.bench.tasks import Question, choose, fresh
from moee_index.errors import LibraryError


@pytest.fixture(autouse=True)
def known_places(monkeypatch: pytest.MonkeyPatch) -> None:
    keep_places(monkeypatch)


def test_what_mteb_hides_is_found_where_public_things_use_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    create, tasks = installed.create_dataloader(), mock_tasks()
    for moved in ("mteb._create_dataloaders", "mteb.mocks"):
        monkeypatch.setitem(sys.modules, moved, None)
    assert installed.create_dataloader() is create
    assert mock_tasks() == tasks
    with pytest.raises(LibraryError, match=r"^mteb [\d.]+ has no nothing.*pip install 'mteb=="):
        installed._find("nothing", "mteb.mocks", "mteb")


def test_random_generators_are_known_by_their_type() -> None:
    task = classification_task(["a"], [0], ["b"], [0])
    found = installed.generators(task)
    assert len(found) == 2
    first = {name: one.random() for name, one in found.items()}
    assert {name: one.random() for name, one in found.items()} != first
    other = fresh(task)
    assert other.dataset is task.dataset
    assert {name: getattr(other, name).random() for name in found} == first
    reseed(task)
    assert {name: getattr(task, name).random() for name in found} == first


def test_model_metadata_without_a_field_and_with_a_refused_value() -> None:
    meta = installed.model_meta({"name": "a/b", "revision": "1", "no_field_of_mtebs": 1})
    assert (meta.name, meta.revision, meta.license) == ("a/b", "1", None)
    with pytest.raises(LibraryError, match=r"refuses license 'none such' in ModelMeta") as caught:
        installed.model_meta({"name": "a/b", "license": "none such"})
    assert "\n" not in str(caught.value)


def test_results_that_cannot_be_told_apart_are_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installed, "_IDENTITY", ("name", "settings"))
    with pytest.raises(LibraryError, match="no field 'settings'"):
        installed.model_meta({"name": "a/b"})


def test_a_name_that_mteb_dropped_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import mteb

    monkeypatch.delattr(mteb, "get_benchmark")
    with pytest.raises(LibraryError, match=r"^mteb .*get_benchmark.*pip install 'mteb=="):
        plan(Question(benchmark="MTEB(eng, v1)"))
    with pytest.raises(ImportError, match="of a task"), installed.as_tested():
        raise ImportError("of a task", name="jieba")


def evaluate(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Outcome:
    """BIOSSES and STSBenchmark by a fake encoder."""
    data = directory / "sets"
    for name in ("biosses-sts", "stsbenchmark-sts"):
        write_sts(data, name, count=12)
    stored = stored_over(directory / "v")
    monkeypatch.setattr("moee_index.bench.run.StoredEncoder.open", lambda *_, **__: stored)
    question = Question(tasks=("BIOSSES", "STSBenchmark"), data=data)
    return run(BenchOptions(question, directory / "out", methods=("hs",), vectors=directory / "v"))


def test_a_task_that_fails_with_a_newer_library_says_so_and_the_rest_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def evaluate_as_never_before(model: Any, task: Any, **options: Any) -> Any:
        if task.metadata.name == "BIOSSES":
            raise TypeError("evaluate() got an unexpected keyword argument")
        return original(model, task, **options)

    import mteb

    original = mteb.evaluate
    monkeypatch.setattr(mteb, "evaluate", evaluate_as_never_before)
    monkeypatch.setattr(installed, "newer_than_tested", lambda: ["mteb 9.0 (tested with 2.0)"])
    outcome = evaluate(tmp_path, monkeypatch)
    (missing,) = outcome.missing
    assert missing.task == "BIOSSES"
    assert "keyword argument) with mteb 9.0 (tested with 2.0); see --debug" in missing.why
    assert [row["task"] for row in outcome.rows] == ["STSBenchmark"]


def test_datasets_without_its_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with _datasets_config(NO_SUCH_SETTING=1):
        assert not hasattr(datasets.config, "NO_SUCH_SETTING")
    monkeypatch.delattr(datasets.config, "HF_DATASETS_CACHE")
    with pytest.raises(LibraryError, match="HF_DATASETS_CACHE"), DataSets(tmp_path):
        pass


def test_a_hub_client_that_stays_online_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    (task,) = choose(Question(tasks=("STS13",))).tasks
    monkeypatch.setattr("huggingface_hub.is_offline_mode", lambda: False)
    before = constants.HF_HUB_OFFLINE
    with DataSets(offline=True) as sets, pytest.raises(LibraryError, match="huggingface-hub"):
        sets.load(task)
    assert before == constants.HF_HUB_OFFLINE


def test_log_lines_of_the_libraries_are_silent(caplog: pytest.LogCaptureFixture) -> None:
    import logging

    for name in ("mteb.evaluate", "datasets.load", "huggingface_hub.utils"):
        with quiet():
            logging.getLogger(name).warning("unheard")
        logging.getLogger(name).warning("heard")
    assert {record.message for record in caplog.records} <= {"heard"}

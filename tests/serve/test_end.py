"""How a server ends: by a signal, by the death of its model thread, by SIGKILL under load."""

from __future__ import annotations

import contextlib
import http.client
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from serving import ROOT, Answer, Served, build_news, news, serving, wait_for

from moee_index import Encoder
from moee_index.errors import IndexLockedError, MoeeIndexError
from moee_index.index import add_documents, delete_documents, verify_index

LARGE: dict[str, Any] = {
    "model": "tiny",
    "input": [f"{number} " + "some words " * 40 for number in range(1500)],
}


def in_background(served: Served, body: Any) -> tuple[threading.Thread, list[Answer]]:
    """A request whose tokens are in the queue when this returns."""
    answers: list[Answer] = []
    thread = threading.Thread(
        target=lambda: answers.append(served.post("/v1/embeddings", body)), daemon=True
    )
    thread.start()
    wait_for(lambda: served.metric("moee_queue_tokens") > 0, served)
    return thread, answers


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_what_was_accepted_is_answered(number: int, status: int) -> None:
    with serving() as served:
        thread, answers = in_background(served, {**LARGE, "input": LARGE["input"][:500]})
        assert served.end(number) == status
        thread.join(60)
        assert answers[0].status == 200
        assert len(answers[0].json["data"]) == 500
        with pytest.raises(ConnectionError):
            served.get("/livez")


def test_what_is_not_done_within_the_grace_is_told_so() -> None:
    with serving("--grace", "0.3", "--batch-tokens", "512") as served:
        thread, answers = in_background(served, LARGE)
        started = time.monotonic()
        assert served.end() == 0
        assert time.monotonic() - started < 20
        thread.join(60)
        assert answers[0].status == 503
        assert "ends" in answers[0].error["message"]


def test_a_second_signal_does_not_wait() -> None:
    with serving("--batch-tokens", "512") as served:
        in_background(served, LARGE)
        served.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        started = time.monotonic()
        served.end()
        assert time.monotonic() - started < 15


def test_a_dead_model_thread_ends_the_process() -> None:
    script = (
        "import sys\n"
        "from moee_index.serve.engine import model_thread\n"
        "def die(*_): raise SystemError('the ground has gone')\n"
        "model_thread.take_batch = die\n"
        "from moee_index.cli import cli\n"
        "cli.main(['serve', '--port', '0'])\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        text=True, cwd=ROOT,
    )  # fmt: skip
    assert process.stderr is not None
    served = Served(process, process.stderr.readline().split()[-1])
    wait_for(lambda: served.get("/readyz").status == 200, served)
    answer = served.post("/v1/embeddings", {"model": "tiny", "input": "a"})
    assert answer.status == 503
    assert process.wait(60) == 1
    assert "the ground has gone" in process.stderr.read()


def test_a_model_that_cannot_be_loaded_ends_the_process(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "moee_index", "serve", "--port", "0", "--model", str(tmp_path)],
        capture_output=True, text=True, cwd=ROOT, timeout=120,
    )  # fmt: skip
    assert result.returncode == 1
    assert str(tmp_path) in result.stderr and "Traceback" not in result.stderr


def test_an_option_that_contradicts_the_index_ends_the_process(
    news_index: Path,
) -> None:
    command = ["serve", str(news_index), "--port", "0", "--pooling", "last"]
    result = subprocess.run(
        [sys.executable, "-m", "moee_index", *command],
        capture_output=True, text=True, cwd=ROOT, timeout=120,
    )  # fmt: skip
    assert result.returncode == 2
    assert "--pooling last contradicts" in result.stderr


def test_killed_under_load_while_the_index_changes(tmp_path: Path, tiny: Encoder) -> None:
    """The index is whole, and a new server answers."""
    documents = news(28)
    index = build_news(tmp_path / "news", 20, tiny)
    chance = random.Random(7)
    stop = threading.Event()

    def change() -> None:
        while not stop.is_set():
            try:
                add_documents(index, documents[20:28], tiny)
                delete_documents(index, [document.id for document in documents[20:28]])
            except IndexLockedError:
                pass  # a process that is being started here has the lock's file for a moment
            except MoeeIndexError as error:
                changes.append(error)
            time.sleep(0.05)  # for the servers that are being started

    changes: list[MoeeIndexError] = []
    answers: list[Answer] = []
    changing = threading.Thread(target=change)
    changing.start()
    try:
        for _ in range(3):
            with serving(index) as served:
                asking = [
                    threading.Thread(target=_ask_until_it_ends, args=(served, answers), daemon=True)
                    for _ in range(4)
                ]
                for thread in asking:
                    thread.start()
                time.sleep(chance.uniform(0.2, 1.5))
                assert served.end(signal.SIGKILL) == -signal.SIGKILL
                for thread in asking:
                    thread.join(30)
    finally:
        stop.set()
        changing.join()
    assert not changes
    assert {answer.status for answer in answers} == {200}
    assert verify_index(index, full=True).ok
    with serving(index) as served:
        assert served.post("/v1/search", {"query": "a", "k": 100}).json["hits"]


def _ask_until_it_ends(served: Served, answers: list[Answer]) -> None:
    with contextlib.suppress(OSError, http.client.HTTPException):
        while True:
            answers.append(served.post("/v1/search", {"query": "rain", "k": 3}))

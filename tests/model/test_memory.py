"""Threads and memory within what the process may use, told or refused before anything is loaded."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from paths import PARITY

from moee_index.encode.encoder import Encoder
from moee_index.errors import ModelError
from moee_index.limits import Limit
from moee_index.model.load import load, memory
from moee_index.model.load.quantize import quantize_checkpoint
from moee_index.model.precision import Choice
from moee_index.model.run import hardware
from moee_index.model.run import model as running
from moee_index.model.run.hardware import choose_threads

QUOTA = "a quota of 1.5 processors in /sys/fs/cgroup/job"


@pytest.fixture
def limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of eight processors."""
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(hardware, "bound_processors", lambda: Limit(8, "all that the machine has"))
    monkeypatch.setattr(hardware, "processor_limit", lambda: Limit(2, QUOTA))


@pytest.fixture
def eight_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(8)
    yield
    torch.set_num_threads(before)


def memory_of(megabytes: float, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = Limit(int(megabytes * 1e6), "the limit in /sys/fs/cgroup/job")
    monkeypatch.setattr(memory, "memory_limit", lambda: limit)


def nothing_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("fill_from_sources", "fill_from_four_bit", "fill_mapped"):
        monkeypatch.setattr(load, name, lambda *_, **__: pytest.fail("weights are read"))


@pytest.mark.usefixtures("limited", "eight_threads")
def test_threads_are_no_more_than_may_be_used() -> None:
    told: list[str] = []
    encoder = Encoder.load(notify=told.append)
    assert encoder.running.threads == torch.get_num_threads() == 2
    assert told.count(f"2 threads on 8 processors: {QUOTA}") == 1


@pytest.mark.usefixtures("limited", "eight_threads")
def test_more_threads_than_may_be_used_are_taken_with_a_warning() -> None:
    told: list[str] = []
    assert Encoder.load(threads=4, notify=told.append).running.threads == 4
    assert (
        "--threads 4 is more than the 2 processors that this process may use "
        f"({QUOTA}): not faster than --threads 2, as a rule"
    ) in told


@pytest.mark.usefixtures("limited", "eight_threads")
def test_no_more_threads_compute_than_there_are_processors() -> None:
    told: list[str] = []
    assert Encoder.load(threads=40, notify=told.append).running.threads == 8
    assert (
        "--threads 40 is more than the 8 processors there are (all that the machine has): 8 "
        "compute, for more would wait for one another"
    ) in told


@pytest.mark.usefixtures("limited")
def test_fewer_threads_are_nobodys_business() -> None:
    assert choose_threads(2).reason == choose_threads(1).reason == ""
    torch.set_num_threads(1)  # as OMP_NUM_THREADS would
    assert (choose_threads(None).value, choose_threads(None).reason) == (1, "")


def test_all_of_the_machine_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    monkeypatch.setattr(hardware, "processor_limit", lambda: Limit(1, "all that the machine has"))
    assert choose_threads(None).reason == ""


@pytest.mark.parametrize(
    ("bits", "megabytes", "advice"),
    [
        (32, 1.0, r"--bits 16 needs about 0\.\d MB$"),
        (32, 0.6, r"--bits 4 needs about 0\.\d MB$"),
        (16, 0.01, r"take a model of at most 0\.0 billion weights, with --bits 4$"),
        (4, 0.01, r"without --no-cache, and with room on the disk, they stay in a file; or take "),
    ],
)
def test_weights_that_do_not_fit_are_refused_before_one_is_read(
    monkeypatch: pytest.MonkeyPatch, bits: int, megabytes: float, advice: str
) -> None:
    nothing_is_read(monkeypatch)
    memory_of(megabytes, monkeypatch)
    said = (
        rf"^olmoe needs \d\.\d MB of memory for its weights in {bits} bits, but this process may "
        rf"use {megabytes:.1f} MB \(the limit in /sys/fs/cgroup/job\); {advice}"
    )
    with pytest.raises(ModelError, match=said):
        Encoder.load(PARITY / "olmoe", bits=bits)


def test_weights_that_fit_are_not_mentioned(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    for limit in (lambda: None, lambda: Limit(2**34, "all that the machine has")):
        monkeypatch.setattr(memory, "memory_limit", limit)
        Encoder.load(PARITY / "olmoe", notify=told.append)
    assert not any("memory" in line for line in told)


def test_mapped_weights_that_do_not_fit_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quantize_checkpoint(PARITY / "olmoe", tmp_path / "four")
    memory_of(0.09, monkeypatch)
    monkeypatch.setattr(running, "choose_compute", lambda *_: Choice(torch.bfloat16, ""))
    told: list[str] = []
    Encoder.load(tmp_path / "four", notify=told.append)
    (line,) = [line for line in told if "in a file" in line]
    assert line.startswith("four: its weights are 0.") and "of which 0.1 MB fit" in line
    assert line.endswith("it will run, but slowly, reading them again and again")
    with pytest.raises(ModelError, match=r"needs .* in 16 bits"):
        Encoder.load(tmp_path / "four", bits=16)


def test_a_cache_that_cannot_be_kept_is_no_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "LARGE", 0)
    monkeypatch.setenv("MOEE_INDEX_CACHE", str(tmp_path))
    memory_of(0.09, monkeypatch)
    monkeypatch.setattr(load.Cache, "draft", lambda *_, **__: None)
    with pytest.raises(ModelError, match="in 4 bits, but this process may use"):
        Encoder.load(PARITY / "olmoe")

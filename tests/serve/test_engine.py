"""Batches of many clients' texts, the bounded queue, deadlines, clients that leave, a thread that
hangs or dies."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moee_index import Encoder
from moee_index.encode.encoder import Encoder as EncoderClass
from moee_index.errors import MoeeIndexError
from moee_index.serve.engine.admission import Admission
from moee_index.serve.engine.batching import take_batch
from moee_index.serve.engine.engine import Engine
from moee_index.serve.engine.model_thread import BatchReport, ModelThread
from moee_index.serve.engine.query_cache import QueryCache
from moee_index.serve.engine.trace import Trace
from moee_index.serve.errors import NotReadyError, OverloadedError, TooLargeError
from moee_index.types import Embeddings


class Lengths:
    """A request that waits, its texts' lengths alone."""

    def __init__(self, lengths: Sequence[int]) -> None:
        self._lengths = lengths
        self.left = deque(sorted(range(len(lengths)), key=lambda text: -lengths[text]))

    def length(self, position: int) -> int:
        return self._lengths[position]


REQUESTS = st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=12), min_size=1, max_size=8)


@given(requests=REQUESTS, budget=st.integers(1, 100))
def test_every_text_is_taken_once_and_batches_keep_the_budget(
    requests: list[list[int]], budget: int
) -> None:
    waiting = [Lengths(lengths) for lengths in requests]
    taken: list[tuple[int, int]] = []
    while any(request.left for request in waiting):
        batch = take_batch([request for request in waiting if request.left], budget)
        assert batch
        taken += batch
    assert len(taken) == sum(map(len, requests))


@given(requests=REQUESTS, budget=st.integers(1, 100))
def test_a_batch_keeps_the_budget_and_begins_with_the_oldest(
    requests: list[list[int]], budget: int
) -> None:
    batch = take_batch([Lengths(lengths) for lengths in requests], budget)
    total = sum(requests[number][position] for number, position in batch)
    assert total <= budget or len(batch) == 1
    assert batch[0][0] == 0
    assert len(set(batch)) == len(batch)


def test_a_large_request_leaves_room_for_small_ones() -> None:
    waiting = [Lengths([10] * 1000), Lengths([8]), Lengths([9, 2])]
    batch = take_batch(waiting, 100)
    assert {number for number, _ in batch} == {0, 1, 2}
    assert not waiting[1].left and not waiting[2].left
    assert 70 <= sum(10 for number, _ in batch if number == 0) <= 90


def test_the_queue_is_bounded_in_tokens() -> None:
    admission = Admission(100, lambda: 10.0)
    with admission.admitted(60):
        with pytest.raises(OverloadedError) as caught, admission.admitted(41):
            pass
        assert caught.value.retry_after == 3
        with admission.admitted(40):
            assert admission.tokens == 100
    with pytest.raises(TooLargeError), admission.admitted(101):
        pass
    with pytest.raises(ZeroDivisionError), admission.admitted(50):
        _ = 1 / 0
    assert admission.tokens == 0


@pytest.mark.parametrize(("rate", "wait"), [(None, 1), (1e9, 1), (0.001, 120), (2.0, 25)])
def test_retry_after_is_what_the_queue_needs_and_what_clients_wait(
    rate: float | None, wait: int
) -> None:
    admission = Admission(100, lambda: rate)
    with admission.admitted(100):
        assert admission.wait() == wait


def test_the_last_queries_are_kept_and_older_ones_are_not() -> None:
    counted: list[tuple[int, int]] = []
    cache = QueryCache(lambda *counts: counted.append(counts), most=2)
    for text in ("a", "b", "c"):
        found = cache.look_up("m", [text, text])
        assert found.missing == [text]
        value = np.full((1, 3), ord(text), np.float32)
        cache.keep("m", found, Embeddings(value, value))
        assert (found.rows().hs == value).all() and len(found.rows()) == 2
    assert cache.look_up("m", ["c", "b", "a"]).missing == ["a"]
    assert cache.look_up("another", ["c"]).missing == ["c"]
    assert counted == [(0, 1), (0, 1), (0, 1), (2, 1), (0, 1)]


# An engine with the real model


@asynccontextmanager
async def running(
    tiny: Encoder, seen: Callable[[BatchReport], None] = lambda _: None, **options: Any
) -> AsyncIterator[Engine]:
    settings = {"batch_tokens": 256, "queue_tokens": 100_000, "deadline": 60.0, "threads": 2}
    engine = Engine(lambda: {"tiny": tiny}, observe=seen, **{**settings, **options})
    engine.start()
    try:
        yield engine
    finally:
        engine.stop()


async def embedded(engine: Engine, texts: Sequence[str], trace: Trace | None = None) -> Embeddings:
    trace = trace or Trace("t")
    async with engine.in_time():
        encoder = await engine.encoder("tiny")
        tokens = await engine.tokenize(encoder, texts, trace, query=False)
        with engine.admitted(tokens.count):
            return await engine.embed(tokens, trace)


@contextmanager
def gated(tiny: Encoder, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """The model computes nothing before the event is set."""
    gate, embed = threading.Event(), tiny.running.embed

    def wait(texts: Any) -> Embeddings:
        gate.wait(60)
        return embed(texts)

    with monkeypatch.context() as patch:
        patch.setattr(tiny.running, "embed", wait)
        yield gate
        gate.set()


def test_many_clients_share_batches_and_each_gets_its_own(tiny: Encoder) -> None:
    texts = [[f"client {number} text {i} " + "word " * (i % 9) for i in range(7)]
             for number in range(20)]  # fmt: skip
    reports: list[BatchReport] = []

    async def run() -> list[Embeddings]:
        async with running(tiny, reports.append) as engine:
            await engine.encoders()
            return await asyncio.gather(*(embedded(engine, each) for each in texts))

    for each, found in zip(texts, asyncio.run(run()), strict=True):
        expected = tiny.encode(each)
        for part, rows in found:
            cosines = (rows * expected[part]).sum(axis=1) / (
                np.linalg.norm(rows, axis=1) * np.linalg.norm(expected[part], axis=1)
            )
            assert cosines.min() > 0.9995
    assert sum(report.texts for report in reports) == 140
    assert len(reports) < 40
    assert all(report.tokens <= 256 for report in reports)


def test_equal_texts_of_a_request_are_computed_once(tiny: Encoder) -> None:
    reports: list[BatchReport] = []

    async def run() -> Embeddings:
        async with running(tiny, reports.append) as engine:
            return await embedded(engine, ["a", "b", "a", "a"])

    found = asyncio.run(run())
    assert sum(report.texts for report in reports) == 2
    assert (found.hs[0] == found.hs[2]).all() and (found.hs[0] != found.hs[1]).any()


def test_a_client_that_leaves_takes_its_work_along(
    tiny: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports: list[BatchReport] = []

    async def run() -> None:
        async with running(tiny, reports.append) as engine:
            await engine.encoders()
            with gated(tiny, monkeypatch) as gate:
                leaving = asyncio.create_task(embedded(engine, [f"{i} words" for i in range(999)]))
                while not engine.admission.tokens:
                    await asyncio.sleep(0.01)
                await asyncio.sleep(0.05)
                leaving.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await leaving
                assert engine.admission.tokens == 0
                gate.set()
                await embedded(engine, ["the next one"])

    asyncio.run(run())
    # The batch that was at work, perhaps another; not all 999.
    assert sum(report.texts for report in reports) < 200


def test_every_wait_has_its_deadline(tiny: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        async with running(tiny, deadline=0.3) as engine:
            await engine.encoders()
            with gated(tiny, monkeypatch):
                started = time.monotonic()
                with pytest.raises(NotReadyError, match=r"0\.3 seconds"):
                    await embedded(engine, ["a"])
                assert time.monotonic() - started < 5
                assert engine.admission.tokens == 0

    asyncio.run(run())


def test_a_request_waits_for_the_model_to_load_but_not_for_ever(tiny: Encoder) -> None:
    gate = threading.Event()

    def load() -> dict[str, EncoderClass]:
        gate.wait(60)
        return {"tiny": tiny}

    async def run() -> None:
        engine = Engine(
            load, batch_tokens=256, queue_tokens=1000, deadline=0.3, threads=1,
            observe=lambda _: None,
        )  # fmt: skip
        engine.start()
        with pytest.raises(NotReadyError):
            await embedded(engine, ["a"])
        gate.set()
        assert len(await embedded(engine, ["a"])) == 1
        engine.stop()

    asyncio.run(run())


def test_a_batch_that_fails_fails_alone(tiny: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    embed = tiny.running.embed

    def broken(texts: Any) -> Embeddings:
        if len(texts) == 3:
            raise MoeeIndexError("three is too many")
        return embed(texts)

    async def run() -> None:
        async with running(tiny) as engine:
            monkeypatch.setattr(tiny.running, "embed", broken)
            with pytest.raises(MoeeIndexError, match="three is too many"):
                await embedded(engine, ["a", "b", "c"])
            assert len(await embedded(engine, ["a", "b"])) == 2
            assert engine.model.alive and engine.admission.tokens == 0

    asyncio.run(run())


def test_a_thread_that_dies_fails_what_waits(
    tiny: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: Any) -> Any:
        raise SystemError("the ground has gone")

    async def run() -> None:
        async with running(tiny) as engine:
            await engine.encoders()
            monkeypatch.setattr("moee_index.serve.engine.model_thread.take_batch", die)
            with pytest.raises(NotReadyError, match="died"):
                await embedded(engine, ["a"])
            with pytest.raises(NotReadyError, match="died"):
                await embedded(engine, ["a"])
            assert isinstance(engine.model.failure, SystemError)

    asyncio.run(run())


def test_a_thread_that_was_stopped_takes_nothing(tiny: Encoder) -> None:
    async def run() -> None:
        async with running(tiny) as engine:
            await embedded(engine, ["a"])
            engine.model.stop(30)
            with pytest.raises(NotReadyError, match="about to end"):
                await embedded(engine, ["a"])

    asyncio.run(run())


def test_an_idle_thread_gives_signs_of_life(tiny: Encoder) -> None:
    thread = ModelThread(lambda: {"tiny": tiny}, 256, lambda _: None)
    thread.start()
    thread.loaded.result(30)
    first = thread.beat
    time.sleep(2.5)
    assert first < thread.beat > time.monotonic() - 2
    thread.stop(30)
    assert not thread.alive

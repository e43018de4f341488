"""The forward pass's shortcuts give what the plain pass gives: blocks, grouped products, a shared
beginning, halved batches, rounded rows."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from paths import PARITY

from moee_index import Encoder
from moee_index.backends import import_bitsandbytes
from moee_index.errors import ModelError
from moee_index.model.arch import experts, grouped
from moee_index.model.nf4.linear import rounded_rows
from moee_index.model.nf4.quantize import quantize_on_cpu
from moee_index.model.run import blocks
from moee_index.model.run import model as running
from moee_index.model.run.model import RunningModel, TokenizedText
from moee_index.types import Embeddings

KINDS = ("olmoe", "qwen2_moe", "deepseek")


def some_texts(count: int, seed: int = 0) -> list[TokenizedText]:
    """Texts of 1 to 40 tokens."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(1, 41, size=count)
    return [
        TokenizedText(tuple(int(i) for i in generator.integers(3, 200, size=n)), (0, int(n)))
        for n in lengths
    ]


def largest_difference(found: Embeddings, wanted: Embeddings) -> float:
    """Over HS and RW, relative to the largest element of each."""
    return max(
        float(np.abs(a - b).max() / np.abs(b).max())
        for a, b in ((found.hs, wanted.hs), (found.rw, wanted.rw))
    )


def load(kind: str, bits: int = 32, pooling: str = "last", **options: Any) -> RunningModel:
    return Encoder.load(PARITY / kind, bits=bits, pooling=pooling, **options).running


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_blocks_give_what_whole_batches_give(
    monkeypatch: pytest.MonkeyPatch, kind: str, pooling: str
) -> None:
    texts = some_texts(23)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "run_in_blocks", lambda *_: None)
        wanted = load(kind, pooling=pooling).embed(texts)
    monkeypatch.setattr(blocks, "NORM_ELEMENTS", 512)
    monkeypatch.setattr(blocks, "ATTENTION_TOKENS", 100)
    monkeypatch.setattr(experts, "ADDED_ROWS", 3)
    model = load(kind, pooling=pooling)
    assert largest_difference(model.embed(texts), wanted) < 2e-6
    # sorted as a plan sorts them, blocks differ in length and are cut differently
    order = sorted(range(len(texts)), key=lambda one: -len(texts[one].ids))
    found = model.embed([texts[one] for one in order])
    expected = Embeddings(wanted.hs[order], wanted.rw[order])
    assert largest_difference(found, expected) < 2e-6


def test_a_block_reads_no_more_than_its_own_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: list[tuple[int, ...]] = []
    monkeypatch.setattr(blocks, "ATTENTION_TOKENS", 80)
    model = load("olmoe")
    attention = model.model.layers[0].self_attn
    attention.q_proj.register_forward_hook(
        lambda _module, inputs, _output: lengths.append(tuple(inputs[0].shape[:2]))
    )
    texts = [TokenizedText(tuple(range(3, 3 + n)), (0, n)) for n in (40, 39, 10, 9, 2)]
    model.embed(texts)
    assert lengths == [(2, 40), (2, 10), (1, 2)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bits", [4, 32])
@pytest.mark.parametrize("budget", [1, 2**30])
@pytest.mark.parametrize("elements", [2000, 2**29])
@pytest.mark.parametrize("in_one_kernel", [False, True])
def test_grouped_products_give_what_the_loop_gives(
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    bits: int,
    budget: int,
    elements: int,
    in_one_kernel: bool,
) -> None:
    texts = some_texts(9)
    model = load(kind, bits=bits)
    if bits == 4:  # float32, so that near-ties of routers cannot fall the other way
        model = _in_float32(monkeypatch, kind)
    wanted = model.embed(texts)
    monkeypatch.setattr(experts, "grouped", lambda _device: True)
    monkeypatch.setattr(grouped, "GROUPED_WEIGHTS", budget)
    monkeypatch.setattr(grouped, "GROUPED_ELEMENTS", elements)
    monkeypatch.setattr(grouped, "has_grouped_product", lambda *_: in_one_kernel)
    found = model.embed(texts)
    assert largest_difference(found, wanted) < 2e-5
    again = model.embed(texts)
    assert np.array_equal(found.hs, again.hs) and np.array_equal(found.rw, again.rw)


def _in_float32(monkeypatch: pytest.MonkeyPatch, kind: str) -> RunningModel:
    from moee_index.model.precision import Choice

    monkeypatch.setattr(running, "choose_compute", lambda *_: Choice(torch.float32, "a test"))
    return load(kind, bits=4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_a_shared_beginning_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, kind: str, pooling: str
) -> None:
    texts = [f"sentence number {number}" + " and more" * (number % 5) for number in range(30)]
    encoder = Encoder.load(PARITY / kind, bits=32, prompt="prompteol", pooling=pooling)
    monkeypatch.setattr(running, "_WORTH_SHARING", 10**9)
    wanted = encoder.encode(texts)
    monkeypatch.setattr(running, "_WORTH_SHARING", 8)
    computed: list[int] = []
    encoder.running.model.layers[0].register_forward_pre_hook(
        lambda _module, inputs: computed.append(inputs[0].shape[1])
    )
    found = encoder.encode(texts)
    assert largest_difference(found, wanted) < 2e-6
    beginning = encoder.running._shared
    assert beginning is not None and len(beginning.tokens) >= 3
    assert computed[0] == len(beginning.tokens)  # once, before the batch
    again = encoder.encode(texts)
    assert np.array_equal(again.hs, found.hs) and np.array_equal(again.rw, found.rw)
    assert len(computed) == 3
    # alone a text does not gain by it and is computed whole
    alone = encoder.encode(texts[:1])
    assert largest_difference(alone, Embeddings(wanted.hs[:1], wanted.rw[:1])) < 2e-6


@pytest.mark.parametrize("bits", [4, 32])
def test_pieces_of_a_batch_give_what_it_gives_whole(
    monkeypatch: pytest.MonkeyPatch, bits: int
) -> None:
    texts = some_texts(40)
    model = _in_float32(monkeypatch, "olmoe") if bits == 4 else load("olmoe")
    whole = model.embed(texts)
    monkeypatch.setattr(running, "PIECE_TOKENS", 100)
    pieces = running._pieces(texts)
    assert len(pieces) > 5 and [text for piece in pieces for text in piece] == texts
    assert max(sum(len(text.ids) for text in piece) for piece in pieces) <= 100 + 2 * 40
    divided = model.embed(texts)
    assert largest_difference(divided, whole) < 2e-5
    # whoever computes a piece, its bytes are the same
    for threads in (1, 3):
        other = load("olmoe", bits=bits)
        other._workers = running._Workers(threads)
        again = other.embed(texts)
        assert np.array_equal(again.hs, divided.hs) and np.array_equal(again.rw, divided.rw)


def test_one_text_is_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "PIECE_TOKENS", 1)
    texts = [TokenizedText(tuple(range(3, 43)), (0, 40))]
    assert running._pieces(texts) == [texts]


@pytest.mark.parametrize("prompt", ["none", "prompteol"])
def test_calls_of_several_threads_do_not_mix(prompt: str) -> None:
    encoder = Encoder.load(PARITY / "olmoe", bits=32, prompt=prompt)
    lists = [[f"{a} and {b}" for b in range(3 * a + 1)] for a in range(8)]
    wanted = [encoder.encode(texts) for texts in lists]
    wrong: list[int] = []

    def work(number: int) -> None:
        for _ in range(10):
            found = encoder.encode(lists[number])
            if largest_difference(found, wanted[number]) > 2e-6:
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_where_layers_keep_another_state_nothing_is_shared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from transformers import cache_utils

    from moee_index.model.run import prefix

    encoder = Encoder.load(PARITY / "olmoe", bits=32, prompt="prompteol")
    wanted = encoder.encode(["one", "two", "three"])

    class OtherLayer(cache_utils.DynamicLayer):  # type: ignore[misc]
        pass

    def other_cache(config: Any) -> Any:
        cache = cache_utils.DynamicCache(config=config)
        cache.layers[0] = OtherLayer()
        return cache

    monkeypatch.setattr(prefix, "DynamicCache", other_cache)
    monkeypatch.setattr(running, "_WORTH_SHARING", 1)
    found = encoder.encode(["one", "two", "three"])
    assert np.array_equal(found.hs, wanted.hs)
    assert encoder.running._shared is None and not encoder.running.shares_beginnings


def test_a_batch_that_does_not_fit_is_halved_and_told_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[str] = []
    model = load("olmoe", notify=told.append)
    texts = some_texts(16)
    wanted = model.embed(texts)
    told.clear()
    whole, sizes = model._embed, []

    def small(texts: Sequence[TokenizedText], beginning: Any) -> Embeddings:
        sizes.append(len(texts) * max(len(text.ids) for text in texts))
        if sizes[-1] > 170:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(texts, beginning)

    monkeypatch.setattr(model, "_embed", small)
    assert largest_difference(model.embed(texts), wanted) < 2e-6
    assert told and all("halved" in line for line in told)
    tries = len(told)
    assert largest_difference(model.embed(texts), wanted) < 2e-6
    assert len(told) == tries  # known by now: no batch is tried in vain
    long = TokenizedText(tuple(range(3, 203)), (0, 200))
    with pytest.raises(ModelError, match="--max-tokens"):
        model.embed([long])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e4])
def test_codes_are_those_of_bitsandbytes(dtype: torch.dtype, scale: float) -> None:
    import_bitsandbytes()
    generator = torch.Generator().manual_seed(3)
    matrix = (torch.randn(771, 2368, generator=generator) * scale).to(dtype)
    matrix[3] = 0
    matrix[4, :64] = matrix[4, 0]
    packed, absmax = quantize_on_cpu(matrix)
    wanted = torch.ops.bitsandbytes.quantize_4bit(matrix, 64, "nf4", torch.uint8)
    assert torch.equal(packed, wanted[0].reshape(-1))
    assert torch.equal(absmax, wanted[1].reshape(-1).float())


def test_weights_that_are_not_finite_show_in_their_block() -> None:
    matrix = torch.zeros(64, 64, dtype=torch.bfloat16)
    matrix[2, 3], matrix[5, 6] = float("nan"), -float("inf")
    absmax = quantize_on_cpu(matrix)[1]
    assert (~absmax.isfinite()).nonzero().flatten().tolist() == [2, 5]


def test_row_counts_come_again_and_again() -> None:
    counts = {rounded_rows(count) for count in range(1, 2049)}
    assert all(rounded_rows(count) >= count for count in range(1, 2049))
    assert len(counts) == 38

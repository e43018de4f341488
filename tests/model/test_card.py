"""What a CUDA device would be asked to do, tried on the processor: capabilities and free memory are
patched, bitsandbytes' operations run where they have a form for processors."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from paths import PARITY
from speed.card_road import as_on_a_card, watch
from tested_architectures import TEXTS, apart, load, make, measured

from fakes.indexes import FakeEncoder, fake_documents
from moee_index import Encoder, backends
from moee_index.cli import cli
from moee_index.encode.encoder import CUDA_BATCH_TOKENS
from moee_index.errors import LibraryError, MisuseError, ModelError, MoeeIndexError, lacks_memory
from moee_index.index import Index, build_index
from moee_index.model import device as devices
from moee_index.model.arch import experts, grouped
from moee_index.model.load import memory, stream
from moee_index.model.load.memory import DeviceMemoryError
from moee_index.model.nf4.stack import NF4Stack, Workspace
from moee_index.model.precision import Choice, Storage
from moee_index.model.run import blocks, footprint, hardware
from moee_index.model.run import model as running
from moee_index.model.run.hardware import choose_compute, choose_device
from moee_index.model.run.model import RunningModel, TokenizedText
from moee_index.model.run.norms import fuse_norms

CARD = torch.device("cuda:0")
CPU = torch.device("cpu")
KINDS = ("olmoe", "qwen2_moe", "deepseek")
CAPABILITIES = [(7, 5), (8, 0), (8, 9), (9, 0)]


def texts(count: int = 9, longest: int = 40) -> list[TokenizedText]:
    numbers = np.random.default_rng(0)
    lengths = numbers.integers(1, longest + 1, size=count)
    return [
        TokenizedText(tuple(int(i) for i in numbers.integers(3, 200, size=n)), (0, int(n)))
        for n in lengths
    ]


@contextmanager
def cards(
    *,
    count: int = 1,
    capability: tuple[int, int] = (9, 0),
    free: int = 2**40,
    fault: Callable[[torch.device], Exception | None] = lambda _device: None,
) -> Iterator[None]:
    """As if there were cards."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: count > 0)
        patch.setattr(torch.cuda, "device_count", lambda: count)
        patch.setattr(torch.cuda, "get_device_capability", lambda _device=None: capability)
        patch.setattr(torch.cuda, "get_device_name", lambda _device=None: "Some Card")
        patch.setattr(torch.cuda, "mem_get_info", lambda _device=None: (free, 2 * free))
        patch.setattr(torch.cuda, "memory_reserved", lambda _device=None: 0)
        patch.setattr(torch.cuda, "memory_allocated", lambda _device=None: 0)
        patch.setattr(hardware, "fault", fault)
        patch.setattr(hardware, "lacks_cuda_kernels", lambda: None)
        patch.setattr(hardware, "ready_allocator", lambda: None)
        yield


# 1. Compute dtypes


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_bfloat16_where_a_card_has_it(capability: tuple[int, int]) -> None:
    with cards(capability=capability):
        for bits in (4, 16):
            chosen = choose_compute(bits, CARD)
            if capability < (8, 0):
                assert chosen.value == torch.float16
                assert chosen.reason == "no bfloat16 at compute capability 7.5"
            else:
                assert chosen == Choice(torch.bfloat16, "CUDA device")
        assert choose_compute(32, CARD).value == torch.float32


@contextmanager
def in_float16() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "choose_compute", lambda *_: Choice(torch.float16, "a test"))
        yield


@pytest.mark.parametrize("kind", KINDS)
def test_float16_gives_nearly_what_float32_gives(kind: str) -> None:
    with measured():
        wanted = Encoder.load(PARITY / kind).running.embed(texts())
    with in_float16(), as_on_a_card():
        model = Encoder.load(PARITY / kind).running
        found = model.embed(texts())
    assert model.compute.value == torch.float16
    assert max(apart(found, wanted)) < 0.05


def overflowing(model: RunningModel) -> None:
    """Make a model's first layer give values beyond float16's, which its final norm would tame."""
    weight = model.model.layers[0].post_attention_layernorm.weight
    with torch.no_grad():
        model.model.layers[0].mlp.gate.weight.mul_(1e-3)
        weight.mul_(3e3)


def test_float16_that_overflows_becomes_float32_and_that_is_told() -> None:
    told: list[str] = []
    with in_float16():
        model = Encoder.load(PARITY / "olmoe", notify=told.append).running
    overflowing(model)
    told.clear()
    found = model.embed(texts())
    assert model.compute == Choice(torch.float32, "float16 overflows in this model")
    assert [line for line in told if "float32 from now on" in line] == told and len(told) == 1
    assert np.isfinite(found.hs).all() and np.isfinite(found.rw).all()
    with measured():
        other = Encoder.load(PARITY / "olmoe").running
    overflowing(other)
    assert max(apart(found, other.embed(texts()))) < 1e-2  # weights were rounded to float16 once
    model.embed(texts())
    assert len(told) == 1


def test_float16_that_overflows_in_16_bits_is_refused_with_what_to_do() -> None:
    with in_float16():
        model = Encoder.load(PARITY / "olmoe", bits=16).running
    overflowing(model)
    with pytest.raises(ModelError, match=r"65504.*--bits 4.*--device cpu"):
        model.embed(texts())


# 2. Memory of a card, before loading


def empty_plan(kind: str, bits: int) -> tuple[Any, Storage]:
    from moee_index.model.arch.build import build_empty
    from moee_index.model.checkpoint.find import find_checkpoint
    from moee_index.model.load.load import prepare

    checkpoint = find_checkpoint(PARITY / kind)
    plan = build_empty(checkpoint)
    storage = Storage(bits, True, torch.bfloat16 if bits < 32 else torch.float32, CARD)
    prepare(plan, checkpoint, storage)
    return plan, storage


def test_weights_that_a_card_cannot_hold_are_refused_before_one_is_read() -> None:
    plan, storage = empty_plan("olmoe", 4)
    room = memory._LEAST_ROOM
    with cards(free=room), pytest.raises(DeviceMemoryError) as refused:
        memory.check_memory(plan.model, "some model", storage, mapped=True)
    assert "some model needs 0.3 GB on cuda:0 in 4 bits (0.4 MB of weights" in str(refused.value)
    assert "are free there; free memory there, or take --device cpu" in str(refused.value)
    with cards(free=2 * room):
        memory.check_memory(plan.model, "some model", storage, mapped=True)


def test_fewer_bits_that_a_card_could_hold_are_named() -> None:
    plan, storage = empty_plan("olmoe", 32)
    needed = memory._bytes(plan.model, storage)
    with (
        cards(free=memory._LEAST_ROOM + needed // 2 + 10**6 // 8),
        pytest.raises(DeviceMemoryError, match="--bits 16 needs about"),
    ):
        memory.check_memory(plan.model, "some model", storage, mapped=False)


def test_auto_goes_to_the_processor_where_a_card_is_full() -> None:
    told: list[str] = []
    with cards(free=10**6):
        encoder = Encoder.load(PARITY / "olmoe", notify=told.append)
        with pytest.raises(DeviceMemoryError, match=r"needs .* on cuda:0 in 4 bits"):
            Encoder.load(PARITY / "olmoe", device="cuda")
    assert encoder.running.device.value == CPU
    assert any("device cpu (" in line and "1.0 MB are free there)" in line for line in told)
    wanted = Encoder.load(PARITY / "olmoe", device="cpu").encode(["one", "two"])
    found = encoder.encode(["one", "two"])
    assert np.array_equal(found.hs, wanted.hs) and np.array_equal(found.rw, wanted.rw)


@pytest.mark.parametrize("where", ["_fill", "cast"])
def test_memory_that_runs_out_while_loading_is_told_as_what_it_is(
    monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    from moee_index.model.load import load as loading

    def fail(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(loading, "_fill", lambda *_: None)
    monkeypatch.setattr(loading, where, fail)
    with cards(free=10**9), pytest.raises(DeviceMemoryError) as told:
        Encoder.load(PARITY / "olmoe", device="cuda")
    assert str(told.value).endswith(
        "does not fit the memory of cuda:0, of which 1.0 GB are free; free memory there, or take "
        "--device cpu"
    )


def test_a_short_text_that_does_not_fit_is_not_told_to_be_shorter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = Encoder.load(PARITY / "olmoe").running

    def fail(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(model, "_embed", fail)
    with pytest.raises(ModelError) as told:
        model.embed([TokenizedText((3,), (0, 1))])
    assert "a text of 1 token does not fit" in str(told.value)
    assert "--max-tokens" not in str(told.value)


# 3. One predicate


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory"
        ),
        MemoryError(),
    ],
)
def test_memory_is_lacking_by_whatever_name(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    assert lacks_memory(error)
    model = Encoder.load(PARITY / "olmoe").running
    whole = model._embed
    wanted = model.embed(texts())

    def small(some: Any, beginning: Any) -> Any:
        if len(some) > 2:
            raise error
        return whole(some, beginning)

    monkeypatch.setattr(model, "_embed", small)
    assert max(apart(model.embed(texts()), wanted)) < 0.05


def test_other_errors_are_not_taken_for_a_lack_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Encoder.load(PARITY / "olmoe").running

    def fail(*_: Any) -> None:
        raise RuntimeError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(model, "_embed", fail)
    with pytest.raises(RuntimeError, match="device-side assert"):
        model.embed(texts())


# 4. Memory of a batch


def test_a_workspace_lets_go_before_it_takes_more(monkeypatch: pytest.MonkeyPatch) -> None:
    workspace, alive = Workspace(), []
    before = workspace.take(10, torch.float32, CPU).untyped_storage()
    make_empty = torch.empty

    def empty(*arguments: Any, **named: Any) -> torch.Tensor:
        alive.append(sys.getrefcount(before))
        return make_empty(*arguments, **named)

    held = sys.getrefcount(before)
    monkeypatch.setattr(torch, "empty", empty)
    workspace.take(20, torch.float32, CPU)
    assert alive == [held - 1] and not workspace._buffers.keys() - {(torch.float32, CPU)}


def test_memory_for_products_does_not_grow_with_the_batch(tmp_path: Path) -> None:
    from speed.random_checkpoint import TINY, write

    checkpoint = write(tmp_path / "wide", **TINY | {"intermediate_size": 256})
    peaks = []
    with as_on_a_card(), pytest.MonkeyPatch.context() as patch:
        model = Encoder.load(checkpoint).running
        for elements in (2**17, 2**29):
            patch.setattr(grouped, "GROUPED_ELEMENTS", elements)
            many = [TokenizedText(tuple(range(3, 67)), (0, 64))] * 32
            one = model.embed(many[:1])
            _, traffic = watch(model, many)
            peaks.append(traffic.peak)
            assert max(apart(model.embed(many[:1]), one)) < 1e-6
    # 2,048 tokens' 8,192 pairs of 128 + 512 elements are 10.5 MB in bf16, a slice's 256 are 0.3.
    assert peaks[1] > 10e6 and peaks[1] - peaks[0] > 4e6


@pytest.mark.parametrize("kind", [*KINDS, "mixtral", "gpt_oss"])
def test_what_a_batch_takes_is_estimated_from_above(kind: str, tmp_path: Path) -> None:
    with as_on_a_card():
        if kind in KINDS:
            model = Encoder.load(PARITY / kind).running
        else:
            model = load(make(kind, tmp_path).checkpoint, 4)
        batch = [TokenizedText(tuple(range(3, 67)), (0, 64))] * 64
        _, traffic = watch(model, batch)
    weights = memory.workspace_bytes(model.model, model.compute.value)
    estimated = footprint.batch_bytes(model.plan, model.compute.value, 64 * 64) + weights
    assert traffic.peak < estimated
    if not any(map(footprint.writes_scores, model.plan.attentions)):
        assert estimated < 8 * traffic.peak


def test_a_first_batch_is_what_should_fit() -> None:
    model = Encoder.load(PARITY / "olmoe").running
    fitting = [
        footprint.fitting_tokens(model.plan, torch.bfloat16, free, CUDA_BATCH_TOKENS)
        for free in (10**5, 2 * 10**7, 10**8, 10**12)
    ]
    assert fitting == sorted(fitting)
    assert fitting[0] == footprint.STEP and fitting[-1] == CUDA_BATCH_TOKENS
    assert footprint.STEP < fitting[2] < CUDA_BATCH_TOKENS
    assert all(tokens % footprint.STEP == 0 for tokens in fitting)


def test_the_allocator_is_readied_unless_the_user_has(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in devices._ALLOCATOR:
        monkeypatch.delenv(name, raising=False)
    devices.ready_allocator()
    if sys.platform == "linux":
        assert os.environ["PYTORCH_ALLOC_CONF"] == "expandable_segments:True"
    monkeypatch.delenv("PYTORCH_ALLOC_CONF", raising=False)
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "max_split_size_mb:128")
    devices.ready_allocator()
    assert "PYTORCH_ALLOC_CONF" not in os.environ


# 6. Devices


def no_kernel(_device: torch.device) -> Exception:
    return RuntimeError(
        "CUDA error: no kernel image is available for execution on the device\nmore"
    )


def full(_device: torch.device) -> Exception:
    return torch.OutOfMemoryError("CUDA out of memory")


@pytest.mark.parametrize(
    ("fault", "error", "said"),
    [
        (no_kernel, MisuseError, r"Some Card, compute capability 5\.2\): CUDA error: no kernel"),
        (full, ModelError, "no memory is free on cuda:0"),
    ],
)
def test_a_card_that_computes_nothing_is_named(
    fault: Callable[[torch.device], Exception], error: type[MoeeIndexError], said: str
) -> None:
    with cards(capability=(5, 2), fault=fault):
        with pytest.raises(error, match=said) as refused:
            choose_device("cuda")
        assert str(refused.value).endswith("take --device cpu") and "\n" not in str(refused.value)
        chosen = choose_device("auto")
    assert chosen.value == CPU and "cuda:0" in chosen.reason


def test_auto_takes_the_first_card_that_computes() -> None:
    with cards(count=3, fault=lambda device: None if device.index == 1 else no_kernel(device)):
        assert choose_device("auto").value == torch.device("cuda:1")
        assert choose_device("cuda:1").value == torch.device("cuda:1")
        with pytest.raises(MisuseError):
            choose_device("cuda:2")


def test_a_card_older_than_the_kernels_exits_with_2() -> None:
    with cards(capability=(5, 2), fault=no_kernel):
        ran = CliRunner().invoke(cli, ["embed", "--device", "cuda:0", "some text"])
    assert ran.exit_code == 2 and "no kernel image" in ran.output


def test_a_trial_addition_tells() -> None:
    assert devices.fault(CPU) is None
    if not torch.cuda.is_available():
        assert devices.fault(CARD) is not None
        assert devices.title(CARD)


def test_a_card_that_cannot_grow_memory_in_place_does_without(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings: list[str] = []

    def trial(_device: torch.device) -> Exception | None:
        return None if settings else RuntimeError("CUDA driver error: operation not supported")

    monkeypatch.setattr(devices, "_trial", trial)
    monkeypatch.setattr(devices, "_change_allocator", settings.append)
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "max_split_size_mb:128")
    assert devices.fault(CARD) is not None and not settings  # the user's
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "expandable_segments:True")
    assert devices.fault(CARD) is None
    assert settings == ["expandable_segments:False"]


# 7. bitsandbytes without kernels for cards


def test_bitsandbytes_without_its_library_for_cards_is_told_in_a_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    backends.import_bitsandbytes()
    from bitsandbytes.cextension import ErrorHandlerMockBNBNativeLibrary

    lib = ErrorHandlerMockBNBNativeLibrary("libcudart.so.13: cannot open shared object file\nmore")
    monkeypatch.setattr(sys.modules["bitsandbytes.cextension"], "lib", lib)
    with cards(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(hardware, "lacks_cuda_kernels", backends.lacks_cuda_kernels)
        with pytest.raises(LibraryError) as refused:
            choose_device("cuda", 4)
        assert choose_device("auto", 4).value == CPU
        assert choose_device("cuda", 16).value == CARD
    said = str(refused.value)
    assert "has no kernels for CUDA" in said and "libcudart.so.13" in said and "\n" not in said
    assert said.endswith("so nothing in 4 bits runs on cuda:0; take --device cpu")


def test_a_library_with_kernels_for_cards_is_not_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    library = SimpleNamespace(**{backends._CUDA_KERNEL: None})
    monkeypatch.setattr(backends, "_loaded_library", lambda: library)
    assert backends.lacks_cuda_kernels() is None


# 8. Codes


def test_weights_are_quantized_on_the_processor_whatever_the_device(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[torch.device] = []
    original = stream.quantize

    def watching(matrix: torch.Tensor) -> Any:
        seen.append(matrix.device)
        return original(matrix)

    monkeypatch.setattr(stream, "quantize", watching)
    moved: list[torch.device] = []
    allocate = NF4Stack.allocate

    def allocating(self: NF4Stack, device: Any = "cpu", home: Any = None) -> None:
        moved.append(torch.device(device))
        allocate(self, "meta")

    monkeypatch.setattr(NF4Stack, "allocate", allocating)
    monkeypatch.setattr(NF4Stack, "put_quantized", lambda *_: None)
    from moee_index.model.arch.build import build_empty
    from moee_index.model.checkpoint.find import find_checkpoint
    from moee_index.model.load.load import prepare

    checkpoint = find_checkpoint(PARITY / "olmoe")
    plan = build_empty(checkpoint)
    storage = Storage(4, True, torch.bfloat16, torch.device("meta"))
    shapes = prepare(plan, checkpoint, storage)
    stream.fill_from_sources(plan, checkpoint, storage, shapes)
    assert set(seen) == {CPU} and set(moved) == {torch.device("meta")}


# 9. No expert hit


@pytest.mark.parametrize("on_card", [False, True])
@pytest.mark.parametrize("bits", [4, 32])
def test_tokens_that_reach_no_expert_come_out_as_zeros(
    on_card: bool, bits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Encoder.load(PARITY / "olmoe", bits=bits).running
    module = model.plan.experts[0]
    monkeypatch.setattr(experts, "grouped", lambda _device: on_card)
    states = torch.randn(5, model.hs_dim, dtype=model.compute.value)
    nobody = torch.full((5, 2), module.num_experts)
    shares = torch.ones(5, 2, dtype=states.dtype)
    with torch.inference_mode():
        assert not experts.experts_forward(module, states, nobody, shares).any()
        some = nobody.clone()
        some[2, 1] = 1
        found = experts.experts_forward(module, states, some, shares)
        assert found[2].any() and not found[[0, 1, 3, 4]].any()
        empty = experts.experts_forward(module, states[:0], nobody[:0], shares[:0])
        assert empty.shape == (0, model.hs_dim)


# 10. Sizes


def test_sizes_that_a_kernel_for_all_groups_does_not_take_are_multiplied_one_by_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(grouped, "has_grouped_product", lambda *_: True)

    def taken(rows: int, cols: int) -> bool:
        return grouped._in_one_kernel(
            torch.empty(3, cols, dtype=torch.bfloat16),
            torch.empty(2, cols, rows, dtype=torch.bfloat16),
        )

    assert taken(64, 32) and not taken(60, 32) and not taken(64, 36)


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_one_kernel_for_all_groups_is_asked_of_cards_that_have_it(
    capability: tuple[int, int],
) -> None:
    with cards(capability=capability):
        assert devices.has_grouped_product(CARD, torch.bfloat16) == (capability >= (9, 0))
        assert not devices.has_grouped_product(CARD, torch.float16)
        assert not devices.has_grouped_product(CPU, torch.bfloat16)


# 11. Attention that writes its scores out


def test_written_scores_are_cut_into_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = make("gpt_oss", tmp_path)
    with measured():
        wanted = load(own.checkpoint, 4).embed(TEXTS)
        counts: list[int] = []
        monkeypatch.setattr(blocks, "WRITTEN_SCORES", 2000)
        with as_on_a_card():
            model = load(own.checkpoint, 4)
            assert all(map(footprint.writes_scores, model.plan.attentions))
            model.model.layers[0].self_attn.q_proj.register_forward_hook(
                lambda _module, inputs, _output: counts.append(len(inputs[0]))
            )
            assert max(apart(model.embed(TEXTS), wanted)) < 1e-5
    assert len(counts) > 1 and sum(counts) == len(TEXTS)


# 12. Waits and launches; the whole road


def test_a_layer_waits_for_the_card_once() -> None:
    with as_on_a_card():
        model = Encoder.load(PARITY / "olmoe").running
        layer, traffic = watch(model, [TokenizedText(tuple(range(3, 19)), (0, 16))])
    assert layer.waits == 1, traffic.waits
    assert layer.launches < 60


def test_a_dense_layer_of_a_card_moves_less_than_half_of_what_it_did(tmp_path: Path) -> None:
    from speed.random_checkpoint import TINY, write

    changes = {**TINY, "hidden_size": 512, "intermediate_size": 256, "num_experts_per_tok": 8}
    checkpoint = write(tmp_path / "model", **changes)
    with as_on_a_card():
        model = Encoder.load(checkpoint).running
        some = [[TokenizedText(tuple(range(3, 131)), (0, 128))] * count for count in (4, 8)]
        small, large = (watch(model, batch)[0] for batch in some)
    a_token = (large.bytes - small.bytes) / 512
    # Of OLMoE-1B-7B, which is four times as wide: 494 kB, where it was 1,187.
    assert a_token * 4 < 600e3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bits", [4, 32])
@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_a_cards_road_gives_what_the_processors_gives(kind: str, bits: int, pooling: str) -> None:
    with measured():
        wanted = Encoder.load(PARITY / kind, bits=bits, pooling=pooling).running.embed(texts(23))
        with as_on_a_card():
            model = Encoder.load(PARITY / kind, bits=bits, pooling=pooling).running
            found = model.embed(texts(23))
            again = model.embed(texts(23))
    assert max(apart(found, wanted)) < 2e-5
    assert np.array_equal(found.hs, again.hs) and np.array_equal(found.rw, again.rw)


@pytest.mark.parametrize("kind", ["jetmoe", "dbrx", "llama4", "granitemoe"])
def test_experts_with_a_forward_of_their_own_take_it_too(kind: str, tmp_path: Path) -> None:
    own = make(kind, tmp_path)
    with measured():
        wanted = load(own.checkpoint, 4).embed(TEXTS)
        with as_on_a_card():
            found = load(own.checkpoint, 4).embed(TEXTS)
    assert max(apart(found, wanted)) < 2e-5


# Norms


@pytest.mark.parametrize("kind", KINDS)
def test_root_mean_square_norms_run_in_one_kernel(kind: str) -> None:
    plan = Encoder.load(PARITY / kind, bits=32).running.plan
    assert fuse_norms(plan.norms) == len(plan.norms) > 0


class Plain(torch.nn.Module):
    """A norm as classes write it. kind: what is different."""

    def __init__(self, kind: str, epsilon: float = 1e-5) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.linspace(0.5, 1.5, 32))
        self.kind, self.eps, self.momentum = kind, epsilon, 0.1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.kind == "centered":
            x = x - x.mean(-1, keepdim=True)
        x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps)
        if self.kind == "outside":
            return x / (1 + self.eps)
        return x * (1 + self.weight if self.kind == "one more" else self.weight)


@pytest.mark.parametrize("kind", ["plain", "centered", "one more", "outside"])
def test_norms_that_are_others_are_left_alone(kind: str) -> None:
    norm = Plain(kind)
    x = torch.randn(7, 32) * torch.logspace(0, -4, 7)[:, None]
    wanted = norm(x)
    assert fuse_norms([norm]) == (kind == "plain")
    torch.testing.assert_close(norm(x), wanted)


# Windows of short texts


def test_windows_of_short_texts_fill_a_cards_batches() -> None:
    encoder = Encoder.load(PARITY / "olmoe")
    short = [f"text {number}" for number in range(5000)]
    sizes = {}
    for budget in (4096, 16384, CUDA_BATCH_TOKENS):
        plans = encoder.with_batch_tokens(budget)._plans(short, False)
        sizes[budget] = [len(plan.truncated) for _, plan in plans]
    assert sizes[4096] == sizes[16384] == [1024, 1024, 1024, 1024, 904]
    assert sizes[CUDA_BATCH_TOKENS] == [4096, 904]


@pytest.mark.parametrize(("budget", "window"), [(20, 1024), (CUDA_BATCH_TOKENS, 4096)])
def test_a_build_plans_as_many_passages_as_fill_a_batch(
    budget: int, window: int, tmp_path: Path
) -> None:
    build_index(tmp_path / "i", fake_documents(70), FakeEncoder(batch_tokens=budget))
    with Index.open(tmp_path / "i") as index:
        assert index.manifest.window == window

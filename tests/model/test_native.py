"""The kernels for 4-bit matrices: exact under every instruction set that this processor has."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import one_line_error, run
from paths import PARITY

from moee_index.backends import import_bitsandbytes
from moee_index.encode.encoder import Encoder
from moee_index.model.nf4.linear import NF4Linear
from moee_index.model.nf4.native import library
from moee_index.model.nf4.quantize import quantize_on_cpu
from moee_index.model.nf4.stack import NF4Stack, Workspace, quantize
from moee_index.model.run import model as running
from moee_index.model.run.hardware import choose_compute, choose_kernels

ISAS = library.available()
KINDS = ("olmoe", "qwen2_moe", "deepseek")

pytestmark = pytest.mark.skipif(not ISAS, reason="installed without a C++ compiler")


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    with library.forced(request.param):
        yield request.param


def make_stack(n: int, rows: int, cols: int, double_quant: bool) -> NF4Stack:
    stack = NF4Stack(n, rows, cols, double_quant=double_quant)
    stack.allocate()
    generator = torch.Generator().manual_seed(rows + cols)
    for index in range(n):
        matrix = torch.randn(rows, cols, generator=generator) * 10.0**-index
        matrix.view(-1)[:64] = 0  # a block whose absmax is zero
        stack.put(index, 0, matrix)
    return stack


def table_values(stack: NF4Stack) -> torch.Tensor:
    """All matrices [n, rows, cols] in float32: bitsandbytes' table times absmax."""
    table = import_bitsandbytes().functional.get_4bit_type("nf4", device="cpu")
    codes = torch.stack((stack.packed >> 4, stack.packed & 15), dim=-1)
    values = table[codes.long()].view(stack.n, -1, 64)
    absmax = stack.full_absmax(range(stack.n))
    return (values * absmax[..., None]).view(stack.n, stack.rows, stack.cols)


SHAPES = [(64, 64), (7, 192), (130, 64), (64, 48), (33, 1088), (256, 2112), (4, 4160)]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e4, 1e-40])
def test_codes_are_those_of_bitsandbytes(isa: str, dtype: torch.dtype, scale: float) -> None:
    matrix = torch.randn(771, 2368, generator=torch.Generator().manual_seed(3)) * scale
    matrix = matrix.to(dtype)
    matrix[3] = 0
    matrix[4, :64] = matrix[4, 0]
    packed, absmax = quantize(matrix)
    wanted, wanted_absmax = quantize_on_cpu(matrix)
    assert torch.equal(packed, wanted) and torch.equal(absmax, wanted_absmax)
    matrix[2, 3], matrix[5, 6] = float("nan"), -float("inf")
    bad = (~quantize(matrix)[1].isfinite()).nonzero().flatten().tolist()
    assert bad == [2 * 37, 5 * 37]


@pytest.mark.parametrize("double_quant", [False, True])
@pytest.mark.parametrize(("rows", "cols"), SHAPES)
def test_dequantized_weights_are_the_very_table_values(
    isa: str, rows: int, cols: int, double_quant: bool
) -> None:
    stack = make_stack(3 if rows % 64 else 1, rows, cols, double_quant)
    wanted = table_values(stack)
    for dtype in (torch.float32, torch.bfloat16):
        found = stack.dequantize(range(stack.n), dtype, Workspace())
        assert torch.equal(found, wanted.to(dtype))
        assert torch.equal(stack.matrix(stack.n - 1, dtype), wanted[-1].to(dtype))


def test_every_byte_is_unpacked_wherever_it_lies(isa: str) -> None:
    table = import_bitsandbytes().functional.get_4bit_type("nf4", device="cpu")
    absmax = torch.tensor([0.75, 3e-39, 1e38, 0.0, float("inf"), float("nan"), 1.5, -2.0])
    for offset in range(4):  # of bytes: memory need not be aligned
        room = torch.zeros(256 + offset, dtype=torch.uint8)
        packed = room[offset:]
        packed.copy_(torch.arange(256))
        stack = library.Stack(packed=packed.data_ptr(), absmax=absmax.data_ptr(), rows=1, cols=512)
        codes = torch.stack((packed >> 4, packed & 15), dim=1).long()
        wanted = table[codes].view(-1, 64) * absmax[:, None]
        for dtype in (torch.float32, torch.bfloat16):
            found = torch.empty(512, dtype=dtype)
            library.dequantize(stack, [0], 0, 8, found)
            same = wanted.to(dtype).view(-1)
            assert torch.equal(found.isnan(), same.isnan())
            assert torch.equal(found[~same.isnan()], same[~same.isnan()])


@pytest.mark.parametrize("double_quant", [False, True])
@pytest.mark.parametrize(("rows", "cols"), [shape for shape in SHAPES if shape[1] % 64 == 0])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6, 7, 20, 97, 500])
def test_products_are_those_of_float64(
    isa: str, rows: int, cols: int, count: int, double_quant: bool
) -> None:
    stack = make_stack(2, rows, cols, double_quant)
    weights = table_values(stack)
    generator = torch.Generator().manual_seed(count)
    states = torch.randn(count + 3, cols, generator=generator)
    source = torch.randint(0, len(states), (2 * count,), generator=generator)
    for dtype, tolerance, rounding in ((torch.float32, 1e-6, 0), (torch.bfloat16, 1e-4, 2**-8)):
        x = states.to(dtype)
        found = stack.multiply([1, 0], [0, count, 2 * count], x, source)
        assert found.dtype == dtype
        for part, matrix in ((slice(0, count), 1), (slice(count, None), 0)):
            wanted = x[source[part]].double() @ weights[matrix].to(dtype).double().T
            error = (found[part].double() - wanted).abs() - rounding * wanted.abs()
            assert error.max() <= tolerance * wanted.abs().max()
            # the same whatever else is in the call
            alone = stack.multiply([matrix], [0, count], x[source[part]])
            assert torch.equal(alone, found[part])


def test_a_product_does_not_depend_on_threads(isa: str) -> None:
    stack = make_stack(3, 600, 704, True)
    x = torch.randn(40, 704, generator=torch.Generator().manual_seed(0))
    before = torch.get_num_threads()
    try:
        products = []
        for threads in (1, 2, 7):
            torch.set_num_threads(threads)
            products.append(stack.multiply([0, 1, 2], [0, 3, 3, 40], x))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(products[0], products[1]) and torch.equal(products[0], products[2])


def test_calls_of_several_threads_do_not_mix() -> None:
    stack = make_stack(4, 256, 640, True)
    generator = torch.Generator().manual_seed(1)
    inputs = [torch.randn(9, 640, generator=generator) for _ in range(8)]
    wanted = [stack.multiply([0, 3], [0, 4, 9], x) for x in inputs]
    wrong: list[int] = []

    def work(number: int) -> None:
        for _ in range(40):
            if not torch.equal(stack.multiply([0, 3], [0, 4, 9], inputs[number]), wanted[number]):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_has_threads_of_its_own() -> None:
    stack = make_stack(2, 512, 512, False)
    x = torch.randn(4, 512, generator=torch.Generator().manual_seed(2))
    native: Any = stack._native()
    wanted = library.multiply(native, [0, 1], [0, 2, 4], x)
    child = os.fork()
    if child == 0:
        same = torch.equal(library.multiply(native, [0, 1], [0, 2, 4], x), wanted)
        os._exit(0 if same else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_a_linear_layer_is_the_same_with_and_without_its_codes(isa: str) -> None:
    linear = NF4Linear(96, 128, bias=True, double_quant=True, workspace=Workspace())
    linear.weight.allocate()
    generator = torch.Generator().manual_seed(3)
    linear.weight.put(0, 0, torch.randn(96, 128, generator=generator))
    linear.bias = torch.nn.Parameter(torch.randn(96, generator=generator))
    for shape in ((1, 1, 128), (2, 3, 128), (300, 128)):
        x = torch.randn(shape, generator=generator)
        wanted = torch.nn.functional.linear(x, linear.weight.matrix(0, x.dtype), linear.bias)
        with torch.inference_mode():
            found = linear(x)
        assert (found - wanted).abs().max() < 2e-6 * wanted.abs().max()


TEXTS = ["", "a short one", "rain and snow " * 20, *(f"number {i} of many" for i in range(20))]


def encode(kind: str, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    found = Encoder.load(PARITY / kind, bits=4).encode(texts)
    return found.hs, found.rw


@pytest.mark.parametrize("kind", KINDS)
def test_models_give_the_same_under_every_instruction_set(
    isa: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from moee_index.model.precision import Choice

    monkeypatch.setattr(running, "choose_compute", lambda *_: Choice(torch.float32, "a test"))
    with library.forced(library.BITSANDBYTES):
        wanted = encode(kind, TEXTS)
    for found, reference in zip(encode(kind, TEXTS), wanted, strict=True):
        assert np.abs(found - reference).max() < 2e-5 * np.abs(reference).max()
    # alone as in a batch
    for number in (0, 2, 5):
        alone = encode(kind, TEXTS[number : number + 1])
        for found, reference in zip(alone, wanted, strict=True):
            assert np.abs(found[0] - reference[number]).max() < 2e-5 * np.abs(reference).max()


@pytest.mark.parametrize("kind", KINDS)
def test_models_in_bfloat16_agree(isa: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from moee_index.model.precision import Choice

    with library.forced(library.BITSANDBYTES):
        monkeypatch.setattr(running, "choose_compute", lambda *_: Choice(torch.float32, "a test"))
        wanted = encode(kind, TEXTS)[0]
    monkeypatch.setattr(running, "choose_compute", lambda *_: Choice(torch.bfloat16, "a test"))
    found = encode(kind, TEXTS)[0]
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(wanted, axis=1)
    assert np.median((found * wanted).sum(axis=1) / lengths) > 0.9995


def test_bfloat16_is_left_to_its_own_instruction_set() -> None:
    cpu = torch.device("cpu")
    for name in ISAS:
        with library.forced(name):
            computed = choose_compute(4, cpu)
            assert (computed.value == torch.bfloat16) == (name == "avx512bf16")
            assert choose_kernels(4, cpu).value == name
    assert choose_kernels(32, cpu).value == "torch"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("avx3", "unknown"),
        ("AVX2", "unknown"),
        ("avx2,avx512", "unknown"),
        ("neon" if "neon" not in ISAS else "avx2", "not available here"),
    ],
)
def test_an_instruction_set_that_is_not_there_is_named(
    value: str, said: str, tmp_path: Path
) -> None:
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("one line\nanother\n")
    with library.forced(value):
        error = one_line_error(run("build", corpus, "--index", tmp_path / "i", status=1))
    assert f"MOEE_INDEX_ISA={value} is {said}; take one of portable" in error
    assert not (tmp_path / "i").exists()

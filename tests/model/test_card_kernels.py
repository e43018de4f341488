"""The calls of bitsandbytes' backend for cards, with a library that stands in for its C one: their
arguments are those of the C functions, and what they compute is what a processor computes."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from paths import PARITY

ROOT = Path(__file__).parent.parent.parent
SCRIPT = ROOT / "tests" / "fakes" / "cuda_library.py"

# How the functions that the C ones call are named in the library; a template's types come before E.
MANGLED = {
    "cdequantize_blockwise_fp32": rb"_Z24dequantizeBlockwise_fp32([\w]+)\0",
    "cdequantize_blockwise_bf16_nf4": rb"_Z28dequantizeBlockwise_bf16_nf4([\w]+)\0",
    "cdequantize_blockwise_fp16_nf4": rb"_Z28dequantizeBlockwise_fp16_nf4([\w]+)\0",
    "cdequantize_blockwise_fp32_nf4": rb"_Z28dequantizeBlockwise_fp32_nf4([\w]+)\0",
    "cgemm_4bit_bf16": rb"_Z21launch_gemm_4bit_simtI13__nv_bfloat16Ev([\w]+)\0",
    "cgemm_4bit_fp16": rb"_Z21launch_gemm_4bit_simtI6__halfEv([\w]+)\0",
    "cgemm_4bit_fp32": rb"_Z21launch_gemm_4bit_simtIfEv([\w]+)\0",
}
POINTER = "pointer"


@cache
def library() -> bytes | None:
    """The newest of bitsandbytes' libraries for CUDA; None where a wheel has none."""
    spec = importlib.util.find_spec("bitsandbytes")
    assert spec is not None and spec.origin is not None
    found = sorted(Path(spec.origin).parent.glob("libbitsandbytes_cuda*.so"))
    return found[-1].read_bytes() if found else None


def parameters(mangled: str) -> list[str]:
    """Parameters of a mangled name (Itanium's C++ ABI): pointers, and int as `i`."""
    found: list[str] = []
    while mangled:
        pointer = re.match(r"PK?", mangled)
        rest = mangled[pointer.end() :] if pointer else mangled
        named = re.match(r"\d+", rest)
        if named:
            end = named.end() + int(named[0])
        else:
            kind = re.match(r"S[0-9A-Z]*_|T[0-9]*_|[a-z]", rest)
            assert kind, mangled
            end = kind.end()
        # What is repeated as a substitution was a pointer, as long as it is no pointer's target.
        is_pointer = bool(pointer) or rest.startswith("S")
        found.append(POINTER if is_pointer else rest[:end])
        mangled = rest[end:]
    return found


def test_mangled_names_are_read() -> None:
    assert parameters("PfPhS_P13__nv_bfloat16iiP11CUstream_st") == [
        *(POINTER, POINTER, POINTER, POINTER, "i", "i", POINTER)
    ]
    assert parameters("PKT_PKhPKfS5_S7_S7_PS1_S3_iiiiiP11CUstream_st") == [
        *[POINTER] * 8,
        *["i"] * 5,
        POINTER,
    ]


@cache
def recorded(capability: str) -> dict[tuple[str, str], dict[str, Any]]:
    """The stand-in's records by checkpoint and dtype, from a process of its own."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), capability, *(str(PARITY / kind) for kind in KINDS)],
        capture_output=True,
        text=True,
        cwd=ROOT / "tests",
        env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    return {(row["kind"], row["compute"]): row for row in rows}


KINDS = ("olmoe", "qwen2_moe", "deepseek")
CARDS = [("7.5", "float16"), ("8.0", "bfloat16"), ("8.9", "bfloat16"), ("9.0", "bfloat16")]


@pytest.mark.parametrize(("capability", "compute"), CARDS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_call_is_as_the_c_function_has_it(kind: str, capability: str, compute: str) -> None:
    found = recorded(capability)[kind, compute]
    assert found["one_kernel"] == (capability == "9.0")
    short = {"float16": "fp16", "bfloat16": "bf16"}[compute]
    wanted = {
        *("cdequantize_blockwise_fp32", f"cdequantize_blockwise_{short}_nf4"),
        f"cgemm_4bit_{short}",
    }
    assert found["calls"].keys() == wanted
    assert max(found["apart"]) < 0.1
    code = library()
    if code is None:
        pytest.skip("this wheel of bitsandbytes has no library for CUDA")
    for name, arguments in found["calls"].items():
        assert name.encode() + b"\0" in code
        mangled = re.search(MANGLED[name], code)
        assert mangled is not None, name
        kinds = parameters(mangled[1].decode())
        assert len(kinds) == len(arguments)
        for kind_of, value in zip(kinds, arguments, strict=True):
            # Addresses are large, null, or (streams) small; numbers are small.
            assert kind_of == POINTER or (value is not None and 0 <= value < 2**31)


@pytest.mark.parametrize("capability", [capability for capability, _ in CARDS])
@pytest.mark.parametrize("kind", KINDS)
def test_in_float32_the_vectors_are_the_processors(kind: str, capability: str) -> None:
    found = recorded(capability)[kind, "float32"]
    assert max(found["apart"]) < 2e-5
    assert found["counts"]["cgemm_4bit_fp32"] > 0
    assert found["counts"]["cdequantize_blockwise_fp32_nf4"] > 4

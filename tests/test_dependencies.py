"""What a newer release of a library may take away: another way is gone, or the message says which
release is known to work."""

from __future__ import annotations

import ctypes
import re
import sys
import tomllib
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import numpy as np
import pytest
import torch
from commands import one_line_error, run
from paths import PARITY

from fakes.indexes import fake_documents
from fakes.word_encoder import FakeEncoder
from moee_index import backends as libraries
from moee_index import dependencies
from moee_index.backends import load_faiss
from moee_index.cli import cli
from moee_index.dependencies import TESTED, internal, newer_than_tested
from moee_index.encode.encoder import Encoder
from moee_index.errors import LibraryError, ModelError
from moee_index.index import Index, build_index
from moee_index.index.search import kernels as scan
from moee_index.model.arch import grouped, routing
from moee_index.model.arch.tested import architecture_table
from moee_index.model.checkpoint.find import find_checkpoint
from moee_index.model.nf4 import dequantize as nf4
from moee_index.model.nf4.native import library
from moee_index.model.nf4.stack import NF4Stack, Workspace
from moee_index.types import Embeddings

ROOT = Path(__file__).parent.parent
TEXTS = ["rain in spring", "a train that is late", ""]


@pytest.fixture(autouse=True)
def look_again() -> Iterator[None]:
    """What was once found in a library is looked for again, and so after the test."""
    kept = (
        load_faiss,
        libraries.cpu_kernel,
        nf4._c_kernel,
        scan._scanner_works,
    )
    for one in kept:
        one.cache_clear()
    yield
    for one in kept:
        one.cache_clear()


def test_every_dependency_has_a_release_it_was_tested_with() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = {re.split(r"[^\w.-]", line)[0] for line in project["dependencies"]}
    assert {name.replace("_", "-") for name in needed} <= TESTED.keys()


def test_newer_libraries_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {**TESTED, "click": "9.0.0", "tqdm": "4.1000.2", "numpy": "1.9", "torch": "2.13.7"}
    monkeypatch.setattr(dependencies, "version", installed.__getitem__)
    assert newer_than_tested() == [
        f"click 9.0.0 (tested with {TESTED['click']})",
        f"tqdm 4.1000.2 (tested with {TESTED['tqdm']})",
    ]


@pytest.mark.parametrize("name", ["IO_FLAG_MMAP_IFC", "set_deserialization_loop_limit"])
def test_without_what_is_needed_of_faiss_a_message_names_a_release(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    build_index(tmp_path / "i", fake_documents(8), FakeEncoder())
    monkeypatch.delattr(load_faiss(), name)
    load_faiss.cache_clear()
    said = rf"^faiss-cpu \S+ has no {name}; .* pip install 'faiss-cpu=={TESTED['faiss-cpu']}'"
    with (
        pytest.raises(LibraryError, match=said),
        Index.open(tmp_path / "i", FakeEncoder()) as index,
    ):
        index.search("w3", 1)
    error = one_line_error(run("verify", tmp_path / "i", status=1))
    assert "pip install" in error and "unexpected" not in error


def test_another_layout_of_faiss_files_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load_faiss(), "serialize_index", lambda index: np.zeros(50, np.uint8))
    with pytest.raises(LibraryError, match="an unknown layout"):
        build_index(tmp_path / "i", fake_documents(8), FakeEncoder())


@pytest.mark.parametrize(
    ("module", "name"),
    [("transformers.no_such_module", "x"), ("transformers.integrations.moe", "no_such_name")],
)
def test_what_a_library_has_moved_is_told(module: str, name: str) -> None:
    with pytest.raises(LibraryError, match=rf"^transformers \S+ has no {module}\.{name} \(.*\); "):
        internal("transformers", module, name)


def test_a_model_that_does_not_say_what_routes_is_not_called_dense() -> None:
    with pytest.raises(LibraryError, match="which modules route"):
        routing.find_routers(torch.nn.Linear(2, 2))


@pytest.mark.skipif(not hasattr(torch.nn.functional, "grouped_mm"), reason="an older torch")
def test_grouped_products_do_without_torchs_private_name() -> None:
    assert grouped._grouped_mm is torch.nn.functional.grouped_mm


def without_cextension(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "bitsandbytes.cextension")


def without_lib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(sys.modules["bitsandbytes.cextension"], "lib")


def without_library(monkeypatch: pytest.MonkeyPatch) -> None:
    lib = SimpleNamespace(_lib=None)
    monkeypatch.setattr(sys.modules["bitsandbytes.cextension"], "lib", lib)


def without_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    class Library(ctypes.CDLL):
        def __getattr__(self, name: str) -> Any:
            raise AttributeError(name)

    lib = SimpleNamespace(_lib=Library(None))
    monkeypatch.setattr(sys.modules["bitsandbytes.cextension"], "lib", lib)


def doing_something_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nf4, "cpu_kernel", lambda name: lambda *arguments: None)


@pytest.mark.parametrize(
    "take_away",
    [without_cextension, without_lib, without_library, without_functions, doing_something_else],
)
def test_without_the_c_functions_of_bitsandbytes_vectors_are_the_same(
    monkeypatch: pytest.MonkeyPatch, take_away: Callable[[pytest.MonkeyPatch], None]
) -> None:
    with library.forced(library.BITSANDBYTES):
        wanted = Encoder.load(PARITY / "olmoe").encode(TEXTS)
        nf4._c_kernel.cache_clear()
        libraries.cpu_kernel.cache_clear()
        take_away(monkeypatch)
        monkeypatch.setattr(libraries, "_processor_library", lambda: None)
        _without_c_functions(wanted)


def _without_c_functions(wanted: Embeddings) -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        assert nf4._c_kernel(dtype) is None
    found = Encoder.load(PARITY / "olmoe", few_texts=True).encode(TEXTS)
    np.testing.assert_array_equal(found.hs, wanted.hs)
    np.testing.assert_array_equal(found.rw, wanted.rw)
    stack = NF4Stack(2, 64, 48, double_quant=True)
    stack.allocate()
    matrices = torch.randn(2, 64, 48, generator=torch.Generator().manual_seed(4))
    for index in range(2):
        stack.put(index, 0, matrices[index])
    values = stack.dequantize(range(2), torch.float32, Workspace())
    assert (values - matrices).abs().max() < 0.2 * matrices.abs().max()


def test_the_c_functions_of_bitsandbytes_are_found_where_it_has_them() -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        name = nf4._C_KERNELS[dtype]
        assert (nf4._c_kernel(dtype) is None) == (libraries.cpu_kernel(name) is None)


@pytest.mark.parametrize("take_away", [without_cextension, without_library, without_functions])
def test_the_library_for_processors_is_found_beside_the_one_for_cards(
    monkeypatch: pytest.MonkeyPatch, take_away: Callable[[pytest.MonkeyPatch], None]
) -> None:
    libraries.cpu_kernel.cache_clear()
    take_away(monkeypatch)
    try:
        kernel = libraries.cpu_kernel("cdequantize_blockwise_cpu_nf4_fp32")
        assert (kernel is None) == (libraries._processor_library() is None)
    finally:
        libraries.cpu_kernel.cache_clear()


def test_the_processor_is_known_without_torch_and_beside_a_card(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known = libraries.has_avx512bf16()
    without_functions(monkeypatch)  # as bitsandbytes' library for cards, which lacks the question
    libraries.cpu_kernel.cache_clear()
    assert libraries.has_avx512bf16() == known
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert libraries.has_avx512bf16() == known
    monkeypatch.setattr(libraries, "_processor_library", lambda: None)
    libraries.cpu_kernel.cache_clear()
    assert libraries.has_avx512bf16() is False
    libraries.cpu_kernel.cache_clear()


def test_functions_are_not_compiled_while_bitsandbytes_is_imported() -> None:
    before = torch.compile
    with libraries._without_torch_compile():

        @torch.compile
        def bare(x: int) -> int:
            return x + 1

        @torch.compile(dynamic=True)
        def with_options(x: int) -> int:
            return x + 2

        assert torch.compile(len, fullgraph=True) is len
    assert (bare(1), with_options(1)) == (2, 3)
    assert torch.compile is before


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content[:500],
        lambda content: content.replace(b'"type": "BPE"', b'"type": "Novel"', 1),
    ],
)
def test_a_tokenizer_of_another_release_or_damaged_is_told(
    copy_checkpoint: Callable[..., Path], change: Callable[[bytes], bytes]
) -> None:
    file = copy_checkpoint("olmoe") / "tokenizer.json"
    content = file.read_bytes()
    file.write_bytes(change(content))
    assert file.read_bytes() != content
    with pytest.raises(ModelError, match=r"tokenizer\.json cannot be read by tokenizers \d"):
        Encoder.load(file.parent)


def test_an_error_of_the_hub_that_says_nothing_is_told_by_its_class(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import huggingface_hub

    def fail(*_: object, **__: object) -> str:
        raise ConnectionError

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(ModelError, match=r"could be fetched: ConnectionError$"):
        find_checkpoint("someone/olmoe")


def test_the_table_of_architectures_is_of_the_tested_transformers() -> None:
    assert dependencies.TESTED["transformers"] == architecture_table()["transformers"]


def test_an_error_that_nobody_thought_of_names_newer_libraries(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    @click.command("broken")
    def broken() -> None:
        raise AttributeError("no such thing")

    monkeypatch.setattr(cli, "get_command", lambda *_: broken)
    monkeypatch.setitem(dependencies.TESTED, "faiss-cpu", "1.2.0")
    error = one_line_error(run("broken", status=1))
    assert "unexpected AttributeError: no such thing" in error and "--debug" in error
    assert f"faiss-cpu {version('faiss-cpu')} (tested with 1.2.0)" in error


def test_misuse_is_told_in_our_words() -> None:
    result = run("query", "--no-such-option", status=2)
    assert one_line_error(result).startswith("Error: No such option")
    assert "--help' for help." in result.stderr

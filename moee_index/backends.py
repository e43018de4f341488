"""Imports of the heavy libraries, in one place and in the one right order.

Torch comes before FAISS, so that both share one OpenMP runtime; transformers comes without what
only training and several machines need, bitsandbytes without asking a hub for kernels, and both
without torch's compiler.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from moee_index.deferred import deferring
from moee_index.dependencies import lacking

Kernel = Callable[..., Any]

# Without this one, bitsandbytes' library is none for cards, or none could be loaded.
_CUDA_KERNEL = "cdequantize_blockwise_bf16_nf4"

# Threads that quantise slices all ask for bitsandbytes first: none may see it half imported.
_IMPORTING = threading.Lock()

# What FAISS's documentation does not speak of, and may go by another name one day.
_FAISS = (
    "IO_FLAG_MMAP_IFC",
    "PyCallbackIOWriter",
    "extract_index_ivf",
    "omp_get_max_threads",
    "omp_set_num_threads",
    "rev_swig_ptr",
    "serialize_index",
    "set_deserialization_loop_limit",
    "set_deserialization_vector_byte_limit",
)

# What is imported for losses, for training, for several machines and for compiling: scipy, sympy,
# torch's compiler. Used by functions that we never call.
_UNUSED = {
    "accelerate": frozenset({"PartialState", "dispatch_model"}),
    "accelerate.hooks": frozenset({"AlignDevicesHook", "add_hook_to_module"}),
    "accelerate.utils": frozenset(
        {
            *("extract_model_from_parallel", "get_balanced_memory", "get_max_memory"),
            *("infer_auto_device_map", "reduce"),
        }
    ),
    "accelerate.utils.modeling": frozenset({"clean_device_map", "get_max_layer_size"}),
    "scipy.optimize": frozenset({"linear_sum_assignment"}),
    "torch._dynamo._trace_wrapped_higher_order_op": frozenset({"TransformGetItemToIndex"}),
    "torch.distributed._composable.fsdp": frozenset({"fully_shard"}),
    "torch.distributed.checkpoint.hf_storage": frozenset(
        {"HuggingFaceStorageReader", "HuggingFaceStorageWriter"}
    ),
    "torch.distributed.fsdp": frozenset({"CPUOffloadPolicy", "MixedPrecisionPolicy"}),
    "torch.fx.experimental.symbolic_shapes": frozenset(
        {"GuardOnDataDependentSymNode", "guard_or_false", "statically_known_true"}
    ),
}
_UNUSED_BY = ("transformers.", "torch.distributed.")

# How an OpenMP runtime's threads wait for one another: they look again so many times, or so many
# milliseconds, before they sleep. By itself GNU's looks 300,000 times (3 ms and more), LLVM's for
# 200 ms: on a busy machine that is time which the thread that all wait for does not get.
_WAITING = {"GOMP_SPINCOUNT": "30000", "KMP_BLOCKTIME": "1"}
_ASKED_WAITING = (*_WAITING, "OMP_WAIT_POLICY")

# The modules of transformers that import all that, and those that any model needs.
_TRANSFORMERS = ("integrations.moe", "modeling_layers", "generation.utils", "masking_utils")


@contextmanager
def collector_paused() -> Iterator[None]:
    """Without looking for garbage inside: imports make a million objects and no garbage, and
    looking for it takes a third of their time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@cache
def load_torch() -> ModuleType:
    """torch, imported before all that shares its OpenMP runtime, whose threads shall wait for one
    another in a way that suits a busy machine. What the user has set of that stays as it is; where
    torch is there already, it is too late."""
    if not any(name in os.environ for name in _ASKED_WAITING):
        os.environ.update(_WAITING)
    with collector_paused():
        import torch
    return torch  # type: ignore[no-any-return,unused-ignore]


@cache
def load_transformers() -> ModuleType:
    """transformers with what all its models are made of, and without `_UNUSED`."""
    load_torch()
    with collector_paused(), deferring(_UNUSED_BY, _UNUSED):
        for name in _TRANSFORMERS:
            import_module(f"transformers.{name}")
    return sys.modules["transformers"]


def without_compiler() -> AbstractContextManager[None]:
    """Without torch's compiler, which an operation written in Python imports at its first call."""
    return deferring((), {})


def import_bitsandbytes() -> ModuleType:
    """Import bitsandbytes, quietly and without its two slow habits.

    On processors with AVX512-BF16 its CPU backend asks a hub for an extra kernel as soon as it is
    imported; and it wraps functions that we never call in `torch.compile`, which imports all of
    torch's compiler (a second). The first has a plain fallback inside bitsandbytes, forced here;
    the functions are left as they are.
    """
    with _IMPORTING:
        if "bitsandbytes" in sys.modules:
            return sys.modules["bitsandbytes"]
        logger = logging.getLogger("bitsandbytes")
        level = logger.level
        logger.setLevel(logging.CRITICAL)  # of a missing library it logs a page
        try:
            with collector_paused(), _without_torch_compile(), _offline_hub():
                import bitsandbytes
        finally:
            logger.setLevel(level)
        return bitsandbytes  # type: ignore[no-any-return,unused-ignore]


@cache
def cpu_kernel(name: str) -> Kernel | None:
    """One of bitsandbytes' C functions for the processor, or None where its build lacks it or
    keeps it elsewhere.

    Called directly they write into our own buffers; looked up once a name. They are no documented
    interface: whoever calls one has another way, and tries first whether it still gives the same.
    """
    for library in (_loaded_library(), _processor_library()):
        if library is not None and hasattr(library, name):
            return getattr(library, name)  # type: ignore[no-any-return]
    return None


def _loaded_library() -> ctypes.CDLL | None:
    """bitsandbytes' C library: where there is a card, the one for it, without some functions of the
    one for processors."""
    import_bitsandbytes()
    library = sys.modules.get("bitsandbytes.cextension")
    for attribute in ("lib", "_lib"):
        library = getattr(library, attribute, None)
    return library if isinstance(library, ctypes.CDLL) else None


@cache
def _processor_library() -> ctypes.CDLL | None:
    """bitsandbytes' C library for processors, which it does not load where there is a card."""
    folder = Path(import_bitsandbytes().__file__ or "").parent
    for path in sorted(folder.glob("libbitsandbytes_cpu.*")):
        with suppress(OSError):  # built for another system
            return ctypes.CDLL(str(path))
    return None


def lacks_cuda_kernels() -> str | None:
    """That bitsandbytes has no kernels for cards here, and why; None if it has, or does not show
    where it keeps them."""
    module = import_bitsandbytes()
    shown = getattr(sys.modules.get("bitsandbytes.cextension"), "lib", None)
    library = _loaded_library()
    if shown is None or (library is not None and hasattr(library, _CUDA_KERNEL)):
        return None
    why = str(vars(shown).get("error_msg", "")).strip().splitlines()[:1]
    import torch

    return (
        f"bitsandbytes {module.__version__} has no kernels for CUDA {torch.version.cuda}"
        f"{f' ({why[0]})' if why else ''}"
    )


def compiled(folder: Path, name: str) -> ctypes.CDLL | None:
    """What was compiled in a folder when this was installed; None where there was no compiler, or
    it does not load here."""
    for path in sorted([*folder.glob(f"{name}*.so"), *folder.glob(f"{name}*.pyd")]):
        # It may have been built for another system, as in a directory that two machines share.
        with suppress(OSError):
            return ctypes.CDLL(str(path))
    return None


def has_avx512bf16() -> bool:
    """Whether this processor has AVX512-BF16, as torch finds it, or where it does not tell,
    bitsandbytes."""
    import torch

    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    if capabilities:
        return bool(capabilities.get("avx512_bf16"))
    ask = cpu_kernel("has_avx512bf16_cpu")
    return ask is not None and bool(ask())


_embeds = True


def embed_nothing() -> None:
    """Say that this process runs no model: FAISS is then imported without torch, which takes a
    second. Should torch be needed after all, it is imported, and with it a second runtime."""
    global _embeds
    _embeds = False


def torch_in_use() -> ModuleType | None:
    """torch; None where this process needs none and has not imported it."""
    return load_torch() if _embeds or "torch" in sys.modules else None


@cache
def load_faiss() -> ModuleType:
    """faiss, imported after torch, so that both share one OpenMP runtime, but see `embed_nothing`.

    Raises LibraryError where the installed release has not what is used of it (the scanner of
    search/kernels.py not counted, which has a substitute).
    """
    torch_in_use()
    if sys.platform == "darwin":
        # Both wheels bring LLVM's runtime there, and the second one that is loaded would abort.
        os.environ.setdefault("KMP_DUPLICATE_LIB_OK", "TRUE")
    with collector_paused():
        import faiss

    for name in _FAISS:
        if not hasattr(faiss, name):
            raise lacking("faiss-cpu", f"has no {name}")
    if sys.platform == "darwin":
        faiss.omp_set_num_threads(1)  # two runtimes' threads would wait for one another's cores
    return faiss


def limit_kernel_caches() -> None:
    """Let oneDNN and torch's own cache beside it keep some hundred kernels, not thousands.

    Both are read at the first product of a process. Row counts of the large products are rounded
    (see `nf4.rounded_rows`); what remains ever new (routers, scores) is dropped again so.
    """
    for name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(name, "128")


def set_threads(threads: int | None) -> int:
    """Set the threads of torch (and with it of the OpenMP runtime that FAISS shares).

    Returns the number in force. None leaves the libraries' own choice.
    """
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    return torch.get_num_threads()


@contextmanager
def _without_torch_compile() -> Iterator[None]:
    import torch

    def plain(*function: Any, **_: Any) -> Any:
        # Called with options alone it gives what decorates.
        return function[0] if function else plain

    original = torch.compile
    torch.compile = plain
    try:
        yield
    finally:
        torch.compile = original


@contextmanager
def _offline_hub() -> Iterator[None]:
    before = os.environ.get("HF_HUB_OFFLINE")
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["HF_HUB_OFFLINE"]
        else:
            os.environ["HF_HUB_OFFLINE"] = before

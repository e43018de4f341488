"""What this program is and finds on this machine: versions, processor, devices, available models.

For `info` and for reports. Imports torch and bitsandbytes when asked, loads no model.
"""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from moee_index.errors import StorageError, counted
from moee_index.types import ignore

LIBRARIES = ("torch", "transformers", "bitsandbytes", "faiss-cpu", "mteb", "numpy", "safetensors")


def versions(more: Iterable[str] = ()) -> dict[str, str]:
    """Versions of this package, of Python, of the libraries that decide results, and of `more`."""
    from moee_index import __version__

    installed = {"moee-index": __version__, "python": platform.python_version()}
    for name in (*LIBRARIES, *more):
        try:
            installed[name] = version(name)
        except PackageNotFoundError:
            installed[name] = "not installed"
    return installed


def describe_program() -> dict[str, Any]:
    """The fields of `info --json` without an index."""
    from moee_index.backends import has_avx512bf16, load_torch
    from moee_index.dependencies import newer_than_tested
    from moee_index.model.nf4.native.library import instruction_set
    from moee_index.model.run.hardware import choose_threads

    torch = load_torch()
    kernels = instruction_set()
    bf16 = has_avx512bf16()
    devices = [
        f"cpu: {counted(os.cpu_count() or 1, 'processor')}, "
        f"{torch.backends.cpu.get_cpu_capability()}, "
        + ("AVX512-BF16: computes in bfloat16" if bf16 else "no AVX512-BF16: computes in float32")
    ]
    for number in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(number)
        devices.append(f"cuda:{number}: {properties.name}, {properties.total_memory / 1e9:.0f} GB")
    return {
        "versions": versions(),
        "newer_than_tested": newer_than_tested(),
        "devices": devices,
        "kernels": f"{kernels.value} ({kernels.reason})",
        "threads": choose_threads(None).value,
        "models": models_at_hand(),
        "architectures": architectures(),
        "cache": _describe_cache(),
    }


def _describe_cache() -> dict[str, Any]:
    """Where 4-bit forms are kept, and which; where that cannot be told, why."""
    from moee_index.model.load.cache import Cache

    cache = Cache(ignore)
    try:
        directory = str(cache.directory)
    except StorageError as error:
        return {"directory": f"none: {error}", "entries": []}
    try:
        entries = [f"{name}: {size / 1e9:.2f} GB" for name, size in cache.entries()]
    except StorageError as error:
        entries = [str(error)]
    return {"directory": directory, "entries": entries}


def architectures() -> dict[str, Any]:
    """How many packages of transformers with routers this version was tested with, in which version
    of transformers, and which of the installed ones it was not."""
    from moee_index.model.arch.tested import architecture_table, untested_packages

    return {
        "tested": len(architecture_table()["architectures"]),
        "with": f"transformers {architecture_table()['transformers']}",
        "untested": untested_packages(),
    }


def models_at_hand() -> list[str]:
    """The bundled model and the checkpoints in the hub's cache that have experts."""
    from huggingface_hub import constants

    from moee_index.model.checkpoint.find import bundled_path

    models = [f"tiny ({bundled_path()})"]
    for folder in sorted(Path(constants.HF_HUB_CACHE).glob("models--*")):
        # One that cannot be looked into hides no other.
        with contextlib.suppress(OSError):
            configs = sorted(folder.glob("snapshots/*/config.json"))
            if configs and any(configs[-1].parent.glob("*.safetensors")):
                text = configs[-1].read_text(encoding="utf-8", errors="replace")
                if "experts" in text:
                    models.append(folder.name.removeprefix("models--").replace("--", "/"))
    return models

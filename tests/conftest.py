"""What all tests share: no network, no leftovers, tiny checkpoints made on the spot."""

from __future__ import annotations

import os

# Before anything imports a library that reads them.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("HF_HOME", "/nonexistent/hub")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if "PYTEST_XDIST_WORKER" in os.environ:
    # Workers share the cores; two computing processes on two cores starve each other otherwise.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import deprecations
import pytest
from hypothesis import HealthCheck, settings
from paths import PARITY

from fakes.small_checkpoint import write_small_checkpoint

# A slow machine is no failure, and neither is a health check that a newer release thinks of. Cases
# are the same in every run, so that a failure is of what has changed; FUZZ=n draws others, and n
# times as many where a test says so (tests/stress/fuzz.py tries tens of thousands).
settings.register_profile(
    "ours",
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize="FUZZ" not in os.environ,
)
settings.load_profile("ours")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No option may come in from the environment of whoever runs the tests, but for the instruction
    set that all of them are run under."""
    for name in list(os.environ):
        if name.startswith("MOEE_INDEX_") and name != "MOEE_INDEX_ISA":
            monkeypatch.delenv(name)
    monkeypatch.setenv("MOEE_INDEX_CACHE", "/nonexistent/cache")
    # Tables for people are as wide as the terminal; workers are told that theirs has 80 columns.
    monkeypatch.setenv("COLUMNS", "100")


@pytest.fixture(autouse=True)
def nothing_deprecated() -> Iterator[None]:
    """A call of ours that a library deprecates fails the test that makes it, before the library's
    next release but one fails them all."""
    found: list[str] = []
    end = deprecations.watch(found.append)
    yield
    end()
    assert not found, f"deprecated: {found[0]}"


@pytest.fixture
def copy_checkpoint(tmp_path: Path) -> Callable[..., Path]:
    """A copy of a parity checkpoint, its config changed on the way."""

    def copy(kind: str = "olmoe", **changes: Any) -> Path:
        target = tmp_path / f"{kind}-copy"
        shutil.copytree(PARITY / kind, target)
        config = json.loads((target / "config.json").read_text())
        config.update(changes)
        (target / "config.json").write_text(json.dumps(config))
        return target

    return copy


@pytest.fixture(scope="session")
def four_bit_olmoe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The parity OLMoE as a 4-bit checkpoint of ours."""
    from moee_index.model.load.quantize import quantize_checkpoint

    return quantize_checkpoint(PARITY / "olmoe", tmp_path_factory.mktemp("four") / "olmoe4")


@pytest.fixture(scope="session")
def wide_olmoe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random OLMoE checkpoint whose matrices have multiples of 64 columns, as real ones do."""
    import torch
    from transformers import OlmoeConfig, OlmoeForCausalLM

    target = tmp_path_factory.mktemp("wide") / "olmoe"
    torch.manual_seed(0)
    config = OlmoeConfig(
        vocab_size=2048,
        hidden_size=128,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_experts=8,
        num_experts_per_tok=4,
        max_position_embeddings=512,
        initializer_range=0.1,
    )
    OlmoeForCausalLM(config).to(torch.bfloat16).save_pretrained(target)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copyfile(PARITY / "olmoe" / name, target / name)
    return target


@pytest.fixture(scope="session")
def small_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole checkpoint of some 100 kB, to be copied and changed."""
    return write_small_checkpoint(tmp_path_factory.mktemp("small") / "olmoe")


@pytest.fixture
def checkpoint(small_checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of the small checkpoint, to be changed."""
    return Path(shutil.copytree(small_checkpoint, tmp_path / "olmoe"))


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Path]:
    """A disk of 3 MB; skips where mounting is forbidden."""
    point = tmp_path / "mounted"
    point.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(point)]
    if os.geteuid() or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting is not permitted here")
    yield point
    subprocess.run(["umount", "-l", str(point)], capture_output=True)

"""What is measured of an architecture, and the table of it: moee_index/model/arch/tested.json.

`python tests/tested_architectures.py` measures every kind of checkpoint that the installed
transformers has, writes the table anew and with it docs/models.md: after a new release of
transformers, and after a change to the model's code. `… --trial` tries those kinds alone that the
table does not have, a JSON line each, and writes nothing.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fakes import checkpoints as architectures
from fakes.checkpoints import DEEPSEEK, VOCABULARY
from moee_index.errors import ModelError
from moee_index.model.arch.build import has_sigmoid_scores
from moee_index.model.arch.four_bit import assert_four_bits, left_in_16_bits
from moee_index.model.arch.tested import architecture_table, installed_packages
from moee_index.model.checkpoint.find import Checkpoint, find_checkpoint
from moee_index.model.nf4.stack import stacks
from moee_index.model.precision import Choice
from moee_index.model.run import model as running
from moee_index.model.run.model import RunningModel, TokenizedText
from moee_index.types import Embeddings

ROOT = Path(__file__).parent.parent
TABLE = ROOT / "moee_index" / "model" / "arch" / "tested.json"

# What is no model for this program, and what it is told.
REFUSED = {
    "diffusion_gemma": "not a causal decoder",
    "doge": "not one row a token",
    "nllb-moe": "an encoder with a decoder",
    "openai_privacy_filter": "not a causal decoder",
    "switch_transformers": "an encoder with a decoder",
}

# Of quite different lengths; longer than any sliding window or block of the tiny configs.
LENGTHS = (23, 1, 9, 40, 2)
_CHOICE = np.random.default_rng(0)
IDS = [tuple(int(i) for i in _CHOICE.integers(3, VOCABULARY, size=n)) for n in LENGTHS]
TEXTS = [TokenizedText(ids, (0, len(ids))) for ids in IDS]
BEGINNING = (5, 6, 7, 8, 9)
BEGUN = [TokenizedText(BEGINNING + ids, (5, 5 + len(ids))) for ids in IDS]

EXACT = "4 bits against rounded weights"

# Largest difference that is rounding, relative to the largest element.
ROUNDING = 1e-5
LIMITS = {EXACT: 1e-4}


@dataclass
class Made:
    """A checkpoint, the model it was saved from, and what that gives for `IDS`."""

    checkpoint: Checkpoint
    model: Any
    wanted: Embeddings


def make(kind: str, directory: Path) -> Made:
    """A tiny random checkpoint of a kind; skips the test where the installed transformers has no
    such kind (any more, or yet)."""
    one = architectures.architecture(kind)
    if one is None:
        pytest.skip(f"transformers {version('transformers')} has no {kind}")
    model = architectures.write_checkpoint(one, directory)
    found = Embeddings(*architectures.reference(model, IDS))
    return Made(find_checkpoint(directory), model, found)


def load(checkpoint: Checkpoint, bits: int, pooling: str = "last", **options: Any) -> RunningModel:
    return RunningModel(
        checkpoint, bits=bits, double_quant=False, rw="logits", pooling=pooling, **options
    )


def one_by_one(model: RunningModel, texts: list[TokenizedText] = TEXTS) -> Embeddings:
    found = [model.embed([text]) for text in texts]
    return Embeddings(
        np.concatenate([one.hs for one in found]), np.concatenate([one.rw for one in found])
    )


def apart(found: Embeddings, wanted: Embeddings) -> tuple[float, float]:
    """Largest differences of HS and of RW, relative to the largest element of each."""
    assert found.hs.shape == wanted.hs.shape and found.rw.shape == wanted.rw.shape
    return (
        float(np.abs(found.hs - wanted.hs).max() / np.abs(wanted.hs).max()),
        float(np.abs(found.rw - wanted.rw).max() / np.abs(wanted.rw).max()),
    )


def cosines(found: Embeddings, wanted: Embeddings) -> tuple[float, float]:
    """Median cosines of HS and of RW."""

    def median(a: np.ndarray, b: np.ndarray) -> float:
        lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        return float(np.median((a * b).sum(1) / lengths))

    return median(found.hs, wanted.hs), median(found.rw, wanted.rw)


@contextmanager
def measured() -> Iterator[None]:
    """4 bits computed in float32, so that near-ties of routers cannot fall the other way; a shared
    beginning however little it spares."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "choose_compute", lambda *_: Choice(torch.float32, "a test"))
        patch.setattr(running, "_WORTH_SHARING", 1)
        yield


def in_32_bits(own: Made) -> dict[str, float]:
    """How far a model in 32 bits is from transformers' own forward, and from itself in batches."""
    model = load(own.checkpoint, 32)
    alone = one_by_one(model)
    found = {
        "32 bits against transformers": max(apart(alone, own.wanted)),
        "a batch": max(apart(model.embed(TEXTS), alone)),
    }
    begun = model.embed(BEGUN)  # a shared beginning, where layers allow it
    model.shares_beginnings = False
    found["a shared beginning"] = max(apart(begun, one_by_one(model, BEGUN)))
    model.pooling = "mean"
    return found | {"mean": max(apart(model.embed(TEXTS), one_by_one(model)))}


def in_4_bits(own: Made) -> dict[str, float]:
    """The same in 4 bits, against transformers' own forward with rounded weights. `own.model` has
    them from then on."""
    model = load(own.checkpoint, 4)
    assert_four_bits(left_in_16_bits(model.plan))
    alone = one_by_one(model)
    batch = max(apart(model.embed(TEXTS), alone))
    return {EXACT: max(apart(alone, with_rounded_weights(own, model))), "a batch": batch}


def with_rounded_weights(own: Made, model: RunningModel) -> Embeddings:
    architectures.round_weights(own.model, [name for name, _ in stacks(model.model)])
    return Embeddings(*architectures.reference(own.model, IDS))


def beyond_rounding(own: Made, found: dict[str, float]) -> str | None:
    """The first of some differences that is more than rounding, in words; None if there is none.

    Most models keep rounding as small as it is. One with recurrent layers and random weights may
    amplify it, more on one processor than on another: then what counts is how far transformers'
    own forward moves where the embeddings change in their last bit.
    """
    for what, difference in found.items():
        limit = LIMITS.get(what, ROUNDING)
        if not difference < limit and not difference < limit + 10 * _amplified(own):
            return f"{what}: {difference:.1e} apart"
    return None


def _amplified(own: Made) -> float:
    """How far HS and RW move where every embedding changes by its last bit, up or down."""
    before = Embeddings(*architectures.reference(own.model, IDS))
    table = architectures.text_part(own.model).get_input_embeddings().weight
    kept = table.data.clone()
    up = torch.rand(table.shape, generator=torch.Generator().manual_seed(0)) < 0.5
    table.data.copy_(torch.where(up, kept * (1 + 2**-23), kept * (1 - 2**-23)))
    after = Embeddings(*architectures.reference(own.model, IDS))
    table.data.copy_(kept)
    return max(apart(after, before))


def measure(package: str, directory: Path) -> dict[str, Any]:
    """A row of the table: of a package's kinds of checkpoints the worst one's differences."""
    kinds = architectures.kinds(package)
    row: dict[str, Any] = {"kinds": kinds, "refused": REFUSED.get(kinds[0])}
    row["multi_modal"] = [kind for kind in kinds if _is_multi_modal(kind)]
    if row["refused"] is not None:
        return row
    exact, rounded, near = [], [], []
    for kind in kinds:
        own = make(kind, directory / kind)
        exact.append(apart(one_by_one(load(own.checkpoint, 32)), own.wanted))
        model = load(own.checkpoint, 4)
        four = one_by_one(model)
        near.append(cosines(four, own.wanted))
        row = row if "sigmoid" in row else row | _features(model, own.checkpoint)
        rounded.append(apart(four, with_rounded_weights(own, model)))
    row["float32"] = [_digits(max(pair[part] for pair in exact)) for part in (0, 1)]
    row["rounded"] = [_digits(max(pair[part] for pair in rounded)) for part in (0, 1)]
    row["cosine"] = [round(min(pair[part] for pair in near), 2) for part in (0, 1)]
    return row


def _is_multi_modal(kind: str) -> bool:
    one = architectures.architecture(kind)
    return one is not None and one.multi_modal


def _digits(value: float) -> float:
    return float(f"{value:.0e}")


def _features(model: RunningModel, checkpoint: Checkpoint) -> dict[str, Any]:
    """Whether a model's routers score by sigmoid, whether a prompt's beginning is computed once,
    what of its matrices stays in 16 bits."""
    model.embed(BEGUN)
    left = {re.sub(r"^layers\.\d+\.", "", one.name) for one in left_in_16_bits(model.plan)}
    return {
        "sigmoid": has_sigmoid_scores(checkpoint),
        "shared": model._shared is not None,
        "in_16_bits": sorted(left),
    }


def write_table() -> None:
    """Measure everything that is installed, and write the table."""
    rows = {}
    with tempfile.TemporaryDirectory() as directory, measured():
        for package in sorted([*installed_packages(), DEEPSEEK]):
            if not architectures.kinds(package):
                print(f"{package}: no kind of checkpoint is registered; left out", file=sys.stderr)
                continue
            rows[package] = measure(package, Path(directory))
            print(f"{package}: {rows[package]}", file=sys.stderr)
    table = {"transformers": version("transformers"), "architectures": rows}
    TABLE.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


def trial() -> Iterator[dict[str, str]]:
    """Try what the table does not have: {"name", "outcome"} each; outcome "" before it is tried."""
    with tempfile.TemporaryDirectory() as directory, measured():
        for name in _not_in_the_table():
            yield {"name": name, "outcome": ""}
            yield {"name": name, "outcome": _tried(name, Path(directory) / name)}


def _not_in_the_table() -> Iterator[str]:
    """Kinds of checkpoints, and packages with none that can be looked up."""
    rows = architecture_table()["architectures"]
    known = {kind for row in rows.values() for kind in row["kinds"]}
    for package in installed_packages():
        try:
            kinds = architectures.kinds(package)
        except Exception:  # of a package that cannot be imported
            kinds = []
        new = [] if package in rows else [package]
        yield from [kind for kind in kinds if kind not in known] or new


def _tried(kind: str, directory: Path) -> str:
    try:
        if architectures.architecture(kind) is None:
            return "not tried: no kind of checkpoint is registered under this name"
        own = make(kind, directory)
    except Exception as error:
        return f"not tried: no tiny checkpoint of it can be made ({_first_line(error)})"
    try:
        wrong = beyond_rounding(own, in_32_bits(own)) or beyond_rounding(own, in_4_bits(own))
    except ModelError as error:
        return f"refused: {_first_line(error)}"
    except Exception as error:
        return f"fails: {_first_line(error)}"
    return f"differs: {wrong}" if wrong else "works in 32 and 4 bits"


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}"[:300] if lines else type(error).__name__


if __name__ == "__main__":
    if sys.argv[1:] == ["--trial"]:
        for line in trial():
            print(json.dumps(line), flush=True)
    else:
        write_table()
        subprocess.run([sys.executable, str(ROOT / "docs" / "make.py")], check=True)

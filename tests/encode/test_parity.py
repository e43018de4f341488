"""Parity with the authors' own code on three small checkpoints (tests/data/parity)."""

from __future__ import annotations

import json
from contextlib import ExitStack

import numpy as np
import pytest
from paths import PARITY
from safetensors import safe_open

from moee_index.encode.encoder import Encoder
from moee_index.fusion import standardise_batch

TEXTS = json.loads((PARITY / "texts.json").read_text(encoding="utf-8"))


def relative(found: np.ndarray, reference: np.ndarray) -> float:
    return float(np.abs(found - reference).max() / np.abs(reference).max())


@pytest.mark.parametrize("kind", ["olmoe", "qwen2_moe", "deepseek"])
@pytest.mark.parametrize("prompt", ["none", "prompteol"])
def test_raw_and_standardised_vectors_are_the_authors(kind: str, prompt: str) -> None:
    reference = np.load(PARITY / kind / "reference.npz", allow_pickle=False)
    encoder = Encoder.load(PARITY / kind, bits=32, prompt=prompt)
    found = encoder.encode(TEXTS)
    assert found.hs.dtype == found.rw.dtype == np.float32
    assert relative(found.hs, reference[f"{prompt}_hs_raw"]) < 1e-4
    assert relative(found.rw, reference[f"{prompt}_rw_raw"]) < 1e-4
    hs, rw = standardise_batch(found.hs), standardise_batch(found.rw)
    assert relative(hs, reference[f"{prompt}_hs_standardised"]) < 1e-4
    assert relative(rw, reference[f"{prompt}_rw_standardised"]) < 1e-4
    assert relative(rw, reference[f"{prompt}_RW_embeddings"]) < 1e-4
    joined = standardise_batch(np.concatenate([found.rw, found.hs], axis=1))
    moee = reference[f"{prompt}_MoEE_embeddings"]
    order = [joined, standardise_batch(np.concatenate([found.hs, found.rw], axis=1))]
    assert min(relative(one, moee) for one in order) < 1e-4


def test_rw_kind_follows_the_authors_code() -> None:
    assert Encoder.load(PARITY / "deepseek", bits=32).spec.rw == "softmax"
    assert Encoder.load(PARITY / "olmoe", bits=32).spec.rw == "logits"
    softmax = Encoder.load(PARITY / "olmoe", bits=32, rw="softmax").encode(["a text"]).rw
    # each layer's probabilities add up to one
    assert np.allclose(softmax.reshape(3, 8).sum(1), 1.0, atol=1e-6)


def test_deepseek_v1_runs_without_remote_code_and_with_every_tensor() -> None:
    from moee_index.model.arch.build import build_empty
    from moee_index.model.checkpoint.find import find_checkpoint
    from moee_index.model.load.plan import plan_sources

    checkpoint = find_checkpoint(PARITY / "deepseek")
    model_plan = build_empty(checkpoint)
    shapes = {name: tuple(value.shape) for name, value in model_plan.model.state_dict().items()}
    with ExitStack() as files:
        readers = {
            file: files.enter_context(safe_open(file, framework="pt"))
            for file in checkpoint.weights
        }
        sources = plan_sources(checkpoint, model_plan, shapes, readers)
    assert set(sources) == set(shapes)
    experts = [one for name, made in sources.items() if ".experts." in name for one in made]
    assert len(experts) == 3 * 3 * 8  # three MoE layers, gate, up and down, eight experts

"""Every Mixture-of-Experts architecture of the table, on tiny random checkpoints.

What the installed transformers has beyond the table is tried too, and named in the summary; that
nobody has seen it yet is no failure. `python tests/tested_architectures.py` writes the table anew.
"""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tested_architectures
import torch
import transformers
from tested_architectures import (
    REFUSED,
    TEXTS,
    Made,
    apart,
    beyond_rounding,
    cosines,
    in_4_bits,
    in_32_bits,
    load,
    make,
    measured,
    one_by_one,
)

from fakes import checkpoints as architectures
from moee_index.environment import architectures as describe_architectures
from moee_index.errors import ModelError
from moee_index.model.arch import tested as known
from moee_index.model.arch.tested import architecture_table, installed_packages
from moee_index.model.checkpoint.find import find_checkpoint
from moee_index.model.load.quantize import quantize_checkpoint
from moee_index.model.run.model import RunningModel

KINDS = [kind for row in architecture_table()["architectures"].values() for kind in row["kinds"]]
RUN = [kind for kind in KINDS if kind not in REFUSED]

# Seconds that trying what is not in the table may take.
TRIAL_SECONDS = 240


class NotInTheTable(UserWarning):
    """The installed transformers has architectures that this version was not tested with."""


@pytest.fixture(scope="module", params=RUN)
def own(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Every architecture's checkpoint in turn, made once."""
    return make(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture
def dtype_as_chosen() -> None:
    """For a test of the dtype that the processor gets; all others compute in float32."""


@pytest.fixture(autouse=True)
def in_float32(request: pytest.FixtureRequest) -> Iterator[None]:
    if "dtype_as_chosen" in request.fixturenames:
        yield
        return
    with measured():
        yield


def test_32_bits_are_transformers_own_forward(own: Made) -> None:
    assert beyond_rounding(own, in_32_bits(own)) is None


def test_4_bits_are_transformers_own_forward_with_rounded_weights(own: Made) -> None:
    assert beyond_rounding(own, in_4_bits(own)) is None


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_model_for_this_is_refused_by_name(kind: str, tmp_path: Path) -> None:
    checkpoint = make_without_reference(kind, tmp_path)
    for bits in (4, 16):
        with pytest.raises(ModelError, match=REFUSED[kind]):
            load(checkpoint, bits)


def make_without_reference(kind: str, directory: Path) -> Any:
    """A tiny checkpoint of what may have no forward to compare with."""
    one = architectures.architecture(kind)
    if one is None:
        pytest.skip(f"the installed transformers has no {kind}")
    architectures.write_checkpoint(one, directory)
    return find_checkpoint(directory)


def test_what_the_table_does_not_have_is_tried_and_named() -> None:
    lines, ended = trial()
    tried = {line["name"]: line["outcome"] for line in lines}
    if ended is not None and lines:
        tried[lines[-1]["name"]] += ended
    for name, outcome in tried.items():
        warnings.warn(f"{name}: {outcome}", NotInTheTable, stacklevel=1)
    known = architecture_table()["architectures"]
    new = [name for name in installed_packages() if name not in known]
    assert ended is not None or len(tried) >= len(new)


def trial() -> tuple[list[dict[str, str]], str | None]:
    """What a process of its own says of them, and how it ended before it was done, if it did: what
    nobody has seen may well run for ever, or take its process down."""
    command = [sys.executable, tested_architectures.__file__, "--trial"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TRIAL_SECONDS)
        said, ended = done.stdout, f"ends the process ({done.returncode})"
        ended = None if done.returncode == 0 else ended
    except subprocess.TimeoutExpired as error:
        said = (error.stdout or b"").decode()
        ended = f"not tried to the end in {TRIAL_SECONDS} s"
    return [json.loads(line) for line in said.splitlines() if line.endswith("}")], ended


def swap_gate_and_up(module: Any) -> None:
    gate = type(module)._apply_gate
    module._apply_gate = lambda x: gate(module, torch.cat(x.chunk(2, dim=-1)[::-1], dim=-1))


def forget_bias(module: Any) -> None:
    module.has_bias = False


def forget_norm(module: Any) -> None:
    module.has_post_expert_norm = False


def swap_experts(module: Any) -> None:
    module.down_proj.packed = module.down_proj.packed.flip(0)
    module.down_proj.absmax = module.down_proj.absmax.flip(0)


@pytest.mark.parametrize(
    ("kind", "mutation"),
    [
        ("mixtral", swap_gate_and_up),
        ("mixtral", swap_experts),
        ("gpt_oss", forget_bias),
        ("muse_spark", forget_norm),
    ],
)
def test_a_wrong_layout_could_not_pass(kind: str, mutation: Any, tmp_path: Path) -> None:
    own = make(kind, tmp_path)
    model = load(own.checkpoint, 4)
    right = one_by_one(model)
    for module in model.model.modules():
        if hasattr(module, "is_transposed"):
            mutation(module)
    assert max(apart(one_by_one(model), right)) > 100 * 1e-4


@pytest.mark.parametrize("kind", ["mixtral", "gpt_oss", "nemotron_h", "muse_spark", "zaya"])
def test_grouped_products_know_every_layout(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from moee_index.model.arch import experts

    own = make(kind, tmp_path)
    model = load(own.checkpoint, 4)
    wanted = model.embed(TEXTS)
    monkeypatch.setattr(experts, "grouped", lambda _device: True)
    assert max(apart(model.embed(TEXTS), wanted)) < 1e-5


@pytest.mark.parametrize("kind", ["deepseek_v3", "gpt_oss", "jetmoe", "dbrx", "qwen3_vl_moe"])
def test_a_four_bit_checkpoint_gives_the_same(kind: str, tmp_path: Path) -> None:
    own = make(kind, tmp_path / "source")
    quantized = quantize_checkpoint(tmp_path / "source", tmp_path / "four", double_quant=False)
    direct = one_by_one(load(own.checkpoint, 4))
    assert max(apart(one_by_one(load(find_checkpoint(quantized), 4)), direct)) < 1e-5
    dense = one_by_one(load(find_checkpoint(quantized), 32))
    assert min(cosines(dense, direct)) > 0.999


def test_a_stack_stands_in_for_its_tensor() -> None:
    from moee_index.model.nf4.stack import NF4Stack

    stack = NF4Stack(3, 64, 128, double_quant=True)
    stack.allocate()
    stack.dtype = torch.float32
    generator = torch.Generator().manual_seed(0)
    for index in range(3):
        stack.put(index, 0, torch.randn(64, 128, generator=generator))
    whole = torch.stack([stack.matrix(index, torch.float32) for index in range(3)])
    x = torch.randn(3, 5, 64, generator=generator)
    x[1, 2:] = 0
    linear = torch.nn.functional.linear
    assert stack.shape == whole.shape and stack.dim() == stack.ndim == 3
    torch.testing.assert_close(torch.bmm(x, stack), torch.bmm(x, whole))
    assert torch.equal(linear(x[0], stack[2].T), linear(x[0], whole[2].T))
    assert torch.equal(stack[torch.tensor(1)], whole[1]) and torch.equal(stack[1:], whole[1:])
    assert torch.equal(stack.transpose(1, 2), whole.transpose(1, 2))
    assert torch.equal(stack.float(), whole) and torch.equal(stack.to(torch.float32), whole)
    assert torch.equal(x @ stack, x @ whole)
    flat = NF4Stack(1, 192, 128, double_quant=False)
    flat.allocate()
    flat.flat, flat.dtype = True, torch.float32
    flat.put(0, 0, whole.reshape(192, 128))
    dense = flat.matrix(0, torch.float32)
    assert flat.shape == (192, 128) and torch.equal(
        flat @ x[0, 0].repeat(2), dense @ x[0, 0].repeat(2)
    )
    assert torch.equal(flat.view(-1, 64, 128)[2], dense[128:])
    assert torch.equal(flat.view((3, 64, 128))[torch.tensor(1)], dense[64:128])
    with pytest.raises(AttributeError):
        _ = flat.no_such_thing


def without(package: str) -> dict[str, Any]:
    """The table as it was before a package was in it."""
    rows = {**architecture_table()["architectures"]}
    del rows[package]
    return {"transformers": "5.0.0", "architectures": rows}


def test_what_is_newer_than_the_table_runs_and_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    older = without("jetmoe")
    for module in (known, tested_architectures):
        monkeypatch.setattr(module, "architecture_table", lambda: older)
    outcomes = [one["outcome"] for one in tested_architectures.trial() if one["name"] == "jetmoe"]
    assert outcomes == ["", "works in 32 and 4 bits"]
    assert "jetmoe" in describe_architectures()["untested"]
    told: list[str] = []
    load(make("jetmoe", tmp_path).checkpoint, 4, tell=told.append)
    assert [line for line in told if "'jetmoe' are newer" in line]


def test_what_is_newer_than_the_table_and_fails_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise ImportError("no module named 'of_the_future'")

    monkeypatch.setattr(tested_architectures, "architecture_table", lambda: without("jetmoe"))
    monkeypatch.setattr(architectures, "write_checkpoint", broken)
    told = {one["name"]: one["outcome"] for one in tested_architectures.trial()}
    assert "of_the_future" in told["jetmoe"]


def test_what_cannot_be_had_in_four_bits_says_so_and_runs_in_16(tmp_path: Path) -> None:
    config = architectures.tiny_config(
        architectures.architecture("olmoe").config_class, hidden_size=40, intermediate_size=33
    )
    architectures.architecture("olmoe").model_class(config).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"gate_up_proj is 66 x 40, .* take --bits 16"):
        load(find_checkpoint(tmp_path), 4)
    assert load(find_checkpoint(tmp_path), 16).rw_dim == 4 * 8


def test_what_stays_in_16_bits_is_told(tmp_path: Path) -> None:
    told: list[str] = []
    load(make("jamba", tmp_path).checkpoint, 4, tell=told.append)
    assert any("layers.*.mamba.A_log" in line for line in told)


def test_routers_of_attention_are_no_rw(tmp_path: Path) -> None:
    model = load(make("jetmoe", tmp_path).checkpoint, 4)
    assert model.rw_dim == 4 * 8  # as many routers again choose attention heads


def test_rw_is_of_scores_not_of_probabilities(tmp_path: Path) -> None:
    checkpoint = make("gemma4_text", tmp_path).checkpoint
    given = {"bits": 32, "double_quant": False, "pooling": "last"}
    logits = RunningModel(checkpoint, rw="logits", **given).embed(TEXTS).rw
    assert (logits < 0).any()
    softmax = RunningModel(checkpoint, rw="softmax", **given).embed(TEXTS).rw
    wanted = torch.from_numpy(logits).view(len(TEXTS), -1, 8).softmax(-1)
    np.testing.assert_allclose(softmax, wanted.flatten(1), atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "sigmoid"),
    [("glm4_moe", True), ("minimax_m2", True), ("inkling2", True), ("qwen2_moe", False)],
)
def test_sigmoid_where_the_router_scores_so(kind: str, sigmoid: bool, tmp_path: Path) -> None:
    from moee_index.errors import MisuseError
    from moee_index.model.arch.build import rw_kind

    checkpoint = make_without_reference(kind, tmp_path)
    if sigmoid:
        assert rw_kind("sigmoid", checkpoint) == "sigmoid"
        return
    with pytest.raises(MisuseError, match="does not score by sigmoid"):
        rw_kind("sigmoid", checkpoint)


def test_the_scan_finds_what_is_known() -> None:
    known = """olmoe qwen2_moe deepseek qwen3_moe qwen3_5_moe mixtral deepseek_v2 deepseek_v3
    gpt_oss granitemoe granitemoehybrid granitemoeshared phimoe glm4_moe ernie4_5_moe lfm2_moe
    hunyuan_v1_moe dots1 jetmoe minimax flex_olmo exaone_moe afmoe llama4 qwen3_next nemotron_h"""
    assert set(known.split()) <= architecture_table()["architectures"].keys()
    models = Path(transformers.__path__[0]) / "models"
    there = {name for name in known.split() if (models / name).is_dir()}
    assert len(there) > 20 and there <= set(installed_packages())

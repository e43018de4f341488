"""From a checkpoint to a running 4-bit model: what is in 4 bits, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from paths import PARITY
from safetensors.torch import load_file, save_file

from moee_index.backends import import_bitsandbytes
from moee_index.encode.encoder import Encoder
from moee_index.errors import MisuseError, ModelError, StorageError
from moee_index.model.arch.build import build_empty
from moee_index.model.arch.four_bit import assert_four_bits, left_in_16_bits
from moee_index.model.checkpoint.find import find_checkpoint
from moee_index.model.load.quantize import quantize_checkpoint
from moee_index.model.nf4.dequantize import dequantize
from moee_index.model.nf4.quantize import BLOCK
from moee_index.model.nf4.stack import NF4Stack, Workspace, quantize, stacks

KINDS = ["olmoe", "qwen2_moe", "deepseek"]


def codes_to_values(packed: torch.Tensor, absmax: torch.Tensor, count: int) -> torch.Tensor:
    """NF4 written out: the table of sixteen values, high nibble first, times the block's absmax."""
    table = import_bitsandbytes().functional.get_4bit_type("nf4", device="cpu")
    codes = torch.stack((packed >> 4, packed & 15), dim=1).reshape(-1)[:count].long()
    return table[codes] * absmax.repeat_interleave(BLOCK)[:count]


@pytest.mark.parametrize("shape", [(64, 48), (160, 64), (64, 160), (256, 128), (2, 32)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dequantizing_is_right_for_any_number_of_columns(
    shape: tuple[int, int], dtype: torch.dtype
) -> None:
    # bitsandbytes' own call is wrong by more than 1 where columns are no multiple of 64
    weights = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    packed, absmax = quantize(weights)
    found = dequantize(packed, absmax, weights.numel(), torch.empty(weights.numel(), dtype=dtype))
    wanted = codes_to_values(packed, absmax, weights.numel())
    torch.testing.assert_close(found.float(), wanted.to(dtype).float(), rtol=2**-8, atol=0)
    assert (found.float() - weights.reshape(-1)).abs().max() < 0.16 * weights.abs().max()


@pytest.mark.parametrize("double_quant", [False, True])
@pytest.mark.parametrize(("rows", "cols"), [(96, 64), (256, 128)])
def test_a_stack_holds_each_matrix_as_if_alone(double_quant: bool, rows: int, cols: int) -> None:
    generator = torch.Generator().manual_seed(2)
    matrices = torch.randn(5, rows, cols, generator=generator) * torch.arange(1, 6)[:, None, None]
    stack = NF4Stack(5, rows, cols, double_quant=double_quant)
    stack.allocate()
    for index in (3, 0, 4, 1, 2):
        # in two parts, as gate and up projections come
        stack.put(index, rows // 2, matrices[index, rows // 2 :])
        stack.put(index, 0, matrices[index, : rows // 2])
    for wanted in ([0, 1, 2, 3, 4], [1, 2], [0, 3, 4], [2]):
        found = stack.dequantize(wanted, torch.float32, Workspace())
        for place, index in enumerate(wanted):
            packed, absmax = quantize(matrices[index])
            alone = codes_to_values(packed, absmax, rows * cols).view(rows, cols)
            tolerance = 0.02 * float(matrices[index].abs().max()) if double_quant else 0.0
            assert (found[place] - alone).abs().max() <= tolerance


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("double_quant", [False, True])
def test_four_bits_are_four_bits(kind: str, double_quant: bool) -> None:
    encoder = Encoder.load(PARITY / kind, bits=4, double_quant=double_quant)
    model = encoder.running.model
    assert_four_bits(left_in_16_bits(encoder.running.plan))
    in_four_bits = {name for name, _ in stacks(model)}
    weights = sum(stack.n * stack.size for _, stack in stacks(model))
    held = encoder.running.bytes()
    # tiny matrices have few blocks, so nested statistics cost a little more than at full size
    assert held["4-bit"] / weights < (0.54 if double_quant else 0.5626)
    for layer in range(model.config.num_hidden_layers):
        for projection in ("q_proj", "k_proj", "v_proj", "o_proj"):
            assert f"layers.{layer}.self_attn.{projection}.weight" in in_four_bits
    assert any(name.endswith("mlp.experts.gate_up_proj") for name in in_four_bits)
    assert any(name.endswith("mlp.experts.down_proj") for name in in_four_bits)
    shared = {"qwen2_moe": "shared_expert.up_proj", "deepseek": "shared_experts.up_proj"}
    if kind in shared:
        assert any(shared[kind] in name for name in in_four_bits)
    if kind == "deepseek":
        assert "layers.0.mlp.down_proj.weight" in in_four_bits
    for router in encoder.running.plan.routers:
        assert router.module.weight.is_floating_point()
    assert model.get_input_embeddings().weight.dtype == torch.bfloat16
    if kind == "qwen2_moe":
        assert model.layers[0].mlp.shared_expert_gate.weight.is_floating_point()


def test_what_is_left_in_16_bits_is_found_in_whatever_form() -> None:
    plan = Encoder.load(PARITY / "olmoe", bits=4).running.plan
    experts = plan.model.layers[1].mlp.experts
    stack = experts.down_proj
    del experts._modules["down_proj"]
    experts.down_proj = torch.nn.Parameter(torch.zeros(8, 64, 48, dtype=torch.bfloat16))
    with pytest.raises(ModelError, match=r"layers\.1\.mlp\.experts\.down_proj .* was left in"):
        assert_four_bits(left_in_16_bits(plan))
    del experts.down_proj
    experts.down_proj = stack
    assert_four_bits(left_in_16_bits(plan))
    experts.register_buffer("fused", torch.zeros(8, 64, 48))
    with pytest.raises(ModelError, match="fused"):
        assert_four_bits(left_in_16_bits(plan))


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    dot = (a * b).sum(1)
    return dot / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


@pytest.mark.parametrize("kind", KINDS)
def test_four_bits_stay_close_to_the_weights_they_were_made_from(kind: str) -> None:
    texts = [f"text number {number} about something" for number in range(12)]
    exact = Encoder.load(PARITY / kind, bits=32).encode(texts)
    sixteen = Encoder.load(PARITY / kind, bits=16).encode(texts)
    four = Encoder.load(PARITY / kind, bits=4).encode(texts)
    # the median: in bf16 a near-tie between two of eight random experts may fall the other way
    assert np.median(cosines(sixteen.hs, exact.hs)) > 0.999
    assert np.median(cosines(sixteen.rw, exact.rw)) > 0.999
    # random weights of 64 columns: NF4's error is 9 % a matrix
    assert np.median(cosines(four.hs, exact.hs)) > 0.9
    assert np.median(cosines(four.rw, exact.rw)) > 0.9


def test_a_four_bit_checkpoint_gives_the_very_same_vectors(four_bit_olmoe: Path) -> None:
    texts = ["one text", "another, longer text", ""]
    direct = Encoder.load(PARITY / "olmoe", bits=4)
    reopened = Encoder.load(four_bit_olmoe)
    assert reopened.spec.identity() == direct.spec.identity()
    wanted, found = direct.encode(texts), reopened.encode(texts)
    np.testing.assert_array_equal(found.hs, wanted.hs)
    np.testing.assert_array_equal(found.rw, wanted.rw)
    dequantized = Encoder.load(four_bit_olmoe, bits=32)
    assert dequantized.running.bytes()["4-bit"] == 0
    assert cosines(dequantized.encode(texts).hs, direct.encode(texts).hs).min() > 0.999


def test_a_damaged_four_bit_checkpoint_is_refused(four_bit_olmoe: Path, tmp_path: Path) -> None:
    import shutil

    broken = tmp_path / "broken"
    shutil.copytree(four_bit_olmoe, broken)
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ModelError, match="bytes"):
        Encoder.load(broken)
    with pytest.raises(ModelError, match="double"):
        Encoder.load(four_bit_olmoe, double_quant=False)
    with pytest.raises(ModelError, match="already"):
        quantize_checkpoint(four_bit_olmoe, tmp_path / "again")
    with pytest.raises(StorageError, match="exists"):
        quantize_checkpoint(PARITY / "olmoe", four_bit_olmoe)


def test_large_models_are_kept_in_the_cache_and_damage_is_found(
    monkeypatch: pytest.MonkeyPatch, wide_olmoe: Path, tmp_path: Path
) -> None:
    from moee_index.model.load import load as loading
    from moee_index.model.load.cache import Cache

    monkeypatch.setattr(loading, "LARGE", 0)
    monkeypatch.setenv("MOEE_INDEX_CACHE", str(tmp_path / "cache"))
    texts = ["one text", "another, longer text"]
    told: list[str] = []

    def load(**options: object) -> np.ndarray:
        told.clear()
        encoder = Encoder.load(wide_olmoe, notify=told.append, **options)  # type: ignore[arg-type]
        return encoder.encode(texts).hs

    def kept() -> int:
        return sum("kept in" in line for line in told)

    plain = load(cache=False)
    assert kept() == 0 and not (tmp_path / "cache").exists()
    first = load()
    assert kept() == 1
    assert np.array_equal(load(), first) and kept() == 0
    assert np.array_equal(first, plain)
    queries = load(few_texts=True)
    assert kept() == 0
    cache = Cache(told.append)
    assert len(cache.entries()) == 1
    outdated = cache.directory / f"{cache.entries()[0][0]}-packed"
    outdated.mkdir()
    assert np.array_equal(load(), first)
    assert sum("earlier version" in line for line in told) == 1
    assert not outdated.exists()
    for name, _ in cache.entries():
        weights = cache.directory / name / "model.safetensors"
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        weights.write_bytes(content)
    assert np.array_equal(load(few_texts=True), queries)
    assert sum("damaged" in line for line in told) == 1
    assert kept() == 1
    assert cache.prune() > 0
    assert cache.entries() == []


def test_a_flipped_byte_of_a_four_bit_checkpoint_is_found(
    four_bit_olmoe: Path, tmp_path: Path
) -> None:
    import shutil

    broken = tmp_path / "broken"
    shutil.copytree(four_bit_olmoe, broken)
    weights = broken / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-5] ^= 16
    weights.write_bytes(content)
    with pytest.raises(ModelError, match="checksum"):
        Encoder.load(broken)


def change_weights(checkpoint: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = load_file(checkpoint / "model.safetensors")
    change(tensors)
    save_file(tensors, checkpoint / "model.safetensors", metadata={"format": "pt"})


EXPERT = "model.layers.1.mlp.experts.3.up_proj.weight"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda tensors: tensors.pop(EXPERT), r"experts\.3\.up_proj\.weight is missing"),
        (lambda tensors: tensors.pop("model.norm.weight"), "'norm.weight'"),
        (lambda tensors: tensors.update({"model.extra.weight": torch.zeros(2)}), "unexpected"),
        (lambda tensors: tensors.update({EXPERT: torch.zeros(48, 63)}), r"shape \[48, 63\]"),
        (lambda tensors: tensors[EXPERT].fill_(torch.nan), "not finite"),
    ],
)
def test_wrong_tensors_are_errors_by_name(
    copy_checkpoint: Callable[..., Path],
    change: Callable[[dict[str, torch.Tensor]], None],
    said: str,
) -> None:
    checkpoint = copy_checkpoint("olmoe")
    change_weights(checkpoint, change)
    with pytest.raises(ModelError, match=said):
        Encoder.load(checkpoint)


def test_sharded_and_already_fused_checkpoints_give_the_same(
    copy_checkpoint: Callable[..., Path],
) -> None:
    checkpoint = copy_checkpoint("olmoe")
    wanted = Encoder.load(PARITY / "olmoe").encode(["a text to embed"])
    tensors = load_file(checkpoint / "model.safetensors")
    for layer in range(3):
        prefix = f"model.layers.{layer}.mlp.experts."
        parts = {
            name: torch.stack([tensors.pop(f"{prefix}{e}.{name}.weight") for e in range(8)])
            for name in ("gate_proj", "up_proj", "down_proj")
        }
        tensors[prefix + "gate_up_proj"] = torch.cat((parts["gate_proj"], parts["up_proj"]), dim=1)
        tensors[prefix + "down_proj"] = parts["down_proj"]
    (checkpoint / "model.safetensors").unlink()
    names = sorted(tensors)
    halves = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, some in halves.items():
        save_file({name: tensors[name] for name in some}, checkpoint / file)
    weight_map = {name: file for file, some in halves.items() for name in some}
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    found = Encoder.load(checkpoint).encode(["a text to embed"])
    np.testing.assert_array_equal(found.hs, wanted.hs)
    np.testing.assert_array_equal(found.rw, wanted.rw)
    (checkpoint / "b.safetensors").unlink()
    with pytest.raises(ModelError, match=r"b\.safetensors is missing"):
        Encoder.load(checkpoint)


def test_a_dense_model_is_refused(copy_checkpoint: Callable[..., Path]) -> None:
    checkpoint = copy_checkpoint("olmoe", model_type="llama", architectures=["LlamaForCausalLM"])
    with pytest.raises(ModelError, match="dense model"):
        Encoder.load(checkpoint)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("no/such-model", "offline"),
        ("neither a path nor an id", "neither a directory nor a hub id"),
        (str(PARITY), "not a checkpoint"),
        (str(PARITY / "texts.json"), "is a file"),
    ],
)
def test_unknown_models_are_refused(model: str, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        Encoder.load(model)


def test_a_model_in_the_hubs_cache_opens_offline_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    from huggingface_hub import constants

    revision = "0123456789abcdef0123456789abcdef01234567"
    home = tmp_path / "models--someone--olmoe"
    shutil.copytree(PARITY / "olmoe", home / "snapshots" / revision)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(revision)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    encoder = Encoder.load("someone/olmoe", offline=True)
    assert (encoder.spec.model, encoder.spec.revision) == ("someone/olmoe", revision)
    assert encoder.spec.fingerprint == find_checkpoint(PARITY / "olmoe").fingerprint
    # an index finds its model again by the spec alone, wherever it lies now
    assert Encoder.for_spec(encoder.spec).spec == encoder.spec
    moved = replace(encoder.spec, path=str(tmp_path / "gone"))
    assert Encoder.for_spec(moved).spec.path == encoder.spec.path
    with pytest.raises(ModelError, match="--model"):
        Encoder.for_spec(replace(moved, model="olmoe", revision=None))
    with pytest.raises(MisuseError, match="--revision"):
        Encoder.for_spec(encoder.spec, revision="v2")


def test_unknown_architecture_and_pickled_weights_are_refused(
    copy_checkpoint: Callable[..., Path],
) -> None:
    checkpoint = copy_checkpoint("olmoe", model_type="no_such_kind")
    with pytest.raises(ModelError, match="no_such_kind"):
        Encoder.load(checkpoint)
    (checkpoint / "model.safetensors").rename(checkpoint / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"no \.safetensors"):
        find_checkpoint(checkpoint)


def test_options_that_make_no_sense() -> None:
    for options, said in (
        ({"bits": 8}, "--bits 8"),
        ({"pooling": "first"}, "first"),
        ({"rw": "sigmoid"}, "sigmoid"),
        ({"prompt": "no hole"}, "no hole"),
        ({"max_tokens": 0}, "max-tokens"),
        ({"batch_tokens": -1}, "batch-tokens"),
    ):
        with pytest.raises(MisuseError, match=said):
            Encoder.load(PARITY / "olmoe", **options)


def test_the_fingerprint_follows_the_content_not_the_path(
    copy_checkpoint: Callable[..., Path],
) -> None:
    original = find_checkpoint(PARITY / "olmoe").fingerprint
    checkpoint = copy_checkpoint("olmoe")
    (checkpoint / "config.json").write_bytes((PARITY / "olmoe" / "config.json").read_bytes())
    assert find_checkpoint(checkpoint).fingerprint == original
    weights = checkpoint / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert find_checkpoint(checkpoint).fingerprint != original


def test_no_weight_of_a_model_is_loaded_to_refuse_it() -> None:
    model = build_empty(find_checkpoint(PARITY / "olmoe")).model
    assert all(parameter.is_meta for parameter in model.parameters())

"""Checkpoints that others quantised: what they stand for, to the bit, one slice at a time."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from paths import PARITY
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from fakes import quantized
from moee_index.backends import import_bitsandbytes
from moee_index.cli import cli
from moee_index.encode.encoder import Encoder
from moee_index.errors import ModelError
from moee_index.model.checkpoint import bitsandbytes as from_bitsandbytes
from moee_index.model.checkpoint import fp8 as from_fp8
from moee_index.model.checkpoint import mxfp4 as from_mxfp4
from moee_index.model.checkpoint.find import find_checkpoint
from moee_index.model.checkpoint.tensors import Format, Readers, dense, fold, read_headers
from moee_index.model.load import load as loading
from moee_index.model.load.quantize import quantize_checkpoint
from moee_index.model.nf4.stack import stacks

TEXTS = ["one text", "another, somewhat longer text about something else", ""]

FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}
SMALL = {**FP8, "weight_block_size": [32, 64]}
TENSOR = {"quant_method": "fp8", "activation_scheme": "static", "weight_block_size": None}
NF4 = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
INT8 = {"quant_method": "bitsandbytes", "load_in_8bit": True}
MXFP4 = {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn"]}


def linears(name: str, weight: torch.Tensor) -> bool:
    """What transformers quantises: the weights of linear layers, here the router's too."""
    return name.endswith("proj.weight") or name.endswith("mlp.gate.weight")


def experts(name: str, weight: torch.Tensor) -> bool:
    return weight.dim() == 3


@pytest.fixture(scope="session")
def gpt_oss(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its stack of down projections is square, as the published ones are."""
    from transformers import GptOssConfig, GptOssForCausalLM

    config = GptOssConfig(
        vocab_size=2048,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        num_local_experts=4,
        num_experts_per_tok=2,
        max_position_embeddings=512,
        sliding_window=16,
    )
    folder = tmp_path_factory.mktemp("gpt_oss") / "gpt-oss"
    return quantized.save_random(GptOssForCausalLM, config, folder)


@pytest.fixture(scope="session")
def deepseek_v3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its matrices are larger than a block of 128 and no multiples of it."""
    from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

    config = DeepseekV3Config(
        vocab_size=2048,
        hidden_size=192,
        intermediate_size=320,
        moe_intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        n_routed_experts=8,
        n_group=2,
        topk_group=1,
        num_experts_per_tok=2,
        n_shared_experts=1,
        first_k_dense_replace=1,
        q_lora_rank=64,
        kv_lora_rank=128,
        qk_nope_head_dim=32,
        qk_rope_head_dim=32,
        v_head_dim=32,
        max_position_embeddings=512,
    )
    folder = tmp_path_factory.mktemp("deepseek_v3") / "deepseek-v3"
    return quantized.save_random(DeepseekV3ForCausalLM, config, folder)


def weights_of(encoder: Encoder) -> dict[str, torch.Tensor]:
    return dict(encoder.running.model.state_dict())


def assert_same_model(found: Path, plain: Path, bits: int) -> Encoder:
    """The same weights, to the bit, and the same vectors as a checkpoint that was dequantized."""
    encoder, reference = Encoder.load(found, bits=bits), Encoder.load(plain, bits=bits)
    own, wanted = weights_of(encoder), weights_of(reference)
    assert own.keys() == wanted.keys()
    for name, value in wanted.items():
        assert torch.equal(own[name], value), name
    one, other = encoder.encode(TEXTS), reference.encode(TEXTS)
    np.testing.assert_array_equal(one.hs, other.hs)
    np.testing.assert_array_equal(one.rw, other.rw)
    return encoder


def assert_as_transformers(found: Path, quantization: Any) -> None:
    """In 16 bits the weights are, to the bit, those that transformers dequantises itself."""
    from transformers import AutoModel

    theirs = AutoModel.from_pretrained(
        found, dtype=torch.bfloat16, quantization_config=quantization, local_files_only=True
    )
    wanted = theirs.state_dict()
    own = weights_of(Encoder.load(found, bits=16))
    assert own.keys() == wanted.keys()
    for name, value in wanted.items():
        assert torch.equal(own[name].to(value.dtype), value), name


FORMATS: dict[str, tuple[quantized.Encode, dict[str, Any]]] = {
    "fp8": (quantized.fp8((128, 128)), FP8),
    "fp8-small": (quantized.fp8((32, 64)), SMALL),
    "fp8-tensor": (quantized.fp8(None, "_scale"), TENSOR),
    "nf4": (quantized.bitsandbytes("nf4"), NF4),
    "nf4-blocks": (quantized.bitsandbytes("nf4", block=128, double=True), NF4),
    "nf4-storage": (quantized.bitsandbytes("nf4", storage=torch.bfloat16), NF4),
    "fp4": (quantized.bitsandbytes("fp4", double=True), {**NF4, "bnb_4bit_quant_type": "fp4"}),
    "int8": (quantized.int8, INT8),
}


@pytest.mark.parametrize("form", FORMATS)
def test_a_quantized_checkpoint_is_the_model_it_stands_for(form: str, tmp_path: Path) -> None:
    # per expert, router and shared expert included, as transformers 4 quantised them
    encode, said = FORMATS[form]
    plain = quantized.write(PARITY / "qwen2_moe", tmp_path / form, linears, encode, said)
    for bits in (32, 4):
        assert_same_model(tmp_path / form, plain, bits)


@pytest.mark.parametrize("form", ["fp8-small", "nf4", "nf4-blocks", "fp4"])
def test_fused_experts_are_read_matrix_by_matrix(
    form: str, wide_olmoe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fused = tmp_path / "fused"
    shutil.copytree(wide_olmoe, fused)
    tensors = load_file(fused / "model.safetensors")
    for layer in range(2):
        prefix = f"model.layers.{layer}.mlp.experts."
        gate, up, down = (
            torch.stack([tensors.pop(f"{prefix}{e}.{name}.weight") for e in range(8)])
            for name in ("gate_proj", "up_proj", "down_proj")
        )
        tensors[prefix + "gate_up_proj"] = torch.cat((gate, up), dim=1)
        tensors[prefix + "down_proj"] = down
    save_file(tensors, fused / "model.safetensors", metadata={"format": "pt"})
    encode, said = FORMATS[form]
    plain = quantized.write(fused, tmp_path / form, experts, encode, said)
    assert_same_model(tmp_path / form, plain, 32)
    module = from_fp8 if form.startswith("fp8") else from_bitsandbytes
    sizes = spy_on_reads(monkeypatch, module)
    assert_same_model(tmp_path / form, plain, 4)
    assert max(sizes) < 2 * 128 * 128  # bytes; a matrix is 128 x 128, a stack has eight


def spy_on_reads(monkeypatch: pytest.MonkeyPatch, module: Any) -> list[int]:
    """The weights of every matrix that is dequantised or handed on from here on."""
    sizes: list[int] = []
    for name in ("MXFP4Matrix", "FP8Matrix", "FourBitMatrix", "EightBitMatrix"):
        if not hasattr(module, name):
            continue
        matrix = getattr(module, name)
        original = matrix.__init__

        def counting(self: Any, *given: Any, original: Any = original) -> None:
            original(self, *given)
            sizes.append(self.nbytes)

        monkeypatch.setattr(matrix, "__init__", counting)
    return sizes


@pytest.mark.parametrize("bits", [32, 16, 4])
def test_gpt_oss_in_mxfp4(bits: int, gpt_oss: Path, tmp_path: Path) -> None:
    plain = quantized.write(gpt_oss, tmp_path / "mxfp4", experts, quantized.mxfp4, MXFP4)
    encoder = assert_same_model(tmp_path / "mxfp4", plain, bits)
    assert (encoder.running.bytes()["4-bit"] > 0) == (bits == 4)


def test_mxfp4_is_what_transformers_dequantizes(gpt_oss: Path, tmp_path: Path) -> None:
    from transformers import Mxfp4Config

    quantized.write(gpt_oss, tmp_path / "mxfp4", experts, quantized.mxfp4, MXFP4)
    assert_as_transformers(tmp_path / "mxfp4", Mxfp4Config(dequantize=True))


def test_one_expert_of_mxfp4_is_in_memory_at_a_time(
    gpt_oss: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quantized.write(gpt_oss, tmp_path / "mxfp4", experts, quantized.mxfp4, MXFP4)
    turned = []
    original = from_mxfp4.MXFP4Matrix.dense

    def counting(self: from_mxfp4.MXFP4Matrix) -> torch.Tensor:
        turned.append(self.blocks.shape)
        return original(self)

    monkeypatch.setattr(from_mxfp4.MXFP4Matrix, "dense", counting)
    sizes = spy_on_reads(monkeypatch, from_mxfp4)
    quantize_checkpoint(tmp_path / "mxfp4", tmp_path / "four")
    # two layers of four experts, each a gate_up_proj [128, 64] and a down_proj [64, 64]
    assert sorted(turned) == [(64, 2, 16)] * 8 + [(128, 2, 16)] * 8
    assert max(sizes) == 128 * 64 // 2 + 128 * 2


def test_a_cached_form_whose_experts_lie_otherwise_is_made_anew(
    gpt_oss: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "LARGE", 0)
    monkeypatch.setenv("MOEE_INDEX_CACHE", str(tmp_path / "cache"))
    wanted = Encoder.load(gpt_oss).encode(TEXTS).hs
    (entry,) = (tmp_path / "cache").iterdir()
    said = json.loads((entry / "moee_index.json").read_text())
    assert said["quantization"].pop("turned") is True
    (entry / "moee_index.json").write_text(json.dumps(said))
    told: list[str] = []
    found = Encoder.load(gpt_oss, notify=told.append).encode(TEXTS).hs
    assert any("from an earlier version" in line for line in told)
    np.testing.assert_array_equal(found, wanted)
    assert json.loads((entry / "moee_index.json").read_text())["quantization"]["turned"] is True


@pytest.mark.parametrize("bits", [32, 16, 4])
def test_deepseek_v3_in_fp8_with_ragged_blocks(
    bits: int, deepseek_v3: Path, tmp_path: Path
) -> None:
    encode, said = FORMATS["fp8"]
    plain = quantized.write(deepseek_v3, tmp_path / "fp8", wide_linears, encode, said)
    assert_same_model(tmp_path / "fp8", plain, bits)


def wide_linears(name: str, weight: torch.Tensor) -> bool:
    return weight.dim() == 2 and "proj" in name


def test_fp8_is_what_transformers_dequantizes(deepseek_v3: Path, tmp_path: Path) -> None:
    from transformers import FineGrainedFP8Config

    # blocks that divide every matrix, for transformers' own dequantising wants that
    encode, said = quantized.fp8((32, 32)), {**FP8, "weight_block_size": [32, 32]}
    quantized.write(deepseek_v3, tmp_path / "fp8", wide_linears, encode, said)
    assert_as_transformers(
        tmp_path / "fp8", FineGrainedFP8Config(weight_block_size=(32, 32), dequantize=True)
    )


@pytest.mark.parametrize("scale", ["U8", "F8_E8M0", "row", "BF16", "DeepSeek-V4"])
def test_scales_of_fp8_come_in_many_forms(scale: str, tmp_path: Path) -> None:
    weight = torch.randn(96, 64, generator=torch.Generator().manual_seed(5))
    said: dict[str, Any] = {"quant_method": "fp8", "weight_block_size": [32, 32]}
    stored, _ = quantized.fp8((32, 32))("x.weight", weight)
    codes, scales = stored.values()
    name = "x.weight_scale_inv"
    if scale in ("U8", "F8_E8M0"):
        said = {"quant_method": "mxfp8", "weight_block_size": [1, 32]}
        exponents = torch.arange(96 * 2).view(96, 2).remainder(9) + 120
        scales = torch.exp2(exponents.float() - 127)
        kept = exponents.to(torch.uint8)
        kept = kept if scale == "U8" else kept.view(torch.float8_e8m0fnu)
        wanted = codes.float() * scales.repeat_interleave(32, dim=1)
    elif scale == "row":
        said = {"quant_method": "fp8", "weight_block_size": None}
        kept, name = torch.rand(96, 1), "x.weight_scale"
        wanted = codes.float() * kept
    else:
        kept = scales.bfloat16() if scale == "BF16" else scales
        name = name if scale == "BF16" else "x.scale"
        spread = kept.float().repeat_interleave(32, dim=0).repeat_interleave(32, dim=1)
        wanted = codes.float() * spread
    found = folded(tmp_path, {"x.weight": codes, name: kept}, said, from_fp8.FORMAT)
    assert torch.equal(found["x.weight"], wanted)


def folded(
    folder: Path, tensors: dict[str, torch.Tensor], said: dict[str, Any], form: Format
) -> dict[str, torch.Tensor]:
    """The weights that a format's module makes of some tensors."""
    from moee_index.model.checkpoint.quant_config import source_format

    file = folder / "model.safetensors"
    save_file(tensors, file)
    with safe_open(file, framework="pt") as reader:
        readers: Readers = {file: reader}
        source = source_format({"quantization_config": said, "model_type": "gpt_oss"}, folder)
        assert source is not None
        stored = fold(read_headers(readers), readers, source, form)
        return {name: dense(one.whole(readers)) for name, one in stored.items()}


def test_every_scale_of_mxfp4_is_exact_and_255_is_no_number(tmp_path: Path) -> None:
    scales = torch.arange(256, dtype=torch.uint8).view(1, 256, 1)
    blocks = torch.arange(16, dtype=torch.uint8) * 17  # both codes of a byte: every code twice
    blocks = blocks.expand(1, 256, 1, 16).contiguous()
    found = folded(tmp_path, {"x_blocks": blocks, "x_scales": scales}, MXFP4, from_mxfp4.FORMAT)[
        "x"
    ][0]
    values = np.array(quantized.E2M1 + [-value for value in quantized.E2M1]).repeat(2)
    wanted = values[:, None] * 2.0 ** (np.arange(255) - 127.0)
    inside = np.abs(wanted) < 2.0**128
    np.testing.assert_array_equal(found[:, :255].double().numpy()[inside], wanted[inside])
    assert found[:, 255].isnan().all()
    assert not found[:, :255][torch.from_numpy(~inside)].isfinite().any()


@pytest.mark.parametrize("double", [False, True])
def test_nf4_layers_that_transformers_saved_are_taken_as_they_are(
    double: bool, wide_olmoe: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    import_bitsandbytes()
    config = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=double
    )
    theirs = AutoModelForCausalLM.from_pretrained(
        wide_olmoe, quantization_config=config, dtype=torch.bfloat16, local_files_only=True
    )
    folder = tmp_path / "nf4"
    theirs.save_pretrained(folder)
    for file in wide_olmoe.glob("*token*"):
        shutil.copyfile(file, folder / file.name)
    on_disk = load_file(folder / "model.safetensors")
    told: list[str] = []
    found = Encoder.load(folder, double_quant=double, notify=told.append)
    assert any("taken as they are" in line for line in told)
    own = dict(stacks(found.running.model))
    for layer in range(2):
        for projection in "qkvo":
            name = f"layers.{layer}.self_attn.{projection}_proj.weight"
            stack, key = own[name], f"model.{name}"
            assert torch.equal(stack.packed[0], on_disk[key].view(-1))
            assert torch.equal(stack.absmax[0], on_disk[f"{key}.absmax"])
            if double:
                assert stack.absmax_scale is not None and stack.absmax_offset is not None
                assert torch.equal(stack.absmax_scale[0], on_disk[f"{key}.nested_absmax"])
                state = on_disk[f"{key}.quant_state.bitsandbytes__nf4"]
                offset = json.loads(bytes(state.tolist()))["nested_offset"]
                assert float(stack.absmax_offset[0]) == offset
    # Experts, which transformers leaves in bfloat16, are quantised all the same; so it is the very
    # model that we make of the original.
    direct = Encoder.load(wide_olmoe, double_quant=double)
    for name, value in weights_of(direct).items():
        assert torch.equal(weights_of(found)[name], value), name
    np.testing.assert_array_equal(found.encode(TEXTS).hs, direct.encode(TEXTS).hs)


@pytest.mark.parametrize("double", [False, True])
def test_nf4_codes_of_experts_are_taken_as_they_are(double: bool, tmp_path: Path) -> None:
    encode = quantized.bitsandbytes("nf4", double=True)
    quantized.write(PARITY / "olmoe", tmp_path / "nf4", linears, encode, NF4)
    on_disk = load_file(tmp_path / "nf4" / "a.safetensors")
    statistics = load_file(tmp_path / "nf4" / "b.safetensors")
    own = dict(stacks(Encoder.load(tmp_path / "nf4", double_quant=double).running.model))
    stack = own["layers.1.mlp.experts.gate_up_proj"]
    functional = import_bitsandbytes().functional
    for expert in range(8):
        packed, absmax = [], []
        for projection in ("gate_proj", "up_proj"):
            key = f"model.layers.1.mlp.experts.{expert}.{projection}.weight"
            packed.append(on_disk[key].view(-1))
            said = {k.removeprefix(f"{key}."): v for k, v in statistics.items() if key in k}
            state = functional.QuantState.from_dict(said, device=torch.device("cpu"))
            nested = functional.dequantize_blockwise(state.absmax, state.state2)
            absmax.append(nested + state.offset)
        assert torch.equal(stack.packed[expert], torch.cat(packed))
        full = stack.full_absmax([expert])[0]
        if double:  # gate and up had an offset each, in one matrix they have one together
            torch.testing.assert_close(full, torch.cat(absmax), rtol=0.02, atol=0)
        else:
            assert torch.equal(full, torch.cat(absmax))


def test_four_bits_are_written_from_a_quantized_checkpoint(tmp_path: Path) -> None:
    encode, said = FORMATS["fp8-tensor"]
    plain = quantized.write(PARITY / "qwen2_moe", tmp_path / "fp8", linears, encode, said)
    source, target = str(tmp_path / "fp8"), str(tmp_path / "four")
    ran = CliRunner().invoke(cli, ["quantize", source, target])
    assert ran.exit_code == 0, ran.output
    assert "fp8 comes in FP8: its weights are requantised to NF4; its activation" in ran.stderr
    direct, reopened = Encoder.load(source), Encoder.load(target)
    np.testing.assert_array_equal(reopened.encode(TEXTS).hs, direct.encode(TEXTS).hs)
    # a checkpoint is known by its files as they are
    assert reopened.spec.fingerprint == direct.spec.fingerprint
    assert direct.spec.fingerprint == find_checkpoint(source).fingerprint
    assert direct.spec.fingerprint != find_checkpoint(plain).fingerprint
    # what is said of the original's quantisation is not said of ours
    assert find_checkpoint(target).source is None


def test_no_thread_sees_bitsandbytes_half_imported() -> None:
    # as when `quantize` starts: all its threads ask for the table of NF4 at once
    code = (
        "from concurrent.futures import ThreadPoolExecutor\n"
        "from moee_index.backends import import_bitsandbytes as get\n"
        "with ThreadPoolExecutor(4) as pool:\n"
        "    jobs = [pool.submit(lambda: get().functional.get_4bit_type) for _ in range(4)]\n"
        "print(len({job.result() for job in jobs}))\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (ran.returncode, ran.stdout) == (0, "1\n"), ran.stderr


def test_what_becomes_of_the_weights_is_told(tmp_path: Path) -> None:
    quantized.write(PARITY / "olmoe", tmp_path / "int8", linears, quantized.int8, INT8)
    for bits, said in ((4, "the rest is quantised to NF4"), (16, "dequantised to 16 bits")):
        told: list[str] = []
        encoder = Encoder.load(tmp_path / "int8", bits=bits, notify=told.append)
        assert [line for line in told if "int8 comes in bitsandbytes' 8 bits" in line]
        assert any(said in line for line in told)
        assert not hasattr(encoder.running.model.config, "quantization_config")
    assert find_checkpoint(PARITY / "olmoe").source is None


@pytest.mark.parametrize(
    "method",
    [
        "gptq",
        "awq",
        "compressed-tensors",
        "eetq",
        "hqq",
        "quanto",
        "torchao",
        "aqlm",
        "bitnet",
        "spqr",
        "vptq",
        "fbgemm_fp8",
        "modelopt",
        "auto-round",
        "quark",
        "nvfp4",
        "no-such-one",
    ],
)
def test_other_quantizations_are_refused_by_name_before_a_weight_is_read(
    method: str, copy_checkpoint: Callable[..., Path]
) -> None:
    checkpoint = copy_checkpoint("olmoe", quantization_config={"quant_method": method})
    (checkpoint / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ModelError) as refused:
        Encoder.load(checkpoint)
    said = str(refused.value)
    assert f"quant_method '{method}'" in said and "original checkpoint" in said
    assert "\n" not in said


def test_every_method_of_transformers_is_read_or_refused() -> None:
    from transformers.utils.quantization_config import QuantizationMethod

    from moee_index.model.checkpoint.quant_config import source_format

    read = set()
    for method in QuantizationMethod:
        config = {"model_type": "gpt_oss", "quantization_config": {"quant_method": method.value}}
        try:
            came = source_format(config, Path("here"))
        except ModelError as refused:
            assert method.value in str(refused)
        else:
            assert came is not None
            read.add(method.value)
    named = {method.value for method in QuantizationMethod}
    assert read == {"bitsandbytes", "fp8", "mxfp8", "mxfp4"} & named


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"quantization_config": {"bits": 4}}, "has no 'quant_method'"),
        ({"quantization_config": "gptq"}, "must be an object"),
        ({"compression_config": {"format": "int-quantized"}}, "compressed-tensors"),
        ({"text_config": {"quantization_config": {"quant_method": "awq"}}}, "AWQ"),
        (
            {"quantization_config": {"quant_method": "mxfp4"}},
            "supported for gpt-oss, not for 'olmoe'",
        ),
        ({"quantization_config": {**FP8, "weight_block_size": [128, 0]}}, "two positive numbers"),
        ({"quantization_config": {**FP8, "expert_dtype": "fp4"}}, "experts come in 'fp4'"),
    ],
)
def test_contradictory_configs_are_refused(
    changes: dict[str, Any], said: str, copy_checkpoint: Callable[..., Path]
) -> None:
    with pytest.raises(ModelError, match=said):
        Encoder.load(copy_checkpoint("olmoe", **changes))


def test_quantized_weights_without_a_word_in_the_config_are_refused(tmp_path: Path) -> None:
    for form in ("fp8", "nf4", "int8"):
        encode, said = FORMATS[form]
        folder = tmp_path / form
        quantized.write(PARITY / "olmoe", folder, linears, encode, said)
        config = json.loads((folder / "config.json").read_text())
        del config["quantization_config"]
        (folder / "config.json").write_text(json.dumps(config))
        with pytest.raises(ModelError, match=r"nothing says how|config\.json has no"):
            Encoder.load(folder)


def test_scales_without_a_word_in_the_config_are_refused(
    copy_checkpoint: Callable[..., Path],
) -> None:
    checkpoint = copy_checkpoint("olmoe")
    tensors = load_file(checkpoint / "model.safetensors")
    tensors["model.layers.0.self_attn.q_proj.weight_scale"] = torch.ones(1)
    save_file(tensors, checkpoint / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"q_proj\.weight_scale' belongs to quantised weights"):
        Encoder.load(checkpoint)


def test_a_type_of_numbers_that_is_not_known_is_refused(
    copy_checkpoint: Callable[..., Path],
) -> None:
    checkpoint = copy_checkpoint("olmoe")
    tensors = load_file(checkpoint / "model.safetensors")
    codes = torch.zeros(64, 32, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)
    tensors["model.layers.0.self_attn.q_proj.weight"] = codes
    save_file(tensors, checkpoint / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"q_proj\.weight is stored as F4\w*, which is not read"):
        Encoder.load(checkpoint)
    again = {"model.norm.weight": torch.ones(64)}
    shutil.copyfile(PARITY / "olmoe" / "model.safetensors", checkpoint / "model.safetensors")
    save_file(again, checkpoint / "more.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"norm\.weight is on disk twice: in .* and in .*more"):
        Encoder.load(checkpoint)


Q = "model.layers.0.self_attn.q_proj."


def without(name: str) -> Callable[[quantized.Tensors], object]:
    return lambda tensors: tensors.pop(name)


def with_another(name: str, value: torch.Tensor) -> Callable[[quantized.Tensors], object]:
    return lambda tensors: tensors.update({name: value})


STATE = torch.tensor(list(b'{"blocksize": 64}'), dtype=torch.uint8)


@pytest.mark.parametrize(
    ("form", "change", "said"),
    [
        ("fp8", without(Q + "weight_scale_inv"), r"q_proj\.weight_scale_inv is missing"),
        ("fp8", with_another(Q + "weight_scale_inv", torch.ones(2, 1)), r"\[2, 1\].*128 x 128"),
        ("fp8", with_another(Q + "weight_scale_inv", torch.ones(1, 1).int()), "stored as I32"),
        ("fp8", with_another(Q + "weight_scale_inv", torch.full((1, 1), torch.inf)), "not finite"),
        ("fp8", with_another("model.extra.weight", torch.ones(1)), "unexpected"),
        (
            "fp8-tensor",
            with_another(Q + "weight_scale", torch.ones(3)),
            "one scale, or one for each row",
        ),
        ("nf4", without(Q + "weight.absmax"), r"q_proj\.weight\.absmax is missing"),
        ("nf4", without(Q + "weight.quant_state.bitsandbytes__nf4"), "__nf4 is missing"),
        ("nf4", with_another(Q + "weight.absmax", torch.ones(3)), "64 values are needed"),
        ("nf4", with_another(Q + "weight.absmax", torch.ones(64).double()), "is F64, not F32"),
        ("nf4", with_another(Q + "weight.quant_state.bitsandbytes__nf4", STATE), "cannot be read"),
        ("int8", without(Q + "SCB"), r"q_proj\.SCB is missing"),
        ("int8", with_another(Q + "SCB", torch.ones(3)), "each row has one"),
        ("int8", with_another(Q + "weight_format", torch.ones(1).byte()), "laid out for a GPU"),
    ],
)
def test_damage_is_an_error_by_name(
    form: str, change: Callable[[quantized.Tensors], object], said: str, tmp_path: Path
) -> None:
    encode, config = FORMATS[form]
    quantized.write(PARITY / "olmoe", tmp_path / form, linears, encode, config)
    codes, statistics = (load_file(tmp_path / form / f"{n}.safetensors") for n in "ab")
    change(statistics)
    quantized.save_sharded(tmp_path / form, {"a.safetensors": codes, "b.safetensors": statistics})
    with pytest.raises(ModelError, match=said) as refused:
        Encoder.load(tmp_path / form)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without("x_scales"), "x_scales is missing"),
        (without("x_blocks"), "x_blocks is missing"),
        (with_another("x_scales", torch.zeros(1, 4, 3).byte()), "one scale, a byte, for 32"),
        (with_another("x_blocks", torch.zeros(1, 4, 32).byte()), r"\[experts, out, groups, 16\]"),
    ],
)
def test_damaged_mxfp4_is_an_error_by_name(
    change: Callable[[quantized.Tensors], object], said: str, tmp_path: Path
) -> None:
    tensors, _ = quantized.mxfp4("x", torch.randn(1, 64, 4))
    change(tensors)
    with pytest.raises(ModelError, match=said):
        folded(tmp_path, tensors, MXFP4, from_mxfp4.FORMAT)


def test_folders_of_a_hub_repository_stay_there() -> None:
    # gpt-oss keeps the same weights again under original/ and metal/
    from huggingface_hub.utils import filter_repo_objects

    from moee_index.model.checkpoint import hub

    files = ["model.safetensors", "config.json", "original/model.safetensors", "metal/model.bin"]
    kept = filter_repo_objects(
        files,
        allow_patterns=hub._FILES,
        ignore_patterns=hub._FOLDERS,
    )
    assert list(kept) == ["model.safetensors", "config.json"]

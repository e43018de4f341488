"""Checkpoints quantised by others, made on the spot by plain code that knows nothing of the reader.

Each format's function takes one weight and gives what lies on disk for it and, in float32, the
weight that it stands for. Knows the formats' own papers and bitsandbytes' saving.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from paths import PARITY
from safetensors.torch import load_file, save_file

Tensors = dict[str, torch.Tensor]
# (name, weight) -> (what lies on disk for it, the float32 weight it stands for)
Encode = Callable[[str, torch.Tensor], tuple[Tensors, torch.Tensor]]

E2M1 = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]


def mxfp4(name: str, weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
    """A stack [experts, in, out]: 32 weights along `in` share an exponent."""
    turned = weight.float().transpose(1, 2).contiguous()
    count, rows, cols = turned.shape
    groups = turned.view(count, rows, cols // 32, 32)
    largest = groups.abs().amax(-1, keepdim=True).clamp(min=2.0**-60)
    exponent = torch.floor(torch.log2(largest)) - 2  # 6 = 1.5 * 2**2 is the largest value
    scaled = groups / torch.exp2(exponent)
    table = torch.tensor([*E2M1, *(-value for value in E2M1)])
    codes = (scaled[..., None] - table).abs().argmin(-1)
    blocks = (codes[..., 0::2] | codes[..., 1::2] << 4).to(torch.uint8)
    scales = (exponent[..., 0] + 127).to(torch.uint8)
    stands_for = (table[codes] * torch.exp2(exponent)).view(count, rows, cols).transpose(1, 2)
    return {f"{name}_blocks": blocks, f"{name}_scales": scales}, stands_for.contiguous()


def fp8(block: tuple[int, int] | None, scale_name: str = "_scale_inv") -> Encode:
    """A matrix, or a stack of them, in blocks, ragged at the edges; None: one scale for all."""

    def one(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        rows, cols = weight.shape
        high, wide = block or (rows, cols)
        codes = torch.empty(rows, cols, dtype=torch.float8_e4m3fn)
        scales = torch.empty(-(-rows // high), -(-cols // wide))
        stands_for = torch.empty(rows, cols)
        for i in range(scales.shape[0]):
            for j in range(scales.shape[1]):
                place = slice(i * high, (i + 1) * high), slice(j * wide, (j + 1) * wide)
                scales[i, j] = weight[place].abs().max() / 448
                codes[place] = (weight[place] / scales[i, j]).to(torch.float8_e4m3fn)
                stands_for[place] = codes[place].float() * scales[i, j]
        return codes, scales if block else scales.reshape(()), stands_for

    def encode(name: str, weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
        if weight.dim() == 2:
            codes, scales, stands_for = one(weight.float())
        else:
            parts = [one(matrix) for matrix in weight.float()]
            codes = torch.stack([part[0].view(torch.uint8) for part in parts]).view(
                torch.float8_e4m3fn
            )
            scales, stands_for = (torch.stack([part[k] for part in parts]) for k in (1, 2))
        return {name: codes, f"{name}{scale_name}": scales}, stands_for

    return encode


def bitsandbytes(
    kind: str, *, block: int = 64, double: bool = False, storage: torch.dtype = torch.uint8
) -> Encode:
    """As bitsandbytes saves a layer: by its own code."""
    from moee_index.backends import import_bitsandbytes

    functional = import_bitsandbytes().functional

    def encode(name: str, weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
        codes, state = functional.quantize_4bit(
            weight.float(),
            blocksize=block,
            compress_statistics=double,
            quant_type=kind,
            quant_storage=storage,
        )
        stored = {name: codes}
        stored |= {f"{name}.{key}": value for key, value in state.as_dict(packed=True).items()}
        # its own kernel is wrong where columns are no multiple of the block: one row for all
        state.shape = torch.Size((1, weight.numel()))
        stands_for = functional.dequantize_4bit(codes, state).float().view(weight.shape)
        return stored, stands_for

    return encode


def int8(name: str, weight: torch.Tensor) -> tuple[Tensors, torch.Tensor]:
    """LLM.int8: each row by its largest value."""
    stem = name.removesuffix("weight")
    largest = weight.float().abs().amax(1)
    codes = (weight.float() * 127 / largest[:, None]).round().to(torch.int8)
    order = torch.zeros((), dtype=torch.uint8)
    stands_for = codes * largest[:, None] * (1 / 127)
    return {name: codes, f"{stem}SCB": largest, f"{stem}weight_format": order}, stands_for


def write(
    original: Path,
    target: Path,
    wanted: Callable[[str, torch.Tensor], bool],
    encode: Encode,
    quantization: dict[str, Any],
) -> Path:
    """Write a checkpoint again with the wanted tensors quantised, their statistics in another file
    than their codes. Returns a plain checkpoint, float32 where `target` is quantised."""
    tensors = load_file(original / "model.safetensors")
    codes: Tensors = {}
    statistics: Tensors = {}
    for name, weight in list(tensors.items()):
        if not wanted(name, weight):
            codes[name] = weight
            continue
        stored, tensors[name] = encode(name, weight)
        first, *others = stored
        codes[first] = stored[first].contiguous()
        statistics |= {other: stored[other].contiguous() for other in others}
    assert statistics, "nothing was quantised"
    plain = target.with_name(target.name + "-plain")
    config = json.loads((original / "config.json").read_text())
    for folder, own in (
        (target, {**config, "quantization_config": quantization}),
        (plain, config),
    ):
        shutil.copytree(original, folder, ignore=shutil.ignore_patterns("*.safetensors"))
        (folder / "config.json").write_text(json.dumps(own))
    save_file(tensors, plain / "model.safetensors", metadata={"format": "pt"})
    save_sharded(target, {"a.safetensors": codes, "b.safetensors": statistics})
    return plain


def save_sharded(target: Path, files: dict[str, Tensors]) -> None:
    """Weight files with an index beside them."""
    for file, tensors in files.items():
        save_file(tensors, target / file, metadata={"format": "pt"})
    weight_map = {name: file for file, tensors in files.items() for name in tensors}
    text = json.dumps({"metadata": {}, "weight_map": weight_map})
    (target / "model.safetensors.index.json").write_text(text)


def save_random(model_class: Any, config: Any, target: Path) -> Path:
    """A random bfloat16 checkpoint with a tokenizer beside it."""
    torch.manual_seed(0)
    model = model_class(config).to(torch.bfloat16)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                parameter.copy_(torch.randn(parameter.shape) * 0.08)
    model.save_pretrained(target)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copyfile(PARITY / "olmoe" / name, target / name)
    return target

"""How a checkpoint's weights come, by its config.json alone: plain, quantised, or not to be read.

Quantization methods that are not read here are refused by name before a weight file is opened.
Imports nothing heavy.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moee_index.errors import ModelError

MXFP4, FP8, BITSANDBYTES = "mxfp4", "fp8", "bitsandbytes"

# `quant_method` of what is read. MXFP8 is FP8 with blocks of 1 x 32 and scales that are exponents.
_READ = {"mxfp4": MXFP4, "fp8": FP8, "mxfp8": FP8, "bitsandbytes": BITSANDBYTES}

_TITLES = {
    "mxfp4": "MXFP4",
    "fp8": "FP8",
    "mxfp8": "MXFP8",
    "aqlm": "AQLM",
    "auto-round": "AutoRound",
    "awq": "AWQ",
    "bitnet": "BitNet",
    "compressed-tensors": "compressed-tensors",
    "eetq": "EETQ",
    "fbgemm_fp8": "FBGEMM's FP8",
    "fouroversix": "FourOverSix",
    "fp_quant": "FP-Quant",
    "gguf": "GGUF",
    "gptq": "GPTQ",
    "higgs": "HIGGS",
    "hqq": "HQQ",
    "metal": "Metal's affine",
    "modelopt": "ModelOpt",
    "nvfp4": "NVFP4",
    "quanto": "Quanto",
    "quark": "Quark",
    "sinq": "SINQ",
    "spqr": "SpQR",
    "torchao": "torchao",
    "vptq": "VPTQ",
}

# What to do about a checkpoint that is not read.
ADVICE = (
    "give --model the original checkpoint it was made from, which is quantised while it is "
    "loaded (read are 16 and 32 bits, FP8, MXFP4 and bitsandbytes)"
)


@dataclass(frozen=True)
class SourceFormat:
    """The quantisation a checkpoint came with. kind: how it is read. said: config.json's own
    words on it."""

    kind: str
    title: str
    said: dict[str, Any]

    def told(self, name: str, bits: int) -> str:
        """One line on what becomes of the weights of checkpoint `name`."""
        if bits != 4:
            what = f"its weights are dequantised to {bits} bits"
        elif self.kind == BITSANDBYTES:
            what = "NF4 codes in blocks of 64 are taken as they are, the rest is quantised to NF4"
        else:
            what = "its weights are requantised to NF4"
        static = self.said.get("activation_scheme") == "static"
        more = "; its activation scales are not used, for activations are not quantised here"
        return f"{name} comes in {self.title}: {what}{more if static else ''}"


def source_format(config: dict[str, Any], path: Path) -> SourceFormat | None:
    """The quantisation that config.json speaks of, None where it speaks of none.

    Raises ModelError naming the method where it is not read, or is contradictory.
    """
    said = _quantization_config(config)
    if said is None:
        return None
    where = path / "config.json"
    if not isinstance(said, dict):
        raise ModelError(f"{where}: 'quantization_config' must be an object")
    eight, four = bool(said.get("load_in_8bit")), bool(said.get("load_in_4bit"))
    method = BITSANDBYTES if eight or four else said.get("quant_method")
    if not isinstance(method, str):
        raise ModelError(f"{where}: 'quantization_config' names no 'quant_method'; {ADVICE}")
    if method not in _READ:
        known = _TITLES.get(method.lower().replace("_", "-"), _TITLES.get(method.lower()))
        title = f"{known} (quant_method {method!r})" if known else f"quant_method {method!r}"
        raise ModelError(f"{path}: its weights come in {title}, which is not read here; {ADVICE}")
    kind = _READ[method]
    if kind == MXFP4:
        # Two layouts of a square matrix look alike; gpt-oss's is the one that is known.
        model_type = (config.get("text_config") or config).get("model_type")
        if model_type != "gpt_oss":
            raise ModelError(
                f"{path}: MXFP4 is read as gpt-oss has it, not for {model_type!r}; {ADVICE}"
            )
    if kind == FP8:
        _check_block(said, where)
        if said.get("expert_dtype", "fp8") != "fp8":
            raise ModelError(
                f"{path}: its experts come in {said['expert_dtype']!r} beside FP8, which is not "
                f"read here; {ADVICE}"
            )
    title = "bitsandbytes' 8 bits" if eight else "bitsandbytes' 4 bits"
    return SourceFormat(kind, _TITLES.get(method, title), said)


def _quantization_config(config: dict[str, Any]) -> Any:
    inner = config.get("text_config")
    for holder in (config, inner if isinstance(inner, dict) else {}):
        # `compression_config` is compressed-tensors' older name for it
        for key in ("quantization_config", "compression_config"):
            if holder.get(key) is not None:
                found = holder[key]
                if key == "compression_config" and isinstance(found, dict):
                    return {"quant_method": "compressed-tensors", **found}
                return found
    return None


def _check_block(said: dict[str, Any], where: Path) -> None:
    block = said.get("weight_block_size")
    if block is None:
        return
    if (
        not isinstance(block, list)
        or len(block) != 2
        or not all(isinstance(extent, int) and extent > 0 for extent in block)
    ):
        raise ModelError(f"{where}: 'weight_block_size' must be two positive numbers, not {block}")

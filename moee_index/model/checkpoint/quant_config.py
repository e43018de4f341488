"""How a checkpoint is quantized, according to its config.json.

Methods that are not supported are refused by name before a weight file is opened. Imports nothing
heavy.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moee_index.errors import ModelError

MXFP4, FP8, BITSANDBYTES = "mxfp4", "fp8", "bitsandbytes"

# The supported `quant_method`s. MXFP8 is FP8 with blocks of 1 x 32 and scales that are exponents.
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

# What to do about a checkpoint that is not supported.
ADVICE = (
    "give --model the original checkpoint it was made from, which is quantised while it is "
    "loaded (supported are 16 and 32 bits, FP8, MXFP4 and bitsandbytes)"
)


@dataclass(frozen=True)
class SourceFormat:
    """The quantization of a checkpoint by others. kind: how it is read. settings: config.json's
    `quantization_config`."""

    kind: str
    title: str
    settings: dict[str, Any]

    def told(self, name: str, bits: int) -> str:
        """One line on how the weights of checkpoint `name` are converted."""
        if bits != 4:
            what = f"its weights are dequantised to {bits} bits"
        elif self.kind == BITSANDBYTES:
            what = "NF4 codes in blocks of 64 are taken as they are, the rest is quantised to NF4"
        else:
            what = "its weights are requantised to NF4"
        static = self.settings.get("activation_scheme") == "static"
        more = "; its activation scales are not used, because activations are not quantised here"
        return f"{name} comes in {self.title}: {what}{more if static else ''}"


def source_format(config: dict[str, Any], path: Path) -> SourceFormat | None:
    """The quantization in config.json; None if there is none.

    Raises ModelError naming the method if it is not supported or contradictory.
    """
    settings = _quantization_config(config)
    if settings is None:
        return None
    config_file = path / "config.json"
    if not isinstance(settings, dict):
        raise ModelError(f"{config_file}: 'quantization_config' must be an object")
    eight, four = bool(settings.get("load_in_8bit")), bool(settings.get("load_in_4bit"))
    method = BITSANDBYTES if eight or four else settings.get("quant_method")
    if not isinstance(method, str):
        raise ModelError(f"{config_file}: 'quantization_config' has no 'quant_method'; {ADVICE}")
    if method not in _READ:
        known = _TITLES.get(method.lower().replace("_", "-"), _TITLES.get(method.lower()))
        title = f"{known} (quant_method {method!r})" if known else f"quant_method {method!r}"
        raise ModelError(f"{path}: its weights come in {title}, which is not supported; {ADVICE}")
    kind = _READ[method]
    if kind == MXFP4:
        # Two layouts of a square matrix look alike; gpt-oss's is the one that is supported.
        inner = config.get("text_config")
        model_type = (inner if isinstance(inner, dict) and inner else config).get("model_type")
        if model_type != "gpt_oss":
            raise ModelError(
                f"{path}: MXFP4 is supported for gpt-oss, not for {model_type!r}; {ADVICE}"
            )
    if kind == FP8:
        _check_block(settings, config_file)
        if settings.get("expert_dtype", "fp8") != "fp8":
            raise ModelError(
                f"{path}: its experts come in {settings['expert_dtype']!r} beside FP8, which is "
                f"not supported; {ADVICE}"
            )
    title = "bitsandbytes' 8 bits" if eight else "bitsandbytes' 4 bits"
    return SourceFormat(kind, _TITLES.get(method, title), settings)


def _quantization_config(config: dict[str, Any]) -> Any:
    inner = config.get("text_config")
    for holder in (config, inner if isinstance(inner, dict) else {}):
        # `compression_config` is compressed-tensors' older name for it
        for key in ("quantization_config", "compression_config"):
            if (settings := holder.get(key)) is not None:
                if key == "compression_config" and isinstance(settings, dict):
                    return {"quant_method": "compressed-tensors", **settings}
                return settings
    return None


def _check_block(settings: dict[str, Any], config_file: Path) -> None:
    block = settings.get("weight_block_size")
    if block is None:
        return
    if (
        not isinstance(block, list)
        or len(block) != 2
        or not all(isinstance(extent, int) and extent > 0 for extent in block)
    ):
        raise ModelError(
            f"{config_file}: 'weight_block_size' must be two positive numbers, not {block}"
        )

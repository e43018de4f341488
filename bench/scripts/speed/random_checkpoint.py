"""Write a 4-bit checkpoint of OLMoE-1B-7B's geometry with random weights: for speed, not for sense.

    python bench/scripts/speed/random_checkpoint.py DIRECTORY [--layers 16] [--double-quant]

It loads as any 4-bit checkpoint does and needs no download. Codes repeat one random block, scaled
so that states keep their size from layer to layer; the tokenizer is that of `tiny`. --tiny writes
a model of the same class a thousand times smaller, to try a script with.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

_BLOCK = 2**26  # random bytes that codes are copies of
_PROMISED = 2**36  # bytes of a sparse file
_NF4_RMS = 0.5735  # root of the mean square of NF4's sixteen values

OLMOE = {
    "architectures": ["OlmoeForCausalLM"],
    "model_type": "olmoe",
    "vocab_size": 50304,
    "hidden_size": 2048,
    "intermediate_size": 1024,
    "num_hidden_layers": 16,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "num_experts": 64,
    "num_experts_per_tok": 8,
    "norm_topk_prob": False,
    "max_position_embeddings": 4096,
    "rope_theta": 10000.0,
    "rms_norm_eps": 1e-05,
    "hidden_act": "silu",
    "pad_token_id": 1,
    "eos_token_id": 50279,
    "tie_word_embeddings": False,
}
TINY = {
    "hidden_size": 128,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "num_experts": 16,
    "num_experts_per_tok": 4,
}


def write(directory: Path, *, double_quant: bool = True, **changes: Any) -> Path:
    """A checkpoint of OLMoE's geometry, with changes to its config."""
    import torch

    from moee_index.model.arch.build import build_empty
    from moee_index.model.checkpoint.find import Checkpoint, bundled_path
    from moee_index.model.load.four_bit_checkpoint import publish_four_bit, tensor_specs
    from moee_index.model.load.load import prepare
    from moee_index.model.load.weight_file import Draft
    from moee_index.model.precision import Storage

    config = {**OLMOE, **changes}
    with tempfile.TemporaryDirectory() as name:
        source = Path(name)
        (source / "config.json").write_text(json.dumps(config))
        for file in ("tokenizer.json", "tokenizer_config.json"):
            (source / file).write_bytes((bundled_path() / file).read_bytes())
        promised = source / "model.safetensors"  # a size for a config to be checked against
        with promised.open("wb") as file:
            file.truncate(_PROMISED)
        checkpoint = Checkpoint("random", source, None, config, {}, None, (promised,))
        plan = build_empty(checkpoint)
        storage = Storage(4, double_quant, torch.bfloat16, torch.device("cpu"))
        prepare(plan, checkpoint, storage)
        with Draft(directory, tensor_specs(plan.model, storage.kept)) as draft:
            fill(draft.tensors)
            publish_four_bit(draft, checkpoint, double_quant=double_quant, turned=False)
    return directory


def fill(tensors: dict[str, Any]) -> None:
    """Random weights into tensors by name on disk, in place."""
    import torch

    torch.manual_seed(0)
    block = torch.randint(0, 256, (_BLOCK,), dtype=torch.uint8)
    for name, tensor in tensors.items():
        stack, _, part = name.rpartition(".")
        if part == "packed":
            flat = tensor.view(-1)
            for start in range(0, len(flat), _BLOCK):
                flat[start : start + _BLOCK] = block[: len(flat) - start]
        elif part in ("absmax_offset", "absmax") and f"{stack}.packed" in tensors:
            # An offset alone, whatever the codes of double quantization: its scale stays 0.
            if tensor.dtype == torch.float32:
                columns = (2 * tensors[f"{stack}.packed"].shape[1]) ** 0.5  # as if it were square
                tensor.fill_(1 / (_NF4_RMS * columns**0.5))
        elif part != "absmax_scale":
            tensor.copy_(torch.ones(()) if tensor.dim() < 2 else 0.05 * torch.randn(tensor.shape))


def main() -> None:
    """Write a checkpoint where there is none."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", type=Path)
    parser.add_argument("--layers", type=int)
    parser.add_argument("--double-quant", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--tiny", action="store_true")
    given = parser.parse_args()
    changes = dict(TINY) if given.tiny else {}
    if given.layers is not None:
        changes["num_hidden_layers"] = given.layers
    print(write(given.directory, double_quant=given.double_quant, **changes))


if __name__ == "__main__":
    main()

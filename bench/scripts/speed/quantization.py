r"""What 4 bits cost: HS and RW layer by layer against the same checkpoint in 16 or 32 bits.

    python bench/scripts/speed/quantization.py \\
        CHECKPOINT [--texts 16] [--reference-bits 32] [--layers 0 7]

CHECKPOINT holds 16- or 32-bit weights. Texts of real tokens pass one by one; after each decoder
layer the last token's hidden state is compared with the reference's by its cosine, and so are the
router's outputs, with the share of the chosen experts that agree. Compared are plain and double
quantisation, each with its absmax in float32 (as a standard stack computes) and rounded to
bfloat16 (as a packed one does); with --reference-bits 32 also 16 bits, so that the rounding of
the compute dtype can be told from that of the weights. One model is in memory at a time; what is
kept of the others are the last tokens' states.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from harness import CORPUS, make_parser, say, show

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class States:
    """What texts leave behind in a model.

    hs: float32 [texts, layers + 1, d], after each layer and, last, after the final norm. rw:
    float32 [texts, routers, experts]. layers: the decoder layer of each router. top_k: experts a
    token takes.
    """

    hs: Array
    rw: Array
    layers: list[int]
    top_k: int


def states_of(running: Any, texts: list[Any]) -> States:
    """The last token's states, text by text: one text a pass, so that nothing is padded."""
    import torch

    layers = list(running.model.layers)
    kept: list[torch.Tensor] = []

    def keep(_module: torch.nn.Module, _inputs: Any, output: Any) -> None:
        state = output[0] if isinstance(output, tuple) else output
        kept.append(state.reshape(-1, state.shape[-1])[-1].float().cpu())

    hooks = [layer.register_forward_hook(keep) for layer in layers]
    hs, rw = [], []
    try:
        for text in texts:
            kept.clear()
            found = running.embed([text])
            hs.append(np.concatenate([torch.stack(kept).numpy(), found.hs]))
            rw.append(found.rw[0])
    finally:
        for hook in hooks:
            hook.remove()
    routers = [router.module for router in running.plan.routers]
    return States(
        hs=np.stack(hs),
        rw=np.stack(rw).reshape(len(texts), len(routers), -1),
        layers=[
            number
            for router in routers
            for number, layer in enumerate(layers)
            if any(router is module for module in layer.modules())
        ],
        top_k=int(running.model.config.num_experts_per_tok),
    )


def round_absmax(model: Any) -> None:
    """Round what 4-bit codes are multiplied with to bfloat16, nested statistics undone before, as
    the packed layout keeps it."""
    import torch

    from moee_index.model.nf4.stack import stacks

    for _, stack in stacks(model):
        absmax = stack.full_absmax(torch.arange(stack.n, device=stack.packed.device))
        stack.absmax = absmax.bfloat16().float()
        stack.double_quant = False


def variants(given: argparse.Namespace, texts: list[Any]) -> Iterator[tuple[str, States]]:
    """The reference first, then each variant; a model is let go before the next one is loaded."""
    reference = _load(given, given.reference_bits, True)
    yield f"{given.reference_bits} bits", states_of(reference, texts)
    del reference
    if given.reference_bits == 32:
        half = _load(given, 16, True)
        yield "16 bits", states_of(half, texts)
        del half
    for double in (False, True):
        kind = "double" if double else "plain"
        running = _load(given, 4, double)
        yield f"{kind}, float32 absmax", states_of(running, texts)
        round_absmax(running.model)
        yield f"{kind}, bfloat16 absmax", states_of(running, texts)
        del running


def _load(given: argparse.Namespace, bits: int, double_quant: bool) -> Any:
    from moee_index.model.checkpoint.find import find_checkpoint
    from moee_index.model.load.cache import Cache
    from moee_index.model.run.model import RunningModel

    running = RunningModel(
        find_checkpoint(given.checkpoint),
        bits=bits,
        double_quant=double_quant and bits == 4,
        rw=given.rw,
        pooling="last",
        threads=given.threads,
        cache=Cache(say) if given.cache else None,
    )
    said = f", {'double' if double_quant else 'plain'}" if bits == 4 else ""
    say(f"{bits} bits{said}: computes in {running.compute.value}")
    return running


def compare(reference: States, other: States) -> list[dict[str, Any]]:
    """A row a layer, one for HS as it is embedded (`final`), and means over the layers."""
    hs = cosines(reference.hs, other.hs)
    rw = cosines(reference.rw, other.rw)
    agreeing = agreement(reference, other)
    rows: list[dict[str, Any]] = []
    for layer in range(hs.shape[1] - 1):
        row: dict[str, Any] = {"layer": layer, **_said("hs", hs[:, layer])}
        if layer in reference.layers:
            place = reference.layers.index(layer)
            row |= _said("rw", rw[:, place])
            row["experts_agree"] = float(agreeing[:, place].mean())
        rows.append(row)
    rows.append({"layer": "final", **_said("hs", hs[:, -1])})
    rows.append(
        {
            "layer": "mean",
            **_said("hs", hs[:, :-1]),
            **_said("rw", rw),
            "experts_agree": float(agreeing.mean()),
        }
    )
    # RW as it is embedded: all layers in one vector.
    whole = cosines(reference.rw.reshape(len(rw), -1), other.rw.reshape(len(rw), -1))
    rows[-2] |= _said("rw", whole)
    return rows


def cosines(a: Array, b: Array) -> Array:
    """Cosines along the last axis."""
    dots = np.einsum("...i,...i->...", a, b, dtype=np.float64)
    norms = np.linalg.norm(a, axis=-1).astype(np.float64) * np.linalg.norm(b, axis=-1)
    return np.asarray(dots / norms, dtype=np.float32)


def agreement(reference: States, other: States) -> Array:
    """Share of the experts chosen in the reference that are chosen, [texts, routers]."""
    chosen = [
        np.argpartition(-states.rw, states.top_k - 1, axis=-1)[..., : states.top_k]
        for states in (reference, other)
    ]
    both = (chosen[0][..., :, None] == chosen[1][..., None, :]).any(axis=-1)
    return np.asarray(both.mean(axis=-1), dtype=np.float32)


def _said(name: str, values: Array) -> dict[str, float]:
    return {f"{name}_cosine": float(values.mean()), f"{name}_least": float(values.min())}


def line_of(row: dict[str, Any]) -> str:
    """A row for reading."""
    line = (
        f"{row['variant']:<24} layer {row['layer']!s:>5}  HS {row['hs_cosine']:.6f} (least "
        f"{row['hs_least']:.6f})"
    )
    if "rw_cosine" in row:
        line += f"  RW {row['rw_cosine']:.6f} (least {row['rw_least']:.6f})"
    if "experts_agree" in row:
        line += f"  same experts {row['experts_agree']:.1%}"
    return line


def main() -> None:
    """Print a row for each variant and layer, `final` and `mean` after them."""
    parser = make_parser(__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--texts", type=int, default=16, help="number of texts")
    parser.add_argument("--tokens", type=int, default=32, help="tokens of each")
    parser.add_argument("--corpus", type=Path, default=CORPUS, help="JSON Lines to cut them from")
    parser.add_argument("--layers", type=int, nargs="*", help="print these alone [default: all]")
    parser.add_argument("--reference-bits", type=int, choices=(16, 32), default=16)
    parser.add_argument("--rw", default="logits", choices=("logits", "softmax", "auto"))
    parser.add_argument("--threads", type=int)
    parser.add_argument("--cache", action=argparse.BooleanOptionalAction, default=False)
    given = parser.parse_args()
    from batches import pieces_of_corpus

    from moee_index.model.checkpoint.find import find_checkpoint

    checkpoint = find_checkpoint(given.checkpoint)
    if checkpoint.quantization is not None:
        raise SystemExit(f"{given.checkpoint} is in 4 bits already; give what it was made from")
    texts = pieces_of_corpus(checkpoint, given.corpus, given.texts, given.tokens)
    found = variants(given, texts)
    name, reference = next(found)
    for variant, states in found:
        for row in compare(reference, states):
            if given.layers is None or row["layer"] in (*given.layers, "final", "mean"):
                row = {"variant": variant, "reference": name, **row}
                show(row, given.json, line_of(row))


if __name__ == "__main__":
    main()

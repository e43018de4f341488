"""HS and RW layer by layer, and how far two forms of a model agree in them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

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
            embedded = running.embed([text])
            hs.append(np.concatenate([torch.stack(kept).numpy(), embedded.hs]))
            rw.append(embedded.rw[0])
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


def compare(reference: States, other: States) -> list[dict[str, Any]]:
    """A row a layer, one for HS and RW as they are embedded (`final`), and means over layers."""
    hs = cosines(reference.hs, other.hs)
    rw = cosines(reference.rw, other.rw)
    same = agreement(reference, other)
    rows: list[dict[str, Any]] = []
    for layer in range(hs.shape[1] - 1):
        row: dict[str, Any] = {"layer": layer, **mean_and_least("hs", hs[:, layer])}
        if layer in reference.layers:
            router = reference.layers.index(layer)
            row |= mean_and_least("rw", rw[:, router])
            row["experts_agree"] = float(same[:, router].mean())
        rows.append(row)
    whole = cosines(reference.rw.reshape(len(rw), -1), other.rw.reshape(len(rw), -1))
    final = mean_and_least("hs", hs[:, -1]) | mean_and_least("rw", whole)
    means = mean_and_least("hs", hs[:, :-1]) | mean_and_least("rw", rw)
    mean = {"layer": "mean", **means, "experts_agree": float(same.mean())}
    return [*rows, {"layer": "final", **final}, mean]


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


def mean_and_least(name: str, values: Array) -> dict[str, float]:
    """Cosines in two figures."""
    return {f"{name}_cosine": float(values.mean()), f"{name}_least": float(values.min())}


def line_of(row: dict[str, Any]) -> str:
    """A row's cosines for reading."""
    parts = [
        f"{name.upper()} {row[f'{name}_cosine']:.6f} (least {row[f'{name}_least']:.6f})"
        for name in ("hs", "rw")
        if f"{name}_cosine" in row
    ]
    if "experts_agree" in row:
        parts.append(f"same experts {row['experts_agree']:.1%}")
    return ", ".join(parts)

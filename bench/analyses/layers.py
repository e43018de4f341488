"""What a pass through the model leaves beside HS and RW: pooled states of every layer, routing by
layer, and both poolings at once.

Hooks are in place only while a capture is open. Vectors go to disk batch by batch: 10,000 texts of
28 layers of 2048 dimensions are 4.7 GB there, and at most 120 MB in memory.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, get_args

import numpy as np
import torch

from moee_index.atomic import storage_errors
from moee_index.encode.encoder import Encoder
from moee_index.errors import ModelError, StorageError
from moee_index.fusion import RowNumbers
from moee_index.model.run.model import RunningModel, TokenizedText
from moee_index.types import Embeddings, FloatArray, Progress, ignore

Pooling = Literal["last", "mean"]
POOLINGS: tuple[Pooling, ...] = get_args(Pooling)
# Texts planned together, and so the most that a batch holds of however many short ones.
WINDOW = 256


@dataclass(frozen=True)
class LayerShape:
    """layers: decoder layers; hs_dim: width of each; rw_widths: experts of each MoE layer;
    rw_layers: which decoder layer (from 1) each MoE layer is; rw: kind of RW."""

    layers: int
    hs_dim: int
    rw_widths: tuple[int, ...]
    rw_layers: tuple[int, ...]
    rw: str

    @property
    def rw_dim(self) -> int:
        return sum(self.rw_widths)

    def rw_columns(self, layer: int) -> slice:
        """Where the n-th MoE layer (from 0) lies in RW."""
        start = sum(self.rw_widths[:layer])
        return slice(start, start + self.rw_widths[layer])

    def bytes(self, texts: int) -> int:
        """Size on disk of both poolings of so many texts."""
        return texts * len(POOLINGS) * 4 * (self.layers * self.hs_dim + self.rw_dim)


class LayerCapture:
    """Hooks on a running model that pool every layer's states and routing in both ways.

    A context manager: the hooks are gone when it closes. HS of layer l < layers is the state that
    decoder layer l hands on, HS of the last one the state after the final norm, as transformers
    counts hidden states; the last one is the paper's HS.
    """

    def __init__(self, running: RunningModel) -> None:
        self._running = running
        self._layers = list(_decoder_layers(running.model))
        self._routers = running.plan.routers
        self._handles: list[Any] = []
        self._last = torch.empty(0)
        self._mean = torch.empty(0)
        self._hs: list[torch.Tensor] = []
        self._rw: list[torch.Tensor] = []

    def __enter__(self) -> LayerCapture:
        running = self._running
        self._before = running.shares_beginnings, running.divides_batches
        running.shares_beginnings = running.divides_batches = False
        for layer in self._layers[:-1]:
            self._handles.append(layer.register_forward_hook(self._keep_layer))
        self._handles.append(self._running.model.register_forward_hook(self._keep_final))
        for router in self._routers:
            hook = self._routing_hook(router.index)
            self._handles.append(router.module.register_forward_hook(hook))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._running.shares_beginnings, self._running.divides_batches = self._before

    def shape(self) -> LayerShape:
        """Found by one pass over one token, whatever a config calls these numbers."""
        self._embed([TokenizedText((0,), (0, 1))])
        inside = [set(layer.modules()) for layer in self._layers]
        places = [
            next(
                (number for number, modules in enumerate(inside, 1) if router.module in modules), 0
            )
            for router in self._routers
        ]
        return LayerShape(
            layers=len(self._layers),
            hs_dim=int(self._hs[0].shape[-1]),
            rw_widths=tuple(int(values.shape[-1]) for values in self._rw),
            rw_layers=tuple(places),
            rw=self._running.rw,
        )

    def embed(self, texts: Sequence[TokenizedText]) -> tuple[list[FloatArray], FloatArray]:
        """HS layer by layer, float32 [poolings, n, d] each, and RW float32 [poolings, n,
        layers * experts] of one batch. Raises ModelError where a value is not finite."""
        self._embed(texts)
        hs = [values.cpu().numpy() for values in self._hs]
        rw = torch.cat(self._rw, dim=2).cpu().numpy()
        self._hs, self._rw = [], []
        named = [(f"HS of layer {layer}", values) for layer, values in enumerate(hs, 1)]
        for name, values in [*named, ("RW", rw)]:
            if not np.isfinite(values).all():
                raise ModelError(
                    f"{self._running.checkpoint.name} gave a value that is not finite in {name} "
                    f"(compute dtype {self._running.compute.value}); take --bits 32 or check the "
                    "checkpoint"
                )
        return hs, rw

    def _embed(self, texts: Sequence[TokenizedText]) -> None:
        lengths = np.array([len(text.ids) for text in texts])
        mean = np.zeros((len(texts), int(lengths.max())), dtype=np.float32)
        for row, text in enumerate(texts):
            start, end = text.own
            mean[row, start:end] = 1.0 / (end - start)
        device = self._running.device.value
        self._last = torch.from_numpy(lengths - 1).to(device)
        self._mean = torch.from_numpy(mean).to(device)
        self._hs, self._rw = [], []
        # In the last layer only tokens that are pooled pass the experts. Both poolings need the
        # own tokens and the last one: asking for the mean over all between them computes these.
        wide = [TokenizedText(text.ids, (text.own[0], len(text.ids))) for text in texts]
        asked, self._running.pooling = self._running.pooling, "mean"
        try:
            self._running.embed(wide)
        finally:
            self._running.pooling = asked

    def _pool(self, values: torch.Tensor) -> torch.Tensor:
        """[batch, length, n] -> float32 [poolings, batch, n], in the order of POOLINGS."""
        rows = torch.arange(len(values), device=values.device)
        last = values[rows, self._last].float()
        return torch.stack([last, torch.bmm(self._mean[:, None, :], values.float())[:, 0]])

    def _keep_layer(self, _module: torch.nn.Module, _inputs: Any, output: Any) -> None:
        states = output[0] if isinstance(output, (tuple, list)) else output
        self._hs.append(self._pool(states))

    def _keep_final(self, _module: torch.nn.Module, _inputs: Any, output: Any) -> None:
        self._hs.append(self._pool(output.last_hidden_state))

    def _routing_hook(self, index: int) -> Any:
        def keep(_module: torch.nn.Module, _inputs: Any, output: Any) -> None:
            logits = output[index] if isinstance(output, (tuple, list)) else output
            values = logits.view(*self._mean.shape, -1).float()
            if self._running.rw == "softmax":
                values = values.softmax(-1)
            elif self._running.rw == "sigmoid":
                values = values.sigmoid()
            self._rw.append(self._pool(values))

        return keep


class LayerVectors:
    """Pooled vectors of n texts on disk, float32: `hs` of a layer from 1, `rw` whole or by layer.

    Both poolings are there. The arrays are memory maps; copy the rows that you work on.
    """

    def __init__(self, directory: Path, texts: int, shape: LayerShape) -> None:
        """Makes the files. Raises StorageError where the disk has no room for them."""
        needed, free = shape.bytes(texts), shutil.disk_usage(directory).free
        if needed > free:
            raise StorageError(
                f"{directory}: the layers' vectors of {texts} texts need {needed / 1e9:.1f} GB and "
                f"{free / 1e9:.1f} GB are free; take a smaller --limit or another --out"
            )
        self.shape = shape
        self.texts = texts
        poolings = len(POOLINGS)
        self._hs = _file(directory / "hs.f32", (poolings, shape.layers, texts, shape.hs_dim))
        self._rw = _file(directory / "rw.f32", (poolings, texts, shape.rw_dim))

    def put(self, rows: RowNumbers, hs: Iterable[FloatArray], rw: FloatArray) -> None:
        """hs: a layer's [poolings, n, d] each; rw: [poolings, n, layers * experts]."""
        for layer, values in enumerate(hs):
            self._hs[:, layer, rows] = values
        self._rw[:, rows] = rw

    def hs(self, pooling: Pooling, layer: int | None = None) -> FloatArray:
        """float32 [texts, d] of a layer from 1; None is the last one, the paper's HS."""
        found: FloatArray = self._hs[POOLINGS.index(pooling), (layer or self.shape.layers) - 1]
        return found

    def rw(self, pooling: Pooling) -> FloatArray:
        """float32 [texts, layers * experts]."""
        found: FloatArray = self._rw[POOLINGS.index(pooling)]
        return found

    def embeddings(self, pooling: Pooling, rows: RowNumbers) -> Embeddings:
        """HS and RW of some texts as the encoder would give them under this pooling, copied."""
        return Embeddings(self.hs(pooling)[rows], self.rw(pooling)[rows])


def collect(
    encoder: Encoder, texts: Sequence[str], directory: Path, progress: Progress = ignore
) -> LayerVectors:
    """Run texts through the model once and keep all layers' vectors under `directory`, which
    exists and is the caller's to remove.

    Raises StorageError without room, ModelError for a model whose layers cannot be found.
    """
    with LayerCapture(encoder.running) as capture:
        vectors = LayerVectors(directory, len(texts), capture.shape())
        done = 0
        for start in range(0, len(texts), WINDOW):
            plan = encoder.plan(texts[start : start + WINDOW])
            for number, positions in enumerate(plan.batches):
                tokenized, of = plan.distinct(number)
                hs, rw = capture.embed(tokenized)
                rows = start + np.asarray(positions, dtype=np.int64)
                vectors.put(rows, (values[:, of] for values in hs), rw[:, of])
                done += len(rows)
                progress("embedding", done, len(texts))
    return vectors


def _decoder_layers(model: Any) -> Any:
    layers = getattr(model, "layers", None)
    if layers is None or len(layers) == 0:
        raise ModelError(
            f"{type(model).__name__} keeps its decoder layers elsewhere than in `layers`: "
            "`bench analyze` cannot look at them; take another model"
        )
    return layers


def _file(path: Path, shape: tuple[int, ...]) -> np.memmap[Any, np.dtype[np.float32]]:
    with storage_errors(path, "{path}: cannot be written ({why})"):
        found = np.memmap(path, dtype=np.float32, mode="w+", shape=shape)
        if os.name == "posix":
            # Without a name it is gone when the process is, however that ends.
            path.unlink()
    return found

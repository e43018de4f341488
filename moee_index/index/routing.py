"""Routing looked at: which experts two texts use and what they share, and which documents use an
expert most.

A row of RW is read as layers of experts; how wide each layer is, is told by who knows the model.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from moee_index.errors import MisuseError
from moee_index.fusion import Standardizer, unit_vectors
from moee_index.index.snapshot import Snapshot
from moee_index.index.store.document_reader import StoredDocument
from moee_index.types import Embeddings, FloatArray

Float64Array = npt.NDArray[np.float64]

# Rows that are looked through for the documents that use an expert most, and where chance begins.
MOST_ROWS = 20_000
SEED = 0
# Rows kept for each expert: several may be passages of one document.
_KEPT = 32
_AT_A_TIME = 1024


@dataclass(frozen=True)
class Layer:
    """One MoE layer of two texts.

    left, right: float64 [experts], how much each uses the experts (`usage`); shared: float64
    [experts], what each expert adds to the similarity of RW: summed over all layers it is that
    similarity. agreement: the cosine of both within the layer, 0 where one of them is zero there.
    """

    left: Float64Array
    right: Float64Array
    shared: Float64Array
    agreement: float

    @property
    def contribution(self) -> float:
        """What the layer adds to the similarity of RW."""
        return float(self.shared.sum())


@dataclass(frozen=True)
class Comparison:
    """Two texts. hs, rw: their similarities, as a search has them."""

    hs: float
    rw: float
    layers: list[Layer]


def compare_routing(
    left: Embeddings,
    right: Embeddings,
    standardizer: Standardizer,
    widths: Sequence[int],
    kind: str,
) -> Comparison:
    """Compare two texts by their raw embeddings, of one row each. widths: experts of each layer;
    kind: of RW. Raises ModelError where a value is not finite."""
    units = [unit_vectors(each, standardizer) for each in (left, right)]
    first, second = units[0].rw[0], units[1].rw[0]
    products = first * second
    uses = [usage(each.rw, widths, kind)[0] for each in (left, right)]
    layers = []
    for columns in layer_columns(widths):
        lengths = np.linalg.norm(first[columns]) * np.linalg.norm(second[columns])
        inner = float(products[columns].sum())
        layers.append(
            Layer(
                uses[0][columns],
                uses[1][columns],
                products[columns],
                inner / float(lengths) if lengths > 0 else 0.0,
            )
        )
    hs = float(np.clip(units[0].hs[0] @ units[1].hs[0], -1.0, 1.0))
    return Comparison(hs, float(np.clip(products.sum(), -1.0, 1.0)), layers)


def layer_columns(widths: Sequence[int]) -> Iterator[slice]:
    """The columns of RW that are each layer's."""
    for start, stop in itertools.pairwise(itertools.accumulate(widths, initial=0)):
        yield slice(start, stop)


def usage(rw: FloatArray, widths: Sequence[int], kind: str) -> Float64Array:
    """How much experts are used, float64 [n, layers * experts], from raw RW: what the router gives
    them, logits as the probabilities that the layer makes of them.

    Raises MisuseError for widths that are not those of RW.
    """
    if sum(widths) != rw.shape[1]:
        raise MisuseError(f"RW has {rw.shape[1]} columns, and the layers {sum(widths)} experts")
    used = rw.astype(np.float64)
    if kind == "logits":
        for columns in layer_columns(widths):
            logits = used[:, columns]
            weights = np.exp(logits - logits.max(axis=1, keepdims=True))
            used[:, columns] = weights / weights.sum(axis=1, keepdims=True)
    return used


@dataclass(frozen=True)
class Use:
    """A document that uses an expert, or the passage that does. amount: as of `usage`."""

    document: StoredDocument
    row: int
    segment_row: int
    amount: float

    @property
    def title(self) -> str:
        return self.document.title

    @property
    def name(self) -> str:
        return self.document.name_at(self.segment_row)

    @property
    def text(self) -> str:
        return self.document.passage(self.segment_row)


class ExpertUse:
    """For each expert the rows of one version of an index that use it most, among `looked_at` of
    its `rows` rows, drawn by chance from a fixed seed where there are more than MOST_ROWS.

    Raises IndexDamagedError where a row is altered.
    """

    def __init__(self, snapshot: Snapshot, widths: Sequence[int], kind: str) -> None:
        self._snapshot = snapshot
        self.widths = tuple(widths)
        live = [
            begin
            + (
                np.arange(segment.entry.rows, dtype=np.int64)
                if segment.live_rows is None
                else segment.live_rows
            )
            for begin, segment in zip(snapshot.begins[:-1].tolist(), snapshot.segments, strict=True)
        ]
        rows = np.concatenate(live) if live else np.zeros(0, dtype=np.int64)
        self.rows = len(rows)
        if len(rows) > MOST_ROWS:
            chance = np.random.default_rng(SEED)
            rows = np.sort(chance.choice(rows, MOST_ROWS, replace=False, shuffle=False))
        self.looked_at = len(rows)
        self._amounts, self._rows = self._most(rows, kind)

    def _most(
        self, rows: npt.NDArray[np.int64], kind: str
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """Amounts and rows [at most _KEPT, experts], the largest first, equal ones in the order of
        the index."""
        experts = sum(self.widths)
        amounts = np.zeros((0, experts), dtype=np.float32)
        kept = np.zeros((0, experts), dtype=np.int64)
        for start in range(0, len(rows), _AT_A_TIME):
            some = rows[start : start + _AT_A_TIME]
            raw = self._snapshot.vectors_at(some.tolist()).rw
            used = usage(raw, self.widths, kind).astype(np.float32)
            amounts = np.concatenate([amounts, used])
            kept = np.concatenate([kept, np.broadcast_to(some[:, None], used.shape)])
            order = np.argsort(-amounts, axis=0, kind="stable")[:_KEPT]
            amounts = np.take_along_axis(amounts, order, axis=0)
            kept = np.take_along_axis(kept, order, axis=0)
        return amounts, kept

    def of(self, layer: int, expert: int, most: int, without: str | None = None) -> list[Use]:
        """The documents that use an expert most, each once; layers and experts count from 0.
        without: the id of a document that is left out.

        Raises MisuseError for an expert that is not there.
        """
        if not 0 <= layer < len(self.widths) or not 0 <= expert < self.widths[layer]:
            raise MisuseError(
                f"there is no expert {expert} in layer {layer}; there are {len(self.widths)} "
                "layers, and each has its number of experts, all counted from 0"
            )
        column = sum(self.widths[:layer]) + expert
        uses: dict[str, Use] = {}
        for amount, row in zip(self._amounts[:, column], self._rows[:, column], strict=True):
            use = self._use(int(row), float(amount))
            if use.document.id != without:
                uses.setdefault(use.document.id, use)
            if len(uses) == most:
                break
        return list(uses.values())

    def _use(self, row: int, amount: float) -> Use:
        begins = self._snapshot.begins
        segment = int(np.searchsorted(begins, row, side="right")) - 1
        segment_row = row - int(begins[segment])
        document = self._snapshot.segments[segment].documents.at_rows([segment_row])[segment_row]
        return Use(document, row, segment_row, amount)


def as_json(comparison: Comparison) -> dict[str, Any]:
    """A comparison as JSON has it, layer by layer."""
    return {
        "hs": comparison.hs,
        "rw": comparison.rw,
        "layers": [
            {
                "left": layer.left.tolist(),
                "right": layer.right.tolist(),
                "shared": layer.shared.tolist(),
                "contribution": layer.contribution,
                "agreement": layer.agreement,
            }
            for layer in comparison.layers
        ],
    }

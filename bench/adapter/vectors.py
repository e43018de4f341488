"""What is made of raw vectors before mteb compares them: which rows a standardizer is fitted on,
and one array a method.

    corpus       once over the texts of the evaluated split as they are given, or over the corpus
                 where one is searched; labels are never seen. Transductive: a vector depends on the
                 data set it stands in, as in an index
    calibrated   once over a fixed list of reference texts: a pure function of the text
    batch        the authors': each batch of 128 texts by itself, in the order of a call. A vector
                 depends on its neighbours; only to reproduce the paper
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import numpy.typing as npt

from moee_index.errors import MisuseError
from moee_index.fusion import (
    METHODS,
    Float64Array,
    Standardize,
    Standardizer,
    check_alpha,
    check_finite,
    one_vector,
    standardise_batch,
    unit_vectors,
)
from moee_index.index.search.request import lexical_weight
from moee_index.types import PARTS, Embeddings

if TYPE_CHECKING:
    import torch

FITS = ("corpus", "calibrated", "batch")
# The method of words alone.
WORDS = "words"
# The authors' batch size (their README).
AUTHORS_BATCH = 128
REFERENCE_TEXTS = Path(__file__).with_name("reference_texts.jsonl")

Blocks = Iterable[tuple[slice, Embeddings]]


@dataclass(frozen=True)
class Setting:
    """How raw vectors become the ones that mteb compares.

    method: hs, rw, concat, sum. alpha: the weight of RW, for `sum` alone, else None. standardize:
    which parts are standardised: both, rw, hs, none; asked for, so it holds for few rows too.
    fit: corpus, calibrated, batch. lexical: the weight of words where a corpus is searched; at 1,
    and then alone, the method is `words`.

    Raises MisuseError.
    """

    method: str
    alpha: float | None = None
    standardize: str = "both"
    fit: str = "corpus"
    lexical: float = 0.0

    def __post_init__(self) -> None:
        _one_of("method", self.method, (*METHODS, WORDS))
        weight = lexical_weight(self.lexical)
        if (weight == 1) != (self.method == WORDS):
            raise MisuseError(f"lexical is {weight:g} with method {self.method}; 1 is {WORDS}")
        if weight and self.fit == "batch":
            raise MisuseError("words need an index, and fit batch has none; leave out one of them")
        _one_of("standardize", self.standardize, get_args(Standardize))
        _one_of("fit", self.fit, FITS)
        if self.method == "sum":
            object.__setattr__(
                self, "alpha", check_alpha(1.0 if self.alpha is None else self.alpha)
            )
        elif self.alpha is not None:
            raise MisuseError(
                f"alpha weighs RW in method sum only, not in {self.method}; leave it out"
            )

    @property
    def label(self) -> str:
        """For people: `sum α=0.5, both by corpus`."""
        alpha = "" if self.alpha is None else f" α={self.alpha:g}"
        how = "raw" if self.standardize == "none" else f"{self.standardize} by {self.fit}"
        words = f", words {self.lexical:g}" if self.lexical else ""
        return f"{self.method}{alpha}, {how}{words}"

    def dimensions(self, hs_dim: int, rw_dim: int) -> int:
        """Of the method's vectors."""
        return {"hs": hs_dim, "rw": rw_dim}.get(self.method, hs_dim + rw_dim)

    def standardizer(self, fitted: Standardizer) -> Standardizer:
        """Of a standardizer of both parts, the parts that this setting standardises."""
        return Standardizer(
            fitted.hs if self.standardize in ("both", "hs") else None,
            fitted.rw if self.standardize in ("both", "rw") else None,
        )


def _one_of(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise MisuseError(f"{name} is {value!r}; it is one of {', '.join(known)}")


class Cosine:
    """Of an `EncoderProtocol`, how vectors are compared: by cosine, in the arrays' own precision.
    mteb would round a numpy array to float32."""

    def similarity(self, embeddings1: Any, embeddings2: Any) -> torch.Tensor:
        """Each with each, [n1, n2]."""
        import torch
        from mteb.similarity_functions import cos_sim

        return cos_sim(torch.as_tensor(embeddings1), torch.as_tensor(embeddings2))

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> torch.Tensor:
        """Pairs, [n]."""
        import torch
        from mteb.similarity_functions import pairwise_cos_sim

        left, right = torch.as_tensor(embeddings1), torch.as_tensor(embeddings2)
        found: torch.Tensor = pairwise_cos_sim(left, right)  # type: ignore[assignment]
        return found


def method_vectors(
    blocks: Blocks, count: int, setting: Setting, fitted: Standardizer | None
) -> npt.NDArray[np.floating[Any]]:
    """One vector a text, [count, dimensions], whose cosines are the method's scores.

    `hs`, `rw`: the standardised part at length 1. `concat`: both parts standardised and joined, the
    whole at length 1. `sum`: [h ; √α·r] with both parts at length 1, so cosine, dot product and
    Euclidean distance all order by sim_HS + α·sim_RW (DESIGN, maths 1); Manhattan distance does
    not. float32. fitted: a standardizer of both parts; None leaves the vectors raw.

    Under `batch` see `authors_vectors`; `fitted` is not used.

    Raises ModelError for values that are not finite.
    """
    if setting.fit == "batch":
        return authors_vectors(blocks, count, setting)
    standardizer = setting.standardizer(fitted) if fitted is not None else None
    method: Any = setting.method
    found: npt.NDArray[np.float32] | None = None
    for rows, raw in blocks:
        vectors = one_vector(unit_vectors(raw, standardizer), method, setting.alpha)
        if found is None:
            found = np.empty((count, vectors.shape[1]), dtype=np.float32)
        found[rows] = vectors
    return np.empty((0, 0), dtype=np.float32) if found is None else found


def authors_vectors(blocks: Blocks, count: int, setting: Setting) -> Float64Array:
    """The vectors of the authors' code (their moee.py:230-241), float64 [count, dimensions].

    Batches of 128 texts in their order, however the blocks are cut; all are in memory. `hs`, `rw`
    and `concat` are z-scored over the batch and not normalised (the authors leave `hs` alone raw:
    standardize "none" gives that); `sum` is [h ; √α·r] of both z-scored parts at length 1, whose
    cosine orders as their cos(HS) + α·cos(RW). A part that `standardize` leaves out stays raw.
    """
    hs_too = setting.standardize in ("both", "hs")
    rw_too = setting.standardize in ("both", "rw")
    raws = [raw for _, raw in blocks]
    if not raws:
        return np.empty((0, 0))
    whole = Embeddings(*(np.concatenate([raw[part] for raw in raws]) for _, part in PARTS))
    found: list[Float64Array] = []
    for start in range(0, count, AUTHORS_BATCH):
        rows = slice(start, start + AUTHORS_BATCH)
        raw = Embeddings(whole.hs[rows], whole.rw[rows])
        check_finite(raw.hs, "hs", start)
        check_finite(raw.rw, "rw", start)
        hs = standardise_batch(raw.hs) if hs_too else raw.hs.astype(np.float64)
        rw = standardise_batch(raw.rw) if rw_too else raw.rw.astype(np.float64)
        if setting.method == "sum":
            weight = 1.0 if setting.alpha is None else setting.alpha
            hs, rw = _unit(hs), _unit(rw) * math.sqrt(weight)
        parts = {"hs": [hs], "rw": [rw]}.get(setting.method, [hs, rw])
        found.append(np.concatenate(parts, axis=1))
    return np.concatenate(found)


def reference_texts() -> list[str]:
    """The fixed texts of `calibrated`: 400 sentences of the English Wikinews (CC BY 2.5; each line
    of the file names its article)."""
    lines = REFERENCE_TEXTS.read_text(encoding="utf-8").splitlines()
    return [str(json.loads(line)["text"]) for line in lines]


def _unit(rows: Float64Array) -> Float64Array:
    norms = np.sqrt(np.square(rows).sum(axis=1, keepdims=True))
    unit: Float64Array = rows / np.where(norms > 0, norms, 1.0)
    return unit

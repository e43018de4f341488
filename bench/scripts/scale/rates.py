"""Figures that the size of a large index is reckoned from, each with its source.

What is made of them is reckoning.py's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Rate:
    """A figure and its unit. source: where it was measured, and on what; of an assumed one, why it
    is assumed so."""

    value: float
    unit: str
    source: str
    assumed: bool = False


_ZEN5 = "2 cores of an AMD EPYC (Zen 5) with AVX512-BF16"
_EARLY = "LAB.md, 2026-11-29, early exit: a million documents, one query by `sum`"
_CORPUS = "an index of the bundled corpus, `moee-index build corpora/wikinews.jsonl`"

RATES = {
    "tokens a second, OLMoE-1B-7B, two cores": Rate(
        345, "tokens/s", f"LAB.md, 2026-11-28, kernels: one large batch, {_ZEN5}"
    ),
    "tokens a second, tiny, two cores": Rate(
        288_000 / 9.7,
        "tokens/s",
        f"LAB.md, 2026-11-28, kernels: whole build of 288,000, {_ZEN5}; short texts cost more a "
        "token (a million sentences, 2026-11-22: 16,684)",
    ),
    "products of a GPU": Rate(
        500e12, "FLOP/s", "no GPU could be had; about what an H100 reaches in bf16", assumed=True
    ),
    "share of a GPU's products": Rate(
        0.66,
        "",
        "LAB.md, 2026-11-28, the way over a card: from bytes counted, not timed",
        assumed=True,
    ),
    "weights a token multiplies, OLMoE-1B-7B": Rate(
        16 * (4 * 2048**2 + 8 * 3 * 2048 * 1024 + 64 * 2048),
        "weights",
        "its geometry: 16 layers of attention, 8 experts of 64, a router",
    ),
    "query embedded, OLMoE-1B-7B, two cores": Rate(
        0.22, "s", f"LAB.md, 2026-11-28, kernels: 16 tokens, {_ZEN5}"
    ),
    "query embedded, tiny, two cores": Rate(
        0.004, "s", f"LAB.md, 2026-11-28, a busy machine: beside nothing, {_ZEN5}"
    ),
    "exact scan of a million, OLMoE-1B-7B": Rate(0.0439, "s", f"{_EARLY}, {_ZEN5}"),
    "exact scan of a million, tiny": Rate(0.0129, "s", f"{_EARLY}, {_ZEN5}"),
    "leading components, OLMoE-1B-7B": Rate(1168, "bytes a document", _EARLY),
    "leading components, tiny": Rate(264, "bytes a document", _EARLY),
    "rows that a scan reads whole, OLMoE-1B-7B": Rate(0.0053, "of all", _EARLY),
    "rows that a scan reads whole, tiny": Rate(0.0038, "of all", _EARLY),
    "checksums of codes": Rate(
        0.614e9 / (0.166 - 0.026),
        "bytes/s",
        "LAB.md, 2026-11-22, exact search: a first search less a second",
    ),
    "reading a disk": Rate(3e9, "bytes/s", "an NVMe disk; not measured", assumed=True),
    "reading rows apart from a disk": Rate(
        1e9, "bytes/s", "an NVMe disk, many pages of 4 kB at once; not measured", assumed=True
    ),
    "documents and metadata": Rate(
        (2_244_608 + 294_912) / 288_000, "bytes a token", f"{_CORPUS}: its SQLite files"
    ),
    "postings": Rate(1_172_072 / 288_000, "bytes a token", f"{_CORPUS}: its postings"),
    "norms and checksums": Rate(16, "bytes a document", "the index format: 4 numbers"),
}


@dataclass(frozen=True)
class Approximate:
    """What a candidate index over [h ; r] takes and reaches.

    bits: of a dimension; overhead: bytes a document beside them; ms: of one query over a million
    documents, by model; recall: at 10; source: where these come from.
    """

    bits: float
    overhead: float
    ms: Mapping[str, float]
    recall: float
    source: str
    assumed: bool = False

    def bytes(self, dimensions: int) -> float:
        """Bytes of a document in memory."""
        return self.bits / 8 * dimensions + self.overhead


# The only place for the figures of approximate search.
APPROXIMATE = {
    "1 bit": Approximate(
        1,
        29,
        {"OLMoE-1B-7B": 10.8, "tiny": 3.5},
        0.95,
        "docs/bench.md, approximate search: a million documents, one query, as by default",
    ),
}


@dataclass(frozen=True)
class Model:
    """A model's dimensions and the names of its rates. gpu: whether one is reckoned with."""

    name: str
    hs: int
    rw: int
    gpu: bool

    @property
    def dimensions(self) -> int:
        return self.hs + self.rw


OLMOE = Model("OLMoE-1B-7B", 2048, 1024, gpu=True)
TINY = Model("tiny", 256, 256, gpu=False)
MODELS = (OLMOE, TINY)


def rate(name: str) -> float:
    """The value of a rate."""
    return RATES[name].value

"""What an index of so many documents takes, reckoned from rates.py; scale_tables.py shows it.

GB are 10⁹ bytes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from rates import APPROXIMATE, OLMOE, Model, rate


@dataclass(frozen=True)
class Setting:
    """What is not measured but chosen: tokens a document, price of a GPU-hour, GB of memory of a
    machine, and the share of it for codes."""

    tokens: float = 120
    price: float = 2.0
    memory_gb: float = 256
    share: float = 0.8


@dataclass(frozen=True)
class Scale:
    """What so many documents of a model take; fields that are None are not reckoned with.

    Bytes are of the whole index, seconds of one query on one machine that holds all of it in
    memory; `machines` are those whose memories hold codes and components together, and
    `over_machines_s` is a query's time over them. disk_s: a query's where all that it reads comes
    from one disk each time; beside_s: where components alone are in memory.
    """

    model: str
    documents: int
    tokens: float
    core_hours: float
    machines_for_a_day: int
    gpu_hours: float | None
    money: float | None
    rows_bytes: float
    half_rows_bytes: float
    codes_bytes: float
    documents_bytes: float
    postings_bytes: float
    norms_bytes: float
    components_bytes: float
    disk_bytes: float
    embed_s: float
    scan_s: float
    disk_s: float
    beside_s: float
    first_s: float
    machines: int
    over_machines_s: float
    approximate_bytes: dict[str, float]
    approximate_s: dict[str, float]
    approximate_machines: dict[str, int]


def gpu_tokens(model: Model) -> float:
    """Tokens a second of a GPU: two operations a weight at the rate that its products reach."""
    reached = rate("share of a GPU's products") * rate("products of a GPU")
    return reached / (2 * rate(f"weights a token multiplies, {model.name}"))


def scale(model: Model, documents: int, setting: Setting) -> Scale:
    """The whole reckoning; FORMULAS has it in words."""
    tokens = documents * setting.tokens
    core_hours = tokens / rate(f"tokens a second, {model.name}, two cores") / 3600
    gpu_hours = tokens / gpu_tokens(model) / 3600 if model.gpu else None
    rows, codes = 4.0 * model.dimensions * documents, 2.0 * model.dimensions * documents
    texts, postings = (tokens * rate(name) for name in ("documents and metadata", "postings"))
    norms = documents * rate("norms and checksums")
    components = documents * rate(f"leading components, {model.name}")
    scan_s = documents / 1e6 * rate(f"exact scan of a million, {model.name}")
    apart = codes * rate(f"rows that a scan reads whole, {model.name}")
    apart_s = apart / rate("reading rows apart from a disk")
    machines = machines_for(codes + components, setting)
    candidates = {
        name: way.bytes(model.dimensions) * documents for name, way in APPROXIMATE.items()
    }
    return Scale(
        model=model.name,
        documents=documents,
        tokens=tokens,
        core_hours=core_hours,
        machines_for_a_day=math.ceil(core_hours / 24),
        gpu_hours=gpu_hours,
        money=None if gpu_hours is None else gpu_hours * setting.price,
        rows_bytes=rows,
        half_rows_bytes=rows / 2,
        codes_bytes=codes,
        documents_bytes=texts,
        postings_bytes=postings,
        norms_bytes=norms,
        components_bytes=components,
        disk_bytes=rows + codes + components + texts + postings + norms,
        embed_s=rate(f"query embedded, {model.name}, two cores"),
        scan_s=scan_s,
        disk_s=components / rate("reading a disk") + apart_s,
        beside_s=scan_s + apart_s,
        first_s=codes / rate("reading a disk") + codes / rate("checksums of codes"),
        machines=machines,
        over_machines_s=scan_s / machines,
        approximate_bytes=candidates,
        approximate_s={
            name: way.ms[model.name] / 1e3 * documents / 1e6 for name, way in APPROXIMATE.items()
        },
        approximate_machines={
            name: machines_for(size, setting) for name, size in candidates.items()
        },
    )


def machines_for(size: float, setting: Setting) -> int:
    """How many machines hold so many bytes in their memories."""
    return math.ceil(size / (setting.share * setting.memory_gb * 1e9))


FORMULAS = """\
- tokens = documents × {tokens:g} (articles of the bundled corpus have 120, sentences some 20)
- hours = tokens / tokens a second / 3600; machines for a day = hours / 24, rounded up
- tokens a second of a GPU = {share:g} × {products:.0f} TFLOP/s / (2 × {weights:.2f} billion \
weights a token) = {gpu:,.0f}; GPU-hours likewise; money = GPU-hours × {price:g}
- raw rows = documents × (HS + RW) × 4 bytes, half of it with `--store float16`; codes = documents \
× (HS + RW) × 2
- documents = tokens × {documents:.1f} bytes, postings = tokens × {postings:.1f} bytes
- index on disk = raw rows + codes + leading components + documents + postings + {norms:g} bytes a \
document
- scan = that of a million × documents / 10⁶; codes on a disk, components in memory = scan + rows \
that are read whole / {apart:.0f} GB/s; all on a disk = components / {disk:.0f} GB/s + the same; a \
process's first query = codes / {disk:.0f} GB/s + codes / {crc:.1f} GB/s for the checksums, at most
- machines = (codes + components) / ({held:.0%} of {memory:g} GB), rounded up; scan over them = \
scan / machines
- candidates of an approximate index = documents × (bits / 8 × (HS + RW) + bytes beside); its time \
= that over a million × documents / 10⁶, more than lists that grow with the index need"""


def formulas(setting: Setting) -> str:
    return FORMULAS.format(
        tokens=setting.tokens,
        share=rate("share of a GPU's products"),
        products=rate("products of a GPU") / 1e12,
        weights=rate("weights a token multiplies, OLMoE-1B-7B") / 1e9,
        gpu=gpu_tokens(OLMOE),
        price=setting.price,
        documents=rate("documents and metadata"),
        postings=rate("postings"),
        norms=rate("norms and checksums"),
        disk=rate("reading a disk") / 1e9,
        apart=rate("reading rows apart from a disk") / 1e9,
        crc=rate("checksums of codes") / 1e9,
        held=setting.share,
        memory=setting.memory_gb,
    )

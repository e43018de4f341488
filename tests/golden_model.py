"""What `tiny` and a small 4-bit checkpoint make of some texts: vectors, rankings, files.

A processor with AVX512-BF16 computes in bf16 where another computes in float32, and matrix products
differ in their last bits anyway: vectors and scores are compared within a tolerance, and two hits
whose scores are nearer than that may stand either way. What tokens decide (passages, batches) and
what is quantised is exact.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import shutil
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from golden import GOLDEN, read, run, write
from golden_index import database, sha256

from moee_index import Document, Embeddings, Encoder, Index

PARITY = GOLDEN.parent / "parity" / "olmoe"
CORPUS = Path(__file__).parent.parent / "corpora" / "wikinews.jsonl"
CHECKPOINT = GOLDEN / "four-bits"
TEXTS = "texts.json"
QUERIES = (
    "election results announced by the president",
    "football match won in extra time",
    "earthquake and tsunami victims",
    "new software released by a company",
    "court sentences a man for murder",
)
ODD = (
    "x",
    "Zürich, 東京 and 🙂",
    "The same word the same word the same word",
    "  blanks around  ",
    "42",
    "The same word the same word the same word",
)
# By bits, relative to the largest element; in 4 bits one processor computes in bf16, another in
# float32: 0.014 was seen, and cosines of 0.99984 (tiny) and 0.99993.
RELATIVE = {32: 1e-5, 4: 0.05}
LEAST_COSINE = {"tiny": 0.9995, "checkpoint": 0.9999}
# By bits: hits whose scores are nearer than this may change places; and of a score itself. Between
# bf16 and float32 0.0020 and 0.0086 were seen.
ORDER_TOLERANCE = {32: 1e-4, 4: 4e-3}
SCORE_TOLERANCE = {32: 1e-4, 4: 1.5e-2}
_VOCABULARY = 512

Scored = tuple[str, float]


def write_texts() -> None:
    """Sixty short news reports, spread over the corpus."""
    rows = [json.loads(line) for line in CORPUS.read_text(encoding="utf-8").splitlines()]
    short = [row for row in rows if len(row["text"]) < 500]
    documents = short[:: len(short) // 60][:60]
    texts = [*(row["text"] for row in documents[:14]), *ODD]
    write(TEXTS, {"documents": documents, "texts": texts, "queries": QUERIES})


# Vectors


def arrays(embeddings: Embeddings) -> dict[str, Any]:
    return {"hs": embeddings.hs, "rw": embeddings.rw}


def write_vectors(name: str, encoder: Encoder) -> None:
    np.savez_compressed(GOLDEN / name, **arrays(encoder.encode(read(TEXTS)["texts"])))


def golden_vectors(name: str) -> dict[str, Any]:
    with np.load(GOLDEN / name) as held:
        return {part: held[part] for part in ("hs", "rw")}


def least_cosine(found: Any, golden: Any) -> float:
    lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(golden, axis=1)
    return float(((found * golden).sum(axis=1) / lengths).min())


def largest_difference(found: Any, golden: Any) -> float:
    """Relative to the largest element."""
    return float(np.abs(found - golden).max() / np.abs(golden).max())


# Rankings


def rankings(
    folder: Path, encoder: Encoder, k: int = 60
) -> dict[str, list[list[tuple[str, float]]]]:
    """Method → query → (id, score), best first."""
    documents = [
        Document(row["id"], row["text"], {"title": row["title"]})
        for row in read(TEXTS)["documents"]
    ]
    with Index.build(folder / "ranked", documents, encoder, standardize="both") as index:
        return {
            method: [
                [(hit.id, round(hit.score, 7)) for hit in hits]
                for hits in index.search(list(QUERIES), k=k, method=method, lexical=0)
            ]
            for method in ("sum", "concat")
        }


def misplaced(found: Iterable[Scored], golden: Iterable[Scored], bits: int) -> list[str]:
    """What is wrong with a ranking, up to near ties. golden: of all documents."""
    scores, hits = dict(golden), list(found)
    wrong = [
        f"{name} scores {score}, not {scores[name]}"
        for name, score in hits
        if abs(score - scores[name]) > SCORE_TOLERANCE[bits]
    ]
    order = [name for name, _ in hits]
    missing = [name for name in scores if name not in order]
    below = [(order[-1], name) for name in missing]
    return wrong + [
        f"{upper} stands above {lower}"
        for upper, lower in [*itertools.pairwise(order), *below]
        if scores[upper] < scores[lower] - ORDER_TOLERANCE[bits]
    ]


# A corpus through the commands


def write_corpus(path: Path) -> None:
    lines = [json.dumps(row, ensure_ascii=False) for row in read(TEXTS)["documents"]]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def build_by_command(folder: Path) -> Path:
    """An index in passages, in 32 bits; its documents come from a file in the working directory."""
    write_corpus(folder / "news.jsonl")
    options = ["--bits", "32", "--batch-tokens", "2048", "--chunk", "40:8", "--threads", "1"]
    options += ["--language", "none"]
    with contextlib.chdir(folder):
        run("-q", "build", "news.jsonl", "--index", "built", *options)
    return folder / "built"


def built(index: Path) -> dict[str, Any]:
    """Databases of a built index: ids, texts, passages, and how batches were planned."""
    (segment,) = index.glob("segment-*")
    return {path.name: sha256(database(path).encode()) for path in sorted(segment.glob("*.sqlite"))}


def queried(index: Path) -> list[Any]:
    """What `query --json` prints, place and time left out."""
    plain = ("-k", "3", "--lexical", "0")
    lines = run("-q", "query", "--index", index, *QUERIES[:2], *plain, "--json").stdout
    found = [json.loads(line) for line in lines.splitlines()]
    for answer in found:
        assert answer["took_ms"] >= 0 and answer["index"] == str(index)
        answer.update(took_ms=0.0, index="INDEX")
    return found


def queried_trec(index: Path) -> list[list[str]]:
    """The fields of `query --trec` but the score."""
    plain = ("-k", "3", "--lexical", "0")
    lines = run("-q", "query", "--index", index, *QUERIES[:2], *plain, "--trec").stdout
    fields = [line.split(" ") for line in lines.splitlines()]
    return [[*row[:4], *row[5:]] for row in fields]


# 4-bit checkpoints


def quantized(folder: Path, source: Path = PARITY, *, double: bool) -> Path:
    target = folder / f"four-{double}"
    run("-q", "quantize", source, target, "--double-quant" if double else "--no-double-quant")
    return target


def checkpoint_files(directory: Path) -> dict[str, str]:
    return {path.name: sha256(path.read_bytes()) for path in sorted(directory.iterdir())}


def tensors(directory: Path) -> dict[str, tuple[dict[str, Any], bytes]]:
    """Name → (type, shape and place, bytes)."""
    content = (directory / "model.safetensors").read_bytes()
    start = 8 + struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8:start])
    header.pop("__metadata__")
    return {
        name: (about, content[start + about["data_offsets"][0] : start + about["data_offsets"][1]])
        for name, about in header.items()
    }


def double_quantized(directory: Path) -> dict[str, Any]:
    """Statistics in float32 as numbers (a mean may differ in its last bit), the rest as it is."""
    found: dict[str, Any] = {}
    for name, (about, content) in tensors(directory).items():
        statistic = about["dtype"] == "F32"
        held = np.frombuffer(content, "<f4").tolist() if statistic else sha256(content)
        found[name] = [about["dtype"], about["shape"], about["data_offsets"], held]
    defaults = json.loads((directory / "moee_index.json").read_text())
    assert len(defaults["quantization"].pop("digest")) == 64
    return {"tensors": found, "moee_index.json": defaults}


def write_checkpoint(folder: Path) -> None:
    """The parity model with a quarter of its vocabulary, so that it is small enough to be kept."""
    shutil.rmtree(CHECKPOINT, ignore_errors=True)
    source = small_source(folder / "small")
    written = quantized(folder, source, double=True)
    shutil.copytree(written, CHECKPOINT)
    write_vectors("four-bits-vectors.npz", Encoder.load(str(CHECKPOINT)))


def small_source(target: Path) -> Path:
    from safetensors.torch import load_file, save_file

    target.mkdir()
    config = json.loads((PARITY / "config.json").read_text())
    config["vocab_size"] = _VOCABULARY
    (target / "config.json").write_text(json.dumps(config, indent=1))
    held = load_file(PARITY / "model.safetensors")
    small = {
        name: tensor[:_VOCABULARY].contiguous() if len(tensor) == 2048 else tensor
        for name, tensor in held.items()
    }
    save_file(small, target / "model.safetensors", {"format": "pt"})
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        shutil.copyfile(PARITY / name, target / name)
    tokenizer = json.loads((PARITY / "tokenizer.json").read_text())
    model = tokenizer["model"]
    kept = {token: number for token, number in model["vocab"].items() if number < _VOCABULARY}
    model["vocab"] = kept
    model["merges"] = [pair for pair in model["merges"] if "".join(pair) in kept]
    (target / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False))
    return target

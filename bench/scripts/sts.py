"""Spearman correlation on STS pairs, through the product's own encoder, method by method.

    python bench/scripts/sts.py --data DIR [DIR …] [--model NAME|PATH …] [--split test] [--json]

Knows folders with `<split>.jsonl` of `sentence1`, `sentence2`, `score` (the layout of MTEB's STS
data sets). Vectors are standardised once over the split's texts; labels serve the score alone.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from moee_index.encode.encoder import Encoder
from moee_index.fusion import METHODS, Standardizer, fuse, unit_vectors
from moee_index.types import Embeddings


def read_pairs(path: Path) -> tuple[list[str], list[str], list[float]]:
    """First sentences, second sentences and scores of a split."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
    return (
        [str(line["sentence1"]) for line in lines],
        [str(line["sentence2"]) for line in lines],
        [float(line["score"]) for line in lines],
    )


def spearman(encoder: Encoder, path: Path, alpha: float = 1.0) -> dict[str, float]:
    """method → Spearman correlation × 100 of similarity and score."""
    from scipy.stats import spearmanr

    first, second, scores = read_pairs(path)
    embeddings = encoder.encode([*first, *second])
    standardizer = Standardizer.fit(embeddings)
    count = len(first)
    left = unit_vectors(_rows(embeddings, slice(0, count)), standardizer)
    right = unit_vectors(_rows(embeddings, slice(count, None)), standardizer)
    hs, rw = (left.hs * right.hs).sum(axis=1), (left.rw * right.rw).sum(axis=1)
    found: dict[str, float] = {}
    for method in METHODS:
        fused = [
            fuse(
                method,
                hs[row : row + 1],
                rw[row : row + 1],
                alpha if method == "sum" else None,
                left.norms[row],
                right.norms[row : row + 1],
            )[0]
            for row in range(count)
        ]
        found[method] = 100 * float(spearmanr(np.array(fused), scores).statistic)
    return found


def _rows(embeddings: Embeddings, rows: slice) -> Embeddings:
    return Embeddings(embeddings.hs[rows], embeddings.rw[rows])


def main() -> None:
    """Print a Markdown table, or one JSON object a line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    parser.add_argument("--model", nargs="+", default=["tiny"])
    parser.add_argument("--split", default="test")
    parser.add_argument("--prompt")
    parser.add_argument("--pooling")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    for folder in given.data:
        if not (folder / f"{given.split}.jsonl").is_file():
            parser.error(f"{folder} has no {given.split}.jsonl")
    names = " | ".join(folder.name for folder in given.data)
    if not given.json:
        print(f"| model | method | {names} |\n|---|---|{'---:|' * len(given.data)}")
    for model in given.model:
        encoder = Encoder.load(model, prompt=given.prompt, pooling=given.pooling)
        columns = [spearman(encoder, folder / f"{given.split}.jsonl") for folder in given.data]
        for method in METHODS:
            if given.json:
                for folder, column in zip(given.data, columns, strict=True):
                    row = {"model": model, "method": method, "data": folder.name}
                    print(json.dumps({**row, "spearman": column[method]}))
            else:
                cells = " | ".join(f"{column[method]:.2f}" for column in columns)
                print(f"| {encoder.spec.model} | {method} | {cells} |")


if __name__ == "__main__":
    main()

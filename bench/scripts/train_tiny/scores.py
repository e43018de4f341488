"""STS and retrieval scores of HS, RW and their sum, standardised over the evaluated texts.

Reads MTEB's and BEIR's files and takes a function from texts to two matrices. For watching the
training; what a release reports comes from the product's own encoder and `bench`.
"""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

Floats = NDArray[np.float32]
Encode = Callable[[list[str]], tuple[Floats, Floats]]
"""texts -> HS [n, hidden], RW [n, layers * experts]"""


def _rows(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _unit(x: Floats, fit: Floats) -> Floats:
    """Standardised by the mean and unbiased deviation of `fit`, then of unit length."""
    z = (x - fit.mean(0)) / np.maximum(fit.std(0, ddof=1), 1e-9)
    return z / np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-9)


def sts(encode: Encode, path: Path) -> dict[str, float]:
    """Spearman correlation * 100 over the pairs of an STS file, for hs, rw and sum (alpha 1)."""
    pairs = _rows(path)
    count = len(pairs)
    texts = [str(p["sentence1"]) for p in pairs] + [str(p["sentence2"]) for p in pairs]
    similarities = []
    for part in encode(texts):
        z = _unit(part, part)
        similarities.append((z[:count] * z[count:]).sum(1))
    hs, rw = similarities
    gold = [p["score"] for p in pairs]
    values = {"hs": hs, "rw": rw, "sum": hs + rw}
    return {name: 100 * float(spearmanr(value, gold).statistic) for name, value in values.items()}


def retrieval(encode: Encode, folder: Path) -> dict[str, float]:
    """nDCG@10 * 100 of a BEIR folder, for hs, rw and sum (alpha 1)."""
    corpus, queries = _rows(folder / "corpus.jsonl"), _rows(folder / "queries.jsonl")
    relevant: dict[str, dict[str, float]] = {}
    table = folder / "qrels" / "test.tsv"
    if table.exists():
        lines = table.read_text(encoding="utf-8").splitlines()[1:]
        judged = [tuple(line.split("\t")) for line in lines]
    else:
        rows = _rows(folder / "qrels" / "test.jsonl")
        judged = [tuple(str(r[k]) for k in ("query-id", "corpus-id", "score")) for r in rows]
    for query, document, score in judged:
        if float(score) > 0:
            relevant.setdefault(query, {})[document] = float(score)
    queries = [q for q in queries if q["_id"] in relevant]
    ids = [str(d["_id"]) for d in corpus]
    documents = encode([f"{d.get('title') or ''} {d['text']}".strip() for d in corpus])
    asked = encode([str(q["text"]) for q in queries])
    parts = [_unit(q, d) @ _unit(d, d).T for q, d in zip(asked, documents, strict=True)]
    discount = 1 / np.log2(np.arange(2, 12))
    result = {}
    for name, scores in zip(("hs", "rw", "sum"), (*parts, parts[0] + parts[1]), strict=True):
        total = 0.0
        for row, query in zip(scores, queries, strict=True):
            gains = relevant[str(query["_id"])]
            best = np.argsort(-row, kind="stable")[:10]
            found = np.array([gains.get(ids[i], 0.0) for i in best])
            ideal = np.sort(np.array(list(gains.values())))[::-1][:10]
            total += float(found @ discount) / float(ideal @ discount[: len(ideal)])
        result[name] = 100 * total / len(queries)
    return result


def tell(name: str, values: dict[str, float]) -> str:
    """`name  hs / rw / sum` with one decimal."""
    return f"{name}  " + " / ".join(f"{values[k]:.1f}" for k in ("hs", "rw", "sum"))

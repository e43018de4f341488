"""Writes the pages of docs/ that are made of something else; a test compares them.

`python docs/make.py`. docs/models.md is made of moee_index/model/arch/tested.json, which
`python tests/tested_architectures.py` measures.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
TABLE = DOCS.parent / "moee_index" / "model" / "arch" / "tested.json"

_MODELS = """# Models

<!-- Written by docs/make.py from moee_index/model/arch/tested.json, which `python
tests/tested_architectures.py` measures: do not edit. -->

Every decoder with routers in transformers {version}, alone or as the text of a multi-modal
checkpoint, made as a tiny random checkpoint and compared, each text alone and in batches of quite
different lengths. The tests repeat this for those kinds of the table that the installed
transformers has. What a newer transformers has beyond the table is tried in the tests and named in
their summary; `moee-index info` names it too, and its models load like all others, with a note.

Largest differences are relative to the largest element, HS / RW:

- *32 bits*: against transformers' own forward and what it records of its routers.
- *4 bits, exact*: against the same with weights that bitsandbytes rounded, so nothing is misplaced.
- *4 bits*: median cosine to 32 bits. Random matrices of 64 columns are a hard case (9 % error each)
  and near-ties between eight random experts fall the other way: it says nothing of trained models.
- *sigmoid*: whether the router turns its logits into scores by a sigmoid, so that `--rw sigmoid`
  can be had beside `logits` and `softmax`. All are of its logits for all experts, before a bias
  that corrects the choice. Layers that run several times (`inkling2_loop`) count each time.
- *shared*: whether a prompt's beginning is computed once for many texts (not where layers keep
  windows, states or convolutions).
- *16 bits*: matrices that stay so beside embeddings, norms, routers, biases and convolutions.

| `model_type` | 32 bits | 4 bits, exact | 4 bits | sigmoid | shared | 16 bits |
|---|---|---|---|---|---|---|
{rows}
"""


def models_page(table: Mapping[str, Any]) -> str:
    """docs/models.md of the table of tested architectures."""
    rows = [f"| {_name(row)} | {_told(row)}" for row in table["architectures"].values()]
    return _MODELS.format(version=table["transformers"], rows="\n".join(rows))


def _name(row: Mapping[str, Any]) -> str:
    whole = row["multi_modal"]
    text = ", ".join(f"`{kind}`" for kind in row["kinds"] if kind not in whole)
    parts = [text] if text else []
    if whole:
        parts.append("text of " + ", ".join(f"`{kind}`" for kind in whole))
    return "; ".join(parts)


def _told(row: Mapping[str, Any]) -> str:
    if row["refused"] is not None:
        return f"refused: {row['refused']} | | | | | |"
    exact, rounded = (
        " / ".join("0" if value == 0 else f"{value:.0e}" for value in row[column])
        for column in ("float32", "rounded")
    )
    cosine = " / ".join(f"{value:.2f}" for value in row["cosine"])
    said = ["yes" if row[column] else "no" for column in ("sigmoid", "shared")]
    left = ", ".join(f"`{name}`" for name in row["in_16_bits"])
    return " | ".join([exact, rounded, cosine, *said, left]) + " |"


def pages() -> dict[Path, str]:
    """Every page that is made, and its text."""
    table = json.loads(TABLE.read_text(encoding="utf-8"))
    return {DOCS / "models.md": models_page(table)}


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")

"""The paper's own figures, and which of them no sound evaluator can give.

Li & Zhou, "Your Mixture-of-Experts LLM Is Secretly an Embedding Model For Free", ICLR 2025 (arXiv
2410.10814). `paper_results.json` holds its tables 3, 4 and 8 to 12 (facts, quoted) and, as `notes`,
what comparing them with each other and with the authors' code (github.com/tianyi-lab/MoE-Embedding)
says about cells.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

OLMOE = "allenai/OLMoE-1B-7B-0924"
QWEN = "Qwen/Qwen1.5-MoE-A2.7B"
DEEPSEEK = "deepseek-ai/deepseek-moe-16b-base"
# In the order of the paper's tables 3 and 4, and of its figure 1.
TYPES = (
    "Classification",
    "Clustering",
    "PairClassification",
    "Reranking",
    "STS",
    "Summarization",
)


@dataclass(frozen=True)
class Note:
    """What is to be said beside a figure of the paper.

    unsound: no sound evaluator gives such a number, so a difference from it is no gap. Otherwise
    the cell looks copied or broken.
    """

    unsound: bool
    text: str


@cache
def _results() -> dict[str, Any]:
    text = resources.files(__package__).joinpath("paper_results.json").read_text("utf-8")
    results: dict[str, Any] = json.loads(text)
    return results


def model_of(name: str) -> str | None:
    """The paper's model (hub id) that a hub id or a directory names, by its last part, or None.

    A snapshot in the hub's cache is known by its `models--org--name` folder.
    """
    parts = name.replace("\\", "/").rstrip("/").split("/")
    cached = [part.split("--")[-1] for part in parts if part.startswith("models--")]
    known = {model.split("/")[1].lower(): model for model in (OLMOE, QWEN, DEEPSEEK)}
    return known.get((cached[-1] if cached else parts[-1]).lower())


def source() -> str:
    """Where the figures come from."""
    return str(_results()["source"])


def tasks() -> dict[str, str]:
    """Task name (mteb's) → type, the 19 data sets of the paper's tables."""
    return dict(_results()["task_types"])


def _prompt(name: str | None) -> str:
    """The paper's name of a prompt; texts with the authors' instruction keep it."""
    return (name or "").removesuffix("+instruction")


def paper_score(model: str, prompt: str | None, method: str, task: str) -> float | None:
    """The paper's cell on mteb's scale (0 to 1), or None where the paper has none.

    task: a task name, or one of `TYPES` for the printed average of that type. `sum` is the paper's
    "MoEE (sum)", whose α is not printed.
    """
    name = model_of(model)
    if name is None:
        return None
    table = "by_type" if task in TYPES else "by_task"
    cells = _results()[table][name].get(_prompt(prompt), {}).get(method, {})
    score = cells.get(task)
    return None if score is None else round(score / 100, 6)


def note(model: str, prompt: str | None, method: str, task: str) -> Note | None:
    """What must be said beside the paper's cell, or None; arguments as for `paper_score`."""
    if paper_score(model, prompt, method, task) is None:
        return None
    kind = task if task in TYPES else tasks()[task]
    setting = {"models": model_of(model), "prompts": _prompt(prompt), "methods": method}
    for entry in _results()["notes"]:
        # What an entry does not name, it holds for.
        applies = all(value in entry.get(name, [value]) for name, value in setting.items())
        if applies and (task in entry.get("tasks", ()) or kind in entry.get("types", ())):
            return Note(entry.get("unsound", False), entry["why"])
    return None


def trained_baselines() -> dict[str, dict[str, float]]:
    """Name → type → score (0 to 1): the trained encoders in the paper's table 4, all 19 tasks."""
    return {
        name: {kind: round(cells[kind] / 100, 6) for kind in TYPES}
        for name, cells in _results()["trained_baselines_by_type"].items()
    }

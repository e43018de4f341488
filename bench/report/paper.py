"""The paper's own figures, and which of them no sound evaluator can give.

Li & Zhou, "Your Mixture-of-Experts LLM Is Secretly an Embedding Model For Free", ICLR 2025 (arXiv
2410.10814). `paper_results.json` holds its tables 3, 4 and 8 to 12 (facts, quoted); what is said
about cells comes from comparing the tables with each other and with the authors' code
(github.com/tianyi-lab/MoE-Embedding).

Knows the paper. Refuses to know runs, files of results and reports.
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

TWENTY = (
    "The paper's abstract speaks of 20 data sets. Its tables hold 19, and 19 are switched on in "
    "its code (8 STS, 3 Classification, 2 Clustering, 2 PairClassification, 3 Reranking, "
    "1 Summarization), so `--tasks paper` runs these 19."
)


@dataclass(frozen=True)
class Note:
    """What is to be said beside a figure of the paper.

    unsound: no sound evaluator gives such a number, so a difference from it is no gap. Otherwise
    the cell looks copied or broken.
    """

    unsound: bool
    text: str


_LABEL_AVERAGE = {
    "Clustering": Note(
        True,
        "the paper's `sum` runs k-means on HS and on RW and averages the two cluster ids; ids "
        "are arbitrary, and V-measure rises with the number of clusters that this makes (two "
        "random labelings reach 28 to 32 on MedrxivClusteringS2S). Here `sum` clusters vectors",
    ),
    "Classification": Note(
        True,
        "the paper's `sum` fits a classifier on HS and one on RW and averages the predicted class "
        "ids, rounded down; on two classes that is a logical AND, which favours the frequent "
        "class. Here `sum` classifies vectors",
    ),
}
_SUMMEVAL = Note(
    True,
    "the paper's figure is np.mean over (correlation, p-value) pairs, as in mteb's deprecated "
    "evaluator, which mteb's task SummEval still uses; SummEvalSummarization.v2 has the "
    "correlation alone",
)


def _same(what: str) -> str:
    return f"the same figure stands for {what}: copied?"


_BOTH_PROMPTS = _same("`none` and `prompteol`")
# (model, prompt, method, task) → why the cell is doubted. "by type" cells stand under the type.
_DOUBTED: dict[tuple[str, str, str, str], str] = {
    **{
        (DEEPSEEK, prompt, method, task): _BOTH_PROMPTS
        for method, tasks in {
            "hs": ("AskUbuntuDupQuestions", "SciDocsRR"),
            "rw": ("SciDocsRR", "StackOverflowDupQuestions"),
        }.items()
        for task in tasks
        for prompt in ("none", "prompteol")
    },
    (DEEPSEEK, "prompteol", "rw", "STS13"): _same("STS13 and STS15"),
    (DEEPSEEK, "prompteol", "rw", "STS15"): _same("STS13 and STS15"),
    (DEEPSEEK, "prompteol", "hs", "TwitterURLCorpus"): (
        "36.72 where RW alone has 76.58 and the two other models' HS have 82: broken?"
    ),
    (DEEPSEEK, "none", "hs", "Reranking"): (
        "38.13 is printed, the mean of its three tasks is 38.26, and 38.13 is the figure of "
        "`prompteol`: copied?"
    ),
    **{
        (QWEN, "none", method, "StackOverflowDupQuestions"): _same("concat and sum")
        for method in ("concat", "sum")
    },
    **{
        (OLMOE, "prompteol", method, "TwitterURLCorpus"): _same("HS and concat")
        for method in ("hs", "concat")
    },
    **{
        (OLMOE, prompt, method, "BIOSSES"): _same("concat and sum")
        for prompt in ("none", "prompteol")
        for method in ("concat", "sum")
    },
}


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
    if kind == "Summarization":
        return _SUMMEVAL
    if method == "sum" and kind in _LABEL_AVERAGE:
        return _LABEL_AVERAGE[kind]
    doubted = _DOUBTED.get((model_of(model) or "", _prompt(prompt), method, task))
    return None if doubted is None else Note(False, doubted)


def trained_baselines() -> dict[str, dict[str, float]]:
    """Name → type → score (0 to 1): the trained encoders in the paper's table 4, all 19 tasks."""
    return {
        name: {kind: round(cells[kind] / 100, 6) for kind in TYPES}
        for name, cells in _results()["trained_baselines_by_type"].items()
    }

"""`--paper-protocol`: the authors' way of evaluating, for comparison with the paper's figures.

From the authors' code (github.com/tianyi-lab/MoE-Embedding, moee.py and eval_mteb.py; the paper
says nothing of it): HS alone is taken raw; RW, the joined vector and both parts of `sum` are
z-scored over the batch of 128 texts in which they were embedded, in file order (`fit="batch"`); an
instruction for the task stands before every text, inside the prompt's quotation marks, unless that
is switched off; SummEval is scored by mteb's old evaluator.

Not taken over, since it is no embedding: averaging the numbers of clusters and of classes for `sum`
in Clustering and Classification. Nor is the absence of truncation: give --max-tokens for that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moee_index.bench.adapter.vectors import Setting

if TYPE_CHECKING:
    from mteb.abstasks.abstask import AbsTask

SUFFIX = "+instruction"
"""Stands behind the prompt's name in results of texts with an instruction."""

_SAME_TEXT = "Retrieve semantically similar text."
_TWEETS = "Retrieve tweets that are semantically similar to the given tweet"
_SUMMARIES = "Given a news summary, retrieve other semantically similar summaries"
# The instruction set "e5" of the authors' eval_mteb.py (after E5-mistral's), their 19 data sets.
_INSTRUCTIONS = {
    "EmotionClassification": "Classify the emotion expressed in the given Twitter message into one "
    "of the six emotions: anger, fear, joy, love, sadness, and surprise",
    "ToxicConversationsClassification": "Classify the given comments as either toxic or not toxic",
    "TweetSentimentExtractionClassification": "Classify the sentiment of a given tweet as either "
    "positive, negative, or neutral",
    "MedrxivClusteringS2S": "Identify the main category of Medrxiv papers based on the titles",
    "TwentyNewsgroupsClustering": "Identify the topic or theme of the given news articles",
    "TwitterSemEval2015": _TWEETS,
    "TwitterURLCorpus": _TWEETS,
    "AskUbuntuDupQuestions": "Retrieve duplicate questions from AskUbuntu forum",
    "SciDocsRR": "Given a title of a scientific paper, retrieve the titles of other relevant "
    "papers",
    "StackOverflowDupQuestions": "Retrieve duplicate questions from StackOverflow forum",
    **dict.fromkeys(
        ("STS12", "STS13", "STS14", "STS15", "STS16", "BIOSSES", "SICK-R", "STSBenchmark"),
        _SAME_TEXT,
    ),
    "SummEval": _SUMMARIES,
    "SummEvalSummarization.v2": _SUMMARIES,
}


def setting(method: str, alpha: float | None) -> Setting:
    """The authors' way: HS alone is raw, all else z-scored by batch."""
    return Setting(method, alpha, "none" if method == "hs" else "both", "batch")


def instruction_of(task: AbsTask) -> str | None:
    """What the authors' code sets before each text of a task, in GritLM's format; None for a task
    that it has no instruction for (it leaves such tasks out).

    Trailing colons, blanks and line ends are trimmed before the format is put around it. The text
    with its instruction is what the prompt is put around and what its clean-up sees.
    """
    words = _INSTRUCTIONS.get(task.metadata.name)
    return None if words is None else f"<|user|>\n{words.strip(': ')}\n<|embed|>\n"

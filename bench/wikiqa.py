"""A reranking task over local candidate lists of WikiQA, in the form of mteb's reranking tasks.

The lists are as `candidate_lists` reads them: `<split>.jsonl` with `query`, `positive`, `negative`
(Yang, Yih & Meek 2015; questions with at least one right and one wrong candidate). mteb 2.26 has no
task of that data; the name says that these are local lists, so that no figure is mistaken for one
of a later mteb task.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from datasets import Dataset
from mteb.abstasks import AbsTaskRetrieval
from mteb.abstasks.task_metadata import TaskMetadata

from moee_index.bench.candidate_lists import load_lists

ALIASES = ("WikiQA", "WikiQAReranking")
"""What users may call it, until mteb has a task of that name."""


class WikiQALocal(AbsTaskRetrieval):
    """WikiQA's candidate lists as a reranking task; main score `map_at_1000`.

    `metadata.dataset["path"]` is the folder of the lists once the data were localised.
    """

    metadata = TaskMetadata(
        name="WikiQALocal",
        description="Sentences of a Wikipedia article, ranked by whether they answer a question.",
        reference="https://aclanthology.org/D15-1237",
        dataset={"path": "rerank/WikiQA", "revision": "local"},
        type="Reranking",
        category="t2t",
        modalities=["text"],
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        main_score="map_at_1000",
        license="not specified",
        prompt="Given a question, retrieve the sentences that answer it.",
    )

    def load_data(self, num_proc: int | None = None, **kwargs: Any) -> None:
        """Read the lists of every evaluated split. Raises CorpusError naming file and line."""
        if self.data_loaded:
            return
        folder = Path(self.metadata.dataset["path"])
        self.dataset = {
            "default": {split: _split(folder / f"{split}.jsonl") for split in self.eval_splits}
        }
        self.data_loaded = True


def _split(path: Path) -> Any:
    """Candidates of equal text are one document; ids follow the sorted texts and tell nothing."""
    lists = load_lists(path)
    texts = sorted({text for texts in lists.texts for text in texts})
    ids = {text: f"d{number:06}" for number, text in enumerate(texts)}
    queries = {f"q{number:05}": query for number, query in enumerate(lists.queries)}
    relevant: dict[str, dict[str, int]] = {}
    ranked: dict[str, list[str]] = {}
    for query, texts_of_list, judged in zip(
        queries, lists.texts, lists.qrels.values(), strict=True
    ):
        ranked[query] = [ids[text] for text in texts_of_list]
        grades = zip(texts_of_list, judged.values(), strict=True)
        relevant[query] = {ids[text]: grade for text, grade in grades}
    return {
        "corpus": Dataset.from_dict({"id": list(ids.values()), "text": list(ids)}),
        "queries": Dataset.from_dict({"id": list(queries), "text": list(queries.values())}),
        "relevant_docs": relevant,
        "top_ranked": ranked,
    }

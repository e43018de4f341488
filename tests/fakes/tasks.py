"""Encoders with known vectors, and small mteb tasks, for tests of the bench."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from fakes.word_encoder import FakeEncoder, FakePlan, fake_spec, word_vector
from moee_index.bench import mteb_internals as installed
from moee_index.bench.data import quiet
from moee_index.bench.vector_cache.encoder import Identity, StoredEncoder
from moee_index.bench.vector_cache.store import StoreKey, VectorStore
from moee_index.types import Embeddings, EncoderSpec


def identity_of(spec: EncoderSpec, **changes: Any) -> Identity:
    fields = {
        name: getattr(spec, name) for name in Identity.__dataclass_fields__ if name != "dequantised"
    }
    return replace(Identity(**fields), **changes)


@dataclass(frozen=True)
class Tokens:
    ids: tuple[int, ...]


class PlanWithTokens(FakePlan):
    def distinct(self, batch: int) -> tuple[list[Tokens], np.ndarray[Any, Any]]:
        texts = list(dict.fromkeys(self.texts[i] for i in self.batches[batch]))
        places = [texts.index(self.texts[i]) for i in self.batches[batch]]
        return [Tokens((0,) * len(text.split())) for text in texts], np.array(places)


class LoggedEncoder(FakeEncoder):
    """Writes each text that it embeds to a log, before it gives the vectors."""

    log: Path | None = None
    prompts: Sequence[str] = ()

    def plan(self, texts: Sequence[str], *, query: bool = False) -> PlanWithTokens:
        plan = super().plan(texts, query=query)
        return PlanWithTokens(self, plan.texts, plan.batches, plan.tokens, plan.truncated)

    def with_prompt(self, prompt: str) -> LoggedEncoder:
        other = LoggedEncoder(
            spec=replace(self.spec, prompt=prompt, query_prompt=prompt),
            batch_tokens=self.batch_tokens,
            seconds_per_batch=self.seconds_per_batch,
        )
        other.log = self.log
        return other

    def vectors(self, texts: Sequence[str]) -> Embeddings:
        if self.log is not None:
            with self.log.open("a", encoding="utf-8") as file:
                file.writelines(f"{text}\n" for text in texts)
        found = super().vectors(texts)
        # Another prompt gives other vectors.
        shift = word_vector(self.spec.prompt, self.spec.hs_dim)
        return Embeddings(found.hs + shift, found.rw)


def logged(log: Path | None = None, **options: Any) -> LoggedEncoder:
    encoder = LoggedEncoder(**options)
    encoder.log = log
    return encoder


def stored_over(
    directory: Path, encoder: LoggedEncoder | None = None, **changes: Any
) -> StoredEncoder:
    """A stored encoder in front of a fake one."""
    real = encoder or logged()
    return StoredEncoder(VectorStore(directory), lambda: real, identity_of(real.spec, **changes))


def never() -> NoReturn:
    raise AssertionError("the model was loaded")


def with_vectors(directory: Path, texts: Sequence[str], embeddings: Embeddings) -> StoredEncoder:
    """A stored encoder that holds these vectors and can load no model."""
    spec = fake_spec(hs_dim=embeddings.hs.shape[1], rw_dim=embeddings.rw.shape[1])
    stored = StoredEncoder(VectorStore(directory), never, identity_of(spec))
    put(stored.store, stored.identity.key(False), texts, embeddings)
    return stored


def put(store: VectorStore, key: StoreKey, texts: Sequence[str], embeddings: Embeddings) -> None:
    """Keep vectors of texts whose tokens nobody counted."""
    store.shelf(key).put(texts, embeddings, [0] * len(texts), [False] * len(texts))


def get(
    store: VectorStore, key: StoreKey, texts: Sequence[str]
) -> tuple[Embeddings | None, list[int]]:
    """(embeddings of all texts in their order, []), or (None, positions that are missing)."""
    shelf = store.shelf(key)
    rows = shelf.rows_of(texts)
    missing = [int(position) for position in np.flatnonzero(rows < 0)]
    return (None, missing) if missing else (shelf.take(rows), [])


def random_embeddings(count: int, seed: int = 0) -> Embeddings:
    rng = np.random.default_rng(seed)
    scale = rng.uniform(0.5, 3.0, 20)
    return Embeddings(
        (rng.standard_normal((count, 20)) * scale + 1).astype(np.float32),
        (rng.standard_normal((count, 12)) - 2).astype(np.float32),
    )


def ensure_slowly(directory: str, log: str, texts: Sequence[str]) -> None:
    """To be killed while it embeds: a batch of five texts each 0.25 seconds."""
    encoder = logged(Path(log), batch_tokens=5, seconds_per_batch=0.25)
    stored_over(Path(directory), encoder).ensure(texts)


def put_many(directory: str, texts: Sequence[str], start: Any) -> None:
    """One of several writers to a key."""
    stored = stored_over(Path(directory), logged(batch_tokens=3))
    start.wait()
    for text in texts:
        stored.ensure([text])
        time.sleep(0.001)


def sts_task(first: Sequence[str], second: Sequence[str], scores: Sequence[float]) -> Any:
    rows = {"sentence1": list(first), "sentence2": list(second), "score": list(scores)}
    return loaded("STSBenchmark", test=rows)


def pair_task(first: Sequence[str], second: Sequence[str], labels: Sequence[int]) -> Any:
    rows = {"sentence1": list(first), "sentence2": list(second), "labels": list(labels)}
    return loaded("TwitterSemEval2015", test=rows)


def summary_task(
    human: Sequence[Sequence[str]],
    machine: Sequence[Sequence[str]],
    relevance: Sequence[Sequence[float]],
) -> Any:
    rows = {
        "text": [""] * len(human),
        "human_summaries": human,
        "machine_summaries": machine,
        "relevance": relevance,
    }
    return loaded("SummEvalSummarization.v2", test=rows)


def classification_task(
    train: Sequence[str], train_labels: Sequence[int], test: Sequence[str], labels: Sequence[int]
) -> Any:
    return loaded(
        "Banking77Classification",
        train={"text": list(train), "label": list(train_labels)},
        test={"text": list(test), "label": list(labels)},
    )


def search_task(
    documents: Sequence[str],
    queries: Sequence[str],
    relevant: dict[str, dict[str, int]],
    top_ranked: dict[str, list[str]] | None = None,
) -> Any:
    """Documents d0, d1, …, queries q0, q1, …; reranking where candidates are given."""
    import mteb
    from datasets import Dataset

    task = mteb.get_task("SciFact" if top_ranked is None else "AskUbuntuDupQuestions")
    split = {
        "corpus": Dataset.from_list(
            [{"id": f"d{i}", "title": "", "text": text} for i, text in enumerate(documents)]
        ),
        "queries": Dataset.from_list(
            [{"id": f"q{i}", "text": text} for i, text in enumerate(queries)]
        ),
        "relevant_docs": relevant,
        "top_ranked": top_ranked,
    }
    task.dataset = {"default": {"test": split}}
    task.data_loaded = True
    return task


def loaded(name: str, **splits: Mapping[str, Any]) -> Any:
    """A task of mteb over columns made here; a real one, whose name outlives mteb's mocks."""
    import mteb
    from datasets import Dataset, DatasetDict

    task = mteb.get_task(name)
    task.dataset = DatasetDict({split: Dataset.from_dict(dict(of)) for split, of in splits.items()})
    task.data_loaded = True
    return task


def scores_of(model: Any, task: Any) -> dict[str, Any]:
    """mteb's own scores of the test split."""
    import mteb

    with quiet():
        result = mteb.evaluate(model, task, cache=None, show_progress_bar=False)
    scores: dict[str, Any] = result.task_results[0].scores["test"][0]
    return scores


def reseed(task: Any) -> None:
    """Put a task's random generators where a new task's are: it is evaluated on the same samples
    again."""
    vars(task).update(installed.generators(installed.new_task(task)))

"""mteb's search over the product's own index: conformance, exact fused ranking, reranking."""

from __future__ import annotations

import gc
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from paths import PARITY

from fakes.mock_tasks import check_list, of_known
from fakes.tasks import put, random_embeddings, scores_of, search_task, stored_over, with_vectors
from moee_index.bench.adapter import search
from moee_index.bench.adapter.encoder import MoeeEncoder, Setting
from moee_index.bench.adapter.search import MoeeSearch
from moee_index.bench.adapter.vectors import reference_texts
from moee_index.bench.vector_cache.encoder import StoredEncoder
from moee_index.bench.vector_cache.store import VectorStore
from moee_index.errors import MisuseError, ModelError
from moee_index.index import build_index
from moee_index.types import Embeddings
from stress.conformance import failures, text_tasks

NAMES = [f"t{i}" for i in range(240)]
DOCUMENTS, QUERIES = NAMES[:200], NAMES[200:]
ALPHAS = [0.0, 0.4, 1.0, 3.0]


@pytest.fixture
def given(tmp_path: Path) -> tuple[StoredEncoder, Embeddings]:
    """Random vectors of the texts t0, t1, …; no model can be loaded."""
    embeddings = random_embeddings(len(NAMES))
    stored = with_vectors(tmp_path, NAMES, embeddings)
    texts = reference_texts()
    put(stored.store, stored.identity.key(False), texts, random_embeddings(len(texts), seed=9))
    return stored, embeddings


def sums(embeddings: Embeddings, fitted: Embeddings, alpha: float) -> np.ndarray:
    """sim_HS + α·sim_RW of every query and document in float64, [queries, documents]."""
    found = np.zeros((len(QUERIES), len(DOCUMENTS)))
    for part, weight in (("hs", 1.0), ("rw", alpha)):
        rows = getattr(embeddings, part).astype(np.float64)
        base = getattr(fitted, part).astype(np.float64)
        rows = (rows - base.mean(0)) / base.std(0, ddof=1)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        found += weight * rows[200:] @ rows[:200].T
    return found


def corpus_of(embeddings: Embeddings) -> Embeddings:
    return Embeddings(embeddings.hs[:200], embeddings.rw[:200])


def relevant(seed: int = 0) -> dict[str, dict[str, int]]:
    rng = np.random.default_rng(seed)
    return {f"q{i}": {f"d{d}": 1 for d in rng.integers(0, 200, 5)} for i in range(len(QUERIES))}


def ask(model: MoeeSearch, task: Any, top_k: int, **options: Any) -> dict[str, dict[str, float]]:
    split = task.dataset["default"]["test"]
    place = {"task_metadata": task.metadata, "hf_split": "test", "hf_subset": "default"}
    model.index(split["corpus"], **place, encode_kwargs={}, num_proc=None)
    return model.search(
        split["queries"],
        **place,
        top_k=top_k,
        encode_kwargs={},
        num_proc=None,
        top_ranked=split["top_ranked"],
        **options,
    )


def test_every_search_task_of_mteb_runs(tmp_path: Path) -> None:
    stored = StoredEncoder.open(VectorStore(tmp_path), PARITY / "olmoe", bits=32)
    check_list("search", text_tasks(search=True))
    for setting in (
        Setting("sum"),
        Setting("concat", fit="calibrated"),
        Setting("rw", fit="batch"),
    ):
        assert of_known("search", failures(MoeeSearch(stored, setting))) == []


def test_a_task_that_gives_no_result_is_named(tmp_path: Path) -> None:
    class Broken(MoeeSearch):
        def search(self, queries: Any, **options: Any) -> Any:
            raise ModelError("out of order")

    found = failures(Broken(stored_over(tmp_path), Setting("hs")))
    assert len(found) == len(text_tasks(search=True))
    assert all("out of order" in line for line in found)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_retrieval_ranks_by_the_sum(given: tuple[StoredEncoder, Embeddings], alpha: float) -> None:
    stored, embeddings = given
    task = search_task(DOCUMENTS, QUERIES, relevant())
    expected = sums(embeddings, corpus_of(embeddings), alpha)
    found = ask(MoeeSearch(stored, Setting("sum", alpha)), task, top_k=10)
    for row, scores in enumerate(expected):
        hits = found[f"q{row}"]
        best = np.argsort(-scores)[:11]
        assert list(hits) == [f"d{d}" for d in best]
        np.testing.assert_allclose(list(hits.values()), scores[best], atol=1e-6)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_reranking_ranks_by_the_sum(given: tuple[StoredEncoder, Embeddings], alpha: float) -> None:
    stored, embeddings = given
    rng = np.random.default_rng(5)
    lists = {f"q{i}": [f"d{d}" for d in rng.permutation(200)[: 3 + i]] for i in range(len(QUERIES))}
    task = search_task(DOCUMENTS, QUERIES, relevant(), lists)
    # The standardizer is the corpus', not the candidates'.
    expected = sums(embeddings, corpus_of(embeddings), alpha)
    found = ask(MoeeSearch(stored, Setting("sum", alpha)), task, top_k=1000)
    for row, scores in enumerate(expected):
        candidates = [int(name[1:]) for name in lists[f"q{row}"]]
        best = sorted(candidates, key=lambda d: -scores[d])
        assert list(found[f"q{row}"]) == [f"d{d}" for d in best]
        np.testing.assert_allclose(list(found[f"q{row}"].values()), scores[best], atol=1e-6)


def by_words(documents: list[str], query: str) -> np.ndarray:
    """BM25 as Lucene has it, over its largest: float64 [documents]."""
    split = [document.split() for document in documents]
    average = sum(map(len, split)) / len(split)
    found = np.zeros(len(split))
    for word in query.split():
        held = sum(word in words for words in split)
        idf = math.log(1 + (len(split) - held + 0.5) / (held + 0.5))
        for row, words in enumerate(split):
            often = words.count(word)
            found[row] += idf * often / (often + 1.2 * (0.25 + 0.75 * len(words) / average))
    return found / (found.max() or 1.0)


@pytest.mark.parametrize("lexical", [0.4, 1.0])
@pytest.mark.parametrize("reranking", [False, True])
def test_words_count_by_the_statistics_of_the_corpus(
    tmp_path: Path, lexical: float, reranking: bool
) -> None:
    names = [" ".join(f"w{(n * k) % 13}" for k in range(1, 4 + n % 9)) for n in range(240)]
    documents, queries = [f"{name} d{n}" for n, name in enumerate(names[:200])], names[200:]
    embeddings = random_embeddings(240)
    stored = with_vectors(tmp_path, [*documents, *queries], embeddings)
    lists = {f"q{i}": [f"d{(i * 7 + j) % 200}" for j in range(50)] for i in range(len(queries))}
    task = search_task(documents, queries, relevant(), lists if reranking else None)
    setting = Setting("words" if lexical == 1 else "sum", None, lexical=lexical)
    found = ask(MoeeSearch(stored, setting), task, top_k=200)
    dense = sums(embeddings, corpus_of(embeddings), 1.0) / 2
    for number, query in enumerate(queries):
        words = by_words(documents, query)
        expected = (1 - lexical) * dense[number] + lexical * words
        of_query = found[f"q{number}"]
        # By words alone a search finds what holds one, a reranking leaves out nothing.
        there = set(range(200)) if lexical < 1 else set(np.flatnonzero(words).tolist())
        rows = {int(name[1:]) for name in lists[f"q{number}"]} if reranking else there
        assert {int(name[1:]) for name in of_query} == rows
        for name, score in of_query.items():
            assert score == pytest.approx(expected[int(name[1:])], abs=2e-6)


def test_words_alone_are_a_method_and_need_an_index() -> None:
    for wrong in ({"method": "words"}, {"method": "hs", "lexical": 1.0}):
        with pytest.raises(MisuseError, match="1 is words"):
            Setting(**wrong)
    with pytest.raises(MisuseError, match=r"lexical is 1\.5"):
        Setting("hs", lexical=1.5)
    with pytest.raises(MisuseError, match="fit batch has none"):
        Setting("hs", fit="batch", lexical=0.4)


@pytest.mark.parametrize("fit", ["corpus", "calibrated", "batch"])
@pytest.mark.parametrize("method", ["hs", "rw", "concat", "sum"])
@pytest.mark.parametrize("reranking", [False, True])
def test_the_index_and_mteb_own_search_agree(
    given: tuple[StoredEncoder, Embeddings], method: str, fit: str, reranking: bool
) -> None:
    stored, _ = given
    setting = Setting(method, 0.7 if method == "sum" else None, fit=fit)
    lists = {f"q{i}": [f"d{(i * 7 + j) % 200}" for j in range(50)] for i in range(len(QUERIES))}
    task = search_task(DOCUMENTS, QUERIES, relevant(), lists if reranking else None)
    encoder = MoeeEncoder(stored, setting)
    encoder.prepare(task, "test", "default")
    searching = MoeeSearch(stored, setting)
    searching.prepare(task, "test", "default")
    by_encoder, by_search = scores_of(encoder, task), scores_of(searching, task)
    assert "ndcg_at_10" in by_encoder
    for metric in {"ndcg_at_10", "map_at_100", "recall_at_20", "mrr_at_10"} & by_encoder.keys():
        assert by_search[metric] == pytest.approx(by_encoder[metric], abs=1e-6)


def test_calibrated_scores_do_not_depend_on_the_corpus(
    given: tuple[StoredEncoder, Embeddings],
) -> None:
    stored, embeddings = given
    expected = sums(embeddings, random_embeddings(400, seed=9), 1.0)
    task = search_task(DOCUMENTS, QUERIES, relevant())
    found = ask(MoeeSearch(stored, Setting("sum", fit="calibrated")), task, top_k=5)
    for row, scores in enumerate(expected):
        best = np.argsort(-scores)[:6]
        assert list(found[f"q{row}"]) == [f"d{d}" for d in best]
        np.testing.assert_allclose(list(found[f"q{row}"].values()), scores[best], atol=1e-5)


def test_settings_share_an_index_and_another_corpus_drops_it(
    given: tuple[StoredEncoder, Embeddings], monkeypatch: pytest.MonkeyPatch
) -> None:
    stored, _ = given
    built: list[Path] = []

    def counted(directory: Path, *args: Any, **options: Any) -> Any:
        built.append(directory)
        return build_index(directory, *args, **options)

    monkeypatch.setattr(search, "build_index", counted)
    task = search_task(DOCUMENTS, QUERIES, relevant())
    for setting in (Setting("hs"), Setting("sum"), Setting("sum", 0.2), Setting("concat")):
        scores_of(MoeeSearch(stored, setting), task)
    assert len(built) == 1
    first = MoeeSearch(stored, Setting("sum", standardize="none"))
    scores_of(first, task)
    scores_of(first.with_setting(Setting("rw", standardize="none")), task)
    assert len(built) == 2
    assert all(path.exists() for path in built)
    scores_of(first, search_task(DOCUMENTS[:100], QUERIES, relevant()))
    assert len(built) == 3
    assert [path.exists() for path in built] == [False, False, True]


def test_indexes_go_with_their_encoder(tmp_path: Path) -> None:
    stored = stored_over(tmp_path)
    task = search_task(["a b", "c"], ["a"], {"q0": {"d0": 1}})
    scores_of(MoeeSearch(stored, Setting("hs", standardize="none")), task)
    (directory,) = {built.index.directory for built in search._INDEXES[stored]._built.values()}
    assert directory.exists()
    del stored
    gc.collect()
    assert not directory.exists()


def test_documents_without_text_are_never_found(tmp_path: Path) -> None:
    stored = stored_over(tmp_path)
    texts = ["a b", "", "c d", "  ", "b a"]
    ranked = {"q0": ["d1", "d2", "d0"], "q1": ["d3"]}
    marks = {"q0": {"d0": 1}, "q1": {"d2": 1}}
    model = MoeeSearch(stored, Setting("hs", standardize="none"))
    found = ask(model, search_task(texts, ["a b", "d"], marks), top_k=10)
    assert list(found["q0"])[:2] == ["d0", "d4"]
    assert set(found["q1"]) == {"d0", "d2", "d4"}
    found = ask(model, search_task(texts, ["a b", "d"], marks, ranked), top_k=10)
    assert list(found["q0"]) == ["d0", "d2"]
    assert found["q1"] == {}
    empty = ask(model, search_task(["", " "], ["a b"], {"q0": {"d0": 1}}), top_k=10)
    assert empty == {"q0": {}}


def test_a_candidate_that_is_not_in_the_corpus_is_named(tmp_path: Path) -> None:
    task = search_task(["a", "b"], ["c"], {"q0": {"d0": 1}}, {"q0": ["d0", "d7"]})
    with pytest.raises(MisuseError, match="'d7' of query 'q0'"):
        ask(MoeeSearch(stored_over(tmp_path), Setting("hs")), task, top_k=10)


def test_searching_before_indexing_is_refused(tmp_path: Path) -> None:
    task = search_task(["a"], ["b"], {"q0": {"d0": 1}})
    with pytest.raises(MisuseError, match="index"):
        MoeeSearch(stored_over(tmp_path), Setting("hs")).search(
            task.dataset["default"]["test"]["queries"],
            task_metadata=task.metadata,
            hf_split="test",
            hf_subset="default",
            top_k=3,
        )


def test_an_index_is_built_from_stored_vectors_alone(
    given: tuple[StoredEncoder, Embeddings],
) -> None:
    stored, _ = given
    scores_of(MoeeSearch(stored, Setting("sum")), search_task(DOCUMENTS, QUERIES, relevant()))
    assert stored.texts_computed == 0
    assert not stored.loaded

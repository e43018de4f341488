"""Choosing α by judged queries or without labels, saving it, and the command that does both."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st
from paths import PARITY

from fakes.indexes import fake_documents, without_postings
from fakes.word_encoder import FakeEncoder, GivenEncoder
from moee_index.atomic import WriterLock
from moee_index.cli import cli
from moee_index.errors import CorpusError, IndexLockedError, MisuseError, NotAnIndexError
from moee_index.index import Index, build_index, reindex, verify_index
from moee_index.index.change import save_alpha, save_weights
from moee_index.index.search import pair
from moee_index.index.store.manifest import Manifest
from moee_index.readers.trec import Qrels
from moee_index.tune import metrics as measures
from moee_index.tune import unlabelled as agreement
from moee_index.tune.correlation import average_ranks, spearman
from moee_index.tune.labelled import (
    ALPHAS,
    WEIGHTS,
    Point,
    Trial,
    Tuning,
    best,
    bootstrap_interval,
)
from moee_index.tune.labelled import tune_with_labels as tune
from moee_index.tune.unlabelled import sample_pairs, tune_without_labels
from moee_index.types import Document, Embeddings, Query

DOCUMENTS, QUERIES, HS, RW = 100, 60, 24, 12


def build(path: Path, given: Embeddings, count: int, **options: Any) -> Path:
    """An index of rows 0…count of the given embeddings; document i is called d<i>."""
    build_index(path, documents(count), GivenEncoder(given), **options)
    return path


def documents(count: int) -> list[Document]:
    return [Document(f"d{i}", str(i), {}, source=f"c.jsonl:{i + 1}") for i in range(count)]


def normal(seed: int, count: int, hs: int = HS, rw: int = RW) -> Embeddings:
    rng = np.random.default_rng(seed)
    return Embeddings(
        rng.standard_normal((count, hs)).astype(np.float32),
        rng.standard_normal((count, rw)).astype(np.float32),
    )


class Case:
    """Documents d0…d99 and queries whose one relevant document is known. Query i is row 100 + i."""

    def __init__(self, tmp_path: Path, *, hs: float, rw: float, seed: int = 5) -> None:
        """hs, rw: how much of the relevant document a query has in a part; the rest is noise."""
        rows = normal(seed, DOCUMENTS + QUERIES)
        right = np.random.default_rng(seed).integers(0, DOCUMENTS, QUERIES)
        rows.hs[DOCUMENTS:] += hs * rows.hs[right]
        rows.rw[DOCUMENTS:] += rw * rows.rw[right]
        self.given = rows
        self.directory = build(tmp_path / "index", rows, DOCUMENTS)
        self.queries = [Query(f"q{i}", str(DOCUMENTS + i), "") for i in range(QUERIES)]
        self.qrels: Qrels = {f"q{i}": {f"d{found}": 1} for i, found in enumerate(right)}
        self.told: list[str] = []

    @property
    def encoder(self) -> GivenEncoder:
        return GivenEncoder(self.given)

    def tune(self, queries: list[Query] | None = None) -> Tuning:
        with Index.open(self.directory) as index:
            trial = Trial.split(index, queries or self.queries, self.qrels, self.told.append)
            return tune(index, self.encoder, trial, notify=self.told.append)

    def write(self, folder: Path) -> list[str]:
        """The case as files; the options that name them."""
        (folder / "q.tsv").write_text("".join(f"{q.id}\t{q.text}\n" for q in self.queries))
        lines = [f"{q}\t{d}\t{r}\n" for q, judged in self.qrels.items() for d, r in judged.items()]
        (folder / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(lines))
        return ["--queries", str(folder / "q.tsv"), "--qrels", str(folder / "qrels.tsv")]


def value(found: Tuning, alpha: float) -> float:
    return next(point.value for point in found.curve if point.alpha == alpha)


# With judgements


def test_where_rw_carries_the_relevance_alpha_is_large(tmp_path: Path) -> None:
    found = Case(tmp_path, hs=0.0, rw=2.0).tune()
    assert found.alpha >= 1.5
    assert found.held_out is not None
    assert found.held_out.rw > 0.8 > 0.3 > found.held_out.hs
    assert found.held_out.gain > 0 and found.held_out.low > 0
    assert value(found, 0.0) < value(found, 1.0) < value(found, found.alpha)
    assert (found.previous, found.objective) == (1.0, "ndcg@10")
    assert (found.queries, found.held_out.queries, found.documents) == (60, 30, 100)
    assert [point.alpha for point in found.curve] == list(ALPHAS)


def test_where_hs_carries_it_and_rw_misleads_alpha_is_0(tmp_path: Path) -> None:
    case = Case(tmp_path, hs=0.6, rw=-2.0)
    found = case.tune()
    assert found.alpha == 0.0
    assert found.held_out is not None
    assert found.held_out.chosen == found.held_out.hs > found.held_out.current
    assert found.held_out.low > 0
    assert not any("warning" in told for told in case.told)


def test_a_gain_within_noise_is_told(tmp_path: Path) -> None:
    case = Case(tmp_path, hs=0.0, rw=0.0, seed=6)
    found = case.tune()
    assert found.held_out is not None and found.alpha != 1.0
    assert found.held_out.low <= 0 <= found.held_out.high
    assert [told for told in case.told if "within noise" in told]


def test_no_gain_is_told_of_the_alpha_that_the_index_has(tmp_path: Path) -> None:
    case = Case(tmp_path, hs=0.0, rw=2.0)
    first = case.tune()
    save_alpha(case.directory, first.alpha)
    again = case.tune()
    assert (again.alpha, again.previous) == (first.alpha, first.alpha)
    assert again.held_out is not None
    assert (again.held_out.gain, again.held_out.low, again.held_out.high) == (0.0, 0.0, 0.0)
    assert "no gain to report" in case.told[-1]


def test_a_loss_beyond_noise_is_told(tmp_path: Path) -> None:
    case = Case(tmp_path, hs=0.0, rw=2.0)
    with Index.open(case.directory) as index:
        halves = Trial.split(index, case.queries, case.qrels)
        # Judged so that the choosing half wants HS: its relevant documents are HS's best.
        hs_best = index.search_embeddings(
            case.encoder.encode([query.text for query in halves.choosing]), 1, method="hs"
        )
    for query, hits in zip(halves.choosing, hs_best, strict=True):
        case.qrels[query.id] = {hits[0].id: 1}
    found = case.tune()
    assert found.alpha < 1 and found.held_out is not None and found.held_out.high < 0
    assert "does worse" in case.told[-1]


def test_the_order_of_the_queries_changes_nothing(tmp_path: Path) -> None:
    case = Case(tmp_path, hs=0.4, rw=0.8)
    shuffled = list(np.random.default_rng(1).permutation(np.array(case.queries, dtype=object)))
    assert case.tune() == case.tune(shuffled)
    with Index.open(case.directory) as index:
        halves = Trial.split(index, case.queries, case.qrels)
        others = Trial.split(index, shuffled, dict(reversed(case.qrels.items())))
        odd = Trial.split(index, case.queries[:41], case.qrels)
    assert (halves.choosing, halves.held_out) == (others.choosing, others.held_out)
    names = {query.id for query in halves.choosing}, {query.id for query in halves.held_out}
    assert not names[0] & names[1] and names[0] | names[1] == set(case.qrels)
    assert (len(odd.choosing), len(odd.held_out)) == (21, 20)
    # As sha256sum orders them: another version of the program must choose the same halves.
    assert [query.id for query in halves.choosing[:5]] == ["q38", "q18", "q7", "q24", "q4"]


def test_ndcg_is_that_of_an_independent_computation(tmp_path: Path) -> None:
    case = Case(tmp_path, hs=0.4, rw=0.8)
    for number, judged in enumerate(case.qrels.values()):  # graded, and some not in the index
        judged.update({f"d{number}": 2, f"d{number + 3}": 0, f"absent{number}": 1 + number % 3})
    found = case.tune()
    with Index.open(case.directory) as index:
        halves = Trial.split(index, case.queries, case.qrels)
    z = {}
    for part in ("hs", "rw"):
        rows = getattr(case.given, part).astype(np.float64)
        corpus = rows[:DOCUMENTS]
        standard = (rows - corpus.mean(axis=0)) / corpus.std(axis=0, ddof=1)
        z[part] = standard / np.linalg.norm(standard, axis=1, keepdims=True)
    for alpha in (0.0, 0.7, 5.0):
        values = []
        for query in halves.choosing:
            row = int(query.text)
            scores = z["hs"][:DOCUMENTS] @ z["hs"][row] + alpha * z["rw"][:DOCUMENTS] @ z["rw"][row]
            judged = case.qrels[query.id]
            gains = [judged.get(f"d{best}", 0) for best in np.argsort(-scores)[:10]]
            ideal = sorted(judged.values(), reverse=True)[:10]
            dcg, top = (
                sum(gain / math.log2(place + 2) for place, gain in enumerate(list_))
                for list_ in (gains, ideal)
            )
            values.append(dcg / top)
        assert value(found, alpha) == pytest.approx(np.mean(values), abs=1e-9)


def test_ndcg_is_that_of_the_run_that_a_search_gives(tmp_path: Path) -> None:
    case = Case(tmp_path, hs=0.4, rw=0.8)
    found = case.tune()
    assert found.held_out is not None
    with Index.open(case.directory, case.encoder) as index:
        held_out = Trial.split(index, case.queries, case.qrels).held_out
        for searched, told in (
            ({"alpha": found.alpha}, found.held_out.chosen),
            ({}, found.held_out.current),
            ({"method": "hs"}, found.held_out.hs),
            ({"method": "rw"}, found.held_out.rw),
        ):
            answers = index.search([query.text for query in held_out], 10, **searched)
            run = {
                query.id: {hit.id: hit.score for hit in hits}
                for query, hits in zip(held_out, answers, strict=True)
            }
            assert told == pytest.approx(measures.ndcg(case.qrels, run), abs=1e-12)
    gain = found.held_out.chosen - found.held_out.current
    assert found.held_out.gain == pytest.approx(gain, abs=1e-12)
    assert found.held_out.low <= gain <= found.held_out.high


def test_blocks_of_queries_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(tmp_path, hs=0.4, rw=0.8)
    whole, moves = case.tune(), []
    monkeypatch.setattr("moee_index.tune.labelled.BLOCK", 7)
    with Index.open(case.directory) as index:
        trial = Trial.split(index, case.queries, case.qrels)
        encoder = case.encoder
        found = tune(index, encoder, trial, progress=lambda *moved: moves.append(moved))
    assert found == whole
    assert moves[0] == ("searching", 7, 60) and moves[-1] == ("searching", 60, 60)


def test_what_cannot_be_measured_is_told(tmp_path: Path) -> None:
    case = Case(tmp_path, hs=0.4, rw=0.8)
    case.qrels["q0"]["elsewhere"] = 1
    case.qrels["q1"]["nowhere"] = 0
    case.qrels["q2"] = {"d1": 0}
    case.qrels["other"] = {"d1": 1}
    found = case.tune(case.queries[:30])
    assert found.queries == 29
    told = "\n".join(case.told)
    assert "29 have a relevant judgement, of 30 read; 31 judged ones are not among them" in told
    assert "2 of" in told and "(1 of" in told and "not in the index" in told
    assert "a half has only 14 queries" in told


def test_equal_values_leave_alpha_near_1() -> None:
    points = [Point(alpha, 0.5) for alpha in (0.0, 0.4, 1.5, 5.0)]
    assert best(points).alpha == 1.5
    assert best([*points, Point(0.5, 0.5)]).alpha == 0.5
    assert best([Point(0.3, 0.5 - 1e-13), Point(0.1, 0.5)]).alpha == 0.3
    assert best([Point(0.3, 0.5 - 1e-11), Point(0.1, 0.5)]).alpha == 0.1


def test_the_bootstrap_is_the_known_one() -> None:
    values = np.random.default_rng(3).standard_normal(400) + 0.1
    low, high = bootstrap_interval(values)
    error = 1.96 * values.std() / math.sqrt(400)
    assert low == pytest.approx(values.mean() - error, abs=0.1 * error)
    assert high == pytest.approx(values.mean() + error, abs=0.1 * error)
    assert (low, high) == bootstrap_interval(values.copy())
    assert bootstrap_interval(np.full(5, 0.25)) == (0.25, 0.25)


# Without labels


@pytest.mark.parametrize(("hs", "rw"), [(24, 12), (12, 48), (64, 8)])
def test_without_labels_the_two_spreads_are_balanced(tmp_path: Path, hs: int, rw: int) -> None:
    """Cosines of random vectors spread by 1/√d, and J is highest where α = σ_h/σ_r."""
    given = normal(1, 400, hs, rw)
    with Index.open(build(tmp_path / "index", given, 400)) as index:
        found = tune_without_labels(index)
    assert found.alpha == pytest.approx(math.sqrt(rw / hs), rel=0.1)
    assert (found.objective, found.held_out, found.queries) == ("spearman", None, 0)
    assert (found.documents, found.pairs) == (400, 20_000)
    alphas = [point.alpha for point in found.curve]
    assert alphas == sorted(alphas) and set(ALPHAS) < set(alphas)
    # Uncorrelated parts of equal weight: Pearson's √½, of which Spearman's is a little less.
    assert value(found, found.alpha) == pytest.approx(math.sqrt(0.5), abs=0.03)


def test_beyond_the_grid_the_search_goes_on(tmp_path: Path) -> None:
    given = normal(2, 300)
    given.rw[:] = 1 + 0.1 * given.rw  # as raw probabilities: all cosines near 1
    with Index.open(build(tmp_path / "index", given, 300, standardize="none")) as index:
        found = tune_without_labels(index)
        _, hs, rw = sample_pairs(index)
    assert found.alpha > 5
    assert found.alpha == pytest.approx(hs.std() / rw.std(), rel=0.15)


def test_a_curve_that_is_not_smooth_gives_its_best_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = normal(2, 6)
    told: list[str] = []
    monkeypatch.setattr(agreement, "_rises_then_falls", lambda values: False)
    with Index.open(build(tmp_path / "index", given, 6)) as index:
        found = tune_without_labels(index, notify=told.append)
    assert found.alpha in ALPHAS
    assert [point.alpha for point in found.curve][: len(ALPHAS)] == list(ALPHAS)
    assert "6 documents make only 15 pairs" in told[0] and "not smooth" in told[1]
    monkeypatch.undo()
    assert agreement._rises_then_falls([1, 2, 2, 1]) and agreement._rises_then_falls([3, 2, 1])
    assert not agreement._rises_then_falls([1, 3, 2, 3])


def test_the_same_documents_give_the_same_alpha_in_any_order(tmp_path: Path) -> None:
    given = normal(4, 150)
    found = []
    for name, order in (("one", 1), ("again", 1), ("reversed", -1)):
        build_index(tmp_path / name, documents(150)[::order], GivenEncoder(given))
        with Index.open(tmp_path / name) as index:
            assert list(index.ids()) == [document.id for document in documents(150)][::order]
            found.append(tune_without_labels(index))
    assert found[0] == found[1]
    assert found[0].alpha == found[2].alpha
    for one, other in zip(found[0].curve, found[2].curve, strict=True):
        assert one.value == pytest.approx(other.value, abs=1e-6)


@pytest.mark.parametrize("count", [3, 4, 7, 10])
def test_few_documents_are_all_paired(tmp_path: Path, count: int) -> None:
    given = normal(6, count)
    with Index.open(build(tmp_path / "index", given, count)) as index:
        sampled, hs, rw = sample_pairs(index)
    assert sampled == count
    upper = np.triu_indices(count, 1)
    for part, found in (("hs", hs), ("rw", rw)):
        units = getattr(given, part).astype(np.float64)
        units /= np.linalg.norm(units, axis=1, keepdims=True)
        assert np.sort(found) == pytest.approx(np.sort((units @ units.T)[upper]), abs=1e-12)


def test_the_sample_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agreement, "SAMPLE", 20)
    monkeypatch.setattr(agreement, "PAIRS", 50)
    with Index.open(build(tmp_path / "index", normal(6, 90), 90)) as index:
        sampled, hs, rw = sample_pairs(index)
    assert (sampled, len(hs), len(rw)) == (20, 40, 40)
    assert len(np.unique(hs)) == 40


def test_spearman_is_that_of_scipy() -> None:
    scipy = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(8)
    x, y = rng.integers(0, 6, 200).astype(np.float64), rng.standard_normal(200)
    y += 0.3 * x
    assert spearman(x, y) == pytest.approx(scipy.spearmanr(x, y).statistic, abs=1e-12)
    assert spearman(x, -x) == pytest.approx(-1.0)
    assert average_ranks(np.array([3.0, 1.0, 3.0, 2.0])).tolist() == [3.5, 1, 3.5, 2]
    assert spearman(np.ones(5), y[:5]) == 0.0


# What cannot be tuned


def test_what_cannot_be_tuned_says_so(tmp_path: Path) -> None:
    case = Case(tmp_path, hs=0.4, rw=0.8)
    with Index.open(build(tmp_path / "two", case.given, 2)) as small:
        with pytest.raises(MisuseError, match="holds 2 documents"):
            tune_without_labels(small)
        with pytest.raises(MisuseError, match="holds 2 documents"):
            Trial.split(small, case.queries, case.qrels)
    alike = replace(case.given, rw=np.ones_like(case.given.rw))
    with (
        Index.open(build(tmp_path / "alike", alike, 70)) as index,
        pytest.raises(MisuseError, match=r"RW similarities of 2415 pairs .* all equal"),
    ):
        tune_without_labels(index)
    with Index.open(case.directory) as index:
        with pytest.raises(CorpusError, match="judge no document as relevant"):
            Trial.split(index, case.queries, {"q1": {"d1": 0}})
        with pytest.raises(CorpusError, match="1 of 60 queries"):
            Trial.split(index, case.queries, {"q1": {"d1": 1}, "other": {"d1": 1}})
        with pytest.raises(CorpusError, match="none of the 2 relevant documents"):
            Trial.split(index, case.queries, {"q1": {"x": 1, "d3": 0}, "q2": {"y": 1}})


# Saving


def test_a_saved_alpha_is_the_indexs_own(tmp_path: Path) -> None:
    directory = tmp_path / "index"
    build_index(directory, fake_documents(70), FakeEncoder())
    with Index.open(directory, FakeEncoder()) as reader:
        save_alpha(directory, 0.37)
        assert reader.alpha == 1.0
        before = reader.search("w3 w4", alpha=0.37)
    with Index.open(directory, FakeEncoder()) as index:
        assert index.alpha == 0.37
        assert index.search("w3 w4") == before
    assert verify_index(directory, full=True).problems == []
    assert not list(directory.glob("*.tmp"))


def test_saving_refuses_what_it_cannot_do(tmp_path: Path) -> None:
    directory = tmp_path / "index"
    build_index(directory, fake_documents(10), FakeEncoder())
    with WriterLock(directory), pytest.raises(IndexLockedError, match="another process"):
        save_alpha(directory, 0.5)
    for wrong in (-1.0, math.nan, math.inf):
        with pytest.raises(MisuseError, match="alpha"):
            save_alpha(directory, wrong)
    with Index.open(directory) as index:
        assert index.alpha == 1.0
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotAnIndexError):
        save_alpha(tmp_path / "empty", 0.5)
    assert not list((tmp_path / "empty").iterdir())


# Words


class NumberedEncoder(GivenEncoder):
    """Embeds a text as the row that its first word names."""

    def vectors(self, texts: Sequence[str]) -> Embeddings:
        return super().vectors([text.split()[0] for text in texts])


class WordsCase(Case):
    """As `Case`, where a query shares rare words with its document, or with another one."""

    def __init__(self, tmp_path: Path, *, hs: float, words: float, seed: int = 5) -> None:
        """words: in how many queries they are the relevant document's."""
        super().__init__(tmp_path, hs=hs, rw=0.0, seed=seed)
        rng = np.random.default_rng(seed)
        (tmp_path / "words").mkdir()
        self.directory = tmp_path / "words" / "index"
        texts = [replace(d, text=f"{d.text} rare{d.id} common") for d in documents(DOCUMENTS)]
        build_index(self.directory, texts, self.encoder)
        for number, query in enumerate(self.queries):
            (right,) = self.qrels[query.id]
            named = right if rng.random() < words else f"d{rng.integers(DOCUMENTS)}"
            self.queries[number] = replace(query, text=f"{query.text} rare{named} common")

    @property
    def encoder(self) -> GivenEncoder:
        return NumberedEncoder(self.given)


def test_words_and_alpha_are_chosen_together(tmp_path: Path) -> None:
    case = WordsCase(tmp_path, hs=0.4, words=0.7)
    found = case.tune()
    assert found.lexical is not None and 0 < found.lexical < 1
    assert [point.lexical for point in found.lexical_curve] == list(WEIGHTS)
    chosen = next(point for point in found.lexical_curve if point.lexical == found.lexical)
    assert chosen.alpha == found.alpha and chosen.value == value(found, found.alpha)
    assert chosen.value > max(found.lexical_curve[0].value, found.lexical_curve[-1].value)
    held_out = found.held_out
    assert held_out is not None and held_out.dense is not None and held_out.words is not None
    assert held_out.chosen > max(held_out.dense, held_out.words) and held_out.low > 0
    assert held_out.dense_alpha == found.lexical_curve[0].alpha
    with Index.open(case.directory, case.encoder) as index:
        trial = Trial.split(index, case.queries, case.qrels)
        texts = [query.text for query in trial.held_out]
        for options, mean in (
            ({"alpha": found.alpha, "lexical": found.lexical}, held_out.chosen),
            ({"lexical": 0}, held_out.current),
            ({"alpha": held_out.dense_alpha, "lexical": 0}, held_out.dense),
            ({"lexical": 1}, held_out.words),
        ):
            answers = index.search(texts, 10, **options)
            run_of = {
                query.id: {hit.id: hit.score for hit in hits}
                for query, hits in zip(trial.held_out, answers, strict=True)
            }
            judged = {query.id: case.qrels[query.id] for query in trial.held_out}
            assert measures.ndcg(judged, run_of, 10) == pytest.approx(mean, abs=1e-12)


@settings(deadline=None, max_examples=3)
@given(st.floats(0, 1), st.floats(0, 1), st.integers(0, 99))
def test_together_is_never_less_than_each_alone(
    tmp_path_factory: pytest.TempPathFactory, hs: float, words: float, seed: int
) -> None:
    case = WordsCase(tmp_path_factory.mktemp("case"), hs=hs, words=words, seed=seed)
    found = case.tune()
    top = max(point.value for point in found.lexical_curve)
    assert value(found, found.alpha) >= top - 1e-12
    assert found.lexical == min(
        point.lexical for point in found.lexical_curve if point.value >= top - 1e-12
    )
    without_postings(case.directory)
    alone = case.tune()
    assert alone.lexical is None and alone.lexical_curve == ()
    first = found.lexical_curve[0]
    assert (first.alpha, first.value) == (alone.alpha, value(alone, alone.alpha))
    assert first.value <= top


def test_without_postings_alpha_is_chosen_alone_and_told(tmp_path: Path) -> None:
    case = WordsCase(tmp_path, hs=0.4, words=0.7)
    save_weights(case.directory, 1.0, 0.4)
    without_postings(case.directory)
    found = case.tune()
    assert any("no postings, so only α is chosen" in told for told in case.told)
    assert found.held_out is not None
    assert (found.held_out.dense, found.held_out.dense_alpha, found.held_out.words) == (None,) * 3
    save_weights(case.directory, found.alpha, found.lexical)
    assert Manifest.read(case.directory).lexical_weight == 0.4


def test_the_indexs_own_weight_is_tried_and_kept_where_it_is_best(tmp_path: Path) -> None:
    case = WordsCase(tmp_path, hs=0.4, words=0.7)
    save_weights(case.directory, 1.0, 0.35)
    found = case.tune()
    assert found.previous_lexical == 0.35
    assert 0.35 in {point.lexical for point in found.lexical_curve}
    save_weights(case.directory, found.alpha, found.lexical)
    case.told.clear()
    again = case.tune()
    assert (again.alpha, again.lexical) == (found.alpha, found.lexical)
    assert again.held_out is not None and again.held_out.gain == 0
    assert "no gain to report" in case.told[-1]


def test_the_command_saves_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = WordsCase(tmp_path, hs=0.4, words=0.7)
    monkeypatch.setattr("moee_index.cli.tune.load_encoder_of", lambda *_: case.encoder)
    files = case.write(tmp_path)
    found = json.loads(run(case.directory, *files, "--json").stdout)
    assert found["previous_lexical"] == 0 < found["lexical"] < 1
    assert list(found["lexical_curve"][0]) == ["lexical", "alpha", "value"]
    table = run(case.directory, *files, "--save").stdout
    assert f"α {found['alpha']:g} with words {found['lexical']:g} is now the default" in table
    assert "(it was 1 with words 0)" in table
    assert "words alone" in table and "without words" in table
    with Index.open(case.directory, case.encoder) as index:
        assert (index.alpha, index.lexical) == (found["alpha"], found["lexical"])
        query = case.queries[0].text
        assert index.search(query) == index.search(
            query, alpha=found["alpha"], lexical=found["lexical"]
        )


def test_an_approximate_index_is_told_what_it_finds_for_judged_queries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights are chosen on exact answers; the recall is that of its own, and is kept with it."""
    monkeypatch.setattr(pair, "SCANNED_ROWS", 0)
    monkeypatch.setattr(pair, "SCANNED_SHARE", 0)
    case = Case(tmp_path, hs=0.6, rw=0.6)
    exact = case.tune()
    assert exact.recall is None
    reindex(case.directory, index_type="approx", recall=0.3)
    found = case.tune()
    assert replace(found, recall=None) == exact
    assert found.recall is not None
    monkeypatch.setattr("moee_index.cli.tune.load_encoder_of", lambda *_: case.encoder)
    told = run(case.directory, *case.write(tmp_path), "--save").stdout
    assert f"recall@10 of the approximate index over {QUERIES} judged queries" in told
    approximation = Manifest.read(case.directory).approximation
    assert approximation is not None
    assert approximation.judged == found.recall
    with Index.open(case.directory) as index:
        assert index.alpha == found.alpha
        assert index.info()["approximate"]["judged"]["recall"] == found.recall.recall


# The command


def run(*args: str | Path, status: int = 0) -> Result:
    result = CliRunner().invoke(cli, ["tune", *map(str, args)])
    assert result.exit_code == status, (result.exit_code, result.stdout, result.stderr)
    return result


KEYS = [
    "index",
    "alpha",
    "previous",
    "objective",
    "curve",
    "held_out",
    "queries",
    "documents",
    "lexical",
    "previous_lexical",
    "lexical_curve",
    "saved",
]


@pytest.fixture
def case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    made = Case(tmp_path, hs=0.0, rw=2.0)
    monkeypatch.setattr("moee_index.cli.tune.load_encoder_of", lambda *_: made.encoder)
    return made


def test_the_command_with_judgements(case: Case, tmp_path: Path) -> None:
    files, expected = case.write(tmp_path), case.tune()
    assert expected.held_out is not None
    result = run(case.directory, *files, "--json")
    found = json.loads(result.stdout)
    assert list(found) == KEYS
    assert found["index"] == str(case.directory)
    assert (found["alpha"], found["previous"], found["saved"]) == (expected.alpha, 1.0, False)
    assert found["curve"] == [{"alpha": p.alpha, "value": p.value} for p in expected.curve]
    assert found["held_out"] == vars(expected.held_out)
    assert "60 have a relevant judgement, of 60 read" in result.stderr
    with Index.open(case.directory) as index:
        assert index.alpha == 1.0
    table = run(case.directory, *files, "--save").stdout
    assert table.count("chosen") == 4
    for name in ("the index's", "HS alone", "RW alone", "gain", "95 % interval"):
        assert name in table
    assert f"α {expected.alpha:g} with words 0 is now the default" in table
    with Index.open(case.directory) as index:
        assert index.alpha == expected.alpha


def test_the_command_without_judgements(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_: object) -> None:
        raise AssertionError("no model is needed")

    monkeypatch.setattr("moee_index.cli.tune.load_encoder_of", load)
    monkeypatch.setenv("MOEE_INDEX_MODEL", "no/such-model")
    with Index.open(case.directory) as index:
        expected = tune_without_labels(index)
    result = run(case.directory, "--json", "--save")
    found = json.loads(result.stdout)
    assert list(found) == KEYS
    assert (found["alpha"], found["objective"]) == (expected.alpha, "spearman")
    assert (found["held_out"], found["queries"], found["saved"]) == (None, 0, True)
    assert found["documents"] == 100
    assert "without labels: this α" in result.stderr
    table = run(case.directory).stdout
    assert "without labels: Spearman" in table and "4950 pairs of 100 documents" in table
    assert f"keeps {expected.alpha:g}" in table


def test_a_locked_index_is_told_before_anything_is_embedded(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moee_index.cli.tune.load_encoder_of", lambda *_: 1 / 0)
    with WriterLock(case.directory):
        result = run(case.directory, *case.write(tmp_path), "--save", status=1)
    assert result.stdout == "" and "another process is writing" in result.stderr


def test_a_result_that_cannot_be_saved_is_printed(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise IndexLockedError("somebody came in between")

    monkeypatch.setattr("moee_index.index.change.save_weights", refuse)
    result = run(case.directory, "--json", "--save", status=1)
    assert json.loads(result.stdout)["saved"] is False
    assert "Error: somebody came in between" in result.stderr


@pytest.mark.parametrize(
    ("args", "status", "said"),
    [
        (("--qrels", "qrels.tsv"), 2, "--qrels needs --queries too"),
        (("--queries", "q.tsv"), 2, "--queries needs --qrels too"),
        (("--qrels", "-", "--queries", "-"), 2, "stdin"),
        (("--model", "tiny"), 2, "--model is for embedding queries"),
        (("--no-cache",), 2, "--no-cache is for embedding queries"),
        (("--qrels", "absent", "--queries", "q.tsv"), 1, "absent: no such file"),
        (("--qrels", "qrels.tsv", "--queries", "absent"), 1, "absent: no such file"),
        (("--qrels", "q.tsv", "--queries", "q.tsv"), 1, "q.tsv:1"),
        (("--qrels", "zero.tsv", "--queries", "q.tsv"), 1, "no document as relevant"),
        (("--qrels", "else.tsv", "--queries", "q.tsv"), 1, "0 of 60 queries"),
    ],
)
def test_misuse_gets_one_clear_line(
    case: Case,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    args: tuple[str, ...],
    status: int,
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("moee_index.cli.tune.load_encoder_of", lambda *_: 1 / 0)
    case.write(tmp_path)
    Path("zero.tsv").write_text("q1\td1\t0\n")
    Path("else.tsv").write_text("other 0 d1 1\n")
    result = run(case.directory, *args, status=status)
    errors = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1 and said in errors[0], result.stderr
    assert result.stdout == ""


def test_no_index_and_too_small_ones(tmp_path: Path) -> None:
    assert "no such directory" in run(tmp_path / "nowhere", "--save", status=1).stderr
    small = build(tmp_path / "two", normal(1, 2), 2)
    assert "holds 2 documents" in run(small, status=2).stderr


def test_with_a_real_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    topics = ("river", "guitar", "cheese")
    lines = [{"id": f"d{i}", "text": f"{topics[i % 3]} number {i}"} for i in range(24)]
    Path("c.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    Path("q.txt").write_text("".join(f"{topic} or not\n" for topic in topics))
    judged = [(query, line) for query in range(3) for line in range(query, 24, 3)]
    Path("qrels").write_text("".join(f"{q + 1} 0 d{line} 1\n" for q, line in judged))
    model = ["--model", str(PARITY / "olmoe")]
    built = CliRunner().invoke(cli, ["-q", "build", "c.jsonl", *model])
    assert built.exit_code == 0, built.stderr
    result = run("indexes/c", "--qrels", "qrels", "--queries", "q.txt", "--json", *model)
    found = json.loads(result.stdout)
    assert (found["queries"], found["documents"]) == (3, 24)
    assert all(0 <= point["value"] <= 1 for point in found["curve"])
    assert "a half has only 1 query (fewer" in result.stderr

"""The measures and the bench's baselines, against hand computation, trec_eval and scikit-learn."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import retrieval as retrieval
from hypothesis import given, settings
from hypothesis import strategies as st

from moee_index.bench import baselines
from moee_index.tune import metrics as measures

QRELS = {"q": {"a": 3, "b": 0, "c": 1, "d": 2}}


def test_ndcg_by_hand() -> None:
    run = {"q": {"b": 4.0, "a": 3.0, "x": 2.0, "c": 1.0}}
    ideal = 3 + 2 / math.log2(3) + 1 / 2
    assert measures.ndcg(QRELS, run) == pytest.approx(
        (3 / math.log2(3) + 1 / math.log2(5)) / ideal, abs=1e-12
    )
    assert measures.ndcg(QRELS, run, 1) == 0.0
    assert measures.ndcg(QRELS, {"q": {"a": 1.0}}, 1) == 1.0


def test_average_precision_by_hand() -> None:
    run = {"q": {"b": 4.0, "a": 3.0, "x": 2.0, "c": 1.0}}
    assert measures.average_precision(QRELS, run) == pytest.approx((1 / 2 + 2 / 4) / 3)
    assert measures.average_precision(QRELS, run, 2) == pytest.approx((1 / 2) / 3)


def ranked(scores: dict[str, float]) -> list[str]:
    """The order that the measures see: a document that alone is relevant scores 1 / rank."""
    run = {"q": scores}
    return sorted(
        scores, key=lambda one: measures.average_precision({"q": {one: 1}}, run), reverse=True
    )


def test_ties_are_broken_by_falling_id_and_scores_are_float32() -> None:
    assert ranked({"a": 1.0, "b": 1.0, "10": 1.0, "9": 1.0}) == ["b", "a", "9", "10"]
    assert ranked({"a": 1.0 + 1e-12, "b": 1.0}) == ["b", "a"]
    assert ranked({"é": 1.0, "z": 1.0}) == ["é", "z"], "compared as bytes"


def test_which_queries_count() -> None:
    qrels = {"q": {"a": 1}, "missing": {"a": 1}, "none relevant": {"a": 0}}
    run = {"q": {"a": 1.0}, "none relevant": {"a": 1.0}, "not judged": {"a": 1.0}}
    assert measures.ndcg(qrels, run) == pytest.approx(1 / 2)
    assert measures.ndcg(qrels, run, complete=True) == pytest.approx(1 / 3)
    assert measures.ndcg({"q": {"a": 1}}, {"q": {}}) == 0.0
    assert measures.query_ndcg({"a": 1}, {}) == 0.0
    with pytest.raises(ValueError, match="nothing to measure"):
        measures.ndcg(qrels, {"other": {"a": 1.0}})


documents = st.sampled_from([f"d{i}" for i in range(12)])
qrels_of = st.dictionaries(documents, st.integers(-1, 3), min_size=1, max_size=8)
run_of = st.dictionaries(
    documents, st.sampled_from([0.0, 0.5, 1.0, 1.0 + 1e-12, 2.0, -1.0]), min_size=1
)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(qrels_of, run_of), min_size=1, max_size=3))
def test_same_as_trec_eval(pairs: list[tuple[dict[str, int], dict[str, float]]]) -> None:
    pytrec_eval = pytest.importorskip("pytrec_eval")
    qrels = {f"q{i}": judged for i, (judged, _) in enumerate(pairs)}
    run = {f"q{i}": scores for i, (_, scores) in enumerate(pairs)}
    asked = {"ndcg_cut.5", "map", "map_cut.5"}
    theirs: dict[str, Any] = pytrec_eval.RelevanceEvaluator(qrels, asked).evaluate(run)
    for name, ours in {
        "ndcg_cut_5": measures.ndcg(qrels, run, 5),
        "map": measures.average_precision(qrels, run),
        "map_cut_5": measures.average_precision(qrels, run, 5),
    }.items():
        assert ours == pytest.approx(np.mean([q[name] for q in theirs.values()]), abs=1e-9), name


TEXTS = ["the cat sat on the mat", "a dog and a cat", "dogs dogs dogs", "", "birds"]


def test_words() -> None:
    assert baselines.words("The Cats' bodies, buses: foo_bar 3.5 glass") == (
        ["cat", "body", "buse", "foo", "bar", "3", "5", "glass"]
    )


def test_bm25_by_hand() -> None:
    model = baselines.fit("bm25", TEXTS)
    scores = model.scores("cats dog unknown cat")
    lengths = [3, 2, 3, 0, 1]
    average = sum(lengths) / 5
    idf = math.log(1 + (5 - 2 + 0.5) / (2 + 0.5))  # cat and dog are in two texts each

    def weight(tf: int, length: int) -> float:
        return idf * tf * 2.2 / (tf + 1.2 * (0.25 + 0.75 * length / average))

    expected = [2 * weight(1, 3), 3 * weight(1, 2), weight(3, 3), 0, 0]
    assert scores == pytest.approx(expected)
    order = sorted(range(3), key=lambda i: -expected[i])
    assert [i for i, _ in model.top("cats dog unknown cat", 10)] == order
    assert len(model.top("cat", 1)) == 1
    assert model.top("nothing known", 3) == []


def test_equal_scores_stand_in_document_order() -> None:
    model = baselines.fit("bm25", ["x y", "z", "x y", "x y"])
    assert [i for i, _ in model.top("x", 2)] == [0, 2]


def test_tfidf_is_that_of_scikit_learn() -> None:
    text = pytest.importorskip("sklearn.feature_extraction.text")
    vectorizer = text.TfidfVectorizer(analyzer=baselines.words, sublinear_tf=True)
    matrix = vectorizer.fit_transform(TEXTS)
    queries = ["cats and dogs, dogs", "birds on a mat", "unknown"]
    expected = (vectorizer.transform(queries) @ matrix.T).toarray()
    model = baselines.fit("tfidf", TEXTS)
    found = [model.scores(query) for query in queries]
    assert np.array(found) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("kind", baselines.BASELINES)
def test_baselines_of_nothing(kind: baselines.Baseline) -> None:
    assert baselines.fit(kind, []).top("a query", 3) == []
    assert baselines.fit(kind, ["", "the"]).top("the query", 3) == []


def test_unknown_baseline() -> None:
    with pytest.raises(ValueError, match="bm25, tfidf"):
        baselines.fit(cast("Any", "lsa"), TEXTS)


# The driver, with the command line put in by hand

CORPUS = {"d1": "cats purr", "d2": "dogs bark", "d3": "birds sing"}


@pytest.fixture
def beir(tmp_path: Path) -> Path:
    folder = tmp_path / "animals"
    (folder / "qrels").mkdir(parents=True)
    (folder / "corpus.jsonl").write_text(
        "".join(json.dumps({"_id": i, "text": t}) + "\n" for i, t in CORPUS.items())
    )
    (folder / "queries.jsonl").write_text(
        '{"_id": "1", "text": "a cat"}\n{"_id": "2", "text": "dog"}\n{"_id": "3", "text": "x"}\n'
    )
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n1\td1\t1\n2\td3\t1\n")
    return folder


@pytest.fixture
def lists(tmp_path: Path) -> Path:
    folder = tmp_path / "lists"
    folder.mkdir()
    (folder / "test.jsonl").write_text(
        '{"query": "cat", "positive": ["cats purr"], "negative": ["birds sing", "dogs bark"]}\n'
        '{"query": "dog", "positive": ["birds sing"], "negative": ["dogs bark"]}\n'
    )
    return folder


def test_driver_with_baselines(beir: Path, lists: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = [str(beir), str(lists), str(beir / "missing")]
    assert retrieval.main(["--methods", "", "--data", *data]) == 1
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        "| system | animals (nDCG@10) | lists (MAP) |",
        "|---|---:|---:|",
        "| BM25 | 50.00 | 75.00 |",
        "| TF-IDF | 50.00 | 75.00 |",
    ]
    assert "missing: neither corpus.jsonl nor test.jsonl" in err


def command_line(seen: list[list[str]]) -> Callable[..., str]:
    """Commands that find the right document first, and in lists the first candidate."""

    def run(*arguments: str | Path) -> str:
        words = [str(argument) for argument in arguments]
        seen.append(words)
        if "build" in words:
            return '{"embedded": 3}\n'
        if "query" in words:
            queries = Path(words[words.index("--queries") + 1]).read_text().splitlines()
            assert len(queries) == 2, "queries that are not judged are left out"
            return "1 Q0 d1 1 2.0 moee-index\n1 Q0 d2 2 1.0 moee-index\n2 Q0 d3 1 1 moee-index\n"
        answers = []
        for line in Path(words[words.index("--candidates") + 1]).read_text().splitlines():
            asked = json.loads(line)
            ids = [candidate["id"] for candidate in asked["candidates"]]
            hits = [{"id": key, "score": -float(n)} for n, key in enumerate(ids)]
            answers.append(json.dumps({"query_id": asked["query_id"], "hits": hits}))
        return "\n".join(answers) + "\n"

    return run


def test_driver_with_the_command_line(
    beir: Path,
    lists: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    seen: list[list[str]] = []
    monkeypatch.setattr(retrieval, "moee_index", command_line(seen))
    work = tmp_path / "work"
    options = ["--baselines", "", "--methods", "hs,sum", "--alpha", "0.5", "--model", "m/untrained"]
    status = retrieval.main(
        [*options, "--json", "--work", str(work), "--data", str(beir), str(lists)]
    )
    assert status == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(f["data"], f["metric"], f["system"], f["method"], f["score"]) for f in found] == [
        ("animals", "nDCG@10", "untrained", "hs", 1.0),
        ("animals", "nDCG@10", "untrained", "sum", 1.0),
        # sorted by text: "birds sing" stands first in both lists
        ("lists", "MAP", "untrained", "hs", pytest.approx((1 / 2 + 1) / 2)),
        ("lists", "MAP", "untrained", "sum", pytest.approx((1 / 2 + 1) / 2)),
    ]
    assert [("--alpha" in words, "--model" in words) for words in seen] == [
        (False, True),
        (False, False),
        (True, False),
        (False, True),
        (True, True),
    ]


def test_a_command_that_fails_is_told(beir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(retrieval.CommandError, match="status"):
        retrieval.moee_index("no-such-command")


def test_lists_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "test.jsonl"
    path.write_text('{"query": "q", "positive": []}\n')
    with pytest.raises(Exception, match=r"test\.jsonl:1: no candidate list"):
        retrieval.load_lists(path)

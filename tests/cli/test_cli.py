"""The command line as scripts rely on it: formats, exit statuses, one clear line for bad input."""

from __future__ import annotations

import json
import math
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner
from commands import one_line_error, run
from paths import PARITY

from moee_index.cli import COMMANDS, cli
from moee_index.errors import ModelError
from moee_index.readers.formats import FORMATS

MODEL = str(PARITY / "olmoe")
TOPICS = ("river", "bank", "guitar", "rain", "planet", "cheese")


@pytest.fixture(autouse=True)
def in_a_directory_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_corpus(path: Path, count: int = 90) -> Path:
    lines = [
        {
            "id": f"d{number}",
            "title": f"On {TOPICS[number % 6]}",
            "text": f"{TOPICS[number % 6]} and {TOPICS[number * 7 % 5]} number {number}",
            "year": 1990 + number,
        }
        for number in range(count)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write_corpus(tmp_path / "corpus.jsonl")


@pytest.fixture
def index(corpus: Path) -> Path:
    run("-q", "build", corpus, "--model", MODEL)
    return Path("indexes/corpus")


def test_build_prints_what_interface_says(corpus: Path) -> None:
    result = run("build", corpus, "--model", MODEL, "--json")
    found = json.loads(result.stdout)
    assert set(found) == {
        "index",
        "read",
        "embedded",
        "truncated",
        "skipped",
        "rejected",
        "dims",
        "seconds",
        "texts_per_second",
        "tokens_per_second",
    }
    assert found["read"] == found["embedded"] == 90
    assert found["dims"] == {"hs": 64, "rw": 24}
    assert found["index"] == "indexes/corpus"
    for choice in ("model olmoe", "standardize both", "index type flat"):
        assert result.stderr.count(choice) == 1
    again = run("build", corpus, "--model", MODEL)
    assert "nothing has changed" in again.stdout
    assert run("-q", "build", corpus, "--model", MODEL).stderr == ""


def test_query_answers_in_three_formats(index: Path) -> None:
    found = json.loads(run("query", "guitar rain", "-k", "5", "--json").stdout)
    assert list(found) == [
        "query",
        "query_id",
        "index",
        "method",
        "alpha",
        "exact",
        "took_ms",
        "hits",
    ]
    assert (found["query"], found["query_id"], found["method"]) == ("guitar rain", None, "sum")
    assert found["alpha"] == 1.0
    assert found["exact"] is True
    assert [hit["rank"] for hit in found["hits"]] == [1, 2, 3, 4, 5]
    for hit in found["hits"]:
        names = ["rank", "id", "score", "hs", "rw", "text", "metadata", "snippet", "marks"]
        assert list(hit) == names
        assert math.isclose(hit["score"], hit["hs"] + hit["rw"], abs_tol=1e-6)
        assert hit["metadata"]["title"].startswith("On ")
        assert hit["metadata"]["year"] >= 1990
    table = run("query", "guitar rain", "-k", "5").stdout
    assert all(hit["id"] in table for hit in found["hits"])
    queries = Path("queries.tsv")
    queries.write_text("q7\tguitar rain\nq9\tcheese\n")
    lines = run("query", "--queries", queries, "--trec", "-k", "5").stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["q7"] * 5 + ["q9"] * 5
    columns = [line.split() for line in lines[:5]]
    assert [column[2] for column in columns] == [hit["id"] for hit in found["hits"]]
    assert all(column[1] == "Q0" and column[5] == "moee-index" for column in columns)
    for column, hit in zip(columns, found["hits"], strict=True):
        assert column[4] == f"{hit['score']:.9g}" or math.isclose(
            float(column[4]), hit["score"], rel_tol=1e-6
        )


def test_alpha_and_method_are_chosen_per_query(index: Path) -> None:
    def ask(*options: str) -> dict[str, Any]:
        return dict(json.loads(run("query", "planet", "--json", "-k", "500", *options).stdout))

    found = {name: ask("--method", name) for name in ("hs", "rw", "concat", "sum")}
    assert all(len(one["hits"]) == 90 for one in found.values())
    assert found["hs"]["alpha"] is None
    hs_only, half = ask("--alpha", "0"), ask("--alpha", "0.5")
    assert [hit["id"] for hit in hs_only["hits"]] == [hit["id"] for hit in found["hs"]["hits"]]
    for hit in half["hits"]:
        assert math.isclose(hit["score"], hit["hs"] + 0.5 * hit["rw"], abs_tol=1e-6)
    scores = [hit["score"] for hit in half["hits"]]
    assert scores == sorted(scores, reverse=True)
    cut = ask("--min-score", str(scores[3] - 1e-9), "--alpha", "0.5")
    assert len(cut["hits"]) == 4


def test_stdin_is_answered_line_by_line(index: Path) -> None:
    command = [sys.executable, "-m", "moee_index", "-q", "query", "--json", "-k", "1"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        for text in ("guitar", "cheese"):
            process.stdin.write(text + "\n")
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["query"] == text
        process.stdin.close()
        assert process.stdout.read() == ""
        assert process.wait() == 0


def test_several_texts_and_the_same_answers_in_a_file(index: Path) -> None:
    apart = run("query", "guitar", "cheese", "--json").stdout.splitlines()
    Path("q.txt").write_text("guitar\ncheese\n")
    together = run("query", "--queries", "q.txt", "--json").stdout.splitlines()
    for one, other in zip(apart, together, strict=True):
        a, b = json.loads(one), json.loads(other)
        assert b["query_id"] in ("1", "2")
        assert [hit["id"] for hit in a["hits"]] == [hit["id"] for hit in b["hits"]]
        assert np.allclose(
            [hit["score"] for hit in a["hits"]], [hit["score"] for hit in b["hits"]], atol=2e-3
        )


def test_rerank_takes_lines_lists_and_runs(index: Path, corpus: Path) -> None:
    plain = "guitar and rain\n\ncheese\nplanet rain\n"
    found = json.loads(run("rerank", "rain", "--json", "--model", MODEL, stdin=plain).stdout)
    assert "index" not in found
    assert {hit["id"] for hit in found["hits"]} == {"0", "2", "3"}
    lists = [
        {"query": "rain", "candidates": ["guitar and rain", {"id": "x", "text": "cheese"}]},
        {"query_id": "q2", "query": "cheese", "candidates": []},
    ]
    Path("lists.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lists))
    answers = run("rerank", "--candidates", "lists.jsonl", "--json", "--model", MODEL, "-k", "1")
    first, second = map(json.loads, answers.stdout.splitlines())
    assert len(first["hits"]) == 1
    assert (second["query_id"], second["hits"]) == ("q2", [])
    Path("q.tsv").write_text("q1\tguitar rain\n")
    trec = run("query", "--queries", "q.tsv", "--trec", "-k", "20").stdout
    Path("run.trec").write_text("".join(reversed(trec.splitlines(keepends=True))))
    again = run(
        "rerank", "--candidates", "run.trec", "--queries", "q.tsv", "--index", index, "--trec"
    )
    assert [line.split()[2] for line in again.stdout.splitlines()] == [
        line.split()[2] for line in trec.splitlines()
    ]
    with_index = run("rerank", "rain", "--index", index, "--json", stdin=plain)
    assert json.loads(with_index.stdout)["hits"]


def test_embed_gives_the_vectors_behind_the_scores(index: Path) -> None:
    run("embed", "guitar rain", "cheese", "--index", index, "--out", "v.npy")
    vectors = np.load("v.npy", allow_pickle=False)
    assert vectors.shape == (2, 88)
    for suffix in ("safetensors", "jsonl"):
        run("embed", "guitar rain", "cheese", "--index", index, "--out", f"v.{suffix}")
    from safetensors.numpy import load_file

    assert np.array_equal(load_file("v.safetensors")["vectors"], vectors)
    lines = Path("v.jsonl").read_text().splitlines()
    assert np.allclose(json.loads(lines[1])["vector"], vectors[1])
    raw = run("embed", "guitar rain", "--raw", "--method", "concat", "--model", MODEL)
    line = json.loads(raw.stdout)
    assert line["id"] == "1"
    assert len(line["vector"]) == 88
    scaled = run("embed", "a", "--method", "sum", "--alpha", "4", "--index", index)
    h, r = np.split(np.array(json.loads(scaled.stdout)["vector"]), [64])
    assert math.isclose(float(r @ r) / float(h @ h), 4.0, rel_tol=1e-4)


def test_info_tells_what_interface_says(index: Path) -> None:
    found = json.loads(run("info", index, "--json").stdout)
    assert set(found) == {
        "documents",
        "dims",
        "model",
        "prompt",
        "query_prompt",
        "rw",
        "pooling",
        "max_tokens",
        "standardize",
        "index_type",
        "alpha",
        "bytes",
        "created",
        "version",
        "changed",
        "revision",
        "rows",
        "chunk",
        "segments",
        "deleted",
        "store",
        "fields",
        "disk",
        "counts",
        "lexical",
        "lexical_weight",
        "drift",
        "unfinished",
    }
    assert set(found["model"]) == {"name", "path", "revision", "fingerprint", "bits", "bytes"}
    assert set(found["model"]["bytes"]) == {"4-bit", "16-bit", "32-bit"}
    assert found["model"]["bytes"]["4-bit"] > 0
    assert found["index_type"] == {"hs": "flat", "rw": "flat"}
    program = json.loads(run("info", "--json").stdout)
    assert program["versions"]["bitsandbytes"]
    assert any("cpu" in device for device in program["devices"])


def test_verify_finds_a_flipped_byte(index: Path) -> None:
    assert "is sound" in run("verify", index).stdout
    assert "is sound" in run("verify", index, "--full").stdout
    raw = next(index.glob("*/hs.f32"))
    content = bytearray(raw.read_bytes())
    content[100] ^= 1
    raw.chmod(0o644)
    raw.write_bytes(content)
    assert "hs.f32" in one_line_error(run("verify", index, "--full", status=1))


def test_an_index_remembers_its_model_and_options(corpus: Path) -> None:
    options = ("--prompt", "none", "--pooling", "mean", "--rw", "softmax", "--bits", "16")
    run("-q", "build", corpus, "--model", MODEL, *options)
    assert json.loads(run("query", "rain", "--json").stdout)["hits"]
    run("query", "rain", "--prompt", "none", "--model", MODEL)
    for option, built in (
        (("--prompt", "prompteol"), "none"),
        (("--pooling", "last"), "mean"),
        (("--bits", "4"), "16"),
        (("--rw", "logits"), "softmax"),
        (("--max-tokens", "9"), "512"),
    ):
        said = one_line_error(run("query", "rain", *option, status=2))
        assert option[1] in said and built in said
    said = one_line_error(run("query", "rain", "--model", str(PARITY / "qwen2_moe"), status=1))
    assert "fingerprint" in said and "qwen2_moe" in said


def test_options_come_from_the_environment(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOEE_INDEX_MODEL", "no/such-model")
    assert "no/such-model" in one_line_error(run("build", corpus, status=1))
    monkeypatch.setenv("MOEE_INDEX_BUILD_MODEL", MODEL)
    monkeypatch.setenv("MOEE_INDEX_BUILD_INDEX", "elsewhere")
    assert json.loads(run("build", corpus, "--json").stdout)["index"] == "elsewhere"


@pytest.mark.parametrize(
    ("args", "status", "said"),
    [
        (("build", "nothing.jsonl"), 1, "nothing.jsonl"),
        (("build", "empty.jsonl"), 1, "no document"),
        (("build", "broken.jsonl"), 1, "broken.jsonl:2"),
        (("build", "no-text.jsonl"), 1, "no-text.jsonl:1"),
        (("build", "twice.jsonl"), 1, "twice.jsonl:2"),
        (("build", "latin1.jsonl"), 1, "latin1.jsonl:2"),
        (("build", "corpus.jsonl", "--model", "no/such"), 1, "no/such"),
        (("build", "corpus.jsonl", "--index", "empty.jsonl"), 2, "empty.jsonl"),
        (("build", "-"), 2, "--index"),
        (("build", "corpus.jsonl", "--index-type", "Nonsense7"), 2, "Nonsense7"),
        (("build", "corpus.jsonl", "--prompt", "no hole"), 2, "no hole"),
        (("query", "rain", "--index", "."), 1, "index"),
        (("query", "rain", "--index", "nowhere"), 1, "nowhere"),
        (("query", "rain", "-k", "0"), 2, "-k"),
        (("query", "rain", "--alpha", "nan"), 2, "alpha"),
        (("query", "rain", "--alpha", "-1"), 2, "alpha"),
        (("query", "rain", "--method", "hs", "--alpha", "1"), 2, "alpha"),
        (("query", ""), 2, "empty"),
        (("query", "rain", "--queries", "corpus.jsonl"), 2, "not both"),
        (("query", "--queries", "no-such-file"), 1, "no-such-file"),
        (("query", "rain", "--json", "--trec"), 2, "--trec"),
        (("rerank", "rain", "--candidates", "no-such-file"), 1, "no-such-file"),
        (("rerank", "--queries", "q"), 2, "--index"),
        (("embed",), 2, "no text"),
        (("embed", "a", "--raw"), 2, "--raw"),
        (("embed", "a", "--out", "v.pickle"), 2, "v.pickle"),
        (("embed", "a", "--out", "no/such/dir/v.npy"), 1, "no/such/dir"),
        (("info", "nowhere"), 1, "nowhere"),
        (("verify", "nowhere"), 1, "nowhere"),
        (("quantize", "no/such", "q"), 1, "no/such"),
        (("no-such-command",), 2, "no-such-command"),
    ],
)
def test_bad_input_gets_one_clear_line(
    index: Path, args: tuple[str, ...], status: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = '{"id": "a", "text": "good"}\n'
    Path("empty.jsonl").write_text("")
    Path("broken.jsonl").write_text(good + "{broken\n")
    Path("no-text.jsonl").write_text('{"id": "a"}\n')
    Path("twice.jsonl").write_text(good + good)
    Path("latin1.jsonl").write_bytes(good.encode() + b'{"id": "b", "text": "caf\xe9"}\n')
    if args[0] in ("build", "rerank", "embed"):
        monkeypatch.setenv("MOEE_INDEX_MODEL", MODEL)
    before = sorted(str(path) for path in Path().rglob("*"))
    assert said in one_line_error(run(*args, status=status))
    kept = sorted(str(path) for path in Path().rglob("*"))
    new = [path for path in kept if path not in before and not path.startswith("indexes/")]
    assert new == []


def test_debug_shows_the_traceback() -> None:
    result = CliRunner().invoke(cli, ["--debug", "info", "nowhere"])
    assert result.exception is not None
    assert not isinstance(result.exception, SystemExit)


def test_on_bad_skip_writes_what_it_rejects(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "mixed.jsonl", 5)
    corpus.write_text("{broken\n" + corpus.read_text() + '{"id": "d1", "text": "again"}\n')
    report = json.loads(run("build", corpus, "--model", MODEL, "--on-bad", "skip", "--json").stdout)
    assert (report["read"], report["embedded"], report["rejected"]) == (7, 5, 2)
    rejected = Path("indexes/mixed/rejected.jsonl").read_text().splitlines()
    assert len(rejected) == 2
    assert "mixed.jsonl:1" in rejected[0]


def test_how_a_corpus_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.dump").write_text("7|x|cats and dogs|[1]\n8|y|ships at sea|[2]\n")
    options = ["--format", "csv", "--delimiter", "|", "--quoting", "none", "--no-header"]
    columns = ["--columns", "docid,,text,vector", "--metadata-except", "vector"]
    result = run("build", "a.dump", "--index", "i", "--model", MODEL, *options, *columns)
    assert "there is docid, take it with --id-field docid" in result.stderr
    told = run("build", "a.dump", "--model", MODEL, "--dry-run", *options, *columns)
    assert told.stderr.count("--id-field docid") == 1
    Path("b.jsonl").write_text('{"docid": "9", "text": "bread and butter", "lang": "en", "n": 1}')
    run("-q", "add", "i", "b.jsonl", "--id-field", "docid", "--metadata", "lang,n")
    answer = json.loads(run("-q", "query", "cats", "--index", "i", "--json").stdout)
    assert {hit["id"]: hit["metadata"] for hit in answer["hits"]} == {
        "a:1": {"docid": "7"},
        "a:2": {"docid": "8"},
        "9": {"lang": "en", "n": 1},
    }
    for wrong in (
        ["--no-header"],
        ["--columns", "a"],
        ["--metadata", "a", "--metadata-except", "b"],
    ):
        one_line_error(run("build", "b.jsonl", *wrong, status=2))


def test_the_formats_that_can_be_said() -> None:
    build = cli.get_command(click.Context(cli), "build")
    assert build is not None
    (option,) = (one for one in build.params if one.name == "format")
    assert isinstance(option.type, click.Choice)
    assert tuple(option.type.choices) == FORMATS


def test_dry_run_writes_nothing(corpus: Path) -> None:
    found = json.loads(run("build", corpus, "--model", MODEL, "--dry-run", "--json").stdout)
    assert found["documents"] == 90
    assert found["tokens"] > 900
    assert found["seconds"] > 0
    assert not Path("indexes").exists()
    assert "would embed 90 documents" in run("build", corpus, "--model", MODEL, "--dry-run").stdout


def windows_done(index: Path) -> int:
    """Windows of a running build whose vectors are all committed."""
    for path in index.glob("segment-*/documents.sqlite"):
        try:
            with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as connection:
                found = connection.execute("SELECT count(*) FROM windows WHERE done").fetchone()
                return int(found[0])
        except sqlite3.OperationalError:  # being made or written to right now
            return 0
    return 0


def test_ctrl_c_keeps_what_was_done_and_says_so(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "long.jsonl", 1100)
    index = tmp_path / "index"
    command = [sys.executable, "-m", "moee_index", "build", "-", "--index", str(index)]
    # Its input stays open, so the build waits for more documents when it is interrupted.
    with subprocess.Popen(
        [*command, "--model", MODEL], stdin=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdin is not None and process.stderr is not None
        process.stdin.write(corpus.read_bytes())
        process.stdin.flush()
        deadline = time.monotonic() + 120
        while not windows_done(index) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        stderr = process.stderr.read().decode()
        process.wait(timeout=60)
    assert process.returncode == 130
    assert stderr.splitlines()[-1].startswith("Error: interrupted")
    assert "Traceback" not in stderr
    assert not (index / "manifest.json").exists()
    resumed = run("build", corpus, "--index", index, "--model", MODEL)
    assert "embedded 1100 (1024 of them before an interruption)" in resumed.stdout
    assert "resuming an interrupted build" in resumed.stderr


@pytest.mark.parametrize(
    ("given", "environment", "cache"),
    [((), {}, True), (("--no-cache",), {}, False), ((), {"MOEE_INDEX_EMBED_NO_CACHE": "1"}, False)],
)
def test_large_models_are_kept_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch,
    given: tuple[str, ...],
    environment: dict[str, str],
    cache: bool,
) -> None:
    """As every release of click has it; 8.3.0 took a flag's default for its opposite."""
    from moee_index.encode.encoder import Encoder

    loaded: list[Any] = []

    def load(**options: Any) -> Encoder:
        loaded.append(options["cache"])
        raise ModelError("seen enough")

    monkeypatch.setattr(Encoder, "load", load)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    run("embed", "a text", *given, status=1)
    assert loaded == [cache]


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_comes_at_once_and_imports_nothing_heavy(command: str) -> None:
    code = (
        "import sys\n"
        "from moee_index.cli import cli\n"
        "try:\n    cli.main([*sys.argv[1:], '--help'])\n"
        "except SystemExit as exit: assert exit.code == 0\n"
        "heavy = {'torch', 'transformers', 'faiss', 'numpy', 'tqdm'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *([command] if command else [])],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "--help" in done.stdout


def test_quantize_writes_what_model_opens(corpus: Path) -> None:
    assert "q4" in run("quantize", MODEL, "q4").stdout
    first = run("-q", "build", corpus, "--model", "q4", "--json").stdout
    assert json.loads(first)["embedded"] == 90
    # another path with the same fingerprint is the same model
    assert json.loads(run("query", "rain", "--model", MODEL, "--json").stdout)["hits"]


def test_a_closed_pipe_is_no_error(index: Path) -> None:
    command = [sys.executable, "-m", "moee_index", "-q", "query", "rain", "cheese", "-k", "90"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        stderr = process.stderr.read().decode()
        process.wait()
    assert "Traceback" not in stderr
    assert "Exception ignored" not in stderr


def test_the_environment_of_these_tests_reaches_no_hub() -> None:
    assert os.environ["HF_HUB_OFFLINE"] == "1"

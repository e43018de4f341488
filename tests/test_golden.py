"""What the program gave before a change it still gives: files, answers, vectors, words.

The golden data are written by make_golden.py, which says when they may change. Only the public
names and the commands are used here, so that nothing but behaviour can make these tests fail.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import golden
import golden_bench
import golden_cli
import golden_index
import golden_model
import pytest

from moee_index import Document, Encoder, Index
from moee_index.index import add_documents, compact_index, delete_documents, reindex

Encoders = dict[int, Encoder]


@pytest.fixture(scope="module")
def tiny() -> Encoders:
    """By bits."""
    return {bits: Encoder.load(bits=bits) for bits in (32, 4)}


@pytest.fixture(scope="module")
def spec(tiny: Encoders) -> Any:
    return tiny[4].spec


# The bytes of an index

STATES = tuple(golden.read(golden_index.FILES)["states"])


@pytest.fixture(scope="module")
def states(spec: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    return golden_index.states(tmp_path_factory.mktemp("states"), spec)


def test_there_are_all_states(states: dict[str, dict[str, Any]]) -> None:
    assert tuple(states) == STATES


@pytest.mark.parametrize("state", STATES)
def test_bytes_of_an_index(states: dict[str, dict[str, Any]], state: str) -> None:
    held = golden.read(golden_index.FILES)
    found, expected = states[state], held["states"][state]
    if state == "HNSW8" and held["faiss"] != golden_index.faiss_version():
        assert list(found) == list(expected)
        found, expected = map(golden_index.without_links, (found, expected))
    assert found == expected


# Indexes from before


@pytest.mark.parametrize("name", golden_index.STORED)
def test_an_index_from_before_answers_the_same(spec: Any, name: str) -> None:
    found = golden_index.stored_answers(golden_index.STORED[name], spec)
    assert not golden.differences(found, golden.read(golden_index.ANSWERS)[name], 1e-6)


@pytest.mark.parametrize("name", golden_index.STORED)
def test_an_index_from_before_is_sound_and_described(name: str) -> None:
    directory = golden_index.STORED[name]
    assert "is sound" in golden.run("verify", "--full", directory).stdout
    expected = golden.read("stored-info.json")[name]
    assert not golden.differences(golden_index.info(directory), expected, 1e-6)


def test_an_index_from_before_can_be_changed(spec: Any, tmp_path: Path) -> None:
    """Compacted it answers the same; added to, deleted from and reindexed it is sound."""
    index = tmp_path / "index"
    shutil.copytree(golden_index.STORED["passages"], index)
    compact_index(index)
    expected = golden.read(golden_index.ANSWERS)["passages"]
    assert not golden.differences(golden_index.stored_answers(index, spec), expected, 1e-6)
    encoder = golden_index.FixedEncoder(golden_index.fixed_spec(spec))
    report = add_documents(index, map(golden_index.document, range(60, 90)), encoder)
    assert (report.added, report.unchanged) == (5, 25)
    delete_documents(index, ["d2", "d88"])
    reindex(index, standardize="rw")
    assert golden_index.sound(index)


# 4-bit checkpoints


def test_a_quantized_checkpoint(tmp_path: Path) -> None:
    found = golden_model.checkpoint_files(golden_model.quantized(tmp_path, double=False))
    assert found == golden.read("quantized.json")["plain"]


def test_a_twice_quantized_checkpoint(tmp_path: Path) -> None:
    found = golden_model.double_quantized(golden_model.quantized(tmp_path, double=True))
    assert not golden.differences(found, golden.read("quantized.json")["double"], 1e-6)


def test_a_checkpoint_from_before() -> None:
    encoder = Encoder.load(str(golden_model.CHECKPOINT))
    found = golden_model.arrays(encoder.encode(golden.read(golden_model.TEXTS)["texts"]))
    expected = golden_model.golden_vectors("four-bits-vectors.npz")
    for part in ("hs", "rw"):
        cosine = golden_model.least_cosine(found[part], expected[part])
        assert cosine > golden_model.LEAST_COSINE["checkpoint"], (part, cosine)
        difference = golden_model.largest_difference(found[part], expected[part])
        assert difference < golden_model.RELATIVE[4], (part, difference)


# Vectors and rankings of `tiny`


@pytest.mark.parametrize("part", ["hs", "rw"])
@pytest.mark.parametrize("bits", [32, 4])
def test_vectors(tiny: Encoders, bits: int, part: str) -> None:
    texts = golden.read(golden_model.TEXTS)["texts"]
    found = golden_model.arrays(tiny[bits].encode(texts))[part]
    expected = golden_model.golden_vectors(f"tiny-{bits}.npz")[part]
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    assert golden_model.least_cosine(found, expected) > golden_model.LEAST_COSINE["tiny"]
    assert golden_model.largest_difference(found, expected) < golden_model.RELATIVE[bits]


@pytest.mark.parametrize("bits", [32, 4])
def test_rankings(tiny: Encoders, bits: int, tmp_path: Path) -> None:
    expected = golden.read("rankings.json")[str(bits)]
    found = golden_model.rankings(tmp_path, tiny[bits], k=10)
    assert list(found) == list(expected)
    for method, answers in found.items():
        for hits, all_hits in zip(answers, expected[method], strict=True):
            assert len(hits) == 10
            assert not golden_model.misplaced(hits, all_hits, bits), method


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An index that the commands made."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOEE_INDEX_CACHE", "/nonexistent/cache")
        yield golden_model.build_by_command(tmp_path_factory.mktemp("built"))


def test_passages_and_batches_of_a_corpus(built: Path) -> None:
    assert golden_model.built(built) == golden.read("built.json")["files"]


def test_answers_of_the_query_command(built: Path) -> None:
    """JSON with its keys in their order; TREC lines."""
    expected = golden.read("built.json")
    assert not golden.differences(golden_model.queried(built), expected["query"], 1e-4)
    assert golden_model.queried_trec(built) == expected["trec"]


# The bench


@pytest.fixture
def in_an_empty_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MOEE_INDEX_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: Any, **__: Any) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(Encoder, "load", load)


@pytest.mark.usefixtures("in_an_empty_place")
def test_a_run_of_the_bench() -> None:
    golden_bench.unpack("sets")
    golden_bench.bench()
    golden_bench.bench(arguments=golden_bench.SAMPLE)
    expected = golden.read(golden_bench.GOLDEN_FILE)
    expected.pop("report")
    found = golden_bench.found()
    assert not golden.differences(found, expected, golden_bench.SCORE_TOLERANCE)


@pytest.mark.usefixtures("in_an_empty_place")
def test_a_report_of_a_run_from_before() -> None:
    pytest.importorskip("matplotlib")  # without it the report has no pictures and says so
    golden_bench.unpack("out")
    assert golden_bench.report() == golden.read(golden_bench.GOLDEN_FILE)["report"]


@pytest.mark.usefixtures("in_an_empty_place", "no_model")
def test_a_run_from_before_is_gone_on_with() -> None:
    """With its results nothing is evaluated, without them nothing is embedded."""
    golden_bench.unpack("sets", "out", "vectors")
    before = golden_bench.rows(), Path("out/run.json").read_bytes()
    golden_bench.bench()
    record = json.loads(Path("out/run.json").read_text())
    assert golden_bench.rows() == before[0]
    assert record["runs"] == json.loads(before[1])["runs"]
    golden_bench.bench("--overwrite")
    assert not golden.differences(golden_bench.rows(), before[0], 1e-6)
    assert golden_bench.last_run()["texts_computed"] == 0


# Words and names


HELPS = golden.read(golden_cli.HELP)


@pytest.fixture(scope="module")
def helps() -> dict[str, str]:
    return golden_cli.helps()


def test_there_are_all_commands(helps: dict[str, str]) -> None:
    assert list(helps) == list(HELPS["helps"])


@pytest.mark.parametrize("command", HELPS["helps"])
def test_help(helps: dict[str, str], command: str) -> None:
    found, expected = helps[command], HELPS["helps"][command]
    if golden_cli.click_minor() == HELPS["click"]:
        assert found == expected
    assert golden_cli.options_of(found) == golden_cli.options_of(expected)
    assert golden_cli.sentences_of(found) == golden_cli.sentences_of(expected)


def test_public_names() -> None:
    assert golden_cli.public_names() == golden.read(golden_cli.NAMES)


def test_public_names_are_there() -> None:
    import moee_index
    import moee_index.index

    for module in (moee_index, moee_index.index):
        for name in module.__all__:
            assert getattr(module, name) is not None
    assert {Document, Encoder, Index} <= {getattr(moee_index, n) for n in moee_index.__all__}


@pytest.mark.parametrize("command", ["--help", "query"])
def test_nothing_more_is_imported(built: Path, command: str) -> None:
    held = golden.read(golden_cli.IMPORTS)
    args = golden_cli.query(built) if command == "query" else ("--help",)
    more = set(golden_cli.imported(*args)) - set(held["imported"][command])
    if golden_cli.versions() != held["versions"]:
        # Other releases of the libraries import others: ours are told from theirs by name.
        more &= golden_cli.OUR_DEPENDENCIES
    assert not more

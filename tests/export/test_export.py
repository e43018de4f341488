"""An export: what stands in the file, that it ranks as the index does, that it is whole or not."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import forks
import numpy as np
import pyarrow.parquet as pq
import pytest
from commands import run
from hypothesis import given, settings
from hypothesis import strategies as st
from paths import PARITY
from safetensors import safe_open
from safetensors.numpy import load_file

from fakes.indexes import export_limited, fake_documents
from fakes.word_encoder import HS_DIM, RW_DIM, FakeEncoder, GivenEncoder
from moee_index.errors import IndexDamagedError, MisuseError, StorageError
from moee_index.export import formats as exportfile
from moee_index.export.export import ExportReport, export_index, ids_beside
from moee_index.export.single_vectors import one_vectors
from moee_index.fusion import METHODS, Float64Array, Standardizer, unit_vectors
from moee_index.index import Index, add_documents, build_index, compact_index, delete_documents
from moee_index.index.filters import Filter, FilterError
from moee_index.types import Document, Embeddings, FloatArray

FORMATS = (".parquet", ".jsonl", ".npy", ".safetensors")
QUERIES = ["w3 w4", "w7", "w1 w2 w30 w31", "nothing known"]
COUNT = 90
DELETED = ["d0", "d7", "d89"]


@pytest.fixture(scope="module")
def changed() -> Iterator[Path]:
    """Two segments, of each of which some documents are deleted: 117 count."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "news"
        build_index(path, fake_documents(COUNT), FakeEncoder(), window=32)
        more = [
            Document(f"e{i}", f"w{i} w{i + 1} größer\n2", {"year": i}, "On ⊕") for i in range(30)
        ]
        add_documents(path, more, FakeEncoder())
        delete_documents(path, [*DELETED])
        yield path


@pytest.fixture(scope="module")
def split() -> Iterator[Path]:
    """Documents of 1 to 40 words in passages of 8."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "split"
        documents = [
            Document(f"p{i}", " ".join(f"w{(i * 3 + j) % 50}" for j in range(1 + i % 40)))
            for i in range(80)
        ]
        build_index(path, documents, FakeEncoder(), chunk="8:2", window=64)
        delete_documents(path, ["p39"])
        yield path


def read(path: Path) -> tuple[list[str], dict[str, FloatArray]]:
    """What names each row (its passage, else its document), and the columns of vectors."""
    if path.suffix == ".parquet":
        table = pq.read_table(path)
        names = [
            passage or identifier
            for identifier, passage in zip(
                table["id"].to_pylist(), table["passage"].to_pylist(), strict=True
            )
        ]
        found = {
            name: np.array(table[name].to_pylist(), dtype=np.float32)
            for name in table.column_names
            if name in ("vector", "hs", "rw")
        }
        return names, found
    if path.suffix == ".jsonl":
        lines = json_lines(path)
        found = {
            name: np.array([line[name] for line in lines], dtype=np.float32)
            for name in ("vector", "hs", "rw")
            if name in lines[0]
        }
        return [line["passage"] or line["id"] for line in lines], found
    if path.suffix == ".npy":
        lines = json_lines(ids_beside(path))
        names = [line["passage"] or line["id"] for line in lines]
        return names, {"vector": np.load(path, allow_pickle=False)}
    with safe_open(path, "np") as file:
        names = json.loads(file.metadata()["ids"])
    return names, load_file(path)


def json_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


def raw_of(index: Index, names: list[str]) -> Embeddings:
    return index.vectors(names)


# What stands in the file


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format_holds_every_row_that_counts(
    changed: Path, tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"out{suffix}"
    moved: list[tuple[str, int, int | None]] = []
    with Index.open(changed) as index:
        report = export_index(index, path, progress=lambda *state: moved.append(state))
        names, found = read(path)
        assert names == list(index.ids())
        expected = one_vectors(
            index.vectors(names), "sum", raw=False, alpha=1.0, standardizer=index.standardizer
        )
    assert len(names) == len(set(names)) == 117
    assert not set(names) & set(DELETED)
    (vectors,) = found.values()
    assert vectors.dtype == np.float32
    assert np.array_equal(vectors, expected)
    assert (report.rows, report.documents, report.dims) == (117, 117, {"vector": HS_DIM + RW_DIM})
    files = [path, ids_beside(path)] if suffix == ".npy" else [path]
    assert sorted(tmp_path.iterdir()) == sorted(files)
    assert report.bytes == sum(file.stat().st_size for file in files)
    assert report.ids == (str(files[1]) if suffix == ".npy" else None)
    assert moved[-1] == ("exporting", 117, 117)
    json.dumps(report.as_json())


@pytest.mark.parametrize("suffix", (".parquet", ".jsonl"))
def test_texts_titles_and_metadata(changed: Path, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    with Index.open(changed) as index:
        export_index(index, path)
        documents = index.documents(list(index.ids()))
    if suffix == ".parquet":
        rows = pq.read_table(path).to_pylist()
        assert list(rows[0]) == ["id", "passage", "text", "title", "metadata", "vector"]
        for row in rows:
            row["metadata"] = json.loads(row["metadata"])
    else:
        rows = json_lines(path)
        assert {tuple(row) for row in rows} == {
            ("id", "passage", "text", "title", "metadata", "vector")
        }
    assert len(rows) == 117
    for row in rows:
        document = documents[row["id"]]
        assert row["passage"] is None
        assert (row["text"], row["title"]) == (document.text, document.title)
        assert row["metadata"] == document.metadata
    last = rows[-1]
    assert last["text"] == "w29 w30 größer\n2"
    assert (last["title"], last["metadata"]) == ("On ⊕", {"year": 29, "title": "On ⊕"})


def test_parquet_has_fixed_lengths_small_groups_and_the_facts(
    changed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moee_index.export.export.ROWS", 50)
    path = tmp_path / "out.parquet"
    with Index.open(changed) as index:
        report = export_index(index, path, alpha=0.5, filter='id != "d1"')
        manifest = index.manifest
    file = pq.ParquetFile(path)
    assert str(file.schema_arrow.field("vector").type) == (
        f"fixed_size_list<element: float>[{HS_DIM + RW_DIM}]"
    )
    groups = [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]
    assert groups == [50, 50, 16]
    facts = {
        key.decode().removeprefix("moee_index."): value.decode()
        for key, value in file.schema_arrow.metadata.items()
    }
    assert facts == report.facts
    expected = {
        "index": "news",
        "revision": str(manifest.revision),
        "model": "fake",
        "fingerprint": "f" * 64,
        "bits": "32",
        "prompt": "none",
        "query_prompt": "none",
        "pooling": "last",
        "rw": "logits",
        "max_tokens": "32",
        "hs_dim": str(HS_DIM),
        "rw_dim": str(RW_DIM),
        "content": "sum",
        "alpha": "0.5",
        "standardize": "both",
        "normalised": "yes",
        "filter": 'id != "d1"',
    }
    assert {key: facts[key] for key in expected} == expected
    assert "moee-index embed --index news --method sum --alpha 0.5 TEXT" in facts["query"]


def test_safetensors_carries_the_facts_too(changed: Path, tmp_path: Path) -> None:
    path = tmp_path / "out.safetensors"
    with Index.open(changed) as index:
        report = export_index(index, path, parts=True)
    with safe_open(path, "np") as file:
        said = file.metadata()
        assert set(file.keys()) == {"hs", "rw"}
    assert {**report.facts, "ids": said["ids"]} == said
    assert (int.from_bytes(path.read_bytes()[:8], "little")) % 8 == 0


@pytest.mark.parametrize("suffix", (".parquet", ".jsonl", ".safetensors"))
@pytest.mark.parametrize("raw", (False, True))
def test_both_parts_apart(changed: Path, tmp_path: Path, suffix: str, raw: bool) -> None:
    path = tmp_path / f"out{suffix}"
    with Index.open(changed) as index:
        report = export_index(index, path, parts=True, raw=raw)
        names, found = read(path)
        embeddings = index.vectors(names)
        units = unit_vectors(embeddings, index.standardizer)
    assert report.dims == {"hs": HS_DIM, "rw": RW_DIM}
    assert (report.method, report.alpha) == (None, None)
    assert set(found) == {"hs", "rw"}
    for part in ("hs", "rw"):
        expected = getattr(embeddings if raw else units, part).astype(np.float32)
        assert np.array_equal(found[part], expected)


@pytest.mark.parametrize("method", ("hs", "rw", "concat"))
def test_raw_vectors_are_the_models(changed: Path, tmp_path: Path, method: str) -> None:
    path = tmp_path / "out.npy"
    with Index.open(changed) as index:
        report = export_index(index, path, method=method, raw=True)
        names, found = read(path)
        raw = index.vectors(names)
    expected = {"hs": raw.hs, "rw": raw.rw, "concat": np.concatenate([raw.hs, raw.rw], axis=1)}
    assert np.array_equal(found["vector"], expected[method])
    assert report.facts["standardize"] == "none"
    assert "--raw" in report.query


# It ranks as the index does


def ranking_of(
    vectors: FloatArray, query: FloatArray, names: list[str]
) -> tuple[list[str], Float64Array]:
    scores = vectors.astype(np.float64) @ query.astype(np.float64)
    order = np.argsort(-np.round(scores, 6), kind="stable")
    return [names[row] for row in order], scores[order]


@pytest.mark.parametrize(
    ("method", "alpha"),
    [("sum", None), ("sum", 0.0), ("sum", 0.37), ("sum", 25.0), *((m, None) for m in METHODS[:3])],
)
def test_inner_products_are_the_scores_of_query(
    changed: Path, tmp_path: Path, method: str, alpha: float | None
) -> None:
    path = tmp_path / "out.npy"
    with Index.open(changed) as index:
        export_index(index, path, method=method, alpha=alpha)
        names, found = read(path)
        embeddings = FakeEncoder().encode(QUERIES, query=True)
        weight = None if method != "sum" else 1.0 if alpha is None else alpha
        queries = one_vectors(
            embeddings,
            method,  # type: ignore[arg-type]
            raw=False,
            alpha=weight,
            standardizer=index.standardizer,
        )
        answers = index.search_embeddings(embeddings, 117, alpha=alpha, method=method)
    for query, hits in zip(queries, answers, strict=True):
        scores = dict(zip(names, found["vector"].astype(np.float64) @ query, strict=True))
        assert len(hits) == 117
        for hit in hits:
            assert scores[hit.id] == pytest.approx(hit.score, abs=1e-6 * (1 + (weight or 0)))
        lengths = np.linalg.norm(found["vector"], axis=1)
        # One length: Euclidean distance and cosine order as the inner product does.
        assert np.allclose(lengths, lengths[0], rtol=1e-6)


@settings(max_examples=25, deadline=None)
@given(
    alpha=st.floats(0, 50),
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(1, 90),
    shift=st.floats(-5, 5),
)
def test_exported_sums_rank_as_the_index(alpha: float, seed: int, rows: int, shift: float) -> None:
    rng = np.random.default_rng(seed)
    given_rows = Embeddings(
        (rng.standard_normal((rows + 3, 9)) * 3 + shift).astype(np.float32),
        rng.standard_normal((rows + 3, 5)).astype(np.float32),
    )
    encoder = GivenEncoder(given_rows)
    with tempfile.TemporaryDirectory() as folder:
        documents = [Document(f"d{i}", str(i)) for i in range(rows)]
        path = Path(folder) / "out.npy"
        with Index.build(Path(folder) / "i", documents, encoder) as index:
            export_index(index, path, alpha=alpha)
            queries = encoder.vectors([str(rows + i) for i in range(3)])
            vectors = one_vectors(
                queries, "sum", raw=False, alpha=alpha, standardizer=index.standardizer
            )
            answers = index.search_embeddings(queries, rows, alpha=alpha)
        names, found = read(path)
    for query, hits in zip(vectors, answers, strict=True):
        expected = {hit.id: hit.score for hit in hits}
        ranked, scores = ranking_of(found["vector"], query, names)
        tolerance = 2e-6 * (1 + alpha)
        for place, (name, score) in enumerate(zip(ranked, scores, strict=True)):
            assert score == pytest.approx(expected[name], abs=tolerance)
            assert hits[place].score == pytest.approx(score, abs=tolerance)


def test_embed_gives_the_query_vector_of_an_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sentence that every export tells is true, with a real model and the commands alone."""
    monkeypatch.chdir(tmp_path)
    words = ("river", "bank", "guitar", "rain", "planet", "cheese", "stone")
    lines = [
        {"id": f"d{i}", "text": f"{words[i % 7]} and {words[i * 5 % 6]} number {i}"}
        for i in range(70)
    ]
    Path("c.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    model = ("--model", str(PARITY / "olmoe"), "--query-prompt", "Find: {text}")
    run("-q", "build", "c.jsonl", *model)
    told = run("export", "indexes/c", "out.parquet", "--alpha", "0.6", "--json")
    report = json.loads(told.stdout)
    assert report["query"] in told.stderr
    command = report["query"].split("`")[1].split()
    assert command[-1] == "TEXT" and command[0] == "moee-index"
    text = "rain on the river bank"
    found = json.loads(run(*command[1:-1], text).stdout)
    names, columns = read(Path("out.parquet"))
    scores = columns["vector"].astype(np.float64) @ np.array(found["vector"])
    answer = json.loads(
        run("query", text, "--index", "indexes/c", "-k", "70", "--alpha", "0.6", "--json").stdout
    )
    expected = {hit["id"]: hit["score"] for hit in answer["hits"]}
    assert expected == pytest.approx(dict(zip(names, scores, strict=True)), abs=1e-6)
    best = [names[row] for row in np.argsort(-scores, kind="stable")[:10]]
    for name, hit in zip(best, answer["hits"], strict=False):
        assert expected[name] == pytest.approx(hit["score"], abs=1e-6)


# Passages and filters


@pytest.mark.parametrize("suffix", FORMATS)
def test_passages_are_rows_of_their_documents(split: Path, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    with Index.open(split) as index:
        report = export_index(index, path)
        names, found = read(path)
        assert names == list(index.ids())
        passages = index.passages([f"p{i}" for i in range(80)])
        expected = one_vectors(
            index.vectors(names), "sum", raw=False, alpha=1.0, standardizer=index.standardizer
        )
        assert report.rows == index.manifest.rows > report.documents == len(index) == 79
    assert np.array_equal(found["vector"], expected)
    assert not any(name.startswith("p39") for name in names)
    assert {"p0", "p38#1", "p38#2"} <= set(names)
    if suffix == ".jsonl":
        texts = {one.id: one.text for found in passages.values() for one in found}
        for line in json_lines(path):
            name = line["passage"] or line["id"]
            assert line["text"] == texts[name]
            assert line["passage"] is None or line["passage"].rpartition("#")[0] == line["id"]


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_filter_leaves_the_documents_that_fulfil_it(
    changed: Path, tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"out{suffix}"
    condition = "x = 1 or year >= 27"
    with Index.open(changed) as index:
        report = export_index(index, path, filter=condition)
        names, found = read(path)
        with pytest.raises(FilterError, match="nowhere"):
            export_index(index, tmp_path / "other.npy", filter="nowhere = 1")
        again = export_index(index, path, filter=Filter.parse(condition), overwrite=True)
    expected = [f"d{i}" for i in range(COUNT) if i % 3 == 0 and f"d{i}" not in DELETED]
    assert names == [*expected, "e27", "e28", "e29"]
    assert len(found["vector"]) == report.rows == again.rows == len(names)
    assert report.filter == again.filter == condition
    assert not (tmp_path / "other.npy").exists()


@pytest.mark.parametrize("suffix", FORMATS)
def test_nothing_to_export_is_a_file_without_rows(tmp_path: Path, suffix: str) -> None:
    build_index(tmp_path / "i", fake_documents(3), FakeEncoder())
    path = tmp_path / f"out{suffix}"
    with Index.open(tmp_path / "i") as index:
        assert export_index(index, path, filter='id = "no"').rows == 0
    delete_documents(tmp_path / "i", ["d0", "d1", "d2"])
    with Index.open(tmp_path / "i") as index:
        assert export_index(index, path, overwrite=True).rows == 0
    if suffix == ".jsonl":
        assert path.read_bytes() == b""
    elif suffix == ".parquet":
        table = pq.read_table(path)
        assert (table.num_rows, table.num_columns) == (0, 6)
    else:
        assert read(path)[0] == []
        assert read(path)[1]["vector"].shape == (0, HS_DIM + RW_DIM)


# The same bytes; little memory


@pytest.mark.parametrize("suffix", FORMATS)
def test_the_same_version_gives_the_same_bytes_wherever_it_lies(
    changed: Path, tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = Path(shutil.copytree(changed, tmp_path / "other" / "news"))
    digests = set()
    for place, directory in enumerate((changed, elsewhere, changed)):
        path = tmp_path / f"{place}{suffix}"
        with Index.open(directory) as index:
            export_index(
                index, path, parts=suffix != ".npy", method="sum" if suffix == ".npy" else None
            )
        digests.add(hashlib.sha256(path.read_bytes()).hexdigest())
    assert len(digests) == 1
    monkeypatch.setattr("moee_index.export.export.ROWS", 7)
    if suffix != ".parquet":
        with Index.open(changed) as index:
            export_index(
                index,
                tmp_path / f"small{suffix}",
                parts=suffix != ".npy",
                method="sum" if suffix == ".npy" else None,
            )
        small = hashlib.sha256((tmp_path / f"small{suffix}").read_bytes()).hexdigest()
        assert digests == {small}


def test_compacting_changes_no_vector(changed: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(changed, tmp_path / "copy"))
    with Index.open(copy) as index:
        export_index(index, tmp_path / "before.jsonl")
    compact_index(copy)
    with Index.open(copy) as index:
        assert len(index.snapshot.segments) == 1
        export_index(index, tmp_path / "after.jsonl")
    assert (tmp_path / "before.jsonl").read_bytes() == (tmp_path / "after.jsonl").read_bytes()


@pytest.mark.parametrize("suffix", (".npy", ".parquet", ".safetensors"))
def test_memory_does_not_grow_with_the_rows(tmp_path: Path, suffix: str) -> None:
    rows, dim = 6000, 512
    rng = np.random.default_rng(3)
    encoder = GivenEncoder(
        Embeddings(
            rng.standard_normal((rows, dim), dtype=np.float32),
            rng.standard_normal((rows, 8), dtype=np.float32),
        )
    )
    build_index(tmp_path / "i", [Document(f"d{i}", str(i)) for i in range(rows)], encoder)
    with Index.open(tmp_path / "i") as index:
        path = tmp_path / f"out{suffix}"
        export_index(index, path, filter='id = "d1"')  # imports and caches
        tracemalloc.start()
        try:
            report = export_index(index, path, overwrite=True)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert report.rows == rows
    block = 1000 * (dim + 8)
    assert path.stat().st_size >= 4 * 6 * block
    # Float32 and float64 rows of one block, some of them twice.
    assert peak < 40 * block, peak / block


# Whole or not at all


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_file_that_is_there_stays_without_overwrite(
    changed: Path, tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"out{suffix}"
    path.write_bytes(b"mine")
    with Index.open(changed) as index:
        with pytest.raises(MisuseError, match=r"already exists; give --overwrite"):
            export_index(index, path)
        assert path.read_bytes() == b"mine"
        assert list(tmp_path.iterdir()) == [path]
        export_index(index, path, overwrite=True)
    assert len(read(path)[0]) == 117


def test_ids_that_are_there_stay_too(changed: Path, tmp_path: Path) -> None:
    beside = ids_beside(tmp_path / "out.npy")
    beside.write_bytes(b"mine")
    with Index.open(changed) as index, pytest.raises(MisuseError, match=beside.name):
        export_index(index, tmp_path / "out.npy")
    assert list(tmp_path.iterdir()) == [beside]
    assert beside.read_bytes() == b"mine"


class _FullError(OSError):
    def __init__(self) -> None:
        super().__init__(28, "No space left on device")


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("there", (False, True))
def test_a_failure_leaves_what_was_there(
    changed: Path, tmp_path: Path, suffix: str, there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second block cannot be written: the old files stay, and nothing beside them."""
    path = tmp_path / f"out{suffix}"
    with Index.open(changed) as index:
        if there:
            export_index(index, path)
        before = {one.name: one.read_bytes() for one in tmp_path.iterdir()}
        kind = exportfile.FORMATS[suffix]
        write, calls = kind.write, []  # type: ignore[attr-defined]

        def fails(self: Any, *args: Any) -> None:
            calls.append(1)
            if len(calls) == 2:
                raise _FullError
            write(self, *args)

        monkeypatch.setattr(kind, "write", fails)
        monkeypatch.setattr("moee_index.export.export.ROWS", 50)
        with pytest.raises(StorageError, match=rf"out{suffix} cannot be written: No space left"):
            export_index(index, path, overwrite=True)
    assert len(calls) == 2
    assert {one.name: one.read_bytes() for one in tmp_path.iterdir()} == before


def test_an_interrupt_leaves_nothing(changed: Path, tmp_path: Path) -> None:
    def interrupt(stage: str, done: int, total: int | None) -> None:
        raise KeyboardInterrupt

    for suffix in FORMATS:
        with Index.open(changed) as index, pytest.raises(KeyboardInterrupt):
            export_index(index, tmp_path / f"out{suffix}", progress=interrupt)
        assert list(tmp_path.iterdir()) == []


def test_a_matrix_never_stands_beside_the_ids_of_another(
    changed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out.npy"
    replaced = Path.replace
    with Index.open(changed) as index:
        export_index(index, path, filter="x = 1")

        def fails(self: Path, target: Path) -> Path:
            if target == path:
                raise _FullError
            return replaced(self, target)

        monkeypatch.setattr(Path, "replace", fails)
        with pytest.raises(StorageError, match="No space left"):
            export_index(index, path, overwrite=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", FORMATS)
def test_size_limit(changed: Path, tmp_path: Path, suffix: str) -> None:
    """What a full disk does, in the middle of the file and at its very end."""
    context = forks.context()
    path = tmp_path / f"out{suffix}"
    with Index.open(changed) as index:
        whole = export_index(index, tmp_path / f"whole{suffix}").bytes
    (tmp_path / f"whole{suffix}").unlink()
    ids_beside(tmp_path / f"whole{suffix}").unlink(missing_ok=True)
    if suffix == ".npy":
        whole = 128 + 117 * 4 * (HS_DIM + RW_DIM)
    for size in (whole // 2, whole - 1):
        answers = context.Queue()
        arguments = (str(changed), str(path), size, answers)
        process = context.Process(target=export_limited, args=arguments)
        process.start()
        kind, message = answers.get(timeout=60)
        process.join()
        assert kind == "StorageError", message
        assert f"{path} cannot be written: File too large" in message
        assert "\n" not in message
        assert list(tmp_path.iterdir()) == []
        assert process.exitcode == 0


def test_a_damaged_row_stops_an_export(changed: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(changed, tmp_path / "copy"))
    rows = copy / "segment-0001/hs.f32"
    content = bytearray(rows.read_bytes())
    content[5 * 4 * HS_DIM] ^= 1
    rows.write_bytes(content)
    for suffix in FORMATS:
        with Index.open(copy) as index, pytest.raises(IndexDamagedError, match=r"hs\.f32"):
            export_index(index, tmp_path / f"out{suffix}")
    assert list(tmp_path.iterdir()) == [copy]


# Misuse


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("out.csv", {}, "must end in .parquet, .jsonl, .npy, .safetensors"),
        ("out", {}, "must end in"),
        ("out.npy", {"parts": True}, "one matrix"),
        ("out.jsonl", {"parts": True, "method": "hs"}, "--parts"),
        ("out.jsonl", {"parts": True, "alpha": 1.0}, "--parts"),
        ("out.jsonl", {"raw": True}, "--raw has no `sum`"),
        ("out.jsonl", {"raw": True, "method": "sum"}, "--raw has no `sum`"),
        ("out.jsonl", {"method": "hs", "alpha": 1.0}, "alpha weighs RW in method sum only"),
        ("out.jsonl", {"alpha": -1.0}, "alpha is -1.0"),
        ("out.jsonl", {"alpha": float("nan")}, "alpha is nan"),
        ("out.jsonl", {"method": "mean"}, "method is 'mean'"),
    ],
)
def test_misuse(
    changed: Path, tmp_path: Path, name: str, options: dict[str, Any], told: str
) -> None:
    with Index.open(changed) as index, pytest.raises(MisuseError) as caught:
        export_index(index, tmp_path / name, **options)
    assert told in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_places_that_cannot_be(changed: Path, tmp_path: Path) -> None:
    (tmp_path / "folder.npy").mkdir()
    before = sorted(changed.rglob("*"))
    with Index.open(changed) as index:
        with pytest.raises(StorageError, match=r"missing: no such directory"):
            export_index(index, tmp_path / "missing" / "out.npy")
        with pytest.raises(MisuseError, match="is a directory"):
            export_index(index, tmp_path / "folder.npy", overwrite=True)
        for inside in (changed / "out.jsonl", changed / "segment-0001" / "out.npy"):
            with pytest.raises(MisuseError, match="is inside the index"):
                export_index(index, inside)
    assert sorted(changed.rglob("*")) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_that_refuses(changed: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with Index.open(changed) as index, pytest.raises(StorageError, match="Permission denied"):
        export_index(index, tmp_path / "out.npy")


def test_ids_too_long_for_a_header(
    changed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exportfile, "HEADER_BYTES", 300)
    with Index.open(changed) as index, pytest.raises(StorageError, match=r"export to \.parquet"):
        export_index(index, tmp_path / "out.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_the_index_default_alpha_and_an_unstandardised_index(tmp_path: Path) -> None:
    from moee_index.index import save_alpha

    build_index(tmp_path / "i", fake_documents(20), FakeEncoder())
    save_alpha(tmp_path / "i", 0.25)
    with Index.open(tmp_path / "i") as index:
        report: ExportReport = export_index(index, tmp_path / "out.npy")
        names, found = read(tmp_path / "out.npy")
        raw = raw_of(index, names)
        assert index.standardizer.which == Standardizer().which == "none"
    assert (report.alpha, report.facts["standardize"]) == (0.25, "none")
    expected = np.concatenate(
        [
            raw.hs / np.linalg.norm(raw.hs, axis=1, keepdims=True),
            0.5 * raw.rw / np.linalg.norm(raw.rw, axis=1, keepdims=True),
        ],
        axis=1,
    )
    assert np.allclose(found["vector"], expected, atol=1e-6)


# The command


def test_the_command_tells_what_it_wrote(changed: Path, tmp_path: Path) -> None:
    path = tmp_path / "out.npy"
    result = run("export", changed, path, "--method", "concat", "--filter", "x = 1")
    assert f"{path}: 29 rows of 29 documents (36 vector numbers a row; method concat)" in (
        result.stdout
    )
    assert str(ids_beside(path)) in result.stdout
    assert "--method concat TEXT" in result.stderr
    assert "alpha" not in result.stderr
    said = run("-q", "export", changed, path, "--json", "--overwrite", "--parts", status=2)
    assert "one matrix" in said.stderr
    quiet = run("-q", "export", changed, tmp_path / "out.parquet", "--json", "--parts", "--raw")
    assert quiet.stderr == ""
    report = json.loads(quiet.stdout)
    assert report["dims"] == {"hs": HS_DIM, "rw": RW_DIM}
    assert (report["rows"], report["raw"], report["method"]) == (117, True, None)
    assert "--method hs --raw TEXT" in report["query"]


@pytest.mark.parametrize(
    ("args", "status", "said"),
    [
        (("INDEX", "out.xlsx"), 2, "must end in"),
        (("INDEX", "there.jsonl"), 2, "--overwrite"),
        (("INDEX", "no/such/out.npy"), 1, "no such directory"),
        (("INDEX", "out.npy", "--raw"), 2, "--raw"),
        (("INDEX", "out.npy", "--method", "rw", "--alpha", "1"), 2, "alpha"),
        (("INDEX", "out.npy", "--filter", "x = "), 2, "position"),
        (("INDEX", "out.npy", "--filter", "nothing = 1"), 2, "nothing"),
        (("nowhere", "out.npy"), 1, "nowhere"),
        (("INDEX",), 2, "FILE"),
    ],
)
def test_bad_input_gets_one_clear_line(
    changed: Path,
    tmp_path: Path,
    args: tuple[str, ...],
    status: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("there.jsonl").write_text("mine")
    result = run(
        "export", *(str(changed) if arg == "INDEX" else arg for arg in args), status=status
    )
    lines = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1
    assert said in lines[0]
    assert [path.name for path in tmp_path.iterdir()] == ["there.jsonl"]

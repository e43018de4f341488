"""What `info` tells of an index, and when a refit of its standardizer is due."""

from __future__ import annotations

import json
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes.indexes import fake_documents
from fakes.word_encoder import HS_DIM, RW_DIM, FakeEncoder, GivenEncoder
from moee_index.cli import cli
from moee_index.errors import IndexDamagedError
from moee_index.index import (
    Index,
    add_documents,
    build_index,
    compact_index,
    delete_documents,
    drift,
    reindex,
    save_alpha,
    verify_index,
)
from moee_index.index.describe import disk
from moee_index.index.drift import REFIT_ABOVE, measure_drift
from moee_index.index.store.manifest import Building, Manifest
from moee_index.types import Document, Embeddings, FloatArray


@pytest.fixture(scope="module")
def changed() -> Iterator[Path]:
    """Passages in two segments, some deleted; α saved."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "i"
        build_index(path, fake_documents(90), FakeEncoder(), chunk="8", store="float16")
        long = [
            Document(f"e{i}", " ".join(f"w{i + j}" for j in range(20)), {"lang": "en", "y": [i]})
            for i in range(10)
        ]
        add_documents(path, long, FakeEncoder())
        delete_documents(path, ["d3", "e0", "e1"])
        save_alpha(path, 0.5)
        yield path


def test_info_tells_the_version_and_its_changes(changed: Path) -> None:
    with Index.open(changed) as index:
        found = index.info()
        rows = len(list(index.ids()))
        ids = index.documents([f"d{i}" for i in range(90)])
    manifest = Manifest.read(changed)
    assert found["documents"] == len(ids) + 8 == 97
    assert found["rows"] == rows == manifest.rows > 97
    assert found["revision"] == manifest.revision == 4
    assert (found["changed"], found["created"]) == (manifest.changed, manifest.created)
    assert (found["chunk"], found["store"], found["alpha"]) == ("8", "float16", 0.5)
    assert found["segments"] == 2
    connection = sqlite3.connect(changed / manifest.segments[1].name / "documents.sqlite")
    sql = "SELECT sum(count) FROM documents WHERE id IN ('e0', 'e1')"
    gone = connection.execute(sql).fetchone()[0]
    connection.close()
    first = sqlite3.connect(changed / "segment-0001/documents.sqlite")
    gone += first.execute("SELECT count FROM documents WHERE id = 'd3'").fetchone()[0]
    first.close()
    assert found["deleted"] == {"documents": 3, "rows": gone}
    assert found["fields"] == {"lang": ["text"], "x": ["number"], "y": ["list"]}
    assert found["counts"] == {"read": 100, "truncated": 0, "skipped": 0, "rejected": 0}
    assert found["unfinished"] is None
    assert found["dims"] == {"hs": HS_DIM, "rw": RW_DIM}
    json.dumps(found, allow_nan=False)


def test_disk_by_kind_adds_up(changed: Path) -> None:
    with Index.open(changed) as index:
        found = index.info()
    sizes = {
        str(path.relative_to(changed)): path.stat().st_size
        for path in changed.rglob("*")
        if path.is_file() and path.name not in ("manifest.json", "lock")
    }
    told = dict(found["disk"])
    assert told.pop("per_document") == pytest.approx(found["bytes"] / 97)
    assert sum(told.values()) == found["bytes"] == sum(sizes.values())

    def of(*parts: str) -> int:
        return sum(
            size for name, size in sizes.items() if any(part in Path(name).name for part in parts)
        )

    assert told["documents"] == of("documents.sqlite", "fields.sqlite") > 0
    assert told["raw"] == of(".f16", "rows.crc") > 0
    assert told["codes"] == of(".faiss", "hs-", "rw-", "norms-")
    assert told["words"] == of("lexical-") > 0
    assert told["other"] == of("standardizer", "deleted-") > 0


def test_an_index_of_which_nothing_is_left(tmp_path: Path) -> None:
    build_index(tmp_path / "i", fake_documents(70), FakeEncoder())
    delete_documents(tmp_path / "i", [f"d{i}" for i in range(70)])
    with Index.open(tmp_path / "i") as index:
        found = index.info()
    assert (found["documents"], found["rows"], found["segments"]) == (0, 0, 0)
    assert found["disk"]["per_document"] is None
    assert found["drift"] == {
        "hs": 0.0, "rw": 0.0, "rows": 0, "refit": False, "reason": "no rows count",
    }  # fmt: skip
    assert found["fields"] == {}
    table = told(tmp_path / "i")
    assert table["documents"].startswith("0 in 0 rows")


# Unfinished


def interrupted(directory: Path, *, overwrite: bool = False, **options: Any) -> None:
    """A build or an add that stops at its 30th batch."""

    def stop(batch: int) -> None:
        if batch == 30:
            raise KeyboardInterrupt

    encoder = FakeEncoder(on_batch=stop)
    with pytest.raises(KeyboardInterrupt):
        if overwrite:
            build_index(directory, fake_documents(200), encoder, overwrite=True, window=32)
        else:
            add_documents(directory, fake_documents(200), encoder)


@pytest.mark.parametrize("purpose", ("add", "build"))
def test_what_was_interrupted_is_told(tmp_path: Path, purpose: str) -> None:
    path = tmp_path / "i"
    build_index(path, fake_documents(70), FakeEncoder(), window=32)
    with Index.open(path) as index:
        before = index.info()
    interrupted(path, overwrite=purpose == "build")
    with Index.open(path) as index:
        found = index.info()
    left = found["unfinished"]
    (folder,) = (one for one in path.glob("segment-*") if one.name != "segment-0001")
    assert left["purpose"] == purpose
    # Windows of 32 documents whose vectors are all there.
    assert left["documents"] in (64, 96)
    connection = sqlite3.connect(folder / "documents.sqlite")
    done = connection.execute("SELECT sum(documents) FROM windows WHERE done").fetchone()[0]
    connection.close()
    assert left["documents"] == done
    assert left["bytes"] == sum(one.stat().st_size for one in folder.iterdir())
    assert {**found, "unfinished": None} == before
    lines = told(path)["unfinished"]
    assert lines.startswith(f"{'an add' if purpose == 'add' else 'a build'} has embedded {done} ")
    if purpose == "add":
        add_documents(path, fake_documents(200), FakeEncoder())
    else:
        build_index(path, fake_documents(200), FakeEncoder(), overwrite=True, window=32)
    with Index.open(path) as index:
        assert index.info()["unfinished"] is None


def test_an_unfinished_segment_that_cannot_be_read_is_no_error(tmp_path: Path) -> None:
    path = tmp_path / "i"
    build_index(path, fake_documents(70), FakeEncoder(), window=32)
    interrupted(path)
    (folder,) = (one for one in path.glob("segment-*") if one.name != "segment-0001")
    (folder / "documents.sqlite").write_bytes(b"no database" * 100)
    with Index.open(path) as index:
        left = index.info()["unfinished"]
        assert (left["purpose"], left["documents"]) == ("add", None)
        assert "an unknown number of documents" in told(path)["unfinished"]
        (folder / "building.json").write_text("{")
        assert index.info()["unfinished"]["purpose"] is None
        assert told(path)["unfinished"].startswith("a build or an add")
    assert Building.read(path / "segment-0001") is None


# Drift


def rows_of(directory: Path) -> Embeddings:
    with Index.open(directory) as index:
        return index.vectors(list(index.ids()))


def gaussian(count: int, seed: int, shift: float = 0.0, spread: float = 1.0) -> Embeddings:
    """Rows of two parts; the dimensions of HS differ in mean and deviation."""
    rng = np.random.default_rng(seed)
    scale = np.linspace(0.5, 3.0, 12)
    hs = rng.standard_normal((count, 12)) * spread * scale + (np.arange(12) + shift * scale)
    rw = rng.standard_normal((count, 5)) * spread + shift
    return Embeddings(hs.astype(np.float32), rw.astype(np.float32))


def joined(*parts: Embeddings) -> Embeddings:
    return Embeddings(
        np.concatenate([one.hs for one in parts]), np.concatenate([one.rw for one in parts])
    )


def documents(start: int, stop: int) -> list[Document]:
    return [Document(f"d{i}", str(i)) for i in range(start, stop)]


def independent(rows: FloatArray, seen: FloatArray, frozen: FloatArray, live: int) -> float:
    """The formula again: rows looked at, rows fitted on, and how many count."""
    fitted = frozen.astype(np.float64)
    mean, deviation = fitted.mean(axis=0), fitted.std(axis=0, ddof=1)
    own = seen.astype(np.float64)
    moved = np.mean([((own[:, j].mean() - mean[j]) / deviation[j]) ** 2 for j in range(len(mean))])
    chance = np.mean((own.std(axis=0, ddof=1) / deviation) ** 2) / len(own) * (1 - len(own) / live)
    assert len(rows) == live
    return float(np.sqrt(max(0.0, moved - chance)))


@settings(max_examples=20, deadline=None)
@given(
    first=st.integers(64, 150),
    more=st.integers(1, 150),
    shift=st.floats(-3, 3),
    spread=st.floats(0.2, 3),
    seed=st.integers(0, 1000),
    sample=st.sampled_from([70, 100, 4096]),
)
def test_drift_is_the_formula(
    first: int, more: int, shift: float, spread: float, seed: int, sample: int
) -> None:
    vectors = joined(gaussian(first, seed), gaussian(more, seed + 1, shift, spread))
    encoder = GivenEncoder(vectors)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "i"
        build_index(path, documents(0, first), encoder)
        add_documents(path, documents(first, first + more), encoder)
        gone = [f"d{i}" for i in range(3, first + more, 11)]
        delete_documents(path, gone)
        live = np.array([i for i in range(first + more) if f"d{i}" not in gone])
        with pytest.MonkeyPatch.context() as patch, Index.open(path) as index:
            patch.setattr(drift, "SAMPLE", sample)
            found = measure_drift(index.snapshot)
    taken = min(sample, len(live))
    seen = live[[(2 * i + 1) * len(live) // (2 * taken) for i in range(taken)]]
    assert found.rows == taken == len(set(seen))
    for part in ("hs", "rw"):
        rows = getattr(vectors, part)
        expected = independent(rows[live], rows[seen], rows[:first], len(live))
        assert getattr(found, part) == pytest.approx(expected, abs=1e-6)
    largest = max(found.hs or 0, found.rw or 0)
    assert found.refit == (largest > REFIT_ABOVE)
    assert ("reindex" in found.reason) == found.refit


def test_a_fresh_build_has_not_moved(
    changed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = gaussian(3000, 5)
    build_index(tmp_path / "i", documents(0, 3000), GivenEncoder(vectors))
    with Index.open(tmp_path / "i") as index:
        whole = measure_drift(index.snapshot)
        assert whole.rows == 3000
        assert whole.hs == pytest.approx(0, abs=1e-6)
        assert whole.rw == pytest.approx(0, abs=1e-6)
        # By chance the mean of so few rows is off by 0.1; what is left of it is noise.
        monkeypatch.setattr(drift, "SAMPLE", 100)
        some = measure_drift(index.snapshot)
    assert some.rows == 100
    assert (some.hs or 0) < 0.08 and (some.rw or 0) < 0.1
    assert not whole.refit and not some.refit
    assert "a refit is due over" in some.reason


def test_the_sample_is_spread_over_all_segments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = joined(gaussian(400, 1), gaussian(200, 2, shift=4.0))
    encoder = GivenEncoder(vectors)
    build_index(tmp_path / "i", documents(0, 400), encoder)
    add_documents(tmp_path / "i", documents(400, 600), encoder)
    monkeypatch.setattr(drift, "SAMPLE", 90)
    with Index.open(tmp_path / "i") as index:
        found = measure_drift(index.snapshot)
    # A third of the rows lies four deviations off.
    assert found.hs == pytest.approx(4 / 3, abs=0.15)
    assert found.rw == pytest.approx(4 / 3, abs=0.15)


def test_a_refit_is_due_after_other_documents_and_not_after_it_was_done(tmp_path: Path) -> None:
    path = tmp_path / "i"
    encoder = GivenEncoder(joined(gaussian(300, 1), gaussian(100, 2), gaussian(300, 3, 0.8)))
    build_index(path, documents(0, 300), encoder)
    add_documents(path, documents(300, 400), encoder)
    with Index.open(path) as index:
        same = index.info()["drift"]
    assert not same["refit"] and max(same["hs"], same["rw"]) < 0.1
    add_documents(path, documents(400, 700), encoder)
    with Index.open(path) as index:
        other = index.info()["drift"]
    assert other["refit"]
    assert other["hs"] == pytest.approx(0.8 * 3 / 7, abs=0.08)
    assert "moee-index reindex" in other["reason"]
    assert "moee-index reindex" in told(path)["drift"]
    compact_index(path)
    with Index.open(path) as index:
        assert index.info()["drift"]["refit"]
    reindex(path)
    with Index.open(path) as index:
        after = index.info()["drift"]
    assert not after["refit"] and max(after["hs"], after["rw"]) < 1e-6


def test_deleting_what_was_other_needs_no_refit(tmp_path: Path) -> None:
    path = tmp_path / "i"
    encoder = GivenEncoder(joined(gaussian(300, 1), gaussian(300, 3, 2.0)))
    build_index(path, documents(0, 300), encoder)
    add_documents(path, documents(300, 600), encoder)
    with Index.open(path) as index:
        assert measure_drift(index.snapshot).refit
    delete_documents(path, [f"d{i}" for i in range(300, 600)])
    with Index.open(path) as index:
        assert not measure_drift(index.snapshot).refit


def test_one_part_alone(tmp_path: Path) -> None:
    encoder = GivenEncoder(joined(gaussian(100, 1), gaussian(100, 3, 2.0)))
    build_index(tmp_path / "i", documents(0, 100), encoder, standardize="rw")
    add_documents(tmp_path / "i", documents(100, 200), encoder)
    with Index.open(tmp_path / "i") as index:
        found = measure_drift(index.snapshot)
    assert found.hs is None
    assert found.rw == pytest.approx(1.0, abs=0.2)
    assert found.refit and "RW's mean" in found.reason


def test_dropped_dimensions_count_for_nothing(tmp_path: Path) -> None:
    first, second = gaussian(100, 1), gaussian(100, 2)
    first.hs[:, 4] = 7.0
    second.hs[:, 4] = 1e6
    encoder = GivenEncoder(joined(first, second))
    build_index(tmp_path / "i", documents(0, 100), encoder)
    add_documents(tmp_path / "i", documents(100, 200), encoder)
    with Index.open(tmp_path / "i") as index:
        assert index.standardizer.dropped == {"hs": 1, "rw": 0}
        assert not measure_drift(index.snapshot).refit


def test_an_index_that_was_too_small_to_standardise(tmp_path: Path) -> None:
    """Whatever has joined its segments since."""
    path = tmp_path / "i"
    build_index(path, fake_documents(30), FakeEncoder())
    with Index.open(path) as index:
        found = measure_drift(index.snapshot)
    assert (found.hs, found.rw, found.refit) == (None, None, False)
    assert "too few" in found.reason
    for stop in (50, 63):
        add_documents(path, fake_documents(stop), FakeEncoder())
        with Index.open(path) as index:
            assert not measure_drift(index.snapshot).refit
    add_documents(path, fake_documents(80), FakeEncoder())
    compact_index(path)
    with Index.open(path) as index:
        assert index.manifest.standardize == "none"
        found = measure_drift(index.snapshot)
    assert found.refit
    assert "30 rows" in found.reason and "80 now" in found.reason
    reindex(path)
    with Index.open(path) as index:
        assert index.manifest.standardize == "both"
        assert not measure_drift(index.snapshot).refit


def test_an_index_that_was_not_to_be_standardised(tmp_path: Path) -> None:
    build_index(tmp_path / "i", fake_documents(80), FakeEncoder(), standardize="none")
    with Index.open(tmp_path / "i") as index:
        found = measure_drift(index.snapshot)
    assert (found.refit, found.reason) == (False, "nothing is standardised, as requested")


def test_a_standardizer_without_its_rows_is_read(tmp_path: Path) -> None:
    """Files of an earlier program do not tell how many rows they were fitted on."""
    from safetensors.numpy import load_file, save

    path = tmp_path / "i"
    build_index(path, fake_documents(30), FakeEncoder())
    manifest = Manifest.read(path)
    assert load_file(path / "standardizer-0001.safetensors")["rows"].tolist() == [30]
    (path / "standardizer-0001.safetensors").write_bytes(save({}, {"standardize": "none"}))
    manifest.files.clear()
    manifest.with_segments(path, manifest.segments).write(path)
    add_documents(path, fake_documents(80), FakeEncoder())
    with Index.open(path) as index:
        assert not measure_drift(index.snapshot).refit
    assert verify_index(path, full=True).ok


def test_a_damaged_row_of_the_sample_is_an_error(tmp_path: Path) -> None:
    build_index(tmp_path / "i", fake_documents(80), FakeEncoder())
    rows = tmp_path / "i/segment-0001/rw.f32"
    content = bytearray(rows.read_bytes())
    content[0] ^= 1
    rows.write_bytes(content)
    with Index.open(tmp_path / "i") as index, pytest.raises(IndexDamagedError, match=r"rw\.f32"):
        index.info()


def test_info_changes_nothing_and_works_on_a_copy(changed: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(changed, tmp_path / "copy"))
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    with Index.open(copy) as index, Index.open(changed) as other:
        assert index.info() == other.info()
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before


# The command


def told(directory: Path) -> dict[str, str]:
    """What the command tells people, name → value."""
    result = CliRunner().invoke(cli, ["info", str(directory)])
    assert result.exit_code == 0, result.stderr
    return {line[:14].strip(): line[15:] for line in result.stdout.splitlines()}


def test_the_command_prints_json_or_a_table(changed: Path) -> None:
    result = CliRunner().invoke(cli, ["info", str(changed), "--json"])
    found = json.loads(result.stdout)
    with Index.open(changed) as index:
        assert found == json.loads(json.dumps(index.info()))
        assert disk(index.manifest) == found["disk"]
    table = told(changed)
    assert table["documents"] == (
        f"97 in {found['rows']} rows; 3 deleted ({found['deleted']['rows']} rows on disk until "
        "compact)"
    )
    assert table["segments"] == "2, version 4 of the index"
    assert table["passages"] == "chunk 8"
    assert table["raw rows"] == "float16"
    assert table["fields"] == "lang (text), x (number), y (list)"
    assert table["drift"].endswith(found["drift"]["reason"])
    assert f"hs {found['drift']['hs']:.3f}, rw {found['drift']['rw']:.3f}" in table["drift"]
    assert f"{found['disk']['per_document']:.0f} bytes a document" in table["disk"]
    assert "unfinished" not in table

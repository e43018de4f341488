"""Parquet: every type is read rightly or refused by name; folders of parts; bounded memory."""

from __future__ import annotations

import datetime
import json
import tracemalloc
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moee_index.errors import CorpusError
from moee_index.readers.corpus import read_corpora
from moee_index.readers.formats.arrow_values import plain_values
from moee_index.readers.formats.records import as_json
from moee_index.types import Document


def written(path: Path, columns: dict[str, Any], **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, **options)
    return path


def invalid(count: int) -> pa.Array:
    """Strings of which the last is not UTF-8."""
    ends = np.arange(count + 1, dtype=np.int32).tobytes()
    letters = b"a" * (count - 1) + b"\xff"
    return pa.Array.from_buffers(
        pa.string(), count, [None, pa.py_buffer(ends), pa.py_buffer(letters)]
    )


def stamps(unit: str, zone: str | None = None) -> Any:
    return lambda value: pa.array([value], pa.int64()).cast(pa.timestamp(unit, zone))


def numbers(kind: Any) -> Any:
    width = pa.int32() if kind.bit_width == 32 else pa.int64()
    return lambda value: pa.array([value], width).view(kind)


def of(kind: Any) -> Any:
    return lambda value: pa.array([value], kind)


# How an array of one value is made, the value, and what is read.
VALUES: list[tuple[Any, Any, Any]] = [
    (of(pa.null()), None, None),
    (of(pa.bool_()), True, True),
    (of(pa.uint64()), 2**64 - 1, 2**64 - 1),
    (of(pa.int8()), -1, -1),
    (of(pa.float16()), np.float16(1.5), 1.5),
    (of(pa.float32()), float("inf"), None),
    (of(pa.float64()), float("nan"), None),
    (of(pa.decimal128(38, 0)), Decimal(9007199254740993), 9007199254740993),
    (of(pa.decimal128(38, 2)), Decimal("7.00"), 7),
    (of(pa.decimal128(38, 2)), Decimal("19.99"), 19.99),
    (of(pa.decimal128(38, 2)), Decimal("9007199254740993.25"), "9007199254740993.25"),
    (of(pa.decimal256(76, 0)), Decimal("1" * 70), int("1" * 70)),
    (of(pa.large_string()), "é", "é"),
    (of(pa.string_view()), "longer than twelve bytes", "longer than twelve bytes"),
    (of(pa.binary()), "é".encode(), "é"),
    (of(pa.binary_view()), b"\xff", "/w=="),
    (of(pa.large_binary()), b"\xff", "/w=="),
    (of(pa.binary(4)), b"abcd", "abcd"),
    (of(pa.uuid()), UUID(int=1).bytes, "00000000-0000-0000-0000-000000000001"),
    (of(pa.json_()), '{"a": 1}', '{"a": 1}'),
    (of(pa.dictionary(pa.int8(), pa.string())), "a", "a"),
    (numbers(pa.date32()), 0, "1970-01-01"),
    (numbers(pa.date32()), 2_932_896, "9999-12-31"),
    (numbers(pa.date32()), 2_932_897, "10000-01-01"),
    (numbers(pa.date32()), 2**31 - 1, "5881580-07-11"),
    (numbers(pa.date32()), -719_163, "0000-12-31"),
    (numbers(pa.time32("ms")), 1, "00:00:00.001000"),
    (numbers(pa.time64("us")), 3_600_000_000, "01:00:00"),
    (numbers(pa.time64("ns")), 86_399_999_999_999, "23:59:59.999999999"),
    (numbers(pa.time64("ns")), 90_000 * 10**9, "25:00:00"),
    (stamps("s"), 253_402_300_800, "10000-01-01T00:00:00"),
    (stamps("ms"), 1, "1970-01-01T00:00:00.001000"),
    (stamps("us"), -1, "1969-12-31T23:59:59.999999"),
    (stamps("ns"), 1, "1970-01-01T00:00:00.000000001"),
    (stamps("ns", "UTC"), 1000, "1970-01-01T00:00:00.000001+00:00"),
    (stamps("s", "Europe/Berlin"), 0, "1970-01-01T01:00:00+01:00"),
    (stamps("s", "+05:30"), 0, "1970-01-01T05:30:00+05:30"),
    (stamps("s", "Mars/Olympus_Mons"), 0, "1970-01-01T00:00:00+00:00"),
    (stamps("s", "UTC"), 253_402_300_800, "10000-01-01T00:00:00+00:00"),
    (stamps("ms"), 253_402_300_800_000, "10000-01-01T00:00:00"),
    (stamps("us"), 2**63 - 1, "294247-01-10T04:00:54.775807"),
    (numbers(pa.duration("s")), 90, 90.0),
    (numbers(pa.duration("s")), 2**62, 2**62),
    (numbers(pa.duration("ns")), 1_500_000_000, 1.5),
    (of(pa.list_(pa.int64())), [1, None], [1, None]),
    (of(pa.large_list(pa.string())), ["a"], ["a"]),
    (of(pa.list_(pa.float32(), 2)), [1.0, 2.0], [1.0, 2.0]),
    (of(pa.struct({"a": pa.binary(), "b": pa.date32()})), None, None),
    (
        of(pa.struct({"a": pa.binary(), "b": pa.date32()})),
        {"a": b"\xff", "b": datetime.date(2020, 1, 2)},
        {"a": "/w==", "b": "2020-01-02"},
    ),
    (of(pa.list_(pa.struct({"a": pa.decimal128(9, 1)}))), [{"a": Decimal("0.1")}], [{"a": 0.1}]),
    (of(pa.map_(pa.string(), pa.int64())), [("a", 1), ("b", 2)], {"a": 1, "b": 2}),
    (of(pa.map_(pa.string(), pa.int64())), [("a", 1), ("a", 2)], [["a", 1], ["a", 2]]),
    (of(pa.map_(pa.int64(), pa.int64())), [(1, 2)], [[1, 2]]),
    (of(pa.struct([("a", pa.int8()), ("a", pa.int8())])), (1, 2), {"a": 1, "a_1": 2}),
    (of(pa.month_day_nano_interval()), (1, 2, 3), "MonthDayNano(months=1, days=2, nanoseconds=3)"),
]


@pytest.mark.parametrize(("make", "value", "expected"), VALUES)
def test_values_of_every_type(make: Any, value: Any, expected: Any) -> None:
    read = as_json(*plain_values(make(value)))
    assert read == expected
    assert type(read) is type(expected)
    json.dumps(read, allow_nan=False)
    assert plain_values(make(None)) == [None]


@settings(max_examples=300, deadline=None)
@given(
    st.integers(-(2**63), 2**63 - 1),
    st.sampled_from(["s", "ms", "us", "ns"]),
    st.sampled_from([None, "UTC", "Europe/Berlin", "-12:00", "nowhere"]),
)
def test_no_time_is_too_far(value: int, unit: str, zone: str | None) -> None:
    for column in (stamps(unit, zone)(value), numbers(pa.duration(unit))(value)):
        (read,) = plain_values(column)
        json.dumps(read, allow_nan=False)
        assert isinstance(read, str | int | float) or (value == -(2**63) and read is None)


def test_the_text_and_the_id_in_their_types(tmp_path: Path) -> None:
    path = written(
        tmp_path / "a.parquet",
        {
            "id": pa.array([Decimal(9007199254740993), Decimal(2)], pa.decimal128(38, 0)),
            "text": pa.array([b"one", None], pa.large_binary()),
            "when": numbers(pa.date32())(2**31 - 1).take([0, None]),
        },
    )
    first, second = read_corpora([path])
    assert first == Document("9007199254740993", "one", {"when": "5881580-07-11"})
    assert second == Document("2", "", {"when": None})


@pytest.mark.parametrize("column", ["id", "text", "title"])
def test_bytes_where_text_belongs_are_refused_by_name(tmp_path: Path, column: str) -> None:
    columns = {"id": ["1", "2"], "text": ["one", "two"], "title": ["T", "U"], column: invalid(2)}
    path = written(tmp_path / "a.parquet", columns)
    reasons: list[tuple[str, str]] = []
    reader = read_corpora(
        [path], on_bad="skip", reject=lambda source, _, reason: reasons.append((source, reason))
    )
    assert len(list(reader)) == 1
    ((source, reason),) = reasons
    assert source == f"{path}:2"
    assert column in reason
    assert "not UTF-8" in reason


def test_bytes_in_metadata_are_base64(tmp_path: Path) -> None:
    path = written(tmp_path / "a.parquet", {"text": ["a", "b"], "raw": invalid(2)})
    assert [d.metadata for d in read_corpora([path])] == [{"raw": "a"}, {"raw": "/w=="}]


def test_a_name_that_comes_twice(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array(["a"])] * 3, names=["text", "x", "x"])
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(CorpusError, match="the header names 'x' more than once"):
        list(read_corpora([tmp_path / "a.parquet"]))


def test_a_folder_of_parts(tmp_path: Path) -> None:
    for year, country in (
        ("2023", "de"),
        ("2024", "a%20b"),
        ("2024", "__HIVE_DEFAULT_PARTITION__"),
    ):
        folder = tmp_path / "news" / f"year={year}" / f"country={country}"
        written(folder / "part-0.parquet", {"id": [f"{year} {country}"], "text": ["a"]})
    for name in ("_SUCCESS", "_metadata.parquet", ".hidden/part.parquet", "README.md"):
        path = tmp_path / "news" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("notes")
    reader = read_corpora([tmp_path / "news"])
    assert {d.id: d.metadata for d in reader} == {
        "2023 de": {"year": "2023", "country": "de"},
        "2024 a%20b": {"year": "2024", "country": "a b"},
        "2024 __HIVE_DEFAULT_PARTITION__": {"year": "2024", "country": None},
    }
    assert reader.bytes_read == reader.bytes_total
    first = next(read_corpora([tmp_path / "news"], id_field="country", text_field="id"))
    assert (first.id, first.text) == ("de", "2023 de")


def test_links_in_a_folder_of_parts(tmp_path: Path) -> None:
    written(tmp_path / "blobs" / "0.parquet", {"id": ["1"], "text": ["a"]})
    folder = tmp_path / "snapshot" / "data"
    folder.mkdir(parents=True)
    try:
        (folder / "one.parquet").symlink_to(tmp_path / "blobs" / "0.parquet")
        (folder / "more").symlink_to(tmp_path / "blobs", target_is_directory=True)
        (folder / "again").symlink_to(tmp_path / "snapshot", target_is_directory=True)
    except OSError:
        pytest.skip("this file system has no links")
    assert [d.id for d in read_corpora([tmp_path / "snapshot"])] == ["1", "1"]


def test_parts_without_ids_are_named_by_their_files(tmp_path: Path) -> None:
    for part in ("a", "b"):
        written(tmp_path / "d" / f"p={part}" / "0.parquet", {"text": ["x", "y"]})
        written(tmp_path / "e" / f"{part}.parquet", {"text": ["x"]})
    ids = [d.id for d in read_corpora([tmp_path / "d"])]
    assert ids == [f"{tmp_path}/d/p={p}/0.parquet:{n}" for p in "ab" for n in (1, 2)]
    assert [d.id for d in read_corpora([tmp_path / "e"])] == ["a:1", "b:1"]


def test_of_a_data_set_of_the_hub_the_corpus_alone(tmp_path: Path) -> None:
    written(tmp_path / "corpus" / "corpus-00000-of-00001.parquet", {"_id": ["d"], "text": ["a"]})
    written(tmp_path / "queries" / "queries-00000-of-00001.parquet", {"_id": ["q"], "text": ["b"]})
    assert [d.id for d in read_corpora([tmp_path])] == ["d"]


def test_columns_that_are_not_wanted_are_not_read(tmp_path: Path) -> None:
    columns = {"docid": ["1"], "text": ["a"], "title": ["T"], "vector": [[0.5] * 8], "year": [1]}
    path = written(tmp_path / "a.parquet", columns)
    notes: list[str] = []

    def metadata(**options: Any) -> dict[str, Any]:
        (document,) = read_corpora([path], notify=notes.append, **options)
        return document.metadata

    assert metadata(metadata_except=["vector"]) == {"docid": "1", "title": "T", "year": 1}
    assert metadata(metadata=["year"]) == {"title": "T", "year": 1}
    assert metadata(metadata=[]) == {"title": "T"}
    assert metadata(id_field="docid", text_field="title", metadata=["text"]) == {"text": "a"}
    assert notes and all("--id-field docid" in note for note in notes)
    with pytest.raises(CorpusError, match="no column 'yaer'; there are 'docid', 'text'"):
        metadata(metadata=["yaer"])


def test_a_large_row_group_is_read_in_small_batches(tmp_path: Path) -> None:
    letters = np.random.default_rng(0).integers(97, 123, (200, 200_000), dtype=np.uint8)
    texts = [row.tobytes().decode() for row in letters]
    # Pages of a megabyte, as writers make them of shorter texts.
    path = written(
        tmp_path / "a.parquet", {"text": texts}, write_batch_size=4, use_dictionary=False
    )
    del letters, texts
    pa.default_memory_pool().release_unused()
    before = pa.total_allocated_bytes()
    tracemalloc.start()
    most = max(pa.total_allocated_bytes() - before for _ in read_corpora([path]))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert path.stat().st_size > 20e6
    assert most < 24e6
    assert peak < 30e6


def test_a_parquet_file_under_another_name(tmp_path: Path) -> None:
    path = written(tmp_path / "part-0001", {"text": ["a"]})
    with pytest.raises(CorpusError, match=r"is a Parquet file, not text; .* ending \.parquet"):
        read_corpora([path])
    assert [d.text for d in read_corpora([path], format="parquet")] == ["a"]
    with path.open("rb") as stdin:
        assert [d.text for d in read_corpora(["-"], format="parquet", stdin=stdin)] == ["a"]

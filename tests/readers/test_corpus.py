"""Corpora and queries: every form, every way a file can be broken, nothing read whole."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import threading
import tracemalloc
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moee_index.errors import CorpusError, MisuseError
from moee_index.readers import lines as files
from moee_index.readers.corpus import default_index_name, read_corpora
from moee_index.readers.queries import read_queries
from moee_index.types import Document, Query

Write = Callable[[str, str | bytes], Path]


def compressed(data: bytes, ending: str) -> bytes:
    if ending == ".gz":
        return gzip.compress(data)
    return zstandard.ZstdCompressor().compress(data) if ending == ".zst" else data


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def _write(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        data = content.encode() if isinstance(content, str) else content
        path.write_bytes(compressed(data, path.suffix))
        return path

    return _write


def one(path: Path, **options: Any) -> Document:
    (document,) = read_corpora([path], **options)
    return document


def lines(*records: Any) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


# What a document is


def test_content_joins_title_and_text_by_one_blank() -> None:
    assert Document("1", "text", title="Title").content == "Title text"
    assert Document("1", " text ").content == " text "
    assert Document("1", "", title="Title").content == "Title"
    assert Document("1", "").content == ""


def test_the_title_is_always_in_the_metadata_too() -> None:
    metadata: dict[str, Any] = {"year": 1}
    document = Document("1", "text", metadata, title="Title")
    assert document.metadata == {"year": 1, "title": "Title"}
    assert metadata == {"year": 1}, "the caller's dictionary is not touched"
    assert Document("1", "text", {"title": "Title"}).content == "Title text"


# JSONL


def test_jsonl_fields(write: Write) -> None:
    path = write(
        "news.jsonl",
        lines(
            {"id": "a", "text": "one", "title": "T", "lang": "en", "year": 2020},
            {"_id": 7, "text": "two", "title": ""},
            {"id": "b", "_id": "c", "text": "three", "title": None},
            {"text": "four", "id": None},
            {"text": "five", "title": 1984},
        ),
    )
    assert list(read_corpora([path])) == [
        Document("a", "one", {"lang": "en", "year": 2020, "title": "T"}, "T"),
        Document("7", "two", {}),
        Document("b", "three", {"_id": "c"}),
        Document("news:4", "four", {}),
        Document("news:5", "five", {"title": "1984"}, "1984"),
    ]


def test_source_names_file_and_line_and_blank_lines_count(write: Write) -> None:
    path = write("a.jsonl", '{"text": "one"}\r\n\n  \r\n{"text": "two"}')
    assert [(d.id, d.source) for d in read_corpora([path])] == [
        ("a:1", f"{path}:1"),
        ("a:4", f"{path}:4"),
    ]


def test_byte_order_mark_and_unicode_line_separators(write: Write) -> None:
    text = "one\u2028two\x85three\x0cfour\x1cfive\rsix"
    raw = json.dumps({"id": "x", "text": text}, ensure_ascii=False)
    path = write("a.jsonl", b"\xef\xbb\xbf" + raw.encode() + b"\n")
    assert one(path).text == text


def test_nan_and_infinity_become_null_and_the_last_of_equal_keys_holds(write: Write) -> None:
    raw = '{"text": "a", "text": "b", "x": NaN, "y": -Infinity, "z": 1e999, "w": 1.5}\n'
    document = one(write("a.jsonl", raw))
    assert document.text == "b"
    assert document.metadata == {"x": None, "y": None, "z": None, "w": 1.5}
    json.dumps(document.metadata, allow_nan=False)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ('{"text": "a"', "broken JSON"),
        ('{"text": "a"} x', "broken JSON (Extra data at column 15)"),
        ("[1]", "a list where a JSON object belongs"),
        ('"text"', "text where a JSON object belongs"),
        ("null", "null where a JSON object belongs"),
        ('{"title": "a"}', "no text field 'text'; there are 'title'"),
        ('{"text": "a"},', "broken JSON (a comma behind the object; take it out"),
        ('{"text": "a"} {"text": "b"}', "broken JSON (more than one object on the line"),
        ('{"text": "a"}, {"text": "b"},', "broken JSON (more than one object on the line"),
        ("<html>", "broken JSON (Expecting value at column 1); is it a page of HTML or XML?"),
        ("{", "if its objects go over several lines, name the file .json"),
        ('{"contents": "a"}', "there are 'contents'; 'contents' looks like it: --text-field conte"),
        ('{"text": "a", "_id": {"$oid": "1"}}', "the id is an object; take what is in it with"),
        ('["a", "b"]', "a list where a JSON object belongs"),
        ('{"text": 3}', "field 'text' is a number, not text"),
        ('{"text": ["a"]}', "field 'text' is a list, not text"),
        ('{"text": "a", "id": 1.5}', "the id is a number"),
        ('{"text": "a", "id": true}', "the id is true or false"),
        ('{"text": "a", "id": ""}', "the id is empty"),
        ('{"text": "a", "title": {"en": "b"}}', "field 'title' is an object, not text"),
        ('{"text": "\\ud800"}', "half a surrogate pair (\\ud800)"),
        ('{"text": "a", "by": "\\uDFFF"}', "half a surrogate pair (\\udfff)"),
        ("[" * 100_000, "broken JSON (nested too deeply)"),
        ('{"text": "a", "n": ' + "1" * 5000 + "}", "broken JSON"),
        (b'{"text": "caf\xe9"}', "not UTF-8 (byte 0xe9 at position 14)"),
    ],
)
def test_bad_lines_name_file_line_and_reason(write: Write, raw: str | bytes, reason: str) -> None:
    data = raw.encode() if isinstance(raw, str) else raw
    path = write("a.jsonl", b'{"text": "good"}\n' + data + b'\n{"text": "after"}\n')
    reader = read_corpora([path])
    assert next(reader).text == "good"
    with pytest.raises(CorpusError) as caught:
        next(reader)
    assert str(caught.value).startswith(f"{path}:2: ")
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)

    rejected: list[tuple[str, str, str]] = []
    kept = read_corpora([path], on_bad="skip", reject=lambda *bad: rejected.append(bad))
    assert [d.id for d in kept] == ["a:1", "a:3"]
    ((source, line, why),) = rejected
    assert source == f"{path}:2"
    assert reason in why
    assert line == data.decode("utf-8", "backslashreplace")


def test_a_whole_surrogate_pair_is_text(write: Write) -> None:
    assert one(write("a.jsonl", '{"text": "\\ud83d\\ude00"}')).text == "😀"


def test_utf16_is_recognised(write: Write) -> None:
    path = write("a.jsonl", '{"text": "a"}\n'.encode("utf-16"))
    with pytest.raises(CorpusError, match="iconv -f UTF-16"):
        list(read_corpora([path]))


def test_a_line_of_ten_megabytes(write: Write) -> None:
    text = "word " * 2_000_000
    path = write("a.jsonl", lines({"text": text}, {"text": "next"}))
    assert [len(d.text) for d in read_corpora([path])] == [len(text), 4]


def test_an_endless_line_is_refused_and_can_be_skipped(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "MAX_LINE", 1000)
    path = write("a.jsonl", "[" * 50_000 + '\n{"text": "after"}\n')
    with pytest.raises(CorpusError, match=r"a\.jsonl:1: a line of more than .* MiB"):
        list(read_corpora([path]))
    assert [d.text for d in read_corpora([path], on_bad="skip")] == ["after"]


def test_an_empty_file_has_no_documents(write: Write) -> None:
    empty = [write(f"a{ending}", "") for ending in (".jsonl", ".txt", ".csv", ".jsonl.gz")]
    assert list(read_corpora(empty)) == []


def test_a_corpus_is_not_held_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    with gzip.open(path, "wt", compresslevel=1) as file:
        for _ in range(5_000):
            file.write('{"text": "' + "word " * 800 + '"}\n')
    tracemalloc.start()
    count = sum(1 for _ in read_corpora([path]))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 5_000
    assert peak < 2_000_000


# Field options


def test_id_and_text_fields(write: Write) -> None:
    path = write("a.jsonl", lines({"id": 1, "key": "k", "body": "b", "text": "t", "title": "T"}))
    document = one(path, id_field="key", text_field="body")
    assert document == Document("k", "b", {"id": 1, "text": "t", "title": "T"}, "T")


def test_the_title_as_text_is_not_doubled(write: Write) -> None:
    document = one(write("a.jsonl", lines({"title": "T"})), text_field="title")
    assert document.content == "T"
    assert document.metadata == {}


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"id_field": "key"}, "no id field 'key'; there are 'text'; choose with --id-field"),
        ({"text_field": "body"}, "no text field 'body'; there are 'text'"),
    ],
)
def test_a_field_that_is_not_there(write: Write, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(CorpusError) as caught:
        one(write("a.jsonl", '{"text": "t"}'), **options)
    assert reason in str(caught.value)


def test_arguments_that_cannot_be_meant(write: Write) -> None:
    path = write("a.jsonl", "")
    wrong: Sequence[dict[str, Any]] = (
        {"paths": []},
        {"paths": ["-", "-"]},
        {"paths": [path], "on_bad": "ignore"},
        {"paths": str(path)},
        {"paths": path},
        {"paths": None},
        {"paths": [None]},
        {"paths": [b"a.jsonl"]},
        {"paths": [path], "id_field": ""},
        {"paths": [path], "id_field": 1},
        {"paths": [path], "metadata": "year"},
        {"paths": [path], "metadata_except": [1]},
        {"paths": [path], "delimiter": ";"},
        {"paths": [path], "quoting": "none"},
        {"paths": [path], "header": False, "columns": ["text"]},
        {"paths": [path], "format": "csv", "columns": "text", "header": False},
        {"paths": [path], "format": "csv", "delimiter": 1},
        {"paths": [path], "id_field": "x", "text_field": "x"},
    )
    for arguments in wrong:
        with pytest.raises(MisuseError):
            read_corpora(**arguments)


# Other forms


def test_beir_folder(write: Write) -> None:
    folder = write("nfc/corpus.jsonl", lines({"_id": "1", "title": "T", "text": "t"})).parent
    assert one(folder) == Document("1", "t", {}, "T")


@pytest.mark.parametrize("ending", [".gz", ".zst"])
def test_beir_folder_compressed(write: Write, ending: str) -> None:
    folder = write(f"nfc/corpus.jsonl{ending}", lines({"_id": "1", "text": "t"})).parent
    assert one(folder).id == "1"


def test_plain_text_is_one_document_a_line(write: Write) -> None:
    path = write("a.txt", 'one\n\n {"text": 1} \r\nlast')
    assert [(d.id, d.text) for d in read_corpora([path])] == [
        ("a:1", "one"),
        ("a:2", ""),
        ("a:3", ' {"text": 1} '),
        ("a:4", "last"),
    ]
    with pytest.raises(CorpusError, match="no fields"):
        list(read_corpora([path], id_field="x"))


def test_csv_with_quotes_and_line_ends_in_fields(write: Write) -> None:
    path = write(
        "a.csv",
        '\ufeffid,title,text,year\r\n1,T,"a ""b"",\r\nc",2020\r\n\r\n2,,plain,\r\n',
    )
    assert list(read_corpora([path])) == [
        Document("1", 'a "b",\r\nc', {"title": "T", "year": "2020"}, "T"),
        Document("2", "plain", {"year": ""}),
    ]
    assert [d.source for d in read_corpora([path])] == [f"{path}:2", f"{path}:5"]


def test_tsv(write: Write) -> None:
    path = write("a.tsv", "text\tlang\none, two\ten\n")
    assert one(path) == Document("a:2", "one, two", {"lang": "en"})


def test_csv_field_of_ten_megabytes(write: Write) -> None:
    text = "word " * 2_000_000
    assert len(one(write("a.csv", f"text\n{text}\n")).text) == len(text)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (b"1", "1 field, but the header has 2"),
        (b"1,a,b", "3 fields, but the header has 2"),
        (b'1,"a" b', "broken row"),
        (b",a", "the id is empty"),
        (b"1,caf\xe9", "not UTF-8"),
    ],
)
def test_bad_rows(write: Write, row: bytes, reason: str) -> None:
    path = write("a.csv", b"id,text\n0,good\n" + row + b"\n2,after\n")
    with pytest.raises(CorpusError) as caught:
        list(read_corpora([path]))
    assert str(caught.value).startswith(f"{path}:3: ")
    assert reason in str(caught.value)
    rejected: list[str] = []
    kept = read_corpora([path], on_bad="skip", reject=lambda s, line, r: rejected.append(line))
    assert [d.id for d in kept] == ["0", "2"]
    assert rejected == [row.decode("utf-8", "backslashreplace")]


def test_a_quotation_mark_that_is_never_closed(write: Write) -> None:
    path = write("a.csv", 'text\n"open\nmore\n')
    with pytest.raises(CorpusError, match=r"a\.csv:2: broken row .* not closed"):
        list(read_corpora([path]))


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ("id,key", "no text column 'text'; there are 'id', 'key'; choose with --text-field"),
        ("id,body", "no text column 'text'; there are 'id', 'body'; 'body' looks like it: --text"),
        ("id;text;title, B", "no text column 'text'; there are 'id;text;title', ' B'; is another"),
        ("id;text", "no text column 'text'; there are 'id;text'; is another separator used? give"),
        ("text,text", "the header names 'text' more than once"),
    ],
)
def test_a_header_without_the_text_ends_the_file(write: Write, header: str, reason: str) -> None:
    path = write("a.csv", f"{header}\n1,2\n")
    with pytest.raises(CorpusError) as caught:
        list(read_corpora([path], on_bad="skip"))
    assert f"{path}:1: {reason}" in str(caught.value)


def parquet(path: Path, columns: dict[str, Any], **options: Any) -> Path:
    pq.write_table(pa.table(columns), path, **options)
    return path


def test_parquet_types(tmp_path: Path) -> None:
    import datetime

    day = datetime.datetime(2020, 1, 2, 3, tzinfo=datetime.UTC)
    path = parquet(
        tmp_path / "a.parquet",
        {
            "id": [1, 2],
            "text": pa.array(["one", "two"]).dictionary_encode(),
            "title": ["T", None],
            "when": [day, None],
            "price": [Decimal("1.50"), None],
            "raw": [b"caf\xc3\xa9", b"\xff"],
            "tags": [["a"], []],
            "x": [float("nan"), 1.5],
            "nested": [{"a": b"b"}, None],
        },
    )
    first, second = read_corpora([path])
    assert (first.id, first.text, first.title, first.source) == ("1", "one", "T", f"{path}:1")
    assert first.metadata == {
        "title": "T",
        "when": "2020-01-02T03:00:00+00:00",
        "price": 1.5,
        "raw": "café",
        "tags": ["a"],
        "x": None,
        "nested": {"a": "b"},
    }
    assert second.metadata["raw"] == "/w=="
    json.dumps([first.metadata, second.metadata], allow_nan=False)


def test_parquet_without_ids_and_over_many_batches(tmp_path: Path) -> None:
    texts = [f"text {i}" for i in range(3000)]
    path = parquet(tmp_path / "a.parquet", {"text": texts}, row_group_size=700)
    reader = read_corpora([path])
    documents = list(reader)
    assert [d.text for d in documents] == texts
    assert documents[-1].id == "a:3000"
    assert reader.bytes_read == reader.bytes_total


def test_parquet_bad_rows(tmp_path: Path) -> None:
    broken = pa.Array.from_buffers(
        pa.string(),
        2,
        [None, pa.py_buffer(b"\0\0\0\0\x01\0\0\0\x02\0\0\0"), pa.py_buffer(b"a\xff")],
    )
    path = parquet(tmp_path / "a.parquet", {"id": [1, 2], "text": broken})
    with pytest.raises(CorpusError, match=r"a\.parquet:2: field 'text' is not UTF-8"):
        list(read_corpora([path]))
    path = parquet(tmp_path / "b.parquet", {"id": [1.0, 2.5, 3.0], "text": ["a", "b", "c"]})
    rejected: list[tuple[str, str, str]] = []
    kept = read_corpora([path], on_bad="skip", reject=lambda *bad: rejected.append(bad))
    assert [d.id for d in kept] == ["1", "3"]
    reason = "the id is a number; it must be text or a whole number"
    assert rejected == [(f"{path}:2", '{"id": 2.5, "text": "b"}', reason)]


def test_parquet_that_is_none_or_has_no_text(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(b"not parquet at all")
    with pytest.raises(CorpusError, match=r"a\.parquet: cannot be read as Parquet"):
        list(read_corpora([path]))
    with pytest.raises(CorpusError, match="no text column 'text'; there are 'body'"):
        list(read_corpora([parquet(path, {"body": ["a"]})]))


@pytest.mark.parametrize("ending", ["", ".gz", ".zst"])
def test_parquet_compressed(tmp_path: Path, write: Write, ending: str) -> None:
    plain = parquet(tmp_path / "plain.parquet", {"text": ["one", "two"]})
    path = write(f"a.parquet{ending}", plain.read_bytes())
    assert [d.id for d in read_corpora([path])] == ["a:1", "a:2"]


@pytest.mark.parametrize("ending", [".gz", ".zst"])
@pytest.mark.parametrize("kind", [".jsonl", ".txt", ".csv", ".tsv"])
def test_compressed(write: Write, kind: str, ending: str) -> None:
    content = {"jsonl": '{"text": "a"}', "txt": "a", "csv": "text\na", "tsv": "text\na"}
    assert one(write(f"x{kind.upper()}{ending}", content[kind[1:]])).text == "a"


@pytest.mark.parametrize("ending", [".gz", ".zst"])
def test_compressed_members_one_behind_the_other(write: Write, ending: str) -> None:
    path = write(f"a.txt{ending}", "one\n")
    path.write_bytes(path.read_bytes() * 3)
    assert [d.text for d in read_corpora([path])] == ["one"] * 3


@pytest.mark.parametrize("ending", [".gz", ".zst"])
def test_truncated_compression_is_an_error_even_when_skipping(write: Write, ending: str) -> None:
    text = "".join(f'{{"text": "{os.urandom(20).hex()}"}}\n' for _ in range(20_000))
    path = write(f"a.jsonl{ending}", text)
    path.write_bytes(path.read_bytes()[:-100])
    reader = read_corpora([path], on_bad="skip")
    count = 0
    with pytest.raises(CorpusError, match=r"a\.jsonl\.\w+:\d+: .*cut off") as caught:
        for _ in reader:
            count += 1
    assert count > 0
    assert f":{count + 1}:" in str(caught.value)


@pytest.mark.parametrize("ending", [".gz", ".zst"])
def test_damaged_compression(tmp_path: Path, write: Write, ending: str) -> None:
    path = tmp_path / f"a.jsonl{ending}"
    path.write_bytes(b"no compression at all")
    with pytest.raises(CorpusError, match=rf"is not compressed, though its name ends in {ending}"):
        list(read_corpora([path]))
    path.write_bytes(b"")
    with pytest.raises(CorpusError, match=f"is empty, and no {ending} file is"):
        list(read_corpora([path]))
    path = write(f"b.jsonl{ending}", os.urandom(9000).hex())
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 500] = bytes(500)
    path.write_bytes(data)
    with pytest.raises(CorpusError):
        list(read_corpora([path]))


# Several corpora, names, stdin


def test_repeated_stems_take_the_path(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [write("x/a.jsonl", '{"text": "1"}'), write("y/a.csv", "text\n2"), write("b.txt", "3")]
    assert [d.id for d in read_corpora(paths)] == [f"{paths[0]}:1", f"{paths[1]}:2", "b:1"]
    monkeypatch.chdir(paths[2].parent)
    assert [d.id for d in read_corpora(["x/a.jsonl", "y/a.csv"])] == ["x/a.jsonl:1", "y/a.csv:2"]


def test_stdin_is_jsonl() -> None:
    stdin = io.BytesIO(b'{"text": "one"}\n{"text": 2}\n')
    reader = read_corpora(["-"], stdin=stdin)
    assert next(reader) == Document("stdin:1", "one")
    assert reader.bytes_total is None
    with pytest.raises(CorpusError, match="stdin:2: field 'text'"):
        next(reader)
    assert not stdin.closed


def test_everything_is_looked_at_before_anything_is_read(write: Write, tmp_path: Path) -> None:
    good = write("a.jsonl", '{"text": "1"}')
    (tmp_path / "folder").mkdir()
    for name, reason in {
        "missing.jsonl": "no such file",
        "a.jsonl/b.txt": "no such file",
        "folder": "a folder without corpus.jsonl",
    }.items():
        with pytest.raises(CorpusError, match=reason):
            read_corpora([good, tmp_path / name])
    for name in ("a.pdf", "a", "a.gz"):
        path = write(name, "")
        with pytest.raises(CorpusError, match="unknown kind of file"):
            read_corpora([good, path])
        with pytest.raises(CorpusError, match="say what it is with --format"):
            read_corpora([path])


def test_a_file_name_that_is_not_utf8(tmp_path: Path) -> None:
    path = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.txt")
    try:
        Path(path).write_text("one")
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    (document,) = read_corpora([path])
    assert document.id == "caf?:1"
    document.source.encode()


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(write: Write) -> None:
    path = write("a.jsonl", "")
    path.chmod(0)
    with pytest.raises(CorpusError, match="cannot be opened"):
        list(read_corpora([path]))


def test_a_pipe_is_read_and_has_no_total(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    os.mkfifo(path)
    writer = threading.Thread(target=lambda: path.write_text('{"text": "one"}\n'))
    writer.start()
    reader = read_corpora([path])
    assert [d.text for d in reader] == ["one"]
    assert reader.bytes_total is None
    writer.join()


def test_progress_counts_bytes_on_disk(write: Write) -> None:
    paths = [
        write("a.jsonl.gz", lines(*({"text": f"text {i}"} for i in range(5000)))),
        write("b.jsonl", lines(*({"text": f"text {i}"} for i in range(5000)))),
    ]
    reader = read_corpora(paths)
    assert reader.bytes_total == sum(p.stat().st_size for p in paths)
    seen = [reader.bytes_read for _ in reader]
    assert seen == sorted(seen)
    assert 0 < seen[100] < reader.bytes_total == reader.bytes_read


def test_index_names(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nfc").mkdir()
    monkeypatch.chdir(tmp_path / "nfc")
    assert default_index_name(["data/wikinews.jsonl.gz", "other.txt"]) == "wikinews"
    assert default_index_name(["a.b.csv"]) == "a.b"
    assert default_index_name([tmp_path / "nfc"]) == "nfc"
    assert default_index_name(["."]) == "nfc"
    for path in ("-", "/"):
        with pytest.raises(MisuseError, match="--index"):
            default_index_name([path])


# The corpus of the repository


def test_the_corpus_that_is_shipped() -> None:
    folder = Path(__file__).parents[2] / "corpora"
    path = folder / "wikinews.jsonl"
    assert path.stat().st_size < 4_000_000
    corpus = {document.id: document for document in read_corpora([path])}
    assert len(corpus) == 2400
    assert len({document.content for document in corpus.values()}) == 2400
    for document in corpus.values():
        assert document.title
        assert 40 <= len(document.text.split()) <= 115
        assert document.metadata["url"].startswith("https://en.wikinews.org/")
    answers = [json.loads(line)["answers"] for line in (folder / "queries.jsonl").open()]
    assert len(list(read_queries(folder / "queries.jsonl"))) == len(answers) >= 20
    assert all(answer in corpus for some in answers for answer in some)
    assert "CC BY 2.5" in (folder / "LICENSE").read_text()


# Round trips

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | texts | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
).filter(lambda v: "Infinity" not in json.dumps(v))
documents = st.builds(
    Document,
    id=texts.filter(bool),
    text=texts,
    metadata=st.dictionaries(
        texts.filter(lambda k: k not in {"id", "_id", "text", "title"}), values, max_size=3
    ),
    title=texts,
)
quick = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


@quick
@given(st.lists(documents, max_size=5), st.booleans(), st.sampled_from(["", ".gz", ".zst"]))
def test_jsonl_round_trip(
    tmp_path: Path, corpus: list[Document], ascii_only: bool, ending: str
) -> None:
    data = "".join(
        json.dumps({"id": d.id, "text": d.text, **d.metadata}, ensure_ascii=ascii_only) + "\n"
        for d in corpus
    ).encode()
    path = tmp_path / f"a.jsonl{ending}"
    path.write_bytes(compressed(data, ending))
    assert list(read_corpora([path])) == corpus


@quick
@given(st.lists(st.tuples(texts.filter(bool), texts, texts), max_size=5), st.sampled_from(",\t"))
def test_csv_round_trip(tmp_path: Path, rows: list[tuple[str, str, str]], delimiter: str) -> None:
    path = tmp_path / ("a.csv" if delimiter == "," else "a.tsv")
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=delimiter, quoting=csv.QUOTE_ALL)
        writer.writerows([("id", "text", "extra"), *rows])
    assert [(d.id, d.text, d.metadata["extra"]) for d in read_corpora([path])] == rows


@quick
@given(st.lists(texts, max_size=5))
def test_parquet_round_trip(tmp_path: Path, rows: list[str]) -> None:
    path = parquet(tmp_path / "a.parquet", {"text": pa.array(rows, pa.string())})
    assert [d.text for d in read_corpora([path])] == rows


@quick
@given(
    st.binary(max_size=200)
    | st.text(st.sampled_from('[]{}",:\\ \n\r\ttext1\ufeff\0'), max_size=60).map(str.encode),
    st.sampled_from([".jsonl", ".json", ".csv", ".tsv", ".txt", ".parquet", ".jsonl.gz"]),
    st.sampled_from(["", "text,id\n", "text\tid\n", '[{"text": "a"}']),
)
def test_any_bytes_give_documents_or_one_clear_error(
    tmp_path: Path, data: bytes, ending: str, before: str
) -> None:
    path = tmp_path / f"a{ending}"
    path.write_bytes(before.encode() + data)
    try:
        for document in read_corpora([path], on_bad="skip"):
            document.content.encode()
            json.dumps(document.metadata, allow_nan=False)
    except CorpusError as error:
        assert str(path) in str(error)


# Queries


def test_queries_in_their_three_forms(write: Write) -> None:
    beir = write("q/queries.jsonl", lines({"_id": 3, "text": "one"}, {"id": "b", "text": "two"}))
    expected = [Query("3", "one"), Query("b", "two")]
    assert list(read_queries(beir)) == expected
    assert list(read_queries(beir.parent)) == expected
    assert list(read_queries(write("q.tsv", "3\tone\r\nb\ttwo\n"))) == expected
    assert list(read_queries(write("q.txt", "3\tone\nb\ttwo\n"))) == expected
    assert list(read_queries(write("q2.txt.gz", "one\ntwo"))) == [
        Query("1", "one"),
        Query("2", "two"),
    ]
    assert list(read_queries(write("q.jsonl", '\n{"text": "one"}\n\n'))) == [Query("2", "one")]
    assert next(read_queries(beir)).source == f"{beir}:1"


def test_stdin_answers_as_it_comes() -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as stdin, os.fdopen(writing, "wb", buffering=0) as typed:
        queries = read_queries("-", stdin=stdin)
        for text in ("one", "two {not json}", "{three"):
            typed.write(text.encode() + b"\n")
            assert next(queries).text == text
    assert list(read_queries("-", stdin=io.BytesIO(b'{"text": "x", "id": 9}'))) == [Query("9", "x")]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("q.txt", "one\n\ntwo\n", "q.txt:2: the query is empty"),
        ("q.txt", "one\n \n", "q.txt:2: the query is empty"),
        ("q.tsv", "1\tone\n2\t\n", "q.tsv:2: the query is empty"),
        ("q.tsv", "1\tone\ntwo\n", "q.tsv:2: no tab"),
        ("q.tsv", "\tone\n", "q.tsv:1: the query's id is empty"),
        ("q.tsv", "1\tone\n1\ttwo\n", "q.tsv:2: query id '1' again, first at line 1"),
        ("q.jsonl", '{"_id": "1"}', "q.jsonl:1: no field 'text'"),
        ("q.jsonl", '{"text": 1}', "q.jsonl:1: field 'text' is a number"),
        ("q.jsonl", '{"text": "", "id": 1}', "q.jsonl:1: the query is empty"),
        ("q.jsonl", '{"text": "x", "id": [1]}', "q.jsonl:1: the query's id"),
        ("q.jsonl", "one\n", "q.jsonl:1: broken JSON"),
        ("q.txt", b"caf\xe9\n", "q.txt:1: not UTF-8"),
    ],
)
def test_bad_queries(write: Write, name: str, content: str | bytes, reason: str) -> None:
    with pytest.raises(CorpusError) as caught:
        list(read_queries(write(name, content)))
    assert reason in str(caught.value)


def test_a_query_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="no such file"):
        list(read_queries(tmp_path / "q.tsv"))
    with pytest.raises(CorpusError, match=r"queries\.jsonl: no such file"):
        list(read_queries(tmp_path))


def test_the_expected_number_of_documents_comes_from_the_bytes(tmp_path: Path) -> None:
    path = tmp_path / "many.jsonl"
    path.write_text("".join(f'{{"id": "{i:06}", "text": "{i:06}"}}\n' for i in range(50_000)))
    reader = read_corpora([path])
    assert reader.documents_expected is None
    for _ in range(20_000):
        next(reader)
    assert reader.documents_expected is not None
    assert abs(reader.documents_expected - 50_000) < 5_000
    assert sum(1 for _ in reader) == 30_000
    assert reader.documents_expected == 50_000

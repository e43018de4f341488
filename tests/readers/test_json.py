"""JSON corpora told apart by content, the fields that are taken of records, and notes on them."""

from __future__ import annotations

import io
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from moee_index.errors import CorpusError
from moee_index.readers import lines as files
from moee_index.readers.corpus import read_corpora
from moee_index.types import Document


def read(tmp_path: Path, name: str, content: str, **options: Any) -> list[Document]:
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    return list(read_corpora([path], **options))


RECORDS = [{"id": "1", "text": "cats"}, {"id": "2", "text": '[ships], {boats}, "\\'}]
FORMS = {
    "JSON lines": "\n".join(map(json.dumps, RECORDS)),
    "an array": json.dumps(RECORDS),
    "a pretty array": json.dumps(RECORDS, indent=1),
    "an array with marks and blanks": "\ufeff \r\n" + json.dumps(RECORDS, indent="\t") + "\n \n",
    "an array with a comma too many": json.dumps(RECORDS)[:-1] + ",\n]",
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.ndjson", "-"])
def test_one_array_or_lines(tmp_path: Path, form: str, name: str) -> None:
    if name == "-":
        stdin = io.BytesIO(FORMS[form].encode())
        documents = list(read_corpora(["-"], stdin=stdin))
    else:
        documents = read(tmp_path, name, FORMS[form])
    assert [(d.id, d.text) for d in documents] == [(r["id"], r["text"]) for r in RECORDS]


def test_objects_of_several_lines(tmp_path: Path) -> None:
    content = "\n".join(json.dumps(record, indent=2) for record in RECORDS)
    assert [d.id for d in read(tmp_path, "a.json", content)] == ["1", "2"]
    assert read(tmp_path, "b.json", json.dumps(RECORDS[0], indent=2)) == [Document("1", "cats")]
    with pytest.raises(CorpusError, match=r"a\.jsonl:1: .* name the file \.json"):
        read(tmp_path, "a.jsonl", content)


def test_elements_are_numbered_and_bad_ones_named(tmp_path: Path) -> None:
    content = '[{"text": "a"}, {"text": 1},\n {"text": }, ["b"], "c", {"text": "d"}]'
    rejected: list[str] = []
    documents = read(
        tmp_path,
        "a.json",
        content,
        on_bad="skip",
        reject=lambda source, *_: rejected.append(source),
    )
    assert [d.id for d in documents] == ["a:1", "a:6"]
    assert [source[-2:] for source in rejected] == [":2", ":3", ":4", ":5"]
    assert documents[1].source.endswith("a.json:6")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('[{"text": "a"}', r":1: the array ends without its ]; was the file cut off"),
        ('[{"text": "a"}, {"te', r":2: the array ends without its ]; was the file cut off"),
        ('[{"text": "a"}]\n[{"text": "b"}]', ":2: there is more behind the end of the array"),
        ('{\n"text": "a"', ":1: the object ends without its }"),
        ("[", ":1: the array ends without its ]"),
    ],
)
def test_arrays_that_do_not_end(tmp_path: Path, content: str, reason: str) -> None:
    with pytest.raises(CorpusError) as caught:
        read(tmp_path, "a.json", content, on_bad="skip")
    assert reason in str(caught.value)


@pytest.mark.parametrize("content", ["", "\n", "[]", "[ ]\n", "\ufeff"])
def test_nothing(tmp_path: Path, content: str) -> None:
    assert read(tmp_path, "a.json", content) == []


def test_the_format_said_by_name(tmp_path: Path) -> None:
    line = '{"text": "a"}'
    assert [d.text for d in read(tmp_path, "a.log", line, format="jsonl")] == ["a"]
    assert [d.text for d in read(tmp_path, "docs00", f"[{line}]", format="json")] == ["a"]
    assert [d.text for d in read(tmp_path, "a.jsonl", line, format="txt")] == [line]
    assert [d.text for d in read(tmp_path, "a", "text;n\na;1", format="csv", delimiter=";")] == [
        "a"
    ]
    stdin = io.BytesIO(b"text\tn\na\t1\n")
    assert next(read_corpora(["-"], stdin=stdin, format="tsv")) == Document(
        "stdin:2", "a", {"n": "1"}
    )
    with pytest.raises(CorpusError, match="a list where a JSON object belongs"):
        read(tmp_path, "a.jsonl", f"[{line}]", format="jsonl")


def test_an_element_that_never_ends_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "MAX_LINE", 1000)
    content = json.dumps([{"text": "a"}, {"text": "b" * 200_000}, {"text": "c"}])
    with pytest.raises(CorpusError, match=r"a\.json:2: an element of more than"):
        read(tmp_path, "a.json", content)
    assert [d.text for d in read(tmp_path, "a.json", content, on_bad="skip")] == ["a", "c"]


def test_an_array_is_not_held_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"text": "word " * 800}] * 5_000))
    tracemalloc.start()
    count = sum(1 for _ in read_corpora([path]))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 5_000
    assert peak < 2_000_000


# Which fields are taken


def test_ids_and_texts_within_objects(tmp_path: Path) -> None:
    content = json.dumps({"_id": {"$oid": "5f"}, "body": {"text": "a", "lang": "en"}, "n": 1})
    (document,) = read(tmp_path, "a.jsonl", content, id_field="_id.$oid", text_field="body.text")
    assert document == Document("5f", "a", {"body": {"lang": "en"}, "n": 1})
    with pytest.raises(CorpusError, match=r"--id-field _id\.\$oid"):
        read(tmp_path, "a.jsonl", content, text_field="body.text")
    content = json.dumps({"a.b": "dotted", "a": {"b": "nested"}})
    assert read(tmp_path, "a.jsonl", content, text_field="a.b")[0].text == "dotted"


@pytest.mark.parametrize(
    ("key", "expected"),
    [(1.0, "1"), (7, "7"), (-0.0, "0"), (1e16, "10000000000000000"), ("1.0", "1.0")],
)
def test_numbers_as_ids(tmp_path: Path, key: Any, expected: str) -> None:
    assert read(tmp_path, "a.jsonl", json.dumps({"id": key, "text": "a"}))[0].id == expected


def test_metadata_keeps_its_order(tmp_path: Path) -> None:
    content = '{"b": 1, "title": "T", "id": 1, "text": "a", "a": 2}'
    assert list(read(tmp_path, "a.jsonl", content)[0].metadata) == ["b", "title", "a"]


def test_a_null_text_is_an_empty_document(tmp_path: Path) -> None:
    assert read(tmp_path, "a.jsonl", '{"id": 1, "text": null}') == [Document("1", "")]


def test_the_metadata_that_is_kept(tmp_path: Path) -> None:
    content = json.dumps({"id": 1, "text": "a", "title": "T", "vector": [1, 2], "year": 3})
    notes: list[str] = []

    def metadata(**options: Any) -> dict[str, Any]:
        return read(tmp_path, "a.jsonl", content, notify=notes.append, **options)[0].metadata

    assert metadata(metadata_except=["vector"]) == {"title": "T", "year": 3}
    assert metadata(metadata=["year", "yaer"]) == {"title": "T", "year": 3}
    assert metadata(metadata=[]) == {"title": "T"}
    assert notes == ["metadata: no document has a field 'yaer'"]


@pytest.mark.parametrize("name", ["docid", "doc_id", "pid", "document_id", "DOCNO", "passage-id"])
def test_made_up_ids_are_told_once_where_a_field_looks_like_one(tmp_path: Path, name: str) -> None:
    content = "".join(json.dumps({name: n, "text": "a"}) + "\n" for n in range(3))
    notes: list[str] = []
    documents = read(tmp_path, "a.jsonl", content, notify=notes.append)
    assert [d.id for d in documents] == ["a:1", "a:2", "a:3"]
    assert all(document.made_id for document in documents)
    assert notes == [
        "ids: no field id or _id, so documents are named a:1 and so on; "
        f"there is {name}, take it with --id-field {name}"
    ]
    (first, *_) = read(tmp_path, "a.jsonl", content, notify=notes.append, id_field=name)
    assert (first.id, first.made_id) == ("0", False)
    read(tmp_path, "b.jsonl", '{"text": "a", "year": 1}', notify=notes.append)
    assert len(notes) == 1


@pytest.mark.parametrize("name", ["contents", "content", "body", "passage", "Text", "page_content"])
def test_a_field_that_looks_like_the_text_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(CorpusError, match=f"'{name}' looks like it: --text-field {name}"):
        read(tmp_path, "a.jsonl", json.dumps({"id": 1, name: "a"}))

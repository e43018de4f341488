"""No file of N records yields other than N: documents, skips and rejects together; and each text
is its record's."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moee_index.readers.corpus import read_corpora
from moee_index.readers.formats import json_elements

quick = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
anything = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
# Text that is full of what quotes, ends or separates in one format or another.
tricky = st.text(st.sampled_from('"\\,;\t\n\r|[]{}: aé\u2028\x85\x00\ufeff'), max_size=12)
texts = anything | tricky
one_line = texts.map(lambda text: text.replace("\n", "").replace("\r", "").lstrip("\ufeff"))
fields = texts.map(lambda text: re.sub("[\n\r\t]", "", text).lstrip("\ufeff"))
BAD_JSON = ("{", '{"text": 1}', '{"text": "a"', "[]", '{"text": "a"} x', '"a"', "{]}", "nul")
unbroken = texts.filter(lambda text: text != "text")


def read(path: Path, **options: Any) -> tuple[list[str], int]:
    """(texts of the documents, how many were rejected)."""
    rejected: list[str] = []
    documents = read_corpora(
        [path], on_bad="skip", reject=lambda source, *_: rejected.append(source), **options
    )
    return [document.text for document in documents], len(rejected)


@quick
@given(st.lists(texts | st.sampled_from(BAD_JSON).map(str.encode)), st.booleans(), st.booleans())
def test_json_lines(
    tmp_path: Path, records: list[str | bytes], ascii_only: bool, mark: bool
) -> None:
    path = tmp_path / "a.jsonl"
    good = [record for record in records if isinstance(record, str)]
    with path.open("w", encoding="utf-8", newline="") as file:
        # An array is told by how a file begins, so that a line that is a list stands behind.
        file.write('{"text": "first"}\n')
        for record in records:
            if isinstance(record, bytes):
                line = record.decode()
            else:
                line = json.dumps({"text": record}, ensure_ascii=ascii_only)
            file.write("\ufeff" * mark + line + "\n")
    assert read(path) == (["first", *good], len(records) - len(good))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=4,
)


@quick
@given(
    st.lists(st.tuples(texts, json_values)),
    st.sampled_from([None, 0, 1, "\t"]),
    st.sampled_from(["array", "rows"]),
    st.integers(1, 9),
)
def test_arrays_and_objects_of_several_lines(
    tmp_path: Path, records: list[tuple[str, Any]], indent: Any, form: str, chunk: int
) -> None:
    objects = [{"text": text, "more": more} for text, more in records]
    path = tmp_path / "a.json"
    if form == "array":
        path.write_text(json.dumps(objects, indent=indent), encoding="utf-8")
    else:
        rows = [json.dumps(record, indent=indent, ensure_ascii=False) for record in objects]
        path.write_text("\n".join(rows), encoding="utf-8")
    before, json_elements._CHUNK = json_elements._CHUNK, chunk
    try:
        read_back = list(read_corpora([path]))
    finally:
        json_elements._CHUNK = before
    assert [(d.text, d.metadata["more"]) for d in read_back] == records
    assert [d.id for d in read_back] == [f"a:{n}" for n in range(1, len(records) + 1)] or (
        form == "rows"
    )


@quick
@given(
    st.lists(st.tuples(unbroken, unbroken)),
    st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.sampled_from([("a.csv", ",", {}), ("a.csv", ";", {"delimiter": ";"}), ("a.tsv", "\t", {})]),
    st.booleans(),
)
def test_quoted_tables(
    tmp_path: Path,
    rows: list[tuple[str, str]],
    quoting: Any,
    end: str,
    form: tuple[str, str, dict[str, Any]],
    separator_line: bool,
) -> None:
    name, delimiter, options = form
    path = tmp_path / name
    written = io.StringIO(newline="")
    writer = csv.writer(written, delimiter=delimiter, quoting=quoting, lineterminator=end)
    writer.writerows([("text", "note"), *rows])
    content = f"sep={delimiter}{end}" * (separator_line and name == "a.csv") + written.getvalue()
    path.write_bytes(content.encode())
    read_back = list(read_corpora([path], **options))
    assert [(d.text, d.metadata["note"]) for d in read_back] == rows


@quick
@given(
    st.lists(st.tuples(fields, fields)),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
)
def test_tab_separated_values_are_not_quoted(
    tmp_path: Path, rows: list[tuple[str, str]], end: str, header: bool
) -> None:
    path = tmp_path / "a.tsv"
    rows = [(text, note) for text, note in rows if (text, note) != ("text", "note")]
    # Not the first line, whose bytes say what the file is and whether its fields are quoted.
    rows = [("first", "row"), *rows]
    lines = [f"{text}\t{note}" for text, note in rows]
    path.write_bytes("".join(line + end for line in ["text\tnote"] * header + lines).encode())
    options: dict[str, Any] = {} if header else {"header": False, "columns": ["text", "note"]}
    read_back = list(read_corpora([path], **options))
    assert [(d.text, d.metadata["note"]) for d in read_back] == rows


@quick
@given(st.lists(one_line), st.sampled_from(["\n", "\r\n"]))
def test_plain_text(tmp_path: Path, rows: list[str], end: str) -> None:
    path = tmp_path / "a.txt"
    # A zero beside each character is UTF-16.
    rows = ["first line", *rows]
    path.write_bytes("".join(row + end for row in rows).encode())
    assert read(path) == (rows, 0)


@quick
@given(st.lists(texts | st.none()), st.integers(1, 7), st.booleans())
def test_parquet(tmp_path: Path, rows: list[str | None], group: int, dictionary: bool) -> None:
    path = tmp_path / "a.parquet"
    column = pa.array(rows, pa.string())
    table = pa.table({"text": column.dictionary_encode() if dictionary else column})
    pq.write_table(table, path, row_group_size=group)
    assert read(path) == ([row or "" for row in rows], 0)


@quick
@given(st.data(), st.integers(1, 12))
def test_a_broken_row_takes_no_other_with_it(tmp_path: Path, data: st.DataObject, n: int) -> None:
    """One row among good ones that no mark closes, or that has a field too many."""
    path = tmp_path / "a.csv"
    bad = data.draw(st.sampled_from(['"open', 'x,"open', '"a"b', "a,b,c", "a", '"a""']))
    at = data.draw(st.integers(0, n))
    rows = [f'{i},"text ""{i}"", here"' for i in range(n)]
    rows.insert(at, bad)
    path.write_text("id,text\n" + "\n".join(rows) + "\n")
    assert read(path) == ([f'text "{i}", here' for i in range(n)], 1)

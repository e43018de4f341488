"""CSV and TSV as spreadsheets, databases and plain exports write them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from moee_index.errors import CorpusError, MisuseError
from moee_index.readers import lines as files
from moee_index.readers.corpus import read_corpora
from moee_index.types import Document


def read(tmp_path: Path, name: str, content: str | bytes, **options: Any) -> list[Document]:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return list(read_corpora([path], **options))


def rows(documents: list[Document]) -> list[tuple[str, str]]:
    return [(document.id, document.text) for document in documents]


def test_a_quotation_mark_of_a_tsv_joins_no_rows(tmp_path: Path) -> None:
    content = 'id\ttext\n1\t"A quotation that begins\n2\tsecond\n3\tand it ends"\n4\t"North" is\n'
    assert rows(read(tmp_path, "a.tsv", content)) == [
        ("1", '"A quotation that begins'),
        ("2", "second"),
        ("3", 'and it ends"'),
        ("4", '"North" is'),
    ]


def test_a_quoted_tsv_is_told_by_its_header_or_by_the_option(tmp_path: Path) -> None:
    assert rows(read(tmp_path, "a.tsv", '"id"\t"text"\n"1"\t"a\t""b""\nc"\n')) == [
        ("1", 'a\t"b"\nc')
    ]
    content = 'id\ttext\n1\t"a\tb"\n'
    assert rows(read(tmp_path, "a.tsv", content, quoting="standard")) == [("1", "a\tb")]
    with pytest.raises(CorpusError, match=r":2: 3 fields, .* has 2; .* --quoting standard"):
        read(tmp_path, "a.tsv", content)
    notes: list[str] = []
    content = 'id\ttext\n1\t"say ""hi"""\n2\t"say ""hi"""\n'
    assert read(tmp_path, "a.tsv", content, notify=notes.append)[0].text == '"say ""hi"""'
    assert len(notes) == 1
    assert "--quoting standard" in notes[0]


def test_a_csv_without_quoting(tmp_path: Path) -> None:
    content = 'id,text\n1,"open\n2,"half" quoted\n'
    assert rows(read(tmp_path, "a.csv", content, quoting="none")) == [
        ("1", '"open'),
        ("2", '"half" quoted'),
    ]
    with pytest.raises(CorpusError, match=r":2: broken row .* give --quoting none"):
        read(tmp_path, "a.csv", content)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("first", ["", "sep=;{}", '"sep=;"{}'])
def test_spreadsheets(tmp_path: Path, end: str, mark: str, first: str) -> None:
    lines = ["id;text;;", '1;"cats; dogs";;', '2;"a\nb";;', "3;ships;;"]
    content = mark + first.format(end) + "".join(line + end for line in lines)
    documents = read(tmp_path, "a.csv", content, delimiter=";")
    assert rows(documents) == [("1", "cats; dogs"), ("2", "a\nb"), ("3", "ships")]
    assert not any(document.metadata for document in documents)
    if first:
        assert read(tmp_path, "a.csv", content) == documents


def test_columns_without_a_name(tmp_path: Path) -> None:
    documents = read(tmp_path, "a.csv", ",text,,\n0,a,,\n1,b,x,,,\n")
    assert [document.metadata for document in documents] == [
        {"column 1": "0"},
        {"column 1": "1", "column 3": "x"},
    ]


@pytest.mark.parametrize(
    ("header", "hint"),
    [
        ("id;text;title, B", "give --delimiter ';'"),
        ("id\ttext", "give --delimiter tab"),
        ("id|text", r"give --delimiter '\|'"),
        ("id,contents", "'contents' looks like it: --text-field contents"),
        (
            "7187158,The presence of communication amid scientific minds was equally important",
            "--no",
        ),
    ],
)
def test_what_to_do_about_a_header(tmp_path: Path, header: str, hint: str) -> None:
    with pytest.raises(CorpusError, match=f":1: no text column 'text'; .*{hint}"):
        read(tmp_path, "a.csv", f"{header}\n")


def test_without_a_header(tmp_path: Path) -> None:
    content = "0\tThe presence of communication\n1\tThe Manhattan Project\n"
    options: dict[str, Any] = {"header": False, "columns": ["id", "text"]}
    assert rows(read(tmp_path, "a.tsv", content, **options)) == [
        ("0", "The presence of communication"),
        ("1", "The Manhattan Project"),
    ]
    options["columns"] = ["id", "", "text"]
    assert read(tmp_path, "a.csv", "1,x,a\n", **options) == [Document("1", "a")]
    with pytest.raises(CorpusError, match="2 fields, but the columns named are 3"):
        read(tmp_path, "a.csv", "1,x\n", **options)
    options["columns"] = ["id", "body"]
    with pytest.raises(CorpusError, match="no text column 'text'"):
        read(tmp_path, "a.csv", "1,x\n", **options)


def test_joined_files(tmp_path: Path) -> None:
    content = "\ufeffid,text\n1,a\n\ufeffid,text\n2,b\n\ufeff3,c\n"
    with pytest.raises(CorpusError, match=r"a\.csv:3: the header again; were files joined"):
        read(tmp_path, "a.csv", content)
    assert rows(read(tmp_path, "a.csv", content, on_bad="skip")) == [
        ("1", "a"),
        ("2", "b"),
        ("3", "c"),
    ]


def test_zeros_long_fields_and_blank_lines(tmp_path: Path) -> None:
    long = "x" * 300_000
    for name, sign in (("a.csv", ","), ("a.tsv", "\t")):
        content = f"\n\nid{sign}text\n\n1{sign}a\0b\n\n2{sign}{long}\n"
        assert rows(read(tmp_path, name, content)) == [("1", "a\0b"), ("2", long)]
    assert [d.text for d in read(tmp_path, "a.tsv", "text\na\n\nb\n")] == ["a", "", "b"]


def test_a_field_that_never_ends_takes_a_bounded_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "MAX_LINE", 1000)
    content = "id,text\n" + '0,"open\n' + "".join(f"{n},text {n}\n" for n in range(1, 500))
    rejected: list[str] = []
    documents = read(
        tmp_path,
        "a.csv",
        content,
        on_bad="skip",
        reject=lambda source, line, reason: rejected.append(f"{source[-2:]} {line} {reason}"),
    )
    assert [d.id for d in documents] == [str(n) for n in range(1, 500)]
    assert len(rejected) == 1
    assert rejected[0].startswith(':2 0,"open broken row (')


@pytest.mark.parametrize(
    "options",
    [
        {"columns": ["id", "text"]},
        {"header": False},
        {"delimiter": ""},
        {"delimiter": "::"},
        {"delimiter": '"'},
        {"quoting": "some"},
        {"format": "xml"},
        {"metadata": ["a"], "metadata_except": ["b"]},
    ],
)
def test_options_that_cannot_be_meant(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(MisuseError):
        read(tmp_path, "a.csv", "text\na\n", **options)

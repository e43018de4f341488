"""Folders of files: which are read, what is left alone, and each as one document."""

from __future__ import annotations

import os
from io import BytesIO
from pathlib import Path

import docx
import pytest
from commands import one_line_error, run

from moee_index.errors import CorpusError, MisuseError
from moee_index.readers import file_texts
from moee_index.readers.corpus import read_corpora
from moee_index.readers.folder import look_at_folder
from moee_index.types import Document

PAGE = """<html><head><title>Of &amp; ships</title><style>p {}</style></head>
<body><nav>Home</nav><header>Site</header>
<article><header><h1>Ships <i>at sea</i></h1></header><p>They <b>sail</b>
far.</p><script>alert(1)</script><ul><li>one</li><li>two<br>three</li></ul>
<pre>a
 b</pre><!-- not shown --></article><footer>1999</footer></body></html>"""


def pdf(words: str, title: str) -> bytes:
    """A page with some words, and a title."""
    drawn = f"BT /F 12 Tf 10 10 Td ({words}) Tj ET"
    objects = (
        "<</Type/Catalog/Pages 2 0 R>>",
        "<</Type/Pages/Kids[3 0 R]/Count 1>>",
        "<</Type/Page/Parent 2 0 R/MediaBox[0 0 200 200]/Contents 4 0 R"
        "/Resources<</Font<</F 5 0 R>>>>>>",
        f"<</Length {len(drawn)}>>stream\n{drawn}\nendstream",
        "<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
        f"<</Title({title})>>",
    )
    text, places = "%PDF-1.4\n", []
    for number, content in enumerate(objects, 1):
        places.append(len(text))
        text += f"{number} 0 obj{content}endobj\n"
    table = "".join(f"{place:010} 00000 n \n" for place in places)
    end = f"trailer<</Root 1 0 R/Info 6 0 R/Size 7>>\nstartxref\n{len(text)}\n%%EOF\n"
    return f"{text}xref\n0 7\n0000000000 65535 f \n{table}{end}".encode()


PDF = pdf("Of ships", "A title")


def write(folder: Path, **files: str | bytes) -> Path:
    """Files by their names, `__` for a slash and `_` for a dot."""
    for name, content in files.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def names(folder: Path, *globs: str) -> list[str]:
    return [file.name for file in look_at_folder(folder, globs).files]


def only(folder: Path) -> Document:
    (document,) = read_corpora([folder])
    return document


def word(*paragraphs: str, title: str = "") -> bytes:
    document = docx.Document()
    document.core_properties.title = title
    document.add_heading("The heading", 1)
    for paragraph in paragraphs:
        document.add_paragraph(paragraph)
    table = document.add_table(1, 2)
    table.rows[0].cells[0].text, table.rows[0].cells[1].text = "left", "right"
    written = BytesIO()
    document.save(written)
    return written.getvalue()


# Which files


def test_files_are_read_in_the_order_of_their_paths(tmp_path: Path) -> None:
    write(tmp_path, b_md="b", a__z_txt="z", a__b_html="<p>h", c_py="code", d_log="log")
    found = look_at_folder(tmp_path)
    assert [file.name for file in found.files] == ["a/b.html", "a/z.txt", "b.md"]
    assert found.passed_over == {"of other kinds": 2}
    assert found.told() == f"{tmp_path}: 3 files; passed over: 2 of other kinds"
    assert found.size == 6


def test_patterns_say_which_files(tmp_path: Path) -> None:
    write(tmp_path, a_md="a", s__b_md="b", s__t__c_md="c", s__d_py="d", e_txt="e")
    assert names(tmp_path, "**/*.md") == ["a.md", "s/b.md", "s/t/c.md"]
    assert names(tmp_path, "s/*.md") == ["s/b.md"]
    assert names(tmp_path, "*.md", "*.py", "!s/t/**") == ["a.md", "s/b.md", "s/d.py"]
    with pytest.raises(CorpusError, match=r"it holds no file that --glob \*\.rst names"):
        look_at_folder(tmp_path, ["*.rst"])


def test_ignore_files_hold_below_them(tmp_path: Path) -> None:
    write(tmp_path, _gitignore="*.txt\nout/\n!keep.txt\n", a_txt="a", keep_txt="k", s__b_txt="b")
    write(tmp_path, out__c_md="c", s___ignore="!b.txt\nno.md\n[\n", s__no_md="n", s__yes_md="y")
    found = look_at_folder(tmp_path)
    assert [file.name for file in found.files] == ["keep.txt", "s/b.txt", "s/yes.md"]
    assert found.passed_over == {"ignored": 3}


def test_hidden_binary_and_other_files_are_passed_over_and_counted(tmp_path: Path) -> None:
    write(tmp_path, a_md="a", b_txt=b"\0\1", _c_md="c", _d__e_md="e")
    os.mkfifo(tmp_path / "pipe.txt")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.md")).write_text("x")
    found = look_at_folder(tmp_path)
    assert [file.name for file in found.files] == ["a.md"]
    assert found.passed_over == {
        "binary": 1,
        "hidden": 2,
        "that are no files": 1,
        "with names that are not UTF-8": 1,
    }


def test_links_are_followed_inside_only_and_never_in_circles(tmp_path: Path) -> None:
    folder, outside = tmp_path / "notes", write(tmp_path / "else", secret_txt="secret")
    write(folder, a_md="a", s__b_md="b")
    (folder / "out.txt").symlink_to(outside / "secret.txt")
    (folder / "outdir").symlink_to(outside)
    (folder / "loop").symlink_to(folder)
    (folder / "s" / "self.md").symlink_to("self.md")
    (folder / "gone.md").symlink_to("nowhere.md")
    (folder / "inside.md").symlink_to("a.md")
    found = look_at_folder(folder)
    assert [file.name for file in found.files] == ["a.md", "inside.md", "s/b.md"]
    assert found.passed_over == {"links": 5}
    (tmp_path / "link").symlink_to(folder)
    assert names(tmp_path / "link") == ["a.md", "inside.md", "s/b.md"]


def test_a_folder_with_a_corpus_or_parquet_is_that(tmp_path: Path) -> None:
    write(tmp_path / "beir", corpus_jsonl='{"_id": "1", "text": "x"}\n', README_md="readme")
    assert only(tmp_path / "beir").id == "1"
    assert [one.id for one in read_corpora([tmp_path / "beir"], glob=["*.md"])] == ["README.md"]


# What is in them


def test_a_file_is_a_document(tmp_path: Path) -> None:
    write(tmp_path, s__a_md="# The head #\n\nA text.\n")
    os.utime(tmp_path / "s/a.md", (0, 1_700_000_000))
    found = only(tmp_path)
    assert (found.id, found.title, found.text) == ("s/a.md", "The head", "A text.")
    assert found.metadata == {
        "title": "The head",
        "path": "s/a.md",
        "modified": "2023-11-14T22:13:20Z",
        "bytes": 22,
    }
    assert not found.made_id


@pytest.mark.parametrize(
    ("content", "title", "text"),
    [
        ("plain", "", "plain"),
        ("\ufeff# A\nb", "A", "b"),
        ("A\n===\nb", "A", "b"),
        ("---\nx: y\n---\n# A\nb", "A", "b"),
        ("first\n\n## A\nb", "A", "first\n\n## A\nb"),
        ("```\n# not\n```\n# A", "A", "```\n# not\n```\n# A"),
        ("#hashtag\n", "", "#hashtag\n"),
        ("a\r\n# B\r\nc", "B", "a\n# B\nc"),
    ],
)
def test_markdown(tmp_path: Path, content: str, title: str, text: str) -> None:
    found = only(write(tmp_path, a_md=content))
    assert (found.title, found.text) == (title, text)


def test_html_is_its_main_text(tmp_path: Path) -> None:
    found = only(write(tmp_path, a_html=PAGE))
    assert found.title == "Ships at sea"
    assert found.text == "They sail far.\none\ntwo\nthree\na\nb"
    named = only(write(tmp_path / "n", a_htm="<title>T</title><p>text"))
    assert (named.title, named.text) == ("T", "text")
    latin = '<meta charset="latin-1"><p>caf\xe9'.encode("latin-1")
    assert only(write(tmp_path / "l", a_html=latin)).text == "café"


def test_html_nested_beyond_measure(tmp_path: Path) -> None:
    assert only(write(tmp_path, a_html="<div>" * 20_000 + "deep")).text == "deep"


def test_utf_16_is_read_and_other_encodings_are_named(tmp_path: Path) -> None:
    assert only(write(tmp_path / "u", a_txt="naïve".encode("utf-16"))).text == "naïve"
    tmp_path = write(tmp_path / "l", a_txt=b"caf\xe9", b_txt="b")
    with pytest.raises(CorpusError, match=r"a\.txt: not UTF-8 \(byte 0xe9 at position 4\)"):
        list(read_corpora([tmp_path]))
    rejected: list[tuple[str, str, str]] = []
    found = read_corpora([tmp_path], on_bad="skip", reject=lambda *one: rejected.append(one))
    assert [document.id for document in found] == ["b.txt"]
    assert rejected[0][1] == "a.txt"


def test_pdf_and_word(tmp_path: Path) -> None:
    found = only(write(tmp_path / "p", a_pdf=PDF))
    assert (found.title, found.text) == ("A title", "Of ships")
    found = only(write(tmp_path / "w", a_docx=word("One.", "Two.")))
    assert (found.title, found.text) == ("The heading", "The heading\nOne.\nTwo.\nleft | right")
    assert only(write(tmp_path / "t", a_docx=word(title="Named"))).title == "Named"


@pytest.mark.parametrize("kind", ["pdf", "docx"])
@pytest.mark.parametrize("content", [b"", b"none", b"%PDF-1.4\n%%EOF", b"PK\3\4cut", PDF[:200]])
def test_what_is_no_pdf_or_word_file_is_named(tmp_path: Path, kind: str, content: bytes) -> None:
    write(tmp_path, **{f"a_{kind}": content, "b_txt": "b"})
    with pytest.raises(CorpusError, match=rf"a\.{kind}: (cannot be read as a|holds no text)"):
        list(read_corpora([tmp_path]))


def test_a_word_file_that_unpacks_without_bound_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_texts, "_MOST_UNPACKED", 10_000)
    write(tmp_path, a_docx=word("x" * 20_000))
    with pytest.raises(CorpusError, match="unpacks to more than"):
        list(read_corpora([tmp_path]))


def test_without_the_extra_pdf_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_texts, "find_spec", lambda name: None)
    write(tmp_path, a_pdf=PDF, b_txt="b")
    found = look_at_folder(tmp_path)
    assert [file.name for file in found.files] == ["b.txt"]
    assert found.passed_over == {".pdf (needs pip install 'moee-index[files]': pypdf)": 1}


def test_a_file_that_vanishes_or_is_too_large_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = read_corpora([write(tmp_path, a_txt="a", b_txt="b")])
    (tmp_path / "a.txt").unlink()
    with pytest.raises(CorpusError, match=r"a\.txt: cannot be read \(No such file"):
        next(reader)
    monkeypatch.setattr("moee_index.readers.folder.MOST_BYTES", 0)
    with pytest.raises(CorpusError, match="more than 0 MiB"):
        list(read_corpora([tmp_path]))


# As a command


def test_a_folder_is_built_searched_and_built_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "notes", a_md="# Ships\nThey sail.", b_txt="cats and dogs", _x_md="hidden")
    built = run("build", "notes", "--glob", "*.md", "--glob", "*.txt")
    assert "notes: 2 files; passed over: 1 hidden" in built.stderr
    assert "embedded 2" in built.stdout
    assert "b.txt" in run("-q", "query", "a dog", "-k", 1).stdout
    assert "already finished" in run("build", "notes").stdout


@pytest.mark.parametrize(
    ("arguments", "words", "status"),
    [
        (["nothing"], "no Parquet file and no file to read (.txt", 1),
        (["a.txt", "--glob", "*"], "no corpus is a folder", 2),
        (["some", "--glob", "*", "--format", "txt"], "--format has no meaning", 2),
        (["some", "--format", "csv"], "a folder that holds no csv corpus", 1),
        (["some", "--glob", "\\"], "--glob", 2),
    ],
)
def test_folders_that_cannot_be_meant(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    words: str,
    status: int,
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, a_txt="a", some__a_txt="a")
    (tmp_path / "nothing").mkdir()
    assert words in one_line_error(run("build", *arguments, "--index", "i", status=status))
    assert not (tmp_path / "i").exists()


def test_globs_of_python_are_a_list(tmp_path: Path) -> None:
    with pytest.raises(MisuseError, match="patterns are given as a list"):
        read_corpora([write(tmp_path, a_txt="a")], glob="*.txt")

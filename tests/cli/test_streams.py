"""Any bytes at every door of the command line: what is typed, what is printed, closed and full
streams."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from commands import one_line_error, run
from hypothesis import given
from hypothesis import strategies as st

from moee_index.cli import streams
from moee_index.cli.output import print_json
from moee_index.text import cut, escaped, one_line, shown, text_fault

PROGRAM = f"{shlex.quote(sys.executable)} -m moee_index -q"
HOSTILE = "\x1b]0;TITLE\x07 \x1b[2J\x1b[31mred \u202ereversed\u2066 \x9b31m \x7f \r\n\u2028next"
# In each text's title; found by words alone, which is quicker to start for want of a model.
TITLE = "ships\x1b[1m"
QUERY = "query --index i --lexical 1"
SHARED = ("日本語", "café", "👩\u200d🚀", "\u05d0\u200f", "ships at sea")


def line(**fields: object) -> str:
    return json.dumps(fields) + "\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an index `i` of texts that no terminal should see as they are."""
    folder = tmp_path_factory.mktemp("streams")
    corpus = folder / "corpus.jsonl"
    lines = [line(id=f"d{n}", text=text, title=TITLE) for n, text in enumerate(SHARED)]
    lines.append(line(id="x\x1b]0;T\x07\n", text=HOSTILE, title=TITLE, **{"f\x1b[1m": "v\x1b[0m"}))
    corpus.write_text("".join(lines), encoding="utf-8")
    run("-q", "build", corpus, "--index", folder / "i")
    return folder


def shell(command: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """The program as a shell runs it: `command` follows its name."""
    return subprocess.run(
        ["/bin/sh", "-c", f"{PROGRAM} {command}"],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        timeout=120,
        check=False,
    )


def harmless(text: str) -> bool:
    """Whether a terminal shows a text and does nothing else."""
    acting = {"Cc", "Cf", "Cs", "Zl", "Zp"}
    allowed = "\n\u200c\u200d\u00ad"
    return all(c in allowed or unicodedata.category(c) not in acting for c in text)


# What is shown


@given(st.text())
def test_escaped_text_acts_on_no_terminal(text: str) -> None:
    assert harmless(escaped(text)) and "\n" not in escaped(text)
    assert harmless(one_line(text)) and "\n" not in one_line(text)
    assert len(shown(text)) <= 60
    if text.isprintable():
        assert escaped(text) == text


def test_what_is_escaped_can_be_read() -> None:
    assert one_line(HOSTILE[: HOSTILE.index(" \r")]) == (
        "\\x1b]0;TITLE\\x07 \\x1b[2J\\x1b[31mred \\u202ereversed\\u2066 \\x9b31m \\x7f"
    )
    assert escaped("a\nb\ud83d") == "a\\nb\\ud83d"
    assert cut("abcdef", 4) == "abc…"


@given(st.dictionaries(st.text(), st.text() | st.integers()))
def test_json_means_the_same_and_acts_on_no_terminal(value: dict[str, object]) -> None:
    lines: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams.click, "echo", lambda data: lines.append(data.decode()))
        print_json(value)
    (printed,) = lines
    assert json.loads(printed) == value
    assert not streams._ACTING.search(printed) and "\x1b" not in printed


@pytest.mark.parametrize("arguments", [f"{QUERY} ships", "rerank ships --candidates c"])
def test_a_table_of_hostile_texts(folder: Path, arguments: str) -> None:
    (folder / "c").write_text("ships\n\x1b[2Jboats \u202e\n", encoding="utf-8")
    result = shell(arguments, folder)
    assert result.returncode == 0, result.stderr
    assert harmless(result.stdout.decode()) and b"\\x1b" in result.stdout


@pytest.mark.parametrize("arguments", ["info i", "verify i", "query --index i --filter 'zz = 1' x"])
def test_other_output_of_hostile_texts(folder: Path, arguments: str) -> None:
    result = shell(arguments, folder)
    assert harmless(result.stdout.decode()) and harmless(result.stderr.decode())


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252"])
def test_no_character_ends_a_table(folder: Path, encoding: str) -> None:
    result = shell(f"{QUERY} ships", folder, PYTHONIOENCODING=encoding)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.decode(encoding).splitlines()
    # A text that does not fit beside its id stands below it.
    below = [line for line in lines if line.startswith(" " * 5)]
    assert len(lines) - len(below) == 1 + 6 + 1 and len(below) == 1


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-16"])
@pytest.mark.parametrize("command", [f"{QUERY} ships --json", "embed 日本 --raw --method hs"])
def test_what_programs_read_is_utf_8(folder: Path, encoding: str, command: str) -> None:
    result = shell(command, folder, PYTHONIOENCODING=encoding)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout.decode("utf-8"))
    if "hits" in found:
        texts = {hit["text"] for hit in found["hits"]}
        assert {*SHARED, HOSTILE} == texts


def test_a_run_is_utf_8(tmp_path: Path) -> None:
    (tmp_path / "c.jsonl").write_text(line(id="é", text="ships"), encoding="utf-8")
    assert shell("build c.jsonl --index i", tmp_path).returncode == 0
    result = shell("query --index i --trec ships", tmp_path, PYTHONIOENCODING="ascii")
    assert result.stdout.decode("utf-8").split()[2] == "é"


# What is typed

NOT_UTF_8 = r"$(printf 'caf\351')"


@pytest.mark.parametrize(
    "arguments",
    [
        f'query --index i "{NOT_UTF_8}"',
        f'embed "{NOT_UTF_8}"',
        f'rerank "{NOT_UTF_8}" --candidates c',
        f'embed x --prompt "{NOT_UTF_8} {{text}}"',
        f'query x --index i --query-prompt "{NOT_UTF_8} {{text}}"',
        f"query x --index i --filter \"a = '{NOT_UTF_8}'\"",
        f"export i out.jsonl --filter \"a = '{NOT_UTF_8}'\"",
        f'delete i "{NOT_UTF_8}"',
    ],
)
def test_bytes_that_are_no_text(folder: Path, arguments: str) -> None:
    (folder / "c").write_text("ships\n", encoding="utf-8")
    result = shell(arguments, folder)
    assert result.returncode == 2
    last = result.stderr.decode().splitlines()[-1]
    assert last.startswith("Error: ") and "not UTF-8 (byte 0xe9 at character" in last


def test_utf_8_is_text_in_any_locale(folder: Path) -> None:
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    result = shell("query --index i 日本語 --json -k 1", folder, **plain)
    assert json.loads(result.stdout.decode("utf-8"))["hits"][0]["text"] == "日本語"


def test_names_of_files_in_any_bytes(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9\x1b[2J")
    (tmp_path / f"{name}.jsonl").write_text(line(id="1", text="ships"), encoding="utf-8")
    quoted = r"""$(printf 'caf\351\033[2J')"""
    built = shell(f'build "{quoted}.jsonl" --index "{quoted}"', tmp_path)
    assert built.returncode == 0, built.stderr
    assert harmless(built.stdout.decode("utf-8", "surrogateescape").replace("\udce9", ""))
    asked = shell(f'query --index "{quoted}" boats --json', tmp_path)
    assert json.loads(asked.stdout)["index"] == name
    missing = shell(f'query --index "{quoted}x" boats', tmp_path)
    assert missing.returncode == 1 and harmless(missing.stderr.decode())
    assert b"no such directory" in missing.stderr


def test_a_text_of_python_that_is_none() -> None:
    assert text_fault("half \ud83d") == (
        "holds half a surrogate pair (\\ud83d at character 6), which is not text"
    )
    assert text_fault(None) == "is None, not text"
    assert text_fault(b"a") == "is of type bytes, not text"
    assert text_fault("é👩") is None


# Streams that are not there


@pytest.mark.parametrize("redirected", [">&-", ">/dev/full", ">&- 2>&-", "--json >&-"])
def test_what_cannot_be_printed_is_an_error(folder: Path, redirected: str) -> None:
    result = shell(f"{QUERY} ships {redirected}", folder)
    assert result.returncode == 1 and not result.stdout
    if "2>&-" not in redirected:
        (told,) = result.stderr.decode().splitlines()
        assert told.startswith("Error: stdout cannot be written (")


@pytest.mark.parametrize("redirected", ["2>&-", "2>/dev/full", "<&- 2>&-"])
def test_notes_that_cannot_be_shown_end_nothing(tmp_path: Path, redirected: str) -> None:
    (tmp_path / "c.jsonl").write_text(line(id="1", text="ships"), encoding="utf-8")
    built = subprocess.run(
        ["/bin/sh", "-c", f"{PROGRAM.removesuffix(' -q')} build c.jsonl --index i {redirected}"],
        cwd=tmp_path,
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert built.returncode == 0 and b"embedded 1" in built.stdout
    assert shell("verify i --full", tmp_path).returncode == 0


def test_a_closed_stdin_is_told(folder: Path) -> None:
    result = shell("query --index i <&-", folder)
    assert result.returncode == 1
    assert "stdin" in result.stderr.decode().splitlines()[-1]


def test_a_reader_that_leaves_ends_it_quietly(folder: Path) -> None:
    many = " ".join(["ships"] * 200)
    result = shell(f"{QUERY} --json {many} | head -c 10", folder)
    assert len(result.stdout) == 10 and not result.stderr


def test_an_error_is_one_harmless_line() -> None:
    result = run("query", "x", "--index", "no\x1b[2J\nsuch", status=1)
    assert harmless(one_line_error(result))

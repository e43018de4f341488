"""The prompt of `query`: what a line means, what an answer leaves for the next line, and the whole
in a terminal."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import run
from hypothesis import given
from hypothesis import strategies as st

from fakes.word_encoder import FakeEncoder
from moee_index.cli.console import Console
from moee_index.cli.history import history_path, kept_history
from moee_index.cli.prompt import COMMANDS, Command, Session, changed, parse
from moee_index.cli.query_page import Page
from moee_index.errors import MisuseError, MoeeIndexError
from moee_index.index import Indexes, build_index
from moee_index.index.search.request import SearchRequest
from moee_index.types import Document

# What a line means


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("ships at sea", "ships at sea"),
        ("  ", None),
        ("", None),
        (" :k 3", ":k 3"),
        (":k 20", Command("k", "20")),
        (":  k   20 ", Command("k", "20")),
        (':filter lang = "en"  ', Command("filter", 'lang = "en"')),
        (":filter", Command("filter")),
        (":help", Command("help")),
    ],
)
def test_what_a_line_means(line: str, meant: object) -> None:
    assert parse(line) == meant


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (":nonsense", "there is no command :nonsense; :help lists those there are"),
        (":", "there is no command :"),
        (":K 3", "there is no command :K"),
        (":\x1b[2J", r"there is no command :\x1b[2J"),
        (":k", ":k takes N"),
        (":open", ":open takes N"),
        (":quit now", ":quit takes nothing"),
        ("half \ud83d", "the line holds half a surrogate pair"),
    ],
)
def test_lines_that_mean_nothing(line: str, told: str) -> None:
    with pytest.raises(MisuseError) as raised:
        parse(line)
    assert told in str(raised.value)


@given(st.text() | st.text().map(":{}".format) | st.sampled_from([*COMMANDS]).map(":{} 3".format))
def test_any_line_means_something_or_is_told(line: str) -> None:
    try:
        meant = parse(line)
        if isinstance(meant, Command) and meant.name not in ("help", "quit", "like", "open"):
            assert isinstance(changed(SearchRequest(), meant), SearchRequest)
    except MoeeIndexError as error:
        assert "\n" not in str(error)


def test_what_commands_change() -> None:
    request = SearchRequest.checked(13, alpha=0.5, passages=True)
    for line, name, value in (
        (":k 20", "k", 23),
        (":alpha 2", "alpha", 2.0),
        (":alpha", "alpha", None),
        (":lexical 0.4", "lexical", 0.4),
        (":lexical", "lexical", None),
        (":method hs", "method", "hs"),
    ):
        command = parse(line)
        assert isinstance(command, Command)
        request = changed(request, command, 3)
        assert getattr(request, name) == value and request.passages
    filtered = changed(request, Command("filter", "x = 1"))
    assert filtered.filter is not None and filtered.filter.text == "x = 1"
    assert changed(filtered, Command("filter")) == request
    # α acts on `sum` alone: it does not stay with another method.
    request = changed(SearchRequest.checked(alpha=0.5), Command("method", "rw"))
    assert (request.method, request.alpha) == ("rw", None)
    with pytest.raises(MisuseError, match="alpha weighs RW in method sum only"):
        changed(request, Command("alpha", "1"))


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("k", "0", "k is 0"),
        ("k", "-1", ":k -1: a whole number is needed"),
        ("k", "1_0", "a whole number is needed"),
        ("k", "٣", "a whole number is needed"),
        ("k", "9" * 5000, "a whole number is needed"),
        ("alpha", "x", ":alpha x: a number is needed"),
        ("alpha", "nan", "alpha is nan"),
        ("lexical", "2", "lexical is 2"),
        ("method", "cosine", "method is 'cosine'; it is one of"),
        ("filter", "x =", "filter, position"),
    ],
)
def test_values_out_of_range(name: str, value: str, told: str) -> None:
    with pytest.raises(MoeeIndexError) as raised:
        changed(SearchRequest(), Command(name, value))
    assert told in str(raised.value)


# From line to line

TEXTS = {"a": "ships at sea", "b": "boats at sea\nand\x1b[2J more", "c": "bread and butter"}
Take = Callable[[str], str]


@pytest.fixture
def loaded() -> list[FakeEncoder]:
    """The models that were loaded."""
    return []


@pytest.fixture
def take(
    tmp_path: Path, loaded: list[FakeEncoder], capsys: pytest.CaptureFixture[str]
) -> Iterator[Take]:
    """Gives a session a line; what is printed for it."""
    documents = [Document(name, text, {"x": n}) for n, (name, text) in enumerate(TEXTS.items())]
    build_index(tmp_path / "i", documents, FakeEncoder())

    def load() -> FakeEncoder:
        loaded.append(FakeEncoder())
        return loaded[-1]

    with Indexes.open([tmp_path / "i"]) as opened:
        page = Page(0, (), as_json=False, trec=False, full=False)
        session = Session(Console(), opened, SearchRequest(), page, load)

        def taken(line: str) -> str:
            assert session.take(line) is (line != ":quit")
            return capsys.readouterr().out

        yield taken


def test_a_session(take: Take, loaded: list[FakeEncoder]) -> None:
    assert ids(take("sea")) == ["a", "b", "c"] and take(" ") == ""
    assert take(":k 1") == "k 1\n" and ids(take("butter")) == ["c"]
    assert take(":open 1") == "bread and butter\n"
    assert take(":k 2") == "k 2\n"
    like = take(":like 1")
    assert like.startswith("like c ") and len(ids(like)) == 2 and "c" not in ids(like)
    take(":k 9")
    assert take(":filter x = 1") == "filter x = 1\n" and ids(take("sea")) == ["b"]
    # Nothing of a text acts on the terminal.
    assert take(":open 1") == "boats at sea\nand\\x1b[2J more\n"
    assert take(":filter") == "filter: by default\n" and len(ids(take("sea"))) == 3
    assert take(":lexical 0.4") == "lexical 0.4\n" and "words 1.000" in take("sea ships")
    assert "words" not in take(":like 1")
    assert ids(take("sea -boats")) == ["a", "c"] and ids(take('"boats at"')) == ["b"]
    assert take(":method hs") == "method hs\n" and take(":quit") == ""
    assert [name in take(":help") for name in COMMANDS] == [True] * len(COMMANDS)
    assert len(loaded) == 1


def ids(table: str) -> list[str]:
    return re.findall(r"^ +\d+ .*  (\w)  ", table, re.M)


def test_errors_change_nothing(take: Take, loaded: list[FakeEncoder]) -> None:
    with pytest.raises(MisuseError, match="only what documents must not hold"):
        take("-sea")
    with pytest.raises(MisuseError, match=":open 1: no such hit in the last answer; there is none"):
        take(":open 1")
    take(":lexical 1")
    assert ids(take("sea")) == ["a", "b"] and not loaded  # words alone need no model
    with pytest.raises(MisuseError, match=":like 3: no such hit in the last answer; it has 1 to 2"):
        take(":like 3")
    for line, told in (
        (":filter zz = 1", "no document has the field zz"),
        (":lexical 7", "lexical is 7"),
        (":k x", "a whole number is needed"),
    ):
        with pytest.raises(MoeeIndexError, match=told):
            take(line)
    assert ids(take("sea")) == ["a", "b"] and not loaded


# What is remembered


def test_history_is_for_its_user_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("readline")
    told: list[str] = []
    path = tmp_path / "state" / "queries"
    with kept_history(path, told.append):
        pass
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)
    with kept_history(path, told.append):
        pass
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and not told
    with kept_history(path.parent, told.append), kept_history(None, told.append):
        pass
    assert len(told) == 1 and told[0].startswith(f"{path.parent}: ")
    assert "lines of this prompt are not remembered" in told[0]
    monkeypatch.setitem(sys.modules, "readline", None)  # as on Windows
    with kept_history(tmp_path / "never", told.append):
        pass
    assert not (tmp_path / "never").exists() and len(told) == 1
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "of"))
    if sys.platform == "linux":
        assert history_path() == tmp_path / "of" / "moee-index" / "queries"


# In a terminal

_PROGRAM = (
    "import fcntl, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    "from moee_index.cli import main; main()"
)
# What a terminal acts on and shows no letter for.
_CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")


class Terminal:
    """The program in a pseudo-terminal of its own."""

    def __init__(self, folder: Path, *args: str, **environment: str) -> None:
        self._master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, *args],
            cwd=folder,
            env={
                **os.environ,
                "TERM": "xterm",
                "PAGER": "cat",
                "XDG_STATE_HOME": str(folder / "state"),
                **environment,
            },
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)
        self._unread = ""

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)

    def type(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def until(self, text: str, seconds: float = 120) -> str:
        """What the terminal shows up to some text, which is shown soon."""
        end = time.monotonic() + seconds
        while text not in self._unread:
            assert time.monotonic() < end, self._unread
            if select.select([self._master], [], [], 1)[0]:
                try:
                    read = os.read(self._master, 1 << 16)
                except OSError:  # the program has ended
                    read = b""
                assert read, self._unread
                self._unread = _CODES.sub("", self._unread + read.decode(errors="replace"))
        shown, _, self._unread = self._unread.partition(text)
        return shown

    def ask(self, line: str) -> str:
        """What is shown between a line and the next prompt."""
        self.type(line + "\n")
        return self.until("query> ").partition("\n")[2]

    def end(self) -> int:
        while select.select([self._master], [], [], 1)[0]:
            try:
                if not os.read(self._master, 1 << 16):
                    break
            except OSError:
                break
        return self.process.wait(60)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an index `i` of three documents."""
    folder = tmp_path_factory.mktemp("prompt")
    documents: list[dict[str, Any]] = [
        {"id": name, "text": text, "x": n} for n, (name, text) in enumerate(TEXTS.items())
    ]
    (folder / "c.jsonl").write_text("\n".join(map(json.dumps, documents)), encoding="utf-8")
    run("-q", "build", folder / "c.jsonl", "--index", folder / "i")
    return folder


def test_the_prompt_in_a_terminal(folder: Path) -> None:
    with Terminal(folder, "query", "--index", "i") as terminal:
        start = terminal.until("query> ")
        assert start.count("model tiny: ") == 1 and "3 documents; :help lists" in start
        answer = terminal.ask("ships on the ocean")
        assert answer.startswith("ships on the ocean   (") and ids(answer) == ["a", "b", "c"]
        assert terminal.ask(":k 2") == "k 2\n"
        assert "bread and butter\n" in terminal.ask(":filter x = 2") + terminal.ask("food")
        assert terminal.ask(":open 1") == "bread and butter\n"
        like = terminal.ask(":filter") + terminal.ask(":like 1")
        assert "like c " in like and len(ids(like)) == 2
        for line, told in (
            (":nonsense", "Error: there is no command :nonsense; :help lists those there are\n"),
            (":filter zz = 1", "Error: filter, position 1"),
            (":open 7", "Error: :open 7: no such hit in the last answer; it has 1 to 2\n"),
            (":alpha -1", "Error: alpha is -1"),
        ):
            shown = terminal.ask(line)
            assert shown.startswith(told) and shown.count("\n") == 1
        terminal.type("half a li")
        terminal.until("half a li")
        # Python's readline waits for a key before it heeds a signal that comes while it echoes.
        time.sleep(2)
        terminal.type("\x03")
        terminal.until("query> ")
        assert "half" not in terminal.ask("ships")
        terminal.type("\x04")
        assert terminal.end() == 0
    history = folder / "state" / "moee-index" / "queries"
    assert stat.S_IMODE(history.stat().st_mode) == 0o600
    lines = history.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "ships on the ocean" and lines[-1] == "ships" and ":k 2" in lines


def test_lines_of_earlier_prompts_and_no_model_for_words(folder: Path) -> None:
    """Words alone need no model until the weight is changed."""
    pytest.importorskip("readline")
    (folder / "words" / "moee-index").mkdir(parents=True)
    (folder / "words" / "moee-index" / "queries").write_text("butter\n", encoding="utf-8")
    state = str(folder / "words")
    with Terminal(folder, "query", "--index", "i", "--lexical", "1", XDG_STATE_HOME=state) as one:
        assert "model" not in one.until("query> ")
        assert ids(one.ask("\x1b[A")) == ["c"]
        assert one.ask(":lexical 0") == "lexical 0\n"
        shown = one.ask("butter")
        assert "model tiny: " in shown and ids(shown)[0] == "c"
        one.type(":quit\n")
        assert one.end() == 0


@pytest.mark.parametrize("arguments", [("--json",), ("--trec",), ("--queries", "-")])
def test_programs_get_no_prompt(folder: Path, arguments: tuple[str, ...]) -> None:
    with Terminal(folder, "-q", "query", "--index", "i", "--lexical", "1", *arguments) as terminal:
        terminal.type("butter\n")
        terminal.type("\x04")
        shown = terminal.until("bread" if "--trec" not in arguments else "Q0 c 1 1 moee-index")
        assert "query> " not in shown
        assert terminal.end() == 0

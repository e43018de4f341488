"""The prompt of `moee-index query` in a terminal: each line a query, or a command that begins with
a colon.

What a line means is said here; answers are the library's, and how they look `query`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import click

from moee_index.cli.console import Console
from moee_index.cli.history import history_path, kept_history
from moee_index.cli.query_page import Page, check_request, print_like
from moee_index.cli.streams import say, say_aside
from moee_index.errors import MisuseError, MoeeIndexError, counted
from moee_index.text import check_text, escaped, shown

if TYPE_CHECKING:
    from moee_index.index import Indexes
    from moee_index.index.search.request import SearchRequest
    from moee_index.types import Hit, TextEncoder

PROMPT = "query> "
# Name → what it takes, and what it does.
COMMANDS = {
    "k": ("N", "hits per query"),
    "method": ("M", "sum, concat, hs or rw"),
    "alpha": ("[A]", "weight of RW in `sum`; alone: the index's"),
    "lexical": ("[W]", "weight of words, 0 to 1; alone: the index's"),
    "filter": ("[F]", 'only documents whose metadata match, as lang = "en"; alone: all'),
    "like": ("N", "more like the N-th hit of the last answer"),
    "open": ("N", "the whole text of the N-th hit of the last answer"),
    "help": ("", "this list"),
    "quit": ("", "leave, as Ctrl-D does; Ctrl-C drops the line"),
}


@dataclass(frozen=True)
class Command:
    """A command and what follows it, without blanks around."""

    name: str
    value: str = ""


def parse(line: str) -> Command | str | None:
    """What a line asks for: a command, the text of a query, None where it is blank. A line that
    begins with a blank is a query, whatever follows.

    Raises MisuseError for an unknown command, one without what it takes, or with what it does not.
    """
    check_text(line, "the line")
    if not line.startswith(":"):
        return line.strip() or None
    name, _, value = line[1:].strip().partition(" ")
    command = Command(name, value.strip())
    if name not in COMMANDS:
        raise MisuseError(f"there is no command :{shown(name)}; :help lists those there are")
    takes = COMMANDS[name][0]
    if command.value and not takes:
        raise MisuseError(f":{name} takes nothing; write it alone")
    if takes and not command.value and takes[0] != "[":
        raise MisuseError(f":{name} takes {takes}; :help says what that is")
    return command


def changed(request: SearchRequest, command: Command, offset: int = 0) -> SearchRequest:
    """A request as a command changes it. offset: hits that are left out, which k does not count.

    Raises MisuseError for a value out of range, FilterError.
    """
    from moee_index.index.search.request import SearchRequest as Request

    value = command.value
    match command.name:
        case "k":
            # What is too small is told of the number that was given.
            return replace(request, k=Request.checked(_whole(command)).k + offset)
        case "method":
            alpha = request.alpha if value == "sum" else None
            checked = Request.checked(method=value, alpha=alpha)  # type: ignore[arg-type]
            return replace(request, method=checked.method, alpha=checked.alpha)
        case "alpha":
            alpha = _number(command) if value else None
            checked = Request.checked(method=request.method, alpha=alpha)
            return replace(request, alpha=checked.alpha)
        case "lexical":
            checked = Request.checked(lexical=_number(command) if value else None)
            return replace(request, lexical=checked.lexical)
        case _:
            return replace(request, filter=Request.checked(filter=value or None).filter)


def _whole(command: Command) -> int:
    # `int` would take "1_0" and digits of all scripts.
    if not (command.value.isascii() and command.value.isdigit() and len(command.value) < 10):
        raise MisuseError(f":{command.name} {shown(command.value)}: a whole number is needed")
    return int(command.value)


def _number(command: Command) -> float:
    try:
        return float(command.value)
    except ValueError:
        raise MisuseError(f":{command.name} {shown(command.value)}: a number is needed") from None


class Session:
    """What holds from one line to the next. load: loads the model, at the first query that needs
    it; syntax: whether signs in a query are conditions; hits: of the last answer, as they were
    shown."""

    def __init__(
        self,
        console: Console,
        opened: Indexes,
        request: SearchRequest,
        page: Page,
        load: Callable[[], TextEncoder],
        syntax: bool = True,
    ) -> None:
        self.hits: Sequence[Hit] = ()
        self._console = console
        self._opened = opened
        self._request = request
        self._page = page
        self._load = load
        self._syntax = syntax

    @cached_property
    def _encoder(self) -> TextEncoder:
        return self._load()

    def prepare(self) -> None:
        """Load the model now, if queries as they are asked at first need it."""
        if self._opened.embeds(self._request):
            _ = self._encoder

    def take(self, line: str) -> bool:
        """Do what a line says; whether to go on. Raises MoeeIndexError."""
        asked = parse(line)
        if isinstance(asked, str):
            self._answer(asked)
        elif asked is not None:
            return self._obey(asked)
        return True

    def _obey(self, command: Command) -> bool:
        match command.name:
            case "quit":
                return False
            case "help":
                say("\n".join(_help()))
            case "open":
                self._open(self._hit(command))
            case "like":
                self._like(self._hit(command))
            case _:
                self._change(command)
        return True

    def _change(self, command: Command) -> None:
        request = changed(self._request, command, self._page.offset)
        check_request(self._console, self._opened, request)
        self._request = request
        say(f"{command.name} {command.value}" if command.value else f"{command.name}: by default")

    def _answer(self, text: str) -> None:
        from moee_index.index.answers import answer_queries
        from moee_index.index.lexical.syntax import parse_query, plain_query
        from moee_index.types import Query

        request = self._request
        parsed = parse_query(text) if self._syntax else plain_query(text)
        self._opened.check_conditions([parsed])
        counts = self._page.count(self._opened, request, parsed.conditions)
        encoder = self._encoder if self._opened.embeds(request) else None
        for answer in answer_queries(
            self._opened, [Query("1", text)], request, encoder, block=1, syntax=self._syntax
        ):
            details = {**self._opened.details(request), "took_ms": answer.seconds * 1000}
            snippets = self._opened.snippets(answer.text)
            self._page.print_hits(text, None, answer.hits, details, snippets)
            self.hits = answer.hits[self._page.offset :]
        self._page.print_counts(counts)

    def _hit(self, command: Command) -> Hit:
        """The hit that a command names by its rank, as it was shown."""
        rank = _whole(command)
        for hit in self.hits:
            if hit.rank == rank:
                return hit
        there = (
            f"it has {self.hits[0].rank} to {self.hits[-1].rank}" if self.hits else "there is none"
        )
        raise MisuseError(f":{command.name} {rank}: no such hit in the last answer; {there}")

    def _like(self, hit: Hit) -> None:
        # A document is asked by its vectors, whatever words weigh.
        request = replace(self._request, lexical=0.0)
        self.hits = print_like(self._opened, request, hit.id, self._page, hit)[self._page.offset :]

    def _open(self, hit: Hit) -> None:
        document = self._opened.document(hit)
        title = f"{document.title}\n\n" if document.title else ""
        lines = f"{title}{document.text}".expandtabs().split("\n")
        click.echo_via_pager("\n".join(map(escaped, lines)))


def _help() -> list[str]:
    return [f":{name + ' ' + takes:<12} {does}" for name, (takes, does) in COMMANDS.items()]


def run(session: Session, console: Console, documents: int) -> None:
    """Take lines until there are no more. An error of one is told, and the next is read."""
    with kept_history(history_path(), console.tell):
        session.prepare()
        console.tell(f"{counted(documents, 'document')}; :help lists the commands, Ctrl-D leaves")
        while (line := _read()) is not None:
            try:
                if not session.take(line):
                    return
            except MoeeIndexError as error:
                say_aside(f"Error: {' '.join(str(error).split())}")
            except KeyboardInterrupt:
                say_aside("interrupted")


def _read() -> str | None:
    """A line; None where there are no more. Ctrl-C drops what was typed of one."""
    while True:
        try:
            return input(PROMPT)
        except EOFError:
            say()  # the shell's prompt goes on a line of its own
            return None
        except KeyboardInterrupt:
            say()
        except UnicodeDecodeError as error:
            say_aside(f"Error: the line is not {error.encoding}; type it anew")

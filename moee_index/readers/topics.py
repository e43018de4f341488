"""TREC topics as queries: `<top>` with `<num>` and `<title>`, or XML `<topic number="…">`.

The marks are followed as they stand, for most such files are neither SGML nor XML to a parser. A
topic's query is its title, else its `<query>`, else the text of a topic that has nothing else.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from moee_index.errors import CorpusError
from moee_index.readers.lines import BadLineError, Lines
from moee_index.types import Query

# What a file of topics begins with.
BEGINS_TOPICS = re.compile(r"\s*<(?:top|topics?|\?xml|!--|!DOCTYPE)\b", re.IGNORECASE)
_OPEN = re.compile(r"<(top|topic)(\s[^>]*)?>", re.IGNORECASE)
_CLOSE = re.compile(r"</(top|topic)>", re.IGNORECASE)
_FIELD = re.compile(r"<([a-z][\w.-]*)(?:\s[^>]*)?>", re.IGNORECASE)
_ATTRIBUTE = re.compile(r"\b(?:number|num|id|qid)\s*=\s*[\"']([^\"']*)[\"']", re.IGNORECASE)
_NUMBERS = ("num", "number", "id", "qid")
_TEXTS = ("title", "query")
_LONGEST = 2**20


@dataclass
class _Topic:
    """A topic as far as it is read. source: `file:line` of its first line."""

    attributes: str
    is_xml: bool
    source: str
    number: int
    parts: list[str] = field(default_factory=list)
    size: int = 0

    def add(self, text: str) -> None:
        self.size += len(text)
        if self.size > _LONGEST:
            raise BadLineError(self.source, "", "a topic of more than 1 MiB; is its end missing?")
        self.parts.append(text)

    def query(self) -> Query:
        """Raises BadLineError where it has no number or no text."""
        own, fields = _fields("\n".join(self.parts))
        named = _ATTRIBUTE.search(self.attributes)
        number = named[1] if named else next((fields[n] for n in _NUMBERS if fields.get(n)), "")
        number = re.sub(r"^number:\s*", "", number.strip(), flags=re.IGNORECASE)
        texts = [fields[name] for name in _TEXTS if fields.get(name)]
        text = texts[0] if texts else ("" if set(fields) - {*_NUMBERS} else own)
        text = re.sub(r"^topic:\s*", "", text, flags=re.IGNORECASE)
        if self.is_xml:
            number, text = html.unescape(number), html.unescape(text)
        if not number:
            raise BadLineError(self.source, "", "a topic without a number")
        if not text.strip():
            there = ", ".join(f"<{name}>" for name in fields) or "nothing"
            raise BadLineError(
                self.source,
                "",
                f"topic {number} has no <title> and no <query>, but {there}; write the queries as "
                "id<TAB>text",
            )
        return Query(number, " ".join(text.split()), self.source)


def read_topics(lines: Lines) -> Iterator[tuple[Query, int]]:
    """Queries, each with the number of its topic's first line. Raises CorpusError."""
    topic: _Topic | None = None
    count = 0
    for rest in _without_comments(lines):
        while (opened := _OPEN.search(rest)) is not None:
            before, rest = rest[: opened.start()], rest[opened.end() :]
            if topic is not None:
                topic.add(_CLOSE.split(before)[0])
                yield topic.query(), topic.number
            is_xml = opened[1].lower() == "topic"
            topic = _Topic(opened[2] or "", is_xml, lines.source, lines.number)
            count += 1
        if topic is None:
            continue
        closed = _CLOSE.search(rest)
        topic.add(rest[: closed.start()] if closed else rest)
        if closed:
            yield topic.query(), topic.number
            topic = None
    if topic is not None:
        yield topic.query(), topic.number
    if not count:
        raise CorpusError(
            f"{lines.name}: is XML without a <top> or <topic>, so no TREC topics; write the "
            "queries as id<TAB>text or JSON lines"
        )


def _without_comments(lines: Lines) -> Iterator[str]:
    """The lines of a file without `<!-- … -->`, which may go over several."""
    within = False
    for line in lines:
        kept, rest = [], line
        while rest:
            before, mark, rest = rest.partition("-->" if within else "<!--")
            if not within:
                kept.append(before)
            within = within != bool(mark)
        yield "".join(kept)


def _fields(body: str) -> tuple[str, dict[str, str]]:
    """(text before the first field, field → its text up to the next mark), the first of each."""
    fields: dict[str, str] = {}
    marks = list(_FIELD.finditer(body))
    own = body[: marks[0].start()] if marks else body
    ends = [*(mark.start() for mark in marks[1:]), len(body)]
    for mark, end in zip(marks, ends, strict=False):
        text = body[mark.end() : end]
        fields.setdefault(mark[1].lower(), text.split("</")[0].strip())
    return own.split("</")[0].strip(), fields

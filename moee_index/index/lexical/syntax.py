"""The signs of a query that somebody typed: `"a phrase"`, `+required`, `-without`.

A sign counts at the start of a word, before a letter or a quotation mark; so `-5`, `C++`, `e-mail`
and ` - ` are text. A quotation mark opens a phrase at the start of a word and the next one ends it;
any other (`5" pipe`) is text. What the conditions mean for documents is left to `conditions`.
"""

from __future__ import annotations

from dataclasses import dataclass

from moee_index.errors import MisuseError
from moee_index.text import shown

_QUOTE = '"'
# What may stand before a word that begins a sentence's part: `(+word`, `["a phrase"`.
_OPENING = "([{"


@dataclass(frozen=True)
class Condition:
    """What a document must hold to be a hit, or must not. phrase: its words one after another;
    else one word, as it was typed."""

    text: str
    phrase: bool = False
    without: bool = False


@dataclass(frozen=True)
class ParsedQuery:
    """text: what is searched for: without signs, and without the words and phrases that documents
    must not hold."""

    text: str
    conditions: tuple[Condition, ...] = ()


def parse_query(text: str) -> ParsedQuery:
    """A query and its conditions.

    Raises MisuseError for a phrase without end, and where nothing to search for remains.
    """
    kept: list[str] = []
    conditions: list[Condition] = []
    place = 0
    while place < len(text):
        stop, kept_text, condition = _next(text, place)
        kept.append(kept_text)
        if condition is not None:
            conditions.append(condition)
        place = stop
    if not conditions:
        # A phrase of no word was quoted for nothing: the text is searched for as it is.
        return ParsedQuery(text)
    found = ParsedQuery(" ".join("".join(kept).split()), tuple(dict.fromkeys(conditions)))
    if not _has_word(found.text):
        raise MisuseError(
            f"the query {shown(text)} says only what documents must not hold; add what to search "
            "for, or give --plain to search for the text as it is"
        )
    return found


def plain_query(text: str) -> ParsedQuery:
    """A query in which signs are text."""
    return ParsedQuery(text)


def _next(text: str, start: int) -> tuple[int, str, Condition | None]:
    """(where the next thing ends, what of it is searched for, its condition)."""
    if not _begins_word(text, start):
        return start + 1, text[start], None
    sign = text[start] if text[start] in "+-" else ""
    inner = start + len(sign)
    following = text[inner : inner + 1]
    if following == _QUOTE:
        end = text.find(_QUOTE, inner + 1)
        if end < 0:
            raise MisuseError(
                f"the phrase {shown(text[inner:])} has no end; close it with a quotation mark, or "
                "give --plain to search for the text as it is"
            )
        return end + 1, *_condition(text[inner + 1 : end], sign, phrase=True)
    if not sign or not following.isalpha():
        return start + 1, text[start], None
    end = inner
    while end < len(text) and not text[end].isspace():
        end += 1
    return end, *_condition(text[inner:end], sign, phrase=False)


def _begins_word(text: str, place: int) -> bool:
    return place == 0 or text[place - 1].isspace() or text[place - 1] in _OPENING


def _has_word(text: str) -> bool:
    # Plain queries, which need nothing of words, are to be quick to start.
    from moee_index.index.lexical.words import chunks, surfaces

    return any(map(surfaces, chunks(text)))


def _condition(inner: str, sign: str, *, phrase: bool) -> tuple[str, Condition | None]:
    if not _has_word(inner):
        return inner, None
    without = sign == "-"
    # Blanks stand for what is left out, lest words beside it become one.
    return " " if without else inner, Condition(inner, phrase, without)

"""JSON: one object a line, one array of objects, or objects over several lines.

Which of these a file is, is told by its first bytes. At most one line or element of MAX_LINE is in
memory.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from moee_index.errors import CorpusError
from moee_index.readers import lines as files
from moee_index.readers.formats.json_elements import elements
from moee_index.readers.formats.records import Reading, Record, Records
from moee_index.readers.line_ends import only_returns
from moee_index.readers.lines import BadLineError, ByteSource, Lines, parse_object

_BLANK = b" \t\r\n\xef\xbb\xbf"
# Of a list that is one line of many something else follows the bracket.
_ARRAY = re.compile(rb"\[\s*(\{|$)|\[\s*\]\s*$")


def read_jsonl(source: ByteSource, name: str, reading: Reading) -> Records:
    """One JSON object a line, blank lines skipped; or an array of objects, unless the format was
    asked for by name."""
    if reading.format is None and _ARRAY.match(source.head.lstrip(_BLANK)):
        return _elements(source, name, reading, array=True)
    return _lines(source, name)


def read_json(source: ByteSource, name: str, reading: Reading) -> Records:
    """An array of objects, JSON lines, or objects of several lines each."""
    head = source.head.lstrip(_BLANK)
    if head.startswith(b"["):
        return _elements(source, name, reading, array=True)
    return (
        _lines(source, name) if _is_lines(head) else _elements(source, name, reading, array=False)
    )


def _is_lines(head: bytes) -> bool:
    """Whether the first line is an object of its own, as far as it can be seen."""
    first, end, _ = head.partition(b"\n")
    if not end:
        return True
    try:
        parse_object(first.decode("utf-8"))
    except UnicodeDecodeError:
        return True
    except ValueError as error:
        return "broken JSON" not in str(error)
    return True


def _lines(source: ByteSource, name: str) -> Records:
    lines = Lines(source.stream, name, returns=only_returns(source.head))
    while True:
        try:
            line = next(lines)
        except StopIteration:
            return
        except BadLineError as bad:
            yield bad
            continue
        if line.strip():
            yield _record(line, lines.number, lines.source)


def _record(line: str, number: int, source: str) -> Record | BadLineError:
    try:
        return Record(parse_object(line), number, source, line)
    except ValueError as error:
        return BadLineError(source, line, str(error))


def _of_text(line: str, number: int, source: str) -> Record | BadLineError:
    """An element that is a text, as an object that holds it alone."""
    return _record(f'{{"text": {line}}}', number, source)


def _elements(source: ByteSource, name: str, reading: Reading, *, array: bool) -> Records:
    number = 0
    for number, raw in enumerate(_reading(source, name, array), 1):
        where = f"{name}:{number}"
        if raw is None:
            limit = files.MAX_LINE // 2**20
            yield BadLineError(where, "", f"an element of more than {limit} MiB")
            continue
        try:
            element = raw.decode("utf-8")
            is_text = reading.texts and element.startswith('"')
            yield (_of_text if is_text else _record)(element, number, where)
        except UnicodeDecodeError as error:
            line = raw.decode("utf-8", "backslashreplace")
            yield BadLineError(where, line, files.not_utf8(raw, error))


def _reading(source: ByteSource, name: str, array: bool) -> Iterator[bytes | None]:
    """The elements as they stand. Raises CorpusError where the file ends within one."""
    number = 0
    try:
        for raw in elements(source.stream, array=array):
            number += 1
            yield raw
    except files.READ_ERRORS as error:
        files.fail_reading(f"{name}:{number + 1}", error)
    except ValueError as error:
        raise CorpusError(f"{name}:{number + 1}: {error}") from None

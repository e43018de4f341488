"""Plain text: one document a line."""

from __future__ import annotations

from moee_index.errors import CorpusError
from moee_index.readers.formats.records import Reading, Record, Records
from moee_index.readers.line_ends import only_returns
from moee_index.readers.lines import BadLineError, ByteSource, Lines


def read_plain(source: ByteSource, name: str, reading: Reading) -> Records:
    """One document a line; a blank line is an empty document (counted, not embedded, by build)."""
    if reading.id is not None or reading.text not in (None, "text"):
        raise CorpusError(f"{name}: plain text has no fields; leave out the field options")
    lines = Lines(source.stream, name, returns=only_returns(source.head))
    while True:
        try:
            line = next(lines)
        except StopIteration:
            return
        except BadLineError as bad:
            yield bad
            continue
        yield Record({"text": line}, lines.number, lines.source, line)

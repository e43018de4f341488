"""Which segments of an index are opened: all of them, or a run of them, where others have the rest.

Segments are counted from 0, in the order of the manifest.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from moee_index.errors import MisuseError, counted
from moee_index.text import shown

_WRITTEN = re.compile(r"(\d{1,6})(?:(-)(\d{1,6})?)?")


@dataclass(frozen=True)
class Segments:
    """Consecutive segments. last: the last of them; None: that of the index, whatever it has.

    Raises MisuseError where there can be none.
    """

    first: int
    last: int | None = None

    def __post_init__(self) -> None:
        if self.first < 0 or (self.last is not None and self.last < self.first):
            raise MisuseError(f"segments {self}: the first is 0 or more, the last no less than it")

    @classmethod
    def parse(cls, text: str) -> Segments:
        """Segments as they are written: `0-3`, `2`, `4-`. Raises MisuseError."""
        found = _WRITTEN.fullmatch(text.strip())
        if found is None:
            raise MisuseError(
                f"segments {shown(text)!r} are written as 0-3, as 2, or as 4- for 4 and all later"
            )
        first, dash, last = found.groups()
        if last is None:
            return cls(int(first), None if dash else int(first))
        return cls(int(first), int(last))

    def __str__(self) -> str:
        if self.first == self.last:
            return str(self.first)
        return f"{self.first}-{'' if self.last is None else self.last}"

    def of(self, directory: Path, count: int) -> range:
        """Their numbers in an index of `count` segments. Raises MisuseError for one it lacks."""
        last = count - 1 if self.last is None else self.last
        if last >= count or self.first >= count:
            there = "none" if not count else "0" if count == 1 else f"0-{count - 1}"
            raise MisuseError(
                f"{directory} has {counted(count, 'segment')} ({there}), so that segments {self} "
                "cannot be opened; name others"
            )
        return range(self.first, last + 1)

"""What people see on stderr: notes told once, and progress bars. Knows click and tqdm only."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import click

Progress = Callable[[int, int | None], None]


@dataclass
class Console:
    """stderr of one run. Notes are told once each; bars appear on a terminal only."""

    quiet: bool = False
    _told: set[str] = field(default_factory=set)

    def tell(self, message: str) -> None:
        """Tell a choice or a note on stderr, once."""
        if not self.quiet and message not in self._told:
            self._told.add(message)
            click.echo(message, err=True)

    @contextmanager
    def progress(self, what: str, unit: str, *, scale: bool = False) -> Iterator[Progress]:
        """A bar with done/total, rate and ETA, moved by calls (done, total or None)."""
        if self.quiet or not sys.stderr.isatty():
            yield lambda done, total: None
            return
        from tqdm import tqdm

        with tqdm(desc=what, unit=unit, unit_scale=scale, leave=False, file=sys.stderr) as bar:

            def move(done: int, total: int | None) -> None:
                bar.total = total
                bar.update(done - bar.n)

            yield move

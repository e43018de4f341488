"""What people see on stderr: notes shown once, progress bars, and no warnings of libraries.

Only click and tqdm are imported here.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TextIO

from moee_index.cli.streams import say_aside
from moee_index.types import Progress, ignore

# Variables that set how much the libraries log.
_VERBOSITY = ("TRANSFORMERS_VERBOSITY", "HF_HUB_VERBOSITY", "DATASETS_VERBOSITY")


@dataclass
class Console:
    """stderr of one run. Each note is shown once; bars appear on a terminal only."""

    quiet: bool = False
    _told: set[str] = field(default_factory=set)

    def tell(self, message: str) -> None:
        """Show a choice or a note on stderr, once."""
        if not self.quiet and message not in self._told:
            self._told.add(message)
            say_aside(message)

    @contextmanager
    def progress(self, what: str, unit: str, *, scale: bool = False) -> Iterator[Progress]:
        """A bar with done/total, rate and ETA, moved by calls (stage, done, total or None)."""
        if self.quiet or not sys.stderr.isatty():
            yield ignore
            return
        from tqdm import tqdm

        with tqdm(desc=what, unit=unit, unit_scale=scale, leave=False, file=sys.stderr) as bar:

            def move(_stage: str, done: int, total: int | None) -> None:
                bar.total = total
                bar.update(done - bar.n)

            yield move


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep the libraries' warnings and log lines off the screen, whatever filters they set.

    A warning that was asked for by `-W` or PYTHONWARNINGS is shown, or is an error, as asked, and a
    verbosity that the user has set holds.
    """
    for name in _VERBOSITY:
        os.environ.setdefault(name, "error")
    silence = logging.NullHandler()  # without any handler, Python itself writes to stderr
    logging.getLogger().addHandler(silence)
    try:
        with warnings.catch_warnings():
            if not sys.warnoptions:
                warnings.showwarning = _drop
            yield
    finally:
        logging.getLogger().removeHandler(silence)


def _drop(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """In place of `warnings.showwarning`: nobody sees it."""

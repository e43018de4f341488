"""Runs the examples of README and docs/ as a reader would, and compares what they print.

A `console` block holds commands after `$ `, each with its output below: stdout, then a last line
that begins with `Error:`; with `2>&1` everything. `$ cat FILE` writes a file that is not there yet,
so that a page can show its inputs. A `python` block runs beside those before it on the same page;
a `text` block right after it is its output. `sh` blocks show what is not run: big models, data that
are not here. `…` in an output stands for anything, on a line of its own for any lines; decimals are
compared within TOLERANCE, numbers with a unit of time or size not at all, and nothing of a block
that stands behind `<!-- varies -->`.

`python tests/examples.py` writes the outputs that differ into the pages.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from moee_index.cli import cli

ROOT = Path(__file__).parent.parent
USAGE, README = ROOT / "docs" / "usage.md", ROOT / "README.md"
# Two processors (with and without AVX512-BF16) differ by this much at most in a score of `tiny`.
TOLERANCE = 0.03

_FENCE = re.compile(r"^(<!-- varies -->\n)?```(\w+)\n(.*?)^```$", re.M | re.S)
# This checkout, and the time: no page shows them.
_OF_TODAY = re.compile(rf"{re.escape(str(ROOT))}|\d{{4}}-\d\d-\d\dT[\d:+]+")
_UNIT = r"(?:ms|s|seconds|minutes|texts/s|tokens/s|documents/s|bytes|[kMG]?B)\b"
_TOKEN = re.compile(
    rf"(?P<any>…)|(?P<masked>\d[\d,.]*\s?{_UNIT}|(?<=_ms\":\s)[\d.]+)"
    r"|(?P<decimal>[+-]?\d+\.\d+)|(?P<blank>\s+)"
)


@dataclass(frozen=True)
class Example:
    """A command or a piece of Python of a page; output: where in the page its output stands."""

    page: Path
    line: int
    language: str
    source: str
    shown: str
    output: tuple[int, int]
    varies: bool

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def examples(page: Path) -> Iterator[Example]:
    """What a page asks its reader to run, in order."""
    text = page.read_text(encoding="utf-8")
    blocks = list(_FENCE.finditer(text))
    for number, block in enumerate(blocks):
        line = text.count("\n", 0, block.start(3)) + 1
        if block[2] == "console":
            yield from _commands(page, text, block)
        elif block[2] == "python":
            after = blocks[number + 1] if number + 1 < len(blocks) else None
            if after and after[2] == "text" and not text[block.end() : after.start()].strip():
                yield Example(page, line, "python", block[3], after[3], after.span(3), False)
            else:
                yield Example(page, line, "python", block[3], "", (0, 0), True)


def _commands(page: Path, text: str, block: re.Match[str]) -> Iterator[Example]:
    for found in re.finditer(r"^\$ ((?:.*\\\n)*.*\n)((?:(?!\$ ).*\n)*)", block[3], re.M):
        line = text.count("\n", 0, block.start(3) + found.start()) + 1
        start = block.start(3)
        span = (start + found.start(2), start + found.end(2))
        command = found[1].replace("\\\n", " ")
        yield Example(page, line, "console", command, found[2], span, block[1] is not None)


def run(example: Example, names: dict[str, Any]) -> str:
    """What an example prints, run in the working directory; names: what Python has defined."""
    if example.language == "python":
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compile(example.source, str(example), "exec"), names)
        return printed.getvalue()
    words = shlex.split(example.source)
    if words[0] == "cat" and not Path(words[1]).exists():
        Path(words[1]).parent.mkdir(parents=True, exist_ok=True)
        Path(words[1]).write_text(example.shown, encoding="utf-8")
    together = words[-1] == "2>&1"
    words = words[:-1] if together else words
    target, words = _taken(words, ">")
    source, words = _taken(words, "<")
    stdin = Path(source).read_text(encoding="utf-8") if source else None
    if words[0] == "moee-index":
        result = CliRunner().invoke(cli, words[1:], input=stdin)
        out, everything = result.stdout, result.output
        errors = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
        assert bool(errors) == (result.exit_code != 0), (str(example), result.output)
    else:
        done = subprocess.run(words, capture_output=True, text=True, input=stdin, check=True)
        out, everything, errors = done.stdout, done.stdout + done.stderr, []
    if target:
        Path(target).write_text(out, encoding="utf-8")
        return ""
    return everything if together else "\n".join([out, *errors]).lstrip("\n")


def _taken(words: list[str], sign: str) -> tuple[str | None, list[str]]:
    """The file after a sign of redirection, and the words without both."""
    if sign not in words:
        return None, words
    place = words.index(sign)
    return words[place + 1], words[:place] + words[place + 2 :]


def agrees(example: Example, printed: str) -> bool:
    """Whether an output is the one that a page shows."""
    shown = _lines(example.shown)
    return (example.varies and bool(shown)) or _lines_agree(shown, _lines(printed))


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.strip("\n").splitlines()]


def _lines_agree(shown: list[str], printed: list[str]) -> bool:
    if not shown:
        return not printed
    if shown[0] == "…":
        return any(_lines_agree(shown[1:], printed[skip:]) for skip in range(len(printed) + 1))
    if not printed or not _line_agrees(shown[0], printed[0]):
        return False
    return _lines_agree(shown[1:], printed[1:])


def _line_agrees(shown: str, printed: str) -> bool:
    pattern, decimals, end = "", [], 0
    for token in _TOKEN.finditer(shown):
        pattern += re.escape(shown[end : token.start()])
        end = token.end()
        if token["decimal"]:
            decimals.append(float(token["decimal"]))
        pattern += {
            "any": ".*",
            "masked": rf"[\d,.]+(?:\s?{_UNIT})?",
            "decimal": r"([+-]?\d+\.\d+)",
            "blank": r"\s+",
        }[token.lastgroup or ""]
    found = re.fullmatch(pattern + re.escape(shown[end:]), printed)
    return found is not None and all(
        abs(float(other) - decimal) <= TOLERANCE
        for other, decimal in zip(found.groups(), decimals, strict=True)
    )


@contextlib.contextmanager
def reader(folder: Path) -> Iterator[None]:
    """At work in a folder that holds what a clone has: the corpora, and a place for indexes."""
    before = Path.cwd()
    if not (folder / "corpora").exists():
        shutil.copytree(ROOT / "corpora", folder / "corpora")
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def run_usage(folder: Path) -> Iterator[tuple[Example, str]]:
    """Every example of docs/usage.md and what it printed."""
    yield from _run(USAGE, folder)


def run_readme(folder: Path) -> Iterator[tuple[Example, str]]:
    """Every example of README, after the index that its first command builds."""
    with reader(folder):
        built = CliRunner().invoke(cli, ["build", "corpora/wikinews.jsonl"])
        assert built.exit_code == 0, built.output
    yield from _run(README, folder)


def _run(page: Path, folder: Path) -> Iterator[tuple[Example, str]]:
    names: dict[str, Any] = {"__name__": "__main__"}
    for example in examples(page):
        with reader(folder):
            printed = run(example, names)
        yield example, printed


def write(ran: Iterable[tuple[Example, str]]) -> None:
    """Put the outputs that differ into their pages."""
    changes: dict[Path, list[tuple[tuple[int, int], str]]] = {}
    for example, printed in ran:
        if not agrees(example, printed) and example.output != (0, 0):
            changes.setdefault(example.page, []).append((example.output, printed))
    for page, parts in changes.items():
        text = page.read_text(encoding="utf-8")
        for (start, stop), printed in reversed(parts):
            whole = "".join(f"{_OF_TODAY.sub('…', line)}\n" for line in _lines(printed))
            text = text[:start] + whole + text[stop:]
        page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        write(run_usage(Path(first)))
        write(run_readme(Path(second)))

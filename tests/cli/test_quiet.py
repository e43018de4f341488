"""Other libraries' warnings and log lines stay off a user's screen, except under --debug."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import warnings
from pathlib import Path

import click
import pytest
from commands import run
from paths import PARITY

from moee_index.cli import cli


@pytest.fixture
def noisy(monkeypatch: pytest.MonkeyPatch) -> str:
    """A command beneath which libraries warn, one of them past all filters."""

    @click.command("noisy")
    def command() -> None:
        warnings.warn("soon gone", FutureWarning, stacklevel=1)
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("soon gone too", DeprecationWarning, stacklevel=1)
        logging.getLogger("a.library").warning("a line of a log")
        click.echo("done")

    monkeypatch.setattr(cli, "get_command", lambda *_: command)
    return "noisy"


def test_libraries_are_not_heard(noisy: str, capfd: pytest.CaptureFixture[str]) -> None:
    logging.getLogger("a.library").propagate = True
    result = run(noisy)
    assert result.output == "done\n"
    assert capfd.readouterr().err == ""


def test_filters_and_handlers_are_as_they_were(noisy: str) -> None:
    shown, handlers = warnings.showwarning, list(logging.getLogger().handlers)
    run(noisy)
    assert warnings.showwarning is shown and logging.getLogger().handlers == handlers


def python(*args: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    environment.pop("PYTHONWARNINGS", None)
    return subprocess.run(
        [sys.executable, *args], capture_output=True, text=True, env=environment, timeout=300
    )


def test_a_query_runs_where_deprecations_are_errors(tmp_path: Path) -> None:
    corpus, index = tmp_path / "corpus.txt", tmp_path / "index"
    corpus.write_text("one text\nanother text\n")
    model = ["--model", str(PARITY / "olmoe"), "--bits", "32"]
    run("build", corpus, "--index", index, *model)
    strict = ["-W", "error:`past_key_values`:FutureWarning"]
    done = python(*strict, "-m", "moee_index", "query", "a text", "--index", str(index), "--json")
    assert done.returncode == 0 and '"hits"' in done.stdout, done.stderr
    assert "Warning" not in done.stderr


def test_debug_shows_what_libraries_say() -> None:
    code = (
        "import sys, warnings, click; from moee_index.cli import cli\n"
        "@click.command()\n"
        "def noisy(): warnings.warn('soon gone', FutureWarning)\n"
        "cli.get_command = lambda *_: noisy\n"
        "cli.main(sys.argv[1:])"
    )
    assert "soon gone" in python("-c", code, "--debug", "noisy").stderr
    assert "soon gone" not in python("-c", code, "noisy").stderr

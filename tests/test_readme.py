"""README and program agree. `python tests/test_readme.py` writes the commands' help into it."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from moee_index.cli import COMMANDS, cli

README = Path(__file__).parent.parent / "README.md"
BEGIN, END = "<!-- help: written by tests/test_readme.py -->", "<!-- end of help -->"


def help_text() -> str:
    """Every command's --help, as README shows it."""
    parts = []
    for name in COMMANDS:
        found = CliRunner().invoke(cli, [name, "--help"], terminal_width=100).output
        found = found.replace("Usage: cli ", "Usage: moee-index ", 1)
        parts.append(f"### {name}\n\n```text\n{found.strip()}\n```\n")
    return "\n".join(parts)


def test_readme_shows_the_help_of_every_command() -> None:
    text = README.read_text(encoding="utf-8")
    shown = text.partition(BEGIN)[2].partition(END)[0].strip()
    assert shown == help_text().strip(), "run: python tests/test_readme.py"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_is_described(name: str) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None and command.help
    assert f"moee-index {name}" in README.read_text(encoding="utf-8")
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{name} {parameter.name} has no help"


def test_the_two_commands_of_the_readme_are_two() -> None:
    lines = re.findall(r"^python3 -m venv .*$", README.read_text(encoding="utf-8"), re.M)
    assert len(lines) == 2
    assert "moee-index build corpora/wikinews.jsonl" in lines[0]
    assert lines[1].endswith("pytest")


def test_links_of_the_readme_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README.read_text(encoding="utf-8")):
        assert target.startswith("https://") or (README.parent / target).exists(), target


if __name__ == "__main__":
    before, _, rest = README.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    README.write_text(f"{before}{BEGIN}\n\n{help_text()}\n{END}{after}", encoding="utf-8")
    sys.exit(0)

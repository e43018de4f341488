"""README and program agree. `python tests/test_readme.py` writes the commands' help into it.

Every minor release of click may lay help out anew, so README says which one made it: with that one
it is compared to the letter, with another one for what is ours, options and sentences.
"""

from __future__ import annotations

import re
import sys
from importlib.metadata import version
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from moee_index.cli import COMMANDS, cli

README = Path(__file__).parent.parent / "README.md"
BEGIN = re.compile(r"<!-- help: written by tests/test_readme\.py with click (\d+\.\d+) -->")
END = "<!-- end of help -->"


def help_text() -> str:
    """Every command's --help, as README shows it."""
    parts = []
    for name in COMMANDS:
        found = CliRunner().invoke(cli, [name, "--help"], terminal_width=100).output
        found = found.replace("Usage: cli ", "Usage: moee-index ", 1)
        parts.append(f"### {name}\n\n```text\n{found.strip()}\n```\n")
    return "\n".join(parts)


def click_minor() -> str:
    return ".".join(version("click").split(".")[:2])


def shown_help() -> tuple[str, str]:
    """The help in README, and the minor release of click that laid it out."""
    _, minor, rest = BEGIN.split(README.read_text(encoding="utf-8"), maxsplit=1)
    return rest.partition(END)[0].strip(), minor


def own_words(name: str) -> list[str]:
    """What the help of a command says in our words: options, what they take, sentences."""
    command = cli.get_command(click.Context(cli), name)
    assert command is not None and command.help is not None
    words = [*command.help.replace("\b", "").split("\n\n")]
    for parameter in command.params:
        words += [*parameter.opts, *parameter.secondary_opts] if is_option(parameter) else []
        words += [parameter.metavar or "", getattr(parameter, "help", None) or ""]
    return [bare(each) for each in words]


def is_option(parameter: click.Parameter) -> bool:
    return isinstance(parameter, click.Option)


def bare(text: str) -> str:
    """Without white space: lines are broken anywhere, and after a hyphen too."""
    return "".join(text.split())


def test_readme_shows_the_help_of_every_command() -> None:
    shown, minor = shown_help()
    if minor == click_minor():
        assert shown == help_text().strip(), "run: python tests/test_readme.py"


@pytest.mark.parametrize("name", COMMANDS)
def test_readme_shows_what_is_ours_of_a_help_however_it_is_laid_out(name: str) -> None:
    section = bare(re.split(r"^### ", shown_help()[0], flags=re.M)[1 + list(COMMANDS).index(name)])
    assert section.startswith(name)
    assert [words for words in own_words(name) if words not in section] == []


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
    before, _, rest = BEGIN.split(README.read_text(encoding="utf-8"), maxsplit=1)
    begin = f"<!-- help: written by tests/test_readme.py with click {click_minor()} -->"
    after = rest.partition(END)[2]
    README.write_text(f"{before}{begin}\n\n{help_text()}\n{END}{after}", encoding="utf-8")
    sys.exit(0)

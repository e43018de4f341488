"""README and docs/: generated pages are up to date, examples print what is shown, links resolve.

`python docs/make.py` writes the generated pages, `python tests/examples.py` the outputs.
"""

from __future__ import annotations

import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import click
import examples
import pytest

from moee_index.backends import has_avx512bf16
from moee_index.cli import COMMANDS, cli

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
CLI = (DOCS / "cli.md").read_text(encoding="utf-8")


def made() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_docs", DOCS / "make.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


make = made()
ALL = dict(make.commands())


def test_pages_are_as_they_are_made() -> None:
    laid_out_by = re.search(r"laid out by click (\d+\.\d+)", CLI)
    assert laid_out_by is not None
    for path, text in make.pages().items():
        # Every minor release of click may lay help out anew.
        if path.name != "cli.md" or laid_out_by[1] == make.click_minor():
            assert path.read_text(encoding="utf-8") == text, "run: python docs/make.py"


# The commands


def test_every_command_has_a_section() -> None:
    shown = re.findall(r"^## (.*)$", CLI, re.M)
    assert shown == ["Model options", *ALL]
    assert [name for name in shown if name in COMMANDS] == list(COMMANDS)


@pytest.mark.parametrize("name", ALL)
def test_what_is_ours_of_a_help_is_shown_however_it_is_laid_out(name: str) -> None:
    found = bare(section(name))
    assert bare(name) in found
    if "[modeloptions]" in found:
        found += bare(section("Model options"))
    assert [words for words in own_words(ALL[name]) if words not in found] == []


def section(name: str) -> str:
    return re.split(r"^## ", CLI.partition(f"\n## {name}\n")[2], maxsplit=1, flags=re.M)[0]


def own_words(command: click.Command) -> list[str]:
    """What the help of a command says in our words: options, what they take, sentences."""
    assert command.help is not None
    words = [*command.help.replace("\b", "").split("\n\n")]
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            words += [*parameter.opts, *parameter.secondary_opts]
        words += [parameter.metavar or "", getattr(parameter, "help", None) or ""]
    return [bare(each) for each in words]


def bare(text: str) -> str:
    """Without white space: lines are broken anywhere, and after a hyphen too."""
    return "".join(text.split())


@pytest.mark.parametrize("name", ALL)
def test_every_command_and_option_is_described(name: str) -> None:
    command = ALL[name]
    assert command.help
    assert f"moee-index {name}" in CLI
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{name} {parameter.name} has no help"


# Examples


def test_examples_of_usage_print_what_is_shown(tmp_path: Path) -> None:
    ran = [held(example, printed) for example, printed in examples.run_usage(tmp_path)]
    assert len(ran) > 40


def test_examples_of_readme_print_what_is_shown(tmp_path: Path) -> None:
    if not has_avx512bf16():
        pytest.skip("its corpus is embedded in minutes where the processor lacks AVX512-BF16")
    ran = [held(example, printed) for example, printed in examples.run_readme(tmp_path)]
    assert len(ran) > 2


def held(example: examples.Example, printed: str) -> None:
    assert examples.agrees(example, printed), (
        f"{example}: {example.source}\nshown:\n{example.shown}\nprinted:\n{printed}\n"
        "run: python tests/examples.py"
    )


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        ("a  1   0.50  x\n", "a  1  0.51  x\n", True),
        ("a 1 0.50\n", "a 1 0.60\n", False),
        ("a 1 0.50\n", "a 2 0.50\n", False),
        ("took 20 ms, 1.5 MB\n", "took 3.1 ms, 80.2 MB\n", True),
        ("16-bit 256 bytes\n", "16-bit 2.1 kB\n", True),
        ('"took_ms": 17.0, "k": 1\n', '"took_ms": 3.5, "k": 1\n', True),
        ("first\n…\nlast\n", "first\nb\nc\nlast\n", True),
        ("first\n…\nlast\n", "first\nb\n", False),
        ("by …, end\n", "by anyone, end\n", True),
        ("a\n", "a\nb\n", False),
    ],
)
def test_how_outputs_are_compared(shown: str, printed: str, same: bool) -> None:
    example = examples.Example(ROOT / "README.md", 1, "console", "", shown, (0, 0), False)
    assert examples.agrees(example, printed) is same


def commands_not_run() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for block in re.findall(r"^```sh\n(.*?)^```$", text, re.M | re.S):
            for line in block.splitlines():
                if line.startswith("moee-index "):
                    yield page.name, line


@pytest.mark.parametrize(("page", "line"), list(commands_not_run()))
def test_commands_that_are_not_run_parse(page: str, line: str) -> None:
    name, *words = shlex.split(line, comments=True)[1:]
    command = ALL[name]
    if isinstance(command, click.Group) and words[0] in command.commands:
        command, words = command.commands[words[0]], words[1:]
    # Under the whole program: a command keeps the help option of the first context it is given.
    with cli.make_context("moee-index", [name]) as program:
        command.make_context(name, words, parent=program)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_fences_are_of_known_kinds(page: Path) -> None:
    fences = re.findall(r"^```(.*)$", page.read_text(encoding="utf-8"), re.M)
    assert set(fences[::2]) <= {"sh", "console", "python", "text", "json", "toml"}
    assert set(fences[1::2]) <= {""}
    # What no page runs must not look as if it were.
    if page not in (examples.README, examples.USAGE):
        assert not {"console", "python"} & set(fences)


# Where links and names lead


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(
        r"\]\(([^)]+)\)", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    ):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        linked = page.parent / path if path else page
        assert linked.exists(), target
        if anchor:
            assert anchor in anchors(linked), target


def anchors(page: Path) -> list[str]:
    """What GitHub calls the headings of a page."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    heads = re.findall(r"^#+ (.*)$", text, re.M)
    return [re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads]


@pytest.mark.parametrize(
    "page",
    ["README.md", "docs/bench.md", "docs/design.md", "docs/scale.md", "docs/usage.md"],
)
def test_files_that_pages_name_are_in_the_repository(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    modules = {
        path.name
        for room in ("moee_index", "bench", "tests")
        for path in ROOT.glob(f"{room}/**/*.py")
    }
    for name in re.findall(r"`((?:[\w/]+/)?\w+\.py)`", text):
        assert name in modules or (ROOT / name).exists(), name
    for name in re.findall(r"\bbench/scripts/[\w/]+\.py", text):
        assert (ROOT / name).exists(), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_page_names_a_path_of_the_machine_it_was_written_on(page: Path) -> None:
    assert not re.search(
        r"(?<![\w.…])/(?:tmp|home|work|root|Users)/", page.read_text(encoding="utf-8")
    )

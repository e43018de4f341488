"""The public face: every command's help, the public names, and what starting up imports."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

import click
from golden import run, write

HELP = "help.json"
IMPORTS = "imports.json"
NAMES = "names.json"
WIDTH = 100
# Releases on which it depends what a library imports.
_LIBRARIES = ("torch", "transformers", "bitsandbytes", "faiss-cpu", "numpy", "safetensors")
# Packages that our own code may name; others are imported by these.
OUR_DEPENDENCIES = {
    *("torch", "transformers", "bitsandbytes", "faiss", "mteb", "click", "numpy", "safetensors"),
    *("tqdm", "platformdirs", "pyarrow", "zstandard", "tokenizers", "huggingface_hub", "scipy"),
    *("datasets", "matplotlib", "sklearn", "pandas", "sentence_transformers", "polars"),
}
_IMPORTED = """
import sys
before = set(sys.modules)
from moee_index.cli import cli
try:
    cli(sys.argv[1:])
except SystemExit as end:
    assert not end.code, end.code
new = {name.partition(".")[0] for name in set(sys.modules) - before}
print("\\n" + " ".join(sorted(new - set(sys.stdlib_module_names))))
"""


# Help


def commands() -> list[list[str]]:
    """The words of every command, of groups and what is in them."""
    from moee_index.cli import cli

    return [[], *_below(cli, [])]


def _below(group: click.Group, words: list[str]) -> list[list[str]]:
    found = []
    with click.Context(group) as context:
        for name in group.list_commands(context):
            found.append([*words, name])
            command = group.get_command(context, name)
            if isinstance(command, click.Group):
                found += _below(command, [*words, name])
    return found


def helps() -> dict[str, str]:
    return {
        " ".join(["moee-index", *words]): run(*words, "--help", terminal_width=WIDTH).stdout
        for words in commands()
    }


def click_minor() -> str:
    return ".".join(metadata.version("click").split(".")[:2])


def options_of(text: str) -> list[str]:
    """Names of options in a help, in their order."""
    heads = re.findall(r"^ +(-[\w-].*?)(?:  |$)", text, flags=re.MULTILINE)
    return [name for head in heads for name in re.findall(r"(?<![\w-])--?[A-Za-z][\w-]*", head)]


def sentences_of(text: str) -> str:
    """A help in one line, without what click itself puts in brackets."""
    return " ".join(re.sub(r"\[[^\]]*\]", " ", " ".join(text.split())).split())


def write_helps() -> None:
    write(HELP, {"click": click_minor(), "helps": helps()})


# Names


def public_names() -> Mapping[str, list[str]]:
    import moee_index
    import moee_index.index

    return {
        "moee_index": list(moee_index.__all__),
        "moee_index.index": list(moee_index.index.__all__),
    }


# Imports


def versions() -> dict[str, str]:
    return {name: metadata.version(name) for name in _LIBRARIES}


def imported(*args: str | Path) -> list[str]:
    """Third-party packages that a command imports, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", _IMPORTED, *map(str, args)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    names = done.stdout.rstrip("\n").splitlines()[-1].split()
    return [name for name in names if name[0] != "_" and name != "moee_index"]


def query(index: Path) -> tuple[str | Path, ...]:
    return "-q", "query", "--index", index, "a plane", "--threads", "1"


def write_imports(index: Path) -> None:
    found = {"--help": imported("--help"), "query": imported(*query(index))}
    write(IMPORTS, {"versions": versions(), "imported": found})


def write_names() -> None:
    write(NAMES, public_names())

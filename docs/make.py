"""Write the pages of docs/ that are made from something else: `python docs/make.py`.

cli.md comes from the commands' --help, models.md from moee_index/model/arch/tested.json (which
`python tests/tested_architectures.py` measures), the file tree in design.md from the first
sentences of the modules, the figures in scale.md from bench/scripts/scale. A test compares them.
"""

from __future__ import annotations

import ast
import copy
import json
import re
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click

from moee_index.cli import COMMANDS, cli

DOCS = Path(__file__).parent
ROOT = DOCS.parent
TABLE = ROOT / "moee_index" / "model" / "arch" / "tested.json"

# Model options: what each of these has, with the same words.
_RUN_A_MODEL = ("build", "query", "rerank", "embed", "add", "tune", "serve", "mcp")
_WIDTH = 100

_CLI = """# Commands

<!-- Written by docs/make.py from the commands' --help, laid out by click {minor}: do not edit. -->

```text
{top}
```

## Model options

The same on every command that runs a model, below shown as `[model options]`.

```text
{model}
```

{commands}"""

_TREE = re.compile(
    r"(<!-- tree: written by docs/make\.py -->\n).*?(<!-- end of the tree -->)", re.S
)

_FIGURES = re.compile(
    r"(<!-- figures: written by docs/make\.py -->\n).*?(<!-- end of the figures -->)", re.S
)

_MODELS = """# Models

<!-- Written by docs/make.py from moee_index/model/arch/tested.json, which `python
tests/tested_architectures.py` measures: do not edit. -->

Every decoder with routers in transformers {version}, alone or as the text of a multi-modal
checkpoint, made as a tiny random checkpoint and compared, each text alone and in batches of quite
different lengths. The tests repeat this for those kinds of the table that the installed
transformers has. What a newer transformers has beyond the table is tried in the tests and named in
their summary; `moee-index info` names it too, and its models load like all others, with a note.

Largest differences are relative to the largest element, HS / RW:

- *32 bits*: against transformers' own forward and what it records of its routers.
- *4 bits, exact*: against the same with weights that bitsandbytes rounded, so nothing is misplaced.
- *4 bits*: median cosine to 32 bits. Random matrices of 64 columns are a hard case (9 % error each)
  and near-ties between eight random experts fall the other way: it says nothing of trained models.
- *sigmoid*: whether the router turns its logits into scores by a sigmoid, so that `--rw sigmoid`
  can be had beside `logits` and `softmax`. All are of its logits for all experts, before a bias
  that corrects the choice. Layers that run several times (`inkling2_loop`) count each time.
- *shared*: whether a prompt's beginning is computed once for many texts (not where layers keep
  windows, states or convolutions).
- *16 bits*: matrices that stay so beside embeddings, norms, routers, biases and convolutions.

| `model_type` | 32 bits | 4 bits, exact | 4 bits | sigmoid | shared | 16 bits |
|---|---|---|---|---|---|---|
{rows}
"""


def models_page(table: Mapping[str, Any]) -> str:
    """docs/models.md of the table of tested architectures."""
    rows = [f"| {_name(row)} | {_told(row)}" for row in table["architectures"].values()]
    return _MODELS.format(version=table["transformers"], rows="\n".join(rows))


def _name(row: Mapping[str, Any]) -> str:
    whole = row["multi_modal"]
    text = ", ".join(f"`{kind}`" for kind in row["kinds"] if kind not in whole)
    parts = [text] if text else []
    if whole:
        parts.append("text of " + ", ".join(f"`{kind}`" for kind in whole))
    return "; ".join(parts)


def _told(row: Mapping[str, Any]) -> str:
    if row["refused"] is not None:
        return f"refused: {row['refused']} | | | | | |"
    exact, rounded = (
        " / ".join("0" if value == 0 else f"{value:.0e}" for value in row[column])
        for column in ("float32", "rounded")
    )
    cosine = " / ".join(f"{value:.2f}" for value in row["cosine"])
    said = ["yes" if row[column] else "no" for column in ("sigmoid", "shared")]
    left = ", ".join(f"`{name}`" for name in row["in_16_bits"])
    return " | ".join([exact, rounded, cosine, *said, left]) + " |"


def click_minor() -> str:
    """The release of click, whose minor releases may each lay help out anew."""
    return ".".join(version("click").split(".")[:2])


def cli_page() -> str:
    """docs/cli.md of the commands' help."""
    shared = model_options()
    sections = []
    for name, command in commands():
        sections.append(f"## {name}\n\n```text\n{_help(name, command, shared)}\n```\n")
    return _CLI.format(
        minor=click_minor(),
        top=_help("", cli, []),
        model=_options(shared),
        commands="\n".join(sections),
    )


def commands() -> Iterator[tuple[str, click.Command]]:
    """Every command with its name, groups before their own commands."""
    for name in COMMANDS:
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        yield name, command
        if isinstance(command, click.Group):
            for inner in sorted(command.commands):
                yield f"{name} {inner}", command.commands[inner]


def model_options() -> list[click.Parameter]:
    """The options that all commands which run a model share."""
    found = dict(commands())
    shared = set.intersection(*({_said(p) for p in found[name].params} for name in _RUN_A_MODEL))
    return [p for p in found[_RUN_A_MODEL[0]].params if _said(p) in shared]


def _said(parameter: click.Parameter) -> tuple[Any, ...]:
    return (*parameter.opts, *parameter.secondary_opts, getattr(parameter, "help", None))


def _help(name: str, command: click.Command, shared: list[click.Parameter]) -> str:
    """A command's help, its model options left out if it has them all but a few."""
    known = {_said(parameter) for parameter in shared}
    own = [parameter for parameter in command.params if _said(parameter) not in known]
    runs_a_model = len(command.params) - len(own) > len(shared) // 2
    shown = copy.copy(command)
    if runs_a_model:
        shown.params = own
    context = _context(shown, f"moee-index {name}".strip())
    text = shown.get_help(context).strip()
    if runs_a_model:
        text = text.replace("[OPTIONS]", "[OPTIONS] [model options]", 1)
    return "\n".join(line.rstrip() for line in text.splitlines())


def _options(parameters: list[click.Parameter]) -> str:
    context = _context(cli, "moee-index")
    formatter = context.make_formatter()
    records = [record for p in parameters if (record := p.get_help_record(context)) is not None]
    with formatter.section("Model options"):
        formatter.write_dl(records)
    return "\n".join(line.rstrip() for line in formatter.getvalue().strip().splitlines())


def _context(command: click.Command, name: str) -> click.Context:
    return click.Context(
        command,
        info_name=name,
        terminal_width=_WIDTH,
        max_content_width=_WIDTH,
        help_option_names=["-h", "--help"],
    )


def design_page() -> str:
    """docs/design.md with its file tree made anew."""
    text = (DOCS / "design.md").read_text(encoding="utf-8")
    tree = "\n".join(line for room in ("moee_index", "bench", "tests") for line in _tree(room))
    return _TREE.sub(lambda found: f"{found[1]}```text\n{tree}\n```\n{found[2]}", text)


def _tree(room: str) -> Iterator[str]:
    """A room's folders and modules, indented, each with the first sentence of its docstring."""
    yield _branch(f"{room}/", 0, ROOT / room / "__init__.py")
    yield from _below(ROOT / room, 1)


def _below(folder: Path, depth: int) -> Iterator[str]:
    inside = [path for path in folder.iterdir() if path.name not in _NOT_SHOWN]
    for path in sorted(inside, key=_place):
        if path.is_dir() and any(path.rglob("*.py")):
            yield _branch(f"{path.name}/", depth, path / "__init__.py")
            yield from _below(path, depth + 1)
        elif path.suffix == ".py" and path.name != "__init__.py":
            yield _branch(path.name, depth, path)


def _place(path: Path) -> tuple[bool, int, str]:
    """Files before folders, folders in the order of _ROOMS and others after them, by name."""
    room = _ROOMS.index(path.name) if path.name in _ROOMS else len(_ROOMS)
    return path.is_dir(), room if path.parent.name == "moee_index" else 0, path.name


# The package's folders in the order in which a text passes them.
_ROOMS = ("readers", "encode", "model", "reranking", "index", "tune", "export", "serve", "cli")
_NOT_SHOWN = {"__pycache__", "results", "data"}
_COLUMN = 30
_LONGEST = 100


def _branch(name: str, depth: int, module: Path) -> str:
    label = "  " * depth + name
    return f"{label:<{_COLUMN}}{_first_sentence(module)}".rstrip()


def _first_sentence(module: Path) -> str:
    if not module.exists():
        return ""
    said = ast.get_docstring(ast.parse(module.read_text(encoding="utf-8"))) or ""
    sentence = " ".join(said.partition("\n\n")[0].split())
    first = re.split(r"(?<=[^A-Z.]\.) (?=[A-Z`])|: (?=`python)", sentence)[0].rstrip(".:")
    # A long one up to its first colon or semicolon.
    return first if len(first) <= _LONGEST else re.split(r"[:;] ", first)[0]


def scale_page() -> str:
    """docs/scale.md with its figures reckoned anew."""
    scripts = str(ROOT / "bench" / "scripts" / "scale")
    if scripts not in sys.path:
        sys.path.append(scripts)
    from scale_tables import Setting, figures

    text = (DOCS / "scale.md").read_text(encoding="utf-8")
    made = figures(Setting())
    return _FIGURES.sub(lambda found: f"{found[1]}\n{made}\n\n{found[2]}", text)


def pages() -> dict[Path, str]:
    """Every page that is made, and its text."""
    table = json.loads(TABLE.read_text(encoding="utf-8"))
    return {
        DOCS / "cli.md": cli_page(),
        DOCS / "design.md": design_page(),
        DOCS / "models.md": models_page(table),
        DOCS / "scale.md": scale_page(),
    }


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")

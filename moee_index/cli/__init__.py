"""The command line: parse, call one library function, print.

This module knows the commands' names and turns errors into exit statuses; a command's own module
is imported only when it runs or its help is asked for. Nothing here imports torch, transformers,
FAISS or numpy.
"""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from importlib import import_module
from typing import Any

import click

from moee_index import __version__
from moee_index.cli.console import Console, quiet_libraries
from moee_index.cli.streams import prepare_streams, say_aside
from moee_index.errors import MoeeIndexError

COMMANDS = {
    "build": "read a corpus, embed it, write an index",
    "query": "search an index",
    "rerank": "order candidate lists for their queries",
    "embed": "print or save the vectors themselves",
    "info": "what an index holds, or what this program finds on this machine",
    "list": "documents by their metadata, without a query",
    "add": "add documents to an index",
    "sync": "make an index what its corpus is",
    "delete": "delete documents from an index",
    "reindex": "rebuild standardizer and FAISS files, without the model",
    "compact": "rewrite an index without what was deleted",
    "export": "vectors and documents as Parquet, JSON lines or npy",
    "tune": "choose the weight of RW for an index",
    "verify": "check the files of an index",
    "bench": "evaluate a model on MTEB; reports, analyses",
    "serve": "answer over HTTP, with model and indexes warm",
    "mcp": "indexes as tools of an assistant (Model Context Protocol)",
    "quantize": "write a 4-bit checkpoint of a model",
}
# A module `list` would hide the built-in of that name here.
_MODULES = {"list": "listing"}

INTERRUPTED = 130


class LazyGroup(click.Group):
    """A group whose commands are imported on use, with one mapping of errors to exit statuses."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = _MODULES.get(cmd_name, cmd_name)
        command = import_module(f"moee_index.cli.{module}").command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def main(self, args: Sequence[str] | None = None, *more: Any, **options: Any) -> Any:
        options["standalone_mode"] = False
        options.setdefault("prog_name", "moee-index")
        prepare_streams()
        debug = "--debug" in (sys.argv[1:] if args is None else args)
        with nullcontext() if debug else quiet_libraries():
            status = self._run(args, more, options, debug)
        sys.exit(status)

    def _run(
        self, args: Sequence[str] | None, more: tuple[Any, ...], options: Any, debug: bool
    ) -> int:
        try:
            status = super().main(args, *more, **options)
        except MoeeIndexError as error:
            if debug:
                raise
            return _fail(str(error), error.exit_status)
        except click.exceptions.Exit as wish:
            return wish.exit_code
        except (click.Abort, KeyboardInterrupt):
            return _fail("interrupted; what was done so far is kept", INTERRUPTED)
        except click.UsageError as error:
            return _misuse(error)
        except click.ClickException as error:
            return _fail(error.format_message(), error.exit_code)
        except MemoryError:
            if debug:
                raise
            return _fail("out of memory; use a smaller --batch-tokens", 1)
        except OSError as error:
            if debug:
                raise
            where = f"{error.filename}: " if error.filename else ""
            return _fail(f"{where}{error.strerror or error}; check the path and try again", 1)
        except Exception as error:
            if debug:
                raise
            return _fail(_unexpected(error), 1)
        return status if isinstance(status, int) else 0


def _misuse(error: click.UsageError) -> int:
    """What click prints for a wrong command line, but the last line, which is ours."""
    if error.ctx is not None:
        say_aside(f"{error.ctx.get_usage()}\nTry '{error.ctx.command_path} --help' for help.\n")
    return _fail(error.format_message(), error.exit_code)


def _unexpected(error: Exception) -> str:
    """What to say of an error that nobody thought of, and of newer libraries it may come from."""
    from moee_index.dependencies import newer_than_tested

    said = (
        f"unexpected {type(error).__name__}: {error}; run again with `moee-index --debug …` and "
        "report it"
    )
    if newer := newer_than_tested():
        said += f"; newer than what this version was tested with: {', '.join(newer)}"
    return said


def _fail(message: str, status: int) -> int:
    say_aside(f"Error: {' '.join(message.split())}")
    return status


@click.group(
    cls=LazyGroup,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "auto_envvar_prefix": "MOEE_INDEX",
        "max_content_width": 100,
    },
)
@click.version_option(__version__, "--version", prog_name="moee-index")
@click.option("-q", "--quiet", is_flag=True, help="No notes and no progress bars on stderr.")
@click.option("--debug", is_flag=True, help="Show tracebacks and the libraries' warnings.")
@click.pass_context
def cli(ctx: click.Context, quiet: bool, debug: bool) -> None:
    """Training-free semantic search with 4-bit Mixture-of-Experts language models.

    A text's hidden state (HS) and routing weights (RW) go into two FAISS indexes; a query is
    answered by sim_HS + α·sim_RW (MoEE, Li & Zhou, ICLR 2025).

    Every option can be given as an environment variable MOEE_INDEX_<COMMAND>_<OPTION>;
    MOEE_INDEX_MODEL sets the model for all commands.
    """
    ctx.obj = Console(quiet=quiet)


class _QuickEnd:
    """Ends the process at once when all has been done, in place of taking apart, for up to a
    second, what was imported. Registered first, so that it runs after all others at the exit."""

    status: int | str | None = None

    def __call__(self) -> None:
        if not isinstance(self.status, int):
            return  # an error that nobody caught: Python tells it in its own way
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        except (OSError, ValueError):
            return  # told and turned into an exit status by Python
        os._exit(self.status)


def main() -> None:
    """Entry point of the console script."""
    end = _QuickEnd()
    atexit.register(end)
    try:
        cli.main()
    except SystemExit as leaving:
        end.status = leaving.code
        raise

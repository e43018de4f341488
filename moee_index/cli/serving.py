"""What `serve` and `mcp` share on the command line: which indexes, and with which models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.core import ParameterSource

from moee_index.cli.console import Console
from moee_index.cli.options import MODEL_KEYS, encoder_class, load_encoder, load_encoder_of
from moee_index.errors import MisuseError

if TYPE_CHECKING:
    from moee_index.serve.server import Models
    from moee_index.serve.settings import Limits

F = TypeVar("F", bound=Callable[..., Any])


def name_option(about: str) -> Callable[[F], F]:
    """--name, as `named`."""
    return click.option(
        "--name",
        "named",
        multiple=True,
        metavar="N=DIR",
        help=f"{about} [default: a directory's own name]",
    )


def with_batch_tokens(limits: Limits, options: dict[str, Any]) -> Limits:
    """Limits with the --batch-tokens that were asked for; the models' options then have the same,
    asked for or not."""
    if options["batch_tokens"] is not None:
        limits = replace(limits, batch_tokens=options["batch_tokens"])
    options["batch_tokens"] = limits.batch_tokens
    return limits


def check_no_model_options(option: str) -> None:
    """Raises MisuseError where an option of the model is on a command line that loads none for
    another option."""
    context = click.get_current_context()
    for key in MODEL_KEYS:
        if context.get_parameter_source(key) is ParameterSource.COMMANDLINE:
            flag = key.replace("_", "-")
            raise MisuseError(f"--{flag} is for a model, and with {option} none is loaded")


def models_of(console: Console, options: dict[str, Any]) -> Models:
    """How a server's models are loaded."""
    from moee_index.serve.server import Models

    encoder_class()  # before the server is there, whose thread would else import it
    return Models(
        default=lambda: load_encoder(console, options),
        of_index=lambda index: load_encoder_of(console, index, options, few_texts=False),
    )

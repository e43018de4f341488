"""The options of an encoder settled: as requested, else the checkpoint's own, else the defaults.

A value that makes no sense is told where it comes from: the command line, or `moee_index.json`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import Field, dataclass, fields
from typing import Any

from moee_index.encode.prompts import parse_prompt
from moee_index.errors import MisuseError, ModelError
from moee_index.fusion import finite_number
from moee_index.model.checkpoint.find import DEFAULTS_FILE, LANGUAGE_KEY, LEXICAL_KEY, Checkpoint
from moee_index.model.checkpoint.text_config import is_count, positions
from moee_index.text import shown
from moee_index.types import EncoderOptions

_PROMPTS = ("prompt", "query_prompt")


def resolve_options(
    checkpoint: Checkpoint, requested: Mapping[str, Any], *, built: bool = False
) -> EncoderOptions:
    """Options as requested, else the checkpoint's, else the defaults. requested: None where an
    option is left open. built: they are those of an index, which stays as it was built.

    Raises MisuseError, ModelError for a value in `moee_index.json`, and TypeError for an unknown
    option.
    """
    if unknown := sorted(set(requested) - set(EncoderOptions.names())):
        raise TypeError(f"unknown encoder option {unknown[0]!r}")
    chosen = dict[str, Any]()
    for field in fields(EncoderOptions):
        value = requested.get(field.name)
        if value is None or value == "":
            value = _own(checkpoint, field)
        elif fault := _fault(field, value):
            raise MisuseError(f"--{_flag(field)} {fault}")
        chosen[field.name] = value
    chosen["prompt"] = parse_prompt(chosen["prompt"]).name
    # A prompt given for all texts also holds for queries, whatever the checkpoint says of them.
    if requested.get("prompt") is not None and not requested.get("query_prompt"):
        chosen["query_prompt"] = None
    chosen["query_prompt"] = parse_prompt(chosen["query_prompt"] or chosen["prompt"]).name
    if not built:
        chosen["max_tokens"] = _within_positions(checkpoint, chosen["max_tokens"], requested)
    if chosen["bits"] != 4:
        chosen["double_quant"] = False
    elif checkpoint.quantization is not None and requested.get("double_quant") is None:
        chosen["double_quant"] = bool(checkpoint.quantization.get("double_quant"))
    return EncoderOptions(**chosen)


def _own(checkpoint: Checkpoint, field: Field[Any]) -> Any:
    """The checkpoint's value of an option, else the default."""
    said = checkpoint.defaults
    if _flag(field) not in said:
        return field.metadata["default"]
    value = said[_flag(field)]
    if value is None and field.metadata["default"] is None:
        return None
    if fault := _fault(field, value):
        raise ModelError(f"{checkpoint.path / DEFAULTS_FILE}: {_flag(field)!r} {fault}")
    return value


@dataclass(frozen=True)
class IndexDefaults:
    """What a checkpoint says of the indexes that are built with it; it decides no embedding.
    lexical: how much words weigh in a search; language: whose words are stemmed, None where it
    says nothing."""

    lexical: float = 0.0
    language: str | None = None

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> IndexDefaults:
        """Raises ModelError for values in `moee_index.json` that make no sense."""
        return cls(_lexical_weight(checkpoint), _language(checkpoint))


def _lexical_weight(checkpoint: Checkpoint) -> float:
    """How much words weigh by default in indexes of this checkpoint, from 0 (nothing, unless it
    says so) to 1. Raises ModelError for anything else in `moee_index.json`."""
    value = checkpoint.defaults.get(LEXICAL_KEY, 0.0)
    weight = finite_number(value)
    if weight is None or not 0 <= weight <= 1:
        raise ModelError(
            f"{checkpoint.path / DEFAULTS_FILE}: {LEXICAL_KEY!r} {shown(str(value))} must be a "
            "number from 0 to 1"
        )
    return weight


def _language(checkpoint: Checkpoint) -> str | None:
    """The language whose words indexes of this checkpoint stem by default; None where it says
    nothing. Raises ModelError for what is no text in `moee_index.json`; which languages there are
    is the index's to know."""
    value = checkpoint.defaults.get(LANGUAGE_KEY)
    if value is not None and not isinstance(value, str):
        raise ModelError(
            f"{checkpoint.path / DEFAULTS_FILE}: {LANGUAGE_KEY!r} {shown(str(value))} must be a "
            'language\'s code, such as "en"'
        )
    return value


def _flag(field: Field[Any]) -> str:
    return field.name.replace("_", "-")


def _fault(field: Field[Any], value: Any) -> str | None:
    """What is wrong with a value, to follow the option's name; None where nothing is."""
    about, told = field.metadata, shown(str(value))
    if field.name in _PROMPTS:
        if not isinstance(value, str):
            return f"{told} is not text"
        try:
            parse_prompt(value)
        except MisuseError as error:
            return str(error).removeprefix("--prompt ")
    elif "choices" in about:
        if value not in about["choices"] or isinstance(value, bool):
            return f"{told} is unknown; known: {', '.join(map(str, about['choices']))}"
    elif "least" in about:
        if not is_count(value):
            return f"{told} must be an integer"
        if value < about["least"]:
            return f"{told} must be at least {about['least']}"
    return None


def _within_positions(checkpoint: Checkpoint, tokens: int, requested: Mapping[str, Any]) -> int:
    """`max_tokens`, which the model has positions for; the default where it has fewer is all that
    it has."""
    most = positions(checkpoint.config)
    if most is None or tokens <= most:
        return tokens
    where = f"max_position_embeddings of {checkpoint.path / 'config.json'}"
    if requested.get("max_tokens") is not None:
        raise MisuseError(
            f"--max-tokens {tokens} is more than the {most} positions that the model has "
            f"({where}); take at most {most}"
        )
    if "max-tokens" in checkpoint.defaults:
        raise ModelError(
            f"{checkpoint.path / DEFAULTS_FILE}: 'max-tokens' {tokens} is more than the {most} "
            f"positions that the model has ({where}); lower it"
        )
    return most


def check_count(flag: str, value: object) -> None:
    """Raises MisuseError for what is neither left open (None) nor a whole number above 0."""
    if value is not None and not (is_count(value) and value >= 1):
        raise MisuseError(f"{flag} is {value!r}; it must be a whole number, at least 1")

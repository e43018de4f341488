"""Options that several commands share, as decorators, and how they become an encoder.

The library is imported inside functions only, so that `--help` stays quick.
"""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import Field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from moee_index.cli.console import Console
from moee_index.text import shown, text_fault
from moee_index.types import EncoderOptions, Progress

if TYPE_CHECKING:
    from moee_index.encode.encoder import Encoder
    from moee_index.index import Index, Indexes
    from moee_index.index.workers.start import Workers
    from moee_index.readers.corpus import CorpusReader, Reject
    from moee_index.readers.folder import Passed
    from moee_index.serve.client import Remote
    from moee_index.serve.searchable import Searchable

F = TypeVar("F", bound=Callable[..., Any])

METHODS = ("sum", "concat", "hs", "rw")
STANDARDIZE = ("both", "rw", "hs", "none")


class TextType(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """Text: what the command line holds as UTF-8, whatever the locale is."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        with contextlib.suppress(UnicodeError):
            value = os.fsencode(value).decode("utf-8") if text_fault(value) else value
        if fault := text_fault(value):
            self.fail(f"{value!r} {fault}; give it as UTF-8", param, ctx)
        return str(value)


TEXT = TextType()


class PromptType(TextType):
    """A prompt: text, blanks included. In an environment variable several are one per line."""

    name = "prompt"
    envvar_list_splitter = "\n"


def _encoder_option(option: Field[Any], many_prompts: bool) -> Callable[[F], F]:
    """The option of a field of EncoderOptions: None where it is not given."""
    about, flag = option.metadata, "--" + option.name.replace("_", "-")
    if option.name == "prompt":
        text = ("May be given several times. " if many_prompts else "") + about["help"]
        return click.option(
            flag, metavar=about["metavar"], type=PromptType(), multiple=many_prompts, help=text
        )
    if isinstance(about["default"], bool):
        return click.option(f"{flag}/--no-{flag[2:]}", default=None, help=about["help"])
    kind: click.ParamType | None = None  # type: ignore[type-arg,unused-ignore]
    if "choices" in about:
        kind = click.Choice([str(choice) for choice in about["choices"]])
    elif "least" in about:
        kind = click.IntRange(min=about["least"])
    return click.option(flag, type=kind or TEXT, metavar=about.get("metavar"), help=about["help"])


def model_options(command: str, *, many_prompts: bool = False) -> Callable[[F], F]:
    """The options of the model, the same on every command that runs one.

    many_prompts: --prompt may be given several times and comes as a tuple.
    """
    options = [
        click.option(
            "--model",
            metavar="NAME|PATH",
            envvar=[f"MOEE_INDEX_{command.upper()}_MODEL", "MOEE_INDEX_MODEL"],
            help="Checkpoint directory or hub id, such as allenai/OLMoE-1B-7B-0924. "
            "[default: the bundled tiny, or the index's]",
        ),
        click.option("--revision", metavar="R", help="Revision on the hub. [default: the newest]"),
        *(_encoder_option(option, many_prompts) for option in fields(EncoderOptions)),
        click.option(
            "--batch-tokens",
            type=click.IntRange(min=1),
            metavar="N",
            help="Tokens in a batch, padding included. [default: chosen and told]",
        ),
        click.option(
            "--threads",
            type=click.IntRange(min=1),
            metavar="N",
            help="Threads of torch and FAISS. [default: chosen and told]",
        ),
        click.option(
            "--device",
            default="auto",
            metavar="auto|cpu|cuda[:N]",
            help="Where the model runs. [default: auto]",
        ),
        click.option(
            "--offline", is_flag=True, help="Never ask the hub; its cache and directories only."
        ),
        click.option(
            "--no-cache",
            is_flag=True,
            help="Do not keep the 4-bit form of a large model in MOEE_INDEX_CACHE.",
        ),
    ]

    def decorate(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


MODEL_KEYS = (
    "model",
    "revision",
    *EncoderOptions.names(),
    "batch_tokens",
    "threads",
    "device",
    "offline",
    "no_cache",
)


def split_model_options(given: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(the model's options, the rest) of a command's keyword arguments."""
    model = {key: given[key] for key in MODEL_KEYS}
    # A flag that is on unless given means another thing in every release of click.
    model["cache"] = not model.pop("no_cache")
    for option in fields(EncoderOptions):
        if isinstance(option.metadata["default"], int) and "choices" in option.metadata:
            value = model[option.name]
            model[option.name] = int(value) if value is not None else None
    return model, {key: value for key, value in given.items() if key not in MODEL_KEYS}


def search_options(function: F) -> F:
    """--method, --alpha: how two similarities become a score."""
    function = click.option(
        "--alpha",
        type=float,
        metavar="A",
        help="Weight of RW in `sum`, 0 or more. [default: the index's, else 1.0]",
    )(function)
    return click.option(
        "--method",
        type=click.Choice(METHODS),
        default="sum",
        show_default=True,
        help="sum: sim_HS + α·sim_RW (MoEE); concat: cosine of both joined; hs or rw: one alone.",
    )(function)


def lexical_options(function: F) -> F:
    """--lexical, --k1, --b: how much words count beside vectors."""
    for option in (
        click.option(
            "--b",
            type=float,
            default=0.75,
            show_default=True,
            metavar="B",
            help="How much BM25 minds the length of a document, 0 to 1.",
        ),
        click.option(
            "--k1",
            type=float,
            default=1.2,
            show_default=True,
            metavar="K1",
            help="How much BM25 minds a word that is repeated, 0 or more.",
        ),
        click.option(
            "--lexical",
            type=float,
            metavar="W",
            help="Weight of words (BM25) in the score: from 0, vectors alone, to 1, words alone, "
            "for which no model is loaded. [default: the index's, else 0]",
        ),
    ):
        function = option(function)
    return function


class NamesType(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """Names of fields, between commas; none where it is empty."""

    name = "names"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, ...]:
        return value if isinstance(value, tuple) else tuple(value.split(",") if value else ())


def filter_option(about: str) -> Callable[[F], F]:
    """--filter, as `condition`."""
    return click.option("--filter", "condition", type=TEXT, metavar="EXPR", help=about)


def recall_option(about: str) -> Callable[[F], F]:
    """--recall."""
    return click.option("--recall", type=float, metavar="R", help=about)


def corpus_options(function: F) -> F:
    """--id-field and the other options of how a corpus is read; they come as CORPUS_KEYS."""
    for option in reversed(_CORPUS_OPTIONS):
        function = option(function)
    return function


_CORPUS_OPTIONS: tuple[Callable[[Any], Any], ...] = (
    click.option("--id-field", metavar="F", help="Field that holds the id. [default: id or _id]"),
    click.option("--text-field", metavar="F", help="Field that holds the text. [default: text]"),
    click.option(
        "--metadata",
        type=NamesType(),
        metavar="F,F…",
        help="Keep these of the other fields. [default: all]",
    ),
    click.option(
        "--metadata-except",
        type=NamesType(),
        default="",
        metavar="F,F…",
        help="Keep all other fields but these.",
    ),
    click.option(
        "--format",
        type=click.Choice(["jsonl", "json", "csv", "tsv", "parquet", "txt"]),
        help="What the files are, whatever their names say. [default: by their names; stdin jsonl]",
    ),
    click.option(
        "--no-header",
        is_flag=True,
        help="CSV and TSV: the first line is a document; --columns names the fields.",
    ),
    click.option(
        "--columns",
        type=NamesType(),
        metavar="F,F…",
        help="CSV and TSV: the fields' names in their order; one left empty is passed over.",
    ),
    click.option(
        "--delimiter",
        metavar="C",
        help="CSV and TSV: what is between fields, `tab` for a tab. [default: by the name]",
    ),
    click.option(
        "--quoting",
        type=click.Choice(["standard", "none"]),
        help="CSV and TSV: whether quotation marks quote. [default: standard; for TSV none unless "
        "the header is quoted]",
    ),
    click.option(
        "--glob",
        multiple=True,
        type=TEXT,
        metavar="PATTERN",
        help="Folders: read the files whose paths match, as in .gitignore, each as a document. May "
        "be given several times.",
    ),
    click.option(
        "--csv-types",
        type=click.Choice(["auto", "text"]),
        default="auto",
        show_default=True,
        help="CSV and TSV: whether filters read texts that spell a number (7, 2.5; not 007) as one "
        "where they compare with a number.",
    ),
    click.option(
        "--on-bad",
        type=click.Choice(["error", "skip"]),
        default="error",
        show_default=True,
        help="Stop at a line that cannot be used, or write it to <index>/rejected.jsonl and go on.",
    ),
)
CORPUS_KEYS = (
    *("id_field", "text_field", "metadata", "metadata_except", "format", "no_header", "columns"),
    *("delimiter", "quoting", "glob", "csv_types", "on_bad"),
)


def split_corpus_options(given: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(how the corpus is read, as `read_corpora` takes it; the rest) of a command's arguments."""
    reading = {key: given[key] for key in CORPUS_KEYS}
    reading["header"] = not reading.pop("no_header")
    return reading, {key: value for key, value in given.items() if key not in CORPUS_KEYS}


class CorpusFiles:
    """The corpora of a command line: opened again for each reading, with its progress."""

    def __init__(
        self, console: Console, paths: tuple[str, ...], reading: Mapping[str, Any]
    ) -> None:
        from moee_index.readers.corpus import read_corpora

        def read(reject: Reject | None = None, passed: Passed | None = None) -> CorpusReader:
            self._latest = read_corpora(
                paths, **reading, reject=reject, passed=passed, notify=console.tell
            )
            return self._latest

        self._paths = paths
        self.read = read
        # A wrong path is reported before the model is loaded.
        read().close()

    def check_read_twice(self, what: str) -> None:
        """Raises UsageError for stdin and for pipes, which can be read only once. what: that
        cannot be done with them."""
        for path in self._paths:
            file = Path(path)
            if path == "-" or not (file.is_file() or file.is_dir()):
                name = "stdin" if path == "-" else shown(path)
                raise click.UsageError(
                    f"{name} cannot be {what}, for the corpus is read more than once; save it in "
                    "a file"
                )

    @contextmanager
    def progress(self, console: Console) -> Iterator[Progress]:
        """The progress of a build or an add, as a bar on stderr."""
        with console.progress("embedding", "documents") as move:

            def moved(stage: str, done: int, total: int | None) -> None:
                move(
                    stage, done, total if stage != "embedding" else self._latest.documents_expected
                )

            yield moved


def language_option(default: str | None, told: str) -> Callable[[F], F]:
    """--language: how the words of documents are stemmed."""
    return click.option(
        "--language",
        default=default,
        metavar="none|CODE",
        help="Stem words in this language (en, de, fr, …), so that `run` finds `running`. "
        f"[default: {told}]",
    )


def worker_options(function: F) -> F:
    """--workers and --ray: several processes that embed, as `workers_of` takes them."""
    for option in (
        click.option(
            "--ray",
            is_flag=False,
            flag_value="",
            metavar="[ADDRESS]",
            help="Embed by actors of a Ray cluster, HOST:PORT or the one of this machine, as many "
            "as --workers says. [default: one a GPU, else one a node]",
        ),
        click.option(
            "--workers",
            type=click.IntRange(min=1),
            metavar="N",
            help="Embed by N processes, each with the model and its share of the processors. "
            "[default: this process alone]",
        ),
    ):
        function = option(function)
    return function


def workers_of(given: dict[str, Any], options: Mapping[str, Any]) -> Workers | None:
    """Takes --workers and --ray out of a command's arguments; None for this process alone.
    options: the model's."""
    count, ray = given.pop("workers"), given.pop("ray")
    if count is None and ray is None:
        return None
    from moee_index.index.workers.start import Workers

    return Workers(count, ray, options["threads"])


def server_option(function: F) -> F:
    """--server: a running server in place of a model loaded here."""
    return click.option(
        "--server",
        metavar="URL",
        help="Ask a running moee-index serve, which has model and index warm. [default: that of "
        "MOEE_INDEX_SERVER, where it serves the same]",
    )(function)


def json_option(function: F) -> F:
    """--json: one object a line on stdout."""
    return click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")(
        function
    )


def hit_output_options(function: F) -> F:
    """--json and --trec, for commands that print hits."""
    function = click.option("--trec", is_flag=True, help="A TREC run.")(function)
    return json_option(function)


def load_encoder(console: Console, options: dict[str, Any]) -> Encoder:
    """Load the model that the options name, showing what was chosen."""
    found = encoder_class()
    tell_bundled(console, options)
    with console.progress("loading", "B", scale=True) as progress:
        return found.load(**options, notify=console.tell, progress=progress)


def encoder_class() -> type[Encoder]:
    """The Encoder, imported with all that it needs. That stays until the process ends, so Python
    need not look through it for garbage again and again."""
    from moee_index.backends import collector_paused

    with collector_paused():
        from moee_index.encode.encoder import Encoder
    gc.freeze()
    return Encoder


def tell_bundled(console: Console, options: dict[str, Any]) -> None:
    """Say what the bundled model is for, where it is the one that the options name."""
    from moee_index.model.checkpoint.find import BUNDLED

    if options["model"] is None or options["model"] == BUNDLED:
        console.tell(
            "model: the bundled `tiny`, distilled from all-MiniLM-L6-v2: it shows the program, not "
            "the paper's method; for that take --model allenai/OLMoE-1B-7B-0924, "
            "Qwen/Qwen1.5-MoE-A2.7B or deepseek-ai/deepseek-moe-16b-base"
        )


def load_encoder_of(
    console: Console,
    index: Index | Indexes | Searchable,
    options: dict[str, Any],
    *,
    few_texts: bool = True,
) -> Encoder:
    """Load the model that an index was built with; refuses contradicting options. few_texts:
    whether it is for a few texts at a time, as queries are."""
    found = encoder_class()
    with console.progress("loading", "B", scale=True) as progress:
        encoder = found.for_spec(
            index.located_spec(),
            **options,
            few_texts=few_texts,
            notify=console.tell,
            progress=progress,
        )
    weights = index.token_weights
    return encoder if weights is None else encoder.with_token_weights(weights)


def tell_lexical(console: Console, index: Index) -> None:
    """Say that words weigh in the scores without having been asked for, where they do."""
    if index.lexical:
        of = f"index {index.directory}" if index.manifest.tuned else f"model {index.spec.model}"
        console.tell(
            f"lexical weight {index.lexical:g}, the default of {of}; --lexical 0 for vectors alone"
        )


def index_at_server(
    console: Console, url: str | None, index: Path | None, options: dict[str, Any]
) -> Remote | None:
    """The index that is meant at the server of --server or MOEE_INDEX_SERVER; None where it is
    searched here."""
    if url is None and not os.environ.get("MOEE_INDEX_SERVER"):
        return None
    from moee_index.serve.client import at_server, find_index

    def default() -> Path:
        return choose_index(console, None)

    return at_server(url, console.tell, lambda client: find_index(client, index, options, default))


def model_at_server(console: Console, url: str | None, options: dict[str, Any]) -> Remote | None:
    """As `index_at_server`, for a model without an index."""
    if url is None and not os.environ.get("MOEE_INDEX_SERVER"):
        return None
    from moee_index.serve.client import at_server, find_model

    return at_server(url, console.tell, lambda client: find_model(client, options))


def choose_index(console: Console, index: Path | None) -> Path:
    """--index, or the only or newest index under indexes/, which is then shown."""
    if index is not None:
        return index
    from moee_index.index import default_index

    directory, reason = default_index(Path("indexes"))
    console.tell(f"index: {directory} ({reason})")
    return directory

"""Damaged files and odd options at every door, many thousand times: each is used, or refused in one
line.

    cd tests && python -m stress.fuzz [DOOR…] [--cases 20000] [--seed 0]

A door is a kind of file that is read, or the command line. Each gets its share of the cases: files
that are flipped, cut or something else, JSON with other keys and values (fakes/mutations).
What counts as wrong: an error that is not a MoeeIndexError, an "unexpected …" of the command line,
a case of more than twenty seconds, memory beyond a bound. The first of each is made small by
hypothesis and shown with its traceback.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import click
import pyarrow as pa
import pyarrow.parquet as pq
from click.testing import CliRunner
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from paths import DATA, PARITY

from fakes.indexes import fake_documents
from fakes.mutations import ODD_VALUES, damaged, mutated_json, mutated_safetensors
from fakes.word_encoder import FakeEncoder
from moee_index.cli import COMMANDS, cli
from moee_index.encode.encoder import Encoder
from moee_index.errors import MoeeIndexError
from moee_index.index import Index, build_index, delete_documents, verify_index
from moee_index.index.filters import Filter
from moee_index.readers.candidates import read_candidates
from moee_index.readers.corpus import read_corpora
from moee_index.readers.queries import read_queries
from moee_index.readers.trec import read_qrels, read_run_lists

# Seconds and bytes that no case may need.
_SLOWEST = 20
_MEMORY = 12 * 2**30

Case = tuple[str, bytes]
Use = Callable[[str, bytes], object]


@dataclass
class Door:
    """cases: (name of a file, its content); use: what is done with it. weight: its share."""

    name: str
    cases: st.SearchStrategy[Case]
    use: Use
    weight: int = 1
    outcomes: dict[str, int] = field(default_factory=dict)

    def run(self, name: str, content: bytes) -> None:
        """One case. Raises what no case may raise."""
        try:
            with _bounded_time():
                self.use(name, content)
            told = "used"
        except MoeeIndexError as error:
            told = type(error).__name__
            assert "\n" not in str(error), f"more than a line: {error}"
        self.outcomes[told] = self.outcomes.get(told, 0) + 1


class SlowError(Exception):
    """A case takes longer than any may."""


@contextmanager
def _bounded_time() -> Iterator[None]:
    def slow(_number: int, _frame: object) -> None:
        raise SlowError(f"more than {_SLOWEST} seconds")

    signal.signal(signal.SIGALRM, slow)
    signal.alarm(_SLOWEST)
    try:
        yield
    finally:
        signal.alarm(0)


def damaged_files(files: dict[str, bytes]) -> st.SearchStrategy[Case]:
    """Any of some files, damaged; JSON also with other keys and values."""
    return st.sampled_from(sorted(files)).flatmap(
        lambda name: st.tuples(st.just(name), _damage(name, files[name]))
    )


def _damage(name: str, content: bytes) -> st.SearchStrategy[bytes]:
    ways = [damaged(content)]
    if name.endswith((".json", ".jsonl")):
        ways += [_changed_lines(content)]
    if name.endswith(".safetensors"):
        ways += [mutated_safetensors(content)]
    return st.one_of(ways)


@st.composite
def _changed_lines(draw: st.DrawFn, content: bytes) -> bytes:
    """A JSON file, or JSON lines of which one is changed."""
    try:
        return json.dumps(draw(mutated_json(json.loads(content)))).encode()
    except ValueError:
        lines = content.splitlines()
    number = draw(st.integers(0, len(lines) - 1))
    try:
        lines[number] = json.dumps(draw(mutated_json(json.loads(lines[number])))).encode()
    except ValueError:  # a line that is no JSON as it is
        lines[number] = draw(damaged(lines[number]))
    return b"\n".join(lines)


# What readers read

RECORDS = [
    {"id": "a", "title": "On ships", "text": "ships at sea", "year": 2020, "tags": ["x", None]},
    {"id": "b", "text": 'a "quoted" word, ünïcode', "year": 1999.5, "who": {"name": "N"}},
    {"_id": "c", "text": "third\nline", "open": True, "nothing": None},
]


def corpora(folder: Path) -> dict[str, bytes]:
    lines = b"".join(json.dumps(record).encode() + b"\n" for record in RECORDS)
    table = b'id,title,text,year\r\na,"On, ships","ships ""at"" sea",2020\r\nb,,"two\nlines",1\r\n'
    path = folder / "seed.parquet"
    pq.write_table(pa.Table.from_pylist(RECORDS), path)
    return {
        "c.jsonl": lines,
        "c.json": json.dumps(RECORDS).encode(),
        "c.csv": table,
        "c.tsv": b'id\ttext\nq"a\t"ships" at sea\nb\tboats\n',
        "c.txt": "ships at sea\n\nboats é\n".encode(),
        "c.parquet": path.read_bytes(),
        **_forms("list-", False),
    }


def _forms(prefix: str, wanted: bool) -> dict[str, bytes]:
    """The sample files of other projects' forms, small ones."""
    forms = DATA / "forms"
    files = sorted(path for path in forms.rglob("*") if path.is_file()) if forms.is_dir() else []
    return {
        path.name: path.read_bytes()
        for path in files
        if path.name.startswith(prefix) == wanted and path.stat().st_size < 20_000
    }


def read_corpus(folder: Path, name: str, content: bytes) -> None:
    path = folder / name
    path.write_bytes(content)
    for on_bad in ("skip", "error"):
        for document in read_corpora([path], on_bad=on_bad):  # type: ignore[arg-type]
            assert isinstance(document.text, str) and document.id


LISTS = {
    "q.jsonl": b'{"_id": "1", "text": "ships"}\n{"id": 2, "text": "boats"}\n',
    "q.tsv": b"1\tships at sea\n2\tboats\n",
    "q.txt": b"ships at sea\nboats\n",
    "lists.jsonl": b'{"query": "ships", "query_id": 7, "candidates": ["a", {"text": "b"}]}',
    "texts.jsonl": b'{"id": "x", "text": "ships", "title": "T"}\n{"text": "boats"}\n',
    "run.txt": b"1 Q0 a 1 2.5 tag\n1 Q0 b 2 1.5 tag\n2 Q0 a 1 0.25 tag\n",
    "qrels.tsv": b"query-id\tcorpus-id\tscore\n1\ta\t1\n2\tb\t0\n",
    "qrels.txt": b"1 0 a 1\n2 0 b 0\n",
    "qrels.jsonl": b'{"query-id": "1", "corpus-id": "a", "score": 1}\n',
}


def read_lists(folder: Path, name: str, content: bytes) -> None:
    path = folder / name
    path.write_bytes(content)
    for read in (
        read_queries,
        read_candidates,
        partial(read_candidates, query="ships"),
        read_run_lists,
        read_qrels,
    ):
        try:
            list(read(path))  # type: ignore[operator]
        except MoeeIndexError as error:
            assert "\n" not in str(error)


# Filters

FILTERS = (
    'year >= 2020 and lang in ("en", "de") or not exists(tags)',
    "`odd name`.x = null and tags contains 'x'",
    '(open = true or year < -1.5e3) and title != "it\'s"',
)


def parse_filter(_name: str, content: bytes) -> None:
    parsed = Filter.parse(content.decode("utf-8", "surrogateescape"))
    parsed.check({"year": {"number"}, "lang": {"text"}, "tags": {"list"}, "title": {"text"}})


# Indexes


def index_files(folder: Path) -> dict[str, bytes]:
    """All files of a small index with deleted documents, by their path in it."""
    directory = folder / "built"
    build_index(directory, fake_documents(30), FakeEncoder(), chunk="8:2", window=8)
    delete_documents(directory, ["d3", "d4"])
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.suffix != ".lock"
    }


def use_index(folder: Path, name: str, content: bytes) -> None:
    """Put a damaged file in place of a sound one: what opens and searches says so or is right."""
    directory = folder / "damaged"
    if not directory.exists():
        shutil.copytree(folder / "built", directory)
    path = directory / name
    sound = path.read_bytes()
    path.write_bytes(content)
    try:
        verify_index(directory, full=True)
        with Index.open(directory, FakeEncoder()) as index:
            index.search(["w3 w4", "w7"], k=5, filter="exists(x)")
            index.documents(["d1", "d2"])
            index.info()
    finally:
        path.write_bytes(sound)


# Checkpoints

CHECKPOINT = (
    *("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"),
    *("moee_index.json", "special_tokens_map.json"),
)


def checkpoint_files() -> dict[str, bytes]:
    source = PARITY / "olmoe"
    files = {name: (source / name).read_bytes() for name in CHECKPOINT if (source / name).exists()}
    own = {"prompt": "prompteol", "pooling": "mean", "max-tokens": 64, "rw": "softmax"}
    return {"moee_index.json": json.dumps(own).encode(), **files}


def use_checkpoint(folder: Path, files: dict[str, bytes], name: str, content: bytes) -> None:
    directory = folder / "checkpoint"
    directory.mkdir(exist_ok=True)
    for other, sound in files.items():
        (directory / other).write_bytes(content if other == name else sound)
    encoder = Encoder.load(directory, cache=False, threads=1)
    encoder.encode(["ships at sea", ""])


# The command line


def _options() -> dict[str, list[str]]:
    """Command → its options' names."""
    context = click.Context(cli)
    names = {}
    for name in COMMANDS:
        command = cli.get_command(context, name)
        assert command is not None
        names[name] = [
            flag
            for option in command.params
            if isinstance(option, click.Option)
            for flag in option.opts
            if flag not in ("--help",)
        ]
    return names


ODD_WORDS = (
    *(str(value) for value in ODD_VALUES if isinstance(value, str | int | float)),
    *("-", "--", "i", "c.jsonl", "sum", "cuda:9", "mps", "0,1", "1e999", "{text}", "\udce9", " "),
)


def command_lines() -> st.SearchStrategy[Case]:
    options = _options()
    words = st.sampled_from([word for word in ODD_WORDS if "\x00" not in word])

    @st.composite
    def line(draw: st.DrawFn) -> Case:
        command = draw(st.sampled_from([name for name in options if name != "bench"]))
        argv = [command]
        for _ in range(draw(st.integers(0, 4))):
            argv.append(draw(st.sampled_from(options[command])))
            if draw(st.integers(0, 4)):
                argv.append(draw(words))
        argv += draw(st.lists(words, max_size=2))
        return command, json.dumps(argv).encode()

    return line()


def use_command(folder: Path, _name: str, content: bytes) -> None:
    directory = folder / "commands"
    if not directory.exists():
        directory.mkdir()
        (directory / "c.jsonl").write_bytes(corpora(folder)["c.jsonl"])
    os.chdir(directory)
    argv = [word.replace("\ud800", "x") for word in json.loads(content)]
    result = CliRunner().invoke(cli, argv, input=b"ships\n", env={"HF_HUB_OFFLINE": "1"})
    assert result.exit_code in (0, 1, 2), (argv, result.exit_code, result.stderr)
    assert "report it" not in result.stderr, (argv, result.stderr)
    assert "Traceback" not in result.stderr, (argv, result.stderr)


# All of them


def doors(folder: Path) -> list[Door]:
    checkpoint = checkpoint_files()
    texts = st.sampled_from([text.encode() for text in FILTERS])
    filters = texts.flatmap(damaged).map(lambda content: ("filter", content))
    lists = {**LISTS, **_forms("list-", True)}
    return [
        Door("corpora", damaged_files(corpora(folder)), partial(read_corpus, folder), 8),
        Door("lists", damaged_files(lists), partial(read_lists, folder), 6),
        Door("filters", filters, parse_filter, 3),
        Door("indexes", damaged_files(index_files(folder)), partial(use_index, folder), 4),
        Door(
            "checkpoints",
            damaged_files(checkpoint),
            partial(use_checkpoint, folder, checkpoint),
            3,
        ),
        Door("commands", command_lines(), partial(use_command, folder), 1),
    ]


def fuzz(door: Door, cases: int, number: int) -> str | None:
    """Try a door's cases; what was wrong, None if nothing was."""

    @seed(number)
    @settings(
        max_examples=cases,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )
    @given(door.cases)
    def tried(case: Case) -> None:
        door.run(*case)

    try:
        tried()
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return traceback.format_exc(limit=-12)
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("door", nargs="*", help="doors to try; all of them without")
    parser.add_argument("--cases", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    warnings.simplefilter("ignore")
    failures = 0
    with tempfile.TemporaryDirectory() as name:
        found = doors(Path(name))
        chosen = [door for door in found if not arguments.door or door.name in arguments.door]
        whole = sum(door.weight for door in chosen)
        for door in chosen:
            began = time.perf_counter()
            wrong = fuzz(door, arguments.cases * door.weight // whole, arguments.seed)
            told = ", ".join(f"{name} {count}" for name, count in sorted(door.outcomes.items()))
            seconds = time.perf_counter() - began
            count = sum(door.outcomes.values())
            print(f"{door.name}: {count:,} cases in {seconds:.0f} s: {told}", flush=True)
            if wrong is not None:
                failures += 1
                print(wrong, flush=True)
        os.chdir("/")
    return failures


if __name__ == "__main__":
    sys.exit(main())

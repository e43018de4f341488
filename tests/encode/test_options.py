"""A made-up tenth encoder option is one field of EncoderOptions, and is then everywhere."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import moee_index
import moee_index.bench
from moee_index import Encoder
from moee_index.errors import MisuseError
from moee_index.index import Index
from moee_index.index.store.manifest import Building
from moee_index.types import Document

FIELD = '    tenth: str = field(metadata={"help": "H.", "default": "x", "own": True})\n'
LOOK = """
import dataclasses, moee_index
from pathlib import Path
from moee_index.types import EncoderSpec, EncoderOptions
from moee_index.cli.options import MODEL_KEYS, model_options
from moee_index.model.checkpoint.find import DEFAULT_KEYS, find_checkpoint
from moee_index.encode.encoder import Encoder
from moee_index.encode.options import resolve_options
from moee_index.errors import MisuseError
from moee_index.errors import MisuseError
from moee_index.index import Index
from moee_index.index.store.manifest import Building
from moee_index.bench.vector_cache.encoder import Identity
from moee_index.bench.adapter.meta import experiment
from moee_index.bench.adapter.vectors import Setting
from moee_index.bench.run_dir import _UNSEEN
import types

print(moee_index.__file__)
command = model_options("query")(lambda: None)
assert "tenth" in [option.name for option in command.__click_params__]
assert "tenth" in MODEL_KEYS and "tenth" in DEFAULT_KEYS and "tenth" in _UNSEEN
encoder = Encoder.load(tenth="y", bits=32)
assert encoder.spec.identity()["tenth"] == "y"
assert Encoder.for_spec(encoder.spec, tenth="y").spec == encoder.spec
try:
    Encoder.for_spec(encoder.spec, tenth="z")
except MisuseError as error:
    assert "--tenth z contradicts the index, which was built with y" in str(error)
else:
    raise AssertionError
checkpoint = dataclasses.replace(find_checkpoint(), defaults={"tenth": "own"})
assert resolve_options(checkpoint, {}).tenth == "own"
said = dataclasses.asdict(encoder.spec)
del said["hs_dim"], said["rw_dim"]
identity = Identity(**said)
assert '"tenth": "y"' in identity.key(False).identity()
stored = types.SimpleNamespace(identity=identity, instruction=None)
with Index.open("old", Encoder.for_spec) as old:
    assert old.spec.tenth == "x", "an index from before the option has its default"
    assert old.search("a red fox", k=1)[0].id == "1"
begun = Building.read(Path("begun"))
assert begun is not None and begun.spec.tenth == "x"
assert experiment(stored, Setting("hs", None, "both", "corpus"), "corpus")["tenth"] == "y"
"""


def _written_before(directory: Path) -> None:
    """An index and an unfinished segment by the package as it is."""
    encoder = Encoder.load()
    documents = [Document("0", "a loaf of bread"), Document("1", "the red fox")]
    Index.build(directory / "old", documents, encoder).close()
    (directory / "begun").mkdir()
    building = Building(encoder.spec, "auto", "flat", "float32", None, 4096, 64)
    building.write(directory / "begun")


def test_a_tenth_option_is_one_field(tmp_path: Path) -> None:
    package = tmp_path / "moee_index"
    unneeded = shutil.ignore_patterns("__pycache__", "results", "scripts", "bench")
    shutil.copytree(Path(moee_index.__file__).parent, package, ignore=unneeded)
    bench = Path(moee_index.bench.__file__).parent
    shutil.copytree(bench, package / "bench", ignore=unneeded)
    types = package / "types.py"
    text = types.read_text()
    before = "    @classmethod\n    def names("
    assert text.count(before) == 1
    types.write_text(text.replace(before, f"{FIELD}\n{before}"))
    _written_before(tmp_path)
    look = subprocess.run(
        [sys.executable, "-c", LOOK],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert look.returncode == 0, look.stderr
    assert look.stdout.startswith(str(package))


@pytest.mark.parametrize("count", ["2", 0, -1, 1.5, True])
@pytest.mark.parametrize("name", ["threads", "batch_tokens"])
def test_counts_are_whole_numbers(name: str, count: object) -> None:
    flag = name.replace("_", "-")
    with pytest.raises(MisuseError, match=rf"--{flag} is .* a whole number, at least 1"):
        Encoder.load(**{name: count})  # type: ignore[arg-type]


def test_a_model_is_a_path_or_a_name() -> None:
    with pytest.raises(MisuseError, match="--model is of type int"):
        Encoder.load(3)  # type: ignore[arg-type]

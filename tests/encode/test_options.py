"""A made-up tenth encoder option is one field of EncoderOptions, and is then everywhere."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import moee_index
import moee_index.bench

FIELD = '    tenth: str = field(metadata={"help": "H.", "default": "x", "own": True})\n'
LOOK = """
import dataclasses, moee_index
from moee_index.types import EncoderSpec, EncoderOptions
from moee_index.cli.options import MODEL_KEYS, model_options
from moee_index.model.checkpoint.find import DEFAULT_KEYS, find_checkpoint
from moee_index.encode.encoder import Encoder, resolve_options
from moee_index.errors import MisuseError
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
stored = types.SimpleNamespace(identity=identity)
assert experiment(stored, Setting("hs", None, "both", "corpus"), "corpus")["tenth"] == "y"
"""


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

"""Write the golden data of tests/test_golden.py anew: `python tests/make_golden.py [PART…]`.

Golden data hold what the program did before a change. A change by intent writes them anew in the
same commit, and CHANGELOG.md says why; any other difference is a fault. `stored`, `checkpoint` and
`bench` are what earlier versions wrote and later ones must read: they are written anew only when
the format changes, and the version of the format with it. (Without PART: all.)

Run it where the newest libraries are installed, on a processor with AVX512-BF16 if there is one.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import golden

golden.plain_environment()

import golden_bench  # noqa: E402
import golden_cli  # noqa: E402
import golden_index  # noqa: E402
import golden_model  # noqa: E402

from moee_index import Encoder  # noqa: E402


def vectors(folder: Path) -> None:
    golden_model.write_texts()
    ranked = {}
    for bits in (32, 4):
        encoder = Encoder.load(bits=bits)
        golden_model.write_vectors(f"tiny-{bits}.npz", encoder)
        ranked[str(bits)] = golden_model.rankings(folder / str(bits), encoder)
    golden.write("rankings.json", ranked)


def built(folder: Path) -> None:
    index = golden_model.build_by_command(folder)
    found = {
        "files": golden_model.built(index),
        "query": golden_model.queried(index),
        "trec": golden_model.queried_trec(index),
    }
    golden.write("built.json", found)
    golden_cli.write_imports(index)


def quantized(folder: Path) -> None:
    plain, double = (golden_model.quantized(folder, double=double) for double in (False, True))
    found = {
        "plain": golden_model.checkpoint_files(plain),
        "double": golden_model.double_quantized(double),
    }
    golden.write("quantized.json", found)


def public(folder: Path) -> None:
    golden_cli.write_helps()
    golden_cli.write_names()


def bench(folder: Path) -> None:
    with contextlib.chdir(folder):
        golden_bench.write_bench()


def index(folder: Path) -> None:
    golden_index.write_states(folder, Encoder.load().spec)


def stored(folder: Path) -> None:
    golden_index.write_stored(Encoder.load().spec)


def checkpoint(folder: Path) -> None:
    golden_model.write_checkpoint(folder)


# `vectors` comes first: it writes the texts.
PARTS: tuple[Callable[[Path], None], ...] = (
    *(vectors, built, quantized, checkpoint, index, stored, bench, public),
)


def main(names: list[str]) -> None:
    known = {part.__name__: part for part in PARTS}
    for name in names or known:
        print(name)
        with tempfile.TemporaryDirectory() as folder:
            known[name](Path(folder))


if __name__ == "__main__":
    main(sys.argv[1:])

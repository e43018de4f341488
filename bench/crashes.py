"""Kill a build at random moments, again and again, and compare what comes out in the end.

    python -m moee_index.bench.crashes CORPUS [--kills 20] [--queries FILE] [BUILD OPTIONS]

Knows the commands `build`, `verify` and `query` only. One build is left alone; another is killed
with SIGKILL after random times and started again. Both must end with the same bytes in every
vector file, and give the same hits with the same scores.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

VECTOR_FILES = ("hs.f32", "rw.f32", "norms.f32", "standardizer.safetensors", "hs.faiss", "rw.faiss")


def command(*arguments: str | Path) -> list[str]:
    """The command line of one `moee-index` call."""
    return [sys.executable, "-m", "moee_index", "-q", *map(str, arguments)]


def digests(index: Path) -> dict[str, str]:
    """sha256 of each vector file of a finished index."""
    (generation,) = (path for path in index.iterdir() if path.is_dir())
    return {
        name: hashlib.sha256((generation / name).read_bytes()).hexdigest() for name in VECTOR_FILES
    }


def answers(index: Path, queries: Path) -> list[list[tuple[str, float]]]:
    """Hits with scores at full precision for each query."""
    done = subprocess.run(
        command("query", "--index", index, "--queries", queries, "--json"),
        check=True,
        capture_output=True,
        text=True,
    )
    return [
        [(hit["id"], hit["score"]) for hit in json.loads(line)["hits"]]
        for line in done.stdout.splitlines()
    ]


def build_with_kills(
    build: list[str], index: Path, kills: int, longest: float, random_: random.Random
) -> tuple[int, int, float]:
    """Start a build and kill it `kills` times. Returns kills that hit, finished starts, seconds.

    A start that finishes before its kill is followed by a fresh build, which is killed in turn.
    """
    hit = finished = 0
    started = time.perf_counter()
    while hit < kills:
        with subprocess.Popen(build, stdout=subprocess.DEVNULL) as process:
            try:
                status = process.wait(timeout=random_.uniform(0, longest))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                hit += 1
                continue
        if status:
            raise SystemExit(f"a restarted build failed with status {status}")
        finished += 1
        if hit < kills:
            build = build if "--overwrite" in build else [*build, "--overwrite"]
    subprocess.run(build, check=True, stdout=subprocess.DEVNULL)
    return hit, finished, time.perf_counter() - started


def main() -> None:
    """Run the comparison and print one line; exit status 1 if anything differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--queries", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    given, options = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        alone, killed = Path(folder) / "alone", Path(folder) / "killed"
        began = time.perf_counter()
        subprocess.run(
            command("build", given.corpus, "--index", alone, *options),
            check=True,
            stdout=subprocess.DEVNULL,
        )
        undisturbed = time.perf_counter() - began
        hit, finished, seconds = build_with_kills(
            command("build", given.corpus, "--index", killed, *options),
            killed,
            given.kills,
            undisturbed,
            random.Random(given.seed),  # noqa: S311 - moments, not secrets
        )
        subprocess.run(command("verify", killed, "--full"), check=True, stdout=subprocess.DEVNULL)
        wanted, found = digests(alone), digests(killed)
        differ = [name for name in VECTOR_FILES if wanted[name] != found[name]]
        if given.queries is not None and answers(alone, given.queries) != answers(
            killed, given.queries
        ):
            differ.append("hits or scores")
    print(
        f"{hit} kills in {seconds:.0f} s (undisturbed build: {undisturbed:.1f} s; {finished} "
        f"starts finished before their kill): "
        f"{'DIFFERENT: ' + ', '.join(differ) if differ else 'same bytes'}"
    )
    sys.exit(1 if differ else 0)


if __name__ == "__main__":
    main()

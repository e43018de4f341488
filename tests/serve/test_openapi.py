"""schemathesis over the description: no 500, no status and no shape that is not listed there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from serving import Served, serving

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
)
# As the console script does, whose place differs from system to system.
MAIN = "import sys; from schemathesis.cli import schemathesis; sys.exit(schemathesis())"


def test_no_request_gets_an_answer_that_is_not_described(news_index: Path, tmp_path: Path) -> None:
    """One index, which needs no name, so that generated searches are searches."""
    with serving(news_index) as served:
        look_through(served, tmp_path)


def look_through(served: Served, tmp_path: Path) -> None:
    command = [
        sys.executable, "-c", MAIN, "run", f"{served.url}/openapi.json",
        "--checks", ",".join(CHECKS), "--max-examples", "20", "--seed", "7",
        "--phases", "examples,coverage,fuzzing", "--no-color",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=500)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-1000:]
    assert served.get("/readyz").status == 200

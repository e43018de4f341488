"""Commands run as a user types them, in this process."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner, Result

from moee_index.cli import cli


def run(*args: str | Path, stdin: str | bytes | None = None, status: int = 0) -> Result:
    result = CliRunner().invoke(cli, [str(arg) for arg in args], input=stdin)
    assert result.exit_code == status, (result.exit_code, result.stdout, result.stderr)
    return result


def one_line_error(result: Result) -> str:
    lines = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1, result.stderr
    assert "Traceback" not in result.stderr
    return lines[0]

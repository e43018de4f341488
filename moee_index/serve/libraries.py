"""Whether the libraries of the extra `serve` are installed."""

from __future__ import annotations

from importlib.util import find_spec

from moee_index.errors import LibraryError

_HTTP = ("fastapi", "uvicorn", "prometheus_client", "mcp")
MCP = ("mcp", "prometheus_client")


def check_installed(names: tuple[str, ...] = _HTTP) -> None:
    """Raises LibraryError that says how to install what is missing."""
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        raise LibraryError(f"a server needs {', '.join(missing)}: pip install 'moee-index[serve]'")

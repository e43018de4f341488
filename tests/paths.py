"""Where the test data are."""

from __future__ import annotations

from pathlib import Path

DATA = Path(__file__).parent / "data"
PARITY = DATA / "parity"

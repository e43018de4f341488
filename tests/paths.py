"""Where the test data are, and where tests write."""

from __future__ import annotations

from pathlib import Path

DATA = Path(__file__).parent / "data"
PARITY = DATA / "parity"
SHM = Path("/dev/shm")
# Where fsync costs nothing, if there is such a place: for tests that write a lot.
FAST = SHM if SHM.is_dir() else None

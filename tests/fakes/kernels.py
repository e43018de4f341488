"""The 4-bit kernels of another instruction set than the processor's fastest, for a test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from moee_index.model.nf4.native import library


@contextmanager
def instruction_set(name: str) -> Iterator[None]:
    """As if the program had been started with MOEE_INDEX_ISA=name."""
    before = os.environ.get(library.VARIABLE)
    os.environ[library.VARIABLE] = name
    library.instruction_set.cache_clear()
    try:
        yield
    finally:
        if before is None:
            del os.environ[library.VARIABLE]
        else:
            os.environ[library.VARIABLE] = before
        library.instruction_set.cache_clear()

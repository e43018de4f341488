"""How many processes embed, where, and with which encoder: from what a caller says to a pool whose
processes have loaded theirs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

from moee_index.errors import MisuseError
from moee_index.index.workers.described import DescribedEncoder, describe
from moee_index.index.workers.local import LocalCrew, local_threads
from moee_index.index.workers.pool import Crew, Pool
from moee_index.index.workers.tasks import LoadElsewhere
from moee_index.index.write.segment import check_whole
from moee_index.types import Notify, TextEncoder


@dataclass(frozen=True)
class Workers:
    """Processes that embed together.

    count: how many; None, with Ray alone, as many as suit the cluster. ray: the address of a Ray
    cluster ("HOST:PORT"), or "" for the one of this machine, which is started where there is none;
    None for processes on this machine without Ray. threads: of each; None shares the processors.

    Raises MisuseError for numbers below 1.
    """

    count: int | None = None
    ray: str | None = None
    threads: int | None = None

    def __post_init__(self) -> None:
        for name, value in (("workers", self.count), ("threads", self.threads)):
            if value is not None:
                check_whole(name, value)
        if self.count is None and self.ray is None:
            raise MisuseError("workers: neither their number nor a Ray cluster is given")

    @classmethod
    def of(cls, workers: Workers | int | None) -> Workers | None:
        """From what a caller gives; None for one process, which is the caller's own."""
        return workers if workers is None or isinstance(workers, Workers) else cls(workers)

    def crew(self, load: LoadElsewhere, notify: Notify) -> Crew:
        """Start them. Raises LibraryError without Ray where that is asked for; WorkerError."""
        if self.ray is not None:
            from moee_index.index.workers.on_ray import RayCrew

            return RayCrew(self.ray, self.count, load, self.threads, notify)
        count = cast(int, self.count)
        return LocalCrew(count, load, local_threads(count, self.threads, notify))


@contextmanager
def started(
    workers: Workers, encoder: TextEncoder | LoadElsewhere, notify: Notify
) -> Iterator[tuple[Pool, TextEncoder, dict[str, int] | None]]:
    """The processes, what stands for their encoder, and the bytes of its weights by kind.

    encoder: one that can be told to another process, or how it is loaded. Raises MisuseError for
    any other; what loading it raises.
    """
    with Pool(workers.crew(_told(encoder), notify), notify) as pool:
        described, weight_bytes = describe(pool)
        described = _with_weights(described, encoder)
        # Whatever embeds is not asked of it.
        yield pool, cast(TextEncoder, described), weight_bytes


def _told(encoder: Any) -> LoadElsewhere:
    if not hasattr(encoder, "spec") and hasattr(encoder, "load"):
        return cast(LoadElsewhere, encoder)
    if not hasattr(encoder, "elsewhere"):
        raise MisuseError(
            f"an encoder of type {type(encoder).__name__} cannot be told to other processes; give "
            "one of Encoder.load, or build with one process"
        )
    return cast(LoadElsewhere, encoder.elsewhere())


def _with_weights(described: DescribedEncoder, encoder: Any) -> DescribedEncoder:
    """With the token weights that the caller's own encoder has."""
    weights = getattr(encoder, "token_weights", None)
    if weights is None or weights.checksum == described.spec.token_weights:
        return described
    return described.with_token_weights(weights)

"""What serves, whatever the requests come by: opened indexes, the engine, the metrics.

HTTP is one way to it (`http`), MCP another.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from moee_index.errors import MisuseError, first_line
from moee_index.serve.engine.engine import Engine
from moee_index.serve.engine.query_cache import QueryCache
from moee_index.serve.indexes import Indexes, ServedIndex
from moee_index.serve.local import Directory
from moee_index.serve.memory import give_back
from moee_index.serve.metrics import Metrics
from moee_index.serve.searchable import Searchable, Source
from moee_index.serve.settings import Settings
from moee_index.serve.shards.source import Shards

if TYPE_CHECKING:
    from moee_index.encode.encoder import Encoder

# Seconds between two returns of free memory, if anything was embedded meanwhile.
_TRIM_SECONDS = 5.0


@dataclass(frozen=True)
class Models:
    """How the models come into memory. default: loads the one without any index; of_index: the one
    of an index."""

    default: Callable[[], Encoder]
    of_index: Callable[[Searchable], Encoder]


class Server:
    """Opened indexes and the models that embed for them; `start` and `stop` it on an event loop.
    models: None for a server of segments, which a head asks by vectors.

    Raises what opening an index raises.
    """

    def __init__(self, settings: Settings, models: Models | None) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.indexes = Indexes(_sources(settings))
        self.started = int(time.time())
        self.draining = False
        self._models = models
        limits = settings.limits
        self.engine = Engine(
            self._load,
            batch_tokens=limits.batch_tokens,
            queue_tokens=limits.queue_tokens,
            deadline=limits.deadline,
            threads=settings.threads,
            observe=self.metrics.batch,
        )
        self.queries = QueryCache(self.metrics.cached)
        self.metrics.watch(self)
        self._named = self._named_models()

    def start(self) -> None:
        self.engine.start()

    def stop(self) -> None:
        self.engine.stop()
        self.indexes.close()

    def model_names(self) -> Sequence[str]:
        """Names of the models; without an index known once the model is loaded."""
        return list(self._named or self.engine.model.encoders)

    async def watch(self) -> str:
        """Look after models and indexes once a second, until the server can serve no more; returns
        why."""
        started, limits = time.monotonic(), self.settings.limits
        trimmed = embedded = 0.0
        while True:
            model = self.engine.model
            if model.failure is not None:
                return first_line(model.failure)
            if not model.loaded.done() and time.monotonic() > started + limits.loading:
                return f"the model was not loaded within {limits.loading:g} seconds"
            await self.engine.in_thread(self.indexes.refresh)
            if model.tokens != embedded and time.monotonic() > trimmed + _TRIM_SECONDS:
                trimmed, embedded = time.monotonic(), model.tokens
                await self.engine.in_thread(give_back)
            await asyncio.sleep(1.0)

    def _named_models(self) -> dict[str, ServedIndex]:
        """Name of a model → an index that it embeds for; indexes that were built alike share one,
        and of models that share a name all but the first are called `MODEL@INDEX`."""
        named: dict[str, ServedIndex] = {}
        if self._models is None:
            return named
        identities: dict[str, dict[str, Any]] = {}
        for served in self.indexes:
            spec = served.version.index.spec
            identity = spec.identity()
            name = next((name for name in named if identities[name] == identity), None)
            if name is None:
                name = spec.model if spec.model not in named else f"{spec.model}@{served.name}"
                named[name], identities[name] = served, identity
            served.model = name
        for name in named:
            if name in self.indexes:
                raise MisuseError(
                    f"{name!r} is the name of an index and of a model; give the index another with "
                    "--name NAME=DIR"
                )
        return named

    def _load(self) -> Mapping[str, Encoder]:
        """Load the models; called by the thread that owns them."""
        encoders: dict[str, Encoder] = {}
        if self._models is None:
            return encoders
        for name, served in self._named.items():
            with served.held() as version:
                encoders[name] = self._models.of_index(version.index)
        if not encoders:
            encoder = self._models.default()
            encoders[encoder.spec.model] = encoder
        return encoders


def _sources(settings: Settings) -> dict[str, Source]:
    """Name → where the index comes from."""
    if settings.spread is not None:
        shards = Shards(settings.spread)
        return {shards.name(): shards}
    return {name: Directory(path, settings.segments) for name, path in settings.indexes.items()}

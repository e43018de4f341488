"""Counters of one server, as Prometheus reads them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric

from moee_index.serve.engine.model_thread import BatchReport
from moee_index.serve.engine.trace import Trace
from moee_index.serve.memory import resident_bytes

if TYPE_CHECKING:
    from moee_index.serve.server import Server

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
_TOKENS = tuple(float(4**power) for power in range(2, 9))


class Metrics:
    """All counters; their registry is this server's own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        self._requests = Counter(
            "moee_requests_total", "Requests answered", ["route", "status"], registry=registry
        )
        self._seconds = Histogram(
            "moee_request_seconds", "From the first byte to the last", ["route"],
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self._stages = Histogram(
            "moee_stage_seconds", "Seconds by stage", ["stage"], buckets=_SECONDS, registry=registry
        )
        self._texts = Counter("moee_texts_total", "Texts embedded", registry=registry)
        self._tokens = Counter("moee_tokens_total", "Tokens embedded", registry=registry)
        self._padding = Counter(
            "moee_padding_tokens_total", "Tokens of padding in batches", registry=registry
        )
        self._batches = Histogram(
            "moee_batch_tokens", "Tokens of a batch", buckets=_TOKENS, registry=registry
        )
        self._batch_seconds = Histogram(
            "moee_batch_seconds", "Forward pass of a batch", buckets=_SECONDS, registry=registry
        )
        self._cached = Counter(
            "moee_query_cache_total", "Queries whose vectors were there, and not",
            ["outcome"], registry=registry,
        )  # fmt: skip
        self._left = Counter(
            "moee_clients_left_total", "Clients that left before their answer", registry=registry
        )
        self._lost = Counter(
            "moee_log_lines_lost_total", "Lines that the log could not take", registry=registry
        )

    def batch(self, report: BatchReport) -> None:
        """A batch was embedded."""
        self._texts.inc(report.texts)
        self._tokens.inc(report.tokens)
        self._padding.inc(report.padded - report.tokens)
        self._batches.observe(report.tokens)
        self._batch_seconds.observe(report.seconds)

    def request(self, route: str, status: int, seconds: float, trace: Trace) -> None:
        """A request was answered. route: as declared, not as requested: of these there are few."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)
        for stage, spent in trace.stages.items():
            self._stages.labels(stage).observe(spent)

    def cached(self, hits: int, misses: int) -> None:
        """Queries were looked for among the last ones."""
        self._cached.labels("hit").inc(hits)
        self._cached.labels("miss").inc(misses)

    def left(self) -> None:
        self._left.inc()

    def log_line_lost(self) -> None:
        self._lost.inc()

    def watch(self, server: Server) -> None:
        """Show a server's state at the time it is asked for."""
        self.registry.register(_State(server))

    def text(self) -> bytes:
        return generate_latest(self.registry)


class _State:
    """What is read when it is asked for."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        from moee_index.serve.health import why_not_ready

        server = self._server
        yield _gauge("moee_ready", "Whether requests can be answered", not why_not_ready(server))
        admission = server.engine.admission
        yield _gauge("moee_queue_tokens", "Tokens of the requests that are in", admission.tokens)
        yield _gauge("moee_queue_tokens_limit", "The most tokens that may be in", admission.limit)
        if (memory := resident_bytes()) is not None:
            yield _gauge("moee_resident_bytes", "Resident memory of the process", memory)
        revision = GaugeMetricFamily("moee_index_revision", "Revision in service", labels=["index"])
        unreadable = GaugeMetricFamily(
            "moee_index_unreadable", "Whether the version on disk cannot serve", labels=["index"]
        )
        reloads = GaugeMetricFamily(
            "moee_index_reloads", "Newer versions taken into service", labels=["index"]
        )
        for served in server.indexes:
            revision.add_metric([served.name], served.version.revision)
            unreadable.add_metric([served.name], served.fault is not None)
            reloads.add_metric([served.name], served.reloads)
        yield from (revision, unreadable, reloads)


def _gauge(name: str, about: str, value: float) -> Metric:
    return GaugeMetricFamily(name, about, value=float(value))

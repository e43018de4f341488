"""The process: a socket, uvicorn on it, signals, and the end."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Iterator

import uvicorn

from moee_index.errors import MisuseError, ModelError, MoeeIndexError
from moee_index.serve.errors import NotReadyError
from moee_index.serve.http.app import create_app
from moee_index.serve.http.connection import protocol
from moee_index.serve.http.guard import Guard
from moee_index.serve.http.request_log import Write
from moee_index.serve.server import Server
from moee_index.serve.settings import Limits
from moee_index.types import Notify

# Seconds for what has failed at the end of the grace to be told so.
_LAST_WORDS = 2
# Seconds that a connection may stay open between two requests.
_IDLE = 75


def listen(host: str, port: int, writing: float) -> socket.socket:
    """A socket that listens. Raises MisuseError where it cannot be had."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise MisuseError(
            f"--host {host} --port {port} cannot be listened on ({error.strerror or error}); take "
            "another port, or end what has this one"
        ) from error
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        # A client that takes nothing of its answer: the kernel ends the connection.
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(writing * 1000))
    return listening


def address(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class _Process(uvicorn.Server):
    """uvicorn with our signals: the first one lets accepted requests end, a second one does not
    wait for them."""

    def __init__(self, config: uvicorn.Config, server: Server) -> None:
        super().__init__(config)
        self._server = server
        self.signal: int | None = None
        self.ending = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            # Without the loop's own handlers (Windows) Python's are as good.
            try:
                loop.add_signal_handler(number, self._end, number)
            except (NotImplementedError, RuntimeError):
                signal.signal(number, lambda number, _: self._end(number))
        yield

    def _end(self, number: int) -> None:
        if self.should_exit:
            self.force_exit = True
        self.signal = number
        self.drain()

    def drain(self) -> None:
        """Take no more requests; answer those that are in, within the grace."""
        self._server.draining = True
        self.should_exit = True
        self.ending.set()


async def _serve(
    config: uvicorn.Config, server: Server, listening: socket.socket
) -> tuple[str | None, int | None]:
    """Serve until a signal, or until the server can serve no more; returns why in that case, and
    the signal."""
    process = _Process(config, server)
    serving = asyncio.create_task(process.serve(sockets=[listening]))
    watching = asyncio.create_task(server.watch())
    ending = asyncio.create_task(process.ending.wait())
    await asyncio.wait({serving, watching, ending}, return_when=asyncio.FIRST_COMPLETED)
    reason = watching.result() if watching.done() else None
    watching.cancel()
    process.drain()
    grace = server.settings.limits.grace
    done, _ = await asyncio.wait({serving}, timeout=grace)
    if not done:
        server.engine.model.stop()
        await serving
    return reason, process.signal


def config_of(app: Guard, limits: Limits) -> uvicorn.Config:
    """How uvicorn runs an application."""
    return uvicorn.Config(
        app,
        http=protocol(limits.reading),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        h11_max_incomplete_event_size=limits.header,
        timeout_keep_alive=_IDLE,
        timeout_graceful_shutdown=int(limits.grace) + _LAST_WORDS,
    )


def serve(
    server: Server,
    listening: socket.socket,
    *,
    write_log: Write | None = None,
    notify: Notify,
) -> None:
    """Serve until SIGTERM or SIGINT. Raises KeyboardInterrupt after a SIGINT, and what made the
    server unable to serve."""
    config = config_of(create_app(server, write_log), server.settings.limits)
    notify(f"listening on {address(listening)}")
    reason, ended_by = asyncio.run(_serve(config, server, listening))
    failure = server.engine.model.failure
    if isinstance(failure, MoeeIndexError) and not isinstance(failure, NotReadyError):
        raise failure
    if reason is not None:
        raise ModelError(f"the server had to end: {reason}")
    if ended_by == signal.SIGINT:
        raise KeyboardInterrupt

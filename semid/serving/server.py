"""From a run folder to a listening process, and its end: signals, sockets, draining.

SIGTERM: /ready says 503 for `drain` seconds while everything is answered, then no connection is taken, what is under way is
answered, waiting writes go to disk, and the process ends with 0. SIGINT (Ctrl-C) does the same without waiting. SIGHUP reads the
run folder again; if that fails the log says why and the old model stays.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn

from semid.errors import ConfigError, SemidError
from semid.serving import logs
from semid.serving.app import create_app
from semid.serving.connection import impatient
from semid.serving.contract import Request
from semid.serving.histories import open_store
from semid.serving.limits import Limits
from semid.serving.metrics import Metrics
from semid.serving.security import Guard, check_bind
from semid.serving.service import Service

if TYPE_CHECKING:
    from semid.serving.engine import Engine

log = logging.getLogger("semid.serving")

FLUSH_SECONDS = 30
"""What is under way at the end gets so long."""

PREPARATION_SECONDS = 15
"""A server listens when it is ready for new items, but waits so long at most: hashed texts of a large catalogue take minutes."""


def serve(engine: Engine, folder: Path, *, host: str, port: int, key: str | None, store: str, drain: float, limits: Limits,
          beside: Engine | None = None, started: Callable[[str], None] = lambda address: None) -> None:
    """Answer until a signal ends it. beside: another run for the page; started: told the address once it listens; port 0 takes a
    free one.

    Raises `ConfigError` for a bind that isn't allowed or a port that is taken, `StoreError`.
    """
    check_bind(host, key)
    listener = bind(host, port)
    for each in filter(None, (engine, beside)):
        warm(each)
    service = Service(engine, open_store(store), limits=limits, metrics=Metrics(), folder=folder, beside=beside)
    service.wait_for_preparation(PREPARATION_SECONDS)
    config = uvicorn.Config(create_app(service, Guard(key)), http=impatient(limits, service.room, service.metrics), ws="none",
                            lifespan="on", log_config=logs.settings(), access_log=False, server_header=False, proxy_headers=False,
                            timeout_keep_alive=30, timeout_graceful_shutdown=FLUSH_SECONDS)
    address = listener.getsockname()
    name = f"[{address[0]}]" if ":" in address[0] else address[0]
    gc.collect()
    gc.freeze()  # the model and its catalogue stay: to look through them again stops all requests for a fifth of a second
    try:
        Server(config, service, drain, lambda: started(f"http://{name}:{address[1]}")).run(sockets=[listener])
    finally:
        gc.unfreeze()


def warm(engine: Engine) -> None:
    """Ask once for a list and once for a reason, so that nobody waits for what is compiled, loaded or sorted with the first question."""
    snapshot = engine.snapshot
    request = Request(history=tuple(snapshot.catalog.items.ids[snapshot.alive][:2]))
    for answer in engine.recommend([request]):
        if answer.error is not None:
            raise answer.error
    if request.history:
        engine.explain(request, request.history[0])


def bind(host: str, port: int) -> socket.socket:
    """Return a listening socket. Raises `ConfigError`."""
    if not 0 <= port < 65_536:
        raise ConfigError(f"--port: want 0 to 65535, got {port}")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(1024)
    except OSError as error:
        raise ConfigError(f"--host {host} --port {port}: cannot listen there: {error.strerror or error}; choose another --port, "
                          "or 0 for any that is free") from None
    return listener


class Server(uvicorn.Server):
    """uvicorn's server with draining, reloading, and an exit code of 0 after a signal."""

    def __init__(self, config: uvicorn.Config, service: Service, drain: float, told: Callable[[], None] = lambda: None):
        super().__init__(config)
        self._service, self._drain, self._told = service, drain, told
        self._reloading: asyncio.Task | None = None

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()  # before the first signal is taken
        await super().serve(sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Raises `StoreError` for a store that may lose what it acknowledges."""
        try:
            await self._service.store.open()
        except SemidError:
            await self._service.close()
            raise
        await super().startup(sockets)
        self._loop.add_signal_handler(signal.SIGHUP, self._reload)
        self._told()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        is_second = self._service.is_draining
        self._service.is_draining = True
        if sig == signal.SIGINT or is_second:
            self.should_exit = True
        else:
            self._loop.call_soon_threadsafe(self._loop.call_later, self._drain, self._stop)

    def _stop(self) -> None:
        self.should_exit = True

    def _reload(self) -> None:
        if self._reloading is None or self._reloading.done():
            self._reloading = asyncio.create_task(self._reload_and_tell())

    async def _reload_and_tell(self) -> None:
        try:
            await self._service.reload()
        except Exception:
            log.exception("the run folder could not be read again; the earlier model goes on answering")

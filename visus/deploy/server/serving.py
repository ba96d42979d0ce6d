"""One worker: a listening socket, an event loop, signals, and an end that loses nothing.

The first SIGTERM or SIGINT drains: no new connections, requests under way are finished, idle connections closed. The
second ends at once. SIGHUP loads the bundle again.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from email.utils import formatdate

from fastapi import FastAPI
from uvicorn.config import Config
from uvicorn.server import ServerState

from visus.core.errors import ResourceError
from visus.deploy.server.connections import Connection
from visus.deploy.server.reload import Reloader
from visus.deploy.server.service import Service
from visus.deploy.server.settings import ServerSettings

SWEEP_SECONDS = 0.25
GRACE_SECONDS = 0.1   # for connections that the kernel has already taken when draining begins
BACKLOG = 1024        # connections that the kernel keeps for us
ACCEPTED_AT_ONCE = 32  # before those that are there are read: a burst of clients that are gone again evicts nobody


def listen(settings: ServerSettings) -> socket.socket:
    """A bound socket that listens. Raises ResourceError when the address is taken or not ours."""
    host = settings.host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # named, else asyncio sets no TCP_NODELAY
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((host, settings.port))
        found.listen(BACKLOG)
    except (OSError, OverflowError) as error:
        found.close()
        raise ResourceError(f"cannot be listened at: {getattr(error, 'strerror', None) or error}",
                            where=f"{settings.host}:{settings.port}",
                            remedy="Choose another with --port, or 0 for a free one") from None
    found.setblocking(False)
    return found


class Worker:
    """Serves `app` until it is stopped. reloader: for SIGHUP and, where settings.watch says so, for new bundles.
    parent: a descriptor that becomes readable when the supervisor is gone, which then is the signal to drain; a
    supervised worker leaves SIGINT to its supervisor."""

    def __init__(self, app: FastAPI, service: Service, settings: ServerSettings, reloader: Reloader | None = None,
                 parent: int | None = None):
        self.parent = parent
        self.app, self.service, self.settings, self.reloader = app, service, settings, reloader
        self.state = ServerState()
        self.lingering: set[Connection] = set()
        self._stop: asyncio.Event | None = None
        self._at_once = False
        self._loop: asyncio.AbstractEventLoop | None = None

    def stop(self) -> None:
        """Drain; a second call ends at once. May be called from another thread."""
        if self._loop is not None:
            with suppress(RuntimeError):  # it has ended
                self._loop.call_soon_threadsafe(self._signalled)

    def _signalled(self) -> None:
        assert self._stop is not None
        if self._stop.is_set():
            self._at_once = True
        self._stop.set()

    def _orphaned(self) -> None:
        assert self._loop is not None and self.parent is not None
        self._loop.remove_reader(self.parent)
        self._signalled()

    async def run(self, listening: socket.socket, on_listening: Callable[[], None] | None = None) -> bool:
        """True: everything under way was answered. The socket is closed."""
        settings, service = self.settings, self.service
        loop = asyncio.get_running_loop()
        self._loop, self._stop = loop, asyncio.Event()
        config = Config(self.app, lifespan="off", ws="none", log_config=None, proxy_headers=False, access_log=False,
                        interface="asgi3", timeout_keep_alive=settings.keep_alive_seconds)  # type: ignore[arg-type]
        config.load()
        self._stamp_date()
        server = await loop.create_server(lambda: Connection(config, self.state, service, self.lingering),
                                          sock=listening, backlog=ACCEPTED_AT_ONCE)
        listening.listen(BACKLOG)
        tasks = {asyncio.create_task(self._sweep())}
        if self.reloader is not None and settings.watch:
            tasks.add(asyncio.create_task(self.reloader.watch()))
        handled = self._handle_signals(loop, tasks)
        try:
            if on_listening is not None:
                on_listening()
            await self._stop.wait()
            return await self._drain(server)
        finally:
            server.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for number in handled:
                loop.remove_signal_handler(number)
            service.close()
            self._loop = None

    def _handle_signals(self, loop: asyncio.AbstractEventLoop, tasks: set[asyncio.Task[None]]) -> list[int]:
        if threading.current_thread() is not threading.main_thread():
            return []

        def reload() -> None:
            if self.reloader is not None:
                task = loop.create_task(_ignore_answer(self.reloader))
                tasks.add(task)
                task.add_done_callback(tasks.discard)

        loop.add_signal_handler(signal.SIGTERM, self._signalled)
        loop.add_signal_handler(signal.SIGINT, self._signalled if self.parent is None else _nothing)
        if self.parent is not None:
            loop.add_reader(self.parent, self._orphaned)
        loop.add_signal_handler(signal.SIGHUP, reload)
        return [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]

    async def _sweep(self) -> None:
        """Deadlines of connections, the Date header, and the gauges."""
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            now = time.monotonic()
            for connection in [*self.state.connections, *self.lingering]:
                if isinstance(connection, Connection):
                    connection.expire(now)
            self._stamp_date()
            metrics, service = self.service.metrics, self.service
            metrics.set("connections", len(self.state.connections))
            metrics.set("waiting", service.streams.waiting)
            metrics.set("running", service.streams.running)
            metrics.set("held_bytes", service.held.bytes)
            if service.log.lost:
                metrics.count("lost_log_lines", service.log.lost)
                service.log.lost = 0

    def _stamp_date(self) -> None:
        self.state.default_headers = [(b"date", formatdate(usegmt=True).encode())]

    async def _drain(self, server: asyncio.Server) -> bool:
        service = self.service
        service.drain()
        service.log.event("draining", pid=os.getpid(), connections=len(self.state.connections))
        end = time.monotonic() + self.settings.drain_seconds
        await asyncio.sleep(GRACE_SECONDS)
        server.close()
        for connection in list(self.state.connections):
            connection.shutdown()
        while (self.state.connections or self.state.tasks) and time.monotonic() < end and not self._at_once:
            await asyncio.sleep(0.02)
        clean = not self.state.tasks
        for connection in [*self.state.connections, *self.lingering]:
            connection.transport.abort()
        service.log.event("stopped", pid=os.getpid(), clean=clean)
        return clean


def _nothing() -> None:
    """The supervisor handles it."""


async def _ignore_answer(reloader: Reloader) -> None:
    await reloader.reload()

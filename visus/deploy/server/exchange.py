"""One request and its answer, from the first header to the log line."""

from __future__ import annotations

import os
import time
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from visus.deploy.server.streams import Job

_PREFIX = os.urandom(4).hex()
_count = 0


def new_id() -> str:
    """Unique over processes and time; a client cannot choose it."""
    global _count
    _count += 1
    return f"{_PREFIX}-{os.getpid():x}-{_count:x}"


class Exchange:
    """What is known of a request. Seconds: queue_s, decode_s, model_s. abandoned: nobody waits for the answer any more,
    so that a long computation may stop; read by the computing thread."""

    __slots__ = ("abandoned", "authorised", "bytes_in", "decode_s", "id", "images", "job", "model_s", "queue_s",
                 "route", "started", "status")

    def __init__(self) -> None:
        self.id = new_id()
        self.started = time.perf_counter()
        self.queue_s = self.decode_s = self.model_s = 0.0
        self.bytes_in = self.images = self.status = 0
        self.route = "other"
        self.authorised = self.abandoned = False
        self.job: Job | None = None

    def abandon(self) -> None:
        """The client is gone: what waits is dropped, what computes stops at the next image."""
        self.abandoned = True
        if self.job is not None:
            self.job.cancel()


CURRENT: ContextVar[Exchange | None] = ContextVar("visus_exchange", default=None)


def current() -> Exchange:
    """The exchange of the running task; a fresh one outside of a request."""
    found = CURRENT.get()
    return found if found is not None else Exchange()


class ClientGone(Exception):
    """The connection was lost before the answer: nobody is to be told anything."""


def in_scope(scope: dict[str, Any]) -> Any:
    """The connection (visus.deploy.server.connections.Connection) of an ASGI scope; None under another server."""
    return scope.get("state", {}).get("connection")

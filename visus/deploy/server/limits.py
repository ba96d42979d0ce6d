"""Reading a request's body: bounded for each request and for all that are held at once, refused before it is read."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from visus.deploy.server.errors import Refusal
from visus.deploy.server.exchange import ClientGone, Exchange, in_scope

Receive = Callable[[], Awaitable[Any]]

MOST_OVERHEAD, FREE_OVERHEAD = 3, 64 << 10  # of a chunked body: bytes on the wire for each of the body, and beyond


class Held:
    """Bytes of bodies in memory, against a budget. Used by the event loop only."""

    def __init__(self, most: int):
        self.most = most
        self.bytes = 0

    @contextmanager
    def lease(self) -> Iterator[Callable[[int], None]]:
        """A function that takes more bytes for one request; all are given back at the end. It raises Refusal (503)."""
        taken = 0

        def take(count: int) -> None:
            nonlocal taken
            if self.bytes + count > self.most:
                raise Refusal(503, "bodies_full", "The server holds as many bytes of requests as it may",
                              "Ask again after the given time", retry_after=1, close=True)
            self.bytes += count
            taken += count

        try:
            yield take
        finally:
            self.bytes -= taken


def header(scope: dict[str, Any], name: bytes) -> bytes | None:
    """The first header of this name (lower case)."""
    return next((value for key, value in scope["headers"] if key == name), None)


def check_declared(scope: dict[str, Any], most: int) -> None:
    """Raises Refusal: 413 for a Content-Length beyond `most` bytes, 400 for none that is a number."""
    declared = header(scope, b"content-length")
    if declared is None:
        return
    if not declared.isdigit():
        raise Refusal(400, "malformed_http", "Content-Length is not a number", "Send a well-formed request", close=True)
    if len(declared) > 18 or int(declared) > most:
        raise _too_large(most)


async def read_body(scope: dict[str, Any], receive: Receive, exchange: Exchange, most: int,
                    take: Callable[[int], None]) -> bytes:
    """The whole body. Raises Refusal: 413 beyond `most` bytes (from Content-Length before a byte is read, else as soon
    as they are there), 400 for a body that ends early or comes in tiny chunks, what `take` raises; ClientGone."""
    check_declared(scope, most)
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise ClientGone
        chunk = message.get("body", b"")
        if chunk:
            size += len(chunk)
            if size > most:
                raise _too_large(most)
            take(len(chunk))
            chunks.append(chunk)
        connection = in_scope(scope)
        chunked = header(scope, b"content-length") is None
        if chunked and connection is not None and connection.received > MOST_OVERHEAD * size + FREE_OVERHEAD:
            raise Refusal(400, "tiny_chunks", "The body comes in tiny chunks", "Send it with a Content-Length",
                          close=True)
        if not message.get("more_body", False):
            exchange.bytes_in = size
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)
        if connection is not None and connection.stopped is not None:
            raise connection.stopped


def _too_large(most: int) -> Refusal:
    return Refusal(413, "body_too_large", f"The body has more than {most} bytes",
                   "Send fewer or smaller images", close=True)

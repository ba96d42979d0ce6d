"""HTTP/1.1 connections that cannot be held open: uvicorn's protocol over httptools (the parser of Node.js), with
deadlines and a cap.

A client has a time for its headers, for its body (more for a large one, at a least rate), and for taking its answer. At
the cap a newcomer takes the place of the connection that is idle, or unfinished, for longest; it is refused only when
all others are being answered. An answer that ends a request early is followed by a pause in which a little more is read
and thrown away, as closing at once would make the kernel discard the answer on its way (RFC 9112, section 9.6).
"""

from __future__ import annotations

import asyncio
import math
import time
from typing import Any

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from visus.deploy.server.answers import encode
from visus.deploy.server.errors import Refusal
from visus.deploy.server.exchange import Exchange
from visus.deploy.server.gate import MOST_HEADER_BYTES
from visus.deploy.server.service import Service

LINGER_BYTES = 64 << 10   # read and thrown away after an early answer
LINGER_SECONDS = 2.0
FLUSH_SECONDS = 5.0       # for the last bytes of an answer, once the connection is to be closed
READ_BYTES = 64 << 10     # at a time
MOST_LINGERING = 256  # connections that wait to be told that there are too many
MOST_PIPELINED = 16   # requests of one connection that wait for the answer to another

_HEADERS, _BODY, _OTHER = range(3)


def too_many() -> Refusal:
    return Refusal(503, "too_many_connections", "The server has as many connections as it may",
                   "Ask again after the given time", retry_after=1, close=True)


class _Transport:
    """The transport as uvicorn sees it: what is written in one step of the event loop leaves in one packet, and closing
    is done gently."""

    def __init__(self, inner: Any, connection: Connection):
        self.inner, self.connection = inner, connection
        self.pending: list[bytes] = []

    def write(self, data: bytes) -> None:
        if data:
            if not self.pending:
                self.connection.loop.call_soon(self.flush)
            self.pending.append(data)

    def flush(self) -> None:
        if self.pending:
            data = b"".join(self.pending)
            self.pending.clear()
            if not self.inner.is_closing():
                self.inner.write(data)

    def write_eof(self) -> None:
        self.flush()
        self.inner.write_eof()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def close(self) -> None:
        self.flush()
        self.connection.close_gently()

    def is_closing(self) -> bool:
        return self.connection.lingering or self.inner.is_closing()


class Connection(HttpToolsProtocol):
    """exchange: the request that is being answered. stopped: why no more of its body will come, once that is known.
    received: bytes of its body as they came, with the sizes of chunks."""

    def __init__(self, config: Config, server_state: ServerState, service: Service, lingering: set[Connection]):
        super().__init__(config, server_state, {"connection": self})
        self.access_log = False  # the gate writes the log
        self.service, self.settings = service, service.settings
        self.others_lingering = lingering
        self.exchange: Exchange | None = None
        self.stopped: Refusal | None = None
        self.lingering = False
        self.received = 0
        self._answered: RequestResponseCycle | None = None  # the request whose turn it is; uvicorn's cycle: the latest
        self._phase = _HEADERS
        self._deadline = self._write_deadline = math.inf
        self._since = 0.0
        self._header_bytes = 0  # but for those that came in one piece with the end of the request before
        self._heads_again = False  # of a request whose headers are known
        self._deaf = False  # what follows is not HTTP/1.1
        self._thrown_away = 0

    # -- asyncio's protocol ----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if hasattr(transport, "max_size"):
            transport.max_size = READ_BYTES
        full = len(self.connections) >= self.settings.max_connections and not self._make_room()
        super().connection_made(_Transport(transport, self))  # type: ignore[arg-type]
        self._begin_headers()
        if full:
            self.connections.discard(self)
            self.service.metrics.count("refused_connections")
            if len(self.others_lingering) >= MOST_LINGERING:
                self.transport.abort()
                return
            self._tell(too_many())

    def data_received(self, data: bytes) -> None:
        if self.lingering:
            self._thrown_away += len(data)
            if self._thrown_away > LINGER_BYTES:
                self.flow.pause_reading()
            return
        if self._deaf:
            self.flow.pause_reading()
            return
        self.received += len(data)
        self._unset_keepalive_if_required()
        if self._phase == _OTHER and not self.answering:
            self._begin_headers()
        if self._phase == _HEADERS:
            self._header_bytes += len(data)
        try:
            self._parse(data)
        except httptools.HttpParserError:
            self._malformed()
        else:
            if self._phase == _HEADERS and self._header_bytes > MOST_HEADER_BYTES:
                self._malformed()
            elif self._phase == _BODY and self.stopped is None:
                self._deadline = self._since + self.settings.body_seconds + self.received / self.settings.least_rate

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """A client that ends within its body is told so; any other has gone."""
        if self._phase == _BODY and not self.lingering and self.stopped is None:
            self._stop(Refusal(400, "body_incomplete", "The body ends before its declared length",
                               "Send as many bytes as Content-Length says", close=True))
            return True
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        self.lingering = False
        self.others_lingering.discard(self)
        super().connection_lost(exc)
        if self._answered is not None:
            self._answered.disconnected = True
            self._answered.message_event.set()
        self.app_state = {}
        self.pipeline.clear()
        if self.exchange is not None:
            self.exchange.abandon()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._write_deadline = time.monotonic() + self.settings.body_seconds

    def resume_writing(self) -> None:
        super().resume_writing()
        self._write_deadline = math.inf

    # -- the parser's events ---------------------------------------------------------------------------------------

    def _parse(self, data: bytes) -> None:
        """A request that would rather speak another protocol is answered in this one (RFC 9110, section 7.8); httptools
        reads no further than its headers, so a parser that does not see the wish goes on."""
        while True:
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as wish:
                kept = [name + b": " + value for name, value in self.headers if name not in (b"upgrade", b"connection")]
                head = b"\r\n".join([self.parser.get_method() + b" / HTTP/1.1", *kept, b"", b""])
                data = head + data[wish.args[0]:]
                self.parser = httptools.HttpRequestParser(self)
                self._heads_again = True

    def on_message_begin(self) -> None:
        if self._heads_again:
            return
        if len(self.pipeline) >= MOST_PIPELINED:
            self.transport.abort()
            raise ConnectionAbortedError
        super().on_message_begin()
        if self._phase != _HEADERS:
            self._begin_headers()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._phase == _HEADERS:  # else they come behind a body, or again
            super().on_header(name, value.strip(b" \t"))

    def on_headers_complete(self) -> None:
        if self._heads_again:
            self._heads_again = False
            return
        if self.parser.get_http_version() == "0.9" or self.parser.get_method() == b"CONNECT":  # 0.9: no version at all
            raise httptools.HttpParserError
        super().on_headers_complete()
        self._phase, self._since, self.received = _BODY, time.monotonic(), 0

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():  # only its headers are
            return
        super().on_message_complete()
        self._phase, self._since, self._deadline = _OTHER, time.monotonic(), math.inf

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answered = cycle
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._phase != _OTHER and not self.transport.is_closing():  # what is read next was not waited for until now
            self._start_clock()

    @property
    def answering(self) -> bool:
        """Whether an answer is awaited, or on its way."""
        return self._answered is not None and not self._answered.response_complete

    @property
    def _waits(self) -> bool:
        """Whether what is read next is what the connection waits for, not a request behind the one that is answered."""
        return not self.answering or self._phase == _BODY and self._answered is self.cycle

    def _begin_headers(self) -> None:
        self._phase, self._header_bytes = _HEADERS, 0
        self._start_clock()

    def _start_clock(self) -> None:
        """Of headers or a body that are waited for from now on."""
        self._since = time.monotonic()
        self._deadline = self._since + (self.settings.header_seconds if self._phase == _HEADERS else
                                        self.settings.body_seconds)

    def _malformed(self) -> None:
        """What cannot be read: 431 for endless headers, else 400, after the answers to requests that are whole; nothing
        where its own answer has begun."""
        if self.transport.is_closing():
            return
        self._deaf = True
        why = Refusal(431, "headers_too_large", f"The headers have more than {MOST_HEADER_BYTES} bytes",
                      "Send fewer of them", close=True) if self._header_bytes > MOST_HEADER_BYTES else \
            Refusal(400, "malformed_http", "This is not HTTP/1.1", "Send a well-formed request", close=True)
        if not self._waits:
            if self._phase == _BODY:
                self._stop(why)
            self.cycle.keep_alive = False
            self._phase, self._deadline = _OTHER, math.inf
        elif self._waits_for_body:
            self._stop(why)
        else:
            self._tell(why)

    # -- deadlines -------------------------------------------------------------------------------------------------

    def _make_room(self) -> bool:
        """End another connection. False: all of them are being answered."""
        others = [other for other in self.connections if isinstance(other, Connection)]
        victim = min(others, key=lambda other: other.rank, default=None)
        if victim is None or victim.rank[0] == 3:
            return False
        self.service.metrics.count("refused_connections")
        victim.give_way()
        return True

    @property
    def rank(self) -> tuple[int, float]:
        """Who goes first: idle, unfinished headers, an unfinished body; never (3) one that is being answered."""
        if self.answering:
            return 2 if self._phase == _BODY else 3, self._since
        return 1 if self._phase == _HEADERS else 0, self._since

    def give_way(self) -> None:
        self.connections.discard(self)
        if self.rank[0] == 0 or len(self.others_lingering) >= MOST_LINGERING:
            self.transport.abort()
        elif self._waits_for_body:
            self._stop(too_many())
        else:
            self._tell(too_many())

    @property
    def _waits_for_body(self) -> bool:
        return self._phase == _BODY and self._answered is self.cycle and not self.cycle.response_started

    def expire(self, now: float) -> None:
        """Called often: ends the connection when a deadline has passed."""
        if (now < self._deadline or not self._waits) and now < self._write_deadline:
            return
        if self.lingering or self.transport.is_closing() or now >= self._write_deadline:
            self.transport.abort()
            return
        slow = Refusal(408, "too_slow", "The request came too slowly", "Send it again over a faster connection",
                       close=True)
        if self._waits_for_body:
            self._stop(slow)
        else:
            self._tell(slow)

    def _stop(self, why: Refusal) -> None:
        """The application, which waits for the body, answers with this."""
        self.stopped = why
        self._deadline = time.monotonic() + LINGER_SECONDS
        self.cycle.keep_alive = False
        self.cycle.message_event.set()

    # -- ending ----------------------------------------------------------------------------------------------------

    def _tell(self, refusal: Refusal) -> None:
        """An answer without the application, and the end."""
        unanswered = not self.cycle.response_started if self.answering else self._phase == _HEADERS
        if unanswered and not self.transport.is_closing():
            body = encode({"error": refusal.about("-")})
            lines = [b"content-type: application/json", b"content-length: %d" % len(body), b"cache-control: no-store",
                     *(name + b": " + value for name, value in refusal.headers())]
            self.transport.write(STATUS_LINE[refusal.status] + b"\r\n".join(lines) + b"\r\n\r\n" + body)
            self.service.metrics.request("other", refusal.status, 0.0)
            self._linger()
        else:
            self.transport.abort()

    def close_gently(self) -> None:
        """Close; with unread bytes on their way, only after the other side had the time to read the answer."""
        if self.lingering or self.transport.inner.is_closing():  # type: ignore[attr-defined]
            return
        if self._phase == _BODY or self._deaf:
            self._linger()
            return
        self._deadline = time.monotonic() + FLUSH_SECONDS
        self.transport.inner.close()  # type: ignore[attr-defined]

    def _linger(self) -> None:
        self._deadline = time.monotonic() + LINGER_SECONDS
        self._unset_keepalive_if_required()
        self.others_lingering.add(self)
        self.lingering = True
        try:
            self.transport.write_eof()
            self.flow.resume_reading()
        except (OSError, RuntimeError):
            self.transport.abort()

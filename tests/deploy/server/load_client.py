"""An HTTP/1.1 client on bare sockets for loading and abusing a server on the loopback device, and a probe that looks at
the server's processes from outside. Nothing here is shared with what is tested: bytes are written by hand, answers are
read by the rules of RFC 9112.

Latencies of the open loop count from the moment at which a request was due, not from the moment at which a connection
was free for it, so that a server that stalls cannot hide the requests that it kept from being sent (coordinated
omission; Tene, 2013).
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from types import TracebackType
from typing import Any

Address = tuple[str, int]
LINE = 1 << 16  # bytes that a reader keeps at most before it waits
PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Answer:
    """status 0: none came (`lost` says why). seconds: from when the request was due until the last byte of the answer.
    at: time.monotonic() of that. interim: statuses of 1xx before it."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    seconds: float = 0.0
    at: float = 0.0
    number: int = -1
    interim: tuple[int, ...] = ()
    lost: str = ""

    def json(self) -> Any:
        return json.loads(self.body)


class Lost(Exception):
    """The connection ended before an answer was whole. `began`: whether a byte of it had come."""

    def __init__(self, problem: str, began: bool = False):
        super().__init__(problem)
        self.began = began


def request(method: str = "GET", path: str = "/", body: bytes = b"", headers: Iterable[tuple[str, str]] = (), *,
            host: str = "127.0.0.1", length: int | None = None) -> bytes:
    """A request as bytes. length: what Content-Length says; None the truth, -1 no such line."""
    lines = [f"{method} {path} HTTP/1.1"]
    given = {name.lower() for name, _ in headers}
    if "host" not in given:
        lines.append(f"Host: {host}")
    if length != -1 and "content-length" not in given and (body or length is not None or method in ("POST", "PUT")):
        lines.append(f"Content-Length: {len(body) if length is None else length}")
    lines += [f"{name}: {value}" for name, value in headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + body


def multipart(files: Iterable[tuple[str, str, bytes]], boundary: str = "edge-of-a-part",
              kind: str = "image/png") -> tuple[bytes, tuple[str, str]]:
    """(field, file name, content)s as a body and its Content-Type line (RFC 7578)."""
    parts = [f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"; filename="{file}"\r\n'
             f"Content-Type: {kind}\r\n\r\n".encode() + content + b"\r\n" for name, file, content in files]
    line = ("Content-Type", f"multipart/form-data; boundary={boundary}")
    return b"".join(parts) + f"--{boundary}--\r\n".encode(), line


def chunked(pieces: Iterable[bytes]) -> bytes:
    """The pieces in the chunked transfer coding, ended."""
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces if piece) + b"0\r\n\r\n"


class Connection:
    """One connection. Use as an asynchronous context manager, or open and close it."""

    def __init__(self, address: Address, *, receive_buffer: int | None = None):
        self.address, self.receive_buffer = address, receive_buffer
        self.reader: asyncio.StreamReader
        self.writer: asyncio.StreamWriter

    async def open(self) -> Connection:
        raw = socket.socket()
        raw.setblocking(False)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.receive_buffer is not None:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.receive_buffer)
        try:
            await asyncio.get_running_loop().sock_connect(raw, self.address)
            self.reader, self.writer = await asyncio.open_connection(sock=raw, limit=LINE)
        except BaseException:
            raw.close()
            raise
        return self

    async def __aenter__(self) -> Connection:
        return await self.open()

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None,
                        trace: TracebackType | None) -> None:
        await self.close()

    async def close(self) -> None:
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except OSError:
            pass

    def abort(self) -> None:
        """End with RST, as a client does that was killed."""
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.writer.transport.abort()

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def ask(self, data: bytes, method: str = "POST") -> Answer:
        """Send the bytes of a request, read its answer. Raises Lost. A server may answer, and close, before it has
        read all: what was answered counts, although sending fails."""
        start = time.monotonic()
        sending = asyncio.ensure_future(self.send(data))
        try:
            return await self.answer(method, start)
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)

    async def answer(self, method: str = "POST", start: float | None = None) -> Answer:
        """The next answer on this connection. Raises Lost, and ValueError for what is not HTTP/1.1."""
        start = time.monotonic() if start is None else start
        interim: list[int] = []
        began = False
        try:
            while True:
                line = await self.reader.readuntil(b"\r\n")
                began = True
                version, _, rest = line.decode("latin-1").partition(" ")
                if version not in ("HTTP/1.1", "HTTP/1.0") or not rest[:3].isdigit():
                    raise ValueError(f"not a status line: {line[:80]!r}")
                status = int(rest[:3])
                headers: dict[str, str] = {}
                while (line := await self.reader.readuntil(b"\r\n")) != b"\r\n":
                    name, _, value = line.decode("latin-1").partition(":")
                    headers[name.strip().lower()] = value.strip()
                if status >= 200:
                    break
                interim.append(status)
            body = await self._body(status, headers, method)
        except (asyncio.IncompleteReadError, OSError) as error:
            raise Lost(f"{type(error).__name__}: {error}", began) from None
        now = time.monotonic()
        return Answer(status, headers, body, now - start, now, interim=tuple(interim))

    async def _body(self, status: int, headers: dict[str, str], method: str) -> bytes:
        if method == "HEAD" or status in (204, 304):
            return b""
        if headers.get("transfer-encoding", "").lower() == "chunked":
            parts = []
            while size := int((await self.reader.readuntil(b"\r\n")).split(b";")[0], 16):
                parts.append(await self.reader.readexactly(size))
                await self.reader.readexactly(2)
            await self.reader.readuntil(b"\r\n")
            return b"".join(parts)
        if "content-length" in headers:
            return await self.reader.readexactly(int(headers["content-length"]))
        return await self.reader.read()

    async def ended(self, within: float) -> bool:
        """Whether the server closes the connection within the time (s); what it sends before is thrown away."""
        try:
            async with asyncio.timeout(within):
                while await self.reader.read(LINE):
                    pass
        except TimeoutError:
            return False
        except OSError:
            pass
        return True


async def ask(address: Address, data: bytes, method: str = "POST", within: float = 60) -> Answer:
    """One request on a connection of its own. Raises Lost, TimeoutError."""
    async with asyncio.timeout(within), Connection(address) as connection:
        return await connection.ask(data, method)


class _Kept:
    """A connection that is opened again when the server closed it, as every client that keeps connections does."""

    def __init__(self, address: Address):
        self.address = address
        self.connection: Connection | None = None

    async def ask(self, data: bytes) -> Answer:
        for attempt in (1, 2):
            fresh = self.connection is None
            if self.connection is None:
                self.connection = await Connection(self.address).open()
            try:
                answer = await self.connection.ask(data)
            except Lost as error:
                await self.close()
                if fresh or error.began or attempt == 2:  # else it had been closed while idle: RFC 9112, 9.3.1
                    raise
                continue
            except BaseException:
                await self.close()
                raise
            if answer.headers.get("connection", "").lower() == "close":
                await self.close()
            return answer
        raise AssertionError

    async def close(self) -> None:
        if self.connection is not None:
            old, self.connection = self.connection, None
            await old.close()


async def _timed(kept: _Kept, number: int, data: bytes, due: float, within: float) -> Answer:
    try:
        async with asyncio.timeout(within):
            got = await kept.ask(data)
        lost, status, headers, body = "", got.status, got.headers, got.body
    except (Lost, OSError, ValueError, TimeoutError) as error:
        lost, status, headers, body = f"{type(error).__name__}: {error}", 0, {}, b""
    now = time.monotonic()
    return Answer(status, headers, body, now - due, now, number, (), lost)


async def closed_loop(address: Address, requests: Sequence[bytes], count: int, connections: int, *,
                      within: float = 60, until: Callable[[], bool] = lambda: False,
                      seen: list[Answer] | None = None) -> list[Answer]:
    """`count` requests, number i being requests[i % len(requests)], on so many kept connections, each of which asks
    again as soon as it was answered. until: ends it early. Answers in order of arrival, also in `seen`."""
    answers: list[Answer] = [] if seen is None else seen
    numbers = iter(range(count))

    async def one() -> None:
        kept = _Kept(address)
        try:
            for number in numbers:
                if until():
                    return
                answers.append(await _timed(kept, number, requests[number % len(requests)], time.monotonic(), within))
        finally:
            await kept.close()

    await asyncio.gather(*(one() for _ in range(connections)))
    return answers


def arrivals(count: int, rate: float, *, seed: int = 0, even: bool = False) -> list[float]:
    """Moments in s from the start: of a Poisson process of `rate` per second, or evenly spaced."""
    draw = random.Random(seed)
    return list(accumulate(1 / rate if even else draw.expovariate(rate) for _ in range(count)))


async def open_loop(address: Address, requests: Sequence[bytes], count: int, rate: float, *, seed: int = 0,
                    even: bool = False, connections: int = 512, within: float = 60) -> list[Answer]:
    """`count` requests at moments of a Poisson process of `rate` per second, or evenly spaced, whatever the server
    does; latencies count from those moments. At most so many connections at a time. Answers in order of arrival."""
    moments = arrivals(count, rate, seed=seed, even=even)
    idle: list[_Kept] = []
    places = asyncio.Semaphore(connections)
    answers: list[Answer] = []

    async def one(number: int, due: float) -> None:
        async with places:
            kept = idle.pop() if idle else _Kept(address)
            answers.append(await _timed(kept, number, requests[number % len(requests)], due, within))
            idle.append(kept)

    start, tasks = time.monotonic(), []
    for number, moment in enumerate(moments):
        if (wait := start + moment - time.monotonic()) > 0:
            await asyncio.sleep(wait)
        tasks.append(asyncio.ensure_future(one(number, start + moment)))
    await asyncio.gather(*tasks)
    for kept in idle:
        await kept.close()
    return answers


# -- clients that misbehave --------------------------------------------------------------------------------------


async def trickle(address: Address, data: bytes, every: float, within: float) -> tuple[float, int]:
    """Send the bytes one at a time, one `every` s, and never the last, until the server ends the connection.

    (seconds that it stayed open, status that was answered or 0). Raises TimeoutError when it is open after `within`.
    """
    start = time.monotonic()
    async with Connection(address) as connection:
        async def write() -> None:
            for place in range(len(data) - 1):
                await connection.send(data[place:place + 1])
                await asyncio.sleep(every)
            await asyncio.Event().wait()

        writing = asyncio.ensure_future(write())
        try:
            async with asyncio.timeout(within):
                try:
                    status = (await connection.answer(start=start)).status
                    while await connection.reader.read(LINE):
                        pass
                except (Lost, OSError):
                    status = 0
        finally:
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)
    return time.monotonic() - start, status


async def unread(address: Address, data: bytes, times: int, within: float) -> bool:
    """Ask many times on one connection and read nothing. Whether the server ended the connection in time."""
    connection = await Connection(address, receive_buffer=2048).open()
    connection.reader._transport.pause_reading()  # type: ignore[attr-defined]  # the kernel's buffers fill
    raw = connection.writer.get_extra_info("socket")
    start = time.monotonic()
    try:
        sent = 0
        while time.monotonic() - start < within:
            try:
                if sent < times and connection.writer.transport.get_write_buffer_size() == 0:
                    connection.writer.write(data)
                    sent += 1
            except OSError:
                return True
            if raw.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) or tcp_state(raw) != 1:
                return True
            await asyncio.sleep(0.02)
        return False
    finally:
        connection.abort()


def tcp_state(raw: socket.socket) -> int:
    """1 for an established connection, 8 when the other side has closed, 7 when it was reset (linux/tcp_states.h)."""
    return raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]


# -- the server, seen from outside -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Look:
    """at: time.monotonic(). rss: bytes resident. fds, threads: how many. Of the process and all that it started."""

    at: float
    rss: int
    fds: int
    threads: int


def family(pid: int) -> list[int]:
    """The process and its descendants that live."""
    found, place = [pid], 0
    while place < len(found):
        for tasks in Path(f"/proc/{found[place]}/task").glob("*/children"):
            try:
                found += [int(word) for word in tasks.read_text().split()]
            except OSError:
                pass
        place += 1
    return found


def look(pid: int) -> Look:
    rss = fds = threads = 0
    for member in family(pid):
        try:
            status = Path(f"/proc/{member}/stat").read_text().rpartition(")")[2].split()
            fds += len(os.listdir(f"/proc/{member}/fd"))
        except OSError:
            continue
        rss, threads = rss + int(status[21]) * PAGE, threads + int(status[17])
    return Look(time.monotonic(), rss, fds, threads)


class Probe:
    """Looks at a process every 100 ms, in a thread, while the context lasts."""

    def __init__(self, pid: int, every: float = 0.1):
        self.pid, self.every = pid, every
        self.looks: list[Look] = []
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while True:
            self.looks.append(look(self.pid))
            if self._done.wait(self.every):
                return

    def __enter__(self) -> Probe:
        self._thread.start()
        while not self.looks:
            time.sleep(0.001)
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self.looks.append(look(self.pid))

    @property
    def growth(self) -> int:
        """The most bytes of memory beyond those at the beginning."""
        return max(one.rss for one in self.looks) - self.looks[0].rss

    @property
    def peak(self) -> int:
        return max(one.rss for one in self.looks)


def quantile(values: Iterable[float], share: float) -> float:
    """The smallest value that at least this share of them does not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * round(share * 1000) // 1000) - 1)]

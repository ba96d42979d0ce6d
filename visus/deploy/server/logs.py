"""Structured logs: one JSON object a line, written by a thread of its own, so that a slow disk delays no answer.

A line holds no image, and what a client chose only escaped and shortened.
"""

from __future__ import annotations

import datetime
import json
import queue
import sys
import threading
import traceback
from typing import IO, Any

from visus.core.errors import ResourceError, printable
from visus.deploy.server.exchange import Exchange

MOST_LINES = 10_000  # that wait for the disk; beyond them lines are counted, not kept
LONGEST = 200        # characters of a client's text


class Log:
    """target: '-' standard error, '' nothing but errors and events, or a file that is appended to."""

    def __init__(self, target: str = "-"):
        self.requests = bool(target)
        self.lost = 0
        self._own = target not in ("", "-")
        try:
            self._file: IO[str] = open(target, "a", 1, encoding="utf-8") if self._own else sys.stderr  # noqa: SIM115
        except OSError as error:
            raise ResourceError(f"cannot be written: {error.strerror or error}", where=target) from None
        self._lines: queue.Queue[str | None] = queue.Queue(MOST_LINES)
        self._thread = threading.Thread(target=self._write, name="visus-log", daemon=True)
        self._thread.start()

    def event(self, event: str, **about: Any) -> None:
        """Something about the server: started, reloaded, refused, stopped."""
        self._put({"event": event, **about})

    def request(self, exchange: Exchange, method: str, path: str, seconds: float) -> None:
        if not self.requests:
            return
        self._put({"event": "request", "id": exchange.id, "method": shown(method), "path": shown(path),
                   "route": exchange.route, "status": exchange.status, "bytes": exchange.bytes_in,
                   "images": exchange.images, "ms": _ms(seconds), "queue_ms": _ms(exchange.queue_s),
                   "decode_ms": _ms(exchange.decode_s), "model_ms": _ms(exchange.model_s)})

    def failure(self, exchange: Exchange, error: BaseException) -> None:
        """A bug, with its traceback, for the operator; the client is told the id."""
        text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        self._put({"event": "failure", "id": exchange.id, "route": exchange.route, "traceback": text[-8000:]})

    def close(self) -> None:
        """Writes what waits, for at most two seconds."""
        try:
            self._lines.put(None, timeout=1)
        except queue.Full:
            return
        self._thread.join(2)

    def _put(self, about: dict[str, Any]) -> None:
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        try:
            self._lines.put_nowait(json.dumps({"time": now, **about}, ensure_ascii=True) + "\n")
        except queue.Full:
            self.lost += 1

    def _write(self) -> None:
        while (line := self._lines.get()) is not None:
            try:
                self._file.write(line)
                if self._lines.empty():
                    self._file.flush()
            except (OSError, ValueError):  # a full disk or a closed terminal ends no server
                self.lost += 1
        if self._own:
            self._file.close()


def shown(text: str) -> str:
    return printable(text[:LONGEST])


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)

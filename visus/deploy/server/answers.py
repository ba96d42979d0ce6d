"""JSON over ASGI, by orjson where it is installed."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

Send = Callable[[Any], Awaitable[None]]

try:
    import orjson

    def encode(value: Any) -> bytes:
        return orjson.dumps(value)

    def decode(data: bytes) -> Any:
        """Raises ValueError."""
        return orjson.loads(data)
except ImportError:
    def encode(value: Any) -> bytes:
        return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()

    def decode(data: bytes) -> Any:
        """Raises ValueError."""
        try:
            return json.loads(data)
        except RecursionError:
            raise ValueError("nested too deeply") from None


async def send_bytes(send: Send, status: int, body: bytes, kind: bytes,
                     headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [
        (b"content-type", kind), (b"content-length", b"%d" % len(body)), *headers]})
    await send({"type": "http.response.body", "body": body})


async def send_json(send: Send, status: int, value: Any, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
    await send_bytes(send, status, encode(value), b"application/json", headers)

"""POST /predict: image files in, classes out."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs

from visus.deploy.server.answers import Send, encode, send_bytes
from visus.deploy.server.errors import Refusal
from visus.deploy.server.exchange import Exchange, current
from visus.deploy.server.limits import Receive, check_declared, header, read_body
from visus.deploy.server.multipart import Part, files
from visus.deploy.server.service import Answering, Service, refused

TOP = 5
MOST_TOP = 1000


class Predict:
    """ASGI. The body is read here, all else is done on a stream."""

    def __init__(self, service: Service):
        self.service = service

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        service, exchange = self.service, current()
        exchange.route = "predict"
        settings = service.settings
        kind = header(scope, b"content-type") or b""
        form = kind.lstrip().lower().startswith(b"multipart/form-data")
        most = settings.max_body_bytes + (4096 * settings.max_images if form else 0)  # boundaries and part headers
        check_declared(scope, most)
        media = kind.partition(b";")[0].strip().lower()
        if not form and not media.startswith(b"image/"):
            raise Refusal(415, "unsupported_media_type", "The body is neither a form with files nor an image",
                          "Send multipart/form-data (curl -F file=@cat.jpg), or an image with its Content-Type",
                          close=True)
        top = top_of(scope)
        with service.held.lease() as take:
            body = await read_body(scope, receive, exchange, most, take)
            answer = await service.submit(self.answer, service.answering, exchange, body, kind if form else None, top)
        await send_bytes(send, 200, answer, b"application/json")

    def answer(self, answering: Answering, exchange: Exchange, body: bytes, form: bytes | None, top: int) -> bytes:
        """form: the Content-Type of a form; None for a body that is one image. Raises Refusal when no image can be
        answered."""
        service = self.service
        parts = [Part("image", body)] if form is None else files(body, form, service.settings.max_images)
        results: list[dict[str, Any]] = []
        bad: list[Refusal] = []
        for part in parts:
            try:
                results.append(service.classify(answering, exchange, part.data, part.name, top))
            except Refusal as refusal:
                bad.append(refusal)
                results.append(refused(part.name, refusal, exchange))
        if len(bad) == len(parts):
            first = bad[0]
            if len(parts) > 1:
                first.problem = f"None of the {len(parts)} images can be used; the first: {first.problem}"
            raise first
        return encode({"model": answering.name, "version": answering.version, "results": results})


def top_of(scope: dict[str, Any]) -> int:
    """The query's `top`. Raises Refusal (400)."""
    query = scope["query_string"]
    if not query:
        return TOP
    try:
        given = parse_qs(query.decode("ascii"), keep_blank_values=True, max_num_fields=20).get("top", [str(TOP)])
        if len(given) == 1 and given[0].isascii() and given[0].isdecimal() and len(given[0]) <= 4 \
                and 1 <= int(given[0]) <= MOST_TOP:
            return int(given[0])
    except ValueError:
        pass
    raise Refusal(400, "bad_parameter", f"top is not a whole number from 1 to {MOST_TOP}",
                  "Send ?top=5, or leave it out", close=True)

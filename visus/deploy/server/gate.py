"""The first and the last that a request meets: who may ask, and what is written down of the answer.

Every answer gets the headers that keep a browser from misusing it; every error becomes JSON without a word of ours.
"""

from __future__ import annotations

import time
from typing import Any

from visus.deploy.server.answers import Send, send_json
from visus.deploy.server.errors import Refusal, internal
from visus.deploy.server.exchange import CURRENT, ClientGone, Exchange, in_scope
from visus.deploy.server.keys import accepted, given
from visus.deploy.server.limits import Receive, header
from visus.deploy.server.service import Service

SECURITY = (
    (b"content-security-policy", b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: "
     b"data:; media-src 'self' blob:; connect-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; "
     b"frame-ancestors 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(self), microphone=(), geolocation=()"),
)
NO_STORE = (b"cache-control", b"no-store")
OPEN_PATHS = frozenset(("/", "/favicon.ico", "/openapi.json", "/v2/health/live", "/v2/health/ready"))
OPEN_FOLDER = "/page/"  # the page's own files: it asks for the key itself
PROTOCOL = "/v2"        # below it an error is {"error": text}, as the Open Inference Protocol has it
MOST_HEADER_BYTES = 16 << 10
MOST_HEADERS = 100
GONE = 499              # of a client that did not wait, in the log and the counts


class Gate:
    """ASGI: checks, then the application, then the log line."""

    def __init__(self, app: Any, service: Service):
        self.app, self.service = app, service
        self.hosts = service.settings.host_names

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        exchange = Exchange()
        connection = in_scope(scope)
        if connection is not None:
            connection.exchange = exchange
        token = CURRENT.set(exchange)

        async def sending(message: Any) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                headers = [*message.get("headers", ()), *SECURITY, (b"x-request-id", exchange.id.encode())]
                if self.service.draining:
                    headers.append((b"connection", b"close"))
                if not any(name == b"cache-control" for name, _ in headers):
                    headers.append(NO_STORE)
                message = {**message, "headers": headers}
            await send(message)

        try:
            self.check(scope, exchange)
            await self.app(scope, receive, sending)
        except Refusal as refusal:
            await self._refuse(scope, refusal, exchange, sending)
        except ClientGone:
            exchange.status = GONE
        except Exception as error:  # a bug: the client is told its id, the operator the rest
            self.service.log.failure(exchange, error)
            await self._refuse(scope, internal(), exchange, sending)
        finally:
            CURRENT.reset(token)
            if connection is not None:
                connection.exchange = None
            self._record(scope, exchange)

    def check(self, scope: dict[str, Any], exchange: Exchange) -> None:
        """Raises Refusal: 505, 431 and 400 for headers that are too many or that readers may understand differently
        (request smuggling), 421 for a foreign Host (DNS rebinding), 401 without a key, 403 for another site's page."""
        if scope["http_version"] not in ("1.0", "1.1", "2"):
            raise Refusal(505, "unknown_version", "The server speaks HTTP/1.1", "Send HTTP/1.1", close=True)
        host = None
        hosts = lengths = codings = size = 0
        for name, value in scope["headers"]:
            size += len(name) + len(value)
            if name == b"host":
                host = value
                hosts += 1
            elif name == b"content-length":
                lengths += 1
            elif name == b"transfer-encoding":
                codings += 1
        if size > MOST_HEADER_BYTES or len(scope["headers"]) > MOST_HEADERS:
            raise Refusal(431, "headers_too_large", f"The headers have more than {MOST_HEADER_BYTES} bytes or "
                          f"{MOST_HEADERS} lines", "Send fewer of them", close=True)
        if lengths > 1 or lengths and codings:
            raise Refusal(400, "ambiguous_length", "The request states its length twice",
                          "Send Content-Length or Transfer-Encoding, not both", close=True)
        if hosts > 1 or not hosts and scope["http_version"] == "1.1":
            raise Refusal(400, "malformed_http", "The request does not name its host, or names it twice",
                          "Send one Host header", close=True)
        host = host or b""
        if self.hosts and _host_name(host) not in self.hosts:
            raise Refusal(421, "unknown_host", "The Host header names another server",
                          "Use the address that the server printed at its start", close=True)
        keys = self.service.settings.keys
        exchange.authorised = not keys or accepted(given(scope["headers"]), keys)
        path = scope["path"]
        if not exchange.authorised and path not in OPEN_PATHS and not path.startswith(OPEN_FOLDER):
            raise Refusal(401, "key_needed", "No valid API key was given",
                          "Send the header 'Authorization: Bearer KEY' or 'X-API-Key: KEY'")
        if scope["method"] not in ("GET", "HEAD") and not (keys and exchange.authorised):
            self._check_origin(scope, host)

    def _check_origin(self, scope: dict[str, Any], host: bytes) -> None:
        origin, site = header(scope, b"origin"), header(scope, b"sec-fetch-site")
        foreign = origin is not None and origin.lower() not in (b"http://" + host.lower(), b"https://" + host.lower())
        if foreign or site not in (None, b"same-origin", b"none"):
            raise Refusal(403, "cross_origin", "Another site's page may not ask this server",
                          "Ask from the server's own page, or from a program")

    async def _refuse(self, scope: dict[str, Any], refusal: Refusal, exchange: Exchange, send: Send) -> None:
        if exchange.status:  # the answer has begun: it cannot become another
            return
        about = refusal.about(exchange.id)
        value: Any = {"error": f"{about['problem']}. {about['remedy']} (id {exchange.id})"} \
            if is_protocol(scope["path"]) else {"error": about}
        await send_json(send, refusal.status, value, refusal.headers())

    def _record(self, scope: dict[str, Any], exchange: Exchange) -> None:
        service, metrics = self.service, self.service.metrics
        seconds = time.perf_counter() - exchange.started
        status = exchange.status or GONE
        exchange.status = status
        metrics.request(exchange.route, status, seconds)
        if exchange.images:
            metrics.count("images", exchange.images)
            metrics.stage("queue", exchange.queue_s)
            metrics.stage("decode", exchange.decode_s)
            metrics.stage("model", exchange.model_s)
        service.log.request(exchange, scope["method"], scope["path"], seconds)


def is_protocol(path: str) -> bool:
    return path == PROTOCOL or path.startswith(PROTOCOL + "/")


def _host_name(value: bytes) -> str:
    """'localhost:8000' -> 'localhost', '[::1]:8000' -> '[::1]'."""
    text = value.decode("latin-1").lower()
    if text.startswith("["):
        return text.partition("]")[0] + "]"
    return text.partition(":")[0]

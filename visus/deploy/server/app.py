"""The application: its routes behind the gate. `make_app` gives FastAPI's object, for any ASGI server.

Routes: POST /predict, the Open Inference Protocol below /v2, GET /metrics, GET /limits, GET /openapi.json, and the
page's. Where keys are set they are asked for everywhere but at /, below /page/, /openapi.json and /v2/health.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from visus import __version__
from visus.deploy.server.answers import Send, encode, send_bytes, send_json
from visus.deploy.server.exchange import current
from visus.deploy.server.gate import Gate, is_protocol
from visus.deploy.server.limits import Receive
from visus.deploy.server.metrics import CONTENT_TYPE
from visus.deploy.server.open_inference import Models, limits, metadata
from visus.deploy.server.predict import Predict
from visus.deploy.server.schema import openapi
from visus.deploy.server.service import Service
from visus.deploy.server.settings import ServerSettings

_WORDS = {404: ("not_found", "There is nothing at this address", "See /openapi.json"),
          405: ("method_not_allowed", "This address takes another method", "See the header Allow, and /openapi.json")}


def make_app(service: Service, settings: ServerSettings) -> FastAPI:
    """The routes of `service`, and the page where it is there. `settings` are the service's own."""
    app = _Application(service, title="Visus", version=__version__, docs_url=None, redoc_url=None, openapi_url=None,
                       redirect_slashes=False)
    app.router.routes[:0] = [
        Route("/predict", Predict(service), methods=["POST"], include_in_schema=False),
        Route("/v2/models/{path:path}", Models(service), include_in_schema=False),
        Route("/v2/health/live", _Live(), methods=["GET"], include_in_schema=False),
        Route("/v2/health/ready", _Ready(service), methods=["GET"], include_in_schema=False),
        Route("/v2", _Answer(lambda: metadata(service), "metadata"), methods=["GET"], include_in_schema=False),
        Route("/limits", _Answer(lambda: limits(service), "metadata"), methods=["GET"], include_in_schema=False),
        Route("/metrics", _Metrics(service), methods=["GET"], include_in_schema=False),
        Route("/openapi.json", _Answer(lambda: app.openapi(), "metadata"), methods=["GET"], include_in_schema=False),
    ]
    if importlib.util.find_spec("visus.deploy.server.page") is not None:
        page: Any = importlib.import_module("visus.deploy.server.page")
        page.add_page(app, service, settings)
    return app


class _Application(FastAPI):
    """FastAPI with the gate in place of its own layers: none of them is of use to routes that are plain ASGI."""

    def __init__(self, service: Service, **options: Any):
        super().__init__(**options)
        self.service = service

    def build_middleware_stack(self) -> Any:
        return Gate(ExceptionMiddleware(self.router, handlers={HTTPException: _told}),  # type: ignore[dict-item]
                    self.service)

    def openapi(self) -> dict[str, Any]:
        return openapi(self.service, super().openapi())


async def _told(request: Request, error: HTTPException) -> Response:
    code, problem, remedy = _WORDS.get(error.status_code, ("refused", "The request was refused", "See /openapi.json"))
    value: Any = {"error": f"{problem}. {remedy}"} if is_protocol(request.url.path) else \
        {"error": {"code": code, "problem": problem, "remedy": remedy, "id": current().id}}
    headers = dict(error.headers or {})
    if request.method not in ("GET", "HEAD"):  # a body may follow, which nobody reads
        headers["connection"] = "close"
    return Response(encode(value), error.status_code, headers, "application/json")


class _Answer:
    """ASGI: a JSON value that is made for each request."""

    def __init__(self, value: Any, route: str):
        self.value, self.route = value, route

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        current().route = self.route
        await send_json(send, 200, self.value())


class _Live:
    """Alive as long as it answers, while draining too."""

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        current().route = "health"
        await send_json(send, 200, {"live": True})


class _Ready:
    def __init__(self, service: Service):
        self.service = service

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        current().route = "health"
        ready = self.service.ready
        await send_json(send, 200 if ready else 503, {"ready": ready}, () if ready else [(b"retry-after", b"1")])


class _Metrics:
    def __init__(self, service: Service):
        self.service = service

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        service = self.service
        current().route = "metrics"
        metrics, streams = service.metrics, service.streams
        metrics.set("waiting", streams.waiting)
        metrics.set("running", streams.running)
        metrics.set("held_bytes", service.held.bytes)
        answering = service.answering
        await send_bytes(send, 200, metrics.text(answering.name, answering.version), CONTENT_TYPE)

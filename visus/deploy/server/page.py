"""The page at / and what it asks beyond POST /predict: explanation maps, attacks, and what the bundle says of itself.

The page's files are read once, from the package, by a fixed list of names. Maps and attacks follow gradients of the
torch model in the bundle, which takes seconds and a whole stream: one at a time, a few wait, the rest is refused.
Confidences are those of the served model throughout.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import importlib.util
import io
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import numpy as np
from fastapi import FastAPI
from PIL import Image
from starlette.routing import Route

from visus.core.errors import UserError
from visus.core.files import finite, read_json
from visus.core.preprocessing import Preprocessing
from visus.deploy.artifact import CARD, PASSPORT
from visus.deploy.server.answers import Send, encode, send_bytes, send_json
from visus.deploy.server.errors import Refusal, queue_full
from visus.deploy.server.exchange import Exchange, current
from visus.deploy.server.limits import Receive, header, read_body
from visus.deploy.server.multipart import Part, files
from visus.deploy.server.service import Answering, Service
from visus.deploy.server.settings import ServerSettings

FOLDER = Path(__file__).parent / "page"
FILES = {"index.html": b"text/html; charset=utf-8", "style.css": b"text/css; charset=utf-8",
         "app.js": b"text/javascript; charset=utf-8", "ask.js": b"text/javascript; charset=utf-8",
         "preview.js": b"text/javascript; charset=utf-8", "icon.svg": b"image/svg+xml"}
TOP = 5
MOST_WAITING = 8       # maps and attacks that wait for the one that is computed
MAP_PX = 448           # longer side of a map's picture
FINE, FINE_TOP = 1024, 99.0  # places from which a map is fine; the percentile at which its scale ends
MOST_CARD_BYTES = 4 << 20
# As the reports draw heat: eleven steps of viridis (van der Walt, Smith, 2015), and of Brewer's RdBu around zero.
VIRIDIS = ((68, 1, 84), (72, 36, 117), (65, 68, 135), (53, 95, 141), (42, 120, 142), (33, 145, 140), (34, 168, 132),
           (68, 191, 112), (122, 209, 81), (189, 223, 38), (253, 231, 37))
BLUE_RED = ((5, 48, 97), (33, 102, 172), (67, 147, 195), (146, 197, 222), (209, 229, 240), (247, 247, 247),
            (253, 219, 199), (244, 165, 130), (214, 96, 77), (178, 24, 43), (103, 0, 31))


def add_page(app: FastAPI, service: Service, settings: ServerSettings) -> None:
    """The routes /, /page/NAME, /explain, /attack, /methods and /card. `settings` are the service's own."""
    desk = Desk(service, settings)
    app.router.routes[:0] = [
        Route("/", PageFile("index.html"), methods=["GET"], include_in_schema=False),
        *(Route(f"/page/{name}", PageFile(name), methods=["GET"], include_in_schema=False)
          for name in FILES if name != "index.html"),
        Route("/explain", Asked(desk, desk.explain, "explain"), methods=["POST"], include_in_schema=False),
        Route("/attack", Asked(desk, desk.attack, "attack"), methods=["POST"], include_in_schema=False),
        Route("/methods", Told(desk.methods, "page"), methods=["GET"], include_in_schema=False),
        Route("/card", Told(desk.card, "page"), methods=["GET"], include_in_schema=False),
    ]


class PageFile:
    """ASGI: one file of the page, held in memory."""

    def __init__(self, name: str):
        self.kind = FILES[name]
        self.data = (FOLDER / name).read_bytes()
        self.etag = b'"%s"' % hashlib.sha256(self.data).hexdigest()[:20].encode()

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        current().route = "page"
        headers = [(b"etag", self.etag), (b"cache-control", b"no-cache")]
        known = [tag.strip().removeprefix(b"W/") for tag in (header(scope, b"if-none-match") or b"").split(b",")]
        if self.etag in known:
            await send({"type": "http.response.start", "status": 304, "headers": headers})
            await send({"type": "http.response.body", "body": b""})
            return
        await send_bytes(send, 200, self.data, self.kind, headers)


class Told:
    """ASGI: a JSON value, awaited."""

    def __init__(self, value: Callable[[], Any], route: str):
        self.value, self.route = value, route

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        current().route = self.route
        await send_json(send, 200, await self.value())


class Asked:
    """ASGI: one image file in, JSON out. answer(answering, exchange, data, name, query) runs on a stream."""

    def __init__(self, desk: Desk, answer: Callable[..., bytes], route: str):
        self.desk, self.answer, self.route = desk, answer, route

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        service, exchange = self.desk.service, current()
        exchange.route = self.route
        kind = header(scope, b"content-type") or b""
        media = kind.partition(b";")[0].strip().lower()
        form = media == b"multipart/form-data"
        if not form and not media.startswith(b"image/"):
            raise Refusal(415, "unsupported_media_type", "The body is neither a form with a file nor an image",
                          "Send multipart/form-data (curl -F file=@cat.jpg), or an image with its type", close=True)
        query = query_of(scope)
        with service.held.lease() as take:
            body = await read_body(scope, receive, exchange,
                                   service.settings.max_body_bytes + (4096 if form else 0), take)
            part = files(body, kind, 1)[0] if form else Part("image", body)
            answer = await self.desk.heavy(self.answer, service.answering, exchange, part.data, part.name, query)
        await send_bytes(send, 200, answer, b"application/json")


class Desk:
    """What the page asks of the service."""

    def __init__(self, service: Service, settings: ServerSettings):
        self.service, self.settings = service, settings
        self._slot = asyncio.Lock()
        self._waiting = 0

    async def heavy(self, function: Callable[..., Any], *args: Any) -> Any:
        """On a stream, one at a time. Raises Refusal (429) when too many wait, UserError as one."""
        if self._waiting >= MOST_WAITING:
            raise queue_full()
        self._waiting += 1
        try:
            async with self._slot:
                return await self.service.submit(function, *args)
        except UserError as error:
            raise Refusal(422, "not_for_this_model", error.problem,
                          error.remedy or "Take another method: GET /methods") from None
        finally:
            self._waiting -= 1

    # -- on a stream -----------------------------------------------------------------------------------------------

    def explain(self, answering: Answering, exchange: Exchange, data: bytes, name: str,
                query: dict[str, str]) -> bytes:
        """The map of a method over the picture. Raises Refusal, UserError."""
        known(query, "method", "class_index")
        if self.service.explain is None:
            raise nothing_to_ask()
        method = word(query, "method", "grad_cam")
        labels = answering.labels
        image, pixels, _ = self.service.prepared(answering, exchange, data, name)
        probs = answering.probs(image)
        index = int(probs.argmax()) if "class_index" not in query else natural(query, "class_index", len(labels) - 1)
        begin = time.perf_counter()
        heat = np.asarray(self.service.explain(image, method, index), np.float32)
        drawn, low, high = over_picture(heat, pixels.shape[:2], answering.predictor.bundle.preprocessing)
        exchange.model_s += time.perf_counter() - begin
        return encode(finite({
            "method": method, "label": labels[index], "class_index": index, "prob": float(probs[index]),
            "top": top_of(answering, probs), "map": drawn, "signed": low < 0, "low": low, "high": high,
            "input": png(image), "seconds": round(time.perf_counter() - begin, 3)}))

    def attack(self, answering: Answering, exchange: Exchange, data: bytes, name: str, query: dict[str, str]) -> bytes:
        """The picture moved within epsilon, and the answers before and after. Raises Refusal, UserError."""
        known(query, "epsilon", "method")
        if self.service.attack is None:
            raise nothing_to_ask()
        method, epsilon = word(query, "method", "pgd"), share(query, "epsilon", 8 / 255)
        image, _, _ = self.service.prepared(answering, exchange, data, name)
        before = answering.probs(image)
        begin = time.perf_counter()
        changed = np.asarray(self.service.attack(image, epsilon, method), np.uint8)
        exchange.model_s += time.perf_counter() - begin
        after = answering.probs(changed)
        moved = changed.astype(np.int16) - image
        most = int(np.abs(moved).max())
        gain = 127 // max(1, most)
        return encode(finite({
            "method": method, "epsilon": epsilon, "before": {"top": top_of(answering, before)},
            "after": {"top": top_of(answering, after)}, "broken": int(before.argmax()) != int(after.argmax()),
            "original": png(image), "picture": png(changed), "most": most, "gain": gain,
            "difference": png((128 + gain * moved).clip(0, 255).astype(np.uint8)),
            "seconds": round(time.perf_counter() - begin, 3)}))

    # -- of the model ----------------------------------------------------------------------------------------------

    async def methods(self) -> dict[str, Any]:
        """Explainers and attacks that suit the model; the first call loads torch and the model."""
        explain, attack = self.service.explain, self.service.attack
        torch = importlib.util.find_spec("torch") is not None
        found: dict[str, Any] = {"torch": torch, "explain": [], "attack": [], "why_not": None}
        if explain is None and attack is None:
            found["why_not"] = "The bundle holds no torch model" if torch else "torch is not installed on the server"
            return found
        for kind, function in (("explain", explain), ("attack", attack)):
            tell = getattr(function, "methods", None)
            if tell is not None:
                found[kind] = [{"name": name, **about} for name, about in (await self.heavy(tell)).items()]
        return found

    async def card(self) -> dict[str, Any]:
        """What the bundle says of itself: its description, card.json and passport.json, None where one is missing."""
        answering = self.service.answering
        predictor, bundle = answering.predictor, answering.predictor.bundle
        about = {key: value for key, value in bundle.about.items() if key != "files"}
        about["precision"] = predictor.precision
        if predictor.fewer_bits:
            about["exported as"] = bundle.about.get("precision", "float32")
        about["preprocessing"] = {key: value for key, value in about["preprocessing"].items() if key != "labels"}
        calibration = about.get("calibration")
        if isinstance(calibration, dict):  # its numbers are for machines
            about["calibration"] = {key: value for key, value in calibration.items()
                                    if isinstance(value, str | int | float)}
        return finite({"model": answering.name, "version": answering.version, "task": bundle.task,
                       "calibrated": bundle.calibrated, "labels": list(bundle.labels), "bundle": about,
                       "card": _read(bundle.path / CARD), "passport": _read(bundle.path / PASSPORT)})


def _read(path: Path) -> Any:
    """A JSON file of the bundle, or None where it is missing, or no JSON."""
    try:
        return read_json(path, max_bytes=MOST_CARD_BYTES) if path.is_file() else None
    except UserError:
        return None


def top_of(answering: Answering, probs: np.ndarray) -> list[dict[str, Any]]:
    return [{"label": answering.labels[k], "prob": prob} for k, prob in answering.predictor.top(probs, TOP)]


# -- queries -------------------------------------------------------------------------------------------------------


def query_of(scope: dict[str, Any]) -> dict[str, str]:
    """Names to values, each given once. Raises Refusal (400)."""
    try:
        found = parse_qs(scope["query_string"].decode("ascii"), keep_blank_values=True, max_num_fields=8)
    except ValueError:
        raise bad("The query cannot be read") from None
    if any(len(values) > 1 for values in found.values()):
        raise bad("A parameter is given twice")
    return {name: values[0] for name, values in found.items()}


def known(query: dict[str, str], *names: str) -> None:
    if not set(query) <= set(names):
        raise bad(f"The query has another parameter than {' and '.join(names)}")


def word(query: dict[str, str], name: str, default: str) -> str:
    value = query.get(name, default)
    if not re.fullmatch(r"[a-z][a-z_]{0,39}", value):
        raise bad(f"{name} is not the name of a method")
    return value


def natural(query: dict[str, str], name: str, most: int) -> int:
    value = query[name]
    if not re.fullmatch(r"[0-9]{1,9}", value) or int(value) > most:
        raise bad(f"{name} is not a whole number from 0 to {most}")
    return int(value)


def share(query: dict[str, str], name: str, default: float) -> float:
    value = query.get(name)
    if value is None:
        return default
    if not re.fullmatch(r"[0-9]{0,3}\.?[0-9]{0,20}(e-?[0-9]{1,3})?", value) or not re.match(r"\.?[0-9]", value) \
            or not 0 <= float(value) <= 1:
        raise bad(f"{name} is not a number from 0 to 1: 8 of 255 grey levels are 0.0314")
    return float(value)


def bad(problem: str) -> Refusal:
    return Refusal(400, "bad_parameter", problem, "Ask GET /methods what there is", close=True)


def nothing_to_ask() -> Refusal:
    return Refusal(422, "no_torch_model", "This server has no torch model to ask: it serves answers only",
                   "Serve a bundle folder, on a machine with torch")


# -- pictures ------------------------------------------------------------------------------------------------------


def over_picture(heat: np.ndarray, size: tuple[int, int], preprocessing: Preprocessing) -> tuple[str, float, float]:
    """heat [h, w] of what the network sees -> a picture with the form of the whole one, transparent where the network
    sees nothing, and the values at the ends of its scale. size: (height, width) of the picture. Heat with values below
    zero is drawn in two colours around it."""
    if not np.isfinite(heat).all():
        heat = np.nan_to_num(heat, posinf=0.0, neginf=0.0)
    signed = bool(heat.min() < 0)
    top = 100.0 if heat.size < FINE else FINE_TOP  # a few pixels of a fine map would leave the rest dark
    high = float(np.percentile(np.abs(heat) if signed else heat, top))
    if high <= (0 if signed else heat.min()):  # all of the heat lies in a few places
        high = float(np.abs(heat).max())
    low = -high if signed else float(heat.min())
    scaled = ((heat - low) / (high - low)).clip(0, 1) if high > low else np.zeros_like(heat)
    scale = MAP_PX / max(size)
    height, width = (max(1, round(side * scale)) for side in size)
    (y0, x0, y1, x1), kept = seen(preprocessing, size)
    box = (round(x0 * width), round(y0 * height), max(1, round(x1 * width)), max(1, round(y1 * height)))
    inside = (max(1, box[2] - box[0]), max(1, box[3] - box[1]))
    rows, columns = heat.shape
    part = (kept[1] * columns, kept[0] * rows, kept[3] * columns, kept[2] * rows)
    smooth = np.asarray(Image.fromarray(scaled.astype(np.float32)).resize(inside, Image.Resampling.BILINEAR, box=part))
    colours = np.array(BLUE_RED if signed else VIRIDIS, np.float32)
    place = smooth.clip(0, 1) * (len(colours) - 1)
    first = np.minimum(place.astype(np.int64), len(colours) - 2)
    mixed = colours[first] + (place - first)[..., None] * (colours[first + 1] - colours[first])
    alpha = np.full(smooth.shape, 255.0) if not signed else 255 * np.abs(2 * smooth - 1).clip(0, 1) ** 0.5
    drawn = np.zeros((height, width, 4), np.uint8)
    drawn[box[1]:box[1] + inside[1], box[0]:box[0] + inside[0]] = np.rint(
        np.dstack([mixed, alpha]))[:height - box[1], :width - box[0]]
    return png(drawn), low, high


Box = tuple[float, float, float, float]  # top, left, bottom, right, as shares


def seen(preprocessing: Preprocessing, size: tuple[int, int]) -> tuple[Box, Box]:
    """Which part of the picture the network sees, and which part of what the network sees is the picture: less than
    all of the first for 'crop', of the second for 'pad'."""
    whole = (0.0, 0.0, 1.0, 1.0)
    if preprocessing.resize == "squash":
        return whole, whole
    target, scaled = preprocessing.size, preprocessing.scaled_size(*size)
    inner, outer = (target, scaled) if preprocessing.resize == "crop" else (scaled, target)
    halves = [(o - i) / 2 for i, o in zip(inner, outer, strict=True)]
    starts = [round(half) if preprocessing.resize == "crop" else int(half) for half in halves]
    part = (starts[0] / outer[0], starts[1] / outer[1], (starts[0] + inner[0]) / outer[0],
            (starts[1] + inner[1]) / outer[1])
    return (part, whole) if preprocessing.resize == "crop" else (whole, part)


def png(pixels: np.ndarray) -> str:
    """uint8 [h, w, 1, 3 or 4] -> a data URI."""
    encoded = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(encoded, "PNG", compress_level=3)
    return "data:image/png;base64," + base64.b64encode(encoded.getvalue()).decode()

"""The Open Inference Protocol, version 2, over REST (KServe), with its binary tensor extension.

https://github.com/kserve/open-inference-protocol: required API, inference request and response as JSON objects, tensor
data flattened in row-major order. The extension puts tensors behind the JSON; Inference-Header-Content-Length is the
length of the JSON part. Of BYTES each element is four bytes of length, little-endian, and the bytes.

Inputs: 'images' UINT8 [B, H, W, C], at the model's size; or 'encoded' BYTES [B], image files, in JSON as base64.
Outputs: 'probs' FP32 [B, K], 'label' BYTES [B].
"""

from __future__ import annotations

import base64
import binascii
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from visus import __version__
from visus.core.errors import printable
from visus.deploy.server.answers import Send, decode, encode, send_bytes, send_json
from visus.deploy.server.errors import Refusal
from visus.deploy.server.exchange import Exchange, current
from visus.deploy.server.limits import Receive, header, read_body
from visus.deploy.server.service import Answering, Service

EXTENSIONS = ["binary_tensor_data"]
LENGTH = b"inference-header-content-length"
OUTPUTS = ("probs", "label")
LONGEST_ID = 100
_MODEL_PATH = re.compile(r"/v2/models/(?P<name>[^/]+)(?:/versions/(?P<version>[^/]+))?(?:/(?P<verb>ready|infer))?")


@dataclass(frozen=True)
class Asked:
    """images: files (bytes), or uint8 arrays [h, w, c]. outputs: (name, whether binary). id: the client's, or None."""

    images: list[bytes | np.ndarray]
    outputs: list[tuple[str, bool]]
    id: str | None


def metadata(service: Service) -> dict[str, Any]:
    """GET /v2."""
    settings = service.settings
    return {"name": "visus", "version": __version__, "extensions": EXTENSIONS, "limits": limits(service),
            "model": service.answering.name, "key_needed": bool(settings.keys)}


def limits(service: Service) -> dict[str, Any]:
    """What a request may have at most."""
    settings = service.settings
    return {"body_bytes": settings.max_body_bytes, "pixels": settings.max_pixels, "images": settings.max_images,
            "answer_seconds": settings.answer_seconds, "queue": settings.queue}


def model_metadata(answering: Answering) -> dict[str, Any]:
    """GET /v2/models/NAME."""
    return {"name": answering.name, "versions": [answering.version], "platform": "visus_onnx",
            "inputs": [{"name": "images", "datatype": "UINT8", "shape": [-1, *answering.image_shape]},
                       {"name": "encoded", "datatype": "BYTES", "shape": [-1]}],
            "outputs": [{"name": "probs", "datatype": "FP32", "shape": [-1, len(answering.labels)]},
                        {"name": "label", "datatype": "BYTES", "shape": [-1]}],
            "parameters": {"precision": answering.predictor.precision}}


class Models:
    """ASGI, below /v2/models/: metadata, readiness and inference of the one model."""

    def __init__(self, service: Service):
        self.service = service

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        service, exchange = self.service, current()
        found = _MODEL_PATH.fullmatch(scope["path"])
        if found is None:
            raise Refusal(404, "not_found", "There is nothing at this address", "See /openapi.json", close=True)
        verb = found["verb"]
        exchange.route = {"infer": "infer", "ready": "health", None: "metadata"}[verb]
        methods = ("POST",) if verb == "infer" else ("GET", "HEAD")
        if scope["method"] not in methods:
            await send_json(send, 405, {"error": f"This address takes {' and '.join(methods)}"},
                            [(b"allow", ", ".join(methods).encode()), (b"connection", b"close")])
            return
        answering = service.answering
        if found["name"] != answering.name or found["version"] not in (None, answering.version):
            raise Refusal(404, "unknown_model", "There is no such model or version",
                          f"This server answers for {answering.name}, version {answering.version}", close=True)
        if verb is None:
            await send_json(send, 200, model_metadata(answering))
        elif verb == "ready":
            ready = service.ready
            await send_json(send, 200 if ready else 503, {"name": answering.name, "ready": ready},
                            () if ready else [(b"retry-after", b"1")])
        else:
            await self._infer(scope, receive, send, answering, exchange)

    async def _infer(self, scope: dict[str, Any], receive: Receive, send: Send, answering: Answering,
                     exchange: Exchange) -> None:
        service = self.service
        length = header(scope, LENGTH)
        with service.held.lease() as take:
            body = await read_body(scope, receive, exchange, service.settings.max_body_bytes, take)
            answer, json_length = await service.submit(self.infer, answering, exchange, body, length)
        if json_length is None:
            await send_bytes(send, 200, answer, b"application/json")
        else:
            await send_bytes(send, 200, answer, b"application/octet-stream", [(LENGTH, b"%d" % json_length)])

    # -- on a stream -----------------------------------------------------------------------------------------------

    def infer(self, answering: Answering, exchange: Exchange, body: bytes, length: bytes | None) -> \
            tuple[bytes, int | None]:
        """A request's body -> the answer's, and the length of its JSON part where tensors follow."""
        service = self.service
        asked = read_request(body, length, answering.image_shape, service.settings.max_images)
        rows = []
        for image in asked.images:
            if isinstance(image, bytes):
                image = service.prepared(answering, exchange, image, "image")[0]
            rows.append(service.probs(answering, exchange, image))
        return write_answer(answering, asked, np.stack(rows))


def read_request(body: bytes, length: bytes | None, shape: tuple[int, int, int], most: int) -> Asked:
    """length: of the JSON part, as the header says; None: all of it. shape: (height, width, channels) of 'images'.
    Raises Refusal: 400 for what is not the protocol, 413 for more than `most` images, 422 for tensors that the model
    does not take."""
    split = len(body)
    if length is not None:
        if not (length.isdigit() and len(length) < 12 and int(length) <= len(body)):
            raise _malformed("Inference-Header-Content-Length is not the length of a part of the body")
        split = int(length)
    try:
        request = decode(body[:split])
    except ValueError:
        raise _malformed("The body is not JSON") from None
    request = _object(request, "The request")
    tail = _Tail(body, split)
    inputs = request.get("inputs")
    if not isinstance(inputs, list) or not inputs:
        raise _malformed("inputs is not a list of tensors")
    if len(inputs) != 1:
        raise Refusal(422, "wrong_inputs", "The model takes one input: 'images' or 'encoded'", "Send one of them")
    images = _read_input(_object(inputs[0], "An input"), tail, shape, most)
    if tail.left:
        raise _malformed("Bytes follow that belong to no input")
    given = request.get("id")
    if given is not None and not isinstance(given, str):
        raise _malformed("id is not a string")
    return Asked(images, _read_outputs(request), None if given is None else printable(given[:LONGEST_ID]))


class _Tail:
    """The binary tensors behind the JSON, taken one after the other."""

    def __init__(self, body: bytes, start: int):
        self.body, self.at = body, start

    @property
    def left(self) -> int:
        return len(self.body) - self.at

    def take(self, size: int) -> bytes:
        if size > self.left:
            raise _malformed("binary_data_size is more than the bytes that follow")
        self.at += size
        return self.body[self.at - size:self.at]


def _read_input(tensor: dict[str, Any], tail: _Tail, shape: tuple[int, int, int], most: int) -> list[Any]:
    name, datatype, dims = tensor.get("name"), tensor.get("datatype"), tensor.get("shape")
    parameters = _object(tensor.get("parameters") or {}, "parameters")
    if not isinstance(dims, list) or not all(type(d) is int and 0 <= d < 1 << 31 for d in dims):
        raise _malformed("shape is not a list of whole numbers")
    size = parameters.get("binary_data_size")
    if size is not None and (type(size) is not int or size < 0):
        raise _malformed("binary_data_size is not a whole number")
    if size is not None and "data" in tensor:
        raise _malformed("A tensor has data and binary_data_size")
    if size is None and "data" not in tensor:
        raise _malformed("A tensor has neither data nor binary_data_size")
    raw = None if size is None else tail.take(size)
    wanted: dict[Any, tuple[str, list[int]]] = {"images": ("UINT8", [*shape]), "encoded": ("BYTES", [])}
    if not isinstance(name, str) or name not in wanted:
        raise Refusal(422, "wrong_inputs", "The model has no such input", "Send 'images' or 'encoded'")
    if (datatype, dims[1:]) != wanted[name] or not dims or not dims[0]:
        raise Refusal(422, "wrong_shape", f"'{name}' is not {wanted[name][0]} of shape "
                      f"{['B', *wanted[name][1]]}, B at least 1".replace("'B'", "B"), "See the model's metadata")
    if dims[0] > most:
        raise Refusal(413, "too_many_images", f"The request has more than {most} images",
                      "Send them in several requests")
    if name == "images":
        return list(_pixels(tensor.get("data"), raw, (dims[0], *shape)))
    return _encoded(tensor.get("data"), raw, dims[0])


def _pixels(data: Any, raw: bytes | None, shape: tuple[int, ...]) -> np.ndarray:
    """uint8 [B, h, w, c] from JSON, flat or nested, or from bytes."""
    if raw is None:
        try:
            raw = bytes(_flat(data))
        except (TypeError, ValueError):
            raise _malformed("data is not a list of whole numbers from 0 to 255") from None
    if len(raw) != int(np.prod(shape, dtype=np.int64)):
        raise _malformed("The tensor has another number of elements than its shape says")
    return np.frombuffer(raw, np.uint8).reshape(shape)


def _flat(data: Any) -> list[int]:
    if not isinstance(data, list):
        raise TypeError
    while data and isinstance(data[0], list):
        if not all(isinstance(row, list) for row in data):
            raise TypeError
        data = list(chain.from_iterable(data))
    if not all(type(value) is int for value in data):
        raise TypeError
    return data


def _encoded(data: Any, raw: bytes | None, count: int) -> list[bytes]:
    """The files of a BYTES tensor."""
    if raw is not None:
        files: list[bytes] = []
        at = 0
        while at < len(raw) and len(files) < count:
            if len(raw) - at < 4:
                break
            size = struct.unpack_from("<I", raw, at)[0]
            at += 4
            if size > len(raw) - at:
                raise _malformed("An element of a BYTES tensor is longer than the tensor")
            files.append(raw[at:at + size])
            at += size
        if len(files) != count or at != len(raw):
            raise _malformed("The tensor has another number of elements than its shape says")
        return files
    if not isinstance(data, list) or not all(isinstance(text, str) for text in data):
        raise _malformed("data is not a list of base64 strings")
    if len(data) != count:
        raise _malformed("The tensor has another number of elements than its shape says")
    try:
        return [base64.b64decode(text, validate=True) for text in data]
    except (binascii.Error, ValueError):
        raise _malformed("data is not base64") from None


def _read_outputs(request: dict[str, Any]) -> list[tuple[str, bool]]:
    every = _flag(_object(request.get("parameters") or {}, "parameters"), "binary_data_output", False)
    given = request.get("outputs")
    if given is None:
        return [(name, every) for name in OUTPUTS]
    if not isinstance(given, list) or not given:
        raise _malformed("outputs is not a list of names")
    found = []
    for output in given:
        about = _object(output, "An output")
        if about.get("name") not in OUTPUTS:
            raise Refusal(422, "wrong_outputs", "The model has no such output", "Ask for 'probs' or 'label'")
        found.append((about["name"], _flag(_object(about.get("parameters") or {}, "parameters"), "binary_data", every)))
    if len({name for name, _ in found}) != len(found):
        raise _malformed("An output is asked for twice")
    return found


def _flag(parameters: dict[str, Any], name: str, default: bool) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise _malformed(f"{name} is neither true nor false")
    return value


def _object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _malformed(f"{what} is not a JSON object")
    return value


def _malformed(problem: str) -> Refusal:
    return Refusal(400, "malformed_request", problem, "See the Open Inference Protocol and /openapi.json")


def write_answer(answering: Answering, asked: Asked, probs: np.ndarray) -> tuple[bytes, int | None]:
    """probs: float32 [B, K]. The body, and the length of its JSON part where tensors follow."""
    chosen = ["|".join(answering.predictor.chosen(row)) for row in probs]
    tensors: dict[str, tuple[str, list[int], Callable[[], Any], Callable[[], bytes]]] = {
        "probs": ("FP32", list(probs.shape), lambda: probs.ravel().tolist(), lambda: probs.astype("<f4").tobytes()),
        "label": ("BYTES", [len(chosen)], lambda: chosen, lambda: b"".join(
            struct.pack("<I", len(data)) + data for data in (text.encode() for text in chosen)))}
    outputs, behind = [], []
    for name, binary in asked.outputs:
        datatype, shape, plain, packed = tensors[name]
        output: dict[str, Any] = {"name": name, "datatype": datatype, "shape": shape}
        if binary:
            behind.append(packed())
            output["parameters"] = {"binary_data_size": len(behind[-1])}
        else:
            output["data"] = plain()
        outputs.append(output)
    about: dict[str, Any] = {"model_name": answering.name, "model_version": answering.version, "outputs": outputs}
    if asked.id is not None:
        about["id"] = asked.id
    head = encode(about)
    return (head + b"".join(behind), len(head)) if behind else (head, None)

"""The OpenAPI 3.1 description of the routes that answer without FastAPI's models; a test asks the server by it."""

from __future__ import annotations

from typing import Any

from visus.deploy.server.open_inference import LONGEST_ID
from visus.deploy.server.predict import MOST_TOP, TOP
from visus.deploy.server.service import Service

_TEXT: dict[str, Any] = {"type": "string"}
_COUNT: dict[str, Any] = {"type": "integer", "minimum": 0}
_PROB: dict[str, Any] = {"type": "number", "minimum": 0, "maximum": 1}
_FLAG: dict[str, Any] = {"type": "boolean"}
_BINARY: dict[str, Any] = {"type": "string", "format": "binary"}


def _object(properties: dict[str, Any], optional: tuple[str, ...] = ()) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "additionalProperties": False,
            "required": [name for name in properties if name not in optional]}


def _list(items: dict[str, Any], least: int = 0, most: int | None = None) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": least} | ({} if most is None else {"maxItems": most})


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def _json(schema: dict[str, Any], description: str) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


_RETRY = {"Retry-After": {"description": "Seconds", "required": True, "schema": {"type": "integer"}}}
_WORDS = {400: "Malformed", 401: "No valid API key", 403: "From another site's page", 404: "Nothing there",
          405: "Another method", 408: "The request came too slowly", 411: "A length is needed",
          413: "Too many bytes, pixels or images", 415: "Not an image", 421: "Another server's Host",
          422: "An image that does not decode, or a tensor that the model does not take", 429: "The queue is full",
          431: "Headers too large", 500: "A failure of the server", 503: "Draining, not ready or full",
          504: "Longer than an answer may take"}
_ALWAYS = (400, 401, 403, 405, 408, 421, 431, 500, 503)


def _errors(error: str, *statuses: int) -> dict[str, Any]:
    found = {}
    for status in sorted({*_ALWAYS, *statuses}):
        found[str(status)] = _json(_ref(error), _WORDS[status])
        if status == 429:
            found["429"]["headers"] = _RETRY
    return found


def openapi(service: Service, generated: dict[str, Any]) -> dict[str, Any]:
    """The whole description. generated: FastAPI's, of the page's routes."""
    answering, settings = service.answering, service.settings
    classes, shape = len(answering.labels), list(answering.image_shape)
    schemas = {
        "Error": _object({"error": _object({"code": _TEXT, "problem": _TEXT, "remedy": _TEXT, "id": _TEXT})}),
        "ProtocolError": _object({"error": _TEXT}),
        "Result": _object({"name": _TEXT, "predicted": _list(_TEXT), "top": _list(
            _object({"label": _TEXT, "prob": _PROB}), 1), "width": _COUNT, "height": _COUNT, "notes": _list(_TEXT)}),
        "Refused": _object({"name": _TEXT, "error": _object(
            {"code": _TEXT, "problem": _TEXT, "remedy": _TEXT, "id": _TEXT})}),
        "Prediction": _object({"model": _TEXT, "version": _TEXT, "results": _list(
            {"oneOf": [_ref("Result"), _ref("Refused")]}, 1)}),
        "Limits": _object({"body_bytes": _COUNT, "pixels": _COUNT, "images": _COUNT,
                           "answer_seconds": {"type": "number"}, "queue": _COUNT}),
        "Server": _object({"name": _TEXT, "version": _TEXT, "extensions": _list(_TEXT), "limits": _ref("Limits"),
                           "model": _TEXT, "key_needed": _FLAG}),
        "Tensor": _object({"name": _TEXT, "datatype": _TEXT, "shape": _list({"type": "integer"})}),
        "Model": _object({"name": _TEXT, "versions": _list(_TEXT), "platform": _TEXT, "inputs": _list(_ref("Tensor")),
                          "outputs": _list(_ref("Tensor")), "parameters": _object({"precision": _TEXT})}),
        "Inference": _object({"id": {"type": "string", "maxLength": LONGEST_ID},
                              "parameters": _object({"binary_data_output": _FLAG}, ("binary_data_output",)),
                              "inputs": _list({"oneOf": [
                                  _input("images", "UINT8", shape, {"type": "integer", "minimum": 0, "maximum": 255}),
                                  _input("encoded", "BYTES", [], {"type": "string", "format": "byte"})]}, 1, 1),
                              "outputs": _list(_object({"name": {"enum": ["probs", "label"]}, "parameters": _object(
                                  {"binary_data": _FLAG}, ("binary_data",))}, ("parameters",)), 1, 2)},
                             ("id", "parameters", "outputs")),
        "Inferred": _object({"id": _TEXT, "model_name": _TEXT, "model_version": _TEXT, "outputs": _list(_object(
            {"name": _TEXT, "datatype": _TEXT, "shape": _list(_COUNT), "data": _list(
                {"oneOf": [_PROB, _TEXT]}), "parameters": _object({"binary_data_size": _COUNT})},
            ("data", "parameters")), 1)}, ("id",)),
    }
    name = {"name": "name", "in": "path", "required": True, "schema": {"enum": [answering.name]}}
    version = {"name": "version", "in": "path", "required": True, "schema": {"enum": [answering.version]}}
    paths: dict[str, Any] = {
        "/predict": {"post": {
            "summary": "Classes of one or more images", "operationId": "predict",
            "parameters": [{"name": "top", "in": "query", "description": "classes for each image",
                            "schema": {"type": "integer", "minimum": 1, "maximum": MOST_TOP, "default": TOP}}],
            "requestBody": {"required": True, "content": {
                "multipart/form-data": {"schema": {
                    "type": "object", "properties": {"file": _list(_BINARY, 1, settings.max_images)},
                    "required": ["file"]}},
                "image/*": {"schema": _BINARY}}},
            "responses": {"200": _json(_ref("Prediction"), f"At most {classes} classes for each image"),
                          **_errors("Error", 413, 415, 422, 429, 504)}}},
        "/limits": _get("What a request may have at most", "limits", _json(_ref("Limits"), "Limits"), "Error"),
        "/metrics": _get("Counts, times and states for Prometheus", "metrics", {
            "description": "Prometheus' text format", "content": {"text/plain": {"schema": _TEXT}}}, "Error"),
        "/openapi.json": _get("This description", "description", _json({"type": "object"}, "OpenAPI 3.1"), "Error"),
        "/v2": _get("The server", "server", _json(_ref("Server"), "Its name, extensions and limits"), "ProtocolError"),
        "/v2/health/live": _get("Whether it runs", "live", _json(_object({"live": _FLAG}), "It does"),
                                "ProtocolError"),
        "/v2/health/ready": _get("Whether it takes requests", "ready", _json(_object({"ready": _FLAG}), "It does"),
                                 "ProtocolError", {"503": _not_ready(_object({"ready": _FLAG}))}),
    }
    for base, where, suffix in (("/v2/models/{name}", [name], ""),
                                ("/v2/models/{name}/versions/{version}", [name, version], "_version")):
        ready = _object({"name": _TEXT, "ready": _FLAG})
        paths[base] = _get("The model", f"model{suffix}", _json(_ref("Model"), "Its inputs and outputs"),
                           "ProtocolError", parameters=where)
        paths[f"{base}/ready"] = _get("Whether the model is ready", f"model_ready{suffix}", _json(ready, "It is"),
                                      "ProtocolError", {"503": _not_ready(ready)}, where)
        paths[f"{base}/infer"] = {"post": {
            "summary": "Tensors in, tensors out (Open Inference Protocol, version 2)", "operationId": f"infer{suffix}",
            "parameters": where, "requestBody": {"required": True, "content": {
                "application/json": {"schema": _ref("Inference")}}},
            "responses": {"200": {"description": "The outputs; binary tensors that were asked for follow the JSON",
                                  "content": {"application/json": {"schema": _ref("Inferred")},
                                              "application/octet-stream": {"schema": _BINARY}}},
                          **_errors("ProtocolError", 404, 413, 415, 422, 429, 504)}}}
    components = generated.get("components", {})
    whole: dict[str, Any] = {
        "openapi": "3.1.0", "info": generated["info"], "paths": {**paths, **generated.get("paths", {})},
        "components": {**components, "schemas": {**components.get("schemas", {}), **schemas}}}
    if settings.keys:
        whole["components"]["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"},
                                                  "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"}}
        whole["security"] = [{"bearer": []}, {"header": []}]
    return whole


def _input(name: str, datatype: str, shape: list[int], element: dict[str, Any]) -> dict[str, Any]:
    dims = {"type": "array", "prefixItems": [{"type": "integer", "minimum": 1}, *({"const": size} for size in shape)],
            "minItems": 1 + len(shape), "maxItems": 1 + len(shape)}
    return _object({"name": {"const": name}, "datatype": {"const": datatype}, "shape": dims, "data": _list(element, 1),
                    "parameters": {"type": "object"}}, ("parameters",))


def _get(summary: str, operation: str, answer: dict[str, Any], error: str, more: dict[str, Any] | None = None,
         parameters: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    responses = {"200": answer, **_errors(error, *((404,) if parameters else ())), **(more or {})}
    return {"get": {"summary": summary, "operationId": operation, "parameters": parameters or [],
                    "responses": responses}}


def _not_ready(schema: dict[str, Any]) -> dict[str, Any]:
    return {**_json(schema, "Not now"), "headers": _RETRY}

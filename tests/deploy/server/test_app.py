"""The routes, asked without a network."""

import asyncio
import json
import struct
import threading
import time

import numpy as np
import pytest

httpx = pytest.importorskip("httpx")
pytest.importorskip("fastapi", reason="the extra serve is not installed")
pytest.importorskip("python_multipart", reason="the extra serve is not installed")
pytest.importorskip("prometheus_client", reason="the extra serve is not installed")

from tests.deploy.server.fake_model import answer, fake_predictor, png  # noqa: E402
from visus.deploy.server.app import make_app  # noqa: E402
from visus.deploy.server.keys import digest  # noqa: E402
from visus.deploy.server.service import Service  # noqa: E402
from visus.deploy.server.settings import ServerSettings  # noqa: E402

IMAGE = {"content-type": "image/png"}


def asked(requests, predictor=None, collector=None, prepare=None, together=False, **settings):
    """The answers to (method, path, keywords of httpx) in turn, or at the same time; and the service."""
    told = ServerSettings(**{"streams": 2, "access_log": "", **settings})
    service = Service(predictor or fake_predictor(), told, collector=collector)
    if prepare is not None:
        prepare(service)
    app = make_app(service, told)

    async def run():
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            calls = [client.request(method, path, **more) for method, path, more in requests]
            return await asyncio.gather(*calls) if together else [await call for call in calls]

    try:
        return asyncio.run(run()), service
    finally:
        service.close()


def one(method, path, predictor=None, settings=None, **more):
    return asked([(method, path, more)], predictor, **(settings or {}))[0][0]


def test_an_image_in_the_body_gets_its_classes():
    found = one("POST", "/predict?top=2", content=png(255), headers=IMAGE)
    assert found.status_code == 200
    assert found.json() == {"model": "fake", "version": "ab" * 6, "results": [
        {"name": "image", "predicted": ["light"],
         "top": [{"label": "light", "prob": 1.0}, {"label": "dark", "prob": 0.0}],
         "width": 8, "height": 5, "notes": []}]}


def test_several_files_are_answered_in_order_and_a_bad_one_apart():
    files = [("a", ("one.png", png(0))), ("b", ("../../two.png", b"this is no image at all")),
             ("a", ("3.png", png(128)))]
    found = one("POST", "/predict", files=files)
    assert found.status_code == 200
    first, second, third = found.json()["results"]
    assert (first["name"], first["predicted"]) == ("one.png", ["dark"])
    assert (third["name"], third["predicted"]) == ("3.png", ["middle"])
    assert second["name"] == "two.png" and second["error"]["code"] == "not_an_image"


@pytest.mark.parametrize(("data", "status", "code"), [
    (b"", 415, "not_an_image"), (b"%PDF-1.4 of course", 415, "not_an_image"),
    (b"<svg xmlns='x'/>", 415, "not_an_image"),
    (png()[:45], 422, "truncated_image"), (png()[:40] + b"x" + png()[41:], 422, "damaged_image"),
    (png(size=(120, 1)), 422, "unusable_image"), (png(size=(40, 40)), 413, "image_too_large")],
    ids=["nothing", "pdf", "svg", "truncated", "damaged", "thin", "large"])
def test_an_image_that_cannot_be_used_gets_its_status_and_no_inner_word(data, status, code):
    found = one("POST", "/predict", content=data, headers=IMAGE, settings={"max_pixels": 1000})
    assert (found.status_code, found.json()["error"]["code"]) == (status, code)
    assert not any(word in found.text for word in ("0x", "Traceback", "visus/", "BytesIO", "on-bad-image"))
    assert found.json()["error"]["id"] == found.headers["x-request-id"]


def test_only_bad_images_give_the_first_ones_status():
    found = one("POST", "/predict", files=[("a", ("a", b"text is no image")), ("a", ("b", png()[:45]))])
    assert found.status_code == 415 and "None of the 2 images" in found.json()["error"]["problem"]


@pytest.mark.parametrize(("more", "status", "code"), [
    ({"content": b"x", "headers": {"content-type": "text/plain"}}, 415, "unsupported_media_type"),
    ({"content": b"x", "headers": {"content-type": "multipart/form-data"}}, 400, "malformed_multipart"),
    ({"content": b"x", "headers": {"content-type": "multipart/form-data; boundary=b"}}, 400, "malformed_multipart"),
    ({"content": bytes(5000), "headers": IMAGE}, 413, "body_too_large"),
    ({"files": [("f", (f"{n}.png", png())) for n in range(4)]}, 413, "too_many_images"),
    ({"params": {"top": "0"}, "content": png(), "headers": IMAGE}, 400, "bad_parameter"),
    ({"params": {"top": "x"}, "content": png(), "headers": IMAGE}, 400, "bad_parameter")], ids=range(7))
def test_what_is_no_request_for_a_prediction_is_refused(more, status, code):
    found = one("POST", "/predict", settings={"max_body_bytes": 4096, "max_images": 3}, **more)
    assert (found.status_code, found.json()["error"]["code"]) == (status, code)


def test_unknown_addresses_and_methods_are_json_in_the_form_of_their_part():
    requests = [("GET", "/../etc/passwd", {}), ("GET", "/predict", {}), ("GET", "/v2/x", {})]
    (nowhere, method, protocol), _ = asked(requests)
    assert (nowhere.status_code, nowhere.json()["error"]["code"]) == (404, "not_found")
    assert (method.status_code, method.headers["allow"]) == (405, "POST")
    assert protocol.status_code == 404 and isinstance(protocol.json()["error"], str)


def test_large_images_are_decoded_one_at_a_time(monkeypatch):
    from visus.deploy.predictor import Predictor
    from visus.deploy.server import service as module

    now, most, lock = [0], [0], threading.Lock()

    class Watched(Predictor):
        def read(self, *given, **more):
            with lock:
                now[0] += 1
                most[0] = max(most[0], now[0])
            time.sleep(0.05)
            with lock:
                now[0] -= 1
            return super().read(*given, **more)

    fake = fake_predictor()
    requests = [("POST", "/predict", {"content": png(), "headers": IMAGE})] * 6
    for large, expected in ((10, 1), (1000, 3)):
        monkeypatch.setattr(module, "LARGE_PIXELS", large)
        monkeypatch.setattr(module, "DEFLATE", 1)
        most[0] = 0
        found, _ = asked(requests, Watched(fake.bundle, fake.session), together=True, streams=3)
        assert {answer.status_code for answer in found} == {200} and most[0] == expected


def test_a_full_queue_answers_429_at_once_and_the_rest_as_always():
    requests = [("POST", "/predict", {"content": png(), "headers": IMAGE})] * 12
    found, service = asked(requests, fake_predictor(0.15), together=True, streams=2, queue=3)
    statuses = sorted(answer.status_code for answer in found)
    assert statuses == [200] * 5 + [429] * 7
    assert all(answer.headers["retry-after"] == "1" for answer in found if answer.status_code == 429)
    assert service.streams.idle


def test_an_answer_that_takes_too_long_is_504_and_its_work_stops():
    found, service = asked([("POST", "/predict", {"files": [("f", (f"{n}.png", png())) for n in range(8)]})],
                           fake_predictor(0.1), answer_seconds=0.15)
    assert (found[0].status_code, found[0].json()["error"]["code"]) == (504, "deadline")
    assert service.metrics.own.sum() > 0


def test_a_failure_is_500_with_an_id_and_its_traceback_only_in_the_log(tmp_path):
    def broken(images):
        raise RuntimeError("secret of /etc")

    log = tmp_path / "log"
    from visus.deploy.server.logs import Log

    def prepare(service):
        service.log = Log(str(log))

    (found, alive), service = asked([("POST", "/predict", {"content": png(), "headers": IMAGE}), ("GET", "/v2", {})],
                                    fake_predictor(session=broken), prepare=prepare)
    service.log.close()
    assert found.status_code == 500 and "secret" not in found.text and alive.status_code == 200
    line = next(json.loads(line) for line in log.read_text().splitlines() if "failure" in line)
    assert line["id"] == found.json()["error"]["id"] and "secret of /etc" in line["traceback"]


def test_too_little_memory_is_503():
    def empty(images):
        raise MemoryError

    assert one("POST", "/predict", fake_predictor(session=empty), content=png(), headers=IMAGE).status_code == 503


def test_a_draining_server_is_alive_not_ready_and_takes_nothing():
    (live, ready, refused), _ = asked([
        ("GET", "/v2/health/live", {}), ("GET", "/v2/health/ready", {}),
        ("POST", "/predict", {"content": png(), "headers": IMAGE})], prepare=lambda service: service.drain())
    assert (live.status_code, ready.status_code, refused.status_code) == (200, 503, 503)
    assert ready.json() == {"ready": False} and refused.headers["retry-after"] == "1"


def test_keys_are_asked_for_where_something_is_answered():
    key = "k" * 24
    settings = {"keys": (digest(b"other"), digest(key.encode()))}
    send = {"content": png(), "headers": IMAGE}
    requests = [("POST", "/predict", send),
                ("POST", "/predict", send | {"headers": IMAGE | {"authorization": f"Bearer {key}"}}),
                ("POST", "/predict", send | {"headers": IMAGE | {"x-api-key": key}}),
                ("POST", "/predict", send | {"headers": IMAGE | {"x-api-key": key[:-1]}}),
                ("GET", "/metrics", {}), ("GET", "/v2/models/fake", {}), ("GET", "/v2/health/ready", {})]
    found, _ = asked(requests, **settings)
    assert [answer.status_code for answer in found] == [401, 200, 200, 401, 401, 401, 200]
    assert found[0].headers["www-authenticate"] == "Bearer"


def test_other_sites_and_other_names_are_refused():
    send = {"content": png()}
    requests = [("POST", "/predict", send | {"headers": IMAGE | {"origin": "http://evil.example"}}),
                ("POST", "/predict", send | {"headers": IMAGE | {"sec-fetch-site": "cross-site"}}),
                ("POST", "/predict", send | {"headers": IMAGE | {"origin": "http://127.0.0.1"}}),
                ("GET", "/v2", {"headers": {"host": "evil.example"}}),
                ("GET", "/v2", {"headers": {"host": "localhost:99"}}),
                ("GET", "/v2", {"headers": {"host": "[::1]:8000"}})]
    found, _ = asked(requests)
    assert [answer.status_code for answer in found] == [403, 403, 200, 421, 200, 200]
    assert not any(name.startswith("access-control") for answer in found for name in answer.headers)


def test_a_key_allows_other_sites():
    key = "k" * 24
    headers = IMAGE | {"origin": "http://other.example", "x-api-key": key}
    assert one("POST", "/predict", settings={"keys": (digest(key.encode()),)}, content=png(),
               headers=headers).status_code == 200


def test_every_answer_keeps_browsers_from_misusing_it():
    found, _ = asked([("GET", "/v2", {}), ("GET", "/nowhere", {}), ("POST", "/predict", {"content": b"x"})])
    for response in found:
        assert response.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in response.headers["content-security-policy"]
        assert response.headers["cache-control"] == "no-store"


def test_ambiguous_lengths_are_refused():
    headers = IMAGE | {"transfer-encoding": "chunked", "content-length": "3"}
    assert one("POST", "/predict", content=b"abc", headers=headers).status_code == 400


# -- the Open Inference Protocol -----------------------------------------------------------------------------------

PIXELS = np.random.default_rng(0).integers(0, 256, (2, 4, 6, 3), dtype=np.uint8)
INFER = "/v2/models/fake/infer"


def images_input(**more):
    return {"name": "images", "datatype": "UINT8", "shape": [2, 4, 6, 3]} | more


@pytest.mark.parametrize("data", [PIXELS.ravel().tolist(), PIXELS.tolist()], ids=["flat", "nested"])
def test_tensors_in_json_give_the_models_probabilities(data):
    found = one("POST", INFER, json={"id": "q7", "inputs": [images_input(data=data)]})
    assert found.status_code == 200
    value = found.json()
    assert (value["id"], value["model_name"], value["model_version"]) == ("q7", "fake", "ab" * 6)
    probs, label = value["outputs"]
    assert (probs["name"], probs["datatype"], probs["shape"]) == ("probs", "FP32", [2, 3])
    assert np.array_equal(np.float32(probs["data"]).reshape(2, 3), answer(PIXELS))
    assert label["data"] == ["middle", "middle"] and label["shape"] == [2]


def test_binary_tensors_go_in_and_come_out_bit_for_bit():
    head = json.dumps({"inputs": [images_input(parameters={"binary_data_size": PIXELS.size})],
                       "parameters": {"binary_data_output": True}}).encode()
    found = one("POST", INFER, content=head + PIXELS.tobytes(),
                headers={"inference-header-content-length": str(len(head))})
    length = int(found.headers["inference-header-content-length"])
    outputs = json.loads(found.content[:length])["outputs"]
    sizes = [output["parameters"]["binary_data_size"] for output in outputs]
    assert len(found.content) == length + sum(sizes) and "data" not in outputs[0]
    probs = found.content[length:length + sizes[0]]
    assert probs == answer(PIXELS).astype("<f4").tobytes()
    assert found.content[length + sizes[0]:] == (struct.pack("<I", 6) + b"middle") * 2


def test_encoded_images_are_decoded_by_the_bundles_rules():
    import base64

    files = [png(0), png(255)]
    plain = {"name": "encoded", "datatype": "BYTES", "shape": [2],
             "data": [base64.b64encode(file).decode() for file in files]}
    outputs = [{"name": "label"}]
    packed = b"".join(struct.pack("<I", len(file)) + file for file in files)
    head = json.dumps({"outputs": outputs, "inputs": [{
        "name": "encoded", "datatype": "BYTES", "shape": [2],
        "parameters": {"binary_data_size": len(packed)}}]}).encode()
    (first, second), _ = asked([
        ("POST", INFER, {"json": {"inputs": [plain], "outputs": outputs}}),
        ("POST", "/v2/models/fake/versions/" + "ab" * 6 + "/infer", {
            "content": head + packed, "headers": {"inference-header-content-length": str(len(head))}})])
    for found in (first, second):
        assert found.json()["outputs"] == [
            {"name": "label", "datatype": "BYTES", "shape": [2], "data": ["dark", "light"]}]


@pytest.mark.parametrize(("body", "status"), [
    (b"", 400), (b"[]", 400), (b"{}", 400), (b'{"inputs": []}', 400), (b"[" * 100_000, 400), (b'{"inputs": [1]}', 400),
    ({"inputs": [images_input()]}, 400), ({"inputs": [images_input(data=[1, 2])]}, 400),
    ({"inputs": [images_input(data=[256] * 144)]}, 400), ({"inputs": [images_input(data=[1.5] * 144)]}, 400),
    ({"inputs": [images_input(data=[True] * 144)]}, 400), ({"inputs": [images_input(data="x" * 144)]}, 400),
    ({"inputs": [images_input(data=[[1], 2])]}, 400), ({"id": 3, "inputs": [images_input(data=[0] * 144)]}, 400),
    ({"inputs": [images_input(shape=[2, 4, 6], data=[0] * 48)]}, 422),
    ({"inputs": [images_input(datatype="FP32", data=[0] * 144)]}, 422),
    ({"inputs": [images_input(name="pixels", data=[0] * 144)]}, 422),
    ({"inputs": [images_input(name={"a": []}, data=[0] * 144)]}, 422),
    ({"inputs": [images_input(datatype=[{}], data=[0] * 144)]}, 422),
    ({"inputs": [images_input(data=[0] * 144)], "outputs": [{"name": [{}]}]}, 422),
    ({"inputs": [images_input(data=[0] * 144)] * 2}, 422),
    ({"inputs": [images_input(data=[0] * 144)], "outputs": [{"name": "logits"}]}, 422),
    ({"inputs": [images_input(data=[0] * 144)], "outputs": [{"name": "probs"}] * 2}, 400),
    ({"inputs": [images_input(shape=[10**9, 4, 6, 3], data=[0])]}, 413),
    ({"inputs": [images_input(parameters={"binary_data_size": 10**18})]}, 400),
    ({"inputs": [{"name": "encoded", "datatype": "BYTES", "shape": [1], "data": ["%%%"]}]}, 400),
    ({"inputs": [{"name": "encoded", "datatype": "BYTES", "shape": [1], "data": ["aGVsbG8gd29ybGQ="]}]}, 415)],
    ids=range(27))
def test_what_is_not_the_protocol_is_refused_in_its_form(body, status):
    found = one("POST", INFER, **({"content": body} if isinstance(body, bytes) else {"json": body}))
    assert found.status_code == status, found.text
    assert isinstance(found.json()["error"], str)


def test_an_id_that_no_text_can_hold_is_refused_or_readable():
    found = one("POST", INFER, content=json.dumps({"id": "a\ud800", "inputs": [images_input(data=[0] * 144)]}).encode())
    assert found.status_code == 400 or found.status_code == 200 and found.json()["id"].startswith("a")


@pytest.mark.parametrize("length", ["-1", "x", "999999", "9" * 30, "5"])
def test_a_wrong_length_of_the_json_part_is_400(length):
    found = one("POST", INFER, content=b"{}" + bytes(20), headers={"inference-header-content-length": length})
    assert found.status_code == 400


def test_metadata_names_shapes_versions_and_limits():
    (server, model, ready, other), _ = asked([("GET", "/v2", {}), ("GET", "/v2/models/fake", {}),
                                              ("GET", "/v2/models/fake/ready", {}), ("GET", "/v2/models/else", {})])
    assert server.json()["extensions"] == ["binary_tensor_data"] and server.json()["limits"]["images"] == 16
    assert model.json()["inputs"][0] == {"name": "images", "datatype": "UINT8", "shape": [-1, 4, 6, 3]}
    assert model.json()["outputs"][0] == {"name": "probs", "datatype": "FP32", "shape": [-1, 3]}
    assert ready.json() == {"name": "fake", "ready": True} and other.status_code == 404


# -- what is kept -------------------------------------------------------------------------------------------------


def test_statistics_see_every_image_as_the_network_does():
    class Collector:
        def __init__(self):
            self.seen, self.lock = [], threading.Lock()

        def add(self, prepared, probs, size=None):
            with self.lock:
                self.seen.append((prepared.shape, float(probs.max()), size))

    collector = Collector()
    asked([("POST", "/predict", {"content": png(255), "headers": IMAGE})] * 3, collector=collector)
    assert collector.seen == [((4, 6, 3), 1.0, (8, 5))] * 3


def test_metrics_count_requests_images_and_times():
    requests = [("POST", "/predict", {"content": png(), "headers": IMAGE})] * 3
    requests += [("POST", "/predict", {"content": b"nothing", "headers": IMAGE}), ("GET", "/metrics", {})]
    found, _ = asked(requests)
    from prometheus_client.parser import text_string_to_metric_families

    samples = {(sample.name, tuple(sorted(sample.labels.items()))): sample.value
               for family in text_string_to_metric_families(found[-1].text) for sample in family.samples}
    assert samples["visus_requests_total", (("route", "predict"), ("status", "200"))] == 3
    assert samples["visus_requests_total", (("route", "predict"), ("status", "415"))] == 1
    assert samples["visus_images_total", ()] == 3
    assert samples["visus_request_seconds_count", (("route", "predict"),)] == 4
    assert samples["visus_stage_seconds_count", (("stage", "model"),)] == 3
    assert samples["visus_model_info", (("model", "fake"), ("version", "ab" * 6))] == 1
    assert samples["visus_ready", ()] == 1


def test_a_swap_answers_with_the_new_model_and_name():
    def swap(service):
        service.swap(fake_predictor(model="newer", files={"model.onnx": "cd" * 32}))

    found, _ = asked([("POST", "/predict", {"content": png(), "headers": IMAGE})], prepare=swap)
    assert (found[0].json()["model"], found[0].json()["version"]) == ("newer", "cd" * 6)

"""What the page is made of, and what it asks: maps that lie where they belong, attacks that keep their distance."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import re
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi", reason="the extra serve is not installed")
pytest.importorskip("onnxruntime", reason="the extra export is not installed")
from starlette.testclient import TestClient

from visus.core.errors import CheckpointError, UserError
from visus.core.preprocessing import Preprocessing
from visus.deploy.artifact import Bundle, read_bundle
from visus.deploy.predictor import open_predictor
from visus.deploy.server import page
from visus.deploy.server.app import make_app
from visus.deploy.server.errors import Refusal
from visus.deploy.server.service import Service
from visus.deploy.server.settings import ServerSettings
from visus.run.serve_torch import torch_side

SETTINGS = ServerSettings(access_log="", streams=1)


def asking(bundle, with_torch: bool = True):
    predictor = open_predictor(bundle)
    explain, attack = (torch_side(predictor.bundle) if with_torch else None) or (None, None)
    service = Service(predictor, SETTINGS, explain=explain, attack=attack)
    return service, TestClient(make_app(service, SETTINGS), base_url="http://localhost")


@pytest.fixture(scope="module")
def client(digits_bundle):
    service, client = asking(digits_bundle)
    with client:
        yield client
    service.close()


@pytest.fixture(scope="module")
def pictures(digit_files):
    return sorted(digit_files.iterdir())


def decoded(uri: str) -> np.ndarray:
    head, _, data = uri.partition(",")
    assert head == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def png(pixels: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def post(client, path: str, data: bytes):
    return client.post(path, files={"file": ("one.png", data)})


# -- files ---------------------------------------------------------------------------------------------------------


def test_the_list_of_files_is_what_lies_there():
    assert {path.name for path in page.FOLDER.iterdir()} == set(page.FILES)


@pytest.mark.parametrize("name", page.FILES)
def test_each_file_has_its_type_and_is_sent_once(client, name):
    path = "/" if name == "index.html" else f"/page/{name}"
    first = client.get(path)
    assert first.status_code == 200 and first.content == (page.FOLDER / name).read_bytes()
    assert first.headers["content-type"].encode() == page.FILES[name]
    again = client.get(path, headers={"if-none-match": first.headers["etag"]})
    assert again.status_code == 304 and again.content == b""
    assert client.get(path, headers={"if-none-match": '"other"'}).status_code == 200


@pytest.mark.parametrize("path", ["/page/", "/page/index.html", "/page/../page.py", "/page/%2e%2e/page.py",
                                  "/page/..%2fpage.py", "/page/style.css/", "/page//etc/passwd"])
def test_nothing_else_lies_below_the_page(client, path):
    assert client.get(path).status_code == 404


def test_the_browser_is_told_to_run_and_load_only_the_pages_own_files(client):
    rules = client.get("/").headers["content-security-policy"]
    assert "default-src 'none'" in rules and "script-src 'self'" in rules and "unsafe" not in rules
    html = (page.FOLDER / "index.html").read_text()
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=|javascript:", html)
    assert all("src=" in tag for tag in re.findall(r"<script[^>]*>", html))


def test_no_file_names_another_server_and_no_text_becomes_markup():
    for name in page.FILES:
        text = (page.FOLDER / name).read_text().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://|//[a-z]+\.|@import|url\(", text), name
        assert not re.search(r"(inner|outer|adjacent)HTML|document\.write|\beval\(|new Function", text, re.I), name


def test_what_the_script_looks_up_is_in_the_page_and_each_id_once():
    html, script = ((page.FOLDER / name).read_text() for name in ("index.html", "app.js"))
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'\$\("([^"]+)"\)', script)) <= set(ids)
    assert set(re.findall(r'(?:for|aria-labelledby|aria-describedby)="([^"]+)"', html)) <= set(ids)


# -- maps ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("resize", ["squash", "crop", "pad"])
@pytest.mark.parametrize("size", [(90, 160), (160, 90), (100, 100), (31, 200)])
def test_a_map_lies_over_what_the_network_saw(resize, size):
    """A bright spot in the picture, seen by the network as any other, is bright at the same place of the map."""
    rules = Preprocessing(size=(48, 64), resize=resize, crop_fraction=0.8, background=(0, 0, 0))
    height, width = size
    y, x = round(0.42 * height), round(0.55 * width)
    rows, columns = np.mgrid[:height, :width]
    spot = 255 * np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (2 * (0.08 * min(size)) ** 2))
    pixels = np.repeat(spot[..., None], 3, 2).astype(np.uint8)
    heat = rules.resized_array(pixels).mean(2).astype(np.float32)
    uri, low, high = page.over_picture(heat, size, rules)
    drawn = decoded(uri).astype(float)
    assert drawn.shape[2] == 4 and abs(drawn.shape[0] / drawn.shape[1] - height / width) < 0.02
    assert low == 0 < high
    bright = drawn[..., :3].sum(2) * (drawn[..., 3] > 0)  # viridis grows in all from dark blue to yellow
    found = np.argwhere(bright >= bright.max() - 1).mean(0) / drawn.shape[:2]
    assert np.abs(found - (y / height, x / width)).max() < 0.03
    assert (drawn[..., 3] == 0).any() == (resize == "crop")


def test_heat_on_both_sides_of_zero_is_drawn_in_two_colours():
    rules = Preprocessing(size=(8, 8))
    heat = np.zeros((8, 8), np.float32)
    heat[:, :2], heat[:, 6:] = -1, 0.5
    uri, low, high = page.over_picture(heat, (80, 80), rules)
    drawn = decoded(uri).astype(int)
    assert (low, high) == (-1, 1)
    assert drawn[200, 5, 2] > drawn[200, 5, 0] and drawn[200, -5, 0] > drawn[200, -5, 2]  # blue, and red
    assert drawn[200, 224, 3] < 20 < 160 < drawn[200, -5, 3] < drawn[200, 5, 3]           # zero is clear


def test_a_map_of_one_value_or_of_none_that_is_finite_is_drawn():
    for heat in (np.zeros((4, 4), np.float32), np.full((4, 4), np.nan, np.float32)):
        uri, low, high = page.over_picture(heat, (10, 30), Preprocessing(size=(16, 16)))
        assert low == high == 0 and decoded(uri).shape[2] == 4


def test_the_map_asked_for_is_that_of_visus_explain(client, digits_bundle, digits_run, pictures):
    from visus.run.explain import explain

    for file in pictures[:3]:
        predictor = open_predictor(digits_bundle)
        image = predictor.prepared(predictor.read(file).pixels)
        own = torch_side(predictor.bundle)[0](image, "grad_cam", None)
        theirs = explain(digits_run, [file], "grad_cam").explanation.heat[0].numpy()
        np.testing.assert_allclose(own, theirs, rtol=1e-4, atol=1e-5)


def test_confidence_is_that_of_predict_and_the_map_hangs_on_method_and_class(client, pictures):
    data = pictures[2].read_bytes()
    top = post(client, "/predict", data).json()["results"][0]["top"]
    told = client.get("/methods").json()
    names = [one["name"] for one in told["explain"]]
    assert told["torch"] and told["why_not"] is None
    assert names == ["grad_cam", "grad_cam_plus_plus", "integrated_gradients", "occlusion", "rise"]  # no attention here
    maps = set()
    for name in names:
        answer = post(client, f"/explain?method={name}", data).json()
        assert answer["top"] == top and answer["label"] == top[0]["label"] and answer["prob"] == top[0]["prob"]
        maps.add(answer["map"])
    second = post(client, f"/explain?method=occlusion&class_index={int(top[1]['label'])}", data).json()
    assert second["label"] == top[1]["label"] and second["prob"] == top[1]["prob"]
    maps.add(second["map"])
    assert len(maps) == len(names) + 1
    assert post(client, "/explain?method=rise", data).json()["map"] in maps  # the same masks each time


@pytest.mark.parametrize(("path", "status"), [
    ("/explain?method=nothing", 422), ("/explain?method=Grad-CAM", 400), ("/explain?method=../x", 400),
    ("/explain?class_index=10", 400), ("/explain?class_index=-1", 400), ("/explain?class_index=1.0", 400),
    ("/explain?method=rise&method=rise", 400), ("/explain?other=1", 400), ("/explain?method=rollout", 422),
    ("/attack?epsilon=1.1", 400), ("/attack?epsilon=-0.1", 400), ("/attack?epsilon=nan", 400),
    ("/attack?epsilon=.", 400), ("/attack?epsilon=", 400), ("/attack?epsilon=1e999", 400), ("/attack?method=gcg", 422),
    ("/attack?epsilon=%F0%9F", 400)])
def test_a_question_that_cannot_be_meant_is_refused_in_words(client, pictures, path, status):
    answer = post(client, path, pictures[0].read_bytes())
    assert answer.status_code == status
    error = answer.json()["error"]
    assert error["problem"] and error["remedy"] and error["id"] and "visus" not in error["problem"]


@pytest.mark.parametrize("path", ["/explain", "/attack"])
def test_what_is_no_image_is_refused_as_by_predict(client, pictures, path):
    for data in (b"", b"hello", b"\x89PNG\r\n\x1a\n" + bytes(40), pictures[3].read_bytes()[:60]):
        assert post(client, path, data).status_code == post(client, "/predict", data).status_code >= 400
    assert client.post(path, content=b"{}", headers={"content-type": "application/json"}).status_code == 415
    raw = client.post(path, content=pictures[0].read_bytes(), headers={"content-type": "image/png"})
    assert raw.status_code == 200


# -- attacks -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["fgsm", "pgd"])
def test_no_pixel_moves_further_than_it_may_and_the_answers_are_those_of_predict(client, digits_bundle, pictures,
                                                                                method):
    file = pictures[5]
    predictor = open_predictor(digits_bundle)
    image = predictor.prepared(predictor.read(file).pixels)[..., 0]
    worse = []
    for levels in (0, 1, 5, 16, 64):
        answer = post(client, f"/attack?method={method}&epsilon={levels / 255}", file.read_bytes()).json()
        changed = decoded(answer["picture"])
        assert (decoded(answer["original"]) == image).all()
        assert answer["most"] == np.abs(changed.astype(int) - image).max() == levels
        assert ((changed != image) == (decoded(answer["difference"]) != 128)).all()
        for picture, told in ((answer["original"], answer["before"]), (answer["picture"], answer["after"])):
            data = base64.b64decode(picture.partition(",")[2])
            assert post(client, "/predict", data).json()["results"][0]["top"] == told["top"]
        was, now = answer["before"]["top"][0]["label"], answer["after"]["top"]
        assert answer["broken"] == (now[0]["label"] != was)
        worse.append(next((one["prob"] for one in now if one["label"] == was), 0.0))
    assert worse[0] > worse[2] >= worse[3] >= worse[4] and worse[4] < 0.1


def test_pgd_misleads_at_least_as_much_as_a_single_step(digits_bundle, pictures):
    predictor = open_predictor(digits_bundle)
    _, attack = torch_side(predictor.bundle)
    left = {"fgsm": 0.0, "pgd": 0.0}
    for file in pictures[:12]:
        image = predictor.prepared(predictor.read(file).pixels)
        label = int(predictor.probs(image).argmax())
        for method in left:
            left[method] += float(predictor.probs(attack(image, 32 / 255, method))[label])
    assert left["pgd"] <= left["fgsm"] < 12 * 0.9


def test_a_plain_transformer_is_asked_for_its_attention_first(tmp_path):
    from tests.rows_explain import MODELS
    from visus.run.bundle import save_model
    from visus.run.models import create_model

    name, config, size = MODELS["vit"]
    rules = Preprocessing(size=(size, size), labels=tuple("abcdefghij"))
    save_model(tmp_path / "model", create_model(name, **config, num_classes=10).state_dict(), name=name,
               config=config | {"num_classes": 10}, task="classification", preprocessing=rules, about={})
    explain, attack = torch_side(Bundle(tmp_path, {}))
    assert list(explain.methods())[0] == "rollout" and not explain.methods()["rollout"]["asks_class"]
    assert "grad_cam" in explain.methods() and set(attack.methods()) == {"fgsm", "pgd"}
    image = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    heat = explain(image, "rollout", 3)
    assert heat.dtype == np.float32 and 0 < heat.sum() < 1 and (heat == explain(image, "rollout", 4)).all()


def test_what_the_torch_side_is_asked_wrongly_it_says(digits_bundle):
    explain, attack = torch_side(open_predictor(digits_bundle).bundle)
    size = explain.model.get().trained.preprocessing.size
    image = np.zeros((*size, 1), np.uint8)
    for wrong in (lambda: explain(image, "saliency"), lambda: explain(image[:-1], "rise"), lambda: attack(image, 2.0),
                  lambda: explain(image, "grad_cam", 99), lambda: attack(image, 0.1, "jsma")):
        with pytest.raises(UserError):
            wrong()


# -- the bundle ----------------------------------------------------------------------------------------------------


def test_the_card_shows_what_the_bundle_holds(client, digits_bundle):
    told = client.get("/card").json()
    assert told["labels"] == [str(n) for n in range(10)] and "labels" not in told["bundle"]["preprocessing"]
    assert told["task"] == told["bundle"]["task"] == "classification" and "files" not in told["bundle"]
    for name in ("card", "passport"):
        file = digits_bundle / f"{name}.json"
        assert told[name] == (json.loads(file.read_text()) if file.is_file() else None)


def test_of_a_single_file_the_card_says_what_is_missing(digits_bundle):
    service, client = asking(digits_bundle / "model.onnx", with_torch=False)
    told = client.get("/card").json()
    assert told["card"] is told["passport"] is None and told["bundle"]["precision"] == "float32"
    service.close()


def test_without_a_torch_model_the_page_is_told_why(digits_bundle, pictures):
    service, client = asking(digits_bundle / "model.onnx", with_torch=False)
    told = client.get("/methods").json()
    assert told["explain"] == told["attack"] == [] and "no torch model" in told["why_not"]
    answer = post(client, "/explain", pictures[0].read_bytes())
    assert answer.status_code == 422 and answer.json()["error"]["code"] == "no_torch_model"
    service.close()


def test_a_torch_model_that_was_exchanged_behind_the_server_is_not_asked(digits_bundle, tmp_path):
    copy = tmp_path / "bundle"
    shutil.copytree(digits_bundle, copy)
    explain, _ = torch_side(read_bundle(copy))
    text = (copy / "model/model.json").read_text()
    (copy / "model/model.json").write_text(text + " ")
    with pytest.raises(CheckpointError):
        explain.methods()


def test_one_map_at_a_time_a_few_wait_and_the_rest_is_told_to_come_back():
    at_once = most = 0

    async def submit(function, *args):
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0.002)
        at_once -= 1
        return function(*args)

    async def ask_many():
        desk = page.Desk(SimpleNamespace(submit=submit), SETTINGS)
        asked = (desk.heavy(int, n) for n in range(page.MOST_WAITING + 3))
        first = await asyncio.gather(*asked, return_exceptions=True)
        return first, await desk.heavy(int, 7)

    first, later = asyncio.run(ask_many())
    refused = [one for one in first if isinstance(one, Refusal)]
    assert most == 1 and later == 7
    assert [one.status for one in refused] == [429] * 3 and len(first) - len(refused) == page.MOST_WAITING

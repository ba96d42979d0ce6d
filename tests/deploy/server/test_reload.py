import asyncio
import json
import os
import shutil

import numpy as np
import pytest

pytest.importorskip("prometheus_client", reason="the extra serve is not installed")
pytest.importorskip("onnxruntime", reason="the extra export is not installed")

from tests.deploy.server.fake_model import fake_predictor
from visus.core.errors import CheckpointError
from visus.core.files import sha256
from visus.deploy import machine
from visus.deploy.artifact import CHOICES, GOLDEN, NAME, ONNX, read_bundle
from visus.deploy.golden import Golden, read_golden, write_golden
from visus.deploy.quantise import QuantiseConfig, quantised
from visus.deploy.server import reload as module
from visus.deploy.server.logs import Log
from visus.deploy.server.reload import Reloader, checked_predictor
from visus.deploy.server.service import Service
from visus.deploy.server.settings import ServerSettings
from visus.run.export import check


@pytest.fixture
def bundle(digits_bundle, tmp_path):
    """A copy that may be spoilt, with a golden batch that its model answered."""
    folder = tmp_path / "bundle"
    shutil.copytree(digits_bundle, folder)
    predictor = checked_predictor(folder)
    shape = (*predictor.bundle.preprocessing.size, predictor.bundle.preprocessing.channels)
    images = np.random.default_rng(0).integers(0, 256, (4, *shape), dtype=np.uint8)
    write_golden(folder / GOLDEN, Golden(images, np.stack([predictor.probs(image) for image in images]), ("a",) * 4))
    seal(folder)
    return folder


def seal(folder, **more):
    about = json.loads((folder / NAME).read_text())
    about["files"] = {name: sha256(folder / name) for name in (ONNX, GOLDEN)}
    about.pop("golden", None)
    (folder / NAME).write_text(json.dumps(about | more))


def spoil(folder):
    """Another answer than the original's in the golden batch."""
    with np.load(folder / GOLDEN) as held:
        write_golden(folder / GOLDEN, Golden(held["images"], np.roll(held["probs"], 1, axis=1), ("a",) * 4))
    seal(folder)


def test_a_bundle_that_answers_otherwise_than_its_original_is_refused(bundle):
    checked_predictor(bundle)
    spoil(bundle)
    with pytest.raises(CheckpointError, match="as its original"):
        checked_predictor(bundle)


def test_fewer_bits_that_were_chosen_are_judged_by_their_decisions(digits_bundle, tmp_path):
    folder = tmp_path / "bundle"
    shutil.copytree(digits_bundle, folder, ignore=shutil.ignore_patterns(CHOICES))
    golden = read_golden(folder / GOLDEN)
    quantised(folder / ONNX, folder / "int8.onnx", list(golden.images), config=QuantiseConfig(tries=0))
    machine.remember(read_bundle(folder), 1, {"without_torch": {
        "backend": "onnxruntime", "threads": 1, "file": "int8.onnx", "sha256": sha256(folder / "int8.onnx")}})
    predictor = checked_predictor(folder)
    assert predictor.precision == predictor.fewer_bits == "int8"
    assert checked_predictor(folder, backend="onnxruntime").precision == "float32"
    probs = np.stack([predictor.probs(image) for image in golden.images])
    assert np.abs(probs - golden.probs).max() > 1e-3
    assert check(folder).largest < 1e-4  # the bundle's own graph
    write_golden(folder / GOLDEN, Golden(golden.images, np.roll(golden.probs, 1, 1), golden.sources))
    with pytest.raises(CheckpointError, match="decisions differ in the precision that was chosen"):
        checked_predictor(folder)


def test_labels_that_do_not_fit_the_graph_are_refused(bundle):
    about = json.loads((bundle / NAME).read_text())
    about["preprocessing"]["labels"] = ["one", "two"]
    (bundle / GOLDEN).unlink()
    about["files"] = {ONNX: sha256(bundle / ONNX)}
    (bundle / NAME).write_text(json.dumps(about))
    with pytest.raises(CheckpointError, match="2 labels"):
        checked_predictor(bundle)


def service_of(path, tmp_path):
    settings = ServerSettings(streams=1, access_log="")
    service = Service(checked_predictor(path), settings, log=Log(str(tmp_path / "log")))
    return service, Reloader(service, path, lambda: checked_predictor(path))


def test_a_good_bundle_is_taken_and_a_broken_one_refused_while_the_old_one_goes_on(bundle, tmp_path):
    service, reloader = service_of(bundle, tmp_path)
    seal(bundle, model="better")
    assert asyncio.run(reloader.reload())
    assert service.answering.name == "better"
    good = service.answering
    spoil(bundle)
    assert not asyncio.run(reloader.reload())
    (bundle / ONNX).write_bytes(b"nothing")
    assert not asyncio.run(reloader.reload())
    (bundle / NAME).write_bytes(b"{")
    assert not asyncio.run(reloader.reload())
    assert service.answering is good
    service.log.close()
    service.close()
    events = [json.loads(line)["event"] for line in (tmp_path / "log").read_text().splitlines()]
    assert events == ["reloaded", "reload_refused", "reload_refused", "reload_refused"]


def test_watching_takes_a_new_bundle_once_and_leaves_an_old_one_alone(bundle, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "WATCH_SECONDS", 0.02)
    service, reloader = service_of(bundle, tmp_path)
    loads = []
    load = reloader.load
    reloader.load = lambda: loads.append(1) or load()

    async def work():
        task = asyncio.ensure_future(reloader.watch())
        await asyncio.sleep(0.2)
        assert loads == []
        seal(bundle, model="better")
        for _ in range(300):
            await asyncio.sleep(0.02)
            if service.answering.name == "better":
                break
        await asyncio.sleep(0.2)
        task.cancel()

    asyncio.run(work())
    service.close()
    assert service.answering.name == "better" and loads == [1]


def test_a_failure_of_the_runtime_ends_no_server(tmp_path):
    service = Service(fake_predictor(), ServerSettings(streams=1, access_log=""))

    def load():
        raise RuntimeError("out of device memory")

    assert asyncio.run(Reloader(service, tmp_path, load).reload()) is False
    assert service.answering.name == "fake"
    service.close()


def test_a_run_is_served_from_its_export(digits_run, monkeypatch):
    from visus.run.serve import bundle_of, settings_of

    found = bundle_of(digits_run)
    assert found == digits_run / "export" / "bundle" and (found / NAME).is_file()
    before = os.stat(found / NAME).st_mtime_ns
    assert bundle_of(digits_run) == found == bundle_of(found) and os.stat(found / NAME).st_mtime_ns == before
    from visus.core.errors import UserError

    with pytest.raises(UserError, match="max_body_bytes"):
        settings_of(None, {"max_body_byte": 5})

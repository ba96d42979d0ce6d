"""Real servers, in processes of their own on the loopback device, and what they must answer."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.deploy.server.load_client import Address, Answer, Lost, ask, multipart, request

ROOT = Path(__file__).resolve().parents[3]
PATIENCE = 120.0  # seconds until a server must be up, on a busy machine
SERVE = [sys.executable, "-m", "visus", "serve"]


class Server:
    """A `visus serve` that runs. options: of the command line."""

    def __init__(self, model: Path, folder: Path, *options: str, ready: bool = True):
        self.model = model
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address: Address = ("127.0.0.1", free.getsockname()[1])
        self.log = folder / f"serve-{self.address[1]}.log"
        command = [*SERVE, str(model), "--port", str(self.address[1]), *options]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                                            env=os.environ | {"OMP_NUM_THREADS": "1"})
        if ready:
            self.wait_until_ready()

    @property
    def pid(self) -> int:
        return self.process.pid

    def wait_until_ready(self) -> None:
        end = time.monotonic() + PATIENCE
        while not self.is_ready():
            assert self.process.poll() is None, f"ended with {self.process.returncode}:\n{self.text()}"
            assert time.monotonic() < end, f"is not ready:\n{self.text()}"
            time.sleep(0.05)

    def is_ready(self) -> bool:
        try:
            return self.get("/v2/health/ready").status == 200
        except (Lost, OSError, TimeoutError):
            return False

    def get(self, path: str, headers: tuple[tuple[str, str], ...] = ()) -> Answer:
        return asyncio.run(ask(self.address, request("GET", path, b"", headers), "GET"))

    def post(self, data: bytes, within: float = 60) -> Answer:
        """The bytes of a request, on a connection of its own."""
        return asyncio.run(ask(self.address, data, within=within))

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def stop(self, within: float = 40) -> int:
        """SIGTERM, and the exit code. A server that does not end is killed, and gives -9."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(within)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


def predict(image: bytes, kind: str = "image/png", headers: tuple[tuple[str, str], ...] = ()) -> bytes:
    """A request of POST /predict with the image as its body."""
    return request("POST", "/predict", image, [("Content-Type", kind), *headers])


def predict_files(*images: bytes, headers: tuple[tuple[str, str], ...] = ()) -> bytes:
    """The same with files in a form, as a browser sends them."""
    body, line = multipart([("image", f"{number}.png", image) for number, image in enumerate(images)])
    return request("POST", "/predict", body, [line, *headers])


def error_of(answer: Answer) -> dict[str, str]:
    """The error object of an answer, checked to be whole and to give nothing away."""
    found = answer.json()
    assert set(found) == {"error"}, found
    assert {"code", "problem", "remedy", "id"} <= set(found["error"]), found
    for word in ("Traceback", "/site-packages", "visus.deploy", str(ROOT), ".py"):
        assert word not in answer.body.decode(), found
    return found["error"]


@pytest.fixture(scope="session")
def serving():
    """Skips where the packages of the extra `serve` are missing."""
    for name in ("fastapi", "uvicorn", "multipart", "prometheus_client"):
        pytest.importorskip(name, reason="the extra serve is not installed")


@pytest.fixture
def start(serving, tmp_path) -> Iterator:
    """start(model, *options): a server that is stopped at the end, and whose log must hold no traceback."""
    running: list[Server] = []

    def begin(model: Path, *options: str, ready: bool = True) -> Server:
        running.append(Server(Path(model), tmp_path, *options, ready=False))
        if ready:
            running[-1].wait_until_ready()
        return running[-1]

    yield begin
    for server in running:
        server.stop()
    for server in running:
        assert "Traceback" not in server.text(), server.text()


def _kept(model: Path, folder: Path, *options: str) -> Iterator[Server]:
    server = Server(model, folder, *options)
    yield server
    code = server.stop()
    assert "Traceback" not in server.text(), server.text()
    assert code == 0, server.text()


@pytest.fixture(scope="session")
def server(serving, digits_bundle, tmp_path_factory) -> Iterator[Server]:
    """A server with the default limits."""
    yield from _kept(digits_bundle, tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="session")
def impatient_server(serving, digits_bundle, tmp_path_factory) -> Iterator[Server]:
    """The same, waiting only seconds for a request and for the next one."""
    yield from _kept(digits_bundle, tmp_path_factory.mktemp("impatient"), "--set", "header_seconds=2", "--set",
                     "body_seconds=2", "--set", "keep_alive_seconds=1")


@pytest.fixture(scope="session")
def digits() -> list[bytes]:
    """200 different real digits as PNG and JPEG files of several sizes."""
    import visus.data.builtin

    images = np.load(Path(visus.data.builtin.__file__).parent / "digits.npz")["images"]
    files = []
    for number in range(200):
        side = (8, 20, 33, 64)[number % 4]
        picture = Image.fromarray(np.asarray(images[number], np.uint8).squeeze()).resize((side, side))
        file = io.BytesIO()
        picture.save(file, "JPEG" if number % 3 == 0 else "PNG")
        files.append(file.getvalue())
    assert len(set(files)) == 200
    return files


@pytest.fixture(scope="session")
def offline():
    """offline(bundle, image): what must be answered for the image: the likeliest classes as they go through JSON."""
    from visus.deploy.predictor import open_predictor

    opened: dict[Path, object] = {}

    def answer(bundle: Path, image: bytes) -> list[dict[str, object]]:
        if bundle not in opened:
            opened[bundle] = open_predictor(bundle)
        predictor = opened[bundle]
        probs = predictor.probs(predictor.prepared(predictor.read(image).pixels))
        labels = predictor.bundle.labels
        return json.loads(json.dumps([{"label": labels[k], "prob": prob} for k, prob in predictor.top(probs)]))

    return answer

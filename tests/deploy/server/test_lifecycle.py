"""A server that stops, loses a worker, gets a new bundle or has a model that fails: what was asked is answered, and
what cannot be is told so. The case S13 of the reliability catalogue, and hot reload."""

from __future__ import annotations

import asyncio
import io
import json
import os
import shutil
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.deploy.server.conftest import Server, error_of, predict
from tests.deploy.server.load_client import Address, Answer, ask, closed_loop, request
from tests.deploy.server.test_load import SLOW, VERY_SLOW


def under_load(server: Server, requests: list[bytes], act: Callable[[], None], *, connections: int = 8,
               at_least: int = 40, within: float = 60) -> list[Answer]:
    """Closed loops that go on until `act`, which is called in a thread soon after they began, has returned, and at
    least so many requests were answered."""
    done = threading.Event()
    seen: list[Answer] = []
    end = time.monotonic() + within

    async def run() -> list[Answer]:
        async def acting() -> None:
            await asyncio.sleep(0.3)
            await asyncio.to_thread(act)
            done.set()

        task = asyncio.ensure_future(acting())
        found = await closed_loop(server.address, requests, 10**9, connections,
                                  until=lambda: time.monotonic() > end or done.is_set() and len(seen) >= at_least
                                  or server.process.poll() is not None, seen=seen)
        await task
        return found

    return asyncio.run(run())


def workers_of(server: Server) -> list[int]:
    """Process numbers of the workers, in the order in which they began to listen."""
    found = []
    for line in server.text().splitlines():
        if line.startswith("{") and (about := json.loads(line)).get("event") == "listening":
            found.append(about["pid"])
    return found


def wait_for(what: Callable[[], bool], within: float, every: float = 0.02) -> float:
    """Seconds until it is so."""
    start = time.monotonic()
    while not what():
        assert time.monotonic() - start < within, "waited in vain"
        time.sleep(every)
    return time.monotonic() - start


# -- the end ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2])
def test_sigterm_under_load_loses_no_request_that_was_taken(start, digits_bundle, digits, workers):
    server = start(digits_bundle, "--workers", str(workers))
    requests = [predict(SLOW), *(predict(image) for image in digits[:7])]
    codes: list[int] = []
    signalled: list[float] = []

    def act() -> None:
        signalled.append(time.monotonic())
        codes.append(server.stop())

    answers = under_load(server, requests, act)
    assert codes == [0], server.text()
    statuses = Counter(answer.status for answer in answers)
    assert statuses[200] >= 5 and set(statuses) <= {200, 503, 0}, statuses
    for answer in answers:
        if answer.status == 503:
            assert "retry-after" in answer.headers
        if answer.status == 0:  # opened a connection when the server was about to close its door
            assert answer.at - answer.seconds > signalled[0], answer.lost


def test_readiness_ends_with_sigterm_and_what_is_under_way_is_finished(start, digits_bundle):
    server = start(digits_bundle, "--streams", "1")

    async def exchange() -> tuple[Answer, float]:
        slow = [asyncio.ensure_future(ask(server.address, predict(VERY_SLOW))) for _ in range(4)]
        await asyncio.sleep(0.5)
        server.process.send_signal(signal.SIGTERM)
        answers = await asyncio.gather(*slow)
        assert [answer.status for answer in answers] == [200] * 4
        return answers[-1], answers[-1].at

    _, last = asyncio.run(exchange())
    assert server.process.wait(20) == 0
    assert time.monotonic() - last < 5


def test_a_second_sigterm_ends_at_once(start, digits_bundle):
    server = start(digits_bundle, "--streams", "1")

    async def exchange() -> float:
        waiting = [asyncio.ensure_future(ask(server.address, predict(VERY_SLOW))) for _ in range(20)]
        await asyncio.sleep(0.5)
        server.process.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.3)
        begin = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        await asyncio.to_thread(server.process.wait, 20)
        took = time.monotonic() - begin
        await asyncio.gather(*waiting, return_exceptions=True)
        return took

    assert asyncio.run(exchange()) < 5


# -- workers ------------------------------------------------------------------------------------------------------


def killed(server: Server, digits: list[bytes]) -> tuple[list[Answer], float, bool]:
    """A worker is killed under load: the answers, the seconds until another listens, and whether readiness was false
    in between."""
    before = workers_of(server)
    assert len(before) == 2
    unready: list[bool] = []
    took: list[float] = []

    def act() -> None:
        os.kill(before[0], signal.SIGKILL)

        def back() -> bool:
            unready.append(server.get("/v2/health/ready").status == 503)
            return len(workers_of(server)) == 3

        took.append(wait_for(back, 30))
        wait_for(server.is_ready, 30)

    answers = under_load(server, [predict(image) for image in digits[:16]], act, connections=4)
    return answers, took[0], any(unready)


def test_a_killed_worker_is_replaced_while_the_other_answers(start, digits_bundle, digits):
    server = start(digits_bundle, "--workers", "2")
    wait_for(lambda: len(workers_of(server)) == 2, 30)
    answers, _, unready = killed(server, digits)
    lost = [answer for answer in answers if answer.status != 200]
    assert len(lost) <= 4, Counter(answer.lost for answer in lost)  # what the killed one was asked at that moment
    assert unready
    assert server.stop() == 0


@pytest.mark.slow
def test_a_killed_worker_is_replaced_within_two_seconds(start, digits_bundle, digits):
    server = start(digits_bundle, "--workers", "2")
    wait_for(lambda: len(workers_of(server)) == 2, 30)
    assert killed(server, digits)[1] <= 2


# -- a new bundle -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def softer_bundle(digits_run, digits_bundle, tmp_path_factory) -> Path:
    """The same model at temperature 2: other probabilities for every image."""
    import torch

    from visus.deploy.artifact import ONNX, read_bundle, seal
    from visus.deploy.onnx_file import write_onnx
    from visus.deploy.program import Program
    from visus.run.bundle import load_model

    folder = tmp_path_factory.mktemp("softer") / "bundle"
    folder.mkdir()
    trained, given = load_model(digits_run), read_bundle(digits_bundle)
    calibration = {"method": "temperature", "temperature": 2.0}
    about = {name: value for name, value in given.about.items() if name not in ("files", "golden")}
    about |= {"calibration": calibration}
    program = Program(trained.model, given.preprocessing, given.task, calibration)
    example = torch.zeros((2, *given.preprocessing.size, given.preprocessing.channels), dtype=torch.uint8)
    write_onnx(program, example, folder / ONNX, about)
    seal(folder, about)
    return folder


def put(source: Path, place: Path) -> None:
    """The bundle in the place of another, by renaming."""
    fresh, old = place.with_name("fresh"), place.with_name(f"old-{time.monotonic_ns()}")
    shutil.copytree(source, fresh)
    place.rename(old)
    fresh.rename(place)


@pytest.mark.parametrize(("workers", "by"), [(1, "--watch"), (2, "--watch"), (1, "SIGHUP")])
def test_a_new_bundle_under_load_loses_nothing_and_mixes_nothing(start, digits_bundle, softer_bundle, digits, offline,
                                                               tmp_path, workers, by):
    live = tmp_path / "live"
    shutil.copytree(digits_bundle, live)
    server = start(live, "--workers", str(workers), *(["--watch"] if by == "--watch" else []))
    old = [offline(digits_bundle, image) for image in digits[:16]]
    new = [offline(softer_bundle, image) for image in digits[:16]]
    assert all(a != b for a, b in zip(old, new, strict=True))
    wait_for(lambda: len(workers_of(server)) == workers, 30)

    def act() -> None:
        put(softer_bundle, live)
        if by == "SIGHUP":
            server.process.send_signal(signal.SIGHUP)
        wait_for(lambda: server.text().count('"reloaded"') == workers, 30, 0.1)

    answers = under_load(server, [predict(image) for image in digits[:16]], act, connections=4)
    versions: dict[str, set[str]] = {"old": set(), "new": set()}
    for answer in answers:
        assert answer.status == 200, (answer.status, answer.lost)
        top, place = answer.json()["results"][0]["top"], answer.number % 16
        assert top in (old[place], new[place])
        versions["old" if top == old[place] else "new"].add(answer.json()["version"])
    assert len(versions["old"]) == len(versions["new"]) == 1 and versions["old"] != versions["new"]
    last = server.post(predict(digits[0])).json()
    assert last["results"][0]["top"] == new[0]


def test_a_bundle_that_is_damaged_changes_nothing(start, digits_bundle, softer_bundle, digits, offline, tmp_path):
    live, broken = tmp_path / "live", tmp_path / "broken"
    shutil.copytree(digits_bundle, live)
    shutil.copytree(softer_bundle, broken)
    data = bytearray((broken / "model.onnx").read_bytes())
    data[len(data) // 2] ^= 255
    (broken / "model.onnx").write_bytes(data)
    server = start(live, "--watch")
    expected = offline(digits_bundle, digits[0])
    put(broken, live)
    wait_for(lambda: "reload_refused" in server.text(), 20, 0.1)
    assert server.post(predict(digits[0])).json()["results"][0]["top"] == expected
    assert server.is_ready()
    put(softer_bundle, live)  # and a good one after it is taken
    wait_for(lambda: '"reloaded"' in server.text(), 20, 0.1)
    assert server.post(predict(digits[0])).json()["results"][0]["top"] == offline(softer_bundle, digits[0])


# -- a model that fails -------------------------------------------------------------------------------------------


@contextmanager
def in_thread(model: Path, session: Callable | None, log: Path) -> Iterator[Address]:
    """A server in this process, whose model answers by `session`; None: as it should."""
    from visus.deploy.predictor import open_predictor
    from visus.deploy.server.app import make_app
    from visus.deploy.server.logs import Log
    from visus.deploy.server.service import Service
    from visus.deploy.server.serving import Worker, listen
    from visus.deploy.server.settings import ServerSettings

    settings = ServerSettings(port=0, streams=1)
    predictor = open_predictor(model)
    service = Service(predictor if session is None else replace(predictor, session=session(predictor.session)),
                      settings, log=Log(str(log)))
    worker = Worker(make_app(service, settings), service, settings)
    listening = listen(settings)
    up = threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(worker.run(listening, up.set)))
    address = ("127.0.0.1", listening.getsockname()[1])
    thread.start()
    assert up.wait(20)
    try:
        yield address
    finally:
        worker.stop()
        thread.join(20)
        service.log.close()


FAILURES = {"a bug": (RuntimeError("secret of the house"), 500), "no memory": (MemoryError(), 503),
            "an exit": (SystemExit(3), 500), "not a number": (FloatingPointError("secret of the house"), 500)}


@pytest.mark.parametrize("name", FAILURES)
def test_a_model_that_raises_is_a_bug_with_an_id_and_ends_nothing(serving, digits_bundle, digits, tmp_path, name):
    raised, status = FAILURES[name]
    count = iter(range(10**6))

    def failing(session: Callable) -> Callable:
        def answer(images):
            if next(count) % 2 == 0:
                raise raised
            return session(images)
        return answer

    log = tmp_path / "log.jsonl"
    with in_thread(digits_bundle, failing, log) as address:
        answers = [asyncio.run(ask(address, predict(digits[0]))) for _ in range(4)]
    assert [answer.status for answer in answers] == [status, 200, status, 200]
    about = error_of(answers[0])
    assert "secret" not in answers[0].body.decode()
    if status == 500:
        assert about["code"] == "internal" and about["id"] in log.read_text()
    else:
        assert int(answers[0].headers["retry-after"]) >= 1


def test_an_answer_that_takes_too_long_is_given_up(start, digits_bundle):
    server = start(digits_bundle, "--streams", "1", "--set", "answer_seconds=0.5")
    slow = predict(VERY_SLOW)

    async def crowd() -> list[Answer]:
        return list(await asyncio.gather(*(ask(server.address, slow) for _ in range(12))))

    answers = asyncio.run(crowd())
    statuses = Counter(answer.status for answer in answers)
    assert set(statuses) <= {200, 504} and statuses[504] >= 1, statuses
    assert max(answer.seconds for answer in answers if answer.status == 504) < 5
    assert server.post(request("GET", "/v2/health/live"), within=5).status == 200


def test_the_address_is_told_in_one_piece_so_that_no_line_of_the_log_begins_within_it(monkeypatch):
    from visus.cli.serve import _announce

    class Unbuffered(io.StringIO):
        """As standard output is with PYTHONUNBUFFERED: each write is one of the kernel's."""

        def write(self, text: str) -> int:
            pieces.append(text)
            return len(text)

    pieces: list[str] = []
    monkeypatch.setattr(sys, "stdout", Unbuffered())
    _announce("http://127.0.0.1:8000", "At most 16 images a request.")
    told = [piece for piece in pieces if piece]
    assert len(told) == 1
    assert told[0].startswith("Listening at http://127.0.0.1:8000 ") and told[0].endswith("Ctrl-C.\n")

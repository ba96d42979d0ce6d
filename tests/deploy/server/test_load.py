"""Many requests at a time: no wrong answer, none lost, memory flat, and a clear word when there are too many.
The cases S1 to S3 of the reliability catalogue."""

from __future__ import annotations

import asyncio
import io
import json
import subprocess
import sys
import time
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from tests.deploy.server import bombs
from tests.deploy.server.conftest import ROOT, error_of, predict, predict_files
from tests.deploy.server.load_client import Probe, chunked, closed_loop, look, open_loop, quantile, request

PNG = b"\x89PNG"
SLOW = bombs.png(2000, 2000, 8)  # 5 kB that take some ten milliseconds to decode and resize
VERY_SLOW = bombs.png(6000, 6000, 8)  # 36 kB, up to a second
NO_IMAGE = predict(b"not an image")


def many_right(server, digits, offline, count: int) -> None:
    """32 connections, `count` requests of 200 different images, half as forms: each answer equals the offline one, to
    the last bit. Memory after a tenth of them and at the end are equal to 5 %, file descriptors and threads too."""
    requests = [(predict_files if number % 2 else predict)(image) for number, image in enumerate(digits)]
    expected = [offline(server.model, image) for image in digits]
    warm = asyncio.run(closed_loop(server.address, requests, max(200, count // 10), 32))
    time.sleep(0.5)  # until the server has seen that the connections are closed
    settled = look(server.pid)
    answers = asyncio.run(closed_loop(server.address, requests, count, 32))
    time.sleep(0.5)
    after = look(server.pid)
    for answer in warm + answers:
        assert answer.status == 200, (answer.status, answer.lost, answer.body[:300])
        assert answer.json()["results"][0]["top"] == expected[answer.number % 200]
    assert {answer.number for answer in answers} == set(range(count))
    assert after.rss <= 1.05 * settled.rss
    assert after.fds <= settled.fds + 4 and after.threads <= settled.threads + 2


def test_every_answer_under_load_equals_the_offline_one_to_the_last_bit(server, digits, offline):
    many_right(server, digits, offline, 600)


@pytest.mark.slow
def test_ten_thousand_answers_equal_the_offline_ones_to_the_last_bit(server, digits, offline):
    many_right(server, digits, offline, 10_000)


def test_the_answer_equals_that_of_visus_predict(server, digits, tmp_path):
    names = []
    for number, image in enumerate(digits[:12]):
        names.append(tmp_path / f"{number:02d}{'.png' if image.startswith(PNG) else '.jpg'}")
        names[-1].write_bytes(image)
    done = subprocess.run([sys.executable, "-m", "visus", "predict", str(server.model), *map(str, names),
                           "--output", "jsonl"],
                          cwd=ROOT, capture_output=True, text=True, check=True)
    offline = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(offline) == 12
    for image, row in zip(digits, offline, strict=False):
        found = server.post(predict(image)).json()["results"][0]
        assert found["top"] == row["top"] and found["predicted"] == row["predicted"]


def test_several_images_of_a_request_are_answered_in_their_order(server, digits, offline):
    results = server.post(predict_files(*digits[:9])).json()["results"]
    assert [entry["top"] for entry in results] == [offline(server.model, image) for image in digits[:9]]
    assert [entry["name"] for entry in results] == [f"{number}.png" for number in range(9)]


@pytest.mark.parametrize("in_chunks", [False, True])
def test_a_connection_is_kept_over_many_large_requests(server, in_chunks):
    """Each of 200 kB, with a length or in chunks of 4 KiB, sent in one go."""
    pixels = np.random.default_rng(0).integers(0, 255, (450, 450), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    image = file.getvalue()
    pieces = [image[at:at + 4096] for at in range(0, len(image), 4096)]
    coding = [("Content-Type", "image/png"), ("Transfer-Encoding", "chunked")]
    data = request("POST", "/predict", chunked(pieces), coding, length=-1) if in_chunks else predict(image)
    answers = asyncio.run(closed_loop(server.address, [data], 20, 1))
    assert [answer.status for answer in answers] == [200] * 20
    assert not [answer for answer in answers if answer.headers.get("connection") == "close"]


def test_what_the_queue_cannot_hold_is_refused_at_once_and_the_rest_is_answered_right(start, digits_bundle, offline):
    image = SLOW
    server = start(digits_bundle, "--queue", "4", "--streams", "1")
    expected = offline(digits_bundle, image)
    answers = asyncio.run(closed_loop(server.address, [predict(image)], 64, 64))
    statuses = Counter(answer.status for answer in answers)
    assert set(statuses) == {200, 429}, statuses
    assert statuses[200] >= 5  # one computes, four wait
    for answer in answers:
        if answer.status == 429:
            assert error_of(answer)["code"] == "queue_full"
            assert int(answer.headers["retry-after"]) >= 1
        else:
            assert answer.json()["results"][0]["top"] == expected
    refused = [answer.seconds for answer in answers if answer.status == 429]
    accepted = [answer.seconds for answer in answers if answer.status == 200]
    assert quantile(refused, 0.5) < quantile(accepted, 0.5)


def test_beyond_capacity_no_request_waits_longer_than_the_queue_is_long(start, digits_bundle):
    """Half as many requests again as are answered: the excess is refused, and what was accepted does not wait for more
    than the queue before it."""
    server = start(digits_bundle, "--queue", "8", "--streams", "1")
    requests = [predict(SLOW)]
    started = time.monotonic()
    alone = asyncio.run(closed_loop(server.address, requests, 24, 2))
    capacity = 24 / (time.monotonic() - started)
    answers = asyncio.run(open_loop(server.address, requests, round(6 * capacity), 1.5 * capacity))
    assert all(answer.status == 200 for answer in alone)
    assert {answer.status for answer in answers} <= {200, 429}
    accepted = [answer.seconds for answer in answers if answer.status == 200]
    assert len(accepted) >= 0.4 * len(answers)
    assert quantile(accepted, 0.95) < 3 * (8 + 2) / capacity  # 3: neighbours on a busy machine


def mixed(digits: list[bytes]) -> tuple[list[bytes], list[set[int]]]:
    """Good, bad and abusive requests, and the statuses that each may get."""
    cut = digits[1][:40]
    return ([predict(digits[0]), predict_files(*digits[1:4]), NO_IMAGE, predict(cut),
             request("POST", "/predict", b"x" * 100, [("Content-Type", "multipart/form-data")]),
             request("GET", "/nowhere"), request("PUT", "/predict", b"x"), request("GET", "/metrics"),
             request("POST", "/v2/models/none/infer", b"{}", [("Content-Type", "application/json")])],
            [{200}, {200}, {415}, {415, 422}, {400}, {404}, {405}, {200}, {400, 404}])


def soaked(server, digits, seconds: float, settle: float) -> None:
    requests, allowed = mixed(digits)
    with Probe(server.pid) as probe:
        end = time.monotonic() + seconds
        answers = asyncio.run(closed_loop(server.address, requests, 10**9, 8, until=lambda: time.monotonic() > end))
    for answer in answers:
        assert answer.status in allowed[answer.number % len(requests)], (answer.number % len(requests), answer)
    settled = [one for one in probe.looks if one.at > probe.looks[0].at + settle]
    half = len(settled) // 2
    first, second = settled[:half], settled[half:]
    minutes = (second[-1].at - first[0].at) / 60
    growth = quantile([one.rss for one in second], 0.5) - quantile([one.rss for one in first], 0.5)
    assert growth < max(2e6, 1e6 * minutes), growth
    assert max(one.fds for one in second) <= max(one.fds for one in first) + 2
    assert max(one.threads for one in second) <= max(one.threads for one in first) + 1


def test_memory_stays_under_good_and_bad_requests(server, digits):
    soaked(server, digits, 6, 2)


@pytest.mark.slow
def test_memory_stays_for_minutes_under_good_and_bad_requests(server, digits):
    soaked(server, digits, 180, 60)

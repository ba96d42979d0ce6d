"""Clients that are slow, lie, send too much or nonsense, or go away: each gets its status, and others are served.
The cases S4 to S10 and S12 of the reliability catalogue."""

from __future__ import annotations

import asyncio
import io
import random
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.deploy.server import bombs
from tests.deploy.server.conftest import ROOT, error_of, predict, predict_files
from tests.deploy.server.load_client import (
    Answer,
    Connection,
    Lost,
    Probe,
    ask,
    chunked,
    closed_loop,
    family,
    look,
    multipart,
    quantile,
    request,
    trickle,
    unread,
)
from tests.deploy.server.test_load import SLOW, VERY_SLOW

LIMIT = 16 << 20
MIB = 1 << 20


async def first_answer(address, data: bytes, within: float = 20) -> int:
    """The status that the bytes get, on a connection that stays open for writing; 0 when it is closed without one."""
    async with asyncio.timeout(within), Connection(address) as connection:
        try:
            return (await connection.ask(data)).status
        except (Lost, OSError):
            return 0


def served(server, image: bytes) -> None:
    assert server.post(predict(image), within=20).status == 200


# -- S4: slow clients ---------------------------------------------------------------------------------------------


def slow_crowd(server, digits, count: int, header_limit: float, body_limit: float) -> None:
    """`count` slow headers, as many slow bodies, an eighth as many slow readers: all gone in time, and a client that
    asks meanwhile, on a connection of its own each time, is answered."""
    good = [predict(image) for image in digits[:8]]
    head = request("POST", "/predict", b"", [("Content-Type", "image/png"), ("X-Long", "x" * 4000)])
    body = request("POST", "/predict", b"x" * 4000, [("Content-Type", "image/png")])
    before = look(server.pid)

    async def crowd() -> tuple[list[object], list[float], Counter[int]]:
        async def slow_header() -> tuple[float, int]:
            return await trickle(server.address, head, header_limit / 20, 2 * header_limit + 5)

        async def slow_body() -> tuple[float, int]:
            place = body.index(b"\r\n\r\n") + 4
            async with Connection(server.address) as connection:
                await connection.send(body[:place])
                start = time.monotonic()
                async with asyncio.timeout(2 * body_limit + 5):
                    try:
                        status = (await connection.answer(start=start)).status
                        await connection.ended(body_limit)
                    except (Lost, OSError):
                        status = 0
                return time.monotonic() - start, status

        tasks = [asyncio.ensure_future(work()) for _ in range(count) for work in (slow_header, slow_body)]
        tasks += [asyncio.ensure_future(unread(server.address, request("GET", "/openapi.json"), 2000, 60))
                  for _ in range(count // 8)]
        latencies, statuses = [], Counter()
        await asyncio.sleep(header_limit / 4)
        start = time.monotonic()
        while time.monotonic() - start < header_limit / 2:
            begin = time.monotonic()
            statuses[(await ask(server.address, good[len(latencies) % 8], within=10)).status] += 1
            latencies.append(time.monotonic() - begin)
            await asyncio.sleep(0.02)
        return await asyncio.gather(*tasks, return_exceptions=True), latencies, statuses

    ends, latencies, statuses = asyncio.run(crowd())
    kept = [end for end in ends if isinstance(end, TimeoutError) or end is False]
    assert not kept, f"{len(kept)} of {len(ends)} slow connections are still there"
    closed = [end for end in ends if isinstance(end, tuple)]
    assert {status for _, status in closed} <= {0, 400, 408, 503}
    assert set(statuses) == {200}, statuses
    assert quantile(latencies, 0.5) < header_limit / 2  # it did not wait for the others' end
    time.sleep(0.5)
    assert look(server.pid).fds <= before.fds + 4
    served(server, digits[0])


def test_slow_clients_are_gone_in_time_and_others_are_served(start, digits_bundle, digits):
    server = start(digits_bundle, "--set", "header_seconds=3", "--set", "body_seconds=4", "--set",
                   "max_connections=64")
    slow_crowd(server, digits, 60, 3, 4)


@pytest.mark.slow
def test_four_hundred_slow_clients_of_each_kind_are_gone_in_twenty_seconds(server, digits):
    slow_crowd(server, digits, 400, 10, 20)


def test_when_all_connections_are_being_answered_a_newcomer_is_told_so(start, digits_bundle, digits):
    server = start(digits_bundle, "--streams", "1", "--set", "max_connections=4")

    body, line = multipart([("image", f"{n}.png", VERY_SLOW) for n in range(4)])
    several = request("POST", "/predict", body, [line])  # none is answered before the newcomer comes

    async def crowd() -> tuple[list[Answer], Answer]:
        busy = [asyncio.ensure_future(ask(server.address, several)) for _ in range(4)]
        await asyncio.sleep(0.4)
        late = await ask(server.address, predict(digits[0]), within=10)
        return await asyncio.gather(*busy), late

    answers, late = asyncio.run(crowd())
    assert [answer.status for answer in answers] == [200] * 4
    assert late.status == 503 and int(late.headers["retry-after"]) >= 1
    assert error_of(late)["code"] == "too_many_connections"
    served(server, digits[0])


# -- S5: large bodies ---------------------------------------------------------------------------------------------


def test_a_body_that_says_it_is_too_large_is_refused_before_a_byte_of_it(server):
    head = request("POST", "/predict", b"", [("Content-Type", "image/png")], length=100 * MIB)
    answer = server.post(head, within=5)
    assert answer.status == 413 and answer.headers["connection"] == "close"
    assert error_of(answer)["code"] == "body_too_large"


def test_expect_100_continue_is_refused_or_encouraged_by_the_headers(server, digits):
    async def exchange() -> tuple[int, tuple[int, ...]]:
        large = request("POST", "/predict", b"", [("Expect", "100-continue"), ("Content-Type", "image/png")],
                        length=100 * MIB)
        refused = await ask(server.address, large, within=5)
        assert refused.status in (413, 417) and refused.interim == ()
        async with Connection(server.address) as connection:
            small = predict(digits[0], headers=(("Expect", "100-continue"),))
            place = small.index(b"\r\n\r\n") + 4
            await connection.send(small[:place])
            waiting = asyncio.ensure_future(connection.answer())
            await asyncio.sleep(0.2)
            await connection.send(small[place:])
            answer = await waiting
            return answer.status, answer.interim

    assert asyncio.run(exchange()) == (200, (100,))


def test_a_chunked_body_without_length_is_refused_at_the_limit(server):
    """The answer comes although the client stops at 64 KiB beyond the limit: nothing more was waited for."""
    head = request("POST", "/predict", b"", [("Content-Type", "image/png"), ("Transfer-Encoding", "chunked")],
                   length=-1)

    async def exchange() -> int:
        async with Connection(server.address) as connection:
            piece = bytes(64 << 10)
            await connection.send(head)
            try:
                for _ in range(LIMIT // len(piece) + 1):
                    await connection.send(b"%x\r\n%b\r\n" % (len(piece), piece))
            except OSError:
                pass
            async with asyncio.timeout(10):
                return (await connection.answer()).status

    with Probe(server.pid) as probe:
        assert asyncio.run(exchange()) == 413
    assert probe.growth < 20 * MIB + LIMIT


def test_a_hundred_megabytes_cost_no_memory(server, digits):
    """Sent whole, whatever the server says, with and without a length."""
    head = request("POST", "/predict", b"", [("Content-Type", "image/png")], length=100 * MIB)
    open_ended = request("POST", "/predict", b"", [("Content-Type", "image/png"), ("Transfer-Encoding", "chunked")],
                         length=-1)

    async def flood(start: bytes, wrap: bool) -> int:
        async with Connection(server.address) as connection:
            async def send() -> None:
                await connection.send(start)
                piece = bytes(MIB)
                for _ in range(100):
                    await connection.send(b"%x\r\n%b\r\n" % (MIB, piece) if wrap else piece)

            sending = asyncio.ensure_future(send())
            try:
                async with asyncio.timeout(20):
                    return (await connection.answer()).status
            except Lost:  # closed while bytes were on their way: RST overtook the answer
                return 0
            finally:
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)

    served(server, digits[0])
    for start, wrap in ((head, False), (open_ended, True)):
        with Probe(server.pid) as probe:
            assert asyncio.run(flood(start, wrap)) in (413, 0)
        assert probe.growth < 20 * MIB, probe.growth
        served(server, digits[0])


@pytest.mark.parametrize("lie", ["too long, then silence", "too long, then the end", "too short"])
def test_a_wrong_content_length_is_answered_and_ends_the_connection(start, digits_bundle, digits, lie):
    server = start(digits_bundle, "--set", "body_seconds=1")
    image = digits[0]

    async def exchange() -> list[int]:
        async with Connection(server.address) as connection:
            length = len(image) - 20 if lie == "too short" else len(image) + 20
            await connection.send(request("POST", "/predict", image, [("Content-Type", "image/png")], length=length))
            if lie == "too long, then the end":
                connection.writer.write_eof()
            statuses = []
            async with asyncio.timeout(15):
                try:
                    while len(statuses) < 3:
                        statuses.append((await connection.answer()).status)
                except (Lost, ValueError):
                    pass
            return statuses

    statuses = asyncio.run(exchange())
    assert statuses in {"too long, then silence": ([408],), "too long, then the end": ([400], []),
                        "too short": ([422, 400], [415, 400], [422], [415], [400])}[lie], statuses
    served(server, image)


def tiny_chunks(server, digits, count: int, within: float) -> None:
    data = request("POST", "/predict", chunked([b"x"] * count),
                   [("Content-Type", "image/png"), ("Transfer-Encoding", "chunked")], length=-1)

    async def exchange() -> tuple[int, list[int]]:
        bad = asyncio.ensure_future(first_answer(server.address, data, within))
        good = await closed_loop(server.address, [predict(digits[0])], 20, 1, within=within)
        return await bad, [answer.status for answer in good]

    with Probe(server.pid) as probe:
        status, good = asyncio.run(exchange())
    assert status in (400, 413, 415, 422) and set(good) == {200}
    assert probe.growth < 20 * MIB, probe.growth


def test_a_body_of_chunks_of_one_byte_is_answered_while_others_are_served(server, digits):
    tiny_chunks(server, digits, 200_000, 30)


@pytest.mark.slow
def test_three_megabytes_of_chunks_of_one_byte_are_answered_while_others_are_served(server, digits):
    tiny_chunks(server, digits, 3_000_000, 120)


# -- S6: bombs ----------------------------------------------------------------------------------------------------


BOMBS = {
    "PNG of 30k x 30k in a few bytes": lambda: bombs.png(30_000, 30_000, 1, rows=4),
    "PNG of 12k x 12k, whole": lambda: bombs.png(12_000, 12_000, 24),
    "PNG of 0.13 MB that is a gigapixel": lambda: bombs.png(32_000, 32_000, 1),
    "JPEG": lambda: bombs.claiming("JPEG", 65_000), "GIF": lambda: bombs.claiming("GIF", 65_000),
    "BMP": lambda: bombs.claiming("BMP", 100_000), "WebP": lambda: bombs.claiming("WEBP", 16_384),
    "TIFF": lambda: bombs.claiming("TIFF", 60_000),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_picture_with_too_many_pixels_is_refused_before_it_is_decoded(server, digits, name):
    image = BOMBS[name]()
    assert len(image) < 0.5e6
    served(server, digits[0])
    with Probe(server.pid, 0.01) as probe:
        answer = server.post(predict(image), within=10)
        form = server.post(predict_files(image), within=10)
    assert (answer.status, form.status) == (413, 413), answer.body
    assert error_of(answer)["code"] == "image_too_large"
    assert probe.growth < 20 * MIB, probe.growth


def test_a_bomb_in_a_text_beside_the_picture_costs_no_memory(server, digits):
    served(server, digits[0])
    with Probe(server.pid, 0.01) as probe:
        answer = server.post(predict(bombs.png_with_text(200_000_000)), within=20)
    assert answer.status in (200, 413, 422)
    assert probe.growth < 100 * MIB, probe.growth


def just_allowed(server, count: int, connections: int) -> None:
    image = bombs.png(7000, 7000, 8)
    with Probe(server.pid) as probe:
        answers = asyncio.run(closed_loop(server.address, [predict(image)], count, connections, within=250))
    assert {answer.status for answer in answers} <= {200, 429, 503, 504}
    assert any(answer.status == 200 for answer in answers)
    assert probe.peak < 2e9, probe.peak


def test_pictures_just_below_the_limit_do_not_add_up_in_memory(server):
    just_allowed(server, 3, 3)


@pytest.mark.slow
def test_four_hundred_pictures_just_below_the_limit_do_not_add_up_in_memory(server):
    just_allowed(server, 400, 400)


def test_a_crowd_of_images_in_one_request_is_refused(server, digits):
    answer = server.post(predict_files(*[digits[0]] * 17))
    assert answer.status == 413, answer.body
    error_of(answer)


# -- S7 and S8: forms and files that are not what they should be -----------------------------------------------------


def form(content: bytes, line: str = "multipart/form-data; boundary=b") -> bytes:
    return request("POST", "/predict", content, [("Content-Type", line)])


def part(headers: str, content: bytes = b"x", boundary: str = "b") -> bytes:
    return f"--{boundary}\r\n{headers}\r\n\r\n".encode() + content + b"\r\n"


NAMED = 'Content-Disposition: form-data; name="image"; filename="a.png"'
END = b"--b--\r\n"
LONG = "b" * 10_000
FORMS = {
    "no boundary": lambda image: form(part(NAMED, image) + END, "multipart/form-data"),
    "empty boundary": lambda image: form(part(NAMED, image) + END, "multipart/form-data; boundary="),
    "a boundary of 10 kB": lambda image: form(part(NAMED, image) + END, f"multipart/form-data; boundary={LONG}"),
    "another boundary": lambda image: form(part(NAMED, image) + END, "multipart/form-data; boundary=other"),
    "no end": lambda image: form(part(NAMED, image)),
    "cut within the file": lambda image: form(part(NAMED, image)[:-20]),
    "nothing": lambda image: form(b""),
    "no parts": lambda image: form(END),
    "5000 parts": lambda image: form(part('Content-Disposition: form-data; name="x"') * 5000 + END),
    "5000 headers of a part": lambda image: form(part(NAMED + "\r\nX-A: b" * 5000, image) + END),
    "a header of 10 kB": lambda image: form(part(NAMED + "\r\nX-Long: " + "y" * 10_000, image) + END),
    "no disposition": lambda image: form(part("X-A: b", image) + END),
    "a field without a file": lambda image: form(part('Content-Disposition: form-data; name="image"', b"text") + END),
    "binary": lambda image: form(bytes(range(256)) * 40),
    "a header line without a colon": lambda image: form(b"--b\r\nnonsense\r\n\r\nx\r\n" + END),
}


@pytest.mark.parametrize("name", FORMS)
def test_a_malformed_form_is_told_so_in_json(server, digits, name):
    answer = server.post(FORMS[name](digits[1]), within=10)
    assert answer.status in (400, 413, 415, 422), answer
    error_of(answer)


def test_a_files_name_is_only_a_word(server, digits):
    """It opens nothing, and comes back as text."""
    for name in ("../../etc/passwd", "/etc/passwd", "<img src=x onerror=alert(1)>", "a\x00b", "ü" * 300, "C:\\x.png"):
        body, line = multipart([("image", name, digits[1])])
        answer = server.post(request("POST", "/predict", body, [line]))
        assert answer.status in (200, 400), (name, answer)
        if answer.status == 200:
            assert answer.headers["content-type"].startswith("application/json")
            assert len(answer.json()["results"][0]["name"]) <= 300


def encoded(kind: str, mode: str = "RGB", size: tuple[int, int] = (32, 32)) -> bytes:
    file = io.BytesIO()
    values = np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8)
    Image.fromarray(values).convert(mode).save(file, kind)
    return file.getvalue()


WRONG = {
    "nothing": (b"", {400, 415}), "a byte": (b"\x89", {415}),
    "HTML": (b"<!doctype html><html><body>404</body></html>", {415}),
    "PDF": (b"%PDF-1.7\n" + bytes(300), {415}), "SVG": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', {415}),
    "SVG with an entity bomb": (b'<?xml version="1.0"?><!DOCTYPE l [<!ENTITY a "b">]><svg>&a;</svg>', {415}),
    "ZIP": (b"PK\3\4" + bytes(100), {415}), "ELF": (b"\x7fELF" + bytes(100), {415}),
    "PostScript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", {415}),
    "noise": (random.Random(0).randbytes(5000), {415}),
    "a JPEG cut in half": (encoded("JPEG")[:400], {422}), "a PNG cut in half": (encoded("PNG")[:1500], {422}),
    "a GIF cut in half": (encoded("GIF")[:500], {422}), "a WebP cut in half": (encoded("WEBP")[:500], {415, 422}),
    "a PNG with a wrong checksum": (encoded("PNG").replace(b"IDAT", b"IDAX"), {415, 422}),
    "a PNG of no pixels": (bombs.png(0, 0), {415, 422}),
    "a picture of one pixel": (encoded("PNG", size=(1, 1)), {422}),
    "a picture of floats": (encoded("TIFF", "F"), {415, 422}),
    "a strip 1 x 5000": (encoded("PNG", size=(1, 5000)), {422}),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_image_or_a_broken_one_gets_its_status(server, name):
    content, statuses = WRONG[name]
    for data in (predict(content), predict_files(content)):
        answer = server.post(data)
        if answer.status == 200:  # an answer whose only entry is the error
            assert not answer.json()["results"][0].get("top")
        assert answer.status in statuses, answer
        error_of(answer)


def test_no_bit_that_flips_in_an_image_makes_the_server_fail(server, digits):
    draw = random.Random(0)
    requests = []
    for kind in ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF"):
        good = encoded(kind)
        for _ in range(15):
            data = bytearray(good)
            for _ in range(draw.choice([1, 3, 30])):
                data[draw.randrange(min(len(data), draw.choice([60, 10**6])))] = draw.randrange(256)
            requests.append(predict(bytes(data)))
    answers = asyncio.run(closed_loop(server.address, requests, len(requests), 4))
    assert {answer.status for answer in answers} <= {200, 413, 415, 422}, Counter(a.status for a in answers)


def test_a_server_opens_no_file_and_no_address_that_a_client_names(server):
    for named in ("file:///etc/passwd", "http://127.0.0.1:9/a.png", "/etc/passwd"):
        for data in (predict(named.encode()), form(part('Content-Disposition: form-data; name="url"', named.encode())
                                                   + END),
                     request("POST", "/predict", f'{{"url": "{named}"}}'.encode(),
                             [("Content-Type", "application/json")])):
            answer = server.post(data)
            assert answer.status in (400, 415, 422)
            assert b"root:" not in answer.body


# -- S9: clients that go away ------------------------------------------------------------------------------------


def cancelled(server, digits, each: int) -> None:
    """Disconnects before the body's end, while queued, and while computing."""
    slow = predict(SLOW)
    before = look(server.pid)

    async def leave(data: bytes, share: float, after: float, reset: bool) -> None:
        try:
            connection = await Connection(server.address).open()
            await connection.send(data[:int(share * len(data))])
            await asyncio.sleep(after)
            connection.abort() if reset else await connection.close()
        except OSError:
            pass

    async def crowd() -> list[int]:
        draw = random.Random(0)
        good = asyncio.ensure_future(closed_loop(server.address, [predict(image) for image in digits[:8]],
                                                 40 + each // 5, 2))
        for _ in range(0, each, 25):
            await asyncio.gather(*(leave(data, share, draw.random() * 0.2, draw.random() < 0.5) for _ in range(25)
                                   for data, share in ((slow, 0.7), (slow, 1), (predict(digits[0]), 1))))
        return [answer.status for answer in await good]

    statuses = Counter(asyncio.run(crowd()))
    assert statuses[200] >= 0.5 * statuses.total() and set(statuses) <= {200, 429, 503}, statuses
    begin = time.monotonic()
    served(server, digits[0])  # nothing of what was left is still to be computed
    assert time.monotonic() - begin < 5
    time.sleep(0.5)
    after = look(server.pid)
    assert after.fds <= before.fds + 4
    assert after.rss < before.rss + 100 * MIB


def test_clients_that_go_away_leave_nothing_behind(server, digits):
    cancelled(server, digits, 75)


@pytest.mark.slow
def test_a_thousand_clients_of_each_kind_that_go_away_leave_nothing_behind(server, digits):
    cancelled(server, digits, 1000)


def test_work_that_nobody_waits_for_is_dropped_from_the_queue(start, digits_bundle, digits):
    """60 queued pictures are abandoned: who asks next does not wait for them."""
    server = start(digits_bundle, "--streams", "1", "--queue", "64")
    slow = predict(bombs.png(3000, 3000, 8))
    assert server.post(slow).status == 200
    begin = time.monotonic()
    assert server.post(slow).status == 200
    one = time.monotonic() - begin

    async def leave() -> float:
        gone = [await Connection(server.address).open() for _ in range(40)]
        for connection in gone:
            await connection.send(slow)
        await asyncio.sleep(one)
        for connection in gone:
            connection.abort()
        start = time.monotonic()
        assert (await ask(server.address, predict(digits[0]))).status == 200
        return time.monotonic() - start

    assert asyncio.run(leave()) < 10 * one + 0.5  # all 40 would take 40


# -- S10: what is not HTTP, or HTTP that two readers would read differently --------------------------------------------


HEAD = b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/png\r\n"
SECOND = b"GET /v2/health/live HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
RAW = {
    "TE and CL": HEAD + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SECOND,
    "CL and TE": HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 6\r\n\r\n0\r\n\r\nX" + SECOND,
    "two lengths": HEAD + b"Content-Length: 1\r\nContent-Length: 60\r\n\r\nx" + SECOND,
    "two lengths in a line": HEAD + b"Content-Length: 1, 60\r\n\r\nx" + SECOND,
    "a length with a sign": HEAD + b"Content-Length: +1\r\n\r\nx" + SECOND,
    "a negative length": HEAD + b"Content-Length: -1\r\n\r\nx" + SECOND,
    "a length in hexadecimals": HEAD + b"Content-Length: 0x1\r\n\r\nx" + SECOND,
    "a length of 5000 digits": HEAD + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\nx" + SECOND,
    "another transfer coding": HEAD + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + SECOND,
    "a transfer coding twice": HEAD + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n" + SECOND,
    "a space before the colon": HEAD + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + SECOND,
    "a folded header": HEAD + b"X-A: b\r\n Transfer-Encoding: chunked\r\n\r\n" + SECOND,
    "bare line feeds": b"POST /predict HTTP/1.1\nHost: 127.0.0.1\nContent-Length: 1\n\nx" + SECOND,
    "a chunk of a negative size": HEAD + b"Transfer-Encoding: chunked\r\n\r\n-1\r\nx\r\n0\r\n\r\n",
    "a chunk of a huge size": HEAD + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\nx\r\n0\r\n\r\n",
    "a chunk that is longer than it says": HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\nxyz\r\n0\r\n\r\n",
    "HTTP/0.9": b"GET /\r\n\r\n", "HTTP/9.9": b"GET / HTTP/9.9\r\nHost: 127.0.0.1\r\n\r\n",
    "a null in a header": b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: a\0b\r\n\r\n",
    "no host": b"GET /predict HTTP/1.1\r\n\r\n", "two hosts": b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "binary": bytes(range(256)) * 20, "a TLS hello": bytes.fromhex("16030100c8010000c40303") + bytes(190),
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "10,000 header lines": b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n" + b"X-A: b\r\n" * 10_000 + b"\r\n",
    "a header of a megabyte": b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"a" * MIB + b"\r\n\r\n",
    "a target of a megabyte": b"GET /" + b"a" * MIB + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "a method of 10 kB": b"G" * 10_000 + b" / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "CONNECT": b"CONNECT 127.0.0.1:22 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
}
HARMLESS = {"bare line feeds", "a folded header"}  # RFC 9112, 2.2 and 5.2 allow a reader to take them


@pytest.mark.parametrize("name", RAW)
def test_what_is_not_clean_http_is_refused_and_the_connection_closed(impatient_server, name):
    server = impatient_server

    async def exchange() -> tuple[list[int], bool]:
        async with Connection(server.address) as connection:
            statuses = []
            sending = asyncio.ensure_future(connection.send(RAW[name]))
            try:
                async with asyncio.timeout(14):
                    while len(statuses) < 3:
                        statuses.append((await connection.answer()).status)
            except (Lost, OSError, ValueError):
                pass
            finally:
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)
            return statuses, await connection.ended(2)

    statuses, ended = asyncio.run(exchange())
    if name not in HARMLESS:
        assert ended
        assert len(statuses) <= 1, f"a second request was seen: {statuses}"
        assert all(400 <= status < 500 or status in (501, 505) for status in statuses), statuses
    assert server.is_ready()


# -- S12: paths, hosts, origins, keys ------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [
    "/../../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/..%2f..%2fetc/passwd", "//etc/passwd", "/static/../../x",
    "/%00", "/predict%00.png", "//evil.example/predict", "/....//....//etc/passwd", "/.git/config", "/%c0%ae%c0%ae/",
    "/v2/models/..%2f..%2fetc/ready", "/page/../conftest.py", "/?" + "a=b&" * 500])
def test_a_path_leads_nowhere_else(server, path):
    answer = server.get(path)
    assert answer.status in (400, 404, 405, 414) or (answer.status == 200 and path.startswith("/?")), answer
    assert b"root:" not in answer.body


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "169.254.169.254"])
def test_a_name_that_was_rebound_to_loopback_is_refused(server, digits, host):
    for data in (request("GET", "/", host=host), request("POST", "/predict", digits[1], host=host)):
        assert server.post(data).status in (400, 403, 421)


def test_other_origins_are_granted_nothing(server, digits):
    origin = ("Origin", "https://evil.example")
    posted = server.post(predict(digits[1], headers=(origin,)))
    asked = server.post(request("OPTIONS", "/predict", b"", [origin, ("Access-Control-Request-Method", "POST")]))
    for answer in (posted, asked):
        assert not [name for name in answer.headers if name.startswith("access-control")]
    assert posted.status in (200, 403) and asked.status in (204, 400, 403, 404, 405)


def test_keys_are_asked_for_and_compared(start, digits_bundle, digits, tmp_path):
    keys = tmp_path / "keys.txt"
    keys.write_text("one-key-of-at-least-sixteen\n# a remark\nanother-key-of-sixteen\n")
    keys.chmod(0o600)
    server = start(digits_bundle, "--keys-file", str(keys), ready=False)
    end = time.monotonic() + 60
    while time.monotonic() < end:
        try:
            server.get("/v2/health/live")
            break
        except OSError:
            time.sleep(0.1)
    for key, statuses in ((None, {401}), ("one-key-of-at-least-sixtee", {401}), ("", {401}), ("ü", {400, 401}),
                          ("one-key-of-at-least-sixteen", {200}), ("another-key-of-sixteen", {200})):
        headers = () if key is None else (("Authorization", f"Bearer {key}"),)
        answer = server.post(predict(digits[1], headers=headers))
        assert answer.status in statuses, (key, answer)
    assert "one-key-of" not in server.text()


def test_keys_are_compared_in_constant_time():
    text = (ROOT / "visus" / "deploy" / "server" / "keys.py").read_text()
    assert "compare_digest" in text


def test_an_address_beyond_this_machine_needs_keys(start, digits_bundle):
    server = start(digits_bundle, "--host", "0.0.0.0", ready=False)
    assert server.process.wait(60) == 2
    assert "key" in server.text()


def test_the_processes_of_a_server_listen_on_loopback_only(server):
    port = f"{server.address[1]:04X}"
    lines = [line.split() for table in ("tcp", "tcp6") for line in Path(f"/proc/net/{table}").read_text().splitlines()]
    listening = [line[1] for line in lines if line[3] == "0A" and line[1].endswith(f":{port}")]
    assert listening and all(entry.startswith("0100007F") for entry in listening)
    assert len(family(server.pid)) >= 1

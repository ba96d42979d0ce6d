"""A worker on a real socket: connections, deadlines, and the end."""

import asyncio
import contextlib
import hashlib
import itertools
import json
import random
import socket
import threading
import time

import pytest

pytest.importorskip("uvicorn", reason="the extra serve is not installed")
pytest.importorskip("prometheus_client", reason="the extra serve is not installed")

from tests.deploy.server.fake_model import fake_predictor, png
from visus.core.errors import ResourceError
from visus.deploy.server.app import make_app
from visus.deploy.server.service import Service
from visus.deploy.server.serving import Worker, listen
from visus.deploy.server.settings import ServerSettings

HOST = b"Host: 127.0.0.1\r\n"
PREDICT = b"POST /predict HTTP/1.1\r\n" + HOST + b"Content-Type: image/png\r\n"


class Running:
    def __init__(self, predictor=None, **settings):
        told = ServerSettings(**{"port": 0, "access_log": "", "streams": 1, **settings})
        self.service = Service(predictor or fake_predictor(), told)
        self.worker = Worker(make_app(self.service, told), self.service, told)
        listening = listen(told)
        self.port = listening.getsockname()[1]
        self.clean = None
        ready = threading.Event()

        def run():
            self.clean = asyncio.run(self.worker.run(listening, ready.set))

        self.thread = threading.Thread(target=run)
        self.thread.start()
        assert ready.wait(20)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), 20)

    def ask(self, data: bytes) -> bytes:
        """All that comes back until the connection is closed."""
        with self.connect() as connection:
            connection.sendall(data)
            return rest(connection)


@contextlib.contextmanager
def running(predictor=None, **settings):
    server = Running(predictor, **settings)
    try:
        yield server
    finally:
        server.worker.stop()
        server.worker.stop()
        server.thread.join(20)
        assert not server.thread.is_alive()


def rest(connection: socket.socket) -> bytes:
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while data := connection.recv(65536):
            found += data
    return found


def posted(image: bytes = png(), more: bytes = b"") -> bytes:
    return PREDICT + more + b"Content-Length: %d\r\n\r\n" % len(image) + image


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1]) if answer else 0


def until(condition, seconds: float = 10) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.01)
    return False


def test_one_connection_carries_many_requests_pipelined_too():
    with running() as server:
        answer = server.ask(posted() * 3 + posted(more=b"Connection: close\r\n"))
    assert answer.count(b"HTTP/1.1 200 OK") == 4 and answer.count(b'"predicted":["light"]') == 4
    assert b"\r\ndate: " in answer and b"server: " not in answer


@pytest.mark.parametrize("path", [b"/", b"/limits", b"/nothing"])
def test_head_tells_the_length_of_what_get_would_bring_and_brings_nothing(path):
    with running() as server:
        got, head = (server.ask(method + b" " + path + b" HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n")
                     for method in (b"GET", b"HEAD"))
    body = got.partition(b"\r\n\r\n")[2]
    assert body and b"content-length: %d\r\n" % len(body) in head and head.endswith(b"\r\n\r\n")
    assert status(head) == status(got)


def test_the_end_of_a_long_body_is_not_taken_for_headers():
    first = posted(png() + bytes(60_000))
    with running() as server, server.connect() as connection:
        connection.sendall(first[:-30_000])
        time.sleep(0.2)
        connection.sendall(first[-30_000:] + PREDICT)
        time.sleep(0.2)
        connection.sendall(posted(more=b"Connection: close\r\n")[len(PREDICT):])
        assert rest(connection).count(b"HTTP/1.1 200") == 2


def test_a_request_that_is_whole_is_answered_before_what_follows_it_is_refused():
    with running() as server:
        answer = server.ask(posted() * 2 + b"\0nonsense\r\n\r\n")
    assert answer.count(b"HTTP/1.1 200 OK") == 2 == answer.count(b"HTTP/1.1 ")


def test_a_flood_of_pipelined_requests_is_cut_off_and_leaves_nothing_behind():
    hello = b"GET /v2 HTTP/1.1\r\n" + HOST + b"\r\n"
    with running() as server:
        assert server.ask(hello * 16 + b"GET /v2 HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n") \
            .count(b"HTTP/1.1 200 OK") == 17
        assert server.ask(posted() + hello * 1000).count(b"HTTP/1.1 200") < 18
        assert until(lambda: not server.worker.state.connections and not server.worker.state.tasks)
        assert status(server.ask(posted(more=b"Connection: close\r\n"))) == 200


@pytest.mark.parametrize("more", [b"Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMA\r\n",
                                  b"Upgrade: websocket\r\nConnection: Upgrade\r\n"])
def test_who_would_rather_speak_another_protocol_is_answered_in_http(more):
    with running() as server:
        last = posted(more=b"Connection: close\r\n")
        for first in (posted(more=more), b"GET /v2 HTTP/1.1\r\n" + HOST + more + b"\r\n"):
            assert server.ask(first * 2 + last).count(b"HTTP/1.1 200") == 3
            with server.connect() as connection:
                for part in (first[:40], first[40:-1], first[-1:] + last):
                    connection.sendall(part)
                    time.sleep(0.05)
                assert rest(connection).count(b"HTTP/1.1 200") == 2


def test_a_tunnel_is_refused():
    with running() as server:
        assert status(server.ask(b"CONNECT 127.0.0.1:80 HTTP/1.1\r\n" + HOST + b"\r\n")) in (400, 404, 405)
        assert until(lambda: not server.worker.state.connections)


def test_lines_behind_a_body_are_no_headers():
    image, key = png(), b"X-API-Key: a key for this test\r\n"
    body = b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n%x\r\n%b\r\n0\r\n" % (len(image), image)
    with running(keys=(hashlib.sha256(b"a key for this test").hexdigest(),)) as server:
        answers = [server.ask(PREDICT + key + body + b"\r\n"), server.ask(PREDICT + body + key + b"\r\n")]
    assert [status(answer) for answer in answers] == [200, 401]


def test_blank_lines_hold_no_connection_open():
    with running(header_seconds=0.5, keep_alive_seconds=0.5) as server, server.connect() as connection:
        connection.sendall(b"GET /v2 HTTP/1.1\r\n" + HOST + b"\r\n")
        assert status(connection.recv(65536)) == 200
        connection.sendall(b"\r\n")
        assert status(rest(connection)) == 408
        assert until(lambda: not server.worker.state.connections)


def test_waiting_for_an_answer_is_no_slowness_of_the_request_behind_it():
    for length in (40, len(posted()) - 5):  # within its headers, within its body
        with running(fake_predictor(1.0), header_seconds=0.5, body_seconds=0.5) as server, \
                server.connect() as connection:
            connection.sendall(posted() + posted()[:length])
            assert connection.recv(65536).startswith(b"HTTP/1.1 200")
            connection.sendall(posted()[length:])
            assert connection.recv(65536).startswith(b"HTTP/1.1 200")


def test_slow_headers_slow_bodies_and_idle_connections_are_ended_and_told_why():
    with running(header_seconds=0.6, body_seconds=0.8, keep_alive_seconds=0.5) as server:
        silent, headers, body, drip, idle = (server.connect() for _ in range(5))
        headers.sendall(b"POST /pre")
        body.sendall(posted()[:-5])
        drip.sendall(posted(bytes(1000))[:-990])
        idle.sendall(b"GET /v2 HTTP/1.1\r\n" + HOST + b"\r\n")
        start = time.monotonic()

        def trickle():
            with contextlib.suppress(OSError):
                while time.monotonic() - start < 8:
                    drip.sendall(b"x")
                    time.sleep(0.1)

        thread = threading.Thread(target=trickle)
        thread.start()
        answers = {name: rest(one) for name, one in [("silent", silent), ("headers", headers), ("body", body),
                                                     ("drip", drip), ("idle", idle)]}
        took = time.monotonic() - start
        thread.join()
        for one in (silent, headers, body, drip, idle):
            one.close()
        assert until(lambda: not server.worker.state.connections and not server.worker.lingering)
    assert took < 6
    assert {name: status(answer) for name, answer in answers.items()} == {
        "silent": 408, "headers": 408, "body": 408, "drip": 408, "idle": 200}


def test_a_reader_that_takes_nothing_is_ended():
    with running(body_seconds=0.5) as server:
        with server.connect() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            with contextlib.suppress(OSError):
                connection.settimeout(8)
                while True:
                    connection.sendall(b"GET /openapi.json HTTP/1.1\r\n" + HOST + b"\r\n")
        assert until(lambda: not server.worker.state.connections)
        assert status(server.ask(posted(more=b"Connection: close\r\n"))) == 200


def test_a_body_that_ends_early_is_400():
    with running() as server, server.connect() as connection:
        connection.sendall(posted()[:-5])
        connection.shutdown(socket.SHUT_WR)
        answer = rest(connection)
    assert status(answer) == 400 and b"body_incomplete" in answer


def test_an_early_refusal_reaches_a_client_that_is_still_sending():
    with running(max_body_bytes=1 << 16, max_held_bytes=1 << 20) as server, server.connect() as connection:
        connection.sendall(PREDICT + b"Content-Length: 50000000\r\n\r\n" + bytes(1 << 17))
        answer = rest(connection)
    assert status(answer) == 413 and b"connection: close" in answer.lower()


def test_all_bodies_together_are_bounded():
    with running(max_body_bytes=60_000, max_held_bytes=100_000, body_seconds=5) as server:
        image = png() + bytes(50_000)
        with server.connect() as first:
            first.sendall(posted(image)[:-1])
            assert until(lambda: server.service.held.bytes > 40_000)
            refused = server.ask(posted(image))
            assert status(refused) == 503 and b"retry-after: 1" in refused
            first.sendall(image[-1:])
            assert first.recv(100).startswith(b"HTTP/1.1 200")
        assert until(lambda: server.service.held.bytes == 0)


@pytest.mark.parametrize(("data", "expected"), [
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 20, 400), (b"GET /\r\n\r\n", 400), (b"\0" * 200, 400),
    (b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"a" * 40_000 + b"\r\n\r\n", 431),
    (b"GET /v2 HTTP/1.1\r\n\r\n", 400), (b"GET /v2 HTTP/1.1\r\n" + HOST + HOST + b"\r\n", 400),
    (PREDICT + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    (PREDICT + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400)],
    ids=["tls", "0.9", "zeros", "endless header", "no host", "two hosts", "two lengths", "bad chunk"])
def test_what_is_not_http_is_refused_and_the_connection_ended(data, expected):
    with running() as server:
        answer = server.ask(data)
        assert status(server.ask(posted(more=b"Connection: close\r\n"))) == 200
    assert status(answer) == expected
    assert json.loads(answer.split(b"\r\n\r\n", 1)[1])["error"]


def test_at_the_cap_a_newcomer_is_refused_when_all_others_are_being_answered():
    with running(fake_predictor(0.6), max_connections=2) as server:
        first, second = server.connect(), server.connect()
        first.sendall(posted())
        second.sendall(posted())
        assert until(lambda: server.service.streams.running + server.service.streams.waiting == 2)
        refused = server.ask(b"")
        assert status(refused) == 503 and b"too_many_connections" in refused and b"retry-after: 1" in refused
        for connection in (first, second):
            assert connection.recv(100).startswith(b"HTTP/1.1 200")
            connection.close()


def test_at_the_cap_a_newcomer_takes_the_place_of_who_is_idle_or_unfinished_for_longest():
    with running(max_connections=3) as server:
        body, headers, idle = (server.connect() for _ in range(3))
        body.sendall(posted()[:-5])
        headers.sendall(b"POST /pre")
        idle.sendall(b"GET /v2 HTTP/1.1\r\n" + HOST + b"\r\n")
        assert idle.recv(100).startswith(b"HTTP/1.1 200")
        newcomers = [server.connect(), server.connect()]
        for connection in newcomers:
            connection.sendall(posted() + b"P")  # answered, and already asking again
            assert connection.recv(100).startswith(b"HTTP/1.1 200")
        assert rest(idle).count(b"HTTP/1.1") == 0 and status(rest(headers)) == 503
        body.sendall(png()[-5:])
        assert body.recv(100).startswith(b"HTTP/1.1 200")
        for connection in (body, headers, idle, *newcomers):
            connection.close()


def test_three_megabytes_in_chunks_of_a_byte_are_refused_early():
    with running() as server, server.connect() as connection:
        connection.sendall(PREDICT + b"Transfer-Encoding: chunked\r\n\r\n")
        with contextlib.suppress(OSError):
            connection.sendall(b"1\r\nx\r\n" * 60_000)
        answer = rest(connection)
    assert status(answer) == 400 and b"tiny_chunks" in answer


def test_a_client_that_leaves_the_queue_is_never_computed():
    with running(fake_predictor(0.4), queue=5) as server:
        busy = server.connect()
        busy.sendall(posted())
        assert until(lambda: server.service.streams.running == 1)
        gone = [server.connect() for _ in range(3)]
        for connection in gone:
            connection.sendall(posted())
        assert until(lambda: server.service.streams.waiting == 3)
        for connection in gone:
            connection.close()
        assert until(lambda: server.service.streams.waiting == 0, 0.35)
        assert busy.recv(100).startswith(b"HTTP/1.1 200")
        busy.close()
        assert until(lambda: server.service.streams.idle)
        text = server.service.metrics.text("m", "v").decode()
    assert 'visus_requests_total{route="predict",status="499"} 3.0' in text and "visus_images_total 1.0" in text


def test_draining_finishes_what_is_under_way_and_takes_nothing_new():
    with running(fake_predictor(0.6)) as server:
        with server.connect() as busy, server.connect() as idle:
            busy.sendall(posted())
            assert until(lambda: server.service.streams.running == 1)
            server.worker.stop()
            assert until(lambda: server.service.draining)
            idle.sendall(posted())
            late = rest(idle)
            answer = rest(busy)
        server.thread.join(10)
        assert status(answer) == 200 and b"connection: close" in answer.lower()
        assert status(late) in (0, 503)
        with pytest.raises(ConnectionRefusedError):
            server.connect()
    assert server.clean is True


def test_a_second_signal_ends_at_once():
    with running(fake_predictor(3.0)) as server, server.connect() as busy:
        busy.sendall(posted())
        assert until(lambda: server.service.streams.running == 1)
        start = time.monotonic()
        server.worker.stop()
        server.worker.stop()
        server.thread.join(10)
        assert time.monotonic() - start < 2 and server.clean is False


def test_a_taken_address_is_said():
    with running() as server, pytest.raises(ResourceError, match="--port"):
        listen(ServerSettings(port=server.port))


def streams_of_requests(seed: int):
    """(what is sent, in parts; how many answers they ask for, None where they are damaged), without end."""
    draw = random.Random(seed)
    image, upgrade = png(), b"Upgrade: h2c\r\nConnection: Upgrade\r\n"
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (image[:9], image[9:30], image[30:]))
    requests = [posted(), posted(more=upgrade), PREDICT + b"Transfer-Encoding: chunked\r\n\r\n" + chunks +
                b"0\r\nX-Behind: it\r\n\r\n", *(line + b" HTTP/1.1\r\n" + HOST + more + b"\r\n" for line, more in [
                    (b"GET /v2", b""), (b"GET /v2", upgrade), (b"HEAD /limits", b""), (b"GET /nothing", b"")])]
    while True:
        chosen = [draw.choice([*requests, b"\r\n"]) for _ in range(draw.randint(0, 10))]
        data = bytearray(b"".join(chosen) + posted(more=b"Connection: close\r\n"))
        damaged = draw.random() < 0.5
        for _ in range(draw.randint(1, 3) if damaged else 0):
            data[draw.randrange(len(data))] = draw.randrange(256)
        cuts = sorted(draw.randrange(len(data)) for _ in range(draw.randint(0, 6)))
        parts = [bytes(data[start:end]) for start, end in itertools.pairwise([0, *cuts, len(data)])]
        yield parts, None if damaged else len(chosen) - chosen.count(b"\r\n") + 1


def test_requests_cut_anywhere_are_answered_and_damaged_anywhere_leave_nothing_behind():
    with running(keep_alive_seconds=0.5, header_seconds=0.5, body_seconds=0.5) as server:
        for parts, wanted in itertools.islice(streams_of_requests(0), 150):
            with server.connect() as connection:
                with contextlib.suppress(ConnectionError):
                    for part in parts:
                        connection.sendall(part)
                if wanted is None:
                    with contextlib.suppress(OSError):
                        connection.shutdown(socket.SHUT_WR)
                answer = rest(connection)
            assert b"HTTP/1.1 500" not in answer, parts
            assert wanted is None or answer.count(b"HTTP/1.1 ") == wanted, parts
        assert until(lambda: not server.worker.state.connections and not server.worker.state.tasks
                     and not server.worker.lingering)
        assert server.service.held.bytes == 0

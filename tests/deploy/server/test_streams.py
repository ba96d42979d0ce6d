import asyncio
import threading
import time

import numpy as np
import pytest

from visus.deploy.server.batching import Batcher, best_batch
from visus.deploy.server.errors import Refusal
from visus.deploy.server.exchange import ClientGone, Exchange
from visus.deploy.server.streams import Streams


def ran(work):
    return asyncio.run(work())


def test_so_many_compute_at_a_time_and_no_more_wait_than_allowed():
    streams, most, lock = Streams(2, 3), [0, 0], threading.Lock()

    def job(value):
        with lock:
            most[0] += 1
            most[1] = max(most)
        time.sleep(0.05)
        with lock:
            most[0] -= 1
        return value

    async def work():
        return await asyncio.gather(*(streams.submit(Exchange(), 5, job, n) for n in range(9)), return_exceptions=True)

    found = ran(work)
    streams.close()
    assert found[:5] == [0, 1, 2, 3, 4] and most[1] == 2
    assert all(isinstance(error, Refusal) and error.status == 429 for error in found[5:])
    assert streams.idle


def test_a_client_that_leaves_while_it_waits_frees_its_place_and_is_never_computed():
    streams, seen, gate = Streams(1, 2), [], threading.Event()

    async def work():
        first = asyncio.ensure_future(streams.submit(Exchange(), 5, gate.wait, 5))
        exchange = Exchange()
        leaving = asyncio.ensure_future(streams.submit(exchange, 5, seen.append, "gone"))
        await asyncio.sleep(0.02)
        assert streams.waiting == 1
        exchange.abandon()
        assert streams.waiting == 0
        gate.set()
        await first
        await streams.submit(Exchange(), 5, seen.append, "here")
        with pytest.raises(ClientGone):
            await leaving

    ran(work)
    streams.close()
    assert seen == ["here"] and streams.idle


def test_the_deadline_ends_the_waiting_and_tells_the_work():
    streams, exchange = Streams(1, 2), Exchange()

    def long():
        while not exchange.abandoned:
            time.sleep(0.005)

    async def work():
        with pytest.raises(Refusal) as error:
            await streams.submit(exchange, 0.05, long)
        assert error.value.status == 504
        for _ in range(200):
            if streams.idle:
                return
            await asyncio.sleep(0.01)

    ran(work)
    streams.close()
    assert streams.idle


@pytest.mark.parametrize(("raised", "seen"), [(ValueError("x"), ValueError), (MemoryError(), Refusal),
                                              (SystemExit(1), RuntimeError)])
def test_a_stream_outlives_whatever_is_raised(raised, seen):
    streams = Streams(1, 1)

    def fail():
        raise raised

    async def work():
        with pytest.raises(seen):
            await streams.submit(Exchange(), 5, fail)
        return await streams.submit(Exchange(), 5, lambda: 7)

    assert ran(work) == 7
    streams.close()


# -- batching -----------------------------------------------------------------------------------------------------


def total(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1).sum(1, dtype=np.float32)[:, None]


def test_images_that_wait_together_are_computed_together_and_each_gets_its_own_answer():
    sizes = []

    def session(images):
        sizes.append(len(images))
        time.sleep(0.02)
        return total(images)

    batcher = Batcher(session, 4, 0.05)
    images = [np.full((2, 2, 1), n, np.uint8) for n in range(20)]
    found = [None] * 20

    def ask(n):
        found[n] = float(batcher(images[n])[0])

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert found == [4.0 * n for n in range(20)]
    assert sum(sizes) == 20 and max(sizes) == 4 and len(sizes) <= 8


def test_a_lonely_image_waits_no_longer_than_the_delay():
    batcher = Batcher(total, 8, 0.02)
    start = time.perf_counter()
    batcher(np.ones((2, 2, 1), np.uint8))
    assert time.perf_counter() - start < 1


def test_a_failing_batch_raises_for_each_and_the_next_one_works():
    fails = [True]

    def session(images):
        if fails.pop() if fails else False:
            raise RuntimeError("device lost")
        return total(images)

    batcher = Batcher(session, 2, 0.0)
    with pytest.raises(RuntimeError):
        batcher(np.ones((1, 1, 1), np.uint8))
    assert batcher(np.ones((1, 1, 1), np.uint8))[0] == 1


def test_a_batch_is_chosen_only_where_it_wins():
    def device(images):  # a fixed cost for each call
        time.sleep(0.002)
        return total(images)

    def processor(images):  # a cost for each image
        time.sleep(0.001 * len(images))
        return total(images)

    assert best_batch(device, (2, 2, 1), 0.2) >= 8
    assert best_batch(processor, (2, 2, 1), 0.2) == 1

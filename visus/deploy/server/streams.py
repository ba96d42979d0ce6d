"""Threads that compute, and the bounded queue before them.

On processors one stream for each core, each image alone, gives the most answers; decoding and the network release
Python's lock. A job that nobody waits for any more is dropped while it is queued.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from typing import Any

from visus.deploy.server.errors import Refusal, queue_full, too_slow
from visus.deploy.server.exchange import ClientGone, Exchange

_WAITING, _RUNNING, _OVER = range(3)


class Job:
    """A call that waits for a stream. Its future belongs to the event loop."""

    __slots__ = ("args", "exchange", "function", "future", "queued", "state", "streams")

    def __init__(self, streams: Streams, function: Callable[..., Any], args: tuple[Any, ...], exchange: Exchange,
                 future: asyncio.Future[Any]):
        self.streams, self.function, self.args, self.exchange, self.future = streams, function, args, exchange, future
        self.state = _WAITING
        self.queued = time.perf_counter()

    def cancel(self) -> None:
        self._give_up(ClientGone())

    def expire(self) -> None:
        self.exchange.abandoned = True
        self._give_up(too_slow())

    def _give_up(self, error: Exception) -> None:
        self.streams.drop(self)
        if not self.future.done():
            self.future.set_exception(error)

    def finish(self, result: Any, error: BaseException | None) -> None:
        """In the event loop, when a stream is done with it."""
        if self.future.done():
            return
        if error is None:
            self.future.set_result(result)
        elif isinstance(error, Exception):
            self.future.set_exception(error)
        else:  # SystemExit and its like end no stream and no server
            self.future.set_exception(RuntimeError(type(error).__name__))


class Streams:
    """count: threads. most_waiting: jobs beyond those that compute. Raises nothing at the start."""

    def __init__(self, count: int, most_waiting: int):
        self.count, self.most_waiting = count, most_waiting
        self.waiting = self.running = 0
        self._lock = threading.Lock()
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._threads = [threading.Thread(target=self._work, name=f"visus-stream-{number}", daemon=True)
                         for number in range(count)]
        for thread in self._threads:
            thread.start()

    async def submit(self, exchange: Exchange, seconds: float, function: Callable[..., Any], *args: Any) -> Any:
        """function(*args), computed on a stream. Raises Refusal (429 when the queue is full, 504 after `seconds`),
        ClientGone, and what the function raises."""
        loop = asyncio.get_running_loop()
        if exchange.abandoned:
            raise ClientGone
        job = Job(self, function, args, exchange, loop.create_future())
        with self._lock:
            if self.waiting + self.running >= self.count + self.most_waiting:
                raise queue_full()
            self.waiting += 1
        exchange.job = job
        timer = loop.call_later(max(0.0, seconds), job.expire)
        self._jobs.put(job)
        try:
            return await job.future
        except asyncio.CancelledError:
            exchange.abandoned = True
            raise
        finally:
            timer.cancel()
            self.drop(job)
            exchange.job = None

    def drop(self, job: Job) -> None:
        """A job that waits leaves the queue; another is left alone."""
        with self._lock:
            if job.state == _WAITING:
                job.state = _OVER
                self.waiting -= 1

    @property
    def idle(self) -> bool:
        return self.waiting + self.running == 0

    def close(self) -> None:
        for _ in self._threads:
            self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            with self._lock:
                if job.state != _WAITING:
                    continue
                job.state = _RUNNING
                self.waiting -= 1
                self.running += 1
            job.exchange.queue_s += time.perf_counter() - job.queued
            result, error = None, None
            try:
                result = job.function(*job.args)
            except MemoryError:
                error = out_of_memory()
            except BaseException as raised:  # whatever a decoder or a runtime raises, the stream goes on
                error = raised
            with self._lock:
                job.state = _OVER
                self.running -= 1
            try:
                job.future.get_loop().call_soon_threadsafe(job.finish, result, error)
            except RuntimeError:  # the loop is closed: the server was told to stop at once
                return
            del job, result, error


def out_of_memory() -> BaseException:
    return Refusal(503, "out_of_memory", "The server has too little memory for this request",
                   "Send smaller images, or ask again later", retry_after=1)

"""Several workers on one socket: started, watched, started again when they die, stopped together.

Workers are forked from a server process that has imported everything and loaded nothing, so that a new one answers as
soon as it has read the model. The socket belongs to the supervisor: what waits in it is not lost with a worker.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from typing import Any

import numpy as np

from visus.core.errors import ResourceError
from visus.deploy.server.metrics import SIZE, Metrics
from visus.deploy.server.settings import ServerSettings

PRELOADED = ["visus.run.serve", "visus.deploy.server.app", "visus.deploy.server.serving", "onnxruntime",
             "prometheus_client"]
YOUNG_SECONDS = 10.0    # a worker that dies sooner is started again with a growing pause
LONGEST_PAUSE = 10.0
MOST_EARLY_DEATHS = 5   # in a row, before any was ready: then the server gives up
START_SECONDS = 120.0   # for the first worker to be ready

Work = Callable[..., None]  # (*args, settings, socket, block, row), in the worker's process


class Supervisor:
    """work: a module's function that serves until it is told to stop. args: handed to it first."""

    def __init__(self, work: Work, args: tuple[Any, ...], settings: ServerSettings, listening: socket.socket):
        self.work, self.args, self.settings, self.listening = work, args, settings, listening
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(PRELOADED)
        self.block = self.context.RawArray("d", settings.workers * SIZE)
        self.values = np.frombuffer(self.block, np.float64).reshape(settings.workers, SIZE)
        self.metrics = [Metrics(self.values, row) for row in range(settings.workers)]
        self.processes: list[BaseProcess] = []
        self.signals: list[int] = []
        self._begun = [0.0] * settings.workers
        self._early = [0] * settings.workers
        self._again = [0.0] * settings.workers  # when a dead one is started

    def run(self, on_listening: Callable[[], None] | None = None) -> bool:
        """Until SIGTERM or SIGINT; SIGHUP goes to the workers. True: every worker ended well. Raises ResourceError when
        no worker comes up."""
        reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        before = {number: signal.signal(number, self._note) for number in
                  (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
        wakeup = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        try:
            self.processes = [self._start(row) for row in range(self.settings.workers)]
            self._watch(reading, on_listening)
            return self._stop(reading)
        finally:
            for process in self.processes:
                if process.is_alive():
                    process.kill()
            signal.set_wakeup_fd(wakeup)
            for number, handler in before.items():
                signal.signal(number, handler)
            os.close(reading)
            os.close(writing)
            self.listening.close()

    def _note(self, number: int, frame: object) -> None:
        del frame
        self.signals.append(number)

    def _start(self, row: int) -> BaseProcess:
        self._begun[row] = time.monotonic()
        process = self.context.Process(target=self.work, name=f"visus-worker-{row}", args=(
            *self.args, self.settings, self.listening, self.block, row))
        process.start()
        return process

    def _watch(self, reading: int, on_listening: Callable[[], None] | None) -> None:
        begin, told = time.monotonic(), False
        while not self._told_to_stop():
            sentinels = [process.sentinel for process in self.processes if process.is_alive()]
            connection.wait([*sentinels, reading], 0.05 if not told or min(
                (at for at in self._again if at), default=0) else 0.5)
            _empty(reading)
            ready = self.metrics[0].gauge("ready")
            if not told and ready.any():
                told = True
                if on_listening is not None:
                    on_listening()
            if not told and time.monotonic() - begin > START_SECONDS:
                raise ResourceError("no worker became ready", where="workers", remedy="See the log")
            for row, process in enumerate(self.processes):
                if not process.is_alive():
                    self._revive(row, told)
            while signal.SIGHUP in self.signals:
                self.signals.remove(signal.SIGHUP)
                self._send(signal.SIGHUP)

    def _revive(self, row: int, told: bool) -> None:
        now = time.monotonic()
        if not self._again[row]:
            self.metrics[row].set("ready", 0)
            young = now - self._begun[row] < YOUNG_SECONDS
            self._early[row] = self._early[row] + 1 if young else 0
            if not told and self._early[row] >= MOST_EARLY_DEATHS:
                raise ResourceError("the workers end before they are ready", where="workers", remedy="See the log")
            pause = min(LONGEST_PAUSE, 0.1 * 2 ** self._early[row]) if self._early[row] > 1 else 0.0
            self._again[row] = now + pause
        if now >= self._again[row]:
            self._again[row] = 0.0
            self.metrics[row].count("restarts")
            self.processes[row] = self._start(row)

    def _told_to_stop(self) -> bool:
        return any(number in (signal.SIGTERM, signal.SIGINT) for number in self.signals)

    def _send(self, number: int) -> None:
        for process in self.processes:
            if process.pid is not None and process.is_alive():
                with suppress(ProcessLookupError):
                    os.kill(process.pid, number)

    def _stop(self, reading: int) -> bool:
        for metrics in self.metrics:
            metrics.set("ready", 0)
        self._send(signal.SIGTERM)
        self.signals.clear()
        end = time.monotonic() + self.settings.drain_seconds + 2
        while time.monotonic() < end:
            alive = [process.sentinel for process in self.processes if process.is_alive()]
            if not alive:
                break
            connection.wait([*alive, reading], 0.5)
            _empty(reading)
            if self._told_to_stop():  # the second signal
                self._send(signal.SIGTERM)
                self.signals.clear()
                end = min(end, time.monotonic() + 1)
        return all(process.exitcode == 0 for process in self.processes)


def _empty(reading: int) -> None:
    try:
        while os.read(reading, 4096):
            pass
    except BlockingIOError:
        pass

"""A worker that does nothing but say that it is ready and note signals. Used by test_supervisor."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np

from visus.deploy.server.metrics import SIZE, Metrics


def work(folder: str, settings, listening, block, row) -> None:
    (Path(folder) / f"{row}-{os.getpid()}").touch()
    ended = []
    signal.signal(signal.SIGTERM, lambda *_: ended.append(1))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, lambda *_: (Path(folder) / f"hup-{row}").touch())
    assert listening.getsockname()[1] > 0
    Metrics(np.frombuffer(block, np.float64).reshape(settings.workers, SIZE), row).set("ready", 1)
    while not ended:
        time.sleep(0.01)


def broken(folder: str, settings, listening, block, row) -> None:
    raise SystemExit(3)

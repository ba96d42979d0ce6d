"""A new bundle while the server runs: loaded aside, checked, warmed up, and only then asked."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from visus.core.errors import CheckpointError, UserError
from visus.core.files import sha256
from visus.deploy.artifact import CHOICES, GOLDEN, NAME
from visus.deploy.golden import TOLERANCE, compare, read_golden
from visus.deploy.predictor import Predictor, open_predictor
from visus.deploy.server.service import Service
from visus.deploy.session import HALF, open_session

WATCH_SECONDS = 1.0
FEWER_BITS_CHANGE = 0.02  # of the golden decisions, at most, where fewer bits were chosen
SLACK = 1.5  # times the difference that the export measured, on a machine that rounds otherwise


def checked_predictor(path: str | os.PathLike[str], *, backend: str | None = None, threads: int = 1,
                      batched: bool = False) -> Predictor:
    """The bundle, ready to answer: files compared with their SHA-256, the golden batch asked and compared, and with it
    warmed up. batched: its session computes what it is given at once, instead of image by image. Raises CheckpointError
    for one that does not answer as its original did."""
    predictor = open_predictor(path, backend=backend, threads=threads)
    if batched:
        predictor = replace(predictor, fewer_bits=HALF.get(backend or ""), session=open_session(
            predictor.bundle.onnx, backend or "onnxruntime", threads, batch=None))
    bundle = predictor.bundle
    golden_file = bundle.path / GOLDEN
    preprocessing = bundle.preprocessing
    shape = (*preprocessing.size, preprocessing.channels)
    if bundle.path.is_dir() and golden_file.is_file():
        golden = read_golden(golden_file)
        if golden.images.shape[1:] != shape:
            raise CheckpointError(f"has images of shape {golden.images.shape[1:]}, and the model takes {shape}",
                                  where=golden_file, remedy="Export the run once more")
        probs = np.stack([predictor.probs(image) for image in golden.images])
        found = compare(golden.probs, probs, bundle.task, bundle.thresholds)
        measured = bundle.about.get("golden") or {}
        allowed = max(TOLERANCE, SLACK * float(measured.get("largest") or 0))
        if predictor.fewer_bits:  # fewer bits, which were chosen by the answers, give other probabilities
            if found.changed > max(1, FEWER_BITS_CHANGE * found.images):
                raise CheckpointError(f"does not answer as its original: {found.changed} of {found.images} decisions "
                                      "differ in the precision that was chosen", where=bundle.path,
                                      remedy="Run visus optimize again")
        elif found.largest > allowed:
            raise CheckpointError(f"does not answer as its original: a probability differs by {found.largest:.2g}, "
                                  f"{allowed:.2g} are allowed", where=bundle.path, remedy="Export the run once more")
    else:
        probs = predictor.probs(np.zeros(shape, np.uint8))[None]
    if probs.shape[1:] != (len(bundle.labels),) or not np.isfinite(probs).all():
        raise CheckpointError(f"gives {probs.shape[1:]} numbers for {len(bundle.labels)} labels, or some that are not "
                              "finite", where=bundle.path, remedy="Export the run once more")
    return predictor


class Reloader:
    """Keeps `service` at what lies at `path`. load: gives a checked predictor of it. on_swap: called with that, before
    it answers."""

    def __init__(self, service: Service, path: str | os.PathLike[str], load: Callable[[], Predictor],
                 on_swap: Callable[[Predictor], None] | None = None):
        self.service, self.path, self.load, self.on_swap = service, Path(os.fspath(path)), load, on_swap
        self._seen = self.stamp()
        self._lock = threading.Lock()

    def stamp(self) -> str | None:
        """What tells one state of the bundle from another: the SHA-256 of bundle.json, and the sizes and times of the
        files beside it, which may arrive later; or of the .onnx file; None: none there."""
        try:
            if not self.path.is_dir():
                return sha256(self.path)
            beside = sorted((file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in self.path.iterdir()
                            if file.is_file() and file.name not in (NAME, CHOICES) and not file.name.startswith("."))
            return f"{sha256(self.path / NAME)} {beside}"
        except OSError:
            return None

    async def watch(self) -> None:
        """Looks each second, and loads what is new; a bundle that was refused is looked at again when it changes."""
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            stamp = await asyncio.to_thread(self.stamp)
            if stamp is not None and stamp != self._seen:
                await self.reload()

    async def reload(self) -> bool:
        """Load now. False: refused, and the old one goes on; the log says why."""
        return await asyncio.to_thread(self._reload)

    def _reload(self) -> bool:
        with self._lock:
            self._seen = self.stamp()
            service = self.service
            try:
                predictor = self.load()
                if self.on_swap is not None:
                    self.on_swap(predictor)
            except UserError as error:
                service.metrics.count("reloads_refused")
                service.log.event("reload_refused", problem=str(error), version=service.answering.version)
                return False
            except Exception as error:  # a runtime's own: the model that answers is not touched
                service.metrics.count("reloads_refused")
                service.log.event("reload_refused", problem=f"{type(error).__name__}: {error}"[:500],
                                  version=service.answering.version)
                return False
            before = service.answering.version
            service.swap(predictor)
            service.metrics.count("reloads_done")
            service.log.event("reloaded", model=service.answering.name, version=service.answering.version,
                              before=before)
            return True

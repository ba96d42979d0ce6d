"""visus serve: a run's or a bundle's model over HTTP, with its page."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import parent_process
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visus.core.errors import MissingExtra, UserError, did_you_mean
from visus.core.heap import keep_heap
from visus.deploy.artifact import is_bundle, read_bundle
from visus.deploy.server.settings import ServerSettings, usable_cores

if TYPE_CHECKING:
    from visus.deploy.predictor import Predictor
    from visus.deploy.server.reload import Reloader
    from visus.deploy.server.service import Service

SAVE_SECONDS = 30.0  # between two writings of the statistics


def serve(path: str | os.PathLike[str], *, keys_file: str | os.PathLike[str] | None = None,
          backend: str | None = None, on_listening: Callable[[str, str], None] | None = None,
          **settings: Any) -> bool:
    """Answer over HTTP until SIGTERM or SIGINT. True: every request that was under way got its answer.

    path: a run, exported to RUN/export/bundle where it was not yet, a bundle, or an .onnx file of ours. settings: the
    fields of visus.deploy.server.settings.ServerSettings, such as host, port, workers, streams. keys_file: the API keys
    that may ask, one a line. backend: None takes what `visus optimize` chose for this machine. on_listening: called
    with the address and the limits in a sentence when requests are answered.

    Raises UserError for a setting that cannot be meant, MissingExtra, CheckpointError for a bundle that does not answer
    as its original did, ResourceError for an address that is taken.
    """
    told = settings_of(keys_file, settings)
    _need_packages()
    bundle = bundle_of(path)
    read_bundle(bundle, verify=False)
    from visus.deploy.server.serving import listen

    listening = listen(told)
    address = f"http://{told.host}:{listening.getsockname()[1]}"

    def announce() -> None:
        if on_listening is not None:
            on_listening(address, limits_of(told))

    if told.workers == 1:
        return _serve_alone(bundle, backend, told, listening, announce)
    from visus.deploy.server.supervisor import Supervisor

    return Supervisor(work, (os.fspath(bundle), backend), told, listening).run(announce)


def limits_of(settings: ServerSettings) -> str:
    """What a request may have, in a sentence."""
    return (f"At most {settings.max_body_bytes / (1 << 20):g} MiB and {settings.max_images} images a request, "
            f"{settings.max_pixels / 1e6:g} megapixels an image, {settings.queue} waiting requests, "
            f"{settings.answer_seconds:g} s an answer. "
            + ("API keys are asked for." if settings.keys else "Anyone who can reach it may ask."))


def settings_of(keys_file: str | os.PathLike[str] | None, values: dict[str, Any]) -> ServerSettings:
    """Raises UserError for an unknown name or a bad value."""
    known = [field.name for field in dataclasses.fields(ServerSettings)]
    for name in values:
        if name not in known:
            raise UserError("is not a setting of the server", where=name, remedy=did_you_mean(name, known))
    if keys_file is not None:
        from visus.deploy.server.keys import read_keys

        values = values | {"keys": (*values.get("keys", ()), *read_keys(keys_file))}
    return ServerSettings(**values)


def _need_packages() -> None:
    try:
        import fastapi  # noqa: F401
        import httptools  # noqa: F401
        import onnxruntime  # noqa: F401
        import prometheus_client  # noqa: F401
        import python_multipart  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError:
        raise MissingExtra("visus serve", "serve") from None


def bundle_of(path: str | os.PathLike[str]) -> Path:
    """The bundle; of a run RUN/export/bundle, written where there is none. Raises UserError."""
    path = Path(os.fspath(path))
    if is_bundle(path):
        return path
    found = path / "export" / "bundle"
    if not is_bundle(found):
        from visus.run.export import export

        export(path, out=found)
    return found


def _serve_alone(bundle: Path, backend: str | None, settings: ServerSettings, listening: socket.socket,
                 announce: Callable[[], None]) -> bool:
    keep_heap()
    service, reloader = make_service(bundle, backend, settings)
    try:
        return asyncio.run(_run(service, reloader, settings, listening, announce, None))
    finally:
        service.log.close()


def work(bundle: str, backend: str | None, settings: ServerSettings, listening: socket.socket, block: Any,
         row: int) -> None:
    """One of several workers, in its own process, until its supervisor says so or is gone."""
    import numpy as np

    from visus.deploy.server.metrics import SIZE

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    keep_heap()
    values = np.frombuffer(block, np.float64).reshape(settings.workers, SIZE)
    service, reloader = make_service(Path(bundle), backend, settings, values, row)
    parent = parent_process()
    try:
        clean = asyncio.run(_run(service, reloader, settings, listening, None,
                                 None if parent is None else int(parent.sentinel)))
    finally:
        service.log.close()
    raise SystemExit(0 if clean else 1)


def make_service(bundle: Path, backend: str | None, settings: ServerSettings, block: Any = None, row: int = 0) -> \
        tuple[Service, Reloader]:
    """The checked model with all that its routes need, not listening yet. block, row: several workers' metrics."""
    from visus.deploy.server.batching import best_batch
    from visus.deploy.server.logs import Log
    from visus.deploy.server.metrics import Metrics
    from visus.deploy.server.reload import Reloader, checked_predictor
    from visus.deploy.server.service import Service
    from visus.run.serve_torch import torch_side

    threads = max(1, usable_cores() // (settings.workers * settings.computing_streams))

    def load() -> Predictor:
        return checked_predictor(bundle, backend=backend, threads=threads, batched=settings.batch != 1)

    predictor = load()
    if settings.batch == 0:
        preprocessing = predictor.bundle.preprocessing
        settings = dataclasses.replace(settings, batch=best_batch(
            predictor.session, (*preprocessing.size, preprocessing.channels)))
    explain, attack = torch_side(predictor.bundle, threads) or (None, None)
    service = Service(predictor, settings, explain=explain, attack=attack, collector=_collector(predictor, settings),
                      metrics=None if block is None else Metrics(block, row), log=Log(settings.access_log))

    def swapped(new: Predictor) -> None:
        service.explain, service.attack = torch_side(new.bundle, threads) or (None, None)

    return service, Reloader(service, bundle, load, swapped)


def _collector(predictor: Predictor, settings: ServerSettings) -> Any:
    """Statistics for `visus monitor`, where they are asked for."""
    if not settings.statistics:
        return None
    from visus.core.files import read_json
    from visus.deploy.artifact import REFERENCE
    from visus.deploy.drift import Collector

    bundle = predictor.bundle
    reference = bundle.path / REFERENCE
    collector = Collector(read_json(reference) if reference.is_file() else None,
                          thresholds=bundle.thresholds if bundle.task == "multilabel" else None)
    if settings.workers == 1 and Path(settings.statistics).is_file():  # of several, each has a file of its own
        collector.resume(settings.statistics)
    return collector


async def _run(service: Service, reloader: Reloader, settings: ServerSettings, listening: socket.socket,
               announce: Callable[[], None] | None, parent: int | None) -> bool:
    from visus.deploy.server.app import make_app
    from visus.deploy.server.serving import Worker

    settings = service.settings
    worker = Worker(make_app(service, settings), service, settings, reloader, parent)
    saving = asyncio.create_task(_keep_saving(service)) if service.collector is not None else None

    def listening_now() -> None:
        service.log.event("listening", pid=os.getpid(), model=service.answering.name,
                          version=service.answering.version, streams=service.streams.count)
        if announce is not None:
            announce()

    try:
        return await worker.run(listening, listening_now)
    finally:
        if saving is not None:
            saving.cancel()
            with suppress(asyncio.CancelledError):
                await saving
            _save(service)


async def _keep_saving(service: Service) -> None:
    while True:
        await asyncio.sleep(SAVE_SECONDS)
        await asyncio.to_thread(_save, service)


def _save(service: Service) -> None:
    path = Path(service.settings.statistics)
    if service.settings.workers > 1:
        path = path.with_name(f"{path.stem}-{os.getpid()}{path.suffix}")
    try:
        collector: Any = service.collector
        collector.save(path)
    except UserError as error:
        service.log.event("statistics_not_saved", problem=str(error))

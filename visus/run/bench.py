"""visus bench: latency, throughput and memory of a model, by batch size and threads, beside the machine's peak.

Each setting is measured in a fresh process (this file as a program), so that memory is its own, no other runtime's
threads wait beside it, and the ways without torch run without torch.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from visus.core.errors import MissingExtra, ResourceError, UserError, did_you_mean, printable
from visus.deploy import machine
from visus.deploy.artifact import Bundle, is_bundle, read_bundle
from visus.deploy.bench import Measured, matmul_peak, measure
from visus.deploy.session import BACKENDS, WITH_TORCH, open_session

if TYPE_CHECKING:
    from rich.table import Table
    from torch import nn

AUTO, EAGER = "auto", "eager"
VIEWS = {"none": 1, "flip": 2, "flip_shift": 6}  # forward passes of an answer
LIMIT_S = 600.0  # of a process, beyond the seconds that it is to measure
PHOTO = (375, 500)


@dataclass(frozen=True)
class BenchRow:
    """One setting. backend: as it was computed. measured: None where it could not be, and `reason` says why.
    gflops: 2 x MACs over the median; fraction: of the matrix-multiply peak with as many threads, same run."""

    backend: str
    batch: int
    threads: int
    measured: Measured | None = None
    gflops: float | None = None
    fraction: float | None = None
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        return {"backend": self.backend, "batch": self.batch, "threads": self.threads, "gflops": self.gflops,
                "fraction": self.fraction, "reason": self.reason,
                **({} if self.measured is None else self.measured.to_dict())}


@dataclass(frozen=True)
class Benchmark:
    """rows: of the table. macs: of one image, or None where they could not be counted. peaks: floating-point operations
    a second by threads. preparing: milliseconds of decoding and of resizing one image, and of which; None of a model
    without images of its own."""

    model: str
    image_size: tuple[int, int]
    macs: int | None
    rows: tuple[BenchRow, ...]
    peaks: dict[int, float]
    preparing: dict[str, Any] | None
    load: float

    def to_dict(self) -> dict[str, Any]:
        return {"model": self.model, "image_size": list(self.image_size), "macs": self.macs,
                "peak_gflops": {str(threads): peak / 1e9 for threads, peak in self.peaks.items()},
                "preparing": self.preparing, "load": self.load, "machine": machine.machine(),
                "rows": [row.to_dict() for row in self.rows]}


def bench(model: str | os.PathLike[str], *, batch: int | Sequence[int] = 1, threads: int | Sequence[int] = 1,
          backend: str | Sequence[str] = AUTO, image_size: int | None = None, seconds: float = 5.0,
          images: str | os.PathLike[str] | None = None, progress: bool = False) -> Benchmark:
    """model: a run, a bundle or .onnx file of ours, or the name of a registered model, with random weights.

    batch, threads, backend: one or several; every combination is measured, for `seconds` each. backend: 'eager', or one
    of visus.deploy.session.BACKENDS; 'auto' is what `visus optimize` chose for a bundle, else onnxruntime, and eager of
    a model that has no bundle. image_size: side in pixels, of a registered name. images: a file or folder of real
    photos for the share of decoding and resizing; default: a JPEG of 500 x 375 pixels made here.

    What cannot be measured is a row with its reason. Raises UserError for wrong values and unknown names.
    """
    batches, counts = _several("batch", batch), _several("threads", threads)
    names = [backend] if isinstance(backend, str) else list(backend)
    for name in names:
        if name not in (AUTO, EAGER, *BACKENDS):
            raise UserError("is not a backend", where=f"backend {name!r}",
                            remedy=did_you_mean(name, (AUTO, EAGER, *BACKENDS)))
    if not seconds > 0:
        raise UserError("must be above 0", where=f"seconds={seconds}")
    subject = _subject(model, image_size)
    from visus.run.display import Display

    display, rows, peaks = Display(progress), [], dict.fromkeys(counts, 0.0)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    macs = subject.macs()
    with display.steps("bench", len(batches) * len(counts) * len(names)) as advance:
        for count in counts:
            peaks[count] = matmul_peak(count)
            for name in names:
                for size in batches:
                    rows.append(_row(subject, name, size, count, seconds))
                    peaks[count] = max(peaks[count], matmul_peak(count))
                    advance()
    held = [_beside_peak(row, macs, peaks[row.threads]) for row in rows]
    return Benchmark(subject.name, subject.size, macs, tuple(held), peaks, _preparing(subject, images), load)


def _channels(model: Any, rules: Any) -> int:
    return int(rules.channels if rules is not None else getattr(model.config, "in_channels", 3))


def _several(field: str, value: int | Sequence[int]) -> list[int]:
    found = [value] if isinstance(value, int) else list(value)
    if not found or any(not isinstance(one, int) or isinstance(one, bool) or one < 1 for one in found):
        raise UserError("must be whole numbers of at least 1", where=f"{field}={value!r}")
    return found


# -- what is measured ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Subject:
    """bundle: or None. run: the run's folder, or None. registered: a model's name, or None. size: (height, width)."""

    name: str
    size: tuple[int, int]
    bundle: Bundle | None = None
    run: Path | None = None
    registered: str | None = None

    def spec(self, backend: str, batch: int, threads: int, seconds: float) -> dict[str, Any]:
        """What the process needs to know. Raises UserError for a backend that this cannot have."""
        if backend == AUTO:
            found = {} if self.bundle is None else machine.chosen(self.bundle, batch)
            backend = found.get("backend", "onnxruntime" if self.bundle is not None else EAGER)
        if self.bundle is None and backend not in (EAGER, *WITH_TORCH):
            raise UserError("needs an exported model", where=f"backend {backend!r}",
                            remedy="Export a run first (visus export RUN), or take eager")
        return {"backend": "torch" if backend == EAGER else backend, "batch": batch, "threads": threads,
                "seconds": seconds, "size": list(self.size), "bundle": self.bundle and str(self.bundle.path),
                "run": self.run and str(self.run), "registered": self.registered}

    def model(self) -> tuple[nn.Module, Any]:
        """The torch model and its preprocessing, or None of a registered one."""
        if self.registered is not None:
            from visus.run.models import create_model

            return create_model(self.registered, image_size=self.size[0]).eval(), None
        from visus.run.bundle import load_model

        folder = self.run if self.bundle is None else self.bundle.model_folder
        if folder is None:
            raise UserError("holds no torch model", where=self.name, remedy="Give the run, or a bundle's folder")
        trained = load_model(folder)
        return trained.model, trained.preprocessing

    def macs(self) -> int | None:
        """Of one image; None where they cannot be counted."""
        from visus.core.summary import summarise

        try:
            model, rules = self.model()
            views = VIEWS[rules.views if rules is not None else "none"]
            return summarise(model, (1, _channels(model, rules), *self.size)).macs * views
        except (UserError, RuntimeError, TypeError, AttributeError):
            return None


def _subject(model: str | os.PathLike[str], image_size: int | None) -> _Subject:
    path = Path(os.fspath(model))
    if is_bundle(path) or path.is_dir():
        if image_size is not None:
            raise UserError("belongs to a registered name; a run has its own", where=f"image_size={image_size}")
        exported = path / "export" / "bundle"
        bundle = read_bundle(path) if is_bundle(path) else read_bundle(exported) if is_bundle(exported) else None
        if bundle is not None and bundle.runtime != "onnxruntime":
            raise UserError(f"is made for {bundle.runtime} alone", where=bundle.path,
                            remedy="Give the run, or a bundle: visus export RUN --to bundle")
        if bundle is not None:
            return _Subject(bundle.name, bundle.preprocessing.size, bundle, None if is_bundle(path) else path)
        from visus.run.bundle import load_model

        trained = load_model(path)
        return _Subject(trained.name, trained.preprocessing.size, None, path)
    from visus.run.models import passports
    from visus.run.registered import entry_of

    name = os.fspath(model)
    if len(path.parts) > 1:
        raise UserError("there is no such run or bundle", where=name,
                        remedy="Give a run folder, a bundle, or the name of a model: see `visus models`")
    entry_of(name)
    if image_size is not None and image_size < 1:
        raise UserError("must be at least 1", where=f"image_size={image_size}")
    height, width = passports()[name].preprocessing["size"] if image_size is None else (image_size, image_size)
    return _Subject(name, (int(height), int(width)), registered=name)


def _row(subject: _Subject, backend: str, batch: int, threads: int, seconds: float) -> BenchRow:
    try:
        spec = subject.spec(backend, batch, threads, seconds)
        shown = EAGER if spec["backend"] == "torch" else str(spec["backend"])
        return BenchRow(shown, batch, threads, _in_a_process(spec))
    except UserError as error:
        return BenchRow(backend, batch, threads, reason=f"{error.problem}. {error.remedy}" if error.remedy else
                        error.problem)


def _beside_peak(row: BenchRow, macs: int | None, peak: float) -> BenchRow:
    if row.measured is None or macs is None:
        return row
    rate = 2 * macs * row.batch / (row.measured.p50_ms / 1e3)
    return BenchRow(row.backend, row.batch, row.threads, row.measured, rate / 1e9, rate / peak)


# -- the process ---------------------------------------------------------------------------------------------------


def _in_a_process(spec: dict[str, Any]) -> Measured:
    here = str(Path(__file__).resolve().parents[2])
    names = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(spec["threads"]))
    path = os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])
    try:
        ended = subprocess.run([sys.executable, "-m", "visus.run.bench", json.dumps(spec)], capture_output=True,
                               text=True, stdin=subprocess.DEVNULL, timeout=LIMIT_S + spec["seconds"],
                               env={**os.environ, **names, "PYTHONPATH": path})
    except subprocess.TimeoutExpired:
        raise ResourceError(f"did not answer within {LIMIT_S:.0f} s", where=spec["backend"]) from None
    lines = ended.stdout.strip().splitlines()
    try:
        found = json.loads(lines[-1])
    except (IndexError, ValueError):
        said = (ended.stderr.strip().splitlines() or ["without a word"])[-1]
        raise ResourceError(f"ended with code {ended.returncode}: {printable(said)}", where=spec["backend"],
                            remedy="Try fewer images at once" if ended.returncode < 0 else None) from None
    if "error" in found:
        raise UserError(found["error"], remedy=found["remedy"])
    return Measured(**found)


def _worker(spec: dict[str, Any]) -> Measured:
    rng = np.random.default_rng(0)
    batch, threads, backend = spec["batch"], spec["threads"], spec["backend"]
    bundle = None if spec["bundle"] is None else read_bundle(spec["bundle"], verify=False)
    if bundle is not None and backend not in WITH_TORCH:
        if backend.startswith("openvino"):
            _wanted("openvino", "The OpenVINO backend", "openvino")
        else:
            _wanted("onnxruntime", "Running ONNX models", "export")
        rules = bundle.preprocessing
        images = rng.integers(0, 256, (batch, *rules.size, rules.channels), dtype=np.uint8)
        return measure(lambda: open_session(bundle.onnx, backend, threads, batch=batch), images, threads,
                       spec["seconds"])
    import torch

    from visus.deploy.backends_torch import on_threads, torch_variant

    size = tuple(spec["size"])
    subject = _Subject("", size, bundle, spec["run"] and Path(spec["run"]), spec["registered"])
    if bundle is not None:
        from visus.deploy.backends_torch import torch_session
        from visus.run.optimize import program_of

        shape = (batch, *bundle.preprocessing.size, bundle.preprocessing.channels)
        images = rng.integers(0, 256, shape, dtype=np.uint8)
        return measure(lambda: torch_session(program_of(bundle), backend, threads), images, threads, spec["seconds"])
    model, rules = subject.model()
    shape = (1, _channels(model, rules), *size)
    del model  # the one that is measured is loaded under the eyes of `measure`
    tensor = torch.from_numpy(rng.standard_normal((batch, *shape[1:]), dtype=np.float32))

    def load() -> Any:
        variant = torch_variant(subject.model()[0], backend, shape)
        return on_threads(variant if rules is None else lambda given: rules.answers(variant, given), threads)

    return measure(load, tensor, threads, spec["seconds"])


def _wanted(package: str, feature: str, extra: str) -> None:
    """Import now, so that its own size does not count as the model's. Raises MissingExtra."""
    import importlib

    try:
        importlib.import_module(package)
    except ImportError:
        raise MissingExtra(feature, extra) from None


# -- decoding and resizing ---------------------------------------------------------------------------------------


def _preparing(subject: _Subject, images: str | os.PathLike[str] | None) -> dict[str, Any] | None:
    """Milliseconds of one image, medians."""
    if subject.bundle is None:
        return None
    from visus.core.images import read_image
    from visus.run.predict import expand

    rules = subject.bundle.preprocessing
    sources: Sequence[Path | bytes] = [_photo()] if images is None else expand(os.fspath(images))[:100]
    decode: list[float] = []
    resize: list[float] = []
    deadline = time.perf_counter() + 2
    while len(decode) < 10 or time.perf_counter() < deadline:
        for source in sources:
            start = time.perf_counter()
            read = read_image(source, background=rules.background)
            middle = time.perf_counter()
            rules.resized_array(read.pixels)
            decode.append(middle - start)
            resize.append(time.perf_counter() - middle)
    of = "a JPEG of 500 x 375 pixels" if images is None else f"{len(sources)} of {printable(os.fspath(images))}"
    return {"images": of, "decode_ms": 1e3 * float(np.median(decode)), "resize_ms": 1e3 * float(np.median(resize))}


def _photo() -> bytes:
    """A JPEG of about 50 KB, as detailed as a photo: noise at several scales."""
    from PIL import Image

    rng, (height, width) = np.random.default_rng(0), PHOTO
    pixels = np.full((height, width, 3), 128.0)
    for step in (5, 25, 125):
        coarse = rng.normal(0, 24, (height // step, width // step, 3))
        pixels += np.repeat(np.repeat(coarse, step, 0), step, 1)
    encoded = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(encoded, "JPEG", quality=90)
    return encoded.getvalue()


# -- output ------------------------------------------------------------------------------------------------------


def bench_table(found: Benchmark) -> Table:
    """As `visus bench` prints it; the bar is the share of the peak."""
    from rich.table import Table

    height, width = found.image_size
    table = Table(title=f"{printable(found.model)}, {height} x {width} px", title_justify="left", box=None,
                  pad_edge=False, title_style="bold")
    for name in ("way", "batch", "threads", "p50 ms", "p90", "p99", "images/s", "MiB", "GFLOP/s", "of the peak"):
        table.add_column(name, justify="left" if name in ("way", "of the peak") else "right", no_wrap=True)
    for row in found.rows:
        m = row.measured
        if m is None:
            continue
        bar = "" if row.fraction is None else f"{row.fraction:4.0%} " + "█" * round(20 * min(row.fraction, 1))
        table.add_row(row.backend, str(row.batch), str(row.threads), f"{m.p50_ms:.2f}", f"{m.p90_ms:.2f}",
                      f"{m.p99_ms:.2f}", f"{m.images_per_s:,.1f}",
                      "" if m.memory_mb is None else f"{m.memory_mb:,.0f}",
                      "" if row.gflops is None else f"{row.gflops:.1f}", bar)
    return table


def bench_notes(found: Benchmark) -> Iterator[str]:
    """What the table does not say."""
    for row in found.rows:
        if row.measured is None:
            yield f"{row.backend}, {row.batch} at once, {row.threads} threads: {printable(row.reason)}"
    peaks = ", ".join(f"{peak / 1e9:.1f} GFLOP/s on {threads} thread{'s' if threads > 1 else ''}"
                      for threads, peak in found.peaks.items())
    yield f"peak: the best float32 matrix product of this run, {peaks}"
    if found.macs is not None:
        yield f"model: {found.macs / 1e6:,.1f} million multiply-adds an image"
    single = next((row.measured for row in found.rows if row.measured is not None and row.batch == 1), None)
    if found.preparing is not None:
        decode, resize = found.preparing["decode_ms"], found.preparing["resize_ms"]
        share = "" if single is None else \
            f", {(decode + resize) / (decode + resize + single.p50_ms):.0%} of an answer from a file"
        yield f"before the model: {decode:.2f} ms to decode and {resize:.2f} ms to resize " \
              f"{found.preparing['images']}{share}"
    for row in found.rows:
        if row.measured is not None and row.measured.joules is not None:
            yield f"energy: {row.measured.joules:.3f} J an image, of the whole processor ({row.backend}, {row.batch} " \
                  f"at once, {row.threads} threads)"
    if found.load > machine.cores():
        yield f"the machine was busy (load {found.load:.1f}): run it again on a quiet one"


@contextmanager
def _quiet_warnings() -> Iterator[None]:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _main(text: str) -> None:
    try:
        with _quiet_warnings():
            answer: dict[str, Any] = _worker(json.loads(text)).to_dict()
    except UserError as error:
        answer = {"error": str(error.problem), "remedy": error.remedy}
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    _main(sys.argv[1])

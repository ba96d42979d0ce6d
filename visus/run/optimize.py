"""visus optimize: the fastest way to compute a run's model, or any module, on this machine."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from visus.core.errors import CheckpointError, MissingExtra, RunError, UserError, printable
from visus.core.files import read_json, sha256
from visus.core.validate import positive, require
from visus.deploy import machine
from visus.deploy.artifact import GOLDEN, MODEL, Bundle, is_bundle, read_bundle
from visus.deploy.backends_torch import on_threads, quick_graph, torch_session, torch_variant
from visus.deploy.golden import read_golden
from visus.deploy.openvino_package import openvino_to_compute
from visus.deploy.optimise import Candidate, Row, Sample, Tuned, thread_counts, tune
from visus.deploy.program import Program
from visus.deploy.session import EXACT, HALF, WITH_TORCH, open_session, session_of_graph
from visus.run.bundle import load_model
from visus.run.display import Display

if TYPE_CHECKING:
    from rich.table import Table

CHECKED = 4  # real images on which candidates are compared with the original
JUDGED = 500  # held-out images of a run by which 8-bit integers are judged
INT8 = "model.int8-{}.onnx"  # by its content, as choices for other machines may name another
_NOT_ASKED = "its first call takes 10 to 80 s; --compile tries it"


@dataclass(frozen=True, eq=False)
class Optimised:
    """The fastest way to compute a model that was found here; calling it computes.

    Of a run or bundle: uint8 [B, H, W, C] -> float32 [B, K] probabilities. Of a module: the tensor that it takes -> the
    one that it gives, without gradients; for other shapes and types than the example's the module itself answers.
    table: a row for each candidate. choice: the row of the fastest. bundle: where the choice is remembered, or None.
    """

    tuned: Tuned
    call: Callable[[Any], Any]
    batch: int
    bundle: Path | None = None
    remembered: bool = False

    @property
    def table(self) -> tuple[Row, ...]:
        return self.tuned.rows

    @property
    def choice(self) -> Row:
        return self.tuned.fastest

    def __call__(self, images: Any) -> Any:
        return self.call(images)

    def __repr__(self) -> str:
        row = self.choice
        return f"Optimised({row.candidate}, {row.threads} thread{'s' if row.threads > 1 else ''}, {row.p50_ms:.2f} ms)"

    def to_dict(self) -> dict[str, Any]:
        return {"machine": machine.machine(), "batch": self.batch, "seconds": round(self.tuned.wall_s, 2),
                "cpu_seconds": round(self.tuned.cpu_s, 2), "busy": self.tuned.busy,
                "bundle": None if self.bundle is None else str(self.bundle), "remembered": self.remembered,
                **self.tuned.record()}


def optimize(model: nn.Module | str | os.PathLike[str], example: Tensor | None = None, *, batch: int = 1,
             threads: int | str = "auto", half: bool = False, int8: bool = False, compiled: bool = False,
             seconds: float = 20.0, progress: bool = False) -> Optimised:
    """Try what is there on this machine (torch, its memory layouts, folded batch norms, onnxruntime, OpenVINO), check
    each for equality with the original, time them in turns, keep the fastest.

    model: a run or bundle (a run without a bundle is exported first), whose choice is then remembered in the bundle,
    for this machine; or a module with `example`, a tensor that it takes, such as rand(1, 3, 224, 224).
    batch: images at once, of a run. threads: 'auto' tries 1, 2, 4, ... and all cores. half: try bfloat16 and float16
    too, on processors that compute them; int8: 8-bit integers, calibrated on training images and judged on test images
    of a run, on the golden images of a bundle: both give other numbers, so their answers must agree with the
    original's, and they are tried when asked only. compiled: try torch.compile too. seconds: of wall time, roughly.

    Raises UserError for wrong values, and what loading raises. A candidate that cannot be built is a row, no error.
    """
    counts = _counts(threads)
    positive(batch=batch)
    require(seconds > 0, "seconds", seconds, "be above 0")
    display = Display(progress)
    if isinstance(model, nn.Module):
        with _status(display) as tell:
            return _of_module(model, example, counts, half, int8, compiled, seconds, tell)
    if example is not None:
        raise UserError("belongs to a module; a run has images of its own", where="example")
    bundle, run = bundle_of(model, display), None if is_bundle(model) else Path(os.fspath(model))
    with _status(display) as tell:
        return _of_bundle(bundle, run, batch, counts, half, int8, compiled, seconds, tell)


@contextmanager
def _status(display: Display) -> Iterator[Callable[[str], None]]:
    """A live line that says what is tried; nothing where the output is no terminal."""
    if not display.live:
        yield lambda _: None
        return
    with display.console.status("optimize") as status:
        yield lambda what: status.update(f"optimize: {what}")


def _counts(threads: int | str) -> tuple[int, ...]:
    if threads == "auto":
        return thread_counts(machine.cores())
    if not isinstance(threads, int) or isinstance(threads, bool) or threads < 1:
        raise UserError("must be auto or at least 1", where=f"threads={threads!r}")
    if threads > machine.cores():
        raise UserError(f"is more than the {machine.cores()} processors that this process may use",
                        where=f"threads={threads}", remedy="Threads would wait for each other: give fewer, or auto")
    return (threads,)


def bundle_of(path: str | os.PathLike[str], display: Display) -> Bundle:
    """The bundle at `path`, or that of the run: exported now where there is none, or an older model in it."""
    if is_bundle(path):
        return read_bundle(path)
    run = Path(os.fspath(path))
    folder = run / "export" / "bundle"
    if is_bundle(folder):
        if _identity(folder / MODEL) == _identity(run / MODEL):
            return read_bundle(folder)
        display.say("bundle", f"{folder} is of an older model")
    if not run.exists():
        raise RunError("there is no such run or bundle", where=run, remedy="Give a run folder, such as runs/photos-1")
    from visus.run.export import export

    display.say("export", f"{run} -> {folder}")
    export(run, out=folder, force=True, progress=display.show)
    return read_bundle(folder)


def _identity(folder: Path) -> tuple[Any, ...]:
    """Of a model/ folder: the weights and the correction of the probabilities."""
    file = folder / "model.json"
    about = read_json(file, error=CheckpointError) if file.is_file() else {}
    return about.get("sha256"), json.dumps(about.get("calibration"), sort_keys=True)


def program_of(bundle: Bundle) -> Program:
    """The torch model of a bundle, from uint8 images to probabilities. Raises RunError where it holds none."""
    if bundle.model_folder is None:
        raise RunError("holds no torch model to compare with", where=bundle.path,
                       remedy="Give the run, or a bundle: visus export RUN --to bundle")
    trained = load_model(bundle.model_folder)
    return Program(trained.model, trained.preprocessing, trained.task, bundle.about.get("calibration")).eval()


def golden_images(bundle: Bundle, count: int) -> np.ndarray:
    """uint8 [count, height, width, channels]: the bundle's real images in order, again from the start where they are
    fewer; random ones of a bundle without any."""
    golden = _golden(bundle)
    if golden is not None:
        return np.resize(golden[0], (count, *golden[0].shape[1:]))
    rules = bundle.preprocessing
    return np.random.default_rng(0).integers(0, 256, (count, *rules.size, rules.channels), dtype=np.uint8)


def _of_bundle(bundle: Bundle, run: Path | None, batch: int, counts: Sequence[int], half: bool, int8: bool,
               compiled: bool, seconds: float, tell: Callable[[str], None]) -> Optimised:
    if bundle.runtime != "onnxruntime":
        raise UserError(f"is made for {bundle.runtime} alone", where=bundle.path,
                        remedy="Give the run, or a bundle: visus export RUN --to bundle")
    if (fixed := bundle.about.get("batch")) and batch not in (1, fixed):
        raise UserError(f"the bundle takes {fixed} images at once", where=f"batch={batch}",
                        remedy="Leave --batch out, or export the run without --fixed-batch")
    batch = int(fixed or batch)
    program = program_of(bundle)
    images, checked = golden_images(bundle, batch), golden_images(bundle, CHECKED)

    def torch_way(name: str) -> Callable[[int], Callable[[Any], Any]]:
        return lambda threads: torch_session(program, name, threads)

    def graph_way(name: str, path: Path) -> Callable[[int], Callable[[Any], Any]]:
        return lambda threads: open_session(path, name, threads, batch=batch)

    candidates = [Candidate(name, torch_way(name), reason=_reason(name, compiled)) for name in WITH_TORCH]
    candidates += [Candidate(name, graph_way(name, bundle.onnx), bundle.about.get("precision", "float32"))
                   for name in EXACT]
    golden = _sample(bundle) if half or int8 else None
    if half:
        candidates += [Candidate(name, graph_way(name, bundle.onnx), "half", sample=golden) for name in HALF]
    if int8:
        candidates += _int8(bundle, run, golden, graph_way, tell)
    tuned = tune(candidates, images, checked, threads=counts, seconds=seconds, tell=tell)
    written = machine.remember(bundle, batch, tuned.record())
    if int8 and written is not None:  # only what was chosen stays
        chosen = machine.chosen_files(bundle)
        for file in bundle.path.glob(INT8.format("*")):
            if file.name not in chosen:
                file.unlink(missing_ok=True)
    return Optimised(tuned, tuned.call, batch, bundle.path, written is not None)


def _int8(bundle: Bundle, run: Path | None, golden: Sample | None,
          way: Callable[[str, Path], Callable[[int], Callable[[Any], Any]]], tell: Callable[[str], None]
          ) -> list[Candidate]:
    """The graph in 8-bit integers in each runtime, quantised for it; where it cannot be made, candidates that say
    why."""
    names = ("onnxruntime int8", "openvino int8")
    reason = None
    if not bundle.path.is_dir():
        reason = "a single file has no images to calibrate with"
    elif bundle.about.get("precision", "float32") != "float32":
        reason = f"the bundle is {bundle.about['precision']} already"
    elif golden is None:
        reason = "the bundle has no golden images to calibrate with"
    if golden is None or reason is not None:
        return [Candidate(name, way(name.partition(" ")[0], bundle.onnx), "int8", reason) for name in names]
    tell("images for 8-bit integers")
    images, sample = _calibration(bundle, run, golden)
    return [_quantised(bundle, name, images, sample, way, tell) for name in names]


def _quantised(bundle: Bundle, name: str, images: Sequence[np.ndarray], sample: Sample,
               way: Callable[[str, Path], Callable[[int], Callable[[Any], Any]]], tell: Callable[[str], None]
               ) -> Candidate:
    from visus.deploy.quantise import QuantiseConfig, quantised, weight_bits_here

    backend, path = name.partition(" ")[0], bundle.path / INT8.format(f"new-{os.getpid()}")
    tell(f"8-bit integers for {backend}")
    try:
        if backend == "openvino":
            openvino_to_compute("The OpenVINO backend")
        runtime = "any" if backend != "openvino" else backend
        quantised(bundle.onnx, path, images,
                  config=QuantiseConfig(weight_bits=weight_bits_here(runtime), runtime=runtime))
    except UserError as error:
        missing = isinstance(error, MissingExtra)
        return Candidate(name, way(backend, path), "int8", str(error.remedy) if missing else error.problem)
    digest = sha256(path)
    path = path.replace(bundle.path / INT8.format(digest[:12]))
    extra = {"file": path.name, "sha256": digest, "precision": "int8"}
    return Candidate(name, way(backend, path), "int8", None, sample, extra)


def _calibration(bundle: Bundle, run: Path | None, golden: Sample) -> tuple[Sequence[np.ndarray], Sample]:
    """Images to calibrate with, and those by which the result is judged: training and test images of a run whose data
    are still there, else the bundle's golden images for both."""
    from visus.run.held_out import of_run, prepared

    if run is not None:
        with suppress(UserError):
            held = of_run(run, JUDGED)
            images = [np.stack(list(prepared(held.samples, index, bundle.preprocessing)))
                      for index in (held.calibration, held.held_out)]
            session = open_session(bundle.onnx)
            return images[0], Sample(images[1], session(images[1]), bundle.task, bundle.thresholds,
                                     np.asarray(held.samples.targets)[held.held_out])
    return golden.images, golden


def _sample(bundle: Bundle) -> Sample | None:
    golden = _golden(bundle)
    return None if golden is None else Sample(*golden, bundle.task, bundle.thresholds)


def _golden(bundle: Bundle) -> tuple[np.ndarray, np.ndarray] | None:
    """The bundle's real images and the original's answers; None of a bundle without."""
    if not bundle.path.is_dir() or not (bundle.path / GOLDEN).is_file():
        return None
    golden = read_golden(bundle.path / GOLDEN)
    return golden.images, golden.probs


def _reason(name: str, compiled: bool) -> str | None:
    return _NOT_ASKED if name == "torch-compile" and not compiled else None


def _of_module(model: nn.Module, example: Tensor | None, counts: Sequence[int], half: bool, int8: bool,
               compiled: bool, seconds: float, tell: Callable[[str], None]) -> Optimised:
    if example is None or not isinstance(example, Tensor) or example.ndim < 1 or not len(example):
        raise UserError("is needed with a module: a tensor that it takes", where="example",
                        remedy="visus.optimize(model, torch.rand(1, 3, 224, 224))")
    if int8:
        raise UserError("needs real images to calibrate with", where="int8=True",
                        remedy="Train and export a run: visus optimize RUN --int8")
    if model.training:
        raise UserError("is in training mode, in which it computes something else", where=type(model).__name__,
                        remedy="Call model.eval() first")
    with torch.inference_mode():
        given = model(example)
    if not isinstance(given, Tensor):
        raise UserError(f"gives a {type(given).__name__}, not one tensor", where=type(model).__name__,
                        remedy="Wrap it in a module whose forward gives the tensor that you need")
    graph: list[bytes | UserError] = []

    def exported() -> bytes:
        if not graph:
            try:
                graph.append(quick_graph(model, example))
            except UserError as error:
                graph.append(error)
        if isinstance(graph[0], UserError):
            raise graph[0]
        return graph[0]

    def graph_way(name: str) -> Callable[[int], Callable[[Any], Any]]:
        def build(threads: int) -> Callable[[Any], Any]:
            session = session_of_graph(exported(), name, threads)
            return lambda images: torch.from_numpy(session(images.detach().contiguous().numpy()))

        return build

    def torch_way(name: str) -> Callable[[int], Callable[[Any], Any]]:
        return lambda threads: on_threads(torch_variant(model, name, tuple(example.shape)), threads)

    candidates = [Candidate(name, torch_way(name), reason=_reason(name, compiled)) for name in WITH_TORCH]
    candidates += [Candidate(name, graph_way(name)) for name in EXACT]
    if half:
        candidates += [Candidate(name, graph_way(name), "half") for name in HALF]
    tuned = tune(candidates, example, _others(example), threads=counts, seconds=seconds, tell=tell)
    plain = on_threads(model, tuned.fastest.threads)

    def call(images: Tensor) -> Tensor:
        fits = images.shape == example.shape and images.dtype == example.dtype and images.device == example.device
        return tuned.call(images) if fits else plain(images)

    return Optimised(tuned, call, len(example))


def _others(example: Tensor) -> Tensor:
    """Other images of the same kind: a graph that was traced with the example may have its answer built in."""
    generator = torch.Generator().manual_seed(0)
    mixed = example.detach().flatten()[torch.randperm(example.numel(), generator=generator)].reshape(example.shape)
    if not mixed.is_floating_point():
        return mixed
    noise = torch.randn(mixed.shape, generator=generator).to(mixed)
    return mixed + 0.1 * mixed.abs().max().clamp_min(0.1) * noise


def optimize_table(found: Optimised) -> Table:
    """What was timed, as `visus optimize` prints it, fastest first. Speed: against torch on as many
    threads."""
    from rich.table import Table

    table = Table(title=f"{found.batch} image{'s' if found.batch > 1 else ''} at once", title_justify="left", box=None,
                  pad_edge=False, title_style="bold")
    sides: tuple[Any, ...] = ("left", "right", "right", "right", "right", "right", "left")
    for name, side in zip(("way", "threads", "p50 ms", "speed", "difference", "build s", ""), sides,
                          strict=True):
        table.add_column(name, justify=side, no_wrap=True)

    def cell(value: float | None, form: str) -> str:
        return "" if value is None else format(value, form)

    for row in sorted((row for row in found.table if row.p50_ms is not None), key=lambda row: row.p50_ms or 0.0):
        table.add_row(row.candidate, str(row.threads), cell(row.p50_ms, ".3f"), cell(row.ratio, ".2f"),
                      cell(row.difference, ".1e"), cell(row.build_s, ".1f"), row.verdict,
                      style="bold green" if row is found.choice else "")
    return table


def left_out(found: Optimised) -> list[str]:
    """A line for each candidate that was not timed, and why."""
    return [f"{row.verdict:<8} {row.candidate} on {row.threads}: {printable(row.reason)}" for row in found.table
            if row.p50_ms is None]

"""visus compress: a smaller net from a trained one, learnt on where it lost something, as a run like any other."""

from __future__ import annotations

import copy
import itertools
import os
import shutil
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from visus.core.device import environment
from visus.core.errors import CheckpointError, Interrupted, MissingExtra, UserError
from visus.core.files import write_json, write_text
from visus.core.meta import on_meta
from visus.core.record import RunFolder
from visus.core.summary import summarise
from visus.core.validate import one_of
from visus.deploy.deep_file import Written, read_deep, write_deep
from visus.deploy.low_rank import low_rank
from visus.deploy.onnx_file import write_onnx
from visus.deploy.program import Program
from visus.deploy.prune_channels import prune_channels
from visus.deploy.prune_weights import HeldAtZero, apply_masks, magnitude_masks, rounds, sparsity
from visus.deploy.quantise_aware import WEIGHT_BITS, Quantised, quantise_aware, ranges
from visus.deploy.surgery import record_of
from visus.deploy.weight_sharing import CONVOLUTION_BITS, FULL_BITS, settle_weights, share_weights
from visus.run.display import Display, Stopwatch
from visus.run.evaluate import finish_run
from visus.run.load import Run
from visus.run.models import create_model
from visus.run.recipe import Recipe
from visus.run.regularise import make_regulariser
from visus.run.retrain import RATE, Source, open_source, retraining_recipe, train_on
from visus.train.checkpoint import CheckpointStore
from visus.train.stop import StopRequest
from visus.train.trainer import Position

METHODS = ("magnitude", "channels", "low-rank", "qat", "distil", "deep")
WITH_AMOUNT = ("magnitude", "channels", "low-rank", "deep")
COPIED = ("splits.csv", "preprocessing.json", "data.json")
RECORD, PICTURE, DEEP = "compress.json", "compress.svg", "model.deep"
INT8 = "int8.onnx"  # of qat: weights of one byte each, scales and zero points of the training
QAT_RATE = 0.01  # of the first training's learning rate
TIMINGS, CALIBRATION_BATCHES, GRADIENT_BATCHES = 30, 8, 8


@dataclass(frozen=True, kw_only=True)
class Options:
    """Of the methods. criterion: of channels: l1, bn, taylor. scope: 'layer' or 'global'; None: the method's own
    (global for weights, layer for channels). rounds: of pruning and learning. energy: low-rank: the share of the
    squared singular values to keep, in place of an amount. layers: low-rank: full, channel, spatial. weight_bits: qat.
    convolution_bits, full_bits: deep: of the indices of shared weights. student: distil: a registered model."""

    criterion: str = "l1"
    scope: str | None = None
    rounds: int = 1
    energy: float | None = None
    layers: tuple[str, ...] = ("full",)
    weight_bits: int = WEIGHT_BITS
    convolution_bits: int = CONVOLUTION_BITS
    full_bits: int = FULL_BITS
    student: str | None = None


@dataclass(frozen=True)
class Compressed:
    """out: where everything lies. runs: one for each amount. record: what compress.json holds: {"method", "source",
    "headline", "rows": [{"name", "headline", "parameters", "nonzero", "macs", "bytes", "latency_ms", ...}]}, the source
    first."""

    out: Path
    runs: tuple[Run, ...]
    record: dict[str, Any]


def compress(run: str | os.PathLike[str], method: str, *, amount: float | Sequence[float] | None = None,
             epochs: int | None = None, out: str | os.PathLike[str] | None = None,
             values: Mapping[str, Any] | None = None, options: Options | None = None, device: str = "auto",
             progress: bool = False, command: Sequence[str] = ()) -> Compressed:
    """Make the net of a run smaller, let it learn on, and compare the two on the test split. The run stays as it is.

    method: 'magnitude', 'channels', 'low-rank', 'qat', 'distil' or 'deep'. amount: the share of the weights, channels
    or multiplications to remove (default 0.5); several: a run for each, in out/amount-A. epochs: of learning on
    (default a quarter of the run's; 0: none). out: folder to create (default RUN-METHOD). values: fields of the recipe
    to change.

    Raises UserError for an option that does not fit, RunError for a run that cannot learn on; nothing is written then.
    """
    options = options or Options()
    one_of(METHODS, method=method)
    amounts = _amounts(method, amount, options)
    source = open_source(os.fspath(run), device)
    display = Display(progress)
    path = Path(os.fspath(out)) if out is not None else _next_folder(source.folder.path, method)
    if path.exists() and any(path.iterdir()):
        raise UserError("exists already", where=path, remedy="Choose another --out")
    if method == "distil":
        return _distil(source, options, epochs, path, dict(values or {}), device, display, command)
    count = max(1, round(int(source.recipe.train.epochs) / 4)) if epochs is None else epochs
    if count < 0:
        raise UserError("must be 0 or more", where=f"epochs={count}")
    slow = {"train.clip_norm": 1.0} if method == "qat" else {}  # no batch norm holds the steps of folded kernels back
    recipe = retraining_recipe(source.recipe, max(1, count), slow | dict(values or {}),
                               rate=QAT_RATE if method == "qat" else RATE)
    runs, rows = [], [_source_row(source)]
    for share in amounts:
        folder = path if len(amounts) == 1 else path / f"amount-{share:g}"
        made, row = _one(source, method, share, count, folder, recipe, options, display, command)
        runs.append(made)
        rows.append(row)
    return Compressed(path, tuple(runs), _write(path, method, source, rows, command))


def _amounts(method: str, amount: float | Sequence[float] | None, options: Options) -> list[float | None]:
    given = [] if amount is None else [amount] if isinstance(amount, int | float) else list(amount)
    if method not in WITH_AMOUNT or options.energy is not None and method == "low-rank":
        if given:
            raise UserError(f"{method} takes no amount" + ("" if options.energy is None else " beside an energy"),
                            where=f"amount={given[0]}", remedy="Leave it out")
        return [None]
    shares: list[float | None] = [float(share) for share in given] or [0.5]
    for share in shares:
        if not 0 < (share or 0) < 1:
            raise UserError("is a share between 0 and 1", where=f"amount={share}")
    if len(set(shares)) < len(shares):
        raise UserError("names one share twice", where=f"amount={given}")
    return shares


# -- one net -----------------------------------------------------------------------------------------------------------


@dataclass
class _Work:
    """One compression under way: the net, and where the log of its learning is."""

    source: Source
    recipe: Recipe
    epochs: int
    options: Options
    amount: float
    folder: RunFolder
    display: Display
    stop: StopRequest
    net: nn.Module
    position: Position
    notes: dict[str, Any]

    def learn(self, masks: Mapping[str, Tensor] | None = None, epochs: int | None = None) -> None:
        """Train on, the masks held; nothing where no epochs were asked for."""
        count = self.epochs if epochs is None else epochs
        if not self.epochs or not count:
            return
        recipe = self.recipe.with_values({"train.epochs": count})
        constraint = None if masks is None else HeldAtZero(masks, make_regulariser(recipe))
        self.position = train_on(self.net, self.source, recipe, self.folder, self.display, self.stop, self.position,
                                 constraint)


def _one(source: Source, method: str, amount: float | None, epochs: int, path: Path, recipe: Recipe, options: Options,
         display: Display, command: Sequence[str]) -> tuple[Run, dict[str, Any]]:
    watch = Stopwatch()
    net = copy.deepcopy(source.trained.model)
    operated = _METHODS[method].begin(source, net, amount or 0.0, options, recipe)  # what cannot be done ends here
    folder = RunFolder.create(path, name=path.name, task=source.trained.task, model=source.trained.name,
                              command=list(command) or ["visus", "compress", str(source.folder.path), "--method",
                                                        method], started_with=list(command))
    folder.lock()
    threads = torch.get_num_threads()
    try:
        recipe.save(folder.path / "recipe.yaml")
        folder.update(recipe=recipe.model_dump(mode="json"), status="running",
                      compressed={"method": method, "amount": amount, "source": str(source.folder.path)})
        folder.write("environment.json", environment() | {"device": str(source.device),
                                                          "precision": recipe.train.precision,
                                                          "layout": recipe.train.layout})
        for name in COPIED:
            if name != "data.json" and (source.folder.path / name).is_file():
                shutil.copyfile(source.folder.path / name, folder.path / name)
        with StopRequest("Start visus compress again, with another --out or fewer --epochs") as stop:
            work = _Work(source, recipe, epochs, options, amount or 0.0, folder, display, stop, operated.net,
                         Position(), dict(operated.notes))
            for sentence in operated.said:
                display.say(method, sentence)
            _METHODS[method].learn(work)
            _finish(work, watch.seconds)
        row = _row(work, method, amount)
    except BaseException as error:
        folder.update(status="interrupted" if isinstance(error, Interrupted) else "failed")
        raise
    finally:
        torch.set_num_threads(threads)
        folder.unlock()
    return Run(folder), row


def _finish(work: _Work, seconds: float) -> None:
    """The net becomes the run's model, is measured, and gets its report."""
    source, net, folder = work.source, work.net.to(work.source.device).eval(), work.folder
    _note_surgery(net, source)
    store = CheckpointStore(folder.path / "checkpoints")
    store.save_best({name: tensor.detach().cpu().contiguous() for name, tensor in net.state_dict().items()})
    shutil.copyfile(source.folder.path / "data.json", folder.path / "data.json")
    quiet = Display(show=False)
    quiet.console.quiet = True  # the table that follows says it
    finish_run(folder, work.recipe, source.samples, source.splits, source.preprocessing, source.task(work.recipe),
               store, work.position, source.device, quiet, seconds, work.stop, net=net)


def _note_surgery(net: nn.Module, source: Source) -> None:
    """The net carries what makes it differ from the one that its config builds; nothing where nothing does."""
    config: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value
                              for name, value in source.trained.about["config"].items() if name != "surgery"}
    with on_meta():
        plain = create_model(source.trained.name, **config)
    record = record_of(net, plain)
    if record:
        net.surgery = record  # type: ignore[assignment]


# -- the methods -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Operated:
    net: nn.Module
    said: tuple[str, ...] = ()
    notes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Method:
    """begin: the net before it learns on; raises UserError where the method does not fit. learn: what follows."""

    begin: Callable[[Source, nn.Module, float, Options, Recipe], _Operated]
    learn: Callable[[_Work], None]


def _begin_weights(source: Source, net: nn.Module, amount: float, options: Options, recipe: Recipe) -> _Operated:
    magnitude_masks(net, amount, options.scope or "global")
    rounds(amount, options.rounds)
    return _Operated(net)


def _learn_weights(work: _Work) -> None:
    """Prune and learn, in rounds; each has its share of the epochs."""
    shares = rounds(work.amount, work.options.rounds)
    for number, share in enumerate(shares):
        masks = magnitude_masks(work.net, share, work.options.scope or "global")
        apply_masks(work.net, masks)
        work.display.say("prune", f"{share:.1%} of the weights are zero")
        last = number == len(shares) - 1
        each = max(1, work.epochs // len(shares))
        work.learn(masks, max(1, work.epochs - each * (len(shares) - 1)) if last else each)
    work.notes["sparsity"] = sparsity(work.net)


def _begin_channels(source: Source, net: nn.Module, amount: float, options: Options, recipe: Recipe) -> _Operated:
    gradients = _gradients(source, net, recipe) if options.criterion == "taylor" else None
    found = prune_channels(net, source.images_shape, amount, criterion=options.criterion,
                           scope=options.scope or "layer", gradients=gradients)
    said = [f"{len(found.removed)} layers are narrower, by {options.criterion}"]
    if found.kept:
        said.append(f"{len(found.kept)} keep their channels, such as {found.kept[0][0]}: {found.kept[0][1]}")
    return _Operated(found.model, tuple(said), {"layers": {name: list(pair) for name, pair in found.removed.items()},
                                                "kept": dict(found.kept)})


def _gradients(source: Source, net: nn.Module, recipe: Recipe) -> dict[str, Tensor]:
    """Of the loss over some training batches, in eval mode."""
    task, parameters = source.task(recipe), dict(net.named_parameters())
    net.to(source.device).eval().zero_grad(set_to_none=True)
    for batch in itertools.islice(source.loader(recipe, "train", True).epoch(0), GRADIENT_BATCHES):
        loss, _ = task.loss(net, batch.to(source.device))
        loss.backward()
    out = {name: torch.zeros_like(p) if p.grad is None else p.grad.detach().clone() for name, p in parameters.items()}
    net.zero_grad(set_to_none=True)
    return out


def _begin_low_rank(source: Source, net: nn.Module, amount: float, options: Options, recipe: Recipe) -> _Operated:
    found = low_rank(net, energy=options.energy, amount=amount if options.energy is None else None,
                     kinds=options.layers)
    return _Operated(found.model, (f"{len(found.ranks)} layers became two of lower rank",),
                     {"ranks": {name: {"rank": rank, "of": most, "energy": share}
                                for name, (rank, most, share) in found.ranks.items()}, "kept": dict(found.kept)})


def _begin_quantised(source: Source, net: nn.Module, amount: float, options: Options, recipe: Recipe) -> _Operated:
    if any(isinstance(module, Quantised) for module in net.modules()):
        raise UserError("rounds its weights already", where=source.folder.path)
    batches = itertools.islice(source.loader(recipe, "train", False).epoch(0), CALIBRATION_BATCHES)
    images = (source.preprocessing.normalise(batch.images) for batch in batches)
    out = quantise_aware(net.cpu(), images, source.images_shape, options.weight_bits)
    count = sum(isinstance(module, Quantised) for module in out.modules())
    return _Operated(out, (f"{count} layers compute with weights of {options.weight_bits} bits and inputs of 8",))


def _learn_quantised(work: _Work) -> None:
    work.learn()
    try:
        known = work.source.preprocessing
        example = torch.zeros((2, *known.size, known.channels), dtype=torch.uint8)
        write_onnx(Program(work.net.cpu(), known, work.source.trained.task), example,
                   work.folder.path / "model" / INT8)
    except (MissingExtra, UserError) as error:
        work.display.say("int8", f"no {INT8} was written: {error}")
    work.notes["ranges"] = {name: {"input": [of.input_low, of.input_high], "bits": of.bits}
                            for name, of in ranges(work.net.eval()).items()}


def _learn_deep(work: _Work) -> None:
    """Prune and learn; share weights and learn the shared values; what is left is written in Huffman's code."""
    _learn_weights(work)
    share_weights(work.net, work.options.convolution_bits, work.options.full_bits)
    work.display.say("share", "weights take few values in each layer, which learn on")
    work.learn()
    settle_weights(work.net)
    path = work.folder.path / "model" / DEEP
    state = {name: tensor.detach().cpu().numpy() for name, tensor in work.net.state_dict().items()}
    written = write_deep(path, state)
    again = read_deep(path)
    if again.keys() != state.keys() or any(not np.array_equal(again[name], state[name]) for name in state):
        raise CheckpointError("does not decode to what was written", where=path)
    work.net.load_state_dict({name: torch.from_numpy(values) for name, values in again.items()}, strict=True)
    work.notes["deep"] = _stages(written)


def _stages(written: Written) -> dict[str, Any]:
    return {"file": written.size, "total": asdict(written.total),
            "layers": {name: asdict(stages) for name, stages in written.layers.items()}}


_METHODS = {"magnitude": _Method(_begin_weights, _learn_weights),
            "channels": _Method(_begin_channels, lambda work: work.learn()),
            "low-rank": _Method(_begin_low_rank, lambda work: work.learn()),
            "qat": _Method(_begin_quantised, _learn_quantised),
            "deep": _Method(_begin_weights, _learn_deep)}


def _distil(source: Source, options: Options, epochs: int | None, path: Path, values: dict[str, Any], device: str,
            display: Display, command: Sequence[str]) -> Compressed:
    """A training of the student from the beginning, taught by the run, with the recipe of the run."""
    from visus.run.train import train

    if options.student is None:
        raise UserError("needs the name of a smaller model", where="method=distil",
                        remedy="Name one: --student resnet20; see visus models")
    given: dict[str, Any] = {"model.name": options.student, "model.config": {}, "model.weights": None,
                             "model.freeze": "none", "distill.teacher": str(source.folder.path.resolve()),
                             "train.epochs": epochs or source.recipe.train.epochs, "device": device}
    made = train(recipe=source.recipe.with_values(given | values), out=path, progress=display.show,
                 command=list(command))
    made.folder.update(compressed={"method": "distil", "amount": None, "source": str(source.folder.path)})
    row = _measured(made.path, made.model, source, f"distil {options.student}", made.folder, None)
    return Compressed(path, (made,), _write(path, "distil", source, [_source_row(source), row], command))


# -- the table ---------------------------------------------------------------------------------------------------------


def _source_row(source: Source) -> dict[str, Any]:
    return _measured(source.folder.path, source.trained.model, source, "before", source.folder, None)


def _row(work: _Work, method: str, amount: float | None) -> dict[str, Any]:
    name = method if amount is None else f"{method} {amount:g}"
    return _measured(work.folder.path, work.net, work.source, name, work.folder, amount) | {"notes": work.notes}


def _measured(path: Path, net: nn.Module, source: Source, name: str, folder: RunFolder,
              amount: float | None) -> dict[str, Any]:
    """A row of the table. bytes: of the file that holds the model, of the .deep or int8 file where there is one.
    latency_ms: of one image on the CPU, eager, as many threads as torch has; None where the net only imitates int8."""
    net = copy.deepcopy(net).cpu().eval()
    weights = next(file for file in (path / "model" / DEEP, path / "model" / INT8, path / "model" / "model.safetensors")
                   if file.is_file())
    metrics = folder.read("metrics.json", {})
    headline = metrics["headline"]["name"]
    imitates = any(isinstance(module, Quantised) for module in net.modules())
    parameters = list(net.parameters())
    return {"name": name, "run": str(path), "amount": amount, "headline": headline,
            "value": metrics["splits"]["test"]["metrics"][headline]["value"],
            "low": metrics["splits"]["test"]["metrics"][headline].get("low"),
            "high": metrics["splits"]["test"]["metrics"][headline].get("high"),
            "parameters": sum(p.numel() for p in parameters),
            "nonzero": sum(int(torch.count_nonzero(p)) for p in parameters),
            "macs": summarise(net, source.images_shape).macs, "bytes": weights.stat().st_size,
            "latency_ms": None if imitates else 1000 * latency(net, source.images_shape)}


@torch.inference_mode()
def latency(net: nn.Module, images_shape: Sequence[int], timings: int = TIMINGS) -> float:
    """Median seconds of a forward pass, after some that are not counted."""
    images = torch.zeros(*images_shape)
    for _ in range(3):
        net(images)
    seconds = []
    for _ in range(timings):
        begun = time.perf_counter()
        net(images)
        seconds.append(time.perf_counter() - begun)
    return statistics.median(seconds)


def _write(path: Path, method: str, source: Source, rows: Sequence[dict[str, Any]],
           command: Sequence[str]) -> dict[str, Any]:
    """compress.json, and the trade-off as a picture."""
    from visus.report.compress import trade_off_svg

    record = {"method": method, "source": str(source.folder.path), "model": source.trained.name,
              "images_shape": list(source.images_shape), "threads": torch.get_num_threads(), "command": list(command),
              "rows": list(rows)}
    write_json(path / RECORD, record)
    write_text(path / PICTURE, trade_off_svg(record))
    return record


def _next_folder(run: Path, method: str) -> Path:
    """RUN-METHOD, or RUN-METHOD-N with the first N from 2 on that is free."""
    first = run.with_name(f"{run.name}-{method}")
    if not first.exists():
        return first
    return next(path for n in itertools.count(2) if not (path := first.with_name(f"{first.name}-{n}")).exists())

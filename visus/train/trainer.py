"""Steps, precision, accumulation, clipping, averaging, checkpoints, early stopping: one loop, no images in it.

Resume is exact: sample order and augmentation are functions of (seed, epoch, sample), so batch n of an epoch is
computed directly; everything else that a later step depends on is in `Trainer.state`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from visus.core.batch import ImageBatch
from visus.core.device import autocast, peak_memory_mb
from visus.core.errors import ResourceError, TrainingDiverged
from visus.core.record import Finding
from visus.optim.clip import adaptive_clip, clipped_parameters
from visus.optim.schedules import Schedule
from visus.train.checkpoint import CheckpointStore, rng_state
from visus.train.clock import NO_CLOCK, Clock
from visus.train.contracts import Averager, BatchSource, Regulariser, Stateful, TrainingTask
from visus.train.engine import Engine
from visus.train.locate import first_nonfinite
from visus.train.mode import same_statistics, train_mode
from visus.train.shared_state import rng_states, save_together, take_rng_state
from visus.train.stop import StopRequest

AGREE_STEPS = 16  # on GPUs: updates between two questions whether to stop or to save


@dataclass(frozen=True, kw_only=True)
class Settings:
    """epochs: passes over the data. accumulate: batches per update. clip_norm: largest gradient norm, or None.
    clip_adaptive: largest gradient of a unit as a share of its weights (optim.clip.adaptive_clip), or None.
    precision: 'fp32', 'bf16' or 'fp16' (with loss scaling). channels_last: layout of images and weights.
    patience: epochs without a better headline before stopping, or None. checkpoint_steps: save every so many updates,
    or None; checkpoint_seconds: and at least so often. log_steps: updates per line of the log. snapshots: epochs, from
    0, after which the weights are kept (`CheckpointStore.save_snapshot`)."""

    epochs: int
    accumulate: int = 1
    clip_norm: float | None = None
    clip_adaptive: float | None = None
    precision: str = "fp32"
    channels_last: bool = False
    patience: int | None = None
    checkpoint_steps: int | None = None
    checkpoint_seconds: float = 300.0
    log_steps: int = 1
    snapshots: frozenset[int] = frozenset()


@dataclass
class Position:
    """How far the run is; part of every checkpoint."""

    epoch: int = 0
    batch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    samples: int = 0
    best: float | None = None
    best_epoch: int | None = None
    stale_epochs: int = 0
    stopped_early: bool = False


@dataclass
class Window:
    """What has been seen since the last line of the log."""

    loss_sum: float = 0.0
    images: int = 0
    wait_s: float = 0.0
    started: float = field(default_factory=time.perf_counter)


@dataclass(frozen=True, slots=True)
class StepReport:
    epoch: int
    step: int
    loss: float
    lr: float
    images_per_s: float
    gradient_norm: float | None
    data_wait_s: float


@dataclass(frozen=True, slots=True)
class EpochReport:
    epoch: int
    step: int
    train_loss: float
    metrics: dict[str, float]
    lr: float
    seconds: float
    images_per_s: float
    peak_memory_mb: float
    is_best: bool


class Observer(Protocol):
    """Sees, never writes: progress display, log, TensorBoard."""

    def on_step(self, report: StepReport) -> None: ...

    def on_epoch(self, report: EpochReport) -> None: ...


class StepWatch(Protocol):
    """Sees an update before it is made, never writes."""

    def before_update(self, losses: Sequence[Tensor], gradient_norm: float | None, data_wait_s: float) -> None:
        """losses: of the batches of this update. gradient_norm: before it was clipped, where it is known.
        data_wait_s: time that the update waited for its batches."""


class Trainer:
    """Runs `settings.epochs` epochs of `batches` and keeps the best weights by the task's headline metric.

    validate(): metrics of the model on the validation split, among them the headline and 'loss'; called with the
    averaged weights in place when there is an `ema`. find(finding): where findings go. remembers: whatever else a later
    step depends on, which goes into each checkpoint. watch: sees each update. clock: sums the time of each part. An
    optimizer with a true `needs_closure` (SAM, L-BFGS) is given a closure: its first call is the evaluation that was
    made already, each later one evaluates the same batches at the weights of that moment, and moves no running
    statistics. engine: how an update is computed,
    by one process (the default) or by several, each of which runs this very loop: they take every step, decision and
    save together, and only the first one writes.
    """

    def __init__(self, model: nn.Module, task: TrainingTask, batches: BatchSource, optimizer: torch.optim.Optimizer,
                 schedule: Schedule, settings: Settings, *, device: torch.device, store: CheckpointStore,
                 validate: Callable[[], dict[str, float]], find: Callable[[Finding], None],
                 ema: Averager | None = None, regulariser: Regulariser | None = None,
                 remembers: Stateful | None = None, observers: Sequence[Observer] = (),
                 stop: StopRequest | None = None, watch: StepWatch | None = None, engine: Engine | None = None,
                 clock: Clock = NO_CLOCK):
        self.model = model
        self.task = task
        self.batches = batches
        self.optimizer = optimizer
        self.schedule = schedule
        self.settings = settings
        self.device = device
        self.store = store
        self.validate = validate
        self.find = find
        self.ema = ema
        self.regulariser = regulariser
        self.remembers = remembers
        self.observers = observers
        self.stop = stop or StopRequest()
        self.watch = watch
        self.engine = engine or Engine(model, task)
        self.clock = clock
        self.world = self.engine.world
        self.position = Position()
        self.scaler = torch.amp.GradScaler(device.type, enabled=settings.precision == "fp16")
        self._unit_clipped = clipped_parameters(model)
        self._unread: list[tuple[Tensor, float]] = []
        self._window = Window()
        self._saved_step = -1
        self._saved_at = time.monotonic()

    # -- the loop ------------------------------------------------------------------------------------------------

    def run(self) -> Position:
        """Train to the end. Raises Interrupted after saving, TrainingDiverged, ResourceError if the last save fails."""
        if self.position.step == 0 and self._saved_step < 0:
            self.save()  # also the trial that the disk takes a checkpoint, before any work is done
        while self.position.epoch < self.settings.epochs and not self.position.stopped_early:
            self._train_epoch()
            self._finish_epoch()
        if self._saved_step != self.position.step:
            self.save()
        return self.position

    def _train_epoch(self) -> None:
        position = self.position
        self._epoch_started, self._epoch_images = time.perf_counter(), 0
        self._window = Window()
        train_mode(self.model)
        batches = self.batches.epoch(position.epoch, position.batch)
        try:
            while True:
                waited = time.perf_counter()
                with self.clock("data"):
                    group = list(islice(batches, self.settings.accumulate))
                if not group:
                    break
                waited = time.perf_counter() - waited
                self._window.wait_s += waited
                norm = self._step(group, waited)
                if position.step % self.settings.log_steps == 0 or position.step == 1:
                    self._report_step(norm)
                stopped, due = self._agreed()
                if stopped:
                    self._stop_here()
                if due:
                    self._save_or_warn()
        finally:
            close = getattr(batches, "close", None)  # a generator frees its workers now, not when it is collected
            if close is not None:
                close()
        position.batch = len(self.batches)  # an interrupted validation resumes there, not in the epoch

    def _step(self, group: list[ImageBatch], waited_s: float) -> float | None:
        """One update from the batches of `group`, each weighted by its samples. Returns the gradient norm if known."""
        settings, position = self.settings, self.position
        self.schedule.apply(position.step)
        samples = self.engine.samples(group)
        with self.clock("to device"):
            group = [batch.to(self.device, non_blocking=True, channels_last=settings.channels_last) for batch in group]
        losses = self._evaluate(group, samples)
        self._unread += [(loss, batch.weight) for loss, batch in zip(losses, group, strict=True)]
        self._last_batch = group[-1]
        if self.device.type != "cuda" or len(self._unread) >= 16:
            self._read_losses()
        with self.clock("clip"):
            if settings.clip_norm is not None or settings.clip_adaptive is not None:
                self.scaler.unscale_(self.optimizer)
            norm = self._clip()
        if self.watch is not None:
            with self.clock("watch"):
                self.watch.before_update(losses, norm, waited_s)
        with self.clock("optimizer"):
            if getattr(self.optimizer, "needs_closure", False):
                self.optimizer.step(self._closure(group, samples, losses))
            else:
                self.scaler.step(self.optimizer)
                self.scaler.update()
        if self.regulariser is not None:
            with self.clock("constrain"):
                self.regulariser.constrain(self.engine.weights)
        self.engine.settle()
        if self.ema is not None:
            with self.clock("average"):
                self.ema.update(self.engine.weights)
        position.step += 1
        position.batch += len(group)
        self._epoch_images += round(samples)
        return norm

    def _evaluate(self, group: list[ImageBatch], samples: float) -> list[Tensor]:
        """Gradients of the mean loss over all samples of the group; -> the mean loss of each batch."""
        self.engine.clear(self.optimizer)
        losses: list[Tensor] = []
        for number, batch in enumerate(group, 1):
            share = self.engine.share(batch, samples)
            with self.engine.together(last=number == len(group)):
                with self.clock("forward"), autocast(self.device, self.settings.precision):
                    loss = self.engine.loss(batch)
                with self.clock("backward"):
                    self.scaler.scale(loss if share == 1 else loss * share).backward()
            losses.append(loss.detach())
        self.engine.collect()
        price = self.regulariser.penalty(self.engine.weights) if self.regulariser is not None else None
        if price is not None:
            self.scaler.scale(price).backward()
        return losses

    def _clip(self) -> float | None:
        """Clip as the settings say; -> the gradient norm before it, where it is known."""
        settings = self.settings
        if settings.clip_adaptive is not None:
            adaptive_clip(self._unit_clipped, settings.clip_adaptive)
        if settings.clip_norm is None:
            return None
        seen = self.watch is not None or self.scaler.is_enabled() or getattr(self.optimizer, "needs_closure", False)
        norm = self.engine.clip(settings.clip_norm, None if seen else self.optimizer)
        if not math.isfinite(norm) and not self.scaler.is_enabled():  # a loss scale that is too large is normal
            self._diverged(f"the gradient norm is {norm}", self._first_bad_gradient())
        return norm

    def _closure(self, group: list[ImageBatch], samples: float, losses: list[Tensor]) -> Callable[[], float]:
        known = [True]

        @torch.enable_grad()
        def closure() -> float:
            found = losses
            if not known:
                with same_statistics(self.model):
                    found = self._evaluate(group, samples)
                self._clip()
            known.clear()
            own = sum(float(loss) * batch.weight for loss, batch in zip(found, group, strict=True))
            total = self.world.sum([own])[0] / samples
            price = self.regulariser.penalty(self.engine.weights) if self.regulariser is not None else None
            return total if price is None else total + float(price)

        return closure

    def _finish_epoch(self) -> None:
        position = self.position
        self._read_losses()
        train_seconds = time.perf_counter() - self._epoch_started
        with self.clock("validation"):
            metrics = self._validate()
        value = metrics.get(self.task.headline, math.nan)
        # a headline that has no value (NaN) never beats one that has, but some weights are always kept
        better = position.best is None or (value > position.best if self.task.higher_is_better
                                           else value < position.best)
        with self.clock("checkpoint"):
            is_best = better and self._save_best()
        if is_best:
            position.best = None if math.isnan(value) else value
            position.best_epoch, position.stale_epochs = position.epoch, 0
        else:
            position.stale_epochs += 1
        report = EpochReport(
            epoch=position.epoch, step=position.step, train_loss=position.loss_sum / max(1, position.samples),
            metrics=metrics, lr=self.optimizer.param_groups[0]["lr"], seconds=train_seconds,
            images_per_s=self._epoch_images / max(1e-9, train_seconds),
            peak_memory_mb=peak_memory_mb(self.device), is_best=is_best)
        for observer in self.observers:
            observer.on_epoch(report)
        if position.epoch in self.settings.snapshots:
            with self.ema.copy_to(self.engine.weights) if self.ema is not None else nullcontext():
                self._write(lambda weights: self.store.save_snapshot(position.epoch, weights))
        patience = self.settings.patience
        position.stopped_early = patience is not None and position.stale_epochs >= patience
        position.epoch, position.batch, position.loss_sum, position.samples = position.epoch + 1, 0, 0.0, 0
        self._saved_step = -1  # the same step, but past its validation
        self._save_or_warn(final=position.epoch >= self.settings.epochs or position.stopped_early)
        stopped = self.stop.requested if self.world.size == 1 else self._agreed_now()
        if stopped and not (position.epoch >= self.settings.epochs or position.stopped_early):
            self._stop_here()

    def _agreed_now(self) -> bool:
        number, = self.world.max([float(self.stop.received or 0)])
        if number:
            self.stop.agree(int(number))
        return bool(number)

    def _validate(self) -> dict[str, float]:
        self.model.eval()
        with self.ema.copy_to(self.engine.weights) if self.ema is not None else nullcontext():
            try:
                return self.validate()
            except StopIteration:  # the stop request was seen between two batches of the evaluation
                pass
        self._stop_here()
        raise AssertionError("unreachable")

    def _report_step(self, norm: float | None) -> None:
        self._read_losses()
        window, now = self._window, time.perf_counter()
        report = StepReport(self.position.epoch, self.position.step, window.loss_sum / max(1, window.images),
                            self.optimizer.param_groups[0]["lr"], window.images / max(1e-9, now - window.started),
                            norm, window.wait_s)
        self._window = Window()
        for observer in self.observers:
            observer.on_step(report)

    # -- states --------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Everything that a later step depends on."""
        return self.engine.state(self.optimizer, self.ema) | {
            "scaler": self.scaler.state_dict(),
            "position": asdict(self.position),
            "rng": rng_state() if self.world.size == 1 else rng_states(self.world),
        } | ({} if self.remembers is None else {"remembered": self.remembers.state_dict()})

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from `state`, to the same bits."""
        self.engine.load(state, self.optimizer, self.ema)
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(state["scaler"])
        if self.remembers is not None:
            self.remembers.load_state_dict(state["remembered"])
        self.position = Position(**state["position"])
        self._saved_step = self.position.step
        take_rng_state(state["rng"], self.world, self.position.step)

    def save(self) -> Path:
        """A verified checkpoint of this very moment; non-finite weights are never written."""
        self._read_losses()
        bad = next((name for name, tensor in self.engine.own_weights().items()
                    if tensor.is_floating_point() and not torch.isfinite(tensor).all()), None)
        if self.world.size > 1:
            bad = next((name for name in self.world.gather(bad) if name is not None), None)
        if bad is not None:
            self._diverged(f"{bad} is not finite", bad.rsplit(".", 1)[0])
        path = save_together(self.store, self.position.step, self.state(), self.world, self.engine.sharded)
        self._saved_step, self._saved_at = self.position.step, time.monotonic()
        return path

    def _agreed(self) -> tuple[bool, bool]:
        """(a stop was requested in any process, a checkpoint is due by the first one's clock): the same for all."""
        if self.world.size == 1:
            return self.stop.requested, self._save_is_due()
        if self.device.type == "cuda" and self.position.step % AGREE_STEPS:  # a word in each step would be waited for
            return False, False
        number, due = self.world.max([float(self.stop.received or 0), float(self.world.leads and self._save_is_due())])
        if number:
            self.stop.agree(int(number))
        return bool(number), bool(due)

    def _save_is_due(self) -> bool:
        every = self.settings.checkpoint_steps
        return (every is not None and self.position.step % every == 0) or \
            time.monotonic() - self._saved_at > self.settings.checkpoint_seconds

    def _save_or_warn(self, final: bool = False) -> None:
        """A full disk does not end a run: older checkpoints stand, the next save tries again. The last must work."""
        try:
            with self.clock("checkpoint"):
                self.save()
        except ResourceError as error:
            if final:
                raise
            self._saved_at = time.monotonic()
            self.find(Finding("checkpoint", "warning", "A checkpoint could not be written", str(error),
                              "Free some space; training goes on and the previous checkpoint is whole",
                              step=self.position.step))

    def _save_best(self) -> bool:
        try:
            with self.ema.copy_to(self.engine.weights) if self.ema is not None else nullcontext():
                self._write(self.store.save_best)
        except ResourceError as error:
            self.find(Finding("checkpoint", "warning", "The best weights could not be written", str(error),
                              "Free some space; the best weights before these are kept", step=self.position.step))
            return False
        return True

    def _write(self, save: Callable[[dict[str, Tensor]], Any]) -> None:
        """Hand the whole weights to `save` in the first process. Raises ResourceError in all where that failed."""
        weights, problem = self.engine.whole_weights(), None
        try:
            if self.world.leads:
                save(weights)
        except ResourceError as error:
            if self.world.size == 1:
                raise
            problem = [error.problem, error.where, error.remedy]
        if (problem := self.world.share(problem)) is not None:
            raise ResourceError(problem[0], where=problem[1], remedy=problem[2])

    def _stop_here(self) -> None:
        saved = True
        try:
            if self._saved_step != self.position.step:
                self.save()
        except ResourceError:
            saved = False
        raise self.stop.interrupted(saved, self.store.folder.parent)

    # -- divergence ----------------------------------------------------------------------------------------------

    def _read_losses(self) -> None:
        """Take in the losses since the last reading: after each step on a CPU, in groups on a GPU, so that no step
        waits for one."""
        unread, self._unread = self._unread, []
        if not unread:
            return
        values = [float(loss) for loss, _ in unread]
        if (bad := next((value for value in values if not math.isfinite(value)), None)) is not None:
            layer, what = first_nonfinite(self.model, self.task, self._last_batch)
        told = [None if bad is None else [f"the loss is {bad}: {what}", layer,
                                          f"Samples of the last batch: {self._last_batch.index.tolist()[:32]}"]]
        if self.world.size > 1:
            told = [None if t is None else [f"rank {rank}: {t[0]}", *t[1:]]
                    for rank, t in enumerate(self.world.gather(told[0]))]
        if (problem := next((t for t in told if t is not None), None)) is not None:
            self._diverged(*problem)
        sums = self.world.sum([number for value, (_, weight) in zip(values, unread, strict=True)
                               for number in (value * weight, weight)])
        for loss, images in zip(sums[::2], sums[1::2], strict=True):
            images = round(images)
            self.position.loss_sum += loss
            self.position.samples += images
            self._window.loss_sum += loss
            self._window.images += images

    def _first_bad_gradient(self) -> str:
        return next((name.rsplit(".", 1)[0] for name, p in self.model.named_parameters()
                     if p.grad is not None and not torch.isfinite(p.grad).all()), "unknown")

    def _diverged(self, problem: str, layer: str, evidence: str = "") -> None:
        self.find(Finding("finite-loss", "error", "Training diverged", f"{problem}. {evidence}".strip(),
                          "Lower the learning rate (--lr), clip gradients (--set train.clip_norm=1), or use fp32",
                          step=self.position.step, layer=layer))
        raise TrainingDiverged(f"{problem} (step {self.position.step}, layer {layer})", where=self.store.folder.parent,
                               remedy="Lower --lr or set train.clip_norm=1; the last good checkpoint is kept")

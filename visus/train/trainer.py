"""Steps, precision, accumulation, clipping, averaging, checkpoints, early stopping: one loop, no images in it.

Resume is exact: sample order and augmentation are functions of (seed, epoch, sample), so batch n of an epoch is
computed directly; everything else that a later step depends on is in `Trainer.state`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from visus.core.batch import ImageBatch
from visus.core.device import peak_memory_mb
from visus.core.errors import ResourceError, TrainingDiverged
from visus.core.record import Finding
from visus.optim.clip import adaptive_clip, clip_gradients, clipped_parameters
from visus.optim.ema import EMA
from visus.optim.schedules import Schedule
from visus.train.checkpoint import CheckpointStore, rng_state, set_rng_state
from visus.train.contracts import BatchSource, Stateful, TrainingTask
from visus.train.locate import first_nonfinite
from visus.train.mode import train_mode
from visus.train.stop import StopRequest


@dataclass(frozen=True, kw_only=True)
class Settings:
    """epochs: passes over the data. accumulate: batches per update. clip_norm: largest gradient norm, or None.
    clip_adaptive: largest gradient of a unit as a share of its weights (optim.clip.adaptive_clip), or None.
    precision: 'fp32', 'bf16' or 'fp16' (with loss scaling). channels_last: layout of images and weights.
    patience: epochs without a better headline before stopping, or None. checkpoint_steps: save every so many updates,
    or None; checkpoint_seconds: and at least so often. log_steps: updates per line of the log."""

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
    step depends on, which goes into each checkpoint. watch: sees each update.
    """

    def __init__(self, model: nn.Module, task: TrainingTask, batches: BatchSource, optimizer: torch.optim.Optimizer,
                 schedule: Schedule, settings: Settings, *, device: torch.device, store: CheckpointStore,
                 validate: Callable[[], dict[str, float]], find: Callable[[Finding], None],
                 ema: EMA | None = None, remembers: Stateful | None = None, observers: Sequence[Observer] = (),
                 stop: StopRequest | None = None, watch: StepWatch | None = None):
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
        self.remembers = remembers
        self.observers = observers
        self.stop = stop or StopRequest()
        self.watch = watch
        self.position = Position()
        self.scaler = torch.amp.GradScaler(device.type, enabled=settings.precision == "fp16")
        self._unit_clipped = clipped_parameters(model)
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._unread: list[tuple[Tensor, int]] = []
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
                group = list(islice(batches, self.settings.accumulate))
                if not group:
                    break
                waited = time.perf_counter() - waited
                self._window.wait_s += waited
                norm = self._step(group, waited)
                if position.step % self.settings.log_steps == 0 or position.step == 1:
                    self._report_step(norm)
                if self.stop.requested:
                    self._stop_here()
                if self._save_is_due():
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
        self.optimizer.zero_grad(set_to_none=True)
        samples = sum(len(batch) for batch in group)
        losses: list[Tensor] = []
        for batch in group:
            batch = batch.to(self.device, non_blocking=True, channels_last=settings.channels_last)
            with self._autocast():
                loss, _ = self.task.loss(self.model, batch)
            self.scaler.scale(loss if len(group) == 1 else loss * (len(batch) / samples)).backward()
            losses.append(loss.detach())
            self._unread.append((losses[-1], len(batch)))
            self._last_batch = batch
        if self.device.type != "cuda" or len(self._unread) >= 16:
            self._read_losses()
        norm = None
        if settings.clip_norm is not None or settings.clip_adaptive is not None:
            self.scaler.unscale_(self.optimizer)
        if settings.clip_adaptive is not None:
            adaptive_clip(self._unit_clipped, settings.clip_adaptive)
        if settings.clip_norm is not None:
            norm = float(clip_gradients(self._parameters, settings.clip_norm))
            if not math.isfinite(norm) and not self.scaler.is_enabled():  # a loss scale that is too large is normal
                self._diverged(f"the gradient norm is {norm}", self._first_bad_gradient())
        if self.watch is not None:
            self.watch.before_update(losses, norm, waited_s)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.ema is not None:
            self.ema.update(self.model)
        position.step += 1
        position.batch += len(group)
        self._epoch_images += samples
        return norm

    def _autocast(self) -> AbstractContextManager[object]:
        if self.settings.precision == "fp32":
            return nullcontext()
        kind = torch.bfloat16 if self.settings.precision == "bf16" else torch.float16
        return torch.autocast(self.device.type, dtype=kind)

    def _finish_epoch(self) -> None:
        position = self.position
        self._read_losses()
        train_seconds = time.perf_counter() - self._epoch_started
        metrics = self._validate()
        value = metrics.get(self.task.headline, math.nan)
        # a headline that has no value (NaN) never beats one that has, but some weights are always kept
        better = position.best is None or (value > position.best if self.task.higher_is_better
                                           else value < position.best)
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
        patience = self.settings.patience
        position.stopped_early = patience is not None and position.stale_epochs >= patience
        position.epoch, position.batch, position.loss_sum, position.samples = position.epoch + 1, 0, 0.0, 0
        self._saved_step = -1  # the same step, but past its validation
        self._save_or_warn(final=position.epoch >= self.settings.epochs or position.stopped_early)
        if self.stop.requested and not (position.epoch >= self.settings.epochs or position.stopped_early):
            self._stop_here()

    def _validate(self) -> dict[str, float]:
        self.model.eval()
        with self.ema.copy_to(self.model) if self.ema is not None else nullcontext():
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
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "ema": self.ema.state_dict() if self.ema is not None else None,
            "position": asdict(self.position),
            "rng": rng_state(),
        } | ({} if self.remembers is None else {"remembered": self.remembers.state_dict()})

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from `state`, to the same bits."""
        self.model.load_state_dict(state["model"], strict=True)
        self.optimizer.load_state_dict(state["optimizer"])
        for parameter, values in self.optimizer.state.items():  # fused kernels want the layout of the parameter
            for name, value in values.items():
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    values[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(state["scaler"])
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"])
        if self.remembers is not None:
            self.remembers.load_state_dict(state["remembered"])
        self.position = Position(**state["position"])
        self._saved_step = self.position.step
        set_rng_state(state["rng"])

    def save(self) -> Path:
        """A verified checkpoint of this very moment; non-finite weights are never written."""
        self._read_losses()
        for name, tensor in self.model.state_dict().items():
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                self._diverged(f"{name} is not finite", name.rsplit(".", 1)[0])
        path = self.store.save(self.position.step, self.state())
        self._saved_step, self._saved_at = self.position.step, time.monotonic()
        return path

    def _save_is_due(self) -> bool:
        every = self.settings.checkpoint_steps
        return (every is not None and self.position.step % every == 0) or \
            time.monotonic() - self._saved_at > self.settings.checkpoint_seconds

    def _save_or_warn(self, final: bool = False) -> None:
        """A full disk does not end a run: older checkpoints stand, the next save tries again. The last must work."""
        try:
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
            with self.ema.copy_to(self.model) if self.ema is not None else nullcontext():
                self.store.save_best(self.model.state_dict())
        except ResourceError as error:
            self.find(Finding("checkpoint", "warning", "The best weights could not be written", str(error),
                              "Free some space; the best weights before these are kept", step=self.position.step))
            return False
        return True

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
        for loss, images in unread:
            value = float(loss)
            if not math.isfinite(value):
                layer, what = first_nonfinite(self.model, self.task, self._last_batch)
                self._diverged(f"the loss is {value}: {what}", layer,
                               f"Samples of the last batch: {self._last_batch.index.tolist()[:32]}")
            self.position.loss_sum += value * images
            self.position.samples += images
            self._window.loss_sum += value * images
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

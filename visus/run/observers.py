"""Observers of a training run: the JSON-lines log, and TensorBoard events where wanted."""

from __future__ import annotations

import importlib.util
from dataclasses import asdict
from pathlib import Path

from visus.core.errors import MissingExtra, ResourceError
from visus.core.record import RunFolder
from visus.train.trainer import EpochReport, StepReport


class LogWriter:
    """log.jsonl. A full disk does not end the training: the log has a gap, the checkpoints tell."""

    def __init__(self, folder: RunFolder):
        self.folder = folder

    def on_step(self, report: StepReport) -> None:
        self._log("step", step=report.step, epoch=report.epoch, loss=report.loss, lr=report.lr,
                  images_per_s=round(report.images_per_s, 2), gradient_norm=report.gradient_norm,
                  data_wait_s=round(report.data_wait_s, 4))

    def on_epoch(self, report: EpochReport) -> None:
        values = asdict(report)
        metrics = values.pop("metrics")
        self._log("epoch", **values, val_loss=metrics.pop("loss", None), metrics=metrics)

    def _log(self, event: str, **values: object) -> None:
        try:
            self.folder.log(event, **values)
        except ResourceError:
            pass


class TensorBoardWriter:
    """Scalars for TensorBoard; needs the extra 'tensorboard'."""

    def __init__(self, folder: Path):
        if importlib.util.find_spec("tensorboard") is None:
            raise MissingExtra("--tensorboard", "tensorboard")
        from torch.utils.tensorboard.writer import SummaryWriter

        self.writer = SummaryWriter(str(folder))

    def on_step(self, report: StepReport) -> None:
        self.writer.add_scalar("loss/train", report.loss, report.step)
        self.writer.add_scalar("lr", report.lr, report.step)
        self.writer.add_scalar("images_per_s", report.images_per_s, report.step)

    def on_epoch(self, report: EpochReport) -> None:
        for name, value in report.metrics.items():
            self.writer.add_scalar(f"val/{name}", value, report.step)
        self.writer.flush()

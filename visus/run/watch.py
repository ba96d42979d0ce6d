"""The doctor's watcher beside a run: findings into the run folder, its full looks into watch.jsonl."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from visus.core.errors import ResourceError
from visus.core.files import finite, write_text
from visus.core.record import Finding, RunFolder
from visus.doctor.watcher import Watcher
from visus.train.trainer import EpochReport, StepReport

FILE = "watch.jsonl"
TOLD_ELSEWHERE = ("finite-loss",)  # by the loop itself, which stops there


class RunWatch:
    """Hands what the loop knows to a `Watcher`. It observes the loop too: at the end of an epoch the file is written.

    find(finding): called once for each finding, also when the run was taken up again. skip: checks to leave out.
    """

    def __init__(self, folder: RunFolder, find: Callable[[Finding], None], *, skip: Sequence[str] = ()):
        self.folder = folder
        self.find = find
        self.skip = (*TOLD_ELSEWHERE, *skip)
        self.watcher: Watcher | None = None
        self.rows: list[dict[str, Any]] = []  # of the run before it was taken up again

    def begin(self, model: nn.Module, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler,
              step: int) -> None:
        """Watch from `step` on; rows of later steps, which will be taken again, are forgotten."""
        self.rows = [row for row in self.folder.events(FILE) if row.get("step", 0) <= step]
        known = {(finding.check, finding.layer) for finding in self.folder.findings()}

        def find(finding: Finding) -> None:
            if (finding.check, finding.layer) not in known:
                self.find(finding)

        self.watcher = Watcher(model, optimizer, find=find, scaler=scaler if scaler.is_enabled() else None, step=step,
                               skip=self.skip)

    def before_update(self, losses: Sequence[Tensor], gradient_norm: float | None, data_wait_s: float) -> None:
        if self.watcher is None:
            return
        for loss in losses:
            self.watcher.loss(loss)
        self.watcher.waited(data_wait_s)
        if gradient_norm is not None:
            self.watcher.gradient_norm(gradient_norm)

    def on_step(self, report: StepReport) -> None:
        pass

    def on_epoch(self, report: EpochReport) -> None:
        self.save()

    def save(self) -> None:
        """All looks so far, written whole. A full disk does not end the training."""
        if self.watcher is None:
            return
        try:
            rows = [*self.rows, *self.watcher.to_rows()]
            write_text(self.folder.path / FILE, "".join(json.dumps(finite(row)) + "\n" for row in rows))
        except ResourceError:
            pass

    def __enter__(self) -> RunWatch:
        return self

    def __exit__(self, *error: object) -> None:
        if self.watcher is not None:
            self.watcher.close()
            self.save()
            if self.watcher.failed is not None:
                self.find(Finding("watcher", "note", "The watcher stopped, the training did not", self.watcher.failed,
                                  "Please report this; the run is not affected", step=self.watcher.step))

"""The model is trained while it is in eval mode.

Dropout does nothing, and batch norm uses running averages that never move. Mostly an evaluation set that mode and
nothing set it back; from the first step on it may be meant (a pretrained net whose statistics are kept), so that is a
warning.
Source: PyTorch's notes on `Module.eval`; reliability.md D10.
"""

from __future__ import annotations

from collections.abc import Iterator

from visus.core.record import Finding
from visus.doctor import add
from visus.doctor.look import Look
from visus.doctor.thresholds import limit


class TrainedInEvalMode:
    def __init__(self) -> None:
        self.row = 0
        self.told = False

    def __call__(self, look: Look) -> Iterator[Finding]:
        if not look.facts.get("watched") or self.told:
            return
        self.row = self.row + 1 if look.facts.get("eval_mode") else 0
        if self.row < limit("trained-in-eval-mode.steps"):
            return
        self.told = True
        after = bool(look.facts.get("was_in_train_mode"))
        since = look.step - self.row + 1
        yield Finding("trained-in-eval-mode", "error" if after else "warning", f"The model trains in eval mode since "
                                                                               f"step "
                      f"{since}", f"{self.row} updates with every batch norm and dropout in eval mode"
                      + ("; before that it was in train mode" if after else ", from the first one on"),
                      "Call model.train() at the start of each epoch, after the evaluation's model.eval(). To keep "
                      "pretrained statistics, put only the batch norm layers in eval mode", step=look.step)


add(TrainedInEvalMode, "trained-in-eval-mode", stage="during", rank=1, cost="nothing: two flags",
    rule="no three updates in a row with the model and all its batch norm and dropout in eval mode",
    course="C2.3, C6.1")

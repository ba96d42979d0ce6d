"""Outputs that no model gave: the loss is asked at them, so that a check needs no table of losses."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from visus.doctor.patient import Loss

Form = Literal["logits", "probabilities", "log-probabilities", "values"]


class Answers:
    """Made-up outputs in the form of `outputs`, and the loss at them. `kind`: classes along axis 1 of the outputs
    [B, C, ...] for integer targets [B, ...]; labels, one output for each target of 0 or 1; values of the targets'
    shape; None where the outputs are none of these."""

    def __init__(self, loss: Loss, outputs: Tensor, targets: Tensor) -> None:
        self.loss, self.outputs, self.targets = loss, outputs.detach(), targets
        self.kind = self._kind()
        self.form = self._form()

    def _kind(self) -> Literal["classes", "labels", "values"] | None:
        outputs, targets = self.outputs, self.targets
        if targets.is_floating_point() or targets.dtype == torch.bool:
            if outputs.shape != targets.shape:
                return None
            return "labels" if bool(((targets == 0) | (targets == 1)).all()) else "values"
        if (outputs.ndim == targets.ndim + 1 and outputs.shape[0] == targets.shape[0] and outputs.shape[1] > 1
                and outputs.shape[2:] == targets.shape[1:] and bool((targets < outputs.shape[1]).all())):
            return "classes"
        return "labels" if outputs.shape == targets.shape and bool(((targets == 0) | (targets == 1)).all()) else None

    def _form(self) -> Form:
        values = self.outputs.double()
        if self.kind == "classes":
            if bool((values >= 0).all()) and float((values.sum(1) - 1).abs().max()) < 1e-4:
                return "probabilities"
            if bool((values <= 0).all()) and float(values.logsumexp(1).abs().max()) < 1e-4:
                return "log-probabilities"
            return "logits"
        if self.kind == "labels":
            if bool(((values >= 0) & (values <= 1)).all()):
                beyond = self.at(torch.full_like(self.outputs, -1.0))  # a logit may be -1, a probability may not
                return "logits" if beyond is not None and math.isfinite(beyond) else "probabilities"
            return "logits"
        return "values"

    def at(self, outputs: Tensor | None) -> float | None:
        """The loss at made-up outputs; None where it does not take them."""
        if outputs is None:
            return None
        try:
            with torch.no_grad():
                return float(self.loss(outputs, self.targets))
        except (RuntimeError, ValueError, TypeError, IndexError, KeyError, AttributeError):
            return None

    def indifferent(self) -> Tensor | None:
        """All classes alike; the mean of the targets for values."""
        outputs = self.outputs
        if self.kind == "classes":
            fill = {"probabilities": 1.0 / outputs.shape[1], "log-probabilities": -math.log(outputs.shape[1])}
            return torch.full_like(outputs, fill.get(self.form, 0.0))
        if self.kind == "labels":
            return torch.full_like(outputs, 0.5 if self.form == "probabilities" else 0.0)
        if self.kind == "values":
            return self.targets.mean(dim=0, keepdim=True).expand_as(outputs).to(outputs.dtype).clone()
        return None

    def by_prior(self) -> Tensor | None:
        """The best answer that does not look at the inputs: each class as often as it occurs."""
        outputs, targets = self.outputs, self.targets
        if self.kind == "classes":
            classes = outputs.shape[1]
            counts = torch.bincount(targets[targets >= 0].flatten(), minlength=classes).to(outputs.dtype)
            share = (counts + 0.5) / (counts.sum() + 0.5 * classes)  # half a sample more: no logarithm of 0
            share = share.view(1, -1, *[1] * (outputs.ndim - 2))
            return (share if self.form == "probabilities" else share.log()).expand_as(outputs).clone()
        if self.kind == "labels":
            share = (targets.to(outputs.dtype).sum(0, keepdim=True) + 0.5) / (len(targets) + 1)
            return (share if self.form == "probabilities" else share.logit()).expand_as(outputs).clone()
        return self.indifferent()

    def right(self, scale: float = 10.0) -> Tensor | None:
        """Logits of +scale where the target is and -scale elsewhere; the targets for values."""
        outputs, targets = self.outputs, self.targets
        if self.kind == "classes":
            logits = torch.full_like(outputs, -scale).scatter_(1, targets.clamp_min(0).unsqueeze(1), scale)
            return {"probabilities": logits.softmax(1), "log-probabilities": logits.log_softmax(1)}.get(self.form,
                                                                                                        logits)
        if self.kind == "labels":
            logits = (2 * targets.to(outputs.dtype) - 1) * scale
            return logits.sigmoid() if self.form == "probabilities" else logits
        return targets.to(outputs.dtype).clone() if self.kind == "values" else None

    def lowest(self) -> float:
        """The smallest loss that right answers of any sureness have: about 0, or what label smoothing leaves."""
        found = [self.at(self.right(scale)) for scale in (0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 20.0)]
        return min((value for value in found if value is not None and math.isfinite(value)), default=0.0)

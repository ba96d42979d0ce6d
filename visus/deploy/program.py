"""A classifier from uint8 pixels to calibrated probabilities as one nn.Module: what every export writes down."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from visus.core.errors import UserError
from visus.core.preprocessing import Preprocessing

SMALLEST_PROB = 1.1754943508222875e-38  # float32's smallest normal; a smaller probability counts as this


class Program(nn.Module):
    """forward: uint8 [B, H, W, C], at the model's size -> probabilities float32 [B, K], as `visus predict` gives them.

    model: takes normalised float images [B, C, H, W], gives logits [B, K]. task: 'classification' (softmax) or
    'multilabel' (sigmoid). calibration: the record that `visus calibrate` wrote, or None.
    """

    def __init__(self, model: nn.Module, preprocessing: Preprocessing, task: str,
                 calibration: Mapping[str, Any] | None = None):
        super().__init__()
        self.model = model
        self.preprocessing = preprocessing
        self.task = task
        self.calibration = calibration_module(calibration)

    def forward(self, images: Tensor) -> Tensor:
        images = images.permute(0, 3, 1, 2).float() / 255  # [B, C, H, W] in [0, 1]
        logits = self.preprocessing.answers(self.model, images).float()
        if self.task == "multilabel":
            return logits.sigmoid()
        probs = logits.softmax(1)
        return probs if self.calibration is None else self.calibration(probs)


def calibration_module(record: Mapping[str, Any] | None) -> nn.Module | None:
    """A record of visus.calibrate as a module: probabilities [B, K] -> corrected ones. Raises UserError for an unknown
    method."""
    if record is None:
        return None
    method = record["method"]
    if method == "temperature":
        return _Scaling(torch.tensor(1 / float(record["temperature"])), torch.tensor(0.0))
    if method == "vector":
        return _Scaling(torch.tensor(record["weights"]), torch.tensor(record["offsets"]))
    if method == "matrix":
        return _Matrix(torch.tensor(record["weights"]), torch.tensor(record["offsets"]))
    if method == "isotonic":
        return _Isotonic(record["knots"], record["values"], float(record["floor"]))
    raise UserError("is not a calibration that can be exported", where=f"method {method!r}",
                    remedy="Fit one of temperature, vector, matrix, isotonic: visus calibrate RUN")


class _Scaling(nn.Module):
    """softmax(w * log p + b)."""

    def __init__(self, weights: Tensor, offsets: Tensor):
        super().__init__()
        self.register_buffer("weights", weights.float())
        self.register_buffer("offsets", offsets.float())
        self.weights: Tensor
        self.offsets: Tensor

    def forward(self, probs: Tensor) -> Tensor:
        return (probs.clamp_min(SMALLEST_PROB).log() * self.weights + self.offsets).softmax(1)


class _Matrix(_Scaling):
    """softmax(W log p + b)."""

    def forward(self, probs: Tensor) -> Tensor:
        return (probs.clamp_min(SMALLEST_PROB).log() @ self.weights.T + self.offsets).softmax(1)


class _Isotonic(nn.Module):
    """A piecewise linear function for each class, as a sum of ramps between its knots; rows divided by their sum.

    Knots are padded to the longest row: [K, M] each; a jump (two equal knots) is taken at its upper value.
    """

    def __init__(self, knots: Any, values: Any, floor: float):
        super().__init__()
        longest = max(len(row) for row in knots)
        at = torch.tensor([list(row) + [row[-1]] * (longest - len(row)) for row in knots], dtype=torch.float64)
        level = torch.tensor([list(row) + [row[-1]] * (longest - len(row)) for row in values], dtype=torch.float64)
        width = at.diff(dim=1)
        self.register_buffer("start", at[:, :-1].float())                      # [K, M - 1]
        self.register_buffer("jump", width <= 0)
        self.register_buffer("inverse", torch.where(width > 0, 1 / width.clamp_min(1e-30), 0).float())
        self.register_buffer("rise", level.diff(dim=1).float())
        self.register_buffer("first", level[:, 0].float())                     # [K]
        self.floor = floor
        self.start: Tensor
        self.jump: Tensor
        self.inverse: Tensor
        self.rise: Tensor
        self.first: Tensor

    def forward(self, probs: Tensor) -> Tensor:
        past = probs[:, :, None] - self.start  # [B, K, M - 1]
        along = torch.where(self.jump, (past >= 0).float(), (past * self.inverse).clamp(0, 1))
        raw = (self.first + (along * self.rise).sum(2)).clamp(self.floor, 1 - self.floor)
        return raw / raw.sum(1, keepdim=True)

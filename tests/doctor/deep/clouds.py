"""Five clouds that a small net learns in a few steps, and the ways in which it does not."""

from __future__ import annotations

from functools import cache

import torch
from torch import nn
from torch.nn import functional as F

from visus.doctor.patient import Patient


class Dropping(nn.Linear):
    def forward(self, x):
        return super().forward(torch.zeros_like(x.flatten(1)))


class Knowing(nn.Module):
    """Reads the answer out of the input, whatever it was taught."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return 5 * x.flatten(1)[:, :5] + 0 * self.scale


@cache
def patient(what="well", *, validation=True, kind="classes"):
    """Five classes of 4 x 4 images: one pixel is brighter. Kept: its runs are remembered."""
    torch.manual_seed(0)
    targets = torch.randint(0, 5, (512,))
    images = 0.7 * torch.randn(512, 16) + 2.0 * F.one_hot(targets, 16).float()
    images = images.view(512, 1, 4, 4)
    loss = F.cross_entropy
    if what == "wrong labels":
        targets = targets.roll(1)
    if kind == "values":
        targets, loss = images.flatten(1)[:, :1] * 1.0, F.mse_loss
        targets = targets.roll(1, 0) if what == "wrong labels" else targets
    if kind == "labels":
        targets, loss = F.one_hot(targets, 5).float(), F.binary_cross_entropy_with_logits
    model = {"dropping": lambda: Dropping(16, 5), "knowing": Knowing}.get(what, lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 1 if kind == "values" else 5)))()
    rate = 1e-7 if what == "slow" else 1e-2
    batches = tuple(zip(images.split(32), targets.split(32), strict=True))
    return Patient(model=model, loss=loss, batches=batches[:8], validation=batches[8:] if validation else (),
                   optimizer=torch.optim.Adam(model.parameters(), lr=rate))

"""Small trainings as people write them, seeded, with a watcher beside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from visus.core.record import Finding
from visus.doctor.look import LayerLook, Look
from visus.doctor.watcher import Watcher


def data(count: int = 256, seed: int = 3) -> tuple[Tensor, Tensor]:
    """Pictures [N, 1, 8, 8] of three classes that a small net can tell apart, and their classes."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (count,), generator=generator)
    centres = torch.randn(3, 1, 8, 8, generator=generator)
    return centres[labels] + 0.7 * torch.randn(count, 1, 8, 8, generator=generator), labels


def net(*, dropout: float = 0.0, norm: bool = True, act: Callable[[], nn.Module] = nn.ReLU) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 8, 3), *([nn.BatchNorm2d(8)] if norm else []), act(), nn.Flatten(),
                         *([nn.Dropout(dropout)] if dropout else []), nn.Linear(8 * 36, 32), act(), nn.Linear(32, 3))


def fit(model: nn.Module, optimizer: torch.optim.Optimizer, loss: nn.Module, *, steps: int, batch: int = 32,
        zero_grad: bool = True, each: Callable[[int], None] = lambda step: None) -> None:
    """The loop of a tutorial. each(step): called before the step."""
    images, labels = data()
    generator = torch.Generator().manual_seed(5)
    for step in range(steps):
        each(step)
        chosen = torch.randint(0, len(images), (batch,), generator=generator)
        if zero_grad:
            optimizer.zero_grad()
        loss(model(images[chosen]), labels[chosen]).backward()
        optimizer.step()


def found(model: nn.Module, *, optimizer: torch.optim.Optimizer | None = None, lr: float = 0.05, steps: int = 40,
          **options: Any) -> dict[str, Finding]:
    """Findings by check of a training with a watcher that looks as often as it likes."""
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr, momentum=0.9)
    loss = nn.CrossEntropyLoss()
    with Watcher(model, optimizer, loss, share=1.0) as watcher:
        fit(model, optimizer, loss, steps=steps, **options)
    assert watcher.failed is None
    return by_check(watcher)


def by_check(watcher: Watcher) -> dict[str, Finding]:
    """The first finding of each check, in their order; the ranked order is that of the keys."""
    out: dict[str, Finding] = {}
    for finding in watcher.findings:
        out.setdefault(finding.check, finding)
    return out


def told(rule: Any, looks: list[Look]) -> list[Finding]:
    """What a rule says of looks, in their order."""
    return [finding for look in looks for finding in rule(look)]


def look(step: int, layers: Mapping[str, LayerLook] | None = None, **values: Any) -> Look:
    """A full look; what is no field of `Look` is a fact."""
    names = ("loss", "gradient_norm", "lr", "samples", "seconds", "waited_s", "full")
    known = {name: values.pop(name) for name in names if name in values}
    return Look(step=step, layers=layers or {}, facts={"watched": True} | values, **({"full": True} | known))

"""Short trainings that stand in for long ones: what a candidate is scored by.

One loop, small and the same for stand-alone candidates and for networks that share weights: SGD with momentum, a cosine
schedule, cross-entropy. The score is the accuracy on images that the training did not see.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visus.core.seeds import permutation
from visus.core.validate import positive, require
from visus.models import registry
from visus.optim.schedules import Schedule, schedule


@dataclass(frozen=True)
class ProxyData:
    """images: [N, C, H, W], normalised, float32; labels: [N], int64."""

    train_images: Tensor
    train_labels: Tensor
    val_images: Tensor
    val_labels: Tensor
    num_classes: int


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How a candidate is trained. model_seed: of its first weights and the order of its images."""

    epochs: int = 3
    batch_size: int = 64
    lr: float = 0.05
    weight_decay: float = 3e-4
    momentum: float = 0.9
    model_seed: int = 0

    def __post_init__(self) -> None:
        positive(epochs=self.epochs, batch_size=self.batch_size)
        require(self.lr > 0, "lr", self.lr, "be above 0")


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """torch's own generator at `seed`, and afterwards where it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def build(name: str, seed: int, **config: object) -> nn.Module:
    """A registered model whose first weights depend on the seed alone."""
    entry = registry.get(name)
    with seeded(seed):
        return entry.build(entry.build.Config(**{**entry.variant, **config}))


def fit(model: nn.Module, images: Tensor, labels: Tensor, protocol: Protocol,
        forward: Callable[[Tensor], Tensor] | None = None) -> None:
    """Train in place. forward: images -> logits, the model itself by default; it may choose other paths each time."""
    forward = forward or model
    count, size = len(images), min(protocol.batch_size, len(images))
    per_epoch = count // size
    optimizer = torch.optim.SGD(model.parameters(), protocol.lr, protocol.momentum, nesterov=protocol.momentum > 0,
                                weight_decay=protocol.weight_decay)
    rate = Schedule(optimizer, schedule("cosine", protocol.epochs * per_epoch))
    model.train()
    for epoch in range(protocol.epochs):
        order = torch.from_numpy(permutation(count, protocol.model_seed, "proxy", epoch))
        for number in range(per_epoch):
            picks = order[number * size:(number + 1) * size]
            rate.apply(epoch * per_epoch + number)
            optimizer.zero_grad()
            F.cross_entropy(forward(images[picks]), labels[picks]).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor, batch_size: int = 512) -> float:
    """Share of images whose largest logit is their label, in eval mode."""
    model.eval()
    right = sum((model(batch).argmax(1) == truth).sum().item()
                for batch, truth in zip(images.split(batch_size), labels.split(batch_size), strict=True))
    return right / len(images)


def train_and_score(model: nn.Module, data: ProxyData, protocol: Protocol) -> float:
    """Validation accuracy after training; 0 for a training that diverged."""
    fit(model, data.train_images, data.train_labels, protocol)
    if not all(parameter.isfinite().all() for parameter in model.parameters()):
        return 0.0
    return accuracy(model, data.val_images, data.val_labels)

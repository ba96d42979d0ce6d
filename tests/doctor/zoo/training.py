"""A training as a person wrote it, and the doctor looking at it as that person would call it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import visus.data
from visus.core.record import Finding
from visus.doctor.diagnosis import Diagnosis, checks, diagnose, ranked, run_checks
from visus.doctor.image_set import ImageSet
from visus.doctor.watcher import Watcher

DIGITS = Path(visus.data.__file__).parent / "builtin" / "digits.npz"
MEAN, STD = 77.8 / 255, 95.9 / 255  # of the digits' pixels


@dataclass(kw_only=True)
class Training:
    """model, loader, loss, optimizer, validation, schedule: a person's own. loop(training, watcher) trains with them.
    images: what the data set looks like on disk. known: fields of `Patient` that the person can tell. deep: the person
    asks for the controls too."""

    model: nn.Module
    loader: Iterable[Any]
    loss: Callable[[Any, Tensor], Tensor]
    optimizer: torch.optim.Optimizer
    validation: Iterable[Any] | None = None
    epochs: int = 4
    loop: Callable[[Training, Any], None] = field(default_factory=lambda: plain_loop)
    schedule: Any = None
    images: ImageSet | None = None
    known: dict[str, Any] = field(default_factory=dict)
    deep: bool = False


@dataclass(frozen=True)
class Case:
    """build: makes the training, seeded. right: checks whose finding is a right answer, the ideal one first; empty for
    a healthy training. slow: not part of the default run."""

    name: str
    build: Callable[[], Training]
    right: tuple[str, ...] = ()
    slow: bool = False

    def training(self) -> Training:
        torch.manual_seed(1)
        return self.build()


@dataclass(frozen=True)
class Outcome:
    """What the doctor said of one case. left_out: checks that could not run, and why. seconds: of the processor, for
    the checks and the training together."""

    case: Case
    findings: tuple[Finding, ...]
    left_out: Mapping[str, str]
    seconds: float

    @property
    def named(self) -> bool:
        """One of the right answers is among the first two findings, and more than a note."""
        return any(finding.check in self.case.right and finding.severity != "note" for finding in self.findings[:2])

    @property
    def alarms(self) -> tuple[Finding, ...]:
        """What is worse than a note."""
        return tuple(finding for finding in self.findings if finding.severity != "note")


def examine_training(training: Training) -> list[Finding]:
    """The doctor before, the person's own loop with a watcher, the doctor on the images: everything, ranked."""
    return ranked(finding for diagnosis in diagnoses(training) for finding in diagnosis.findings)


def diagnoses(training: Training) -> Iterator[Diagnosis]:
    yield diagnose(training.model, training.loader, training.loss, optimizer=training.optimizer,
                   validation=training.validation, deep=training.deep, **training.known)
    watcher = Watcher(training.model, training.optimizer, training.loss, share=1.0)  # a look costs a step of such nets
    try:
        training.loop(training, watcher)
    except (RuntimeError, ValueError, IndexError):  # the person's training stops with an error
        pass
    yield watcher.diagnosis()
    if training.images is not None:
        yield run_checks(checks("images"), lambda entry: entry.build(training.images), budget_s=20.0)


def outcome(case: Case) -> Outcome:
    """One case, examined."""
    start = time.process_time()
    with torch.random.fork_rng(devices=[]):
        made = list(diagnoses(case.training()))
    return Outcome(case, tuple(ranked(finding for diagnosis in made for finding in diagnosis.findings)),
                   {name: why for diagnosis in made for name, why in diagnosis.left_out.items()},
                   time.process_time() - start)


# the loop


def plain_loop(training: Training, watcher: Any) -> None:
    """The loop of every tutorial: train an epoch, validate, tell both."""
    for _ in range(training.epochs):
        training.model.train()
        total = count = 0.0
        for inputs, targets in training.loader:
            training.optimizer.zero_grad()
            loss = training.loss(training.model(inputs), targets)
            loss.backward()
            training.optimizer.step()
            total, count = total + loss.item(), count + 1
        if training.schedule is not None:
            training.schedule.step()
        tell(training, watcher, total / max(count, 1))


def compared_loop(training: Training, watcher: Any) -> None:
    """As the plain one; at each epoch's end the training images are measured like those of validation."""
    class Both:
        def epoch(self, **measures: float) -> None:
            loss, right = measured(training, training.loader)
            watcher.epoch(clean_train_loss=loss, clean_train_accuracy=right, **measures)

    plain_loop(training, Both())


def tell(training: Training, watcher: Any, train_loss: float) -> None:
    """End of an epoch: validation, in eval mode, and what it gave."""
    if training.validation is None:
        watcher.epoch(train_loss=train_loss)
        return
    loss, right = measured(training, training.validation)
    watcher.epoch(train_loss=train_loss, val_loss=loss, **({} if right is None else {"accuracy": right}))


@torch.no_grad()
def measured(training: Training, batches: Iterable[Any]) -> tuple[float, float | None]:
    """(loss, accuracy where there are classes), in eval mode."""
    training.model.eval()
    seen = [(training.model(inputs), targets) for inputs, targets in batches]
    loss = float(np.mean([float(training.loss(outputs, targets)) for outputs, targets in seen]))
    if seen[0][1].dtype != torch.int64:
        return loss, None
    return loss, float(torch.cat([outputs.argmax(1) == targets for outputs, targets in seen]).float().mean())


# data


def digits(*, normalised: bool = True) -> tuple[Tensor, Tensor]:
    """Real handwritten digits in seeded random order: float [1797, 1, 8, 8] and int64 [1797]."""
    with np.load(DIGITS) as file:
        images, labels = file["images"], file["labels"]
    order = np.random.Generator(np.random.PCG64(7)).permutation(len(images))
    pixels = torch.tensor(images[order], dtype=torch.float32)[:, None] / 255
    if normalised:
        pixels = (pixels - MEAN) / STD
    return pixels, torch.tensor(labels[order], dtype=torch.int64)


@dataclass
class Batches:
    """Batches of tensors that are in memory anyway."""

    inputs: Tensor
    targets: Tensor
    batch: int = 64
    shuffle: bool = False

    def __len__(self) -> int:
        return -(-len(self.inputs) // self.batch)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self.inputs)) if self.shuffle else torch.arange(len(self.inputs))
        for chosen in order.split(self.batch):
            yield self.inputs[chosen], self.targets[chosen]


def digit_loaders(batch: int = 64, *, train: int = 1024, held: int = 400,
                  change: Callable[[Tensor], Tensor] = lambda x: x) -> tuple[Batches, Batches]:
    """(training, validation) of digits. change: of the images of both."""
    images, labels = digits()
    images = change(images)
    return (Batches(images[:train], labels[:train], batch, shuffle=True),
            Batches(images[-held:], labels[-held:], 200))


def stripes(count: int, *, classes: int = 4, size: int = 12, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Colour pictures of stripes in one of `classes` directions, in warm colours, any phase, width and contrast:
    uint8 [N, size, size, 3] and int64 [N]."""
    rng = np.random.Generator(np.random.PCG64(seed))
    labels = rng.integers(0, classes, count)
    angle = np.pi * labels / classes + rng.normal(0, 0.08, count)
    width, phase = rng.uniform(3.2, 5.0, count), rng.uniform(0, 2 * np.pi, count)
    y, x = np.mgrid[0:size, 0:size]
    along = np.cos(angle)[:, None, None] * x + np.sin(angle)[:, None, None] * y  # [N, size, size]
    wave = np.sin(2 * np.pi * along / width[:, None, None] + phase[:, None, None])[..., None]
    base = np.array([150, 105, 60]) + rng.normal(0, 18, (count, 1, 1, 3))
    colour = rng.uniform(20, 50, (count, 1, 1, 3))
    pixels = base + colour * wave + rng.normal(0, 8, (count, size, size, 3))
    return np.clip(pixels, 0, 255).astype(np.uint8), labels.astype(np.int64)


STRIPES_MEAN, STRIPES_STD = (0.588, 0.412, 0.236), (0.128, 0.128, 0.126)


def as_inputs(pixels: np.ndarray) -> Tensor:
    """uint8 [N, H, W, 3] -> normalised float [N, 3, H, W]."""
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (STRIPES_MEAN, STRIPES_STD))
    return (torch.tensor(pixels).permute(0, 3, 1, 2).float() / 255 - mean) / std


def image_set(pixels: np.ndarray, labels: np.ndarray, split: np.ndarray, **known: Any) -> ImageSet:
    """A data set on disk: pixels uint8 [N, H, W] or [N, H, W, C], labels [N], split [N]."""
    names = tuple(f"{part}/{number:05d}.png" for number, part in enumerate(split))
    known = {"classes": tuple(str(k) for k in range(int(labels.max()) + 1)),
             "sizes": np.tile(np.array(pixels.shape[1:3], dtype=np.int64), (len(pixels), 1)),
             "read": lambda i: pixels[i]} | known
    return ImageSet(labels=labels, split=split, sources=names, **known)


# nets


def cnn(width: int = 8, *, norm: bool = True, channels: int = 1, classes: int = 10,
        act: Callable[[], nn.Module] = nn.ReLU) -> nn.Sequential:
    """Two convolutions with a pool between them, mean over places, one linear layer."""
    def block(before: int, after: int) -> list[nn.Module]:
        return [nn.Conv2d(before, after, 3, padding=1, bias=not norm), *([nn.BatchNorm2d(after)] if norm else []),
                act()]

    return nn.Sequential(*block(channels, width), nn.MaxPool2d(2), *block(width, 2 * width), nn.AdaptiveAvgPool2d(2),
                         nn.Flatten(), nn.Linear(8 * width, classes))


def mlp(*widths: int, act: Callable[[], nn.Module] = nn.ReLU, dropout: float = 0.0) -> nn.Sequential:
    """mlp(64, 32, 10): flatten, then linear layers with `act` between them."""
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in zip(widths[:-1], widths[1:], strict=True):
        layers += [nn.Linear(before, after), act()] + ([nn.Dropout(dropout)] if dropout else [])
    return nn.Sequential(*layers[:len(layers) - (2 if dropout else 1)])


class SmallVit(nn.Module):
    """Patches of 2 x 2 pixels -> tokens -> transformer blocks -> mean -> classes. [B, 1, 8, 8] -> [B, classes]."""

    def __init__(self, dim: int = 32, depth: int = 2, classes: int = 10):
        super().__init__()
        self.embed = nn.Conv2d(1, dim, 2, 2)
        self.positions = nn.Parameter(torch.randn(1, 16, dim) * 0.02)
        block = nn.TransformerEncoderLayer(dim, 4, 2 * dim, dropout=0.0, activation="gelu", batch_first=True,
                                           norm_first=True)
        self.blocks = nn.TransformerEncoder(block, depth, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, classes)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.embed(images).flatten(2).transpose(1, 2) + self.positions  # [B, 16, dim]
        return self.head(self.norm(self.blocks(tokens)).mean(1))


class RowReader(nn.Module):
    """A recurrent net that reads an image row by row. [B, 8, 8] -> [B, classes]."""

    def __init__(self, kind: Callable[..., nn.RNNBase] = nn.LSTM, hidden: int = 32, classes: int = 10, **options: Any):
        super().__init__()
        self.cell = kind(8, hidden, batch_first=True, **options)
        self.head = nn.Linear(hidden, classes)

    def forward(self, rows: Tensor) -> Tensor:
        return self.head(self.cell(rows)[0][:, -1])


class Residual(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.second = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        nn.init.zeros_(self.norm2.weight)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.norm2(self.second(F.relu(self.norm1(self.first(x))))))


def resnet(width: int = 12, blocks: int = 2, *, channels: int = 1, classes: int = 10) -> nn.Sequential:
    stem = [nn.Conv2d(channels, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*stem, *[Residual(width) for _ in range(blocks)], nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(width, classes))


class Classifier(nn.Module):
    """Backbone and head apart, as those do who exchange the head."""

    def __init__(self, backbone: nn.Module, features: int, classes: int):
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(features, classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.backbone(images))


def pretrained(steps: int = 60, *, norm: bool = True, width: int = 8) -> Classifier:
    """A net that has learnt digits 0 to 4."""
    images, labels = digits()
    keep = labels < 5
    model = Classifier(cnn(width, norm=norm)[:-1], 8 * width, 5)
    fit(model, images[keep], labels[keep], steps)
    return model


def fit(model: nn.Module, inputs: Tensor, targets: Tensor, steps: int, lr: float = 3e-3, batch: int = 64) -> None:
    """Some steps of Adam, to have trained weights to begin with."""
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    for _ in range(steps):
        chosen = torch.randint(0, len(inputs), (batch,))
        optimizer.zero_grad()
        F.cross_entropy(model(inputs[chosen]), targets[chosen]).backward()
        optimizer.step()

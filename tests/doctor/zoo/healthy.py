"""Trainings with nothing wrong: the doctor may make notes of them, and say nothing worse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.doctor.zoo.training import (
    Batches,
    Case,
    Classifier,
    Residual,
    RowReader,
    SmallVit,
    Training,
    as_inputs,
    cnn,
    digit_loaders,
    digits,
    fit,
    image_set,
    mlp,
    plain_loop,
    pretrained,
    resnet,
    stripes,
    tell,
)

HEALTHY: dict[str, Case] = {}


def healthy(build: Callable[[], Training] | None = None, *, slow: bool = False) -> Any:
    """Register a training that learns."""
    def add(build: Callable[[], Training]) -> Callable[[], Training]:
        HEALTHY[build.__name__] = Case(build.__name__, build, slow=slow)
        return build

    return add if build is None else add(build)


def rows_of(images: Tensor) -> Tensor:
    """[B, 1, 8, 8] -> [B, 8, 8]: the rows of an image as a sequence."""
    return images[:, 0]


@healthy
def cnn_batch_norm_adam() -> Training:
    loader, held = digit_loaders(64)
    model = cnn(8)
    return Training(model=model, loader=loader, validation=held, loss=nn.CrossEntropyLoss(), epochs=6,
                    optimizer=torch.optim.Adam(model.parameters(), lr=3e-3))


@healthy(slow=True)
def cnn_without_norm_momentum() -> Training:
    loader, held = digit_loaders(32)
    model = cnn(8, norm=False)
    return Training(model=model, loader=loader, validation=held, loss=nn.CrossEntropyLoss(), epochs=6,
                    optimizer=torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9))


@healthy
def cnn_wide_batch_adamw() -> Training:
    loader, held = digit_loaders(128, train=1280)
    model = cnn(8, act=nn.SiLU)
    return Training(model=model, loader=loader, validation=held, loss=nn.CrossEntropyLoss(), epochs=8,
                    optimizer=torch.optim.AdamW(model.parameters(), lr=6e-3, weight_decay=0.05))


@healthy
def mlp_relu_adam() -> Training:
    loader, held = digit_loaders(64)
    model = mlp(64, 48, 48, 10)
    return Training(model=model, loader=loader, validation=held, loss=nn.CrossEntropyLoss(), epochs=8,
                    optimizer=torch.optim.Adam(model.parameters(), lr=2e-3))


@healthy
def mlp_tanh_momentum() -> Training:
    loader, held = digit_loaders(32)
    model = mlp(64, 48, 48, 10, act=nn.Tanh)
    return Training(model=model, loader=loader, validation=held, loss=nn.CrossEntropyLoss(), epochs=8,
                    optimizer=torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9))


@healthy
def mlp_gelu_adamw() -> Training:
    loader, held = digit_loaders(64)
    model = mlp(64, 48, 48, 10, act=nn.GELU)
    return Training(model=model, loader=loader, validation=held, loss=nn.CrossEntropyLoss(), epochs=8,
                    optimizer=torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-2))


@healthy
def mlp_dropout() -> Training:
    loader, held = digit_loaders(64)
    model = mlp(64, 96, 96, 10, dropout=0.4)
    return Training(model=model, loader=loader, validation=held, loss=nn.CrossEntropyLoss(), epochs=10,
                    optimizer=torch.optim.Adam(model.parameters(), lr=3e-3))


@healthy
def linear_softmax() -> Training:
    loader, held = digit_loaders(64)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    return Training(model=model, loader=loader, validation=held, loss=nn.CrossEntropyLoss(), epochs=8,
                    optimizer=torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9))


@healthy
def vit_warm_up_adamw() -> Training:
    loader, held = digit_loaders(64)
    model = SmallVit(16, 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=8e-3, weight_decay=0.05)
    warm = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, 1.0, 16)
    fall = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 12 * 16 - 16)
    schedule = torch.optim.lr_scheduler.SequentialLR(optimizer, [warm, fall], [16])
    return Training(model=model, loader=loader, validation=held, loss=nn.CrossEntropyLoss(), epochs=12,
                    optimizer=optimizer, schedule=schedule, loop=schedule_each_step)


def schedule_each_step(training: Training, watcher: Any) -> None:
    for _ in range(training.epochs):
        training.model.train()
        losses = []
        for inputs, targets in training.loader:
            training.optimizer.zero_grad()
            loss = training.loss(training.model(inputs), targets)
            loss.backward()
            nn.utils.clip_grad_norm_(training.model.parameters(), 5.0)
            training.optimizer.step()
            training.schedule.step()
            losses.append(loss.item())
        tell(training, watcher, float(np.mean(losses)))


@healthy
def rnn_tanh_clipped() -> Training:
    images, labels = digits()
    rows = rows_of(images)
    model = RowReader(nn.RNN, 40)
    optimizer = torch.optim.Adam(model.parameters(), lr=4e-3)
    return Training(model=model, loader=Batches(rows[:1024], labels[:1024], 64, shuffle=True),
                    validation=Batches(rows[1400:], labels[1400:], 200), loss=nn.CrossEntropyLoss(), epochs=10,
                    optimizer=optimizer, schedule=torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, 160),
                    loop=schedule_each_step)


@healthy
def lstm_adam() -> Training:
    images, labels = digits()
    rows = rows_of(images)
    model = RowReader(nn.LSTM, 32)
    return Training(model=model, loader=Batches(rows[:1024], labels[:1024], 64, shuffle=True),
                    validation=Batches(rows[1400:], labels[1400:], 200), loss=nn.CrossEntropyLoss(), epochs=10,
                    optimizer=torch.optim.Adam(model.parameters(), lr=1e-2))


@healthy(slow=True)
def gru_adamw() -> Training:
    images, labels = digits()
    rows = rows_of(images)
    model = RowReader(nn.GRU, 32)
    return Training(model=model, loader=Batches(rows[:1024], labels[:1024], 32, shuffle=True),
                    validation=Batches(rows[1400:], labels[1400:], 200), loss=nn.CrossEntropyLoss(), epochs=7,
                    optimizer=torch.optim.AdamW(model.parameters(), lr=5e-3))


@healthy(slow=True)
def residual_net_cosine() -> Training:
    loader, held = digit_loaders(32)
    model = resnet(12, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
    return Training(model=model, loader=loader, validation=held, loss=nn.CrossEntropyLoss(label_smoothing=0.1),
                    epochs=6, optimizer=optimizer, schedule=torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 6))


@healthy
def one_cycle() -> Training:
    loader, held = digit_loaders(64)
    model = cnn(8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.2, epochs=7, steps_per_epoch=len(loader))
    return Training(model=model, loader=loader, validation=held, loss=nn.CrossEntropyLoss(), epochs=7,
                    optimizer=optimizer, schedule=schedule, loop=schedule_each_step)


@healthy
def fine_tuned_with_a_new_head() -> Training:
    model = pretrained()
    model.head = nn.Linear(64, 10)
    loader, held = digit_loaders(64)
    optimizer = torch.optim.AdamW([{"params": model.backbone.parameters(), "lr": 1e-3},
                                   {"params": model.head.parameters(), "lr": 5e-3}])
    return Training(model=model, loader=loader, validation=held, loss=nn.CrossEntropyLoss(), epochs=6,
                    optimizer=optimizer, known={"pretrained": True})


@healthy
def frozen_backbone_on_purpose() -> Training:
    model = pretrained(80)
    model.head = nn.Linear(64, 10)
    model.backbone.requires_grad_(False)
    loader, held = digit_loaders(64)
    return Training(model=model, loader=loader, validation=held, loss=nn.CrossEntropyLoss(), epochs=8,
                    optimizer=torch.optim.Adam(model.head.parameters(), lr=1e-2),
                    known={"pretrained": True, "frozen_on_purpose": True})


@healthy
def several_labels() -> Training:
    """Is it even, does it have a closed loop, is it above four, is it a prime?"""
    images, labels = digits()
    table = torch.tensor([[1, 1, 0, 0], [0, 0, 0, 0], [1, 0, 0, 1], [0, 0, 0, 1], [1, 0, 0, 0],
                          [0, 0, 1, 1], [1, 1, 1, 0], [0, 0, 1, 1], [1, 1, 1, 0], [0, 1, 1, 0]]).float()
    answers = table[labels]
    model = cnn(8, classes=4)
    return Training(model=model, loader=Batches(images[:1024], answers[:1024], 64, shuffle=True),
                    validation=Batches(images[1400:], answers[1400:], 200), loss=nn.BCEWithLogitsLoss(), epochs=6,
                    optimizer=torch.optim.Adam(model.parameters(), lr=3e-3))


@healthy
def regression() -> Training:
    """Where is the ink's centre, in standard units?"""
    images, _ = digits(normalised=False)
    y, x = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    centre = torch.stack([(images[:, 0] * axis).sum((1, 2)) / images[:, 0].sum((1, 2)) for axis in (x, y)], 1)
    centre = (centre - centre.mean(0)) / centre.std(0)
    images = digits()[0]
    model = mlp(64, 48, 48, 2)
    return Training(model=model, loader=Batches(images[:1024], centre[:1024], 32, shuffle=True),
                    validation=Batches(images[1400:], centre[1400:], 200), loss=nn.MSELoss(), epochs=8,
                    optimizer=torch.optim.Adam(model.parameters(), lr=3e-3))


@healthy
def hinge() -> Training:
    loader, held = digit_loaders(64)
    model = mlp(64, 32, 10)
    return Training(model=model, loader=loader, validation=held, loss=nn.MultiMarginLoss(), epochs=8,
                    optimizer=torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9, weight_decay=1e-4))


@healthy(slow=True)
def augmented_stripes() -> Training:
    pixels, labels = stripes(900)
    images, answers = as_inputs(pixels), torch.tensor(labels)
    model = cnn(8, channels=3, classes=4)
    views = torch.stack([jittered(images[:8]) for _ in range(16)], 1)  # [8, 16, 3, 12, 12]
    loader = Augmented(images[:640], answers[:640], 32)
    return Training(model=model, loader=loader, validation=Batches(images[640:], answers[640:], 130),
                    loss=nn.CrossEntropyLoss(), epochs=10, optimizer=torch.optim.Adam(model.parameters(), lr=5e-3),
                    known={"augmented": views, "expected_mean": (0.0, 0.0, 0.0), "expected_std": (1.0, 1.0, 1.0)})


def jittered(images: Tensor) -> Tensor:
    """Shifted by up to 1 px, brighter or darker. [B, C, H, W]"""
    padded = F.pad(images, (1, 1, 1, 1), mode="reflect")
    size = images.shape[-1]
    places = torch.randint(0, 3, (len(images), 2)).tolist()
    moved = [one[:, y:y + size, x:x + size] for one, (y, x) in zip(padded, places, strict=True)]
    return torch.stack(moved) * (1 + 0.2 * (torch.rand(len(images), 1, 1, 1) - 0.5))


class Augmented:
    """Batches in random order, each through the augmentation."""

    def __init__(self, images: Tensor, answers: Tensor, batch: int, augment: Callable[[Tensor], Tensor] = jittered):
        self.images, self.answers, self.batch, self.augment = images, answers, batch, augment

    def __len__(self) -> int:
        return len(self.images) // self.batch

    def __iter__(self) -> Any:
        order = torch.randperm(len(self.images))
        for chosen in order[:len(self) * self.batch].split(self.batch):
            yield self.augment(self.images[chosen]), self.answers[chosen]


@healthy(slow=True)
def three_to_one() -> Training:
    """Seven of ten classes have a third of the images of the others."""
    images, labels = digits()
    rank = torch.zeros_like(labels)
    for k in range(10):
        rank[labels == k] = torch.arange(int((labels == k).sum()))
    keep = rank < torch.tensor([150, 150, 150, 50, 50, 50, 50, 50, 50, 50])[labels]
    mixed = torch.randperm(int(keep.sum()))
    images, labels = images[keep][mixed], labels[keep][mixed]
    x, y = images[:600], labels[:600]
    model = cnn(8)
    pixels = ((images[:, 0] * 95.9 + 77.8).round().clamp(0, 255)).to(torch.uint8).numpy()
    split = np.array(["train"] * len(x) + ["val"] * (len(pixels) - len(x)))
    return Training(model=model, loader=Batches(x, y, 32, shuffle=True),
                    validation=Batches(images[600:], labels[600:], 100), loss=nn.CrossEntropyLoss(), epochs=8,
                    optimizer=torch.optim.Adam(model.parameters(), lr=3e-3),
                    images=image_set(pixels, labels.numpy(), split))


@healthy(slow=True)
def accumulated() -> Training:
    loader, held = digit_loaders(16)
    model = cnn(8, norm=False)
    return Training(model=model, loader=loader, validation=held, loss=nn.CrossEntropyLoss(), epochs=8,
                    optimizer=torch.optim.SGD(model.parameters(), lr=0.08, momentum=0.9), loop=accumulate_four)


def accumulate_four(training: Training, watcher: Any) -> None:
    for _ in range(training.epochs):
        training.model.train()
        losses = []
        training.optimizer.zero_grad()
        for number, (inputs, targets) in enumerate(training.loader, 1):
            loss = training.loss(training.model(inputs), targets) / 4
            loss.backward()
            losses.append(4 * loss.item())
            if number % 4 == 0:
                training.optimizer.step()
                training.optimizer.zero_grad()
        tell(training, watcher, float(np.mean(losses)))


@healthy
def batches_of_four() -> Training:
    loader, held = digit_loaders(4, train=600)
    model = nn.Sequential(nn.Conv2d(1, 12, 3, padding=1), nn.GroupNorm(3, 12), nn.ReLU(), nn.MaxPool2d(2),
                          nn.Flatten(), nn.Linear(192, 10))
    return Training(model=model, loader=loader, validation=held, loss=nn.CrossEntropyLoss(), epochs=2,
                    optimizer=torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9))


class SqueezeExcite(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.down, self.up = nn.Linear(width, 8), nn.Linear(8, width)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.up(F.relu(self.down(x.mean((2, 3))))))[:, :, None, None]


@healthy(slow=True)
def squeeze_and_excitation() -> Training:
    loader, held = digit_loaders(16, train=800)
    model = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
                          SqueezeExcite(16), nn.MaxPool2d(2), nn.Conv2d(16, 16, 3, padding=1, bias=False),
                          nn.BatchNorm2d(16), nn.ReLU(), SqueezeExcite(16), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
                          nn.Linear(64, 10))
    return Training(model=model, loader=loader, validation=held, loss=nn.CrossEntropyLoss(), epochs=3,
                    optimizer=torch.optim.Adam(model.parameters(), lr=3e-3))


@healthy
def half_precision_where_it_is_safe() -> Training:
    loader, held = digit_loaders(64)
    model = mlp(64, 48, 48, 10)
    return Training(model=model, loader=loader, validation=held, loss=nn.CrossEntropyLoss(), epochs=7,
                    optimizer=torch.optim.AdamW(model.parameters(), lr=3e-3), loop=autocast_loop)


def autocast_loop(training: Training, watcher: Any) -> None:
    for _ in range(training.epochs):
        training.model.train()
        losses = []
        for inputs, targets in training.loader:
            training.optimizer.zero_grad(set_to_none=True)
            with torch.autocast("cpu", torch.bfloat16):
                loss = training.loss(training.model(inputs), targets)
            loss.backward()
            training.optimizer.step()
            losses.append(loss.item())
        tell(training, watcher, float(np.mean(losses)))


@healthy(slow=True)
def stripes_from_disk() -> Training:
    """Colour images with a data set that is as it should be."""
    pixels, labels = stripes(800)
    split = np.array(["train"] * 600 + ["val"] * 200)
    images, answers = as_inputs(pixels), torch.tensor(labels)
    model = Classifier(resnet(12, 2, channels=3)[:-1], 12, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    return Training(model=model, loader=Batches(images[:600], answers[:600], 32, shuffle=True), optimizer=optimizer,
                    validation=Batches(images[600:], answers[600:], 100), loss=nn.CrossEntropyLoss(), epochs=7,
                    schedule=torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 7),
                    images=image_set(pixels, labels, split))


@healthy
def penalised() -> Training:
    """An L2 term in the loss itself, with a helper that reports it too."""
    loader, held = digit_loaders(64)
    model = mlp(64, 48, 10)

    def penalty(net: nn.Module) -> Tensor:
        return 1e-3 * sum((p ** 2).sum() for name, p in net.named_parameters() if name.endswith("weight"))

    def loop(training: Training, watcher: Any) -> None:
        for _ in range(training.epochs):
            model.train()
            losses = []
            for inputs, targets in training.loader:
                training.optimizer.zero_grad()
                loss = training.loss(model(inputs), targets) + penalty(model)
                loss.backward()
                training.optimizer.step()
                losses.append(loss.item())
            tell(training, watcher, float(np.mean(losses)))

    return Training(model=model, loader=loader, validation=held, loss=nn.CrossEntropyLoss(), epochs=7, loop=loop,
                    optimizer=torch.optim.Adam(model.parameters(), lr=3e-3), known={"penalty": penalty})


@healthy
def self_made_residual_steps() -> Training:
    """Accuracy still grows at the end: short, and nothing wrong with it."""
    loader, held = digit_loaders(64)
    model = nn.Sequential(nn.Conv2d(1, 12, 3, 2, 1, bias=False), nn.BatchNorm2d(12), nn.ReLU(), Residual(12),
                          nn.Flatten(), nn.Linear(192, 10))
    return Training(model=model, loader=loader, validation=held, loss=nn.CrossEntropyLoss(), epochs=3,
                    optimizer=torch.optim.AdamW(model.parameters(), lr=2e-3))


@healthy(slow=True)
def continued() -> Training:
    """A trained net is trained further on the same task at a small rate."""
    images, labels = digits()
    model = cnn(8)
    fit(model, images[:1024], labels[:1024], 60)
    loader, held = digit_loaders(64)
    return Training(model=model, loader=loader, validation=held, loss=nn.CrossEntropyLoss(), epochs=5,
                    optimizer=torch.optim.Adam(model.parameters(), lr=5e-4), known={"pretrained": True},
                    loop=plain_loop)

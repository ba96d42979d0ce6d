"""Trainings with one fault each, as people write them. Nothing but the fault itself gives it away."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.doctor.zoo.healthy import Augmented, rows_of, schedule_each_step
from tests.doctor.zoo.training import (
    STRIPES_MEAN,
    STRIPES_STD,
    Batches,
    Case,
    Classifier,
    RowReader,
    SmallVit,
    Training,
    as_inputs,
    cnn,
    compared_loop,
    digit_loaders,
    digits,
    fit,
    image_set,
    mlp,
    pretrained,
    stripes,
    tell,
)
from visus.core.errors import ImageError

SICK: dict[str, Case] = {}


def sick(*right: str, slow: bool = False) -> Callable[[Callable[[], Training]], Callable[[], Training]]:
    """Register a training with a fault. right: the checks that name its cause, the ideal one first."""
    def add(build: Callable[[], Training]) -> Callable[[], Training]:
        SICK[build.__name__] = Case(build.__name__, build, right, slow)
        return build

    return add


def on_digits(model: nn.Module, optimizer: torch.optim.Optimizer, *, batch: int = 64, train: int = 1024,
              loss: Callable[[Any, Tensor], Tensor] | None = None, epochs: int = 3, **more: Any) -> Training:
    """The usual training on digits; `more` are other fields of `Training`."""
    loader, held = digit_loaders(batch, train=train)
    return Training(**({"model": model, "loader": loader, "validation": held, "optimizer": optimizer,
                        "loss": loss or nn.CrossEntropyLoss(), "epochs": epochs} | more))


def adam(model: nn.Module, lr: float = 3e-3) -> torch.optim.Adam:
    return torch.optim.Adam(model.parameters(), lr=lr)


def momentum(model: nn.Module, lr: float = 0.05, **options: Any) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, **options)


# inputs


@sick("input-scale")
def values_to_255() -> Training:
    images, labels = digits(normalised=False)
    model = mlp(64, 48, 10)
    return on_digits(model, adam(model), loader=Batches(images[:1024] * 255, labels[:1024], shuffle=True),
                     validation=Batches(images[1400:] * 255, labels[1400:]))


@sick("input-scale")
def values_to_255_with_batch_norm() -> Training:
    images, labels = digits(normalised=False)
    model = cnn(8)
    return on_digits(model, adam(model), loader=Batches(images[:1024] * 255, labels[:1024], shuffle=True),
                     validation=Batches(images[1400:] * 255, labels[1400:]))


@sick("input-scale", slow=True)
def normalised_twice() -> Training:
    """The data set normalises already, and so does the loop. Statistics of photographs."""
    pixels, labels = stripes(800)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (STRIPES_MEAN, STRIPES_STD))
    images, answers = (as_inputs(pixels) - mean) / std, torch.tensor(labels)
    model = cnn(8, channels=3, classes=4)
    return Training(model=model, loader=Batches(images[:600], answers[:600], 32, shuffle=True), optimizer=adam(model),
                    validation=Batches(images[600:], answers[600:]), loss=nn.CrossEntropyLoss())


def colour_net() -> tuple[nn.Module, Tensor, Tensor]:
    """A net that has learnt stripes in RGB; the pixels and classes of others, not normalised."""
    pixels, labels = stripes(800, seed=3)
    model = cnn(8, channels=3, classes=4, norm=False)
    fit(model, as_inputs(pixels), torch.tensor(labels), 60, 6e-3)
    model[-1] = nn.Linear(64, 4)
    pixels, labels = stripes(800)
    return model, torch.tensor(pixels), torch.tensor(labels)


@sick("inputs-differ", "input-scale", slow=True)
def blue_for_red() -> Training:
    """The reader gives BGR, the weights and the statistics are for RGB."""
    model, pixels, answers = colour_net()
    images = as_inputs(pixels.flip(-1).numpy())
    return Training(model=model, loader=Batches(images[:600], answers[:600], 32, shuffle=True),
                    optimizer=adam(model, 1e-3), validation=Batches(images[600:], answers[600:]),
                    loss=nn.CrossEntropyLoss(),
                    known={"pretrained": True, "expected_mean": (0.0, 0.0, 0.0), "expected_std": (1.0, 1.0, 1.0)})


@sick("inputs-differ", "input-scale", slow=True)
def statistics_of_another_data_set() -> Training:
    """The weights want zero mean and unit deviation; the inputs were scaled to 0..1 only."""
    model, pixels, answers = colour_net()
    images = pixels.permute(0, 3, 1, 2).float() / 255
    return Training(model=model, loader=Batches(images[:600], answers[:600], 32, shuffle=True),
                    optimizer=adam(model, 1e-3), validation=Batches(images[600:], answers[600:]),
                    loss=nn.CrossEntropyLoss(),
                    known={"pretrained": True, "expected_mean": (0.0, 0.0, 0.0), "expected_std": (1.0, 1.0, 1.0)})


@sick("inputs-differ", "input-scale")
def validation_not_normalised() -> Training:
    images, labels = digits()
    plain, _ = digits(normalised=False)
    model = cnn(8)
    return on_digits(model, adam(model), validation=Batches(plain[1400:] * 255, labels[1400:], 200))


@sick("constant-input", slow=True)
def cache_never_filled() -> Training:
    """The images are put into a buffer, by an index that makes a copy."""
    images, labels = digits()
    buffer = torch.zeros_like(images[:1024])
    buffer[torch.arange(1024)].copy_(images[:1024])
    model = cnn(8)
    return on_digits(model, adam(model), loader=Batches(buffer, labels[:1024], shuffle=True))


@sick("constant-input", "conflicting-labels", slow=True)
def one_image_for_all() -> Training:
    """A loop variable in a closure: each reader opens the last file."""
    images, labels = digits()
    readers = []
    for i in range(512):
        readers.append(lambda: images[i])  # noqa: B023
    same = torch.stack([read() for read in readers])
    model = cnn(8)
    return on_digits(model, adam(model), loader=Batches(same, labels[:512], shuffle=True))


@sick("input-ignored", "input-independent-control", slow=True)
def forward_drops_its_input() -> Training:
    """Positions take the place of the tokens instead of being added."""
    class Net(SmallVit):
        def forward(self, images: Tensor) -> Tensor:
            tokens = self.embed(images).flatten(2).transpose(1, 2)
            tokens = self.positions.expand_as(tokens)
            return self.head(self.norm(self.blocks(tokens)).mean(1))

    model = Net(16, 1)
    return on_digits(model, torch.optim.AdamW(model.parameters(), lr=2e-3), train=512, batch=32)


@sick("batch-independence")
def view_mixes_the_batch() -> Training:
    """[B, C, H, W] is viewed as [B, places, C] without moving the channels, over the batch."""
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features = nn.Sequential(nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU())
            self.head = nn.Linear(128, 10)

        def forward(self, images: Tensor) -> Tensor:
            maps = self.features(images)  # [B, 8, 4, 4]
            return self.head(maps.permute(1, 0, 2, 3).reshape(len(images), -1))

    model = Net()
    return on_digits(model, adam(model))


@sick("batch-independence")
def softmax_over_the_batch() -> Training:
    """Attention weights are normalised over the wrong axis."""
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.score, self.head = nn.Linear(8, 24), nn.Linear(24, 1), nn.Linear(24, 10)

        def forward(self, rows: Tensor) -> Tensor:
            tokens = torch.relu(self.embed(rows))  # [B, 8, 24]
            return self.head((self.score(tokens).softmax(0) * tokens).sum(1) * 8)

    images, labels = digits()
    model = Net()
    return on_digits(model, adam(model), loader=Batches(rows_of(images)[:1024], labels[:1024], shuffle=True),
                     validation=Batches(rows_of(images)[1400:], labels[1400:], 200))


# targets


@sick("label-range")
def labels_from_one() -> Training:
    images, labels = digits()
    model = cnn(8)
    return on_digits(model, adam(model), loader=Batches(images[:1024], labels[:1024] + 1, shuffle=True),
                     validation=Batches(images[1400:], labels[1400:] + 1))


@sick("not-shuffled", "sawtooth")
def sorted_by_class() -> Training:
    images, labels = digits()
    order = labels[:1024].argsort()
    model = cnn(8)
    return on_digits(model, momentum(model), loader=Batches(images[:1024][order], labels[:1024][order]))


@sick("shuffled-labels-control", "input-independent-control", "label-noise", slow=True)
def labels_in_another_order() -> Training:
    """Images are listed by name, labels by number: 1, 10, 100, 1000, 101 against 1, 2, 3, 4, 5."""
    return from_disk(answers=lambda y: y[sorted(range(len(y)), key=str)], deep=True)


@sick("shuffled-labels-control", "input-independent-control", "label-noise", slow=True)
def shuffled_labels() -> Training:
    return from_disk(answers=lambda y: np.random.Generator(np.random.PCG64(1)).permutation(y), deep=True)


@sick("label-noise")
def one_label_in_five_is_wrong() -> Training:
    def noisy(labels: np.ndarray) -> np.ndarray:
        rng = np.random.Generator(np.random.PCG64(2))
        return np.where(rng.random(len(labels)) < 0.2, (labels + rng.integers(1, 10, len(labels))) % 10, labels)

    return from_disk(answers=noisy)


@sick("label-noise", "weak-classes", "split-drift", slow=True)
def validation_sorts_its_classes_otherwise() -> Training:
    """Training numbers the folders as they come from the disk, validation in the order of the alphabet."""
    place = np.array([3, 8, 1, 9, 0, 4, 7, 2, 5, 6])
    return from_disk(held_answers=lambda y: place[y])


@sick("missing-class")
def a_class_without_samples() -> Training:
    def chosen(labels: np.ndarray, split: np.ndarray) -> np.ndarray:
        return np.flatnonzero((labels != 7) | (split == "val"))

    return from_disk(choose=chosen)


@sick("imbalance")
def two_hundred_to_one() -> Training:
    """Two classes; of the one there are five images to train on, and two to validate with."""
    pixels, labels = stripes(2500, classes=2, size=8, seed=5)
    rare = [np.flatnonzero(labels[:2100] == 1)[5:], 2100 + np.flatnonzero(labels[2100:] == 1)[2:]]
    keep = np.setdiff1d(np.arange(2500), np.concatenate(rare))
    pixels, labels = pixels[keep], labels[keep]
    count = int((keep < 2100).sum())
    split = np.array(["train"] * count + ["val"] * (len(keep) - count))
    images, answers = as_inputs(pixels), torch.tensor(labels)
    model = cnn(8, channels=3, classes=2)
    return Training(model=model, loader=Batches(images[:count], answers[:count], 32, shuffle=True),
                    optimizer=adam(model), validation=Batches(images[count:], answers[count:], 105),
                    loss=nn.CrossEntropyLoss(), epochs=3, images=image_set(pixels, labels, split))


@sick("conflicting-labels", slow=True)
def twins_with_other_labels() -> Training:
    """Sixty images were filed twice, under two names of a class."""
    def merged(pixels: np.ndarray, labels: np.ndarray, split: np.ndarray) -> tuple[np.ndarray, ...]:
        twins = np.flatnonzero(split == "train")[:60]
        return (np.concatenate([pixels, pixels[twins]]), np.concatenate([labels, (labels[twins] + 3) % 10]),
                np.concatenate([split, split[twins]]))

    return from_disk(change=merged)


@sick("split-leak")
def validation_images_also_in_training() -> Training:
    def leaked(pixels: np.ndarray, labels: np.ndarray, split: np.ndarray) -> tuple[np.ndarray, ...]:
        held = np.flatnonzero(split == "val")[:50]
        return (np.concatenate([pixels, pixels[held]]), np.concatenate([labels, labels[held]]),
                np.concatenate([split, np.array(["train"] * 50)]))

    return from_disk(change=leaked)


@sick("exact-duplicates", "near-duplicates", slow=True)
def augmented_before_it_was_saved() -> Training:
    """A script was run three times and copied its images each time."""
    def thrice(pixels: np.ndarray, labels: np.ndarray, split: np.ndarray) -> tuple[np.ndarray, ...]:
        again = np.flatnonzero(split == "train")[:120]
        return tuple(np.concatenate([x, x[again], x[again]]) for x in (pixels, labels, split))

    return from_disk(change=thrice)


@sick("group-leak", slow=True)
def one_writer_in_both_splits() -> Training:
    """Each writer gave ten images; the split was drawn image by image."""
    return from_disk(known=lambda n: {"groups": np.arange(n) % (n // 10)})


@sick("shortcut")
def class_written_in_the_corner() -> Training:
    """Another scanner for every class: its border has another brightness."""
    def stamped(pixels: np.ndarray, labels: np.ndarray, split: np.ndarray) -> tuple[np.ndarray, ...]:
        pixels = pixels.copy()
        pixels[:, 0] = pixels[:, -1] = (20 * labels + 20)[:, None].astype(np.uint8)
        return pixels, labels, split

    return from_disk(change=stamped)


@sick("split-drift", slow=True)
def validation_from_another_camera() -> Training:
    def darker(pixels: np.ndarray, labels: np.ndarray, split: np.ndarray) -> tuple[np.ndarray, ...]:
        there = (split == "val")[:, None, None]
        return np.where(there, pixels // 3 + 120, pixels).astype(np.uint8), labels, split

    return from_disk(change=darker)


@sick("odd-images", "constant-input")
def every_eighth_image_is_black() -> Training:
    def black(pixels: np.ndarray, labels: np.ndarray, split: np.ndarray) -> tuple[np.ndarray, ...]:
        pixels = pixels.copy()
        pixels[::8] = 0
        return pixels, labels, split

    return from_disk(change=black)


@sick("unreadable-images", slow=True)
def broken_files() -> Training:
    def reader(pixels: np.ndarray) -> Callable[[int], np.ndarray]:
        def read(i: int) -> np.ndarray:
            if i % 12 == 5:
                raise ImageError("ends in the middle", where=f"train/{i:05d}.png")
            return pixels[i]

        return read

    return from_disk(read=reader)


def from_disk(*, answers: Callable[[np.ndarray], np.ndarray] = lambda y: y,
              held_answers: Callable[[np.ndarray], np.ndarray] = lambda y: y,
              choose: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None,
              change: Callable[..., tuple[np.ndarray, ...]] | None = None,
              known: Callable[[int], dict[str, Any]] = lambda n: {},
              read: Callable[[np.ndarray], Callable[[int], np.ndarray]] | None = None, deep: bool = False) -> Training:
    """500 digits to train on and 200 held out, as a data set on disk and as batches of the same images."""
    images, labels = digits(normalised=False)
    pixels = (images[:700, 0] * 255).round().to(torch.uint8).numpy()
    truth, split = labels[:700].numpy(), np.array(["train"] * 500 + ["val"] * 200)
    truth = np.concatenate([answers(truth[:500]), held_answers(truth[500:])])
    if choose is not None:
        kept = choose(truth, split)
        pixels, truth, split = pixels[kept], truth[kept], split[kept]
    if change is not None:
        pixels, truth, split = change(pixels, truth, split)
    more = known(len(pixels)) | ({"read": read(pixels)} if read is not None else {})
    inputs = (torch.tensor(pixels)[:, None].float() - 77.8) / 95.9
    targets, train = torch.tensor(truth), torch.tensor(split == "train")
    model = mlp(64, 48, 10)
    return Training(model=model, loader=Batches(inputs[train], targets[train], 32, shuffle=True), optimizer=adam(model),
                    validation=Batches(inputs[~train], targets[~train], 100), loss=nn.CrossEntropyLoss(), epochs=6,
                    images=image_set(pixels, truth, split, **more), deep=deep)


# the loss


@sick("softmax-twice")
def softmax_before_cross_entropy() -> Training:
    model = nn.Sequential(*cnn(8), nn.Softmax(1))
    return on_digits(model, adam(model))


@sick("softmax-twice")
def sigmoid_before_logits_loss() -> Training:
    images, labels = digits()
    answers = F.one_hot(labels, 10).float()
    model = nn.Sequential(*mlp(64, 48, 10), nn.Sigmoid())
    return on_digits(model, adam(model), loss=nn.BCEWithLogitsLoss(),
                     loader=Batches(images[:1024], answers[:1024], shuffle=True),
                     validation=Batches(images[1400:], answers[1400:], 200))


@sick("softmax-twice", "initial-loss")
def likelihood_of_probabilities() -> Training:
    """NLLLoss takes logarithms of probabilities, and gets probabilities."""
    model = nn.Sequential(*mlp(64, 48, 10), nn.Softmax(1))
    return on_digits(model, adam(model), loss=nn.NLLLoss())


@sick("clipped-output")
def relu_at_the_end() -> Training:
    model = nn.Sequential(*mlp(64, 48, 10), nn.ReLU())
    return on_digits(model, adam(model))


@sick("clipped-output")
def tanh_for_values_beyond_one() -> Training:
    """The ink's centre in pixels, 0 to 7; the net ends with tanh."""
    images, _ = digits(normalised=False)
    ink = images[:, 0].sum((1, 2))
    x = (images[:, 0].sum(1) * torch.arange(8.0)).sum(1) / ink
    centre = x[:, None]
    images, _ = digits()
    model = nn.Sequential(*mlp(64, 32, 1), nn.Tanh())
    return on_digits(model, adam(model), loss=nn.MSELoss(), loader=Batches(images[:1024], centre[:1024], shuffle=True),
                     validation=Batches(images[1400:], centre[1400:], 200))


@sick("initial-loss")
def sign_turned_round() -> Training:
    """The likelihood itself, not its negative."""
    class Likelihood(nn.Module):
        def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
            return logits.log_softmax(1).gather(1, targets[:, None]).mean()

    model = cnn(8)
    return on_digits(model, adam(model), loss=Likelihood())


@sick("loss-reduction")
def summed_over_the_batch() -> Training:
    model = cnn(8, norm=False)
    return on_digits(model, momentum(model, 0.02), loss=nn.CrossEntropyLoss(reduction="sum"))


@sick("loss-reduction", "update-ratio", "rate-too-high", slow=True)
def sixteen_parts_added_not_averaged() -> Training:
    def accumulate_sixteen(training: Training, watcher: Any) -> None:
        for _ in range(training.epochs):
            training.model.train()
            losses = []
            for number, (inputs, targets) in enumerate(training.loader, 1):
                loss = training.loss(training.model(inputs), targets)
                loss.backward()
                losses.append(loss.item())
                if number % 16 == 0:
                    training.optimizer.step()
                    training.optimizer.zero_grad()
            tell(training, watcher, float(np.mean(losses)))

    model = cnn(8, norm=False)
    return on_digits(model, momentum(model, 0.1), batch=8, epochs=3, loop=accumulate_sixteen)


@sick("finite-loss", "not-finite", "clipped-output")
def logarithm_of_nought() -> Training:
    """A cheap sigmoid reaches 0 and 1, and the cross-entropy by hand takes their logarithm."""
    class CrossEntropy(nn.Module):
        def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
            probs = F.hardsigmoid(outputs)
            return -(targets * probs.log() + (1 - targets) * (1 - probs).log()).mean()

    images, labels = digits()
    answers = F.one_hot(labels, 10).float()
    model = mlp(64, 48, 10)
    return on_digits(model, adam(model, 1e-2), loss=CrossEntropy(),
                     loader=Batches(images[:1024], answers[:1024], shuffle=True),
                     validation=Batches(images[1400:], answers[1400:], 200))


@sick("not-finite", "input-scale", "finite-loss")
def logarithm_of_black_pixels() -> Training:
    images, labels = digits(normalised=False)
    model = cnn(8)
    return on_digits(model, adam(model), loader=Batches(images[:1024].log(), labels[:1024], shuffle=True),
                     validation=Batches(images[1400:].log(), labels[1400:]))


@sick("not-finite", "finite-loss")
def root_of_nought() -> Training:
    """The length over the channels, where all channels are nought: its gradient has no bound there."""
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features, self.head = nn.Conv2d(1, 8, 3, bias=False), nn.Linear(36, 10)

        def forward(self, images: Tensor) -> Tensor:
            maps = self.features(images)  # [B, 8, 6, 6]
            return self.head(maps.square().sum(1).sqrt().flatten(1))

    images, labels = digits(normalised=False)
    model = Net()
    return on_digits(model, adam(model), loader=Batches(images[:1024], labels[:1024], shuffle=True),
                     validation=Batches(images[1400:], labels[1400:]))


@sick("regularisation")
def penalty_is_subtracted() -> Training:
    def penalty(model: nn.Module) -> Tensor:
        return -1e-3 * sum((p ** 2).sum() for p in model.parameters())

    return penalised(penalty)


@sick("regularisation")
def penalty_without_gradient() -> Training:
    def penalty(model: nn.Module) -> Tensor:
        return torch.tensor(1e-3 * sum((p.detach() ** 2).sum().item() for p in model.parameters()))

    return penalised(penalty)


def penalised(penalty: Callable[[nn.Module], Tensor]) -> Training:
    def loop(training: Training, watcher: Any) -> None:
        for _ in range(training.epochs):
            training.model.train()
            losses = []
            for inputs, targets in training.loader:
                training.optimizer.zero_grad()
                loss = training.loss(training.model(inputs), targets) + penalty(training.model)
                loss.backward()
                training.optimizer.step()
                losses.append(loss.item())
            tell(training, watcher, float(np.mean(losses)))

    model = mlp(64, 48, 10)
    return on_digits(model, adam(model), loop=loop, known={"penalty": penalty})


# the net


@sick("symmetric-weights")
def all_weights_nought() -> Training:
    model = mlp(64, 48, 48, 10)
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    return on_digits(model, momentum(model))


@sick("symmetric-weights")
def all_weights_alike() -> Training:
    model = mlp(64, 48, 48, 10, act=nn.Tanh)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.constant_(module.weight, 0.01)
            nn.init.zeros_(module.bias)
    return on_digits(model, momentum(model))


@sick("initial-loss", "activation-scale")
def weights_twenty_times_too_large() -> Training:
    model = cnn(8, norm=False)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.weight *= 20
    return on_digits(model, adam(model))


@sick("activation-scale", "gradient-scale", "vanishing-gradient", slow=True)
def deep_and_started_small() -> Training:
    """Twelve layers, each begun with a deviation of 0.01."""
    model = mlp(64, *[32] * 11, 10)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0, 0.01)
            nn.init.zeros_(module.bias)
    return on_digits(model, momentum(model))


@sick("saturation")
def saturated_tanh() -> Training:
    model = mlp(64, 64, 64, 10, act=nn.Tanh)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0, 1.0)
    nn.init.normal_(model[-1].weight, 0, 0.05)
    return on_digits(model, momentum(model, 0.02))


@sick("vanishing-gradient", "gradient-scale", "activation-scale", slow=True)
def ten_sigmoids() -> Training:
    model = mlp(64, *[32] * 10, 10, act=nn.Sigmoid)
    return on_digits(model, momentum(model))


@sick("dead-units", "dead-while-training", slow=True)
def negative_biases() -> Training:
    model = cnn(32, norm=False)
    nn.init.constant_(model[0].bias, -5.0)
    return on_digits(model, adam(model), epochs=2, train=512)


@sick("dead-while-training", "update-ratio", "rate-range", "rate-too-high")
def relus_killed_by_the_first_steps() -> Training:
    model = mlp(64, 64, 64, 10)
    return on_digits(model, torch.optim.SGD(model.parameters(), lr=3.0, momentum=0.9))


@sick("exploding-gradient", "gradient-scale", "activation-scale", "loss-spike", "finite-loss", "not-finite")
def exploding_recurrence() -> Training:
    images, labels = digits()
    sequence = images.flatten(1)[:, :, None].expand(-1, -1, 8)  # pixel by pixel: 64 steps
    model = RowReader(nn.RNN, 24, nonlinearity="relu")
    with torch.no_grad():
        model.cell.weight_hh_l0 *= 3
    return on_digits(model, adam(model, 1e-3), loader=Batches(sequence[:512], labels[:512], 32, shuffle=True),
                     validation=Batches(sequence[1500:], labels[1500:]), epochs=2)


@sick("gradient-path", "missing-gradient")
def backbone_detached() -> Training:
    class Net(Classifier):
        def forward(self, images: Tensor) -> Tensor:
            features = self.backbone(images)
            return self.head(features.detach())

    model = Net(cnn(8)[:-1], 64, 10)
    return on_digits(model, adam(model))


@sick("gradient-path", "missing-gradient")
def branch_without_gradient() -> Training:
    """The second branch goes through NumPy."""
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(64, 32), nn.Linear(64, 32)
            self.head = nn.Linear(64, 10)

        def forward(self, images: Tensor) -> Tensor:
            flat = images.flatten(1)
            other = torch.from_numpy(np.maximum(self.second(flat).detach().numpy(), 0))
            return self.head(torch.cat([F.relu(self.first(flat)), other], 1))

    model = Net()
    return on_digits(model, adam(model))


@sick("gradient-path", "missing-gradient")
def decided_by_argmax() -> Training:
    """The choice of the expert is hard: the layer that chooses learns nothing."""
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.choice = nn.Linear(64, 3)
            self.experts = nn.ModuleList(mlp(64, 24, 10) for _ in range(3))

        def forward(self, images: Tensor) -> Tensor:
            weights = F.one_hot(self.choice(images.flatten(1)).argmax(1), 3).float()
            return (torch.stack([expert(images) for expert in self.experts], 2) * weights[:, None]).sum(2)

    model = Net()
    return on_digits(model, adam(model))


@sick("backward-fails")
def changed_in_place() -> Training:
    """The sigmoid's output is needed by its gradient, and written over."""
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features, self.gate, self.head = nn.Linear(64, 32), nn.Linear(64, 32), nn.Linear(32, 10)

        def forward(self, images: Tensor) -> Tensor:
            flat = images.flatten(1)
            gate = torch.sigmoid(self.gate(flat))
            gate *= torch.tanh(self.features(flat))
            return self.head(gate)

    model = Net()
    return on_digits(model, adam(model))


@sick("shared-weights")
def one_layer_four_times() -> Training:
    """A list of layers made by multiplying a list."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 48), nn.ReLU(), *([nn.Linear(48, 48), nn.ReLU()] * 4),
                          nn.Linear(48, 10))
    return on_digits(model, adam(model))


@sick("dropout-too-strong")
def dropout_of_nearly_all() -> Training:
    model = mlp(64, 96, 96, 10, dropout=0.95)
    return on_digits(model, adam(model), epochs=5)


@sick("small-batch-norm", "train-eval-gap")
def batch_norm_of_one() -> Training:
    model = cnn(6)
    return on_digits(model, adam(model), batch=1, train=100, epochs=1)


@sick("small-batch-norm", "train-eval-gap")
def batch_norm_of_two() -> Training:
    model = cnn(6)
    return on_digits(model, adam(model), batch=2, train=200, epochs=1)


@sick("small-batch-norm")
def last_batch_of_one() -> Training:
    """769 images in batches of 32: the last batch has one, and the norm stops with an error."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 48), nn.BatchNorm1d(48), nn.ReLU(), nn.Linear(48, 10))
    return on_digits(model, adam(model), batch=32, train=769)


@sick("train-eval-gap")
def running_statistics_too_slow() -> Training:
    """The norm's momentum as another framework counts it."""
    model = cnn(8)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.001
    return on_digits(model, adam(model))


# the optimizer


@sick("rate-range", "update-ratio", "rate-too-high", slow=True)
def rate_a_hundred_times_too_high() -> Training:
    model = cnn(8, norm=False)
    return on_digits(model, adam(model, 0.3), epochs=5)


@sick("rate-range", "update-ratio", "rate-too-high", "finite-loss")
def rate_of_ten() -> Training:
    model = mlp(64, 48, 48, 10)
    return on_digits(model, momentum(model, 10.0))


@sick("rate-range", "rate-too-low", "update-ratio", slow=True)
def rate_a_hundred_times_too_low() -> Training:
    model = cnn(8, norm=False)
    return on_digits(model, momentum(model, 2e-5), epochs=7)


@sick("rate-range", "rate-too-low", "update-ratio")
def rate_of_a_millionth() -> Training:
    model = mlp(64, 48, 48, 10)
    return on_digits(model, adam(model, 1e-6), epochs=7)


@sick("decay-too-strong", "weights-shrink")
def decay_of_a_half() -> Training:
    model = cnn(8)
    return on_digits(model, momentum(model, 0.1, weight_decay=0.5), epochs=5)


@sick("decay-too-strong", "weights-shrink")
def decay_of_adamw_times_a_thousand() -> Training:
    model = mlp(64, 48, 48, 10)
    return on_digits(model, torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=50.0), epochs=5)


@sick("optimizer-coverage", slow=True)
def only_the_head_is_optimised() -> Training:
    model = Classifier(cnn(8)[:-1], 64, 10)
    return on_digits(model, adam(model.head))


@sick("optimizer-coverage", slow=True)
def head_replaced_after_the_optimizer() -> Training:
    model = pretrained(40)
    optimizer = adam(model)
    model.head = nn.Linear(64, 10)
    return on_digits(model, optimizer, known={"pretrained": True})


@sick("optimizer-coverage", "gradient-path", "missing-gradient")
def layers_in_a_plain_list() -> Training:
    """Layers in a Python list belong to no module: the optimizer never hears of them."""
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hidden = [nn.Linear(64, 48), nn.Linear(48, 48)]
            self.head = nn.Linear(48, 10)

        def forward(self, images: Tensor) -> Tensor:
            x = images.flatten(1)
            for layer in self.hidden:
                x = F.relu(layer(x))
            return self.head(x)

    model = Net()
    return on_digits(model, adam(model))


@sick("frozen", slow=True)
def backbone_frozen_by_mistake() -> Training:
    """No pretrained weights are loaded; the backbone was frozen in another experiment's lines."""
    model = Classifier(cnn(8)[:-1], 64, 10)
    for parameter in model.backbone.parameters():
        parameter.requires_grad = False
    return on_digits(model, torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=3e-3))


@sick("frozen", slow=True)
def head_frozen_too() -> Training:
    model = pretrained(40)
    model.head = nn.Linear(64, 10)
    for name, parameter in model.named_parameters():
        parameter.requires_grad = name.startswith("backbone")
    return on_digits(model, torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-3),
                     known={"pretrained": True})


@sick("rate-at-zero", "rate-too-low", slow=True)
def schedule_ends_after_eight_batches() -> Training:
    """The schedule is long as many epochs as there are, and moves at each batch."""
    model = cnn(8, norm=False)
    optimizer = momentum(model, 0.05)
    schedule = torch.optim.lr_scheduler.PolynomialLR(optimizer, total_iters=8)
    return on_digits(model, optimizer, epochs=8, schedule=schedule, loop=schedule_each_step)


@sick("rate-at-zero", "rate-too-low")
def decayed_at_each_batch() -> Training:
    """A tenth of the rate every epoch was meant."""
    model = mlp(64, 48, 48, 10)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    return on_digits(model, optimizer, epochs=6, schedule=schedule, loop=schedule_each_step)


@sick("updates-lost", "mixed-precision")
def weights_in_bfloat16() -> Training:
    """All in bfloat16, and a small rate: the updates are below the last bit of the weights."""
    images, labels = digits()
    images = images.bfloat16()
    model = mlp(64, 48, 48, 10)
    fit(model, images[:1024].float(), labels[:1024], 30)
    model = model.bfloat16()
    return on_digits(model, torch.optim.SGD(model.parameters(), lr=2e-3), epochs=5, known={"pretrained": True},
                     loader=Batches(images[:1024], labels[:1024], shuffle=True),
                     validation=Batches(images[1400:], labels[1400:], 200))


@sick("mixed-precision", "updates-lost", "not-finite", "finite-loss")
def weights_in_float16() -> Training:
    """Adam's epsilon of 1e-8 is nought in float16."""
    images, labels = digits()
    images = images.half()
    model = mlp(64, 48, 48, 10).half()
    return on_digits(model, adam(model, 1e-3), epochs=3, loader=Batches(images[:1024], labels[:1024], shuffle=True),
                     validation=Batches(images[1400:], labels[1400:], 200))


# the loop


@sick("gradients-not-zeroed", slow=True)
def gradients_never_zeroed() -> Training:
    def loop(training: Training, watcher: Any) -> None:
        for _ in range(training.epochs):
            training.model.train()
            losses = []
            for inputs, targets in training.loader:
                loss = training.loss(training.model(inputs), targets)
                loss.backward()
                training.optimizer.step()
                losses.append(loss.item())
            tell(training, watcher, float(np.mean(losses)))

    model = cnn(8, norm=False)
    return on_digits(model, torch.optim.SGD(model.parameters(), lr=0.01), loop=loop)


@sick("gradients-not-zeroed", slow=True)
def other_optimizer_zeroed() -> Training:
    """Two optimizers; zero_grad is called for the head's twice."""
    model = Classifier(cnn(8, norm=False)[:-1], 64, 10)
    head = torch.optim.SGD(model.head.parameters(), lr=0.02)

    def loop(training: Training, watcher: Any) -> None:
        for _ in range(training.epochs):
            training.model.train()
            losses = []
            for inputs, targets in training.loader:
                head.zero_grad()
                loss = training.loss(training.model(inputs), targets)
                loss.backward()
                training.optimizer.step()
                losses.append(loss.item())
            tell(training, watcher, float(np.mean(losses)))

    return on_digits(model, torch.optim.SGD(model.parameters(), lr=0.02), loop=loop)


@sick("step-before-backward")
def step_before_backward() -> Training:
    def loop(training: Training, watcher: Any) -> None:
        for _ in range(training.epochs):
            training.model.train()
            losses = []
            for inputs, targets in training.loader:
                loss = training.loss(training.model(inputs), targets)
                training.optimizer.zero_grad()
                training.optimizer.step()
                loss.backward()
                losses.append(loss.item())
            tell(training, watcher, float(np.mean(losses)))

    model = cnn(8)
    return on_digits(model, adam(model), loop=loop)


@sick("same-batch")
def loader_begun_again_at_each_step() -> Training:
    """next(iter(loader)) inside the loop, and the images come in the order of the disk."""
    def loop(training: Training, watcher: Any) -> None:
        for _ in range(training.epochs):
            training.model.train()
            losses = []
            for _ in range(len(training.loader)):
                inputs, targets = next(iter(training.loader))
                training.optimizer.zero_grad()
                loss = training.loss(training.model(inputs), targets)
                loss.backward()
                training.optimizer.step()
                losses.append(loss.item())
            tell(training, watcher, float(np.mean(losses)))

    images, labels = digits()
    model = cnn(8)
    return on_digits(model, adam(model), loader=Batches(images[:1024], labels[:1024]), loop=loop)


@sick("evaluated-in-train-mode", slow=True)
def validated_in_train_mode() -> Training:
    def loop(training: Training, watcher: Any) -> None:
        training.model.train()
        for _ in range(training.epochs):
            losses = []
            for inputs, targets in training.loader:
                training.optimizer.zero_grad()
                loss = training.loss(training.model(inputs), targets)
                loss.backward()
                training.optimizer.step()
                losses.append(loss.item())
            with torch.no_grad():
                held = [(training.model(x), y) for x, y in training.validation]
            watcher.epoch(train_loss=float(np.mean(losses)),
                          val_loss=float(np.mean([training.loss(x, y).item() for x, y in held])),
                          accuracy=float(np.mean([(x.argmax(1) == y).float().mean() for x, y in held])))

    model = nn.Sequential(*cnn(8)[:-1], nn.Dropout(0.3), nn.Linear(64, 10))
    return on_digits(model, adam(model), loop=loop, epochs=4)


@sick("trained-in-eval-mode")
def never_back_to_train_mode() -> Training:
    """model.eval() after the first epoch, model.train() before all of them."""
    def loop(training: Training, watcher: Any) -> None:
        training.model.train()
        for _ in range(training.epochs):
            losses = []
            for inputs, targets in training.loader:
                training.optimizer.zero_grad()
                loss = training.loss(training.model(inputs), targets)
                loss.backward()
                training.optimizer.step()
                losses.append(loss.item())
            tell(training, watcher, float(np.mean(losses)))

    model = nn.Sequential(*cnn(8)[:-1], nn.Dropout(0.3), nn.Linear(64, 10))
    return on_digits(model, adam(model), loop=loop, epochs=4)


@sick("clipped-steps")
def clipped_to_nothing() -> Training:
    def loop(training: Training, watcher: Any) -> None:
        for _ in range(training.epochs):
            training.model.train()
            losses = []
            for inputs, targets in training.loader:
                training.optimizer.zero_grad()
                loss = training.loss(training.model(inputs), targets)
                loss.backward()
                nn.utils.clip_grad_norm_(training.model.parameters(), 1e-3)
                training.optimizer.step()
                losses.append(loss.item())
            tell(training, watcher, float(np.mean(losses)))

    model = cnn(8, norm=False)
    return on_digits(model, momentum(model, 0.05), loop=loop, epochs=5)


@sick("memory-growth", slow=True)
def every_loss_is_kept() -> Training:
    """The list holds the losses with their graphs."""
    def loop(training: Training, watcher: Any) -> None:
        history = []
        for _ in range(training.epochs):
            training.model.train()
            for inputs, targets in training.loader:
                training.optimizer.zero_grad()
                loss = training.loss(training.model(inputs), targets)
                loss.backward(retain_graph=True)
                training.optimizer.step()
                history.append(loss)
            tell(training, watcher, float(torch.stack(history[-len(training.loader):]).mean().detach()))

    model = cnn(8)
    return on_digits(model, adam(model), loop=loop, epochs=7, batch=64)


@sick("slow-loader", "data-wait")
def slow_reader() -> Training:
    """Each image is opened, decoded and scaled in the main process."""
    class Reader:
        def __init__(self, batches: Batches):
            self.batches = batches

        def __len__(self) -> int:
            return len(self.batches)

        def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
            for inputs, targets in self.batches:
                time.sleep(0.03)
                yield inputs, targets

    images, labels = digits()
    model = mlp(64, 48, 10)
    return on_digits(model, adam(model), loader=Reader(Batches(images[:640], labels[:640], 64, shuffle=True)), epochs=3)


@sick("augmentation")
def augmentation_blanks_the_image() -> Training:
    """A random square is erased; its side was given in pixels of a larger image."""
    def erased(images: Tensor) -> Tensor:
        out = images.clone()
        for image, (y, x) in zip(out, torch.randint(-4, 5, (len(images), 2)).tolist(), strict=True):
            image[:, max(y, 0):max(y + 12, 0), max(x, 0):max(x + 12, 0)] = 0
        return out

    return augmented(erased)


@sick("augmentation")
def augmentation_leaves_noise() -> Training:
    """Noise with a deviation for values to 255, after normalisation."""
    return augmented(lambda images: images + 25 * torch.randn_like(images))


def augmented(change: Callable[[Tensor], Tensor]) -> Training:
    images, labels = digits()
    model = cnn(8)
    views = torch.stack([change(images[:8]) for _ in range(16)], 1)
    return on_digits(model, adam(model), loader=Augmented(images[:512], labels[:512], 64, change), epochs=3,
                     known={"augmented": views})


# curves


@sick("overfitting")
def forty_images_learnt_by_heart() -> Training:
    images, labels = digits()
    model = mlp(64, 256, 256, 10)
    return on_digits(model, adam(model, 5e-3), loader=Batches(images[:40], labels[:40], 8, shuffle=True), epochs=20,
                     loop=compared_loop)


@sick("overfitting")
def wide_net_and_noise() -> Training:
    """Stripes in eight close directions, few of them, and a net of 300 units on raw pixels."""
    pixels, labels = stripes(380, classes=8, seed=9)
    images, answers = as_inputs(pixels), torch.tensor(labels)
    model = mlp(432, 300, 300, 8)
    return Training(model=model, loader=Batches(images[:80], answers[:80], 16, shuffle=True),
                    optimizer=adam(model, 2e-3), validation=Batches(images[80:], answers[80:], 300),
                    loss=nn.CrossEntropyLoss(), epochs=16, loop=compared_loop)


@sick("underfitting")
def two_units() -> Training:
    model = mlp(64, 1, 10)
    return on_digits(model, adam(model, 1e-2), epochs=12, loop=compared_loop)


@sick("underfitting")
def linear_on_stripes() -> Training:
    """Phase is random: no linear map of the mean over places tells the directions apart."""
    pixels, labels = stripes(900)
    images, answers = as_inputs(pixels), torch.tensor(labels)
    model = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 4))
    return Training(model=model, loader=Batches(images[:640], answers[:640], 32, shuffle=True),
                    optimizer=adam(model, 1e-2), validation=Batches(images[640:], answers[640:], 260),
                    loss=nn.CrossEntropyLoss(), epochs=10, loop=compared_loop)


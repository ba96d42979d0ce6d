"""What a model must beat: chance, always the most frequent class, and softmax regression on the pixels."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from visus.core.batch import ClassPredictions
from visus.core.preprocessing import Preprocessing
from visus.core.record import Metric
from visus.core.seeds import permutation
from visus.data.loader import Loader
from visus.data.samples import Samples
from visus.run.models import create_model

if TYPE_CHECKING:
    from torch import Tensor

    from visus.tasks.classification import Classification, MultiLabel

PIXEL_SIDE = 16      # softmax regression sees images of this side: 256 pixels a channel
TRAIN_IMAGES = 5000  # and at most so many of them
L2 = 1e-3


@dataclass(frozen=True)
class Baseline:
    name: str
    description: str
    metrics: dict[str, Metric]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def baselines(samples: Samples, splits: dict[str, np.ndarray], preprocessing: Preprocessing,
              task: Classification | MultiLabel, seed: int) -> list[Baseline]:
    """Baselines measured on the test split; all they know comes from the training split."""
    targets = torch.from_numpy(np.asarray(samples.targets))
    train, test = targets[splits["train"]], targets[splits["test"]]
    index = torch.from_numpy(splits["test"])
    num_classes = len(samples.classes)
    made = []
    if targets.ndim == 1:
        prior = torch.bincount(train, minlength=num_classes).float() / len(train)
        chance = Metric(1 / num_classes)
        guess = f"a guess among {num_classes} classes: 1/{num_classes}"
        made.append(Baseline("chance", guess, {task.headline: chance}))
    else:
        prior = train.float().mean(0)
    constant = ClassPredictions(prior.expand(len(test), -1).contiguous(), test, index)
    made.append(_measured(task, constant, samples, "class prior",
                          "always the class frequencies of the training split, whatever the image"))
    pixels = _softmax_regression(samples, splits, preprocessing, seed, many=targets.ndim > 1)
    made.append(_measured(task, pixels, samples, "softmax regression",
                          f"a linear classifier on the pixels at {PIXEL_SIDE} x {PIXEL_SIDE}, trained on up to "
                          f"{TRAIN_IMAGES:,} images (L-BFGS, L2 {L2:g})"))
    return made


def _measured(task: Classification | MultiLabel, predictions: ClassPredictions, samples: Samples, name: str,
              description: str) -> Baseline:
    evaluation = task.evaluate(predictions, samples.classes, "test")
    return Baseline(name, description, evaluation.metrics)


def _softmax_regression(samples: Samples, splits: dict[str, np.ndarray], preprocessing: Preprocessing, seed: int,
                        many: bool) -> ClassPredictions:
    """L2-regularised maximum likelihood, found by L-BFGS from zero weights: a convex problem, one answer."""
    chosen = splits["train"]
    if len(chosen) > TRAIN_IMAGES:
        chosen = np.sort(chosen[permutation(len(chosen), seed, "baseline")[:TRAIN_IMAGES]])
    small = Preprocessing(size=(PIXEL_SIDE, PIXEL_SIDE), channels=preprocessing.channels, resize=preprocessing.resize,
                          crop_fraction=preprocessing.crop_fraction, mean=preprocessing.mean, std=preprocessing.std,
                          background=preprocessing.background)
    images, targets, _ = _all(Loader(samples, chosen, small, batch_size=512, shuffle=False, on_bad_image="skip"), small)
    model = create_model("softmax_regression", num_classes=len(samples.classes), in_channels=small.channels,
                         image_size=PIXEL_SIDE)
    for parameter in model.parameters():
        torch.nn.init.zeros_(parameter)
    weights = [p for p in model.parameters() if p.ndim > 1]
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=100, history_size=10, line_search_fn="strong_wolfe")
    loss_of = torch.nn.functional.binary_cross_entropy_with_logits if many else torch.nn.functional.cross_entropy

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(model(images), targets.float() if many else targets)
        loss = loss + L2 / 2 * sum(w.square().sum() for w in weights)
        loss.backward()
        return loss

    optimizer.step(closure)
    images, targets, index = _all(Loader(samples, splits["test"], small, batch_size=512, shuffle=False,
                                         on_bad_image="skip"), small)
    with torch.inference_mode():
        logits = model(images)
    return ClassPredictions(logits.sigmoid() if many else logits.softmax(1), targets, index)


def _all(loader: Loader, preprocessing: Preprocessing) -> tuple[Tensor, Tensor, Tensor]:
    batches = list(loader.epoch(0))
    return (torch.cat([preprocessing.normalise(b.images) for b in batches]), torch.cat([b.targets for b in batches]),
            torch.cat([b.index for b in batches]))

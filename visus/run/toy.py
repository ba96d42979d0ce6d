"""A linear classifier and a network of two layers on points in the plane: how often each is right, where it decides."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

from visus.core.seeds import uniform
from visus.core.validate import natural, positive
from visus.data.builtin.toy import toy_set

_COLORS = np.array([[31, 119, 180], [214, 100, 20], [44, 140, 60], [150, 70, 170], [120, 80, 60], [90, 90, 90]])
_REGULARISATION = 1e-3  # of CS231n's case study, as is the network; its 10,000 plain steps get as far as Adam's 500
_STEP_SIZE = 0.03


@dataclass(frozen=True)
class Boundary:
    """linear, network: shares of the points that are classified correctly. png: both, side by side."""

    linear: float
    network: float
    png: bytes


def decision_boundary(name: str = "spiral", hidden: int = 100, steps: int = 500, seed: int = 0, *, count: int = 100,
                      noise: float | None = None, side: int = 400) -> Boundary:
    """Both classifiers of the case study of CS231n's notes, trained on all points of the named set by `steps` of Adam:
    softmax regression, and a network with `hidden` rectified units.

    count: points per class. side: of each picture, in pixels. Raises UserError for unknown names and wrong numbers.
    """
    positive(hidden=hidden, steps=steps, side=side)
    natural(seed=seed)
    points, labels = toy_set(name, count, noise, seed)
    classes = int(labels.max()) + 1
    x, y = torch.from_numpy(points).float(), torch.from_numpy(labels)
    linear = nn.Linear(2, classes)
    network = nn.Sequential(nn.Linear(2, hidden), nn.ReLU(), nn.Linear(hidden, classes))
    shares, pictures = [], []
    for title, model in (("linear", linear), ("2 layers", network)):
        _start(model, seed)
        _descend(model, x, y, steps)
        with torch.no_grad():
            shares.append(float((model(x).argmax(1) == y).double().mean()))
        pictures.append(_picture(model, points, labels, f"{title}: {100 * shares[-1]:.0f} %", side))
    sheet = Image.new("RGB", (2 * side, side))
    for place, picture in enumerate(pictures):
        sheet.paste(picture, (place * side, 0))
    encoded = io.BytesIO()
    sheet.save(encoded, "PNG")
    return Boundary(shares[0], shares[1], encoded.getvalue())


def _start(model: nn.Module, seed: int) -> None:
    """Weights of standard deviation 0.1, biases of 0; a function of the seed alone."""
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            if parameter.ndim == 1:
                parameter.zero_()
                continue
            u = uniform(np.arange(parameter.numel()), seed, "toy", number, draws=2)
            normal = np.sqrt(-2 * np.log1p(-u[:, 0])) * np.cos(2 * np.pi * u[:, 1])
            parameter.copy_(torch.from_numpy(0.1 * normal).view(parameter.shape))


def _descend(model: nn.Module, x: Tensor, y: Tensor, steps: int) -> None:
    weights = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    biases = [parameter for parameter in model.parameters() if parameter.ndim == 1]
    groups: list[dict[str, Any]] = [{"params": weights, "weight_decay": _REGULARISATION}, {"params": biases}]
    optimizer = torch.optim.Adam(groups, lr=_STEP_SIZE)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()


def _picture(model: Callable[[Tensor], Tensor], points: np.ndarray, labels: np.ndarray, title: str,
             side: int) -> Image.Image:
    """The points on the plane, which is coloured by what the model says there."""
    low, high = points.min(0), points.max(0)
    middle, reach = (low + high) / 2, 0.6 * float((high - low).max())
    place = (np.arange(side) + 0.5) / side * 2 - 1
    grid = np.stack(np.meshgrid(middle[0] + reach * place, middle[1] - reach * place), -1).reshape(-1, 2)
    with torch.no_grad():
        said = model(torch.from_numpy(grid).float()).argmax(1).numpy()
    plane = 255 - (255 - _COLORS[said % len(_COLORS)]) * 0.35
    image = Image.fromarray(plane.reshape(side, side, 3).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    radius = max(2, side / 130)
    spots = (points - middle) / reach * [1, -1]
    for (x, y), label in zip((spots + 1) * side / 2, labels.tolist(), strict=True):
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), outline=(40, 40, 40),
                     fill=tuple(_COLORS[label % len(_COLORS)].tolist()))
    draw.text((8, 6), title, fill=(20, 20, 20), font=ImageFont.load_default(max(10, side // 22)))
    return image

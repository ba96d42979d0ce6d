"""A transposed convolution whose filter is a tent enlarges by bilinear interpolation: a start that can then learn."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from markupsafe import Markup

from visus.foundations.convolution import transposed_convolution_backward, transposed_convolution_forward
from visus.foundations.upsampling import bilinear_filter, bilinear_weights
from visus.report.demo import Drawing, Shown, Table, above, below
from visus.report.sketch import grid, plot, sheet, words
from visus.run.demo import Tell

TOPIC = "pooling and upsampling"
SUMMARY = "a transposed convolution that starts as bilinear interpolation and learns to be sharper"
SOURCE = "Long, Shelhamer, Darrell, CVPR 2015, arXiv:1411.4038, section 3.3; Xie and Tu, ICCV 2015, arXiv:1504.06375"

FACTORS = (2, 3, 4, 8)


def make(seed: int, advance: Tell) -> Shown:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(1, 3, 8, 8))
    facts = []
    for factor in FACTORS:
        ours, theirs = _enlarged(x, factor), _interpolated(x, factor)
        inside = (..., slice(factor, -factor), slice(factor, -factor))
        facts.append(below(f"factor {factor}: against torch's bilinear interpolation, away from the rim",
                           float(np.abs(ours[inside] - theirs[inside]).max()), 1e-12))
    rim = np.abs(_enlarged(x, 2) - _interpolated(x, 2))
    padded = _enlarged(np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge"), 2)[:, :, 2:-2, 2:-2]
    facts += [
        above("factor 2: at the rim, where the filter meets zeros, they differ by", float(rim[:, :, 0].max()), 0.1),
        below("unless the map is first padded by copies of its edge", float(np.abs(padded - _interpolated(x, 2)).max()),
              1e-12),
        below("the filter of factor 2 against the outer product of 1/4, 3/4, 3/4, 1/4", float(np.abs(
            bilinear_filter(2) - np.outer([1, 3, 3, 1], [1, 3, 3, 1]) / 16).max()), 1e-15),
        below("a flat map stays flat away from the rim", float(np.abs(
            _enlarged(np.ones((1, 1, 6, 6)), 4)[:, :, 4:-4, 4:-4] - 1).max()), 1e-12),
    ]
    advance(1, 2)
    picture = _picture()
    losses, learnt = _learn(picture, rng)
    small = _small(picture)
    start, random = losses["bilinear start"], losses["random start"]
    facts += [
        above("learning to undo an average pooling: first error of a random start over that of the bilinear start",
              random[0] / start[0], 2),
        below("error after learning over the bilinear start", start[-1] / start[0], 0.9),
    ]
    advance(2, 2)
    table = Table("The filter by its factor", ["factor", "side", "padding", "largest weight", "sum of weights"], [
        [factor, len(bilinear_filter(factor)), -(-(factor - 1) // 2), f"{bilinear_filter(factor).max():.4f}",
         f"{bilinear_filter(factor).sum():.0f}"] for factor in FACTORS])
    return Shown(
        "Bilinear initialisation",
        "Bilinear interpolation is linear and the same everywhere, so it is a transposed convolution: each value is "
        "stamped with a tent, and neighbouring tents add up to straight lines between the values. Set the filters of a "
        "decoder to tents, each channel to itself, and the untrained network already enlarges its maps sensibly; "
        "training may then make the filters better than a tent.\n\n"
        "Below, one filter learns to undo an average pooling by two of a drawn picture, by gradient descent with the "
        "hand-written backward pass.",
        [Drawing(_filters(), "Filters for factors 2, 3 and 4, in sixteenths, ninths and so on.", "Tents", wide=True),
         Drawing(_tents(), "The stamped tents and their sum, which runs straight from value to value.", "Along a line"),
         Drawing(plot([(name, [(float(i), v) for i, v in enumerate(values)]) for name, values in losses.items()],
                      x_label="gradient steps", y_label="mean squared error", log_y=True, title="Learning curves"),
                 "Both learn; one starts where interpolation is.", "Learning from both starts"),
         Drawing(_panels({"pooled": small, "bilinear": _enlarged(small[None, None], 2)[0, 0], "learnt": learnt,
                          "original": picture}), "The picture pooled by two, enlarged by the tent, by the learnt "
                 "filter, and as it was.", "What is learnt", wide=True)],
        facts, [table])


def _enlarged(x: np.ndarray, factor: int) -> np.ndarray:
    channels = x.shape[1]
    return transposed_convolution_forward(x, bilinear_weights(channels, factor), np.zeros(channels), factor,
                                          -(-(factor - 1) // 2))[0]


def _interpolated(x: np.ndarray, factor: int) -> np.ndarray:
    return F.interpolate(torch.tensor(x), scale_factor=factor, mode="bilinear").numpy()


def _picture() -> np.ndarray:
    """[24, 24] in [0, 1]: a disc with a hole, soft at its edges."""
    y, x = np.mgrid[:24, :24]
    far = np.hypot(y - 11.5, x - 11.5)
    return 1 / (1 + np.exp(2 * (far - 9))) - 1 / (1 + np.exp(2 * (far - 4)))


def _small(picture: np.ndarray) -> np.ndarray:
    return picture.reshape(12, 2, 12, 2).mean(axis=(1, 3))


def _learn(picture: np.ndarray, rng: np.random.Generator) -> tuple[dict[str, list[float]], np.ndarray]:
    """Gradient descent on the 4 x 4 filter, from the tent and from random weights of the same size."""
    small, target = _small(picture)[None, None], picture[None, None]
    tent = bilinear_weights(1, 2)
    losses: dict[str, list[float]] = {}
    learnt = picture
    for name, start in (("bilinear start", tent), ("random start", rng.normal(size=tent.shape) * tent.std())):
        weights, losses[name] = start.copy(), []
        for _ in range(200):
            out, cache = transposed_convolution_forward(small, weights, np.zeros(1), 2, 1)
            losses[name].append(float(np.mean((out - target) ** 2)))
            weights -= 0.5 * transposed_convolution_backward(2 * (out - target) / target.size, cache)[1]
        if name == "bilinear start":
            learnt = out[0, 0]
    return losses, learnt


def _filters() -> Markup:
    cell, x, parts = 36, 14.0, []
    for factor in (2, 3, 4):
        values = bilinear_filter(factor)
        parts += [words(f"factor {factor}, in 1/{factor ** 2 * (4 if factor % 2 == 0 else 1)}", x, 22),
                  grid(values * factor ** 2 * (4 if factor % 2 == 0 else 1), x, 32, cell, form=".0f")]
        x += len(values) * cell + 40
    return sheet(x, 46 + 8 * cell, *parts, title="Bilinear filters")


def _tents() -> Markup:
    values, factor, fine = [1.0, 3.0, 2.0, 2.5], 4, bilinear_filter(4)[:, 3] / bilinear_filter(4)[3, 3] * 0.875
    curves, total = [], np.zeros(4 * factor + 8)
    for place, value in enumerate(values):
        stamped = np.zeros_like(total)
        stamped[place * factor:place * factor + 8] = value * fine
        total += stamped
        curves.append((f"{value:g}", [(float(i), float(v)) for i, v in enumerate(stamped) if v]))
    curves.append(("sum", [(float(i), float(v)) for i, v in enumerate(total)]))
    return plot(curves, x_label="place in the large map", y_label="value", title="Tents that add up to straight lines")


def _panels(found: dict[str, np.ndarray]) -> Markup:
    x, parts, side = 14.0, [], 168
    for name, values in found.items():
        parts += [words(name, x, 22), grid(values, x, 32, side / values.shape[0], form=None, most=1)]
        x += side + 24
    return sheet(x, 46 + side, *parts, title="A picture enlarged")

"""Shift the image and the map shifts with it; padding breaks this at the border, stride and pooling at odd shifts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from markupsafe import Markup

from visus.foundations.convolution import convolution_forward, max_pool_forward
from visus.report.demo import Drawing, Shown, Table, above, below, shown
from visus.report.sketch import arrow, grid, plot, sheet, words
from visus.run.demo import Tell

TOPIC = "convolution"
SUMMARY = "shift the image and the map shifts along; where padding, stride and pooling break that"
SOURCE = ("Goodfellow et al., Deep Learning (2016), section 9.2; Azulay and Weiss, JMLR 20 (2019); Zhang, ICML 2019, "
          "arXiv:1904.11486, for what stride does to it")

SIDE, SHIFTS = 24, range(9)
Layer = Callable[[np.ndarray], np.ndarray]


def make(seed: int, advance: Tell) -> Shown:
    rng = np.random.default_rng(seed)
    image = _image(rng)
    kernel = rng.normal(size=(3, 3))
    advance(1, 3)
    layers: dict[str, tuple[Layer, int]] = {  # and the stride of each
        "stride 1": (lambda x: _convolve(_wrap(x), kernel), 1),
        "stride 2": (lambda x: _convolve(_wrap(x), kernel, stride=2), 2),
        "stride 4": (lambda x: _convolve(_wrap(x), kernel, stride=4), 4),
        "max-pool 2": (lambda x: _pool(np.maximum(0, _convolve(_wrap(x), kernel))), 2),
    }
    errors = {name: [(float(by), _error(layer, image, by, stride)) for by in SHIFTS]
              for name, (layer, stride) in layers.items()}
    advance(2, 3)

    padded = _difference(lambda x: _convolve(np.pad(x, 1), kernel), image, 3)
    inside, border = padded[1:-1, 4:-1], np.concatenate([padded[0], padded[-1], padded[:, 0], padded[:, -1]])
    turned = _convolve(np.rot90(image), kernel) - np.rot90(_convolve(image, kernel))
    round_ = kernel + np.rot90(kernel) + np.rot90(kernel, 2) + np.rot90(kernel, 3)
    turned_round = _convolve(np.rot90(image), round_) - np.rot90(_convolve(image, round_))
    means = [float(np.maximum(0, _convolve(_wrap(np.roll(image, by, 1)), kernel)).mean()) for by in SHIFTS]
    advance(3, 3)

    facts = [
        below("stride 1, the image on a ring: largest error over all shifts", max(e for _, e in errors["stride 1"]),
              1e-12),
        below("stride 2 at even shifts", max(e for by, e in errors["stride 2"] if by % 2 == 0), 1e-12),
        above("stride 2 at odd shifts, smallest error", min(e for by, e in errors["stride 2"] if by % 2), 0.05),
        shown("stride 4 is exact at shifts", [by for by, e in errors["stride 4"] if e < 1e-12] == [0, 4, 8],
              str([int(by) for by, e in errors["stride 4"] if e < 1e-12]), "[0, 4, 8]"),
        shown("max-pooling by 2 is exact at shifts", [by for by, e in errors["max-pool 2"] if e < 1e-12]
              == [0, 2, 4, 6, 8], str([int(by) for by, e in errors["max-pool 2"] if e < 1e-12]), "[0, 2, 4, 6, 8]"),
        below("zero padding: error away from the border", float(np.abs(inside).max()), 1e-12),
        above("zero padding: error at the border", float(np.abs(border).max()), 0.001),
        below("a mean over the whole map does not move at all (invariance), spread over the shifts",
              max(means) - min(means), 1e-12),
        above("turned by 90 degrees instead: the map does not turn along, error", float(np.abs(turned).max()), 0.05),
        below("unless the filter is its own turn", float(np.abs(turned_round).max()), 1e-12),
    ]
    table = Table("What each step keeps", ["step", "shift of the image", "shift of the map"], [
        ["convolution, stride 1", "any", "the same"], ["zero padding", "any", "the same, but not at the border"],
        ["stride s", "multiples of s", "divided by s"], ["max-pooling by s", "multiples of s", "divided by s"],
        ["mean over the map", "any", "none: the answer stays"]])
    return Shown(
        "Translation equivariance",
        "A convolution uses the same weights everywhere, so it commutes with a shift: convolve the shifted image, or "
        "shift the convolved image, and the result is the same. This is equivariance. Averaging over the map makes it "
        "invariance: the answer no longer says where.\n\n"
        "Real networks keep it only in part. Zero padding marks the border. A stride looks at every second place "
        "only, so that a shift by one shows it other places: the map is not a shifted copy, it is another one.",
        [Drawing(_square(image, kernel), "Both ways around: down then right, right then down.", "The two orders agree",
                 wide=True),
         Drawing(plot(list(errors.items()), x_label="shift in pixels", y_label="relative error", width=520,
                      ranges=(0, 8, 0, None), title="Error of equivariance by shift"),
                 "0 where the layer commutes with the shift. Stride s does at multiples of s only.",
                 "What stride and pooling do"),
         Drawing(_map(np.abs(padded)), "Difference of the two orders with zero padding, for a shift by 3: only where "
                 "the window has touched the border.", "What padding does")],
        facts, [table])


def _image(rng: np.random.Generator) -> np.ndarray:
    """[SIDE, SIDE] in [0, 1]: a ring and a bar on faint noise."""
    y, x = np.mgrid[:SIDE, :SIDE]
    ring = np.exp(-(np.hypot(y - 10, x - 9) - 5) ** 2 / 2)
    bar = ((np.abs(y - 17) < 1.5) & (x > 5) & (x < 19)).astype(float)
    return np.clip(np.maximum(ring, bar) + 0.05 * rng.random((SIDE, SIDE)), 0, 1)


def _convolve(x: np.ndarray, kernel: np.ndarray, stride: int = 1) -> np.ndarray:
    return convolution_forward(x[None, None], kernel[None, None], np.zeros(1), stride)[0][0, 0]


def _pool(x: np.ndarray) -> np.ndarray:
    return max_pool_forward(x[None, None], 2, 2)[0][0, 0]


def _wrap(x: np.ndarray) -> np.ndarray:
    """Padded by what lies on the other side, so that np.roll is a true shift."""
    return np.pad(x, 1, mode="wrap")


def _difference(layer: Layer, image: np.ndarray, by: int) -> np.ndarray:
    return layer(np.roll(image, by, 1)) - np.roll(layer(image), by, 1)


def _error(layer: Layer, image: np.ndarray, by: int, stride: int) -> float:
    """|layer(shifted) - shifted layer| / |layer|, for the whole shift of the map that is nearest."""
    usual = layer(image)
    return float(np.linalg.norm(layer(np.roll(image, by, 1)) - np.roll(usual, by // stride, 1))
                 / np.linalg.norm(usual))


def _square(image: np.ndarray, kernel: np.ndarray) -> Markup:
    cell, gap, by = 7, 150, 4
    side = SIDE * cell
    moved = np.roll(image, by, 1)
    panels = [(image, 20, 30, "image"), (_convolve(_wrap(image), kernel), 20 + side + gap, 30, "its map"),
              (moved, 20, 80 + side, f"image shifted by {by}"),
              (_convolve(_wrap(moved), kernel), 20 + side + gap, 80 + side, "its map: the one above, shifted")]
    parts = []
    for values, x, y, name in panels:
        parts += [grid(values, x, y, cell, form=None), words(name, x, y - 8)]
    right, low = 20 + side, 30 + side
    parts += [arrow(right + 14, 30 + side / 2, right + gap - 14, 30 + side / 2, "edge first"),
              words("convolve", right + gap / 2, 22 + side / 2, "middle"),
              arrow(right + 14, 80 + 1.5 * side, right + gap - 14, 80 + 1.5 * side, "edge first"),
              words("convolve", right + gap / 2, 72 + 1.5 * side, "middle"),
              arrow(20 + side / 2, low + 6, 20 + side / 2, low + 28, "edge second"),
              arrow(20 + 1.5 * side + gap, low + 6, 20 + 1.5 * side + gap, low + 28, "edge second"),
              words("shift", 30 + side / 2, low + 20), words("shift", 30 + 1.5 * side + gap, low + 20)]
    return sheet(70 + 2 * side + gap, 100 + 2 * side, *parts, title="Convolution and shift commute")


def _map(values: np.ndarray) -> Markup:
    return sheet(20 + values.shape[1] * 13, 20 + values.shape[0] * 13, grid(values, 10, 10, 13, form=None),
                 title="Difference with zero padding")

"""Checks of the lab features."""

from __future__ import annotations

import colorsys
from collections.abc import Callable
from functools import partial

import numpy as np

from visus.foundations.layers import softmax_loss
from visus.labs.checks.convolution import enlarged
from visus.labs.contract import Case, Digits, Fact, Inputs, Lab, Mistake, Module, Part, Shown, Tiles

Array = np.ndarray


def _hue(image: Array) -> Array:
    """By Python's own colorsys, pixel by pixel."""
    flat = [colorsys.rgb_to_hsv(*(float(v) for v in pixel))[0] for pixel in image.reshape(-1, 3)]
    return np.array(flat).reshape(image.shape[:2])


def _hue_wrong(image: Array, *, divide: bool = True, wrap: bool = True, offsets: tuple[int, ...] = (0, 2, 4)) -> Array:
    r, g, b = np.moveaxis(image, -1, 0)
    most, spread = image.max(axis=-1), image.max(axis=-1) - image.min(axis=-1)
    safe = np.where(spread == 0, 1, spread)
    first = (g - b) / safe
    h = np.where(most == r, first % 6 if wrap else first, np.where(most == g, (b - r) / safe + offsets[1],
                                                                   (r - g) / safe + offsets[2]))
    return np.where(spread == 0, 0, h / 6 if divide else h)


def _histogram(hues: Array, bins: int) -> Array:
    return np.histogram(hues, bins=bins, range=(0, 1))[0] / hues.size


def _slopes(grey: Array, *, half: bool = False, flip: bool = False) -> tuple[Array, Array]:
    gx, gy = np.zeros_like(grey), np.zeros_like(grey)
    gx[:, 1:-1] = grey[:, 2:] - grey[:, :-2]
    gy[1:-1] = grey[2:] - grey[:-2]
    scale = 0.5 if half else 1.0
    return (scale * gy, scale * gx) if flip else (scale * gx, scale * gy)


def _gradients(grey: Array) -> tuple[Array, Array]:
    gx, gy = _slopes(grey)
    return np.hypot(gx, gy), np.degrees(np.arctan2(gy, gx)) % 180


def _hog(grey: Array, cell: int, bins: int, *, count: bool = False, mean: bool = False, signed: bool = False) -> Array:
    length, direction = _gradients(grey)
    if signed:
        gx, gy = _slopes(grey)
        direction = np.degrees(np.arctan2(gy, gx)) % 360 / 2
    rows, columns = grey.shape[0] // cell, grey.shape[1] // cell
    place = np.minimum((direction / (180 / bins)).astype(int), bins - 1)
    weight = np.ones_like(length) if count else length
    parts = np.where(place[..., None] == np.arange(bins), weight[..., None], 0)[:rows * cell, :columns * cell]
    out = parts.reshape(rows, cell, columns, cell, bins).sum(axis=(1, 3))
    return out / cell ** 2 if mean else out


def _turned(grey: Array) -> tuple[None, Array]:
    gx, gy = _slopes(grey, flip=True)
    return None, np.degrees(np.arctan2(gy, gx)) % 180


def _image(h: int, w: int) -> Callable[[np.random.Generator], Inputs]:
    def make(rng: np.random.Generator) -> Inputs:
        image = rng.random((h, w, 3))
        image[0, 0] = 0.5  # a grey
        image[0, 1] = (0.9, 0.1, 0.4)  # between red and blue: the hue wraps around
        return {"image": image}

    return make


def _grey(h: int, w: int, **more: int) -> Callable[[np.random.Generator], Inputs]:
    return lambda rng: {"grey": rng.random((h, w)), **more}


def _draw(my: Module, digits: Digits) -> Shown:
    (x, y), (xv, yv) = ((images[:200], labels[:200]) for images, labels in (digits.train, digits.val))

    def described(images: Array) -> Array:
        return np.stack([my.hog(image, 2, 6).ravel() for image in images])

    def accuracy(train: Array, val: Array) -> float:
        mean, spread = train.mean(axis=0), train.std(axis=0) + 1e-3
        a, b = (np.hstack([(f - mean) / spread, np.ones((len(f), 1))]) for f in (train, val))
        w = np.zeros((a.shape[1], 10))
        for _ in range(100):
            w -= 0.2 * (a.T @ softmax_loss(a @ w, y)[1] + 1e-3 * w)
        return float(((b @ w).argmax(axis=1) == yv).mean())

    hogs, pixels = accuracy(described(x), described(xv)), accuracy(x.reshape(len(x), -1), xv.reshape(len(xv), -1))
    side = 200
    v, u = np.mgrid[-1:1:complex(0, side), -1:1:complex(0, side)]
    angle = (np.arctan2(v, u) / (2 * np.pi)) % 1
    wheel = np.stack([np.clip(np.abs((6 * angle + shift) % 6 - 3) - 1, 0, 1) for shift in (0, 4, 2)], axis=-1)
    found = my.hue(wheel)
    shares = my.hue_histogram(found[np.hypot(u, v) < 1][None], 12)
    big = enlarged(digits.train[0][0], 6)
    length, direction = my.gradients(big)
    cells = my.hog(big, 6, 6)
    even = float(shares.max() - shares.min())
    return Shown(
        "A colour circle through your hue, a digit through your gradients, and a linear classifier on what your HOG "
        "says of 200 digits (cells of 2 x 2 pixels, 6 directions), against the same classifier on pixels.",
        (Tiles("Hue", "A colour circle, and its hue by your function: one turn from 0 to 1.",
               [("image", wheel), ("hue", found)]),
         Tiles("Gradients", "A digit, the length of its gradients, and their direction where there are any.",
               [("image", big), ("length", length), ("direction", np.where(length > 0, direction, 0))]),
         Tiles("HOG", "Six directions, cell by cell: bright where edges of that direction lie.",
               [(f"{30 * k} to {30 * k + 30}\N{DEGREE SIGN}", cells[:, :, k]) for k in range(6)])),
        (Fact("difference between the fullest and the emptiest bin of the circle", f"{even:.4f}", "below 0.01",
              even < 0.01),
         Fact("right on 200 others, your HOG and pixels", f"{hogs:.1%}, {pixels:.1%}", "HOG at least 85%",
              hogs >= 0.85)))


LAB = Lab(
    name="features", number=6, title="Image features", teaches="histograms of hues and of oriented gradients",
    source="Dalal and Triggs 2005; Stanford CS231n, assignment 1, Q5",
    parts=(
        Part(name="hue", outputs=("hue",), right=_hue, tolerance=1e-9,
             cases=(Case("4 x 5 pixels, one of them grey", _image(4, 5)), Case("6 x 3 pixels", _image(6, 3))),
             mistakes=(Mistake("It is not divided by 6", lambda i: _hue_wrong(i, divide=False)),
                       Mistake("The modulo is missing: where red is largest and blue exceeds green, h is below 0",
                               lambda i: _hue_wrong(i, wrap=False)),
                       Mistake("The + 2 and + 4 are missing: each third of the circle begins at its own colour",
                               lambda i: _hue_wrong(i, offsets=(0, 0, 0))),
                       Mistake("The + 2 and + 4 are swapped: green is 2, blue is 4",
                               lambda i: _hue_wrong(i, offsets=(0, 4, 2))),
                       Mistake("The channels are read as blue, green, red", lambda i: _hue(i[..., ::-1])))),
        Part(name="hue_histogram", outputs=("histogram",), right=_histogram,
             cases=(Case("6 x 7 pixels, 5 bins", lambda rng: {"hues": rng.random((6, 7)), "bins": 5}),
                    Case("hues up to 0.4 only", lambda rng: {"hues": 0.1 + 0.3 * rng.random((5, 5)), "bins": 8})),
             mistakes=(Mistake("These are counts: divide by the number of pixels", lambda h, n: _histogram(h,
                                                                                                           n) * h.size),
                       Mistake("It is a density, which adds up to 1 only times the width of a bin",
                               lambda h, n: _histogram(h, n) * n),
                       Mistake("The bins span the hues that occur: they span [0, 1), range=(0, 1)",
                               lambda h, n: np.histogram(h, bins=n)[0] / h.size))),
        Part(name="gradients", outputs=("length", "direction"), right=_gradients,
             cases=(Case("5 x 7 pixels", _grey(5, 7)), Case("6 x 6 pixels", _grey(6, 6))),
             mistakes=(Mistake("The differences are halved: here right minus left", lambda g: (
                           np.hypot(*_slopes(g, half=True)), None)),
                       Mistake("The length is the sum of both differences: the root of their squares", lambda g: (
                           np.abs(_slopes(g)[0]) + np.abs(_slopes(g)[1]), None)),
                       Mistake("gx and gy are swapped: gx runs along a row, np.arctan2(gy, gx)", _turned),
                       Mistake("The direction keeps its sign: take it modulo 180", lambda g: (
                           None, np.degrees(np.arctan2(*_slopes(g)[::-1])))),
                       Mistake("The direction runs to 360: take it modulo 180", lambda g: (
                           None, np.degrees(np.arctan2(*_slopes(g)[::-1])) % 360)),
                       Mistake("The direction is in radians: np.degrees", lambda g: (
                           None, np.radians(_gradients(g)[1]))),
                       Mistake("The direction is in radians, modulo 180: np.degrees", lambda g: (
                           None, np.arctan2(*_slopes(g)[::-1]) % 180)))),
        Part(name="hog", outputs=("hog",), right=_hog,
             cases=(Case("8 x 8 pixels, cells of 4, 6 bins", _grey(8, 8, cell=4, bins=6)),
                    Case("9 x 14 pixels, cells of 3, 9 bins", _grey(9, 14, cell=3, bins=9))),
             mistakes=(Mistake("It counts the pixels: add their gradients' lengths", partial(_hog, count=True)),
                       Mistake("It is averaged over the cell: the sum", partial(_hog, mean=True)),
                       Mistake("The directions run over 360 degrees: without their sign, over 180",
                               partial(_hog, signed=True)),
                       Mistake("The cells are transposed: rows first", lambda g, c, b: _hog(g, c, b).swapaxes(0, 1)))),
    ),
    draw=_draw)

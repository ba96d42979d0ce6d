"""Lab features: what a linear classifier should see instead of pixels.

Two descriptions of an image that do not care where exactly things stand:

A histogram of hues says which colours there are, whatever the light. The hue of a pixel with red r, green g, blue b in
[0, 1] is an angle around the colour circle, as a share of it. With M the largest and m the smallest of the three:

    h = ((g - b) / (M - m)) mod 6    where M = r
        (b - r) / (M - m) + 2        where M = g      (and not r)
        (r - g) / (M - m) + 4        where M = b      (and neither r nor g)
    hue = h / 6                      and 0 where M = m, a grey

A histogram of oriented gradients (HOG) says which edges there are, cell by cell. The gradient at a pixel is the
difference of its right and its left neighbour, and of its lower and its upper one:

    gx[i, j] = grey[i, j + 1] - grey[i, j - 1],     gy[i, j] = grey[i + 1, j] - grey[i - 1, j]

with 0 on the border where a neighbour is missing. Its direction is taken without its sign, 0 to 180 degrees: an edge is
the same from dark to light and back.

    visus lab check features.py
    visus lab show features.py

Source: Dalal and Triggs 2005 (HOG); Stanford CS231n, assignment 1 (features).
"""

from __future__ import annotations

import numpy as np

from visus.labs import NotWritten

LAB = "features"


def hue(image: np.ndarray) -> np.ndarray:
    """The hue of each pixel, in [0, 1). image: [H, W, 3] in [0, 1]; returns [H, W]. np.where chooses by entry."""
    raise NotWritten


def hue_histogram(hues: np.ndarray, bins: int) -> np.ndarray:
    """The share of pixels in each of `bins` equal parts of [0, 1): [bins], which add up to 1. hues: [H, W]."""
    raise NotWritten


def gradients(grey: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The length of the gradient at each pixel, and its direction in degrees, in [0, 180). grey: [H, W].

    Hint: np.arctan2(gy, gx) in degrees, modulo 180.
    """
    raise NotWritten


def hog(grey: np.ndarray, cell: int, bins: int) -> np.ndarray:
    """For each cell of cell x cell pixels the lengths of its gradients by direction: [H // cell, W // cell, bins].

    Bin k holds the sum of the lengths whose direction lies in [180 k / bins, 180 (k + 1) / bins). Rows and columns that
    fill no cell are left out.
    """
    raise NotWritten

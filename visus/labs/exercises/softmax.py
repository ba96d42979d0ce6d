"""Lab softmax: a linear classifier whose scores are turned into probabilities.

The scores s = x W of an image become probabilities p_j = e^s_j / (sum over k of e^s_k). The loss of an image is
-log p_y, y its right class: 0 where the classifier is sure and right, large where it is sure and wrong.

    loss = (mean of -log p_y over the N images) + reg * (sum of all W^2)

e^s overflows for s above 709. Taking the same number off all scores of an image changes no probability: take off the
largest, and nothing can overflow. The gradient is among the simplest that there are: the loss of an image grows with
score j by p_j, and with the right class's score by p_y - 1.

    visus lab check softmax.py
    visus lab show softmax.py

Source: Stanford CS231n, linear classification and assignment 1.
"""

from __future__ import annotations

import numpy as np

from visus.labs import NotWritten

LAB = "softmax"


def probabilities(scores: np.ndarray) -> np.ndarray:
    """Each row of scores [N, C] as probabilities [N, C], which add up to 1. Scores of 1,000 must not break it.

    Hint: keepdims=True keeps the maximum of each row as a column [N, 1].
    """
    raise NotWritten


def softmax_loss_naive(w: np.ndarray, x: np.ndarray, labels: np.ndarray, reg: float) -> tuple[float, np.ndarray]:
    """The loss and its gradient by loops over images and classes.

    w: [D, C] weights; x: [N, D] images; labels: [N] the right classes; reg: strength of the penalty.
    Returns the loss, one number, and dw: [D, C].

    Hints: log p_y = s_y - max - log(sum of e^(s - max)) is safe where log(p_y) is log(0). Column j of dw grows by
    (p_j - [j is the right class]) * x.
    """
    raise NotWritten


def softmax_loss(w: np.ndarray, x: np.ndarray, labels: np.ndarray, reg: float) -> tuple[float, np.ndarray]:
    """The same without a loop. The gradient of the scores is (p - y) / N, with y a 1 for each right class."""
    raise NotWritten


def predict(w: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The most probable class of each image: [N] whole numbers. Are the probabilities needed for that?"""
    raise NotWritten

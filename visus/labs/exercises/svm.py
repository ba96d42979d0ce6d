"""Lab svm: a linear classifier under the multiclass hinge loss, by loops and by arrays.

An image is a row of D numbers. The classifier gives it one score a class, s = x W, and the right class should score at
least 1 more than every other. What is missing to that is the loss of the image:

    L_i = sum over the wrong classes j of max(0, s_j - s_y + 1),          y the right class

    loss = (mean of L_i over the N images) + reg * (sum of all W^2)

Its gradient says how the loss grows with each weight. Take one wrong class j of one image whose margin s_j - s_y + 1 is
above 0: it grows with the column W[:, j] by x, and falls with the column W[:, y] by x. Where the margin is not above 0,
nothing depends on W.

Write the loops first: they are slow, but they are the definition. Then do the same with arrays, where no line says
`for`: a comparison of the two is the best test that there is.

    visus lab check svm.py
    visus lab show svm.py

Source: Stanford CS231n, linear classification and assignment 1; Weston and Watkins 1999.
"""

from __future__ import annotations

import numpy as np

from visus.labs import NotWritten

LAB = "svm"


def svm_loss_naive(w: np.ndarray, x: np.ndarray, labels: np.ndarray, reg: float) -> tuple[float, np.ndarray]:
    """The loss and its gradient, by loops over images and classes.

    w: [D, C] weights; x: [N, D] images; labels: [N] the right classes, 0 to C-1; reg: strength of the penalty.
    Returns the loss, one number, and dw: [D, C], its gradient in w.

    Hints: begin with dw = np.zeros_like(w), add to two of its columns for each margin above 0, divide by N at the end.
    The penalty has a gradient too.
    """
    raise NotWritten


def svm_loss(w: np.ndarray, x: np.ndarray, labels: np.ndarray, reg: float) -> tuple[float, np.ndarray]:
    """The same without a loop. Shapes and outputs as in svm_loss_naive.

    Hints: scores[np.arange(N), labels] picks the score of each right class, [N]; [:, None] makes it a column [N, 1]
    that can be taken off all scores. With a matrix of 1 for each margin above 0, and for each right class minus the
    number of those in its row, dw is one matrix product.
    """
    raise NotWritten


def predict(w: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The class of the largest score of each image. w: [D, C]; x: [N, D]; returns [N] whole numbers."""
    raise NotWritten


def sgd_step(w: np.ndarray, x: np.ndarray, labels: np.ndarray, reg: float, lr: float) -> tuple[np.ndarray, float]:
    """One step of gradient descent on a batch: the new weights (w itself stays as it was), and the loss before the
    step.

    Use svm_loss. lr: the learning rate, how far to go against the gradient.
    """
    raise NotWritten

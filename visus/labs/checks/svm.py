"""Checks of the lab svm."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from visus.foundations import layers as L
from visus.labs.contract import Case, Digits, Fact, Inputs, Lab, Lines, Mistake, Module, Pace, Part, Shown, Tiles


def _loss(w: np.ndarray, x: np.ndarray, labels: np.ndarray, reg: float, *, divide: bool = True, divide_dw: bool = True,
          penalty: float = 1.0, slope: float = 2.0, margin: float = 1.0, own: bool = False,
          count: bool = True) -> tuple[float, np.ndarray]:
    """The right answer, or with its switches the mistakes."""
    scores = x @ w
    loss, dscores = L.svm_loss(scores, labels, margin)
    rows = np.arange(len(x))
    if own:  # the right class takes part: its margin is always 1
        loss += margin
    if not count:
        dscores[rows, labels] = -1.0 * (dscores > 0).any(axis=1) / len(x)
    dw = x.T @ dscores
    return (loss * (1 if divide else len(x)) + penalty * reg * float((w ** 2).sum()),
            dw * (1 if divide_dw else len(x)) + slope * reg * w)


def _make(n: int, d: int, c: int, reg: float) -> Callable[[np.random.Generator], Inputs]:
    def make(rng: np.random.Generator) -> Inputs:
        return {"w": rng.normal(size=(d, c)), "x": rng.normal(size=(n, d)), "labels": rng.integers(c, size=n),
                "reg": reg}

    return make


CASES = (
    Case("6 images of 5 numbers, 4 classes, no penalty", _make(6, 5, 4, 0.0), {6: "the number of images"}),
    Case("7 images of 4 numbers, 5 classes, reg 0.3", _make(7, 4, 5, 0.3), {7: "the number of images"}),
    Case("1 image, 3 classes, reg 0.1", _make(1, 6, 3, 0.1)),
)
MISTAKES = (
    Mistake("The sum over images is not divided by their number N", partial(_loss, divide=False, divide_dw=False)),
    Mistake("The right class takes part in the sum: leave out j == y, its margin is always 1", partial(_loss,
                                                                                                       own=True)),
    Mistake("The penalty is missing from the loss: add reg * np.sum(w * w)", partial(_loss, penalty=0.0)),
    Mistake("The penalty is halved: here it is reg * sum of w^2, without 1/2", partial(_loss, penalty=0.5)),
    Mistake("The gradient lacks that of the penalty: add 2 * reg * w", partial(_loss, slope=0.0)),
    Mistake("The gradient of the penalty lacks its factor 2: reg * w^2 has the slope 2 * reg * w",
            partial(_loss, slope=1.0)),
    Mistake("The margin is left out: it is s_j - s_y + 1", partial(_loss, margin=0.0)),
    Mistake("The right class's column falls by x once for every margin above 0, not once an image",
            partial(_loss, count=False)),
    Mistake("The gradient is not divided by N as the loss is (the penalty's is not to be)", partial(_loss,
                                                                                                    divide_dw=False)),
    Mistake("The gradient of the right class is missing: its column falls by x for each margin above 0",
            lambda w, x, labels, reg: (None, x.T @ np.maximum(L.svm_loss(x @ w, labels)[1], 0) + 2 * reg * w)),
)


def _step(w: np.ndarray, x: np.ndarray, labels: np.ndarray, reg: float, lr: float) -> tuple[np.ndarray, float]:
    loss, dw = _loss(w, x, labels, reg)
    return w - lr * dw, loss


def _draw(my: Module, digits: Digits) -> Shown:
    (x, y), (xv, yv) = ((images.reshape(len(images), -1), labels) for images, labels in (digits.train, digits.val))
    x, xv = (np.hstack([a - x.mean(axis=0), np.ones((len(a), 1))]) for a in (x, xv))
    rng = np.random.Generator(np.random.PCG64(0))
    w, losses = 1e-3 * rng.normal(size=(65, 10)), []
    for step in range(600):
        rows = rng.integers(len(x), size=100)
        w, loss = my.sgd_step(w, x[rows], y[rows], 1e-4, 0.1)
        losses.append((step, float(loss)))
    share = float((my.predict(w, xv) == yv).mean())
    return Shown(
        "Your classifier, trained by your own steps on 1,200 of the built-in digits (8 x 8 pixels, the mean taken off, "
        "a 1 added for the bias) and measured on 300 others.",
        (Lines("Loss of each batch", "It begins near 9: ten classes of equal scores miss nine margins of 1.", "step",
               {"loss": losses}),
         Tiles("What each class looks for", "The columns of w as pictures: red where ink speaks for the class, blue "
               "where "
               "it speaks against it.", [(str(c), w[:64, c].reshape(8, 8)) for c in range(10)], signed=True)),
        (Fact("loss before the first step", f"{losses[0][1]:.3f}", "9, within 0.5", abs(losses[0][1] - 9) < 0.5),
         Fact("right on the 300 others", f"{share:.1%}", "at least 90%", share >= 0.9)))


LAB = Lab(
    name="svm", number=2, title="Support vector machine", teaches="hinge loss and its gradient, loops and arrays",
    source="Stanford CS231n, assignment 1; Weston and Watkins 1999",
    parts=(
        Part(name="svm_loss_naive", outputs=("loss", "dw"), right=_loss, cases=CASES, mistakes=MISTAKES),
        Part(name="svm_loss", outputs=("loss", "dw"), right=_loss, cases=CASES, mistakes=MISTAKES,
             pace=Pace(_make(500, 64, 10, 0.1), "svm_loss_naive", 4)),
        Part(name="predict", outputs=("labels",), right=lambda w, x: (x @ w).argmax(axis=1), whole=True,
             cases=(Case("8 images, 4 classes", lambda rng: {"w": rng.normal(size=(3, 4)), "x": rng.normal(size=(8,
                                                                                                                 3))}),),
             mistakes=(Mistake("It gives the class of the smallest score", lambda w, x: (x @ w).argmin(axis=1)),
                       Mistake("It takes the largest along axis 0, over images: classes are axis 1",
                               lambda w, x: (x @ w).argmax(axis=0)),
                       Mistake("It gives the largest score, not the class that has it", lambda w,
                               x: (x @ w).max(axis=1)))),
        Part(name="sgd_step", outputs=("w", "loss"), right=_step,
             cases=(Case("7 images, lr 0.5", lambda rng: _make(7, 4, 5, 0.3)(rng) | {"lr": 0.5}),),
             mistakes=(Mistake("It goes along the gradient, uphill: take lr * dw off",
                               lambda w, x, labels, reg, lr: (2 * w - _step(w, x, labels, reg, lr)[0], None)),
                       Mistake("The learning rate is left out", lambda w, x, labels, reg, lr:
                               (_step(w, x, labels, reg, 1.0)[0], None)),
                       Mistake("The loss is that after the step: give the one before it", lambda w, x, labels, reg, lr:
                               (None, _loss(_step(w, x, labels, reg, lr)[0], x, labels, reg)[0])))),
    ),
    draw=_draw)

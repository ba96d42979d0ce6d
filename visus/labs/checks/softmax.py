"""Checks of the lab softmax."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from visus.foundations import layers as L
from visus.labs.contract import Case, Digits, Fact, Inputs, Lab, Lines, Mistake, Module, Pace, Part, Shown, Tiles


def _loss(w: np.ndarray, x: np.ndarray, labels: np.ndarray, reg: float, *, times: bool = False, dtimes: bool = False,
          penalty: float = 1.0, slope: float = 2.0, truth: float = 1.0) -> tuple[float, np.ndarray]:
    """The right answer, or with its switches the mistakes."""
    n = len(x)
    loss, dscores = L.softmax_loss(x @ w, labels)
    dscores[np.arange(n), labels] += (1 - truth) / n
    return (loss * (n if times else 1) + penalty * reg * float((w ** 2).sum()),
            x.T @ dscores * (n if dtimes else 1) + slope * reg * w)


def _unshifted(w: np.ndarray, x: np.ndarray, labels: np.ndarray, reg: float) -> tuple[float, np.ndarray]:
    e = np.exp(x @ w)
    p, rows = e / e.sum(axis=1, keepdims=True), np.arange(len(x))
    loss = -np.log(p[rows, labels]).mean() + reg * (w ** 2).sum()
    p[rows, labels] -= 1
    return loss, x.T @ p / len(x) + 2 * reg * w


def _naive_softmax(scores: np.ndarray) -> np.ndarray:
    e = np.exp(scores)
    return e / e.sum(axis=1, keepdims=True)


def _make(n: int, d: int, c: int, reg: float, scale: float = 1.0) -> Callable[[np.random.Generator], Inputs]:
    return lambda rng: {"w": scale * rng.normal(size=(d, c)), "x": rng.normal(size=(n, d)),
                        "labels": rng.integers(c, size=n), "reg": reg}


OVERFLOW = "e^s overflows: take the largest score of each image off before np.exp, and use s_y - max - log(sum)"
CASES = (Case("6 images of 5 numbers, 4 classes, no penalty", _make(6, 5, 4, 0.0), {6: "the number of images"}),
         Case("7 images, 5 classes, reg 0.3", _make(7, 4, 5, 0.3), {7: "the number of images"}),
         Case("5 images, scores near 1,000", _make(5, 4, 4, 0.0, 900.0)))
MISTAKES = (
    Mistake(OVERFLOW, _unshifted),
    Mistake("The sum over images is not divided by their number N", partial(_loss, times=True, dtimes=True)),
    Mistake("The gradient is not divided by N as the loss is (the penalty's is not to be)", partial(_loss,
                                                                                                    dtimes=True)),
    Mistake("The 1 of the right class is not taken off its probability: the gradient is p - y",
            partial(_loss, truth=0.0)),
    Mistake("The penalty is missing from the loss: add reg * np.sum(w * w)", partial(_loss, penalty=0.0)),
    Mistake("The penalty is halved: here it is reg * sum of w^2, without 1/2", partial(_loss, penalty=0.5)),
    Mistake("The gradient lacks that of the penalty: add 2 * reg * w", partial(_loss, slope=0.0)),
    Mistake("The gradient of the penalty lacks its factor 2: reg * w^2 has the slope 2 * reg * w",
            partial(_loss, slope=1.0)),
    Mistake("The loss has the wrong sign: it is minus the logarithm", lambda w, x, labels, reg: (
        -_loss(w, x, labels, 0.0)[0] + reg * (w ** 2).sum(), None)),
)


def _draw(my: Module, digits: Digits) -> Shown:
    (x, y), (xv, yv) = ((images.reshape(len(images), -1), labels) for images, labels in (digits.train, digits.val))
    x, xv = (np.hstack([a, np.ones((len(a), 1))]) for a in (x, xv))
    rng = np.random.Generator(np.random.PCG64(0))
    w, losses = 1e-3 * rng.normal(size=(65, 10)), []
    for step in range(600):
        rows = rng.integers(len(x), size=100)
        loss, dw = my.softmax_loss(w, x[rows], y[rows], 1e-4)
        w = w - 0.5 * dw
        losses.append((step, float(loss)))
    share = float((my.predict(w, xv) == yv).mean())
    some = my.probabilities(xv[:5] @ w)
    return Shown(
        "Your loss and gradient, descended for 600 steps on 1,200 of the built-in digits and measured on 300 others.",
        (Lines("Loss of each batch", "It begins at log 10 = 2.303: ten classes that are equally probable.", "step",
               {"loss": losses}),
         Tiles("What each class looks for", "The columns of w: red where ink speaks for the class, blue where against.",
               [(str(c), w[:64, c].reshape(8, 8)) for c in range(10)], signed=True),
         Tiles("Five images", "Below each, what your probabilities say.", [
             (f"{p.argmax()}: {p.max():.0%}", image[:64].reshape(8, 8)) for image, p in zip(xv[:5], some, strict=True)],
             grey=True)),
        (Fact("loss before the first step", f"{losses[0][1]:.3f}", "2.303, within 0.02",
              abs(losses[0][1] - 2.303) < 0.02),
         Fact("right on the 300 others", f"{share:.1%}", "at least 90%", share >= 0.9)))


LAB = Lab(
    name="softmax", number=3, title="Softmax classifier", teaches="cross-entropy that does not overflow, and p - y",
    source="Stanford CS231n, assignment 1",
    parts=(
        Part(name="probabilities", outputs=("probabilities",), right=L.softmax,
             cases=(Case("3 images, 5 classes", lambda rng: {"scores": rng.normal(size=(3, 5))}),
                    Case("4 images, scores near 1,000", lambda rng: {"scores": 1000 + rng.normal(size=(4, 4))})),
             mistakes=(Mistake(OVERFLOW.split(",")[0], _naive_softmax),
                       Mistake("It is normalised over images (axis 0): each row is to add up to 1",
                               lambda s: np.exp(s - s.max()) / np.exp(s - s.max()).sum(axis=0)),
                       Mistake("It is divided by the sum over all images: each row is to add up to 1",
                               lambda s: np.exp(s - s.max()) / np.exp(s - s.max()).sum()),
                       Mistake("It is not divided by the sum: each row is to add up to 1",
                               lambda s: np.exp(s - s.max(axis=1, keepdims=True))))),
        Part(name="softmax_loss_naive", outputs=("loss", "dw"), right=_loss, cases=CASES, mistakes=MISTAKES),
        Part(name="softmax_loss", outputs=("loss", "dw"), right=_loss, cases=CASES, mistakes=MISTAKES,
             pace=Pace(_make(400, 64, 10, 0.1), "softmax_loss_naive", 4)),
        Part(name="predict", outputs=("labels",), right=lambda w, x: (x @ w).argmax(axis=1), whole=True,
             cases=(Case("8 images, 4 classes", lambda rng: {"w": rng.normal(size=(3, 4)), "x": rng.normal(size=(8,
                                                                                                                 3))}),),
             mistakes=(Mistake("It takes the largest along axis 0, over images: classes are axis 1",
                               lambda w, x: (x @ w).argmax(axis=0)),
                       Mistake("It gives the class of the smallest score", lambda w, x: (x @ w).argmin(axis=1)),
                       Mistake("It gives the largest score, not the class that has it",
                               lambda w, x: (x @ w).max(axis=1)))),
    ),
    draw=_draw)

"""Checks of the lab layers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from visus.foundations import layers as L
from visus.foundations import sandwiches as S
from visus.labs.contract import (
    Case,
    Digits,
    Fact,
    Inputs,
    Lab,
    Lines,
    Mistake,
    Module,
    Part,
    Shown,
    through,
    without_cache,
)


def _make(shape: tuple[int, ...], m: int, dout: bool = False) -> Callable[[np.random.Generator], Inputs]:
    def make(rng: np.random.Generator) -> Inputs:
        inputs = {"x": rng.normal(size=shape), "w": rng.normal(size=(int(np.prod(shape[1:])), m)),
                  "b": rng.normal(size=m)}
        return inputs | ({"dout": rng.normal(size=(shape[0], m))} if dout else {})

    return make


def _relu(*shape: int, dout: bool = False) -> Callable[[np.random.Generator], Inputs]:
    def make(rng: np.random.Generator) -> Inputs:
        return {"x": rng.normal(size=shape)} | ({"dout": rng.normal(size=shape)} if dout else {})

    return make


BACK = (Case("4 images of 5 numbers, 3 outputs", _make((4, 5), 3, True), {4: "the number of images"}),
        Case("3 images of 2 x 3 numbers, 4 outputs", _make((3, 2, 3), 4, True), {3: "the number of images"}))
AFFINE_BACK = (
    Mistake("dx stays flattened: reshape it to the shape of x", lambda x, w, b, dout: (dout @ w.T, None, None)),
    Mistake("db is a sum over images, not their mean: whoever divides by N is the loss",
            lambda x, w, b, dout: (None, None, dout.mean(axis=0))),
    Mistake("dw is divided by N: whoever divides by N is the loss",
            lambda x, w, b, dout: (None, x.reshape(len(x), -1).T @ dout / len(x), None)),
    Mistake("dw is transposed: x^T dout, not dout^T x", lambda x, w, b, dout: (None, dout.T @ x.reshape(len(x), -1),
                                                                               None)),
    Mistake("db is dout itself: b reaches the output of every image, so sum over them",
            lambda x, w, b, dout: (None, None, dout)),
    Mistake("db is summed over outputs: sum over images, axis 0", lambda x, w, b, dout: (None, None, dout.sum(axis=1))),
)


def _draw(my: Module, digits: Digits) -> Shown:
    (x, y), (xv, yv) = digits.train, digits.val
    rng = np.random.Generator(np.random.PCG64(0))
    w1, b1, w2, b2 = 0.15 * rng.normal(size=(64, 40)), np.zeros(40), 0.15 * rng.normal(size=(40, 10)), np.zeros(10)
    losses = []
    for step in range(600):
        rows = rng.integers(len(x), size=64)
        hidden, first = my.affine_relu_forward(x[rows], w1, b1)
        scores, second = my.affine_forward(hidden, w2, b2)
        loss, dscores = L.softmax_loss(scores, y[rows])
        dhidden, dw2, db2 = my.affine_backward(dscores, second)
        _, dw1, db1 = my.affine_relu_backward(dhidden, first)
        w1, b1, w2, b2 = w1 - 0.5 * dw1, b1 - 0.5 * db1, w2 - 0.5 * dw2, b2 - 0.5 * db2
        losses.append((step, loss))
    share = float((my.affine_forward(my.affine_relu_forward(xv, w1, b1)[0], w2, b2)[0].argmax(axis=1) == yv).mean())
    ramp = np.linspace(-2, 2, 41)
    return Shown(
        "A network put together from your layers, trained for 600 steps on 1,200 of the built-in digits (images of 8 x "
        "8, flattened by your affine layer).",
        (Lines("Loss of each batch", "It begins near log 10 = 2.303.", "step", {"loss": losses}),
         Lines("Your ReLU", "Its output, and its gradient for dout = 1.", "x", {
             "out": list(zip(ramp.tolist(), my.relu_forward(ramp.copy())[0].tolist(), strict=True)),
             "dx": list(zip(ramp.tolist(), my.relu_backward(np.ones(41), my.relu_forward(ramp.copy())[1]).tolist(),
                            strict=True))})),
        (Fact("loss before the first step", f"{losses[0][1]:.3f}", "2.3, within 0.3", abs(losses[0][1] - 2.3) < 0.3),
         Fact("right on 300 others", f"{share:.1%}", "at least 93%", share >= 0.93)))


RELU_BACK = (
    Mistake("It is the gradient where x is below 0: multiply by x > 0", lambda x, dout: dout * (x < 0)),
    Mistake("dout is left out: multiply it with x > 0", lambda x, dout: (x > 0).astype(float)),
    Mistake("dout is rectified, not masked: where x > 0 all of dout goes through, what is below 0 too",
            lambda x, dout: np.maximum(dout, 0)),
    Mistake("dout goes through everywhere: it is 0 where x is not above 0", lambda x, dout: dout * 1),
    Mistake("It is multiplied by the output: the slope is 1, not x", lambda x, dout: dout * np.maximum(x, 0)),
)
LAB = Lab(
    name="layers", number=7, title="Modular layers", teaches="affine and ReLU as forward and backward with a cache",
    source="Stanford CS231n, assignment 2, Q1",
    parts=(
        Part(name="affine_forward", outputs=("out",), cached=True, right=without_cache(L.affine_forward),
             cases=(Case("4 images of 5 numbers, 3 outputs", _make((4, 5), 3)),
                    Case("3 images of 2 x 3 numbers, 4 outputs", _make((3, 2, 3), 4))),
             mistakes=(Mistake("b is missing", lambda x, w, b: x.reshape(len(x), -1) @ w),
                       Mistake("b is taken off", lambda x, w, b: x.reshape(len(x), -1) @ w - b),
                       Mistake("The pixels are taken in another order: reshape each image as it is",
                               lambda x, w, b: x.reshape(len(x), -1, order="F") @ w + b))),
        Part(name="affine_backward", outputs=("dx", "dw", "db"), forward="affine_forward",
             right=through(L.affine_forward, L.affine_backward), cases=BACK, mistakes=AFFINE_BACK),
        Part(name="relu_forward", outputs=("out",), cached=True, right=without_cache(L.relu_forward),
             cases=(Case("4 x 5 numbers", _relu(4, 5)), Case("2 x 3 x 2 numbers", _relu(2, 3, 2))),
             mistakes=(Mistake("It is the absolute value: what is below 0 becomes 0", np.abs),
                       Mistake("It keeps what is below 0: max(0, x), not min", lambda x: np.minimum(x, 0)),
                       Mistake("It says where x is above 0, not x", lambda x: (x > 0).astype(float)))),
        Part(name="relu_backward", outputs=("dx",), forward="relu_forward",
             right=through(L.relu_forward, L.relu_backward), mistakes=RELU_BACK,
             cases=(Case("4 x 5 numbers", _relu(4, 5, dout=True)), Case("2 x 3 x 2 numbers", _relu(2, 3, 2,
                                                                                                   dout=True)))),
        Part(name="affine_relu_forward", outputs=("out",), cached=True, right=without_cache(S.affine_relu_forward),
             cases=(Case("4 images of 5 numbers, 3 outputs", _make((4, 5), 3)),),
             mistakes=(Mistake("The ReLU is missing", without_cache(L.affine_forward)),
                       Mistake("The ReLU comes first: affine, then ReLU",
                               lambda x, w, b: L.affine_forward(np.maximum(x, 0), w, b)[0]))),
        Part(name="affine_relu_backward", outputs=("dx", "dw", "db"), forward="affine_relu_forward",
             right=through(S.affine_relu_forward, S.affine_relu_backward), cases=BACK,
             mistakes=(Mistake("The ReLU's backward is missing", through(L.affine_forward, L.affine_backward)),
                       *AFFINE_BACK)),
    ),
    draw=_draw)

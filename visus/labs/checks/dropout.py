"""Checks of the lab dropout."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from visus.foundations import layers as L
from visus.foundations.update_rules import Momentum
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
    Tiles,
    through,
    without_cache,
)

Array = np.ndarray


def _train(x: Array, keep: float, rng: np.random.Generator, *, scale: str = "1/keep", below: bool = True,
           rows: bool = False) -> Array:
    """The right answer, or with its switches the mistakes."""
    drawn = rng.random(x.shape[:1] if rows else x.shape)
    drawn = drawn.reshape(-1, *(1,) * (x.ndim - 1)) if rows else drawn
    factor = {"1/keep": 1 / keep, "none": 1.0, "keep": keep, "1-keep": 1 / (1 - keep)}[scale]
    return x * ((drawn < keep) if below else (drawn >= keep)) * factor


def _back(x: Array, keep: float, rng: np.random.Generator, dout: Array, **switches: Any) -> Array:
    return _train(np.ones_like(x), keep, rng, **switches) * dout


def _make(*shape: int, keep: float, dout: bool = False, seed: int = 5) -> Callable[[np.random.Generator], Inputs]:
    def make(rng: np.random.Generator) -> Inputs:
        inputs = {"x": rng.normal(size=shape), "keep": keep, "rng": np.random.Generator(np.random.PCG64(seed))}
        return inputs | ({"dout": rng.normal(size=shape)} if dout else {})

    return make


def _draw(my: Module, digits: Digits) -> Shown:
    (x, y), (xv, yv) = ((images.reshape(len(images), -1), labels) for images, labels in (digits.train, digits.val))
    x, y = x[:150], y[:150]
    lines: dict[str, list[tuple[float, float]]] = {}
    for name, keep in (("keep 1", 1.0), ("keep 0.5", 0.5)):
        rng = np.random.Generator(np.random.PCG64(0))
        params = {"w1": 0.18 * rng.normal(size=(64, 200)), "w2": 0.1 * rng.normal(size=(200, 10))}
        rule = Momentum(0.05)
        states = {key: rule.start(w) for key, w in params.items()}
        lines |= {f"{name}, training": [], f"{name}, others": []}
        for step in range(300):
            rows = rng.integers(len(x), size=50)
            hidden = np.maximum(x[rows] @ params["w1"], 0)
            dropped, cache = my.dropout_train(hidden, keep, rng)
            _, ds = L.softmax_loss(dropped @ params["w2"], y[rows])
            dh = my.dropout_backward(ds @ params["w2"].T, cache) * (hidden > 0)
            for key, dw in (("w1", x[rows].T @ dh), ("w2", dropped.T @ ds)):
                params[key] = rule.step(params[key], dw, states[key])
            if step % 20 == 19:
                for kind, images, labels in (("training", x, y), ("others", xv, yv)):
                    scores = my.dropout_test(np.maximum(images @ params["w1"], 0), keep) @ params["w2"]
                    lines[f"{name}, {kind}"].append((step + 1, L.softmax_loss(scores, labels)[0]))
    gap = {name: lines[f"{name}, others"][-1][1] - lines[f"{name}, training"][-1][1] for name in ("keep 1", "keep 0.5")}
    one, cache = my.dropout_train(np.ones((200, 500)), 0.5, np.random.Generator(np.random.PCG64(0)))
    image = digits.train[0][0]
    pictures = [(f"draw {k}", my.dropout_train(image, 0.7,
                                               np.random.Generator(np.random.PCG64(k)))[0]) for k in range(5)]
    return Shown(
        "A network of 64, 200 and 10 units on only 150 of the built-in digits, with and without your dropout, measured "
        "on 300 others.",
        (Lines("Loss on training images and on others", "Without dropout the training loss vanishes while that of the "
               "others "
               "stays: the gap is what was learnt by heart.", "step", lines),
         Tiles("What the layer lets through", "One digit with keep 0.7, drawn five times.", pictures, grey=True)),
        (Fact("mean of 100,000 ones after your layer, keep 0.5", f"{one.mean():.3f}", "1, within 0.02",
              abs(float(one.mean()) - 1) < 0.02),
         Fact("gap of the losses at the end, keep 1 and 0.5", f"{gap['keep 1']:.3f}, {gap['keep 0.5']:.3f}",
              "smaller with dropout", gap["keep 0.5"] < gap["keep 1"])))


CASES = (Case("4 x 6 numbers, keep 0.3", _make(4, 6, keep=0.3)), Case("2 x 3 x 4 numbers, keep 0.8", _make(2, 3, 4,
                                                                                                           keep=0.8)))
BACK = (Case("4 x 6 numbers, keep 0.3", _make(4, 6, keep=0.3, dout=True)),
        Case("2 x 3 x 4 numbers, keep 0.8", _make(2, 3, 4, keep=0.8, dout=True)))
LAB = Lab(
    name="dropout", number=11, title="Dropout", teaches="inverted dropout in training, at test time and backwards",
    source="Srivastava et al. 2014; Stanford CS231n, assignment 2, Q3",
    parts=(
        Part(name="dropout_train", outputs=("out",), cached=True, cases=CASES,
             right=without_cache(L.inverted_dropout_train), hint="Draw the mask as rng.random(x.shape) < keep, once.",
             mistakes=(Mistake("What is kept is not scaled: divide it by keep", partial(_train, scale="none")),
                       Mistake("It is multiplied by keep: divide what is kept by it", partial(_train, scale="keep")),
                       Mistake("keep is taken for the probability to drop: kept is rng.random(...) < keep",
                               partial(_train, below=False)),
                       Mistake("keep is taken for the probability to drop: kept is rng.random(...) < keep",
                               partial(_train, below=False, scale="1-keep")),
                       Mistake("Whole rows are dropped: each entry has its own draw", partial(_train, rows=True)),
                       Mistake("Nothing is dropped", lambda x, keep, rng: x * 1.0))),
        Part(name="dropout_test", outputs=("out",), right=lambda x, keep: x, may_share=True,
             cases=(Case("4 x 6 numbers, keep 0.3", lambda rng: {"x": rng.normal(size=(4, 6)), "keep": 0.3}),),
             mistakes=(Mistake("It is scaled by keep: inverted dropout has done that in training", lambda x,
                               keep: x * keep),
                       Mistake("It is divided by keep: at test time the layer is the identity", lambda x,
                               keep: x / keep))),
        Part(name="dropout_backward", outputs=("dx",), forward="dropout_train", cases=BACK,
             right=through(L.inverted_dropout_train, L.dropout_backward),
             hint="The same mask as forwards, with its scale: keep it in the cache.",
             mistakes=(Mistake("The gradient is masked but not scaled: divide by keep as forwards",
                               partial(_back, scale="none")),
                       Mistake("dropped units hand the gradient on: multiply by the mask of the forward pass",
                               lambda x, keep, rng, dout: dout * 1.0),
                       Mistake("All of it is scaled, but nothing masked: multiply by the mask of the forward pass",
                               lambda x, keep, rng, dout: dout / keep),
                       Mistake("The mask is the other way round", partial(_back, below=False)))),
    ),
    draw=_draw)

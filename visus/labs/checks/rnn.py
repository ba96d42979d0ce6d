"""Checks of the lab rnn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from visus.foundations import layers as L
from visus.foundations import recurrent as R
from visus.foundations.update_rules import Adam
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
    Points,
    Shown,
    without_cache,
)

Array = np.ndarray


def _step_back(x: Array, h: Array, wx: Array, wh: Array, b: Array, dnew: Array) -> tuple[Array, ...]:
    dx, dh, grads = R.rnn_step_backward(dnew, R.rnn_step_forward(x, h, wx, wh, b)[1])
    return dx, dh, grads["wx"], grads["wh"], grads["b"]


def _back(x: Array, h0: Array, wx: Array, wh: Array, b: Array, dh: Array) -> tuple[Array, ...]:
    dx, dh0, grads = R.rnn_backward(dh, R.rnn_forward(x, h0, wx, wh, b)[1])
    return dx, dh0, grads["wx"], grads["wh"], grads["b"]


def _local(x: Array, h0: Array, wx: Array, wh: Array, b: Array, dh: Array) -> tuple[Any, ...]:
    """Every step for itself: nothing handed on to the step before."""
    states, caches = R.rnn_forward(x, h0, wx, wh, b)
    parts = [R.rnn_step_backward(dh[:, t], cache) for t, cache in enumerate(caches)]
    total = {key: sum(grads[key] for _, _, grads in parts) for key in ("wx", "wh", "b")}
    return np.stack([dx for dx, _, _ in parts], axis=1), parts[0][1], total["wx"], total["wh"], total["b"]


def _only_end(x: Array, h0: Array, wx: Array, wh: Array, b: Array, dh: Array) -> tuple[Array, ...]:
    last = np.zeros_like(dh)
    last[:, -1] = dh[:, -1]
    return _back(x, h0, wx, wh, b, last)


def _one_step(x: Array, h0: Array, wx: Array, wh: Array, b: Array, dh: Array) -> tuple[Any, ...]:
    """The weights' gradients of the first step alone: what the last turn of the loop leaves when it overwrites."""
    states, caches = R.rnn_forward(x, h0, wx, wh, b)
    after = np.zeros_like(h0)
    grads: dict[str, Array] = {}
    for t in reversed(range(x.shape[1])):
        _, after, grads = R.rnn_step_backward(dh[:, t] + after, caches[t])
    return None, None, grads["wx"], grads["wh"], grads["b"]


def _step(n: int, d: int, h: int, back: bool = False) -> Callable[[np.random.Generator], Inputs]:
    def make(rng: np.random.Generator) -> Inputs:
        inputs = {"x": rng.normal(size=(n, d)), "h": rng.normal(size=(n, h)), "wx": 0.5 * rng.normal(size=(d, h)),
                  "wh": 0.5 * rng.normal(size=(h, h)), "b": rng.normal(size=h)}
        return inputs | ({"dnew": rng.normal(size=(n, h))} if back else {})

    return make


def _sequence(n: int, t: int, d: int, h: int, back: bool = False) -> Callable[[np.random.Generator], Inputs]:
    def make(rng: np.random.Generator) -> Inputs:
        inputs = {"x": rng.normal(size=(n, t, d)), "h0": rng.normal(size=(n, h)), "wx": 0.5 * rng.normal(size=(d, h)),
                  "wh": 0.5 * rng.normal(size=(h, h)), "b": rng.normal(size=h)}
        return inputs | ({"dh": rng.normal(size=(n, t, h))} if back else {})

    return make


def _draw(my: Module, digits: Digits) -> Shown:
    (x, y), (xv, yv) = digits.train, digits.val
    rng = np.random.Generator(np.random.PCG64(0))
    params = {"wx": 0.3 * rng.normal(size=(8, 40)), "wh": 0.15 * rng.normal(size=(40, 40)), "b": np.zeros(40),
              "w": 0.15 * rng.normal(size=(40, 10))}
    rule = Adam(5e-3)
    states = {key: rule.start(w) for key, w in params.items()}
    losses = Points()
    for step in range(250):
        rows = rng.integers(len(x), size=64)
        h, cache = my.rnn_forward(x[rows], np.zeros((64, 40)), params["wx"], params["wh"], params["b"])
        loss, ds = L.softmax_loss(h[:, -1] @ params["w"], y[rows])
        dh = np.zeros_like(h)
        dh[:, -1] = ds @ params["w"].T
        _, _, dwx, dwh, db = my.rnn_backward(dh, cache)
        for key, dw in (("wx", dwx), ("wh", dwh), ("b", db), ("w", h[:, -1].T @ ds)):
            params[key] = rule.step(params[key], dw, states[key])
        losses.append((step, loss))
    h = my.rnn_forward(xv, np.zeros((len(xv), 40)), params["wx"], params["wh"], params["b"])[0]
    shares = [(t + 1, float(((h[:, t] @ params["w"]).argmax(axis=1) == yv).mean())) for t in range(8)]
    reach: dict[str, Points] = {}
    for scale in (0.5, 1.0, 1.6):
        wh = scale * np.linalg.qr(np.random.Generator(np.random.PCG64(1)).normal(size=(20, 20)))[0]
        _, cache = my.rnn_forward(np.zeros((1, 30, 1)), np.full((1, 20), 1e-3), np.zeros((1, 20)), wh, np.zeros(20))
        sizes = Points()
        for length in range(1, 31):
            dh = np.ones((1, length, 20)) * (np.arange(length) == length - 1)[None, :, None]
            sizes.append((length, float(np.linalg.norm(my.rnn_backward(dh, cache[:length])[1]))))
        reach[f"weights of size {scale:g}"] = sizes
    return Shown(
        "Your network reads each digit row by row, eight steps of eight pixels, and names it after the last one.",
        (Lines("Loss of each batch", "It begins near log 10 = 2.303.", "step", {"loss": losses}),
         Lines("Right answers on 300 others by how many rows were read", "It was taught to answer after the eighth "
               "row only.",
               "rows read", {"right": shares}, True),
         Lines("What is left of a gradient by how many steps it is handed back", "Recurrent weights that shrink lose "
               "it; "
               "those that grow make it explode, until tanh saturates.", "steps", reach)),
        (Fact("right after all eight rows", f"{shares[-1][1]:.1%}", "at least 80%", shares[-1][1] >= 0.8),
         Fact("gradient after 30 steps, weights of size 0.5", f"{reach['weights of size 0.5'][-1][1]:.1e}",
              "below 1e-6",
              reach["weights of size 0.5"][-1][1] < 1e-6)))


STATE = Case("3 sequences of 4 numbers, 5 units", _step(3, 4, 5))
LAB = Lab(
    name="rnn", number=17, title="Recurrent network", teaches="a step, a sequence, backpropagation through time",
    source="Elman 1990; Werbos 1990; Stanford CS231n, assignment 3",
    parts=(
        Part(name="step_forward", outputs=("h",), cached=True, right=without_cache(R.rnn_step_forward), cases=(STATE,),
             mistakes=(Mistake("tanh is missing", lambda x, h, wx, wh, b: x @ wx + h @ wh + b),
                       Mistake("The old state is missing: + h wh", lambda x, h, wx, wh, b: np.tanh(x @ wx + b)),
                       Mistake("b is missing", lambda x, h, wx, wh, b: np.tanh(x @ wx + h @ wh)),
                       Mistake("wh is transposed: h wh", lambda x, h, wx, wh, b: np.tanh(x @ wx + h @ wh.T + b)),
                       Mistake("It is a sigmoid, not tanh", lambda x, h, wx, wh, b: L.sigmoid(x @ wx + h @ wh + b)))),
        Part(name="step_backward", outputs=("dx", "dh", "dwx", "dwh", "db"), forward="step_forward", right=_step_back,
             cases=(Case("3 sequences of 4 numbers, 5 units", _step(3, 4, 5, True), {3: "the number of sequences"}),),
             mistakes=(
                 Mistake("The slope of tanh is missing: dnew (1 - h'^2)", lambda x, h, wx, wh, b, d: (
                     d @ wx.T, d @ wh.T, x.T @ d, h.T @ d, d.sum(axis=0))),
                 Mistake("The slope of tanh is taken at the old state: 1 - h'^2, of the new one",
                         lambda x, h, wx, wh, b, d: _with_slope(x, h, wx, wh, d * (1 - h ** 2))),
                 Mistake("That is the slope of a sigmoid: tanh has 1 - h'^2", lambda x, h, wx, wh, b, d: _with_slope(
                     x, h, wx, wh, d * (lambda n: n * (1 - n))(np.tanh(x @ wx + h @ wh + b)))),
                 Mistake("dh is taken with wh, not with its transpose", lambda x, h, wx, wh, b, d: (
                     None, (d * (1 - np.tanh(x @ wx + h @ wh + b) ** 2)) @ wh, None, None, None)))),
        Part(name="rnn_forward", outputs=("h",), cached=True, right=without_cache(R.rnn_forward),
             cases=(Case("2 sequences of 4 steps", _sequence(2, 4, 3, 5)),
                    Case("3 sequences of 1 step", _sequence(3, 1, 3, 4))),
             mistakes=(Mistake("Every step begins at h0: hand the new state on", lambda x, h0, wx, wh, b: np.stack(
                           [np.tanh(x[:, t] @ wx + h0 @ wh + b) for t in range(x.shape[1])], axis=1)),
                       Mistake("It gives [T, N, H]: the sequences are the first axis",
                               lambda *i: R.rnn_forward(*i)[0].swapaxes(0, 1)),
                       Mistake("It gives the last state only: all of them, [N, T, H]",
                               lambda *i: R.rnn_forward(*i)[0][:, -1]),
                       Mistake("The states are those before each step: h0 is not among them", lambda x, h0, wx, wh, b:
                               np.concatenate([h0[:, None], R.rnn_forward(x, h0, wx, wh, b)[0][:, :-1]], axis=1)))),
        Part(name="rnn_backward", outputs=("dx", "dh0", "dwx", "dwh", "db"), forward="rnn_forward", right=_back,
             cases=(Case("2 sequences of 4 steps", _sequence(2, 4, 3, 5, True), {2: "the number of sequences",
                                                                                4: "the number of steps"}),
                    Case("3 sequences of 3 steps", _sequence(3, 3, 3, 4, True))),
             mistakes=(Mistake("Each step stands for itself: add what the step after it hands back to dh[:, t]",
                               _local),
                       Mistake("The weights' gradients are those of one step: add over all steps", _one_step),
                       Mistake("The losses of all steps but the last are left out: dh[:, t] at each step", _only_end),
                       Mistake("dx is in reverse order: the steps were walked from the end",
                               lambda *i: (_back(*i)[0][:, ::-1], None, None, None, None)))),
    ),
    draw=_draw)


def _with_slope(x: Array, h: Array, wx: Array, wh: Array, da: Array) -> tuple[Array, ...]:
    return da @ wx.T, da @ wh.T, x.T @ da, h.T @ da, da.sum(axis=0)

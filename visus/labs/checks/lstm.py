"""Checks of the lab lstm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from visus.foundations import layers as L
from visus.foundations import recurrent as R
from visus.labs.contract import Case, Digits, Fact, Inputs, Lab, Lines, Mistake, Module, Part, Points, Shown

Array = np.ndarray


def _forward(x: Array, h: Array, c: Array, wx: Array, wh: Array, b: Array, *, order: str = "ifgo",
             candidate: Callable[[Array], Array] = np.tanh, squash: bool = True, forget: bool = True,
             state: bool = True) -> tuple[Array, Array]:
    """The right answer (see the foundations' step), or with its switches the mistakes."""
    blocks = dict(zip(order, np.split(x @ wx + (h @ wh if state else 0) + b, 4, axis=1), strict=True))
    i, f, o = (L.sigmoid(blocks[key]) for key in "ifo")
    new = (f if forget else 1) * c + i * candidate(blocks["g"])
    return o * (np.tanh(new) if squash else new), new


def _back(x: Array, h: Array, c: Array, wx: Array, wh: Array, b: Array, dh: Array, dc: Array) -> tuple[Array, ...]:
    _, _, cache = R.lstm_step_forward(x, h, c, wx, wh, b)
    dx, dh_in, dc_in, grads = R.lstm_step_backward(dh, dc, cache)
    return dx, dh_in, dc_in, grads["wx"], grads["wh"], grads["b"]


def _back_wrong(x: Array, h: Array, c: Array, wx: Array, wh: Array, b: Array, dh: Array, dc: Array, *,
                through_h: bool = True, from_c: bool = True, slopes: bool = True, g_slope: bool = True,
                squash_slope: bool = True, hand: bool = True) -> tuple[Any, ...]:
    i, f, g, o = np.split(x @ wx + h @ wh + b, 4, axis=1)
    i, f, g, o = L.sigmoid(i), L.sigmoid(f), np.tanh(g), L.sigmoid(o)
    squashed = np.tanh(f * c + i * g)
    total = (dc if from_c else 0) + (dh * o * ((1 - squashed ** 2) if squash_slope else 1) if through_h else 0)

    def slope(gate: Array) -> Array | float:
        return gate * (1 - gate) if slopes else 1.0

    da = np.concatenate([total * g * slope(i), total * c * slope(f),
                         total * i * ((1 - g ** 2) if g_slope else g * (1 - g)),
                         dh * squashed * slope(o)], axis=1)
    return da @ wx.T, da @ wh.T, total * (f if hand else 1), x.T @ da, h.T @ da, da.sum(axis=0)


def _call(my: Module, *inputs: Any) -> Any:
    return my.step_backward(inputs[-2], inputs[-1], my.step_forward(*inputs[:-2])[-1])


def _make(n: int, d: int, h: int, back: bool = False) -> Callable[[np.random.Generator], Inputs]:
    def make(rng: np.random.Generator) -> Inputs:
        inputs = {"x": rng.normal(size=(n, d)), "h": rng.normal(size=(n, h)), "c": rng.normal(size=(n, h)),
                  "wx": 0.5 * rng.normal(size=(d, 4 * h)), "wh": 0.5 * rng.normal(size=(h, 4 * h)),
                  "b": rng.normal(size=4 * h)}
        return inputs | ({"dh": rng.normal(size=(n, h)), "dc": rng.normal(size=(n, h))} if back else {})

    return make


def _with(**switches: Any) -> Callable[..., Any]:
    return lambda *inputs: _forward(*inputs, **switches)


def _back_with(**switches: Any) -> Callable[..., Any]:
    return lambda *inputs: _back_wrong(*inputs, **switches)


def _draw(my: Module, digits: Digits) -> Shown:
    rng = np.random.Generator(np.random.PCG64(0))
    h, steps = 16, 40
    wx, wh = np.zeros((1, 4 * h)), 0.3 * rng.normal(size=(h, 4 * h))
    plain = 0.3 * rng.normal(size=(h, h)) * np.sqrt(h) / 4
    lines: dict[str, Points] = {}
    for bias in (0.0, 3.0):
        b = np.zeros(4 * h)
        b[h:2 * h] = bias
        state, cell, caches = np.zeros((1, h)), 0.1 * rng.normal(size=(1, h)), []
        for _ in range(steps):
            state, cell, cache = my.step_forward(np.zeros((1, 1)), state, cell, wx, wh, b)
            caches.append(cache)
        dh, dc, sizes = np.zeros((1, h)), np.ones((1, h)), Points()
        for t in range(steps):
            _, dh, dc, *_ = my.step_backward(dh, dc, caches[steps - 1 - t])
            sizes.append((t + 1, max(float(np.linalg.norm(dc)), 1e-12)))
        lines[f"LSTM, forget bias {bias:g}"] = sizes
    d, sizes = np.ones((1, h)), Points()
    for t in range(steps):
        d = d @ plain.T * 0.9
        sizes.append((t + 1, max(float(np.linalg.norm(d)), 1e-12)))
    lines["plain recurrence"] = sizes
    ramp = np.linspace(-8, 8, 81)
    kept = lines["LSTM, forget bias 3"][-1][1] / lines["LSTM, forget bias 3"][0][1]
    lost = lines["LSTM, forget bias 0"][-1][1] / lines["LSTM, forget bias 0"][0][1]
    return Shown(
        "How much of a gradient is left after it was handed back through 40 steps of your LSTM.",
        (Lines("Gradient of the cell by the number of steps", "With a forget gate that stays open (its bias at 3) it "
               "lasts; "
               "plain recurrence loses it.", "steps back", lines),
         Lines("Your gate", "The sigmoid, from closed to open.", "x",
               {"sigmoid": list(zip(ramp.tolist(), my.sigmoid(ramp).tolist(), strict=True))})),
        (Fact("share of the gradient after 40 steps, forget bias 3", f"{kept:.2g}", "above 0.05", kept > 0.05),
         Fact("the same, forget bias 0", f"{lost:.1e}", "below 1e-4", lost < 1e-4)))


LAB = Lab(
    name="lstm", number=18, title="Long short-term memory", teaches="gates, a cell that is added to, one step back",
    source="Hochreiter and Schmidhuber 1997; Gers et al. 2000; Stanford CS231n, assignment 3",
    parts=(
        Part(name="sigmoid", outputs=("out",), right=L.sigmoid,
             cases=(Case("3 x 4 numbers", lambda rng: {"x": rng.normal(size=(3, 4))}),
                    Case("-1,000, 0 and 1,000", lambda rng: {"x": np.array([-1000.0, -30.0, 0.0, 30.0, 1000.0])})),
             mistakes=(Mistake("It overflows for large numbers: e^x / (1 + e^x) is infinite over infinite above 709",
                               lambda x: np.exp(x) / (1 + np.exp(x))),
                       Mistake("The sign of the exponent is the wrong way round: 1 / (1 + e^-x)",
                               lambda x: 1 / (1 + np.exp(x))),
                       Mistake("This is tanh", np.tanh))),
        Part(name="step_forward", outputs=("h", "c"), cached=True, right=_forward,
             cases=(Case("3 sequences of 4 numbers, 5 units", _make(3, 4, 5)),),
             mistakes=(Mistake("The blocks are taken in the order i, f, o, g: here i, f, g, o", _with(order="ifog")),
                       Mistake("The blocks are taken in the order f, i, g, o: here i, f, g, o", _with(order="figo")),
                       Mistake("The candidate g goes through tanh, not a sigmoid", _with(candidate=L.sigmoid)),
                       Mistake("The candidate g is not squashed: tanh(g)", _with(candidate=lambda g: g)),
                       Mistake("tanh of the cell is missing: h' = o tanh(c')", _with(squash=False)),
                       Mistake("The old cell is not gated: sigmoid(f) c", _with(forget=False)),
                       Mistake("The old state is missing: + h wh", _with(state=False)))),
        Part(name="step_backward", outputs=("dx", "dh", "dc", "dwx", "dwh", "db"), call=_call, right=_back,
             cases=(Case("3 sequences of 4 numbers, 5 units", _make(3, 4, 5, True), {3: "the number of sequences"}),),
             mistakes=(Mistake("The way through h' is missing: dc gets dh o (1 - tanh(c')^2), too", _back_with(
                           through_h=False)),
                       Mistake("The dc that arrives from the next step is left out", _back_with(from_c=False)),
                       Mistake("The slope of tanh(c') is missing: 1 - tanh(c')^2", _back_with(squash_slope=False)),
                       Mistake("The slopes of the gates are missing: s (1 - s)", _back_with(slopes=False)),
                       Mistake("The candidate has the slope of tanh, 1 - g^2, not that of a sigmoid",
                               _back_with(g_slope=False)),
                       Mistake("dc of what went in lacks the forget gate: dc' f", lambda *i: (
                           None, None, _back_wrong(*i, hand=False)[2], None, None, None)))),
    ),
    draw=_draw)

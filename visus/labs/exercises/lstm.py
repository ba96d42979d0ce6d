"""Lab lstm: a step of a long short-term memory, and why its gradients last.

A plain recurrent state is multiplied by the same matrix in every step, and so is its gradient: it vanishes or explodes.
An LSTM has a second state, the cell c, that is not multiplied by a matrix but gated and added to:

    [i, f, g, o] = x Wx + h Wh + b            four blocks of H columns, in this order
    c' = sigmoid(f) c + sigmoid(i) tanh(g)    forget some of the old, add some of the new
    h' = sigmoid(o) tanh(c')                  show some of it

Backwards, c' gets gradients from two sides: dc, from the next step's cell, and through h'.

    visus lab check lstm.py
    visus lab show lstm.py

Source: Hochreiter and Schmidhuber 1997; Gers et al. 2000; Stanford CS231n, assignment 3.
"""

from __future__ import annotations

import numpy as np

from visus.labs import NotWritten

LAB = "lstm"


def sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + e^-x), without overflow for x = -1,000: for x below 0 use e^x / (1 + e^x)."""
    raise NotWritten


def step_forward(x: np.ndarray, h: np.ndarray, c: np.ndarray, wx: np.ndarray, wh: np.ndarray,
                 b: np.ndarray) -> tuple[np.ndarray, np.ndarray, tuple]:
    """One step. x: [N, D]; h, c: [N, H]; wx: [D, 4H]; wh: [H, 4H]; b: [4H]. Returns h', c' and the cache."""
    raise NotWritten


def step_backward(dh: np.ndarray, dc: np.ndarray, cache: tuple) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray,
                                                                         np.ndarray, np.ndarray]:
    """dh, dc: the gradients of h' and c', [N, H]. Returns dx, dh, dc of what went in, and dwx, dwh, db.

    Hint: the gradients of the four blocks, each with the slope of its gate, np.concatenate to [N, 4H]; from there it is
    an affine layer.
    """
    raise NotWritten

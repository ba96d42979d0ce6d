"""Lab rnn: a recurrent network, and backpropagation through time.

A recurrent network reads a sequence step by step and carries a state h from each step to the next:

    h' = tanh(x Wx + h Wh + b)

The weights are the same in every step. That is all that is new backwards, too: the gradient of a weight is the sum over
the steps, and a state gets gradients from two sides, from the loss at its own step and from the step after it. So the
sequence is walked from its end to its beginning, handing dh on.

    visus lab check rnn.py
    visus lab show rnn.py

Source: Elman 1990; Werbos 1990; Stanford CS231n, assignment 3.
"""

from __future__ import annotations

import numpy as np

from visus.labs import NotWritten

LAB = "rnn"


def step_forward(x: np.ndarray, h: np.ndarray, wx: np.ndarray, wh: np.ndarray,
                 b: np.ndarray) -> tuple[np.ndarray, tuple]:
    """One step. x: [N, D]; h: [N, H]; wx: [D, H]; wh: [H, H]; b: [H]. Returns the new state [N, H] and the cache."""
    raise NotWritten


def step_backward(dnew: np.ndarray, cache: tuple) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """dnew: the gradient of the new state, [N, H]. Returns dx, dh, dwx, dwh, db. The slope of tanh is 1 - tanh^2."""
    raise NotWritten


def rnn_forward(x: np.ndarray, h0: np.ndarray, wx: np.ndarray, wh: np.ndarray,
                b: np.ndarray) -> tuple[np.ndarray, list]:
    """A whole sequence. x: [N, T, D]; h0: [N, H], the state before the first step.

    Returns the states after each step, [N, T, H], and the caches of all steps.
    """
    raise NotWritten


def rnn_backward(dh: np.ndarray, cache: list) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """dh: [N, T, H], what each state gets from the loss at its own step. Returns dx [N, T, D], dh0, dwx, dwh, db."""
    raise NotWritten

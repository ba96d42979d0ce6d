"""Lab layers: modular layers, each a pair of functions, forward and backward.

A network is layers one after the other, and so is its gradient. Each layer only has to know two things: what it gives
for what goes in, and how the gradient of the loss with respect to what it gave (`dout`, from above) becomes the
gradients of what went in.

`..._forward` returns its output and a cache: a tuple of whatever `..._backward` will need. What is in it is your
affair. `..._backward` takes dout and that cache, and returns a gradient of the same shape for each array that went in.

Every gradient is a sum over all the ways in which an entry reaches the output. That is how matrix products come about:
entry x[n, d] reaches every out[n, m] through w[d, m], so dx[n, d] = sum over m of dout[n, m] w[d, m].

    visus lab check layers.py
    visus lab show layers.py

Source: Stanford CS231n, assignment 2 (fully-connected networks).
"""

from __future__ import annotations

import numpy as np

from visus.labs import NotWritten

LAB = "layers"


def affine_forward(x: np.ndarray, w: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, tuple]:
    """out = x w + b for images of any shape. x: [N, d1, ..., dk], each flattened to D numbers; w: [D, M]; b: [M].

    Returns out [N, M] and the cache. Hint: x.reshape(len(x), -1).
    """
    raise NotWritten


def affine_backward(dout: np.ndarray, cache: tuple) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """dout: [N, M]. Returns dx, of the shape that x had before it was flattened, dw [D, M] and db [M]."""
    raise NotWritten


def relu_forward(x: np.ndarray) -> tuple[np.ndarray, tuple]:
    """out = max(0, x), entry by entry, for any shape. Returns out and the cache."""
    raise NotWritten


def relu_backward(dout: np.ndarray, cache: tuple) -> np.ndarray:
    """Returns dx: what arrives where x was above 0, and 0 elsewhere."""
    raise NotWritten


def affine_relu_forward(x: np.ndarray, w: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, tuple]:
    """A sandwich of your two layers: affine, then ReLU. Its cache holds the caches of both."""
    raise NotWritten


def affine_relu_backward(dout: np.ndarray, cache: tuple) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Both backward functions, in reverse order. Returns dx, dw, db."""
    raise NotWritten

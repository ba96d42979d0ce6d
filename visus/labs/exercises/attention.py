"""Lab attention: queries ask keys, and get a mixture of values.

    scores  = Q K^T / sqrt(D)             every query against every key
    weights = softmax of each row         how much each query attends to each key
    out     = weights V

The division by sqrt(D) keeps the scores at a size at which the softmax still has a slope. Attention knows no order:
whoever generates a sequence must not look ahead, and gets a mask, where only the keys up to its own place are allowed.

Backwards through a softmax: with p a row of weights and dp its gradient, ds = p (dp - sum over k of p_k dp_k).

    visus lab check attention.py
    visus lab show attention.py

Source: Vaswani et al. 2017; Stanford CS231n, assignment 3.
"""

from __future__ import annotations

import numpy as np

from visus.labs import NotWritten

LAB = "attention"


def attention_forward(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, tuple]:
    """q: [N, Q, D]; k: [N, K, D]; v: [N, K, E]. Returns out [N, Q, E] and the cache.

    Hints: k.swapaxes(1, 2) is K^T of each of the N; a @ b multiplies the matrices of each. Take the largest score of a
    row off before np.exp.
    """
    raise NotWritten


def attention_backward(dout: np.ndarray, cache: tuple) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns dq, dk, dv."""
    raise NotWritten


def causal_attention(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    """The forward pass where query t sees the keys 0 to t only. q, k: [N, T, D]; v: [N, T, E]; returns [N, T, E].

    Hint: scores of -infinity get the weight 0. np.tril makes a triangle.
    """
    raise NotWritten


def multi_head(q: np.ndarray, k: np.ndarray, v: np.ndarray, heads: int) -> np.ndarray:
    """Attention in `heads` subspaces side by side: the D features in `heads` neighbouring parts of D / heads, each on
    its own (divided by sqrt(D / heads)), the results beside each other again. q: [N, Q, D]; k, v: [N, K, D]; -> [N,
    Q, D].
    """
    raise NotWritten

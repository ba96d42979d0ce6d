"""Backpropagation worked out by hand, as on the blackboard: every line forwards has its lines backwards beside it.

Each function takes numbers and gives the value and its gradients; nothing is cached, nothing is general. Read the
lines from the bottom of the forward half upwards: the backward half is the same list reversed.

Sources: Stanford CS231n, "Backpropagation, Intuitions" and "Derivatives, Backpropagation, and Vectorization" (sigmoid
neuron, staged computation, matrix product); Rumelhart, Hinton and Williams, Nature 1986 (the equations of
backpropagation); Cox 1958 (logistic regression); Bridle 1990 (p - y).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from visus.core.errors import UserError
from visus.foundations.layers import sigmoid, softmax

Gradients = dict[str, np.ndarray]


def sigmoid_neuron(w: np.ndarray, x: np.ndarray) -> tuple[float, Gradients]:
    """f = 1 / (1 + e^-(w0 x0 + w1 x1 + w2)) through its smallest gates. w: [3], the last is the bias; x: [2].

    Gates from right to left: 1/a has slope -1/a^2; +1 passes on; exp gives its own output; the factor -1 flips the
    sign; the sum hands the gradient to all terms; each product swaps its operands. They come to f (1 - f) at the sum.
    """
    if w.shape != (3,) or x.shape != (2,):
        raise UserError(f"weights of shape {w.shape} and inputs of shape {x.shape}", where="sigmoid_neuron",
                        remedy="Pass three weights, the last of them the bias, and two inputs")
    total = w[0] * x[0] + w[1] * x[1] + w[2]
    negative = -total
    exponential = math.exp(negative)
    denominator = 1 + exponential
    f = 1 / denominator

    ddenominator = -1 / denominator**2
    dexponential = ddenominator * 1
    dnegative = dexponential * exponential
    dtotal = dnegative * -1
    return f, {"w": np.array([dtotal * x[0], dtotal * x[1], dtotal]), "x": np.array([dtotal * w[0], dtotal * w[1]])}


def staged_computation(x: float, y: float) -> tuple[float, Gradients]:
    """f = (x + s(y)) / (s(x) + (x + y)^2), s the sigmoid: a derivative that nobody writes in one line, in eight stages.

    A variable that is used in several stages collects a gradient from each: hence += after the first.
    """
    sig_y = 1 / (1 + math.exp(-y))          # 1
    numerator = x + sig_y                   # 2
    sig_x = 1 / (1 + math.exp(-x))          # 3
    x_plus_y = x + y                        # 4
    square = x_plus_y**2                    # 5
    denominator = sig_x + square            # 6
    inverse = 1 / denominator               # 7
    f = numerator * inverse                 # 8

    dnumerator, dinverse = inverse, numerator           # 8
    ddenominator = -dinverse / denominator**2           # 7
    dsig_x, dsquare = ddenominator, ddenominator        # 6
    dx_plus_y = dsquare * 2 * x_plus_y                  # 5
    dx, dy = dx_plus_y, dx_plus_y                       # 4
    dx += dsig_x * (1 - sig_x) * sig_x                  # 3
    dx += dnumerator                                    # 2
    dsig_y = dnumerator                                 # 2
    dy += dsig_y * (1 - sig_y) * sig_y                  # 1
    return f, {"x": np.array(dx), "y": np.array(dy)}


def matrix_product(w: np.ndarray, x: np.ndarray, dout: np.ndarray) -> tuple[np.ndarray, Gradients]:
    """D = W X and, for an upstream dD, dW = dD X^T and dX = W^T dD. w: [M, D]; x: [D, N]; dout: [M, N].

    The shapes leave no choice: dW is as large as W, and only dD X^T is. Entry by entry, D_ij = sum_k W_ik X_kj is
    touched by W_ik in row i only, so dW_ik = sum_j dD_ij X_kj.
    """
    return w @ x, {"w": dout @ x.T, "x": w.T @ dout}


def matrix_product_jacobian(w: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The whole Jacobian of D = W X with respect to X, [M, N, D, N]: W_ik where the columns agree, else 0. It is what
    a backward pass never builds: N^2 M D numbers, of which one in N is not 0."""
    return np.einsum("ik,jl->ijkl", w, np.eye(x.shape[1]))


def logistic_regression(w: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[float, Gradients]:
    """The mean log loss of s(X w) against y in {0, 1} and its derivative. w: [D]; x: [N, D]; y: [N].

    J = -1/N sum y log p + (1 - y) log(1 - p). Three factors, of which two cancel: dJ/dp = (p - y) / (p (1 - p)),
    dp/dz = p (1 - p), dz/dw = x; hence dw = X^T (p - y) / N.
    """
    z = x @ w
    p = sigmoid(z)
    loss = float((np.maximum(z, 0) - z * y + np.log1p(np.exp(-np.abs(z)))).mean())
    dz = (p - y) / len(x)
    return loss, {"w": x.T @ dz}


def logistic_curvature(w: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The second derivative of the log loss, X^T diag(p (1 - p)) X / N, [D, D]: a Gram matrix, so that v^T H v is never
    negative and the loss is convex."""
    p = sigmoid(x @ w)
    return (x * (p * (1 - p))[:, None]).T @ x / len(x)


def softmax_net(x: np.ndarray, label: int, w1: np.ndarray, w2: np.ndarray, w3: np.ndarray
                ) -> tuple[float, Gradients]:
    """One example through h1 = relu(W1 x), h2 = relu(W2 h1), p = softmax(W3 h2); the loss is -log p of its class.

    With y one-hot: dW3 = (p - y) h2^T, dh2 = W3^T (p - y), and the same two lines for each layer below, with the
    gradient cut where the unit was off. x: [D]; w1: [H1, D]; w2: [H2, H1]; w3: [C, H2].
    """
    if not 0 <= label < len(w3):
        raise UserError(f"the label is {label}", where="softmax_net", remedy=f"It lies in 0 to {len(w3) - 1}")
    h1 = np.maximum(w1 @ x, 0)
    h2 = np.maximum(w2 @ h1, 0)
    p = softmax(w3 @ h2)
    y = np.eye(len(w3))[label]

    dscores = p - y
    dw3, dh2 = np.outer(dscores, h2), w3.T @ dscores
    dz2 = dh2 * (h2 > 0)
    dw2, dh1 = np.outer(dz2, h1), w2.T @ dz2
    dz1 = dh1 * (h1 > 0)
    return -math.log(p[label]), {"x": w1.T @ dz1, "w1": np.outer(dz1, x), "w2": dw2, "w3": dw3, "h2": dh2}


@dataclass(frozen=True)
class Backpropagated:
    """loss; the error delta of each layer, [M_l]; the gradients of its weights [M_l, M_(l-1)] and biases [M_l]."""

    loss: float
    deltas: list[np.ndarray]
    weights: list[np.ndarray]
    biases: list[np.ndarray]


def backpropagate(x: np.ndarray, y: np.ndarray, weights: Sequence[np.ndarray], biases: Sequence[np.ndarray]
                  ) -> Backpropagated:
    """The four equations of backpropagation for sigmoid units and the quadratic loss 1/2 |a_L - y|^2 of one example.

    1. delta_L = (a_L - y) s'(z_L);  2. delta_l = (W_(l+1)^T delta_(l+1)) s'(z_l);  3. db_l = delta_l;
    4. dW_l = delta_l a_(l-1)^T. The factor s' <= 1/4 stands in 1 and in 2: a saturated unit learns slowly, and depth
    multiplies. x: [D]; y: [M_L]; weights[l]: [M_l, M_(l-1)]; biases[l]: [M_l].
    """
    activations = [x]
    for w, b in zip(weights, biases, strict=True):
        activations.append(sigmoid(w @ activations[-1] + b))
    slopes = [a * (1 - a) for a in activations[1:]]
    deltas = [(activations[-1] - y) * slopes[-1]]
    for w, slope in zip(reversed(weights[1:]), reversed(slopes[:-1]), strict=True):
        deltas.insert(0, (w.T @ deltas[0]) * slope)
    return Backpropagated(loss=0.5 * float(((activations[-1] - y) ** 2).sum()), deltas=deltas,
                          weights=[np.outer(d, a) for d, a in zip(deltas, activations, strict=False)], biases=deltas)


def regularised_step(w: np.ndarray, dw: np.ndarray, *, lr: float, decay: float, examples: int) -> np.ndarray:
    """SGD on the mean loss with the penalty decay / (2 n) |w|^2 of n examples: w (1 - lr decay / n) - lr dw. The
    weights shrink by a constant factor at every step, whatever the data say; biases are left out of it."""
    if examples < 1:
        raise UserError(f"examples is {examples}", where="regularised_step", remedy="Count the training set")
    return (1 - lr * decay / examples) * w - lr * dw

"""The solution of the lab update_rules."""

import numpy as np

LAB = "update_rules"


def sgd(w, dw, lr):
    return w - lr * dw


def momentum(w, dw, velocity, lr, friction):
    velocity = friction * velocity - lr * dw
    return w + velocity, velocity


def rmsprop(w, dw, squares, lr, decay, eps):
    squares = decay * squares + (1 - decay) * dw ** 2
    return w - lr * dw / (np.sqrt(squares) + eps), squares


def adam(w, dw, mean, squares, t, lr, beta1, beta2, eps):
    mean = beta1 * mean + (1 - beta1) * dw
    squares = beta2 * squares + (1 - beta2) * dw ** 2
    m, s = mean / (1 - beta1 ** t), squares / (1 - beta2 ** t)
    return w - lr * m / (np.sqrt(s) + eps), mean, squares

"""The solution of the lab gradient_check."""

import numpy as np

LAB = "gradient_check"


def forward_difference(f, x, h):
    out, base = np.zeros_like(x), f(x)
    for i in np.ndindex(x.shape):
        old = x[i]
        x[i] = old + h
        out[i] = (f(x) - base) / h
        x[i] = old
    return out


def centred_difference(f, x, h):
    out = np.zeros_like(x)
    for i in np.ndindex(x.shape):
        old = x[i]
        x[i] = old + h
        above = f(x)
        x[i] = old - h
        below = f(x)
        x[i] = old
        out[i] = (above - below) / (2 * h)
    return out


def relative_error(a, b):
    return np.max(np.abs(a - b) / np.maximum(np.abs(a) + np.abs(b), 1e-8))


def centred_along(f, x, dout, h):
    out = np.zeros_like(x)
    for i in np.ndindex(x.shape):
        old = x[i]
        x[i] = old + h
        above = f(x).copy()
        x[i] = old - h
        below = f(x).copy()
        x[i] = old
        out[i] = np.sum((above - below) * dout) / (2 * h)
    return out

"""The solution of the lab layers."""

import numpy as np

LAB = "layers"


def affine_forward(x, w, b):
    return x.reshape(len(x), -1) @ w + b, (x, w)


def affine_backward(dout, cache):
    x, w = cache
    return (dout @ w.T).reshape(x.shape), x.reshape(len(x), -1).T @ dout, dout.sum(axis=0)


def relu_forward(x):
    return np.maximum(0, x), (x,)


def relu_backward(dout, cache):
    return dout * (cache[0] > 0)


def affine_relu_forward(x, w, b):
    a, first = affine_forward(x, w, b)
    out, second = relu_forward(a)
    return out, (first, second)


def affine_relu_backward(dout, cache):
    first, second = cache
    return affine_backward(relu_backward(dout, second), first)

"""The solution of the lab convnet."""

import numpy as np

from visus.foundations.convolution import (
    convolution_backward,
    convolution_forward,
    max_pool_backward,
    max_pool_forward,
)
from visus.foundations.layers import affine_backward, affine_forward, relu_backward, relu_forward, softmax_loss

LAB = "convnet"


def parameter_shapes(channels, side, filters, kernel, hidden, classes):
    return {"w1": (filters, channels, kernel, kernel), "b1": (filters,),
            "w2": (filters * (side // 2) * (side // 2), hidden), "b2": (hidden,),
            "w3": (hidden, classes), "b3": (classes,)}


def _forward(params, x):
    pad = (params["w1"].shape[2] - 1) // 2
    a, conv = convolution_forward(x, params["w1"], params["b1"], 1, pad)
    a, relu = relu_forward(a)
    a, pool = max_pool_forward(a, 2, 2)
    a, affine = affine_forward(a, params["w2"], params["b2"])
    a, second = relu_forward(a)
    s, top = affine_forward(a, params["w3"], params["b3"])
    return s, (conv, relu, pool, affine, second, top)


def scores(params, x):
    return _forward(params, x)[0]


def loss(params, x, labels, reg):
    s, (conv, relu, pool, affine, second, top) = _forward(params, x)
    value, d = softmax_loss(s, labels)
    grads = {}
    d, grads["w3"], grads["b3"] = affine_backward(d, top)
    d = relu_backward(d, second)
    d, grads["w2"], grads["b2"] = affine_backward(d, affine)
    d = max_pool_backward(d, pool)
    d = relu_backward(d, relu)
    _, grads["w1"], grads["b1"] = convolution_backward(d, conv)
    for name in ("w1", "w2", "w3"):
        value += 0.5 * reg * np.sum(params[name] ** 2)
        grads[name] = grads[name] + reg * params[name]
    return value, grads

"""The solution of the lab two_layer_net."""

import numpy as np

LAB = "two_layer_net"


def scores(params, x):
    hidden = np.maximum(0, x @ params["w1"] + params["b1"])
    return hidden @ params["w2"] + params["b2"]


def loss(params, x, labels, reg):
    w1, b1, w2, b2 = (params[name] for name in ("w1", "b1", "w2", "b2"))
    before = x @ w1 + b1
    hidden = np.maximum(0, before)
    s = hidden @ w2 + b2
    s = s - s.max(axis=1, keepdims=True)
    p = np.exp(s)
    p = p / p.sum(axis=1, keepdims=True)
    rows = np.arange(len(x))
    value = -np.log(p[rows, labels]).mean() + 0.5 * reg * (np.sum(w1 * w1) + np.sum(w2 * w2))
    ds = p.copy()
    ds[rows, labels] -= 1
    ds /= len(x)
    dhidden = (ds @ w2.T) * (hidden > 0)
    return value, {"w1": x.T @ dhidden + reg * w1, "b1": dhidden.sum(axis=0),
                   "w2": hidden.T @ ds + reg * w2, "b2": ds.sum(axis=0)}


def train_step(params, x, labels, reg, lr):
    value, grads = loss(params, x, labels, reg)
    return {name: w - lr * grads[name] for name, w in params.items()}, value

"""The solution of the lab softmax."""

import numpy as np

LAB = "softmax"


def probabilities(scores):
    e = np.exp(scores - np.max(scores, axis=1, keepdims=True))
    return e / np.sum(e, axis=1, keepdims=True)


def softmax_loss_naive(w, x, labels, reg):
    loss, dw = 0.0, np.zeros_like(w)
    for i in range(len(x)):
        s = x[i] @ w
        s = s - s.max()
        total = np.sum(np.exp(s))
        loss -= s[labels[i]] - np.log(total)
        for j in range(w.shape[1]):
            dw[:, j] += (np.exp(s[j]) / total - (j == labels[i])) * x[i]
    return loss / len(x) + reg * np.sum(w * w), dw / len(x) + 2 * reg * w


def softmax_loss(w, x, labels, reg):
    rows = np.arange(len(x))
    s = x @ w
    s = s - s.max(axis=1, keepdims=True)
    log_p = s - np.log(np.exp(s).sum(axis=1, keepdims=True))
    loss = -log_p[rows, labels].mean() + reg * np.sum(w * w)
    ds = np.exp(log_p)
    ds[rows, labels] -= 1
    return loss, x.T @ ds / len(x) + 2 * reg * w


def predict(w, x):
    return np.argmax(x @ w, axis=1)

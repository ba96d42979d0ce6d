"""The solution of the lab svm."""

import numpy as np

LAB = "svm"


def svm_loss_naive(w, x, labels, reg):
    dw, loss = np.zeros_like(w), 0.0
    for i in range(len(x)):
        scores = x[i] @ w
        for j in range(w.shape[1]):
            if j == labels[i]:
                continue
            margin = scores[j] - scores[labels[i]] + 1
            if margin > 0:
                loss += margin
                dw[:, j] += x[i]
                dw[:, labels[i]] -= x[i]
    return loss / len(x) + reg * np.sum(w * w), dw / len(x) + 2 * reg * w


def svm_loss(w, x, labels, reg):
    rows = np.arange(len(x))
    scores = x @ w
    margins = np.maximum(0, scores - scores[rows, labels][:, None] + 1)
    margins[rows, labels] = 0
    loss = margins.sum() / len(x) + reg * np.sum(w * w)
    active = (margins > 0).astype(float)
    active[rows, labels] = -active.sum(axis=1)
    return loss, x.T @ active / len(x) + 2 * reg * w


def predict(w, x):
    return np.argmax(x @ w, axis=1)


def sgd_step(w, x, labels, reg, lr):
    loss, dw = svm_loss(w, x, labels, reg)
    return w - lr * dw, loss

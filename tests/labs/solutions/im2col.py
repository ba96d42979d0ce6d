"""The solution of the lab im2col."""

import numpy as np

LAB = "im2col"


def im2col(x, kernel, stride, padding):
    n, c, h, w = x.shape
    oh, ow = (h + 2 * padding - kernel) // stride + 1, (w + 2 * padding - kernel) // stride + 1
    padded = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    columns = np.zeros((c, kernel, kernel, n, oh, ow))
    for p in range(kernel):
        for q in range(kernel):
            part = padded[:, :, p:p + stride * oh:stride, q:q + stride * ow:stride]
            columns[:, p, q] = part.transpose(1, 0, 2, 3)
    return columns.reshape(c * kernel * kernel, n * oh * ow)


def col2im(columns, shape, kernel, stride, padding):
    n, c, h, w = shape
    oh, ow = (h + 2 * padding - kernel) // stride + 1, (w + 2 * padding - kernel) // stride + 1
    parts = columns.reshape(c, kernel, kernel, n, oh, ow)
    padded = np.zeros((n, c, h + 2 * padding, w + 2 * padding))
    for p in range(kernel):
        for q in range(kernel):
            padded[:, :, p:p + stride * oh:stride, q:q + stride * ow:stride] += parts[:, p, q].transpose(1, 0, 2, 3)
    return padded[:, :, padding:padding + h, padding:padding + w]


def conv_forward(x, w, b, stride, padding):
    f, k = len(w), w.shape[2]
    oh, ow = (x.shape[2] + 2 * padding - k) // stride + 1, (x.shape[3] + 2 * padding - k) // stride + 1
    columns = im2col(x, k, stride, padding)
    out = w.reshape(f, -1) @ columns + b[:, None]
    return out.reshape(f, len(x), oh, ow).transpose(1, 0, 2, 3), (x.shape, w, columns, stride, padding)


def conv_backward(dout, cache):
    shape, w, columns, stride, padding = cache
    rows = dout.transpose(1, 0, 2, 3).reshape(len(w), -1)
    dx = col2im(w.reshape(len(w), -1).T @ rows, shape, w.shape[2], stride, padding)
    return dx, (rows @ columns.T).reshape(w.shape), rows.sum(axis=1)

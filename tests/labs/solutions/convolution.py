"""The solution of the lab convolution."""

import numpy as np

LAB = "convolution"


def output_size(size, kernel, stride, padding):
    return (size + 2 * padding - kernel) // stride + 1


def conv_forward(x, w, b, stride, padding):
    n, _, h, wide = x.shape
    f, _, kh, kw = w.shape
    oh, ow = output_size(h, kh, stride, padding), output_size(wide, kw, stride, padding)
    padded = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    out = np.zeros((n, f, oh, ow))
    for image in range(n):
        for k in range(f):
            for i in range(oh):
                for j in range(ow):
                    window = padded[image, :, i * stride:i * stride + kh, j * stride:j * stride + kw]
                    out[image, k, i, j] = np.sum(window * w[k]) + b[k]
    return out, (x, w, stride, padding)


def conv_backward(dout, cache):
    x, w, stride, padding = cache
    kh, kw = w.shape[2:]
    padded = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    dpadded, dw = np.zeros_like(padded), np.zeros_like(w)
    for image, k, i, j in np.ndindex(dout.shape):
        place = (image, slice(None), slice(i * stride, i * stride + kh), slice(j * stride, j * stride + kw))
        dpadded[place] += dout[image, k, i, j] * w[k]
        dw[k] += dout[image, k, i, j] * padded[place]
    dx = dpadded[:, :, padding:padding + x.shape[2], padding:padding + x.shape[3]].copy()
    return dx, dw, dout.sum(axis=(0, 2, 3))

"""Convolution five ways (loops, im2col, FFT, Winograd, one sparse matrix), its gradients, pooling, and the transpose.

What networks call convolution is correlation: out[n, f, i, j] = b[f] + sum over c, p, q of
w[f, c, p, q] x[n, c, s i + d p - pad, s j + d q - pad], with x zero outside, stride s and dilation d.

Shapes: x [N, C, H, W]; w [F, C, KH, KW]; b [F]; out [N, F, OH, OW].

Sources: Dumoulin and Visin, A guide to convolution arithmetic, arXiv:1603.07285; Chellapilla et al. 2006 (im2col);
Mathieu et al. 2013, arXiv:1312.5851 (FFT); Lavin and Gray 2015, arXiv:1509.09308 (Winograd).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from visus.core.errors import UserError

Cache = tuple


# ---------------------------------------------------------------- sizes


def output_size(size: int, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1) -> int:
    """floor((size + 2 padding - dilation (kernel - 1) - 1) / stride) + 1: how often the window fits."""
    for name, value, least in (("kernel", kernel, 1), ("stride", stride, 1), ("padding", padding, 0),
                               ("dilation", dilation, 1)):
        if value < least:
            raise UserError(f"{name} is {value}", where="convolution", remedy=f"It is at least {least}")
    span = dilation * (kernel - 1) + 1
    if size + 2 * padding < span:
        raise UserError(f"a window of {span} does not fit into {size} + 2 x {padding}", where="convolution")
    return (size + 2 * padding - span) // stride + 1


def same_padding(kernel: int, dilation: int = 1) -> int:
    """The padding that keeps the size at stride 1: dilation (kernel - 1) / 2."""
    if dilation * (kernel - 1) % 2:
        raise UserError(f"kernel {kernel} with dilation {dilation} has no middle", where="convolution",
                        remedy="Take an odd kernel")
    return dilation * (kernel - 1) // 2


def transposed_output_size(size: int, kernel: int, stride: int = 1, padding: int = 0,
                           output_padding: int = 0) -> int:
    """(size - 1) stride - 2 padding + kernel + output_padding: the input size that gives `size` under convolution.

    Several input sizes give the same output when stride > 1; `output_padding` < stride says which is meant.
    """
    if not 0 <= output_padding < stride:
        raise UserError(f"output_padding is {output_padding} at stride {stride}", where="transposed convolution",
                        remedy="It is at least 0 and below the stride")
    result = (size - 1) * stride - 2 * padding + kernel + output_padding
    if result < 1:
        raise UserError(f"an output of size {result}", where="transposed convolution")
    return result


# ---------------------------------------------------------------- by loops


def convolution_naive(x: np.ndarray, w: np.ndarray, b: np.ndarray, stride: int = 1, padding: int = 0,
                      dilation: int = 1) -> np.ndarray:
    """The definition as four loops: each output is the dot product of a filter and a window. Returns [N, F, OH, OW]."""
    oh, ow = _sizes(x, w, stride, padding, dilation)
    padded, (kh, kw) = _pad(x, padding), w.shape[2:]
    out = np.empty((len(x), len(w), oh, ow))
    for n in range(len(x)):
        for f in range(len(w)):
            for i in range(oh):
                for j in range(ow):
                    top, left = i * stride, j * stride
                    window = padded[n, :, top:top + dilation * (kh - 1) + 1:dilation,
                                    left:left + dilation * (kw - 1) + 1:dilation]
                    out[n, f, i, j] = np.sum(window * w[f]) + b[f]
    return out


def convolution_naive_backward(dout: np.ndarray, x: np.ndarray, w: np.ndarray, stride: int = 1, padding: int = 0,
                               dilation: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same loops backwards: each output hands its gradient to its window (times w) and its filter (times x).

    Returns dx, dw, db.
    """
    padded, (kh, kw) = _pad(x, padding), w.shape[2:]
    dpadded, dw, db = np.zeros_like(padded), np.zeros_like(w), np.zeros(len(w))
    for n, f, i, j in np.ndindex(dout.shape):
        top, left, u = i * stride, j * stride, dout[n, f, i, j]
        place = (n, slice(None), slice(top, top + dilation * (kh - 1) + 1, dilation),
                 slice(left, left + dilation * (kw - 1) + 1, dilation))
        dpadded[place] += u * w[f]
        dw[f] += u * padded[place]
        db[f] += u
    return _crop(dpadded, padding), dw, db


# ---------------------------------------------------------------- by one matrix product: im2col


def im2col(x: np.ndarray, kernel: tuple[int, int], stride: int = 1, padding: int = 0, dilation: int = 1,
           fill: float = 0.0) -> np.ndarray:
    """Every window as a column. x: [N, C, H, W] -> [C * KH * KW, N * OH * OW]."""
    windows = _windows(_pad(x, padding, fill), kernel, stride, dilation)  # [N, C, OH, OW, KH, KW]
    return windows.transpose(1, 4, 5, 0, 2, 3).reshape(x.shape[1] * kernel[0] * kernel[1], -1)


def col2im(columns: np.ndarray, shape: tuple[int, ...], kernel: tuple[int, int], stride: int = 1, padding: int = 0,
           dilation: int = 1) -> np.ndarray:
    """The adjoint of `im2col`: each column is added back where its window lay, so that overlaps add up.

    columns: [C * KH * KW, N * OH * OW]; shape: (N, C, H, W), which is returned.
    """
    n, c, h, w = shape
    kh, kw = kernel
    oh, ow = output_size(h, kh, stride, padding, dilation), output_size(w, kw, stride, padding, dilation)
    parts = columns.reshape(c, kh, kw, n, oh, ow).transpose(3, 0, 1, 2, 4, 5)  # [N, C, KH, KW, OH, OW]
    padded = np.zeros((n, c, h + 2 * padding, w + 2 * padding))
    for p in range(kh):
        for q in range(kw):
            top, left = p * dilation, q * dilation
            padded[:, :, top:top + stride * (oh - 1) + 1:stride,
                   left:left + stride * (ow - 1) + 1:stride] += parts[:, :, p, q]
    return _crop(padded, padding)


def convolution_forward(x: np.ndarray, w: np.ndarray, b: np.ndarray, stride: int = 1, padding: int = 0,
                        dilation: int = 1) -> tuple[np.ndarray, Cache]:
    """out = W columns + b, with W: [F, C * KH * KW]: a single matrix product does all windows at once."""
    oh, ow = _sizes(x, w, stride, padding, dilation)
    columns = im2col(x, w.shape[2:], stride, padding, dilation)
    out = w.reshape(len(w), -1) @ columns + b[:, None]  # [F, N * OH * OW]
    out = out.reshape(len(w), len(x), oh, ow).transpose(1, 0, 2, 3)
    return out, (x.shape, w, columns, stride, padding, dilation)


def convolution_backward(dout: np.ndarray, cache: Cache) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """dw = dout columns^T, dx = col2im(W^T dout), db = the sum of dout over examples and pixels."""
    shape, w, columns, stride, padding, dilation = cache
    rows = dout.transpose(1, 0, 2, 3).reshape(len(w), -1)  # [F, N * OH * OW]
    dcolumns = w.reshape(len(w), -1).T @ rows
    dx = col2im(dcolumns, shape, w.shape[2:], stride, padding, dilation)
    return dx, (rows @ columns.T).reshape(w.shape), rows.sum(axis=1)


# ---------------------------------------------------------------- in other domains: FFT and Winograd


def convolution_fft(x: np.ndarray, w: np.ndarray, b: np.ndarray, stride: int = 1, padding: int = 0,
                    dilation: int = 1) -> np.ndarray:
    """Correlation is a product of spectra, X conj(W): its cost does not grow with the kernel. Returns [N, F, OH, OW].

    A circular correlation of the padded size wraps only into positions where the window does not fit; those are cut.
    """
    oh, ow = _sizes(x, w, stride, padding, dilation)
    padded = _pad(x, padding)
    size, (kh, kw) = padded.shape[2:], w.shape[2:]
    spread = np.zeros((*w.shape[:2], dilation * (kh - 1) + 1, dilation * (kw - 1) + 1))
    spread[:, :, ::dilation, ::dilation] = w
    spectrum = np.einsum("nchw,fchw->nfhw", np.fft.rfft2(padded), np.conj(np.fft.rfft2(spread, size)))
    out = np.fft.irfft2(spectrum, size)
    return out[:, :, :stride * (oh - 1) + 1:stride, :stride * (ow - 1) + 1:stride] + b[:, None, None]


WINOGRAD_INPUT = np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]], float)        # B^T
WINOGRAD_FILTER = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])                # G
WINOGRAD_OUTPUT = np.array([[1, 1, 1, 0], [0, 1, -1, -1]], float)                                    # A^T


def convolution_winograd(x: np.ndarray, w: np.ndarray, b: np.ndarray, padding: int = 0) -> np.ndarray:
    """F(2x2, 3x3): Y = A^T [(G g G^T) * (B^T d B)] A on 4 x 4 tiles d that overlap by two. Returns [N, F, OH, OW].

    16 multiplications give 4 outputs that cost 36 by definition. Only for 3 x 3 kernels with stride 1.
    """
    if w.shape[2:] != (3, 3):
        raise UserError(f"a kernel of {w.shape[2:]}", where="convolution_winograd", remedy="F(2x2, 3x3) takes 3 x 3")
    oh, ow = _sizes(x, w, 1, padding, 1)
    padded = np.pad(x, ((0, 0), (0, 0), (padding, padding + oh % 2), (padding, padding + ow % 2)))  # to even outputs
    tiles = sliding_window_view(padded, (4, 4), axis=(2, 3))[:, :, ::2, ::2]  # [N, C, TH, TW, 4, 4]
    transformed = WINOGRAD_INPUT @ tiles @ WINOGRAD_INPUT.T
    filters = WINOGRAD_FILTER @ w @ WINOGRAD_FILTER.T  # [F, C, 4, 4]
    products = np.einsum("fcpq,ncijpq->nfijpq", filters, transformed, optimize=True)
    out = WINOGRAD_OUTPUT @ products @ WINOGRAD_OUTPUT.T  # [N, F, TH, TW, 2, 2]
    n, f, th, tw = out.shape[:4]
    out = out.transpose(0, 1, 2, 4, 3, 5).reshape(n, f, 2 * th, 2 * tw)
    return out[:, :, :oh, :ow] + b[:, None, None]


# ---------------------------------------------------------------- as one sparse matrix


@dataclass(frozen=True)
class SparseMatrix:
    """The entries of a matrix that are not zero by construction: values at (rows, columns)."""

    rows: np.ndarray
    columns: np.ndarray
    values: np.ndarray
    shape: tuple[int, int]

    def dense(self) -> np.ndarray:
        out = np.zeros(self.shape)
        np.add.at(out, (self.rows, self.columns), self.values)
        return out

    @property
    def density(self) -> float:
        """Stored entries over all entries: what sparse connectivity saves against a fully connected layer."""
        return self.values.size / (self.shape[0] * self.shape[1])

    def __matmul__(self, vector: np.ndarray) -> np.ndarray:
        """M v for v: [columns]."""
        return np.bincount(self.rows, self.values * vector[self.columns], minlength=self.shape[0])

    @property
    def T(self) -> SparseMatrix:
        return SparseMatrix(self.columns, self.rows, self.values, (self.shape[1], self.shape[0]))


def convolution_matrix(w: np.ndarray, image: tuple[int, int], stride: int = 1, padding: int = 0,
                       dilation: int = 1) -> SparseMatrix:
    """The fully connected layer that a convolution is: a doubly block Toeplitz matrix of shared weights.

    w: [F, C, KH, KW]; image: (H, W). [F * OH * OW, C * H * W]: M x.ravel() = out.ravel() without bias; M^T is the
    backward pass, and so the transposed convolution.
    """
    filters, channels, kh, kw = w.shape
    h, wide = image
    oh, ow = output_size(h, kh, stride, padding, dilation), output_size(wide, kw, stride, padding, dilation)
    f, c, p, q, i, j = np.indices((filters, channels, kh, kw, oh, ow)).reshape(6, -1)
    y, x = i * stride + p * dilation - padding, j * stride + q * dilation - padding
    inside = (y >= 0) & (y < h) & (x >= 0) & (x < wide)
    return SparseMatrix(rows=((f * oh + i) * ow + j)[inside], columns=((c * h + y) * wide + x)[inside],
                        values=w[f, c, p, q][inside], shape=(filters * oh * ow, channels * h * wide))


# ---------------------------------------------------------------- grouped and transposed


def grouped_convolution_forward(x: np.ndarray, w: np.ndarray, b: np.ndarray, groups: int, stride: int = 1,
                                padding: int = 0, dilation: int = 1) -> tuple[np.ndarray, Cache]:
    """Each group of filters sees its own channels. w: [F, C / groups, KH, KW]; groups = C: depthwise."""
    if groups < 1 or x.shape[1] % groups or len(w) % groups:
        raise UserError(f"{x.shape[1]} channels and {len(w)} filters do not divide into {groups} groups",
                        where="grouped_convolution_forward")
    parts = [convolution_forward(xg, wg, bg, stride, padding, dilation) for xg, wg, bg in
             zip(np.split(x, groups, 1), np.split(w, groups), np.split(b, groups), strict=True)]
    return np.concatenate([out for out, _ in parts], axis=1), tuple(cache for _, cache in parts)


def grouped_convolution_backward(dout: np.ndarray, cache: Cache) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns dx: [N, C, H, W], dw: [F, C / groups, KH, KW], db: [F]."""
    parts = [convolution_backward(d, c) for d, c in zip(np.split(dout, len(cache), 1), cache, strict=True)]
    dx, dw, db = zip(*parts, strict=True)
    return np.concatenate(dx, axis=1), np.concatenate(dw), np.concatenate(db)


def transposed_convolution_forward(x: np.ndarray, w: np.ndarray, b: np.ndarray, stride: int = 1, padding: int = 0,
                                   output_padding: int = 0) -> tuple[np.ndarray, Cache]:
    """The gradient of a convolution with respect to its input, used forwards: it spreads what convolution gathers.

    x: [N, F, H, W]; w: [F, C, KH, KW], the filters of the convolution C -> F that it transposes; b: [C];
    out: [N, C, OH, OW] of `transposed_output_size`.
    """
    n, filters, h, wide = x.shape
    if filters != len(w):
        raise UserError(f"{filters} channels for weights of shape {w.shape}", where="transposed_convolution_forward")
    oh = transposed_output_size(h, w.shape[2], stride, padding, output_padding)
    ow = transposed_output_size(wide, w.shape[3], stride, padding, output_padding)
    columns = w.reshape(filters, -1).T @ x.transpose(1, 0, 2, 3).reshape(filters, -1)
    out = col2im(columns, (n, w.shape[1], oh, ow), w.shape[2:], stride, padding)
    return out + b[:, None, None], (x, w, stride, padding)


def transposed_convolution_backward(dout: np.ndarray, cache: Cache) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The gradient of a gradient is the convolution again. Returns dx, dw, db."""
    x, w, stride, padding = cache
    dx, (_, _, columns, *_) = convolution_forward(dout, w, np.zeros(len(w)), stride, padding)
    dw = x.transpose(1, 0, 2, 3).reshape(len(w), -1) @ columns.T
    return dx, dw.reshape(w.shape), dout.sum(axis=(0, 2, 3))


# ---------------------------------------------------------------- pooling


def max_pool_forward(x: np.ndarray, size: int, stride: int, padding: int = 0) -> tuple[np.ndarray, Cache]:
    """The largest entry of each window, the first of equals; padding counts as minus infinity. x: [N, C, H, W]."""
    windows = _pooling_windows(x, size, stride, padding, -np.inf)
    flat = windows.reshape(*windows.shape[:4], size * size)
    winner = flat.argmax(axis=-1)  # [N, C, OH, OW], p * size + q
    out = np.take_along_axis(flat, winner[..., None], axis=-1)[..., 0]
    return out, (x.shape, winner, size, stride, padding)


def max_pool_backward(dout: np.ndarray, cache: Cache) -> np.ndarray:
    """Each gradient goes to the entry that won its window; an entry that won several collects their sum."""
    (n, c, h, w), winner, size, stride, padding = cache
    dx = np.zeros((n, c, h + 2 * padding, w + 2 * padding))
    example, channel, i, j = np.indices(winner.shape, sparse=True)
    np.add.at(dx, (example, channel, i * stride + winner // size, j * stride + winner % size), dout)
    return _crop(dx, padding)


def average_pool_forward(x: np.ndarray, size: int, stride: int, padding: int = 0) -> tuple[np.ndarray, Cache]:
    """The mean of each window, padding counted as zeros. x: [N, C, H, W]."""
    return _pooling_windows(x, size, stride, padding, 0.0).mean(axis=(4, 5)), (x.shape, size, stride, padding)


def average_pool_backward(dout: np.ndarray, cache: Cache) -> np.ndarray:
    """Each gradient is spread evenly over its window."""
    shape, size, stride, padding = cache
    share = np.broadcast_to(dout / size ** 2, (size, size, *dout.shape))  # [KH, KW, N, C, OH, OW]
    columns = share.transpose(3, 0, 1, 2, 4, 5).reshape(shape[1] * size * size, -1)
    return col2im(columns, shape, (size, size), stride, padding)


def global_average_pool_forward(x: np.ndarray) -> tuple[np.ndarray, Cache]:
    """The mean of each channel. x: [N, C, H, W] -> [N, C]."""
    return x.mean(axis=(2, 3)), (x.shape,)


def global_average_pool_backward(dout: np.ndarray, cache: Cache) -> np.ndarray:
    """Each gradient is spread evenly over its map."""
    shape, = cache
    return np.broadcast_to(dout[:, :, None, None] / (shape[2] * shape[3]), shape).copy()


# ---------------------------------------------------------------- shared steps


def _sizes(x: np.ndarray, w: np.ndarray, stride: int, padding: int, dilation: int) -> tuple[int, int]:
    if x.ndim != 4 or w.ndim != 4 or x.shape[1] != w.shape[1]:
        raise UserError(f"an input of shape {x.shape} for weights of shape {w.shape}", where="convolution",
                        remedy="x is [N, C, H, W] and w is [F, C, KH, KW] with the same C")
    return (output_size(x.shape[2], w.shape[2], stride, padding, dilation),
            output_size(x.shape[3], w.shape[3], stride, padding, dilation))


def _pad(x: np.ndarray, padding: int, fill: float = 0.0) -> np.ndarray:
    return np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)), constant_values=fill)


def _crop(padded: np.ndarray, padding: int) -> np.ndarray:
    return padded[:, :, padding:padded.shape[2] - padding, padding:padded.shape[3] - padding]


def _windows(padded: np.ndarray, kernel: tuple[int, int], stride: int, dilation: int) -> np.ndarray:
    """A view of every window: [N, C, OH, OW, KH, KW]."""
    span = tuple(dilation * (k - 1) + 1 for k in kernel)
    return sliding_window_view(padded, span, axis=(2, 3))[:, :, ::stride, ::stride, ::dilation, ::dilation]


def _pooling_windows(x: np.ndarray, size: int, stride: int, padding: int, fill: float) -> np.ndarray:
    for side in x.shape[2:]:
        output_size(side, size, stride, padding)
    if 2 * padding > size:
        raise UserError(f"padding {padding} for windows of {size}", where="pooling",
                        remedy="At most half of the window, else some windows hold nothing but padding")
    return _windows(_pad(x, padding, fill), (size, size), stride, 1)

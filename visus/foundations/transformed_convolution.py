"""The backward passes of convolution by FFT and by Winograd's tiles: both stay in the domain of the forward pass.

Forward, each is a linear transform of x, one of w, products in the middle, and a linear transform back. A gradient goes
through the transposes of the three: a product of spectra gives two products of spectra, and Winograd's
Y = A^T [(G g G^T) * (B^T d B)] A has dM = A dY A^T in its middle, dg = G^T (dM * (B^T d B)) G and
dd = B (dM * (G g G^T)) B^T, tiles that are added up where they overlap.

Shapes and names as in `convolution`. Sources: Mathieu, Henaff, LeCun 2013, arXiv:1312.5851, section 2.2; Lavin and Gray
2015, arXiv:1509.09308, section 4.
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from visus.core.errors import UserError
from visus.foundations.convolution import WINOGRAD_FILTER, WINOGRAD_INPUT, WINOGRAD_OUTPUT, output_size

Three = tuple[np.ndarray, np.ndarray, np.ndarray]


def convolution_fft_backward(dout: np.ndarray, x: np.ndarray, w: np.ndarray, stride: int = 1, padding: int = 0,
                             dilation: int = 1) -> Three:
    """The gradients of `convolution_fft`: with out = X conj(W), dx = dOut W and dw = X conj(dOut), in spectra.

    dout: [N, F, OH, OW]. Returns dx: [N, C, H, W], dw: [F, C, KH, KW], db: [F]. Steps that the stride skipped have
    gradient 0; taps that dilation skipped are not read.
    """
    padded = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    size, (kh, kw) = padded.shape[2:], w.shape[2:]
    spread = np.zeros((*w.shape[:2], dilation * (kh - 1) + 1, dilation * (kw - 1) + 1))
    spread[:, :, ::dilation, ::dilation] = w
    full = np.zeros((*dout.shape[:2], *size))
    full[:, :, :stride * (dout.shape[2] - 1) + 1:stride, :stride * (dout.shape[3] - 1) + 1:stride] = dout
    spectrum = np.fft.rfft2(full)
    dpadded = np.fft.irfft2(np.einsum("nfhw,fchw->nchw", spectrum, np.fft.rfft2(spread, size)), size)
    taps = np.fft.irfft2(np.einsum("nchw,nfhw->fchw", np.fft.rfft2(padded), np.conj(spectrum)), size)
    dw = taps[:, :, :dilation * (kh - 1) + 1:dilation, :dilation * (kw - 1) + 1:dilation]
    return dpadded[:, :, padding:size[0] - padding, padding:size[1] - padding], dw, dout.sum(axis=(0, 2, 3))


def convolution_winograd_backward(dout: np.ndarray, x: np.ndarray, w: np.ndarray, padding: int = 0) -> Three:
    """The gradients of `convolution_winograd` through the transposes of its transforms.

    dout: [N, F, OH, OW]. Returns dx: [N, C, H, W], dw: [F, C, 3, 3], db: [F].
    """
    if w.shape[2:] != (3, 3):
        raise UserError(f"a kernel of {w.shape[2:]}", where="convolution_winograd_backward",
                        remedy="F(2x2, 3x3) takes 3 x 3")
    n, channels, h, wide = x.shape
    oh, ow = output_size(h, 3, 1, padding), output_size(wide, 3, 1, padding)
    th, tw = (oh + 1) // 2, (ow + 1) // 2
    padded = np.pad(x, ((0, 0), (0, 0), (padding, padding + oh % 2), (padding, padding + ow % 2)))
    even = np.zeros((n, len(w), 2 * th, 2 * tw))
    even[:, :, :oh, :ow] = dout
    pieces = even.reshape(n, len(w), th, 2, tw, 2).transpose(0, 1, 2, 4, 3, 5)  # [N, F, TH, TW, 2, 2]
    dproducts = WINOGRAD_OUTPUT.T @ pieces @ WINOGRAD_OUTPUT  # [N, F, TH, TW, 4, 4]
    tiles = sliding_window_view(padded, (4, 4), axis=(2, 3))[:, :, ::2, ::2]  # [N, C, TH, TW, 4, 4]
    transformed = WINOGRAD_INPUT @ tiles @ WINOGRAD_INPUT.T
    filters = WINOGRAD_FILTER @ w @ WINOGRAD_FILTER.T  # [F, C, 4, 4]
    dfilters = np.einsum("nfijpq,ncijpq->fcpq", dproducts, transformed, optimize=True)
    dtiles = np.einsum("nfijpq,fcpq->ncijpq", dproducts, filters, optimize=True)
    dtiles = WINOGRAD_INPUT.T @ dtiles @ WINOGRAD_INPUT
    dpadded = np.zeros((n, channels, *padded.shape[2:]))
    for p in range(4):  # 16 strided sums: each pixel lies in up to four tiles
        for q in range(4):
            dpadded[:, :, p:p + 2 * th:2, q:q + 2 * tw:2] += dtiles[..., p, q]
    return (dpadded[:, :, padding:padding + h, padding:padding + wide],
            WINOGRAD_FILTER.T @ dfilters @ WINOGRAD_FILTER, dout.sum(axis=(0, 2, 3)))

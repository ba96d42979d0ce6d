"""One convolution, five computations: loops, one matrix product, spectra, Winograd's tiles, a sparse matrix."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from markupsafe import Markup

from visus.foundations import convolution as C
from visus.report.demo import Drawing, Fact, Shown, Table, below, same
from visus.report.sketch import arrow, bounds, box, grid, plot, sheet, words
from visus.run.demo import Tell

TOPIC = "convolution"
SUMMARY = "naive loops, im2col, FFT, Winograd, a sparse matrix: equal results, counted products"
SOURCE = ("Chellapilla, Puri, Simard, 2006 (im2col); Mathieu, Henaff, LeCun, arXiv:1312.5851 (FFT); Lavin and Gray, "
          "arXiv:1509.09308, section 4.1 (Winograd); speeds: benchmarks/results/foundations_convolution.json")

IMAGES, CHANNELS, FILTERS, SIDE = 2, 4, 8, 16


class Counting(np.ndarray):
    """An array that counts every product of two of its entries."""

    products = 0

    def __array_ufunc__(self, ufunc, method, *inputs, **keywords):  # type: ignore[no-untyped-def]
        plain = [np.asarray(one) for one in inputs]
        out = getattr(ufunc, method)(*plain, **keywords)
        if ufunc is np.multiply:
            Counting.products += np.size(out)
        elif ufunc is np.matmul:
            Counting.products += np.size(out) * plain[0].shape[-1]
        return out.view(Counting) if isinstance(out, np.ndarray) else out


def make(seed: int, advance: Tell) -> Shown:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(IMAGES, CHANNELS, SIDE, SIDE))
    w, b = rng.normal(size=(FILTERS, CHANNELS, 3, 3)), rng.normal(size=FILTERS)
    theirs = F.conv2d(torch.tensor(x), torch.tensor(w), torch.tensor(b), padding=1).numpy()
    ways = {"naive loops": lambda: C.convolution_naive(x, w, b, 1, 1),
            "im2col": lambda: C.convolution_forward(x, w, b, 1, 1)[0],
            "FFT": lambda: C.convolution_fft(x, w, b, 1, 1),
            "Winograd F(2x2, 3x3)": lambda: C.convolution_winograd(x, w, b, 1),
            "sparse matrix": lambda: _by_matrix(x, w, b)}
    facts: list[Fact] = []
    for place, (name, way) in enumerate(ways.items()):
        facts.append(below(f"{name} against torch, largest difference", float(np.abs(way() - theirs).max()), 1e-12))
        advance(place + 1, len(ways))

    direct = IMAGES * FILTERS * CHANNELS * 9 * SIDE * SIDE
    loops = _count(lambda: C.convolution_naive(x, w.view(Counting), b, 1, 1))
    product = _count(lambda: C.convolution_forward(x, w.view(Counting), b, 1, 1))
    columns = C.im2col(x, (3, 3), 1, 1)
    matrix = C.convolution_matrix(w, (SIDE, SIDE), padding=1)
    tiles = IMAGES * (SIDE // 2) ** 2
    error, in_tile = _one_tile(rng)
    winograd = tiles * FILTERS * CHANNELS * in_tile
    facts += [
        same("products of the naive loops, counted while they run", loops, direct),
        same("of the matrix product of im2col, counted likewise", product, direct),
        same("of the sparse matrix: its entries times the images, fewer at the zero-padded border",
             IMAGES * matrix.values.size, IMAGES * FILTERS * CHANNELS * (3 * SIDE - 2) ** 2),
        same("of Winograd, 16 counted in a tile: fewer than by definition by the factor", direct / winograd, 2.25),
        same("im2col's copies of each pixel inside of the image", _copies(columns, x), 9),
        below("Winograd's identity on one tile, Y = A'[(G g G') * (B' d B)]A against the definition", error, 1e-13),
    ]
    kernels = list(range(1, 32, 2))
    rows = [["naive loops", f"{direct:,}", "none"], ["im2col, one matrix product", f"{direct:,}",
                                                     f"{columns.size / x.size:.2f} times the input"],
            ["sparse matrix", f"{IMAGES * matrix.values.size:,}", f"{matrix.values.size:,} entries"],
            ["Winograd F(2x2, 3x3)", f"{winograd:,}", f"{16 / 4:.2f} times the input, as tiles"],
            ["FFT, spectra multiplied", f"{_fft_products(SIDE + 2):,}", "spectra of images and filters"]]
    return Shown(
        "Ways to execute a convolution",
        "The definition is a nest of loops. im2col copies every window into a column, so that one large matrix product "
        "does the work: the same number of products, arranged as processors like them. A spectrum turns the window "
        "into one product per frequency, whatever the kernel's size. Winograd's identity shares work between "
        "neighbouring outputs of a 3 x 3 filter.\n\n"
        f"The numbers are for {IMAGES} images of {CHANNELS} channels and {SIDE} x {SIDE} pixels, {FILTERS} filters of "
        "3 x 3, padding 1. Fewer products is not less time: copies, memory and the speed of a matrix product decide; "
        "the benchmark named below measures that.",
        [Drawing(_columns(), "Each window of the image becomes a column, the filter a row; the row times the columns "
                 "is the map.", "im2col", wide=True),
         Drawing(_tile(), "Four outputs from 16 products in place of 36. The transforms only add, subtract and halve.",
                 "Winograd's tile", wide=True),
         Drawing(plot([("by definition", [(k, float(k * k)) for k in kernels]),
                       ("FFT", [(k, _fft_per_output(k)) for k in kernels])], x_label="kernel side",
                      y_label="real products per output and pair of channels", width=520, log_y=True,
                      title="Products by kernel size"),
                 "For 64 x 64 outputs, 64 channels and filters: the spectra of images and filters are shared by all "
                 "pairs, at 4 products of real numbers for one of complex ones.", "Where spectra win")],
        facts, [Table("What each way costs", ["way", "products of values", "extra memory"], rows,
                      "Products that involve the values; transforms by fixed numbers are not counted, nor is the FFT's "
                      "own work, which the chart holds.")])


def _by_matrix(x: np.ndarray, w: np.ndarray, b: np.ndarray) -> np.ndarray:
    matrix = C.convolution_matrix(w, x.shape[2:], padding=1)
    return np.stack([(matrix @ one.ravel()).reshape(len(w), SIDE, SIDE) for one in x]) + b[:, None, None]


def _count(work) -> int:  # type: ignore[no-untyped-def]
    Counting.products = 0
    work()
    return Counting.products


def _copies(columns: np.ndarray, x: np.ndarray) -> int:
    inner = x[0, 0, SIDE // 2, SIDE // 2]
    return int((columns == inner).sum())


def _one_tile(rng: np.random.Generator) -> tuple[float, int]:
    """The largest difference of a tile's four outputs from the definition, and the products of values in it."""
    d, g = rng.normal(size=(4, 4)), rng.normal(size=(3, 3))
    filter_, tile = C.WINOGRAD_FILTER @ g @ C.WINOGRAD_FILTER.T, C.WINOGRAD_INPUT @ d @ C.WINOGRAD_INPUT.T
    counted = _count(lambda: filter_.view(Counting) * tile)
    made = C.WINOGRAD_OUTPUT @ (filter_ * tile) @ C.WINOGRAD_OUTPUT.T
    defined = np.array([[np.sum(d[i:i + 3, j:j + 3] * g) for j in range(2)] for i in range(2)])
    return float(np.abs(made - defined).max()), counted


def _fft_products(side: int) -> int:
    """Products of spectra: 4 real ones for each complex one, over the half of the frequencies that a real image has."""
    return 4 * IMAGES * FILTERS * CHANNELS * side * (side // 2 + 1)


def _fft_per_output(kernel: int, outputs: int = 64, channels: int = 64) -> float:
    """Real products per output and pair of channels: spectra of images and results (each shared by `channels` pairs)
    at 2.5 n log2 n for n real numbers, filters transformed beforehand, and the product of spectra."""
    n = (outputs + kernel - 1) ** 2
    transforms = 2 * 2.5 * n * np.log2(n) / channels
    return float((transforms + 4 * n / 2) / outputs ** 2)


def _columns() -> Markup:
    image = np.arange(1.0, 17.0).reshape(4, 4)
    columns = C.im2col(image[None, None], (3, 3))
    kernel = np.array([[[[1.0, 0, -1], [2, 0, -2], [1, 0, -1]]]])
    out = kernel.reshape(1, 9) @ columns
    cell = 27
    parts = [words("image", 14, 22), grid(image, 14, 32, cell, plain=True), bounds(14, 32, 3, 3, cell),
             bounds(14 + cell, 32, 3, 3, cell, "hollow second"), arrow(136, 86, 186, 86),
             words("windows as columns", 420, 22), grid(columns, 470, 32, cell, plain=True),
             bounds(470, 32, 1, 9, cell), bounds(470 + cell, 32, 1, 9, cell, "hollow second"),
             words("filter as a row", 200, 64), grid(kernel.reshape(1, 9), 200, 74, cell),
             words("\u00d7", 452, 92, "label", 16), words("=", 594, 160, "label", 16), words("map", 616, 132),
             grid(out.reshape(1, 4), 616, 142, cell)]
    return sheet(750, 290, *parts, title="Windows of an image as the columns of a matrix")


def _tile() -> Markup:
    parts = [box(14, 50, 120, 70, "tile d\n4 x 4 pixels"), arrow(134, 85, 174, 85),
             box(174, 50, 130, 70, "B' d B\nadd, subtract"),
             box(14, 160, 120, 70, "filter g\n3 x 3 weights"), arrow(134, 195, 174, 195),
             box(174, 160, 130, 70, "G g G'\nonce per filter"), arrow(304, 85, 364, 130), arrow(304, 195, 364, 150),
             box(364, 105, 130, 70, "entry by entry\n16 products", "node first"), arrow(494, 140, 534, 140),
             box(534, 105, 130, 70, "A' ( ) A\nadd, subtract"), arrow(664, 140, 704, 140),
             box(704, 105, 110, 70, "2 x 2 outputs\nby definition: 36", "node second")]
    return sheet(830, 250, *parts, title="Winograd's minimal filtering of a tile")

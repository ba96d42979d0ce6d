"""Lab convnet: a convolutional network of three layers, put together from modular layers.

    conv (stride 1, padding (K - 1) / 2) - ReLU - max pooling 2 x 2 - affine - ReLU - affine - softmax loss

The layers are there: take your own, or those of the foundations, which have the same form (forward gives output and
cache, backward takes dout and cache):

    from visus.foundations.layers import affine_forward, affine_backward, relu_forward, relu_backward, softmax_loss
    from visus.foundations.convolution import (convolution_forward, convolution_backward, max_pool_forward,
                                               max_pool_backward)
    convolution_forward(x, w, b, stride, padding)      max_pool_forward(x, size, stride)

params: "w1" [F, C, K, K], "b1" [F], "w2" [F H/2 W/2, M], "b2" [M], "w3" [M, classes], "b3".

    loss = mean of -log p_y  +  1/2 reg (sum of the squares of w1, w2 and w3)

    visus lab check convnet.py
    visus lab show convnet.py

Source: Stanford CS231n, assignment 2 (convolutional networks).
"""

from __future__ import annotations

import numpy as np

from visus.labs import NotWritten

LAB = "convnet"


def parameter_shapes(channels: int, side: int, filters: int, kernel: int, hidden: int,
                     classes: int) -> dict[str, tuple[int, ...]]:
    """The shape of each parameter for images [channels, side, side], side even, kernel odd."""
    raise NotWritten


def scores(params: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """The scores [N, classes] of images x [N, C, H, W]."""
    raise NotWritten


def loss(params: dict[str, np.ndarray], x: np.ndarray, labels: np.ndarray,
         reg: float) -> tuple[float, dict[str, np.ndarray]]:
    """The loss, and the gradient of each parameter as a dict with the keys of params."""
    raise NotWritten

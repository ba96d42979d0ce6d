"""Lab spatial_batchnorm: batch normalisation of maps, and the two relatives that need no batch.

A convolution treats all places of an image alike, so each of its channels is normalised as one feature, over images and
places together: the mean and variance of channel c are taken over N, H and W. What was written for rows can be used:
move the channels to the end, [N, C, H, W] -> [N H W, C], normalise rows, and move them back. A reshape alone does not
do it: only a transpose moves an axis.

Layer normalisation takes each image for itself, over all of its features; group normalisation each image over the
channels of one group and all places. Both do the same in training and at test time.

    visus lab check spatial_batchnorm.py
    visus lab show spatial_batchnorm.py

Source: Ioffe and Szegedy 2015, section 3.2; Ba et al. 2016; Wu and He 2018; Stanford CS231n, assignment 2.
"""

from __future__ import annotations

import numpy as np

from visus.labs import NotWritten

LAB = "spatial_batchnorm"


def spatial_forward(x: np.ndarray, gamma: np.ndarray, beta: np.ndarray, eps: float) -> tuple[np.ndarray, tuple]:
    """Each channel over images and places. x: [N, C, H, W]; gamma, beta: [C]. Returns out and the cache.

    You may use your own batchnorm, or the foundations': from visus.foundations import layers.
    """
    raise NotWritten


def spatial_backward(dout: np.ndarray, cache: tuple) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns dx [N, C, H, W], dgamma [C], dbeta [C]."""
    raise NotWritten


def layernorm_forward(x: np.ndarray, gamma: np.ndarray, beta: np.ndarray, eps: float) -> tuple[np.ndarray, tuple]:
    """Each row over its own features. x: [N, D]; gamma, beta: [D]. Returns out and the cache."""
    raise NotWritten


def layernorm_backward(dout: np.ndarray, cache: tuple) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns dx [N, D], dgamma [D], dbeta [D]. gamma and beta are still one a feature, summed over rows."""
    raise NotWritten


def groupnorm_forward(x: np.ndarray, gamma: np.ndarray, beta: np.ndarray, groups: int,
                      eps: float) -> tuple[np.ndarray, tuple]:
    """Each image over the C / groups neighbouring channels of a group and all places. x: [N, C, H, W]; gamma, beta:
    [C]."""
    raise NotWritten

"""Layers as pairs of functions, forward and backward.

`<layer>_forward` gives the output and a cache. `<layer>_backward` takes the gradient of the loss with respect to that
output (`dout`) and the cache, and gives the gradients of what went in, in the same order.

Nothing is hidden: a cache is a plain tuple of what the backward pass needs. Losses give the loss and the gradient of
the scores at once. A layer that behaves otherwise at test time has two functions, `..._train` and `..._test`.

Shapes: N examples, D features, M outputs, C classes or channels, [H, W] pixels.

Sources: Stanford CS231n notes and assignments; Ioffe and Szegedy 2015, arXiv:1502.03167; Ba et al. 2016,
arXiv:1607.06450; Wu and He 2018, arXiv:1803.08494; Ulyanov et al. 2016, arXiv:1607.08022; Srivastava et al. 2014
(dropout); Clevert et al. 2015, arXiv:1511.07289; Klambauer et al. 2017, arXiv:1706.02515; Hendrycks and Gimpel 2016,
arXiv:1606.08415; Goodfellow et al. 2013, arXiv:1302.4389; He et al. 2015, arXiv:1502.01852.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from visus.core.errors import UserError

SELU_ALPHA, SELU_SCALE = 1.6732632423543772848170429916717, 1.0507009873554804934193349852946
Cache = tuple


# ---------------------------------------------------------------- affine


def affine_forward(x: np.ndarray, w: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, Cache]:
    """out = x W + b. x: [N, d1, ..., dk], flattened to [N, D]; w: [D, M]; b: [M]; out: [N, M]."""
    rows = x.reshape(len(x), -1)
    if rows.shape[1] != w.shape[0]:
        raise UserError(f"{rows.shape[1]} features for weights of shape {w.shape}", where="affine_forward")
    return rows @ w + b, (x, w)


def affine_backward(dout: np.ndarray, cache: Cache) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """dx = dout W^T, dw = x^T dout, db = the sum of dout over examples."""
    x, w = cache
    return (dout @ w.T).reshape(x.shape), x.reshape(len(x), -1).T @ dout, dout.sum(axis=0)


# ---------------------------------------------------------------- activations: any shape, entry by entry


def sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + e^-x) without overflow: the exponent is never positive."""
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1.0, e) / (1.0 + e)


def sigmoid_forward(x: np.ndarray) -> tuple[np.ndarray, Cache]:
    """out = 1 / (1 + e^-x); its slope out (1 - out) is at most 1/4."""
    out = sigmoid(x)
    return out, (out,)


def sigmoid_backward(dout: np.ndarray, cache: Cache) -> np.ndarray:
    """dx = dout out (1 - out)."""
    out, = cache
    return dout * out * (1 - out)


def tanh_forward(x: np.ndarray) -> tuple[np.ndarray, Cache]:
    """out = tanh x = 2 sigmoid(2x) - 1."""
    out = np.tanh(x)
    return out, (out,)


def tanh_backward(dout: np.ndarray, cache: Cache) -> np.ndarray:
    """dx = dout (1 - out^2)."""
    out, = cache
    return dout * (1 - out ** 2)


def relu_forward(x: np.ndarray) -> tuple[np.ndarray, Cache]:
    """out = max(x, 0)."""
    return np.maximum(x, 0), (x > 0,)


def relu_backward(dout: np.ndarray, cache: Cache) -> np.ndarray:
    """dx = dout where x > 0, else 0 (at 0 too: the subgradient that torch takes)."""
    active, = cache
    return dout * active


def leaky_relu_forward(x: np.ndarray, slope: float = 0.01) -> tuple[np.ndarray, Cache]:
    """out = x where x > 0, else slope * x."""
    factor = np.where(x > 0, 1.0, slope)
    return x * factor, (factor,)


def leaky_relu_backward(dout: np.ndarray, cache: Cache) -> np.ndarray:
    """dx = dout, times the slope where x <= 0."""
    factor, = cache
    return dout * factor


def prelu_forward(x: np.ndarray, a: np.ndarray) -> tuple[np.ndarray, Cache]:
    """Leaky ReLU with a learnt slope a channel. x: [N, C, ...]; a: [C]."""
    return np.where(x > 0, x, _per_channel(a, x) * x), (x, a)


def prelu_backward(dout: np.ndarray, cache: Cache) -> tuple[np.ndarray, np.ndarray]:
    """dx, and da_c = the sum of dout x over the entries of channel c below zero."""
    x, a = cache
    dx = np.where(x > 0, dout, _per_channel(a, x) * dout)
    return dx, np.where(x > 0, 0.0, dout * x).sum(axis=_all_but_channel(x))


def elu_forward(x: np.ndarray, alpha: float = 1.0) -> tuple[np.ndarray, Cache]:
    """out = x where x > 0, else alpha (e^x - 1)."""
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0))), (x, alpha)


def elu_backward(dout: np.ndarray, cache: Cache) -> np.ndarray:
    """dx = dout where x > 0, else dout alpha e^x."""
    x, alpha = cache
    return dout * np.where(x > 0, 1.0, alpha * np.exp(np.minimum(x, 0)))


def selu_forward(x: np.ndarray) -> tuple[np.ndarray, Cache]:
    """An ELU scaled so that mean 0 and variance 1 are a fixed point through layers."""
    out, cache = elu_forward(x, SELU_ALPHA)
    return SELU_SCALE * out, cache


def selu_backward(dout: np.ndarray, cache: Cache) -> np.ndarray:
    """SELU_SCALE times the gradient of the ELU."""
    return SELU_SCALE * elu_backward(dout, cache)


_erf = np.vectorize(math.erf, otypes=[float])


def gelu_forward(x: np.ndarray) -> tuple[np.ndarray, Cache]:
    """out = x Phi(x), with Phi the standard normal distribution function (1 + erf(x / sqrt 2)) / 2."""
    below = 0.5 * (1 + _erf(x / math.sqrt(2)))
    return x * below, (x, below)


def gelu_backward(dout: np.ndarray, cache: Cache) -> np.ndarray:
    """dx = dout (Phi(x) + x phi(x)), with phi the standard normal density."""
    x, below = cache
    return dout * (below + x * np.exp(-0.5 * x * x) / math.sqrt(2 * math.pi))


def silu_forward(x: np.ndarray) -> tuple[np.ndarray, Cache]:
    """out = x sigmoid(x), also called swish."""
    gate = sigmoid(x)
    return x * gate, (x, gate)


def silu_backward(dout: np.ndarray, cache: Cache) -> np.ndarray:
    """dx = dout (s + x s (1 - s)), s = sigmoid(x)."""
    x, gate = cache
    return dout * gate * (1 + x * (1 - gate))


def hard_swish_forward(x: np.ndarray) -> tuple[np.ndarray, Cache]:
    """out = x min(max(x + 3, 0), 6) / 6: swish of straight pieces (arXiv:1905.02244)."""
    return x * np.clip(x + 3, 0, 6) / 6, (x,)


def hard_swish_backward(dout: np.ndarray, cache: Cache) -> np.ndarray:
    """dx = dout times 0 below -3, 1 above 3 and (2x + 3) / 6 between."""
    x, = cache
    return dout * np.where(x <= -3, 0.0, np.where(x >= 3, 1.0, (2 * x + 3) / 6))


def maxout_forward(x: np.ndarray, w: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, Cache]:
    """out = max over k of x W_k + b_k. x: [N, D]; w: [K, D, M]; b: [K, M]; out: [N, M]."""
    pieces = np.einsum("nd,kdm->knm", x, w) + b[:, None]  # [K, N, M]
    winner = pieces.argmax(axis=0)
    return np.take_along_axis(pieces, winner[None], axis=0)[0], (x, w, winner)


def maxout_backward(dout: np.ndarray, cache: Cache) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each unit's gradient goes to the linear piece that won. Returns dx, dw, db."""
    x, w, winner = cache
    routed = dout * (winner == np.arange(len(w))[:, None, None])  # [K, N, M]
    return np.einsum("knm,kdm->nd", routed, w), np.einsum("nd,knm->kdm", x, routed), routed.sum(axis=1)


# ---------------------------------------------------------------- losses: (scores, targets) -> (loss, dscores)


def softmax(scores: np.ndarray) -> np.ndarray:
    """e^s / sum e^s over the last axis, after the largest score is taken off: nothing overflows, nothing changes."""
    e = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def softmax_loss(scores: np.ndarray, labels: np.ndarray) -> tuple[float, np.ndarray]:
    """Cross-entropy of softmax: mean of log sum e^s - s_y. scores: [N, C]; labels: [N] integers.

    Its gradient is (p - y) / N, with y one-hot: probability minus truth.
    """
    rows = _check_labels(scores, labels)
    shifted = scores - scores.max(axis=1, keepdims=True)
    log_probs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    dscores = np.exp(log_probs)
    dscores[rows, labels] -= 1
    return float(-log_probs[rows, labels].mean()), dscores / len(scores)


def svm_loss(scores: np.ndarray, labels: np.ndarray, margin: float = 1.0) -> tuple[float, np.ndarray]:
    """Multiclass hinge (Weston and Watkins): mean over examples of sum_{j != y} max(0, s_j - s_y + margin).

    Its gradient is 1/N for each class within the margin, and minus their number over N for the right class.
    """
    rows = _check_labels(scores, labels)
    gaps = scores - scores[rows, labels][:, None] + margin
    gaps[rows, labels] = 0
    dscores = (gaps > 0).astype(float)
    dscores[rows, labels] = -dscores.sum(axis=1)
    return float(np.maximum(gaps, 0).sum() / len(scores)), dscores / len(scores)


def squared_error(predictions: np.ndarray, targets: np.ndarray) -> tuple[float, np.ndarray]:
    """Mean over examples of 1/2 |prediction - target|^2; its gradient is the difference over N. Both: [N, ...]."""
    _check_same_shape(predictions, targets)
    difference = predictions - targets
    return float(0.5 * (difference ** 2).sum() / len(predictions)), difference / len(predictions)


def logistic_loss(scores: np.ndarray, targets: np.ndarray) -> tuple[float, np.ndarray]:
    """Binary cross-entropy of sigmoid, the mean over all entries; targets in [0, 1]. Its gradient: (p - y) / size.

    max(s, 0) - s y + log(1 + e^-|s|) is the loss without overflow.
    """
    _check_same_shape(scores, targets)
    losses = np.maximum(scores, 0) - scores * targets + np.log1p(np.exp(-np.abs(scores)))
    return float(losses.mean()), (sigmoid(scores) - targets) / scores.size


# ---------------------------------------------------------------- dropout


def vanilla_dropout_train(x: np.ndarray, keep: float, rng: np.random.Generator) -> tuple[np.ndarray, Cache]:
    """Keep each entry with probability `keep`, else set it to 0. The test pass must then scale by `keep`."""
    mask = (rng.random(x.shape) < _check_keep(keep)).astype(float)
    return x * mask, (mask,)


def vanilla_dropout_test(x: np.ndarray, keep: float) -> np.ndarray:
    """out = keep * x: what the training pass gives on average."""
    return x * _check_keep(keep)


def inverted_dropout_train(x: np.ndarray, keep: float, rng: np.random.Generator) -> tuple[np.ndarray, Cache]:
    """Keep each entry with probability `keep` and divide it by `keep`: the test pass is then the identity."""
    mask = (rng.random(x.shape) < _check_keep(keep)) / keep
    return x * mask, (mask,)


def inverted_dropout_test(x: np.ndarray) -> np.ndarray:
    """out = x."""
    return x


def alpha_dropout_train(x: np.ndarray, keep: float, rng: np.random.Generator) -> tuple[np.ndarray, Cache]:
    """Dropout for SELU: dropped entries take SELU's value at minus infinity, s = -SELU_SCALE SELU_ALPHA.

    out = a (x or s) + b, with a = (keep + s^2 keep (1 - keep))^(-1/2) and b = -a (1 - keep) s, which keeps mean 0 and
    variance 1. The test pass is the identity.
    """
    kept, low = rng.random(x.shape) < _check_keep(keep), -SELU_SCALE * SELU_ALPHA
    a = (keep + low ** 2 * keep * (1 - keep)) ** -0.5
    return a * np.where(kept, x, low) - a * (1 - keep) * low, (a * kept,)


def dropout_backward(dout: np.ndarray, cache: Cache) -> np.ndarray:
    """dx = dout times the mask, for every kind."""
    mask, = cache
    return dout * mask


# ---------------------------------------------------------------- batch normalisation


@dataclass
class RunningStatistics:
    """Mean and variance of each feature, [D], averaged over training batches for use at test time."""

    mean: np.ndarray
    variance: np.ndarray
    momentum: float = 0.1

    @classmethod
    def of(cls, features: int, momentum: float = 0.1) -> RunningStatistics:
        return cls(np.zeros(features), np.ones(features), momentum)

    def update(self, mean: np.ndarray, variance: np.ndarray, count: int) -> None:
        """Move towards a batch's statistics by `momentum`; the variance without bias, over count - 1."""
        self.mean = (1 - self.momentum) * self.mean + self.momentum * mean
        self.variance = (1 - self.momentum) * self.variance + self.momentum * variance * count / (count - 1)


def batchnorm_train(x: np.ndarray, gamma: np.ndarray, beta: np.ndarray, running: RunningStatistics,
                    eps: float = 1e-5) -> tuple[np.ndarray, Cache]:
    """out = gamma (x - mean) / sqrt(var + eps) + beta with the statistics of the batch. x: [N, D]; gamma, beta: [D].

    `running` is updated in place. The cache serves both backward functions.
    """
    if len(x) < 2:
        raise UserError("a batch of one example has no variance", where="batchnorm_train", remedy="Use two or more")
    mean = x.mean(axis=0)
    centred = x - mean
    variance = (centred ** 2).mean(axis=0)
    inverse_std = 1 / np.sqrt(variance + eps)
    normal = centred * inverse_std
    running.update(mean, variance, len(x))
    return gamma * normal + beta, (centred, inverse_std, normal, gamma)


def batchnorm_backward_staged(dout: np.ndarray, cache: Cache) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The graph of batch normalisation walked backwards, one gate at a time. Returns dx, dgamma, dbeta."""
    centred, inverse_std, normal, gamma = cache
    n = len(dout)
    dbeta = dout.sum(axis=0)                                      # out = scaled + beta
    dgamma = (dout * normal).sum(axis=0)                          # scaled = gamma * normal
    dnormal = dout * gamma
    dcentred = dnormal * inverse_std                              # normal = centred * inverse_std
    dinverse_std = (dnormal * centred).sum(axis=0)
    dstd = -dinverse_std * inverse_std ** 2                       # inverse_std = 1 / std
    dvariance = 0.5 * dstd * inverse_std                          # std = sqrt(variance + eps)
    dsquares = np.broadcast_to(dvariance / n, centred.shape)      # variance = mean of squares
    dcentred = dcentred + 2 * centred * dsquares                  # squares = centred ** 2; centred is used twice
    dmean = -dcentred.sum(axis=0)                                 # centred = x - mean
    return dcentred + dmean / n, dgamma, dbeta                    # mean = mean of x; x is used twice


def batchnorm_backward(dout: np.ndarray, cache: Cache) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same in closed form: with z the normalised x and g = dout gamma,

    dx = (g - mean(g) - z mean(g z)) / std: what is left of g when its mean and its part along z are taken out.
    """
    _, inverse_std, normal, gamma = cache
    return (inverse_std * _project(dout * gamma, normal, 0), (dout * normal).sum(axis=0), dout.sum(axis=0))


def batchnorm_test(x: np.ndarray, gamma: np.ndarray, beta: np.ndarray, running: RunningStatistics,
                   eps: float = 1e-5) -> tuple[np.ndarray, Cache]:
    """The same affine map for every example, with the running statistics. x: [N, D]."""
    inverse_std = 1 / np.sqrt(running.variance + eps)
    normal = (x - running.mean) * inverse_std
    return gamma * normal + beta, (inverse_std, normal, gamma)


def batchnorm_test_backward(dout: np.ndarray, cache: Cache) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The statistics are constants here: dx = dout gamma / std. Returns dx, dgamma, dbeta."""
    inverse_std, normal, gamma = cache
    return dout * gamma * inverse_std, (dout * normal).sum(axis=0), dout.sum(axis=0)


def spatial_batchnorm_train(x: np.ndarray, gamma: np.ndarray, beta: np.ndarray, running: RunningStatistics,
                            eps: float = 1e-5) -> tuple[np.ndarray, Cache]:
    """Batch normalisation of maps: each channel over examples and pixels. x: [N, C, H, W]; gamma, beta: [C]."""
    out, cache = batchnorm_train(_channels_last_rows(x), gamma, beta, running, eps)
    return _back_to_maps(out, x.shape), cache


def spatial_batchnorm_backward(dout: np.ndarray, cache: Cache) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """dx: [N, C, H, W], dgamma, dbeta: [C]."""
    dx, dgamma, dbeta = batchnorm_backward(_channels_last_rows(dout), cache)
    return _back_to_maps(dx, dout.shape), dgamma, dbeta


def spatial_batchnorm_test(x: np.ndarray, gamma: np.ndarray, beta: np.ndarray, running: RunningStatistics,
                           eps: float = 1e-5) -> tuple[np.ndarray, Cache]:
    """With the running statistics. x: [N, C, H, W]."""
    out, cache = batchnorm_test(_channels_last_rows(x), gamma, beta, running, eps)
    return _back_to_maps(out, x.shape), cache


# ---------------------------------------------------------------- normalisation that needs no batch


def layernorm_forward(x: np.ndarray, gamma: np.ndarray, beta: np.ndarray,
                      eps: float = 1e-5) -> tuple[np.ndarray, Cache]:
    """Each example over its own features: the same in training and at test time. x: [..., D]; gamma, beta: [D]."""
    normal, inverse_std = _normalise(x, -1, eps)
    return gamma * normal + beta, (normal, inverse_std, gamma)


def layernorm_backward(dout: np.ndarray, cache: Cache) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The closed form of `batchnorm_backward` along the other axis. Returns dx, dgamma, dbeta."""
    normal, inverse_std, gamma = cache
    leading = tuple(range(dout.ndim - 1))
    return (inverse_std * _project(dout * gamma, normal, -1), (dout * normal).sum(axis=leading),
            dout.sum(axis=leading))


def groupnorm_forward(x: np.ndarray, gamma: np.ndarray, beta: np.ndarray, groups: int,
                      eps: float = 1e-5) -> tuple[np.ndarray, Cache]:
    """Each example over the pixels and channels of one group. x: [N, C, ...]; gamma, beta: [C]; groups divides C."""
    if groups < 1 or x.shape[1] % groups:
        raise UserError(f"{x.shape[1]} channels do not divide into {groups} groups", where="groupnorm_forward")
    normal, inverse_std = _normalise(x.reshape(len(x), groups, -1), -1, eps)  # [N, groups, C/groups * pixels]
    normal = normal.reshape(x.shape)
    return _per_channel(gamma, x) * normal + _per_channel(beta, x), (normal, inverse_std, gamma)


def groupnorm_backward(dout: np.ndarray, cache: Cache) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns dx: [N, C, ...], dgamma, dbeta: [C]."""
    normal, inverse_std, gamma = cache
    grouped = (*inverse_std.shape[:2], -1)
    dnormal = (dout * _per_channel(gamma, dout)).reshape(grouped)
    dx = inverse_std * _project(dnormal, normal.reshape(grouped), -1)
    axes = _all_but_channel(dout)
    return dx.reshape(dout.shape), (dout * normal).sum(axis=axes), dout.sum(axis=axes)


def instancenorm_forward(x: np.ndarray, gamma: np.ndarray, beta: np.ndarray,
                         eps: float = 1e-5) -> tuple[np.ndarray, Cache]:
    """Each channel of each example over its own pixels: group normalisation with as many groups as channels."""
    return groupnorm_forward(x, gamma, beta, x.shape[1], eps)


def instancenorm_backward(dout: np.ndarray, cache: Cache) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns dx: [N, C, ...], dgamma, dbeta: [C]."""
    return groupnorm_backward(dout, cache)


# ---------------------------------------------------------------- shared steps


def _normalise(x: np.ndarray, axis: int, eps: float) -> tuple[np.ndarray, np.ndarray]:
    """x with mean 0 and variance 1 along the axis, and 1 / std."""
    centred = x - x.mean(axis=axis, keepdims=True)
    inverse_std = 1 / np.sqrt((centred ** 2).mean(axis=axis, keepdims=True) + eps)
    return centred * inverse_std, inverse_std


def _project(g: np.ndarray, z: np.ndarray, axis: int) -> np.ndarray:
    """g without its mean and without its part along z, both along the axis."""
    return g - g.mean(axis=axis, keepdims=True) - z * (g * z).mean(axis=axis, keepdims=True)


def _per_channel(values: np.ndarray, x: np.ndarray) -> np.ndarray:
    """[C] -> [C, 1, ...], to be broadcast against x: [N, C, ...]."""
    return values.reshape(-1, *(1,) * (x.ndim - 2))


def _all_but_channel(x: np.ndarray) -> tuple[int, ...]:
    return (0, *range(2, x.ndim))


def _channels_last_rows(x: np.ndarray) -> np.ndarray:
    """[N, C, H, W] -> [N*H*W, C]."""
    return x.transpose(0, 2, 3, 1).reshape(-1, x.shape[1])


def _back_to_maps(rows: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """[N*H*W, C] -> [N, C, H, W]."""
    n, c, h, w = shape
    return rows.reshape(n, h, w, c).transpose(0, 3, 1, 2)


def _check_labels(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    labels = np.asarray(labels)
    if labels.shape != scores.shape[:1] or labels.dtype.kind not in "iu":
        raise UserError(f"labels of shape {labels.shape} and type {labels.dtype} for scores of shape {scores.shape}",
                        where="labels", remedy="Pass one integer per row of scores")
    if labels.size and not (labels.min() >= 0 and labels.max() < scores.shape[1]):
        raise UserError(f"labels from {labels.min()} to {labels.max()} for {scores.shape[1]} classes", where="labels")
    return np.arange(len(scores))


def _check_same_shape(predictions: np.ndarray, targets: np.ndarray) -> None:
    if predictions.shape != targets.shape:
        raise UserError(f"targets of shape {targets.shape} for predictions of shape {predictions.shape}",
                        where="targets")


def _check_keep(keep: float) -> float:
    if not 0 < keep <= 1:
        raise UserError(f"a keep probability of {keep}", where="dropout", remedy="It lies in (0, 1]")
    return keep

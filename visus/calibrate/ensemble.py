"""Several answers to one image, from several models or from one with dropout left on: their mean and how they differ.

Papers: Lakshminarayanan, Pritzel, Blundell, Simple and Scalable Predictive Uncertainty Estimation using Deep
Ensembles, NIPS 2017, arXiv:1612.01474; Gal and Ghahramani, Dropout as a Bayesian Approximation, ICML 2016,
arXiv:1506.02142; the mutual information of answer and model after Houlsby et al., 2011, arXiv:1112.5745.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from visus.core.errors import UserError
from visus.core.validate import positive


@dataclass(frozen=True, kw_only=True, eq=False)
class Agreement:
    """Of M members on N samples. probs: [N, C], their mean. disagreement: [N], the share of pairs of members that name
    different classes. entropy: [N], of the mean, in nats. mutual_information: [N], entropy less the members' mean
    entropy: what they do not agree on, 0 where all say the same."""

    probs: np.ndarray
    disagreement: np.ndarray
    entropy: np.ndarray
    mutual_information: np.ndarray


def agree(members: np.ndarray) -> Agreement:
    """members: [M, N, C] probabilities, M at least 2; summed in float64."""
    assert members.ndim == 3 and len(members) > 1
    count = len(members)
    mean, inner = np.zeros(members.shape[1:]), np.zeros(members.shape[1])
    votes = np.zeros(members.shape[1:], np.int64)
    for one in members:
        mean += np.asarray(one, np.float64) / count
        inner += _entropy(np.asarray(one, np.float64)) / count
        votes[np.arange(len(one)), one.argmax(1)] += 1
    same = (votes * (votes - 1)).sum(1) / (count * (count - 1))
    entropy = _entropy(mean)
    return Agreement(probs=mean, disagreement=1 - same, entropy=entropy,
                     mutual_information=np.maximum(0, entropy - inner))


def _entropy(probs: np.ndarray) -> np.ndarray:
    return -(probs * np.log(np.where(probs > 0, probs, 1))).sum(1)


@contextmanager
def dropout_on(model: nn.Module) -> Iterator[int]:
    """Inside of the block everything is in eval mode but the dropout layers; yields how many drop anything. Afterwards
    each module is in the mode that it was in. Raises UserError for a model without dropout."""
    dropouts = [m for m in model.modules() if isinstance(m, nn.modules.dropout._DropoutNd) and m.p > 0]
    if not dropouts:
        raise UserError("has no dropout that drops anything, so all its passes are equal", where=type(model).__name__,
                        remedy="Train with some, such as --set model.config.dropout=0.1, or average several runs")
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()
        for module in dropouts:
            module.train()
        yield len(dropouts)
    finally:
        for part, mode in modes.items():
            part.training = mode


@torch.inference_mode()
def dropout_passes(model: nn.Module, images: Tensor, passes: int, seed: int = 0) -> Tensor:
    """Softmax probabilities [passes, B, C] of `passes` draws of dropout. images: [B, C, H, W] normalised. The caller's
    random state stays as it is."""
    positive(passes=passes)
    devices = [images.device] if images.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), dropout_on(model):
        torch.manual_seed(seed)
        return torch.stack([model(images).float().softmax(1) for _ in range(passes)])

"""From votes of neighbours to probabilities: beside those of the neighbours there is a part that all classes share.

Without it a class that no neighbour has would be impossible, and one wrong answer would have an infinite loss. How
large it is says how far neighbours are to be trusted: it is chosen so that the labels of other images are likeliest.
"""

from __future__ import annotations

import torch
from torch import Tensor

from visus.classical.fitted import Examples

CANDIDATES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
USUAL = 0.1      # where there are no images to choose by
IMAGES = 1000    # of val, at the most, that it is chosen by


def logits(votes: Tensor, shared: float) -> Tensor:
    """[B, C], k a row in all -> log((votes + shared / C) / (k + shared)): the largest stays the largest."""
    return ((votes + shared / votes.shape[1]) / (votes.sum(1, keepdim=True) + shared)).log()


def choose_shared(votes: Tensor, labels: Tensor, examples: Examples) -> float:
    """The candidate under which labels, int64 [N], are likeliest by these votes, [N, C]; said aloud."""
    if not len(labels):
        return USUAL
    losses = [float(torch.nn.functional.cross_entropy(logits(votes.double(), shared), labels)) for shared in CANDIDATES]
    best = CANDIDATES[min(range(len(losses)), key=losses.__getitem__)]
    examples.say(f"shared={best:g} of {', '.join(f'{shared:g}' for shared in CANDIDATES)}: the part of a vote that all "
                 f"classes share, with which the labels of {len(labels):,} val images are likeliest")
    return best

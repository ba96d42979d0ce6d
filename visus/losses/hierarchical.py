"""Hierarchical softmax: the probability of a class is the product of the turns on its way through a binary tree.

In the place of a last dense layer and a softmax over C classes: the C - 1 inner nodes of the tree are sigmoids, and the
loss of a sample evaluates the nodes on the path of its label alone, about log2 C. The probabilities of all classes sum
to 1 by construction. Class counts give Huffman's tree, in which frequent classes have the shorter paths.

Morin and Bengio, Hierarchical Probabilistic Neural Network Language Model, AISTATS 2005; Huffman's tree: Mikolov et
al. 2013, arXiv:1310.4546. By hand: `visus.foundations.hierarchical_softmax`.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from visus.core.errors import UserError


class HierarchicalSoftmax(nn.Module):
    """forward(features [B, D], labels [B]) -> the mean of -log p(label), a scalar.

    counts: how often each class occurs, [C], for Huffman's tree; None: equal, for a balanced one. weight: [C - 1, D];
    bias: [C - 1]; nodes, turns: buffers [C, P], the nodes on the way to each class and +1, -1 or 0 (past the leaf).
    """

    nodes: Tensor
    turns: Tensor

    def __init__(self, in_features: int, num_classes: int, counts: Sequence[float] | None = None):
        super().__init__()
        if in_features < 1 or num_classes < 2:
            raise UserError(f"in_features is {in_features} and num_classes is {num_classes}",
                            where="HierarchicalSoftmax", remedy="At least 1 feature and 2 classes")
        if counts is not None and (len(counts) != num_classes or min(counts) < 0):
            raise UserError(f"{len(counts)} counts for {num_classes} classes", where="HierarchicalSoftmax",
                            remedy="One for each class, none below 0")
        nodes, turns = _tree([1.0] * num_classes if counts is None else counts)
        self.register_buffer("nodes", nodes)
        self.register_buffer("turns", turns)
        self.weight = nn.Parameter(torch.zeros(num_classes - 1, in_features))
        self.bias = nn.Parameter(torch.zeros(num_classes - 1))
        bound = in_features**-0.5
        nn.init.uniform_(self.weight, -bound, bound)

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        nodes, turns = self.nodes[labels], self.turns[labels].to(features)  # [B, P]
        scores = torch.einsum("bpd,bd->bp", self.weight[nodes], features) + self.bias[nodes]
        return -(F.logsigmoid(turns * scores) * turns.abs()).sum(1).mean()

    def log_probs(self, features: Tensor) -> Tensor:
        """[B, D] -> log p of every class, [B, C]: what a classifier's logits are; every node is evaluated once."""
        scores = F.linear(features, self.weight, self.bias)[:, self.nodes]  # [B, C, P]
        turns = self.turns.to(features)
        return (F.logsigmoid(turns * scores) * turns.abs()).sum(2)


def _tree(counts: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Huffman's tree as nodes and turns, int64 and int8 [C, P]."""
    heap = [(float(count), index) for index, count in enumerate(counts)]
    heapq.heapify(heap)
    above: dict[int, tuple[int, int]] = {}
    for joined in range(len(counts), 2 * len(counts) - 1):
        (first, left), (second, right) = heapq.heappop(heap), heapq.heappop(heap)
        above[left], above[right] = (joined, 1), (joined, -1)
        heapq.heappush(heap, (first + second, joined))
    paths: list[list[tuple[int, int]]] = []
    for leaf in range(len(counts)):
        path, at = [], leaf
        while at in above:
            at, turn = above[at]
            path.append((at - len(counts), turn))
        paths.append(path[::-1])
    longest = max(map(len, paths))
    filled = torch.tensor([path + [(0, 0)] * (longest - len(path)) for path in paths])  # [C, P, 2]
    return filled[..., 0].contiguous(), filled[..., 1].to(torch.int8)

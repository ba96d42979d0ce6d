"""Hierarchical softmax: a class is a leaf of a binary tree, its probability the product of the turns on the way there.

Each inner node answers one yes-or-no question with a sigmoid; C classes have C - 1 nodes. The probabilities of the
leaves sum to 1 by construction, so nothing is normalised over all classes: the loss of one example touches the nodes on
its path alone, log2 C of them in a balanced tree, and fewer on average in Huffman's, where frequent classes sit high.

Shapes: N examples, D features, C classes, P the longest path. w: [C - 1, D]; b: [C - 1].

Sources: Morin and Bengio, Hierarchical Probabilistic Neural Network Language Model, AISTATS 2005; Mikolov et al. 2013,
arXiv:1310.4546 (Huffman's code).
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from visus.core.errors import UserError
from visus.foundations.layers import sigmoid

Three = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class ClassTree:
    """nodes: [C, P], the inner nodes on the way to each class from the root; turns: [C, P], +1 where the way goes on
    with probability sigmoid(s) and -1 where with 1 - sigmoid(s) = sigmoid(-s), 0 after the leaf."""

    nodes: np.ndarray
    turns: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """[C]: questions on the way to each class."""
        return (self.turns != 0).sum(axis=1)

    @classmethod
    def balanced(cls, num_classes: int) -> ClassTree:
        """All paths of equal length, up to one: half of the remaining classes to each side."""
        return cls.huffman([1.0] * num_classes)

    @classmethod
    def huffman(cls, counts: Sequence[float]) -> ClassTree:
        """Huffman's tree: the two rarest are joined, again and again, so that the mean path under these counts is the
        shortest possible, at most one question above their entropy in bits."""
        if len(counts) < 2 or min(counts) < 0:
            raise UserError(f"{len(counts)} counts", where="ClassTree", remedy="Pass two or more, none below 0")
        heap = [(float(count), index) for index, count in enumerate(counts)]
        heapq.heapify(heap)
        parent: dict[int, tuple[int, int]] = {}  # child -> (parent, turn); leaves are 0 to C - 1, nodes follow
        for joined in range(len(counts), 2 * len(counts) - 1):
            (first, left), (second, right) = heapq.heappop(heap), heapq.heappop(heap)
            parent[left], parent[right] = (joined, 1), (joined, -1)
            heapq.heappush(heap, (first + second, joined))
        paths = []
        for leaf in range(len(counts)):
            path, at = [], leaf
            while at in parent:
                at, turn = parent[at]
                path.append((at - len(counts), turn))
            paths.append(path[::-1])
        longest = max(map(len, paths))
        filled = np.array([path + [(0, 0)] * (longest - len(path)) for path in paths])  # [C, P, 2]
        return cls(filled[..., 0], filled[..., 1])


def hierarchical_softmax_loss(x: np.ndarray, w: np.ndarray, b: np.ndarray, labels: np.ndarray,
                              tree: ClassTree) -> tuple[float, Three]:
    """The mean of -log p(label) and its gradients dx, dw, db; only the nodes of the paths are evaluated.

    With s = w_n x + b_n and turn t: -log sigmoid(t s) for each step, whose slope is sigmoid(s) - [t = 1], the p - y of
    that question. x: [N, D]; labels: [N].
    """
    if labels.shape != (len(x),) or labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() >= len(w) + 1:
        raise UserError(f"labels of shape {labels.shape} for {len(x)} examples and {len(w) + 1} classes",
                        where="labels", remedy="Pass one integer from 0 for each example")
    nodes, turns = tree.nodes[labels], tree.turns[labels]  # [N, P]
    s = np.einsum("npd,nd->np", w[nodes], x) + b[nodes]
    asked = turns != 0
    loss = float((np.logaddexp(0, -turns * s) * asked).sum() / len(x))
    ds = (sigmoid(s) - (turns > 0)) * asked / len(x)
    dw, db = np.zeros_like(w), np.zeros_like(b)
    np.add.at(dw, nodes, ds[..., None] * x[:, None])
    np.add.at(db, nodes, ds)
    return loss, (np.einsum("np,npd->nd", ds, w[nodes]), dw, db)


def class_log_probabilities(x: np.ndarray, w: np.ndarray, b: np.ndarray, tree: ClassTree) -> np.ndarray:
    """log p of every class, [N, C]: the sum of the log-probabilities of its turns. All nodes are evaluated once."""
    s = (x @ w.T + b)[:, tree.nodes]  # [N, C, P]
    return -(np.logaddexp(0, -tree.turns * s) * (tree.turns != 0)).sum(axis=2)

"""Approximate nearest neighbours: most of them, in a fraction of the time, by the faiss library (extra 'search').

'hnsw' walks a graph in which each vector knows some of its neighbours on several levels (Malkov and Yashunin, 2016,
arXiv:1603.09320); 'ivf' parts the vectors by k-means and looks only into the parts whose centres lie nearest (Jegou et
al., Product Quantization for Nearest Neighbor Search, PAMI 2011, section IV, without the quantiser of the residuals).
`visus.ops.neighbours.recall` says how many of the true neighbours were found.
"""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from visus.core.errors import MissingExtra
from visus.core.validate import one_of, positive, require

Kind = Literal["hnsw", "ivf"]
KINDS: tuple[str, ...] = get_args(Kind)
METRICS = ("l2", "cosine")
LINKS, BUILD_BREADTH, BREADTH = 16, 80, 64  # hnsw: neighbours of a vector; candidates while building, while searching
ROUNDS, SAMPLES = 10, 64                    # ivf: of k-means, and vectors for each part that it sees


class ApproximateIndex:
    """Of base [N, D], kept as float32 on the CPU. metric: 'l2' or 'cosine'. breadth: how far a search looks, more for a
    higher recall; hnsw: candidates (64), ivf: parts (a tenth of their number, which is sqrt(N)). Built with one
    thread, so that it is the same each time. Raises MissingExtra without faiss."""

    def __init__(self, base: Tensor, kind: Kind = "hnsw", metric: str = "l2", breadth: int | None = None,
                 seed: int = 0):
        one_of(KINDS, kind=kind)
        one_of(METRICS, metric=metric)
        faiss = library()
        self.kind, self.metric, self.count = kind, metric, len(base)
        vectors = self._prepared(base)
        threads = faiss.omp_get_max_threads()
        faiss.omp_set_num_threads(1)
        try:
            if kind == "hnsw":
                self.breadth = BREADTH if breadth is None else breadth
                self.index = faiss.IndexHNSWFlat(vectors.shape[1], LINKS)
                self.index.hnsw.efConstruction = BUILD_BREADTH
                self.index.hnsw.efSearch = self.breadth
            else:
                parts = max(1, math.isqrt(len(base)))
                self.breadth = math.ceil(parts / 10) if breadth is None else breadth
                self._centres = faiss.IndexFlatL2(vectors.shape[1])  # kept: the index only points to it
                self.index = faiss.IndexIVFFlat(self._centres, vectors.shape[1], parts)
                self.index.cp.seed, self.index.cp.niter = seed & 0x7FFFFFFF, ROUNDS
                self.index.cp.min_points_per_centroid, self.index.cp.max_points_per_centroid = 1, SAMPLES
                self.index.nprobe = self.breadth
                self.index.train(vectors)
            positive(breadth=self.breadth)
            self.index.add(vectors)
        finally:
            faiss.omp_set_num_threads(threads)

    def nearest(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """(distances float32 [Q, k] as `visus.ops.neighbours.nearest` gives them, nearest first; positions int64
        [Q, k]), on the queries' device. Where fewer than k were found the last one is repeated."""
        positive(k=k)
        require(k <= self.count, "k", k, f"be at most {self.count}, the number of vectors to choose from")
        if self.kind == "hnsw":
            self.index.hnsw.efSearch = max(self.breadth, k)
        squared, index = (torch.from_numpy(part) for part in self.index.search(self._prepared(queries), k))
        for place in range(1, k):
            gone = index[:, place] < 0
            index[gone, place], squared[gone, place] = index[gone, place - 1], squared[gone, place - 1]
        squared = squared.clamp_min(0)
        distances = squared / 2 if self.metric == "cosine" else squared.sqrt()
        return distances.to(queries.device), index.clamp_min(0).to(queries.device)

    def _prepared(self, vectors: Tensor) -> Any:
        vectors = vectors.detach().float().cpu()
        return (F.normalize(vectors, dim=1) if self.metric == "cosine" else vectors).contiguous().numpy()


def library() -> Any:
    """The module faiss. Raises MissingExtra where it is not installed."""
    try:
        import faiss
    except ImportError as error:
        raise MissingExtra("the approximate search", "search") from error
    return faiss

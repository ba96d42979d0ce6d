"""Which of many vectors lie nearest to a query: exact, in blocks, whatever the number of vectors.

Euclidean distances come from |x - y|^2 = |x|^2 - 2 x.y + |y|^2, one matrix product a block, on vectors that are centred
first: the three terms are large where the difference is small, and lose its digits. The k + SPARE best of that are
measured again by their differences in float64 and ordered by them. A bound on the rounding of the product (Higham,
Accuracy and Stability of Numerical Algorithms, 2002, section 3.1) then proves for each query that no other vector can
belong to them; where it does not, that query is compared with all vectors by differences. So the answer is that of
float64 arithmetic, equal distances in the order of the vectors, for the price of a float32 product.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from visus.core.errors import UserError
from visus.core.validate import one_of, positive, require

Metric = Literal["l1", "l2", "cosine"]
METRICS: tuple[str, ...] = get_args(Metric)
BLOCK_BYTES = 32 << 20  # of distances at a time
SPARE = 8               # vectors beyond k that are measured again
_QUERIES = 512         # at a time
_GROUP = 32             # distances of which the least is taken before the k least groups are looked for


@torch.no_grad()
def nearest(queries: Tensor, base: Tensor, k: int, metric: Metric = "l2",
            block_bytes: int = BLOCK_BYTES) -> tuple[Tensor, Tensor]:
    """(distances [Q, k] of the queries' type, nearest first; positions in base int64 [Q, k]).

    queries: [Q, D]; base: [N, D]; both finite, on one device; k: 1 to N. Distances: 'l1' sum of |x - y|; 'l2' its
    Euclidean length, not squared; 'cosine' 1 - x.y / (|x| |y|), 1 where a vector is 0. Equal ones in the order of base.
    Needs `block_bytes` and a copy of a block of vectors beside its inputs. Raises UserError for a k or a shape that
    does not fit.
    """
    one_of(METRICS, metric=metric)
    positive(k=k, block_bytes=block_bytes)
    if queries.ndim != 2 or base.ndim != 2 or queries.shape[1] != base.shape[1]:
        raise UserError("queries and base must be [Q, D] and [N, D] of one D",
                        where=f"{tuple(queries.shape)} and {tuple(base.shape)}")
    require(k <= len(base), "k", k, f"be at most {len(base)}, the number of vectors to choose from")
    kind = queries.dtype if queries.dtype in (torch.float32, torch.float64) else torch.float32
    index = torch.empty(len(queries), k, dtype=torch.int64, device=queries.device)
    distances = torch.empty(len(queries), k, dtype=kind, device=queries.device)
    if not len(queries):
        return distances, index
    with torch.autocast(queries.device.type, enabled=False):
        candidates, floor = _shortlist(queries, base, min(k + SPARE, len(base)), metric, kind, block_bytes)
        step = max(1, block_bytes // (16 * candidates.shape[1] * base.shape[1]))
        unsure = []
        for start in range(0, len(queries), step):
            rows = slice(start, start + step)
            exact = measured(queries[rows].double(), base, candidates[rows], metric)
            exact, order = _ordered(exact, candidates[rows])
            distances[rows], index[rows] = exact[:, :k].to(kind), order[:, :k]
            unsure.append(exact[:, k - 1] >= floor[rows])
        again = torch.cat(unsure).nonzero().flatten()
        if len(again):
            far, order = _directly(queries[again], base, k, metric, block_bytes)
            distances[again], index[again] = far.to(kind), order
    return distances, index


def measured(queries: Tensor, base: Tensor, index: Tensor, metric: Metric = "l2") -> Tensor:
    """[Q, k]: distances from each of queries [Q, D] to its own vectors base[index], index int64 [Q, k], by their
    differences, in the type of the queries; differentiable with respect to them, but where an 'l2' distance is 0."""
    chosen = base[index].to(queries.dtype)  # [Q, k, D]
    if metric == "l1":
        return (queries[:, None] - chosen).abs().sum(2)
    if metric == "l2":
        return (queries[:, None] - chosen).square().sum(2).sqrt()
    return 1 - (F.normalize(queries, dim=1)[:, None] * F.normalize(chosen, dim=2)).sum(2)


def _ordered(distances: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
    """Each row by distance, equal ones by index."""
    index, order = index.sort(dim=1)
    distances, second = distances.gather(1, order).sort(dim=1, stable=True)
    return distances, index.gather(1, second)


def _shortlist(queries: Tensor, base: Tensor, count: int, metric: Metric, kind: torch.dtype,
               block_bytes: int) -> tuple[Tensor, Tensor]:
    """(int64 [Q, count], the nearest as far as arithmetic of `kind` tells; float64 [Q]: what no other vector's distance
    can be below)."""
    rows = min(_QUERIES, len(queries))
    width = min(max(block_bytes // (2 * kind.itemsize * rows), count, _GROUP), len(base))
    like = torch.zeros((), dtype=kind, device=queries.device)
    centre = base.mean(0, dtype=kind) if metric == "l2" else like
    best = like.new_full((len(queries), count), torch.inf)
    index = torch.zeros(len(queries), count, dtype=torch.int64, device=queries.device)
    longest = torch.zeros((), dtype=torch.float64, device=base.device)
    more = int(metric == "l2")  # the last column adds |y|^2 to -2 x.y in the same product
    vectors, asked = like.new_ones(width, base.shape[1] + more), like.new_ones(rows, base.shape[1] + more)
    scores = like.new_empty(rows * width)
    for first in range(0, len(base), width):
        here = vectors[:len(base[first:first + width])]
        _prepare(base[first:first + width], centre, metric, here[:, :base.shape[1]])
        if metric == "l2":
            lengths = torch.linalg.vector_norm(here[:, :-1], dim=1)
            longest = torch.maximum(longest, lengths.amax().double())
            here[:, -1] = lengths.square()
        for start in range(0, len(queries), rows):
            part = slice(start, start + rows)
            mine = asked[:len(queries[part])]
            _prepare(queries[part], centre, metric, mine[:, :base.shape[1]])
            if metric == "l1":
                found = torch.cdist(mine, here, p=1)
            else:
                mine[:, :base.shape[1]] *= -2 if metric == "l2" else -1
                found = torch.mm(mine, here.T, out=scores[:len(mine) * len(here)].view(len(mine), len(here)))
            values, places = _least(found, min(count, len(here)))
            values, order = torch.cat([best[part], values], 1).topk(count, dim=1, largest=False)
            best[part], index[part] = values, torch.cat([index[part], places + first], 1).gather(1, order)
    return index, _floor(queries, best.amax(1).double(), centre, longest, metric, kind, everything=count == len(base))


def _prepare(vectors: Tensor, centre: Tensor, metric: Metric, out: Tensor) -> None:
    """What is multiplied: less their mean for 'l2', of length 1 for 'cosine'."""
    if metric == "l2" and vectors.dtype == out.dtype:
        torch.sub(vectors, centre, out=out)
        return
    out.copy_(vectors)
    if metric == "l2":
        out -= centre
    elif metric == "cosine":
        out /= torch.linalg.vector_norm(out, dim=1, keepdim=True).clamp_min(torch.finfo(out.dtype).tiny)


def _least(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """topk of the smallest in each row. The `count` least lie in the `count` groups whose least element is least, so
    most elements are only once compared with their neighbours."""
    width = scores.shape[1] // _GROUP  # of the groups' minima; group j holds the elements j, j + width, ...
    if width <= 2 * count:
        values, index = scores.topk(count, dim=1, largest=False)
        return values, index
    whole = scores[:, :width * _GROUP].unflatten(1, (_GROUP, width))
    groups = whole.amin(1).topk(count, dim=1, largest=False, sorted=False).indices
    index = groups[:, None] + width * torch.arange(_GROUP, device=scores.device)[None, :, None]  # [Q, group, count]
    rest = torch.arange(width * _GROUP, scores.shape[1], device=scores.device).expand(len(scores), -1)
    index = torch.cat([index.flatten(1), rest], 1)
    values, order = scores.gather(1, index).topk(count, dim=1, largest=False)
    return values, index.gather(1, order)


def _floor(queries: Tensor, last: Tensor, centre: Tensor, longest: Tensor, metric: Metric, kind: torch.dtype,
           everything: bool) -> Tensor:
    """float64 [Q]: the distance that every vector beyond the shortlist has at least, by its last score, [Q], and the
    most that rounding can have changed it. `longest` is the length of the longest vector."""
    if everything:
        return torch.full_like(last, torch.inf)
    unit = torch.finfo(kind).eps / 2
    if queries.device.type == "cuda" and kind == torch.float32 and torch.backends.cuda.matmul.allow_tf32:
        unit = 2.0**-11
    wrong = (queries.shape[1] + 8) * unit
    wrong = wrong / (1 - wrong) if wrong < 1 else torch.inf
    if metric == "l1":
        return last * (1 - wrong)
    if metric == "cosine":
        return 1 + last - 2 * wrong
    lengths = torch.cat([(part.to(kind) - centre).double().norm(dim=1) for part in queries.split(_QUERIES)])
    return (last + lengths.square() - wrong * (lengths + longest).square()).clamp_min(0).sqrt()


def _directly(queries: Tensor, base: Tensor, k: int, metric: Metric, block_bytes: int) -> tuple[Tensor, Tensor]:
    """What `nearest` gives, float64, by the differences from all vectors."""
    rows = min(64, len(queries))
    width = max(k, block_bytes // (8 * max(8 * rows, queries.shape[1])))
    found = []
    for part in queries.double().split(rows):
        values = torch.empty(len(part), 0, dtype=torch.float64, device=part.device)
        index = torch.empty(len(part), 0, dtype=torch.int64, device=part.device)
        for first in range(0, len(base), width):
            vectors = base[first:first + width].double()
            if metric == "cosine":
                unit, others = F.normalize(part, dim=1), F.normalize(vectors, dim=1)
                here = torch.cdist(unit, others, compute_mode="donot_use_mm_for_euclid_dist").square() / 2
                here[(unit == 0).all(1)] = 1.0
                here[:, (others == 0).all(1)] = 1.0
            else:
                here = torch.cdist(part, vectors, p=1.0 if metric == "l1" else 2.0,
                                   compute_mode="donot_use_mm_for_euclid_dist")
            values = torch.cat([values, here], 1)
            values, order = values.sort(dim=1, stable=True)
            places = torch.arange(first, first + len(vectors), device=part.device).expand(len(part), -1)
            index = torch.cat([index, places], 1).gather(1, order)[:, :k]
            values = values[:, :k]
        found.append((values, index))
    return torch.cat([values for values, _ in found]), torch.cat([index for _, index in found])


def shares(labels: Tensor, weights: Tensor, num_classes: int) -> Tensor:
    """[Q, C]: each class's part of the votes. labels: int64 [Q, k] of the neighbours; weights: [Q, k], at least 0, not
    all 0 in a row."""
    votes = weights.new_zeros(len(labels), num_classes)
    for place in range(labels.shape[1]):  # one label a row at a time: the same bits on every device
        votes = votes.scatter_add(1, labels[:, place:place + 1], weights[:, place:place + 1])
    return votes / votes.sum(1, keepdim=True)


def recall(found: Tensor, true: Tensor) -> float:
    """The share of the true neighbours, int64 [Q, k], that are among the found, int64 [Q, m], of the same query."""
    return float((true[:, :, None] == found[:, None, :]).any(2).double().mean())

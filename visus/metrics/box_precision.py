"""Average precision of boxes: do the best-scored ones lie on objects, each object once?

Everingham et al., The Pascal Visual Object Classes Challenge, IJCV 2010, section 4.2: from the best score down, a
box is right when it overlaps an object of its image that no box before it took; area under the monotone precision.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from visus.ops.boxes import box_iou


def box_average_precision(found: Sequence[tuple[Tensor, Tensor]], objects: Sequence[Tensor],
                          overlap: float = 0.5) -> tuple[float, float]:
    """found: boxes [K, 4] and scores [K] of each image; objects: boxes [N, 4] of each. overlap: least IoU of a box that
    is right. Returns (average precision, share of the objects that any box found); NaN where there is no object."""
    scores, right, total = [torch.zeros(0)], [torch.zeros(0, dtype=torch.bool)], 0
    for (boxes, score), truth in zip(found, objects, strict=True):
        total += len(truth)
        order = score.argsort(descending=True, stable=True)
        iou = box_iou(boxes[order], truth.to(boxes))
        taken: set[int] = set()
        hits = torch.zeros(len(order), dtype=torch.bool)
        for place, row in enumerate(iou):
            best = int(row.argmax()) if len(row) else -1
            if best >= 0 and float(row[best]) >= overlap and best not in taken:
                taken.add(best)
                hits[place] = True
        scores.append(score[order].cpu().float())
        right.append(hits)
    if not total:
        return float("nan"), float("nan")
    ranked = torch.cat(right)[torch.cat(scores).argsort(descending=True, stable=True)].double()
    hits = ranked.cumsum(0)
    precision = hits / torch.arange(1, len(hits) + 1)
    monotone = precision.flip(0).cummax(0).values.flip(0) if len(hits) else precision
    return float((monotone * ranked).sum() / total), float(ranked.sum() / total)

"""Boxes [N, 4], (x1, y1, x2, y2) in pixels with x2 and y2 outside: overlaps, suppression and merging."""

from __future__ import annotations

import torch
from torch import Tensor

from visus.core.validate import require

ROWS = 4096  # pairs of boxes are compared so many rows at a time


def box_area(boxes: Tensor) -> Tensor:
    """[..., 4] -> [...]; a box whose sides are turned round has area 0."""
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(-1)


def box_intersection(first: Tensor, second: Tensor) -> Tensor:
    """[N, 4], [M, 4] -> area that each pair shares, [N, M]."""
    low = torch.maximum(first[:, None, :2], second[None, :, :2])
    high = torch.minimum(first[:, None, 2:], second[None, :, 2:])
    return (high - low).clamp(min=0).prod(-1)


def box_iou(first: Tensor, second: Tensor) -> Tensor:
    """[N, 4], [M, 4] -> intersection over union of each pair in [0, 1], [N, M]; 0 where both are empty."""
    shared = box_intersection(first, second)
    union = box_area(first)[:, None] + box_area(second)[None] - shared
    return torch.where(union > 0, shared / union.clamp(min=torch.finfo(union.dtype).tiny), torch.zeros_like(shared))


def nms(boxes: Tensor, scores: Tensor, threshold: float = 0.5) -> Tensor:
    """Greedy suppression: of the boxes from the best score down, those that overlap no kept one by more than
    `threshold`. Returns their places, best first, int64 [K]; equal scores keep their order.

    A box is kept where no kept box before it overlaps it. That rule, applied to all boxes at once and repeated, stands
    still at the greedy answer, after as many rounds as the longest chain of boxes that decide one another.
    """
    require(0 <= threshold <= 1, "threshold", threshold, "lie in [0, 1]")
    order = scores.argsort(descending=True, stable=True)
    sorted_boxes = boxes[order]
    rows = [box_iou(part, sorted_boxes) > threshold for part in sorted_boxes.split(ROWS)]
    if not rows:
        return order
    covers = torch.cat(rows).triu(1).to(torch.float32)  # [N, N], 1 where the row's box would suppress the column's
    kept = torch.ones(len(order), dtype=torch.bool, device=boxes.device)
    for _ in range(len(order)):
        again = kept.to(covers.dtype) @ covers == 0
        if torch.equal(again, kept):
            break
        kept = again
    return order[kept]


def overlap_groups(boxes: Tensor, threshold: float = 0.0) -> Tensor:
    """int64 [N], numbered from 0: boxes that overlap by more than `threshold` (IoU), directly or through others, are
    one group."""
    count = len(boxes)
    label = torch.arange(count, device=boxes.device)
    if not count:
        return label
    touching = torch.cat([box_iou(part, boxes) > threshold for part in boxes.split(ROWS)])
    while True:
        low = torch.where(touching, label[None], count).amin(1).minimum(label)
        low = low[low]  # a group's name is its lowest box's: jump there
        if torch.equal(low, label):
            break
        label = low
    return torch.unique(label, return_inverse=True)[1]


def merge(boxes: Tensor, scores: Tensor, threshold: float = 0.0, min_members: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """One box for each group of overlapping ones: the mean of their corners (Viola and Jones, IJCV 2004, section 5.6).

    Returns boxes [K, 4], the sum of their members' scores [K], and their numbers of members, int64 [K], best first;
    groups of fewer than `min_members` are left out.
    """
    group = overlap_groups(boxes, threshold)
    count = int(group.max()) + 1 if len(group) else 0
    members = torch.bincount(group, minlength=count)
    means = boxes.new_zeros(count, 4).index_add_(0, group, boxes) / members.clamp(min=1)[:, None]
    sums = scores.new_zeros(count).index_add_(0, group, scores)
    order = sums.argsort(descending=True, stable=True)
    order = order[members[order] >= min_members]
    return means[order], sums[order], members[order]


def clip_boxes(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Boxes cut at the border of an image of `size` = (height, width)."""
    height, width = size
    return boxes.clamp(min=0).minimum(boxes.new_tensor([width, height, width, height]))

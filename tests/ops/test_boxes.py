"""Boxes: overlaps by hand, suppression against the greedy rule written out, merging."""

from __future__ import annotations

import pytest
import torch

from visus.core.errors import UserError
from visus.ops.boxes import box_area, box_iou, clip_boxes, merge, nms, overlap_groups


def random_boxes(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=draw) * 60
    return (torch.cat([corner, corner + 5 + 30 * torch.rand(count, 2, generator=draw)], 1),
            torch.rand(count, generator=draw))


def greedy(boxes: torch.Tensor, scores: torch.Tensor, threshold: float) -> list[int]:
    kept: list[int] = []
    overlap = box_iou(boxes, boxes).tolist()
    for place in scores.argsort(descending=True).tolist():
        if all(overlap[place][other] <= threshold for other in kept):
            kept.append(place)
    return kept


def test_overlaps_are_those_computed_by_hand():
    boxes = torch.tensor([[0.0, 0, 10, 10], [5, 0, 15, 10], [20, 20, 30, 40], [3, 3, 3, 8]])
    assert box_area(boxes).tolist() == [100, 100, 200, 0]
    overlap = box_iou(boxes, boxes)
    assert overlap[0, 1] == pytest.approx(50 / 150) and overlap[0, 2] == 0 and overlap[3, 3] == 0
    assert clip_boxes(torch.tensor([[-3.0, 2, 50, 9]]), (8, 20)).tolist() == [[0, 2, 20, 8]]


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.7, 1.0])
def test_suppression_is_the_greedy_rule(threshold: float):
    for seed in range(5):
        boxes, scores = random_boxes(80, seed)
        assert nms(boxes, scores, threshold).tolist() == greedy(boxes, scores, threshold)
    assert nms(torch.zeros(0, 4), torch.zeros(0)).tolist() == []


def test_a_chain_of_boxes_is_one_group_and_its_mean_one_box():
    chain = torch.tensor([[0.0, 0, 10, 10], [8, 0, 18, 10], [16, 0, 26, 10], [100, 100, 110, 110]])
    assert overlap_groups(chain).tolist() == [0, 0, 0, 1]
    boxes, scores, members = merge(chain, torch.tensor([1.0, 2, 3, 50]))
    assert boxes.tolist() == [[100, 100, 110, 110], [8, 0, 18, 10]]
    assert scores.tolist() == [50, 6] and members.tolist() == [1, 3]
    assert len(merge(chain, torch.ones(4), min_members=2)[0]) == 1
    assert [len(part) for part in merge(torch.zeros(0, 4), torch.zeros(0))] == [0, 0, 0]


def test_groups_are_the_connected_parts_of_the_overlap_graph():
    boxes, _ = random_boxes(120, 3)
    boxes[:, :2], boxes[:, 2:] = boxes[:, :2] * 6, boxes[:, :2] * 6 + (boxes[:, 2:] - boxes[:, :2])
    touching = box_iou(boxes, boxes) > 0.1
    found, expected = overlap_groups(boxes, 0.1), torch.full((120,), -1)
    for start in range(120):
        if expected[start] >= 0:
            continue
        edge, name = [start], int(expected.max()) + 1
        while edge:
            place = edge.pop()
            if expected[place] < 0:
                expected[place] = name
                edge += touching[place].nonzero()[:, 0].tolist()
    assert torch.equal(found, expected)


def test_a_threshold_out_of_range_is_refused():
    with pytest.raises(UserError, match="threshold=2"):
        nms(*random_boxes(3, 0), threshold=2)

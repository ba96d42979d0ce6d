"""Average precision of boxes against a case by hand."""

from __future__ import annotations

import math

import pytest
import torch

from visus.metrics.box_precision import box_average_precision


def test_precision_is_that_of_the_case_by_hand():
    objects = [torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30]]), torch.tensor([[0.0, 0, 10, 10]])]
    found = [(torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [50, 50, 60, 60]]), torch.tensor([0.9, 0.8, 0.3])),
             (torch.tensor([[0.0, 1, 10, 10]]), torch.tensor([0.7]))]
    # Ranked: right, wrong (taken), right, wrong. Precision at the hits: 1 and 2/3; one object of three is never found.
    precision, recall = box_average_precision(found, objects)
    assert precision == pytest.approx((1 + 2 / 3) / 3) and recall == pytest.approx(2 / 3)
    assert box_average_precision(found, objects, overlap=0.95)[1] == pytest.approx(1 / 3)


def test_nothing_found_is_zero_and_nothing_to_find_is_not_a_number():
    nothing = [(torch.zeros(0, 4), torch.zeros(0))]
    assert box_average_precision(nothing, [torch.tensor([[0.0, 0, 1, 1]])]) == (0.0, 0.0)
    assert all(math.isnan(value) for value in box_average_precision(nothing, [torch.zeros(0, 4)]))

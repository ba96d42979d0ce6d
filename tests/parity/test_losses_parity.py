"""Losses against torchvision's."""

from __future__ import annotations

import importlib

import pytest
import torch

from tools.peers import load_peer
from visus.losses.multitask import fast_rcnn


def test_the_fast_rcnn_loss_equals_torchvisions_two_parts():
    try:
        load_peer("torchvision")
    except ImportError as problem:
        pytest.skip(str(problem))
    roi_heads = importlib.import_module("torchvision.models.detection.roi_heads")
    generator = torch.Generator().manual_seed(0)
    scores, offsets = (torch.randn(*s, generator=generator) for s in ((12, 5), (12, 20)))
    targets = torch.randn(12, 4, generator=generator)
    labels = torch.randint(0, 5, (12,), generator=generator)
    classes, boxes = roi_heads.fastrcnn_loss(scores, offsets, [labels], [targets])  # its beta is 1/9, not the paper's 1
    found = fast_rcnn(scores, offsets, labels, targets, weight=2.0, beta=1 / 9)
    assert found.item() == pytest.approx((classes + 2.0 * boxes).item(), rel=1e-6)

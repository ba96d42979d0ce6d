"""The nearest class mean as the opponent."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from tests.doctor.deep.clouds import patient
from visus.doctor.deep.tiny_net_control import centroids, tiny_net_control


def test_a_net_that_finds_nothing_where_class_means_do_is_a_warning():
    finding, = tiny_net_control(patient("dropping"))
    assert finding.severity == "warning" and "class means 9" in finding.evidence


def test_class_means_of_separate_clouds_are_right():
    targets = torch.arange(60) % 3
    images = F.one_hot(2 * targets, 256).float().view(60, 1, 16, 16)  # 2 x 2 pixels become one
    assert centroids((images, targets), (images, targets)) == 1.0

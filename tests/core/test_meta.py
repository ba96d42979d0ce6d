"""Building on the meta device."""

from __future__ import annotations

import torch
from torch import nn

from visus.core.meta import on_meta
from visus.run.models import create_model


def test_shapes_are_those_of_a_real_build_and_nothing_is_allocated():
    real = create_model("resnet20").state_dict()
    with on_meta():
        meta = create_model("resnet20").state_dict()
    assert {name: tensor.shape for name, tensor in real.items()} == {name: t.shape for name, t in meta.items()}
    assert all(tensor.is_meta for tensor in meta.values())


def test_fills_do_nothing_inside_and_work_again_outside():
    with on_meta():
        weight = nn.Parameter(torch.empty(4, 4))
        assert nn.init.kaiming_normal_(weight) is weight
        assert nn.init.trunc_normal_(tensor=weight, std=0.1) is weight
        with torch.device("cpu"):
            assert torch.empty(3).fill_(2).shape == (3,)
    assert torch.empty(3).fill_(2).tolist() == [2, 2, 2]

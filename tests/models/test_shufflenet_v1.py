"""ShuffleNet against what the paper states."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from visus.core.errors import UserError
from visus.core.summary import summarise
from visus.models.cnn.shufflenet_v1 import ShuffleNetV1, ShuffleNetV1Config, Unit, channel_shuffle
from visus.run.models import create_model, describe_model

TABLE_1 = {1: (144, 143), 2: (200, 140), 3: (240, 137), 4: (272, 133), 8: (384, 137)}  # stage 2's width, MFLOPs


@pytest.mark.parametrize("groups", TABLE_1)
def test_widths_maps_and_costs_are_table_1s(groups):
    """The paper's complexity (from memory) counts convolutions alone, to the nearest million."""
    width, cost = TABLE_1[groups]
    with torch.device("meta"):
        model = create_model(f"shufflenet_v1_x1_0_g{groups}")
        maps = model.features(torch.empty(1, 3, 224, 224))
    assert model.feature_channels == (24, width, 2 * width, 4 * width)
    assert [m.shape[2] for m in maps] == [56, 28, 14, 7]
    assert [len(stage) for stage in (model.stage2, model.stage3, model.stage4)] == [4, 8, 4]
    rows = summarise(model, (1, 3, 224, 224)).rows
    assert round(sum(row.macs for row in rows if row.type == "Conv2d") / 1e6) == cost


def test_first_convolution_of_the_first_unit_alone_is_not_grouped():
    model = create_model("shufflenet_v1_x1_0_g3")
    reductions = [unit.reduce[0].groups for stage in (model.stage2, model.stage3, model.stage4) for unit in stage]
    expansions = [unit.expand[0].groups for stage in (model.stage2, model.stage3, model.stage4) for unit in stage]
    assert reductions == [1] + [3] * 15 and expansions == [3] * 16


@pytest.mark.parametrize(("scale", "cost"), [("x0_5", 1 / 4), ("x2_0", 4)])
def test_a_width_of_s_costs_about_s_squared(scale, cost):
    at_1 = describe_model("shufflenet_v1_x1_0_g3").macs
    assert describe_model(f"shufflenet_v1_{scale}_g3").macs / at_1 == pytest.approx(cost, rel=0.12)


@pytest.mark.parametrize(("groups", "size"), [(2, 3), (3, 2), (3, 4), (8, 3)])
def test_channel_shuffle_equals_a_loop_and_torchs(groups, size):
    maps = torch.randn(2, groups * size, 3, 4)
    expected = torch.empty_like(maps)
    for group in range(groups):
        for place in range(size):
            expected[:, place * groups + group] = maps[:, group * size + place]
    assert torch.equal(channel_shuffle(maps, groups), expected)
    assert torch.equal(channel_shuffle(maps, groups), nn.ChannelShuffle(groups)(maps))


@pytest.mark.parametrize("groups", [2, 3, 4])
def test_shuffled_groups_are_one_dense_product(groups):
    """Two grouped 1 x 1 convolutions with a shuffle between are a product of three matrices: block diagonal,
    permutation, block diagonal."""
    size = 2 * groups
    dim = groups * size
    first, second = (nn.Conv2d(dim, dim, 1, groups=groups, bias=False).double() for _ in range(2))
    order = torch.arange(dim).reshape(groups, size).T.flatten()
    matrix = _dense(second, groups) @ torch.eye(dim, dtype=torch.float64)[order] @ _dense(first, groups)
    maps = torch.randn(2, dim, 3, 3, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(second(channel_shuffle(first(maps), groups)),
                                   F.conv2d(maps, matrix[:, :, None, None]))
        assert (matrix.abs() > 1e-12).all()  # every output channel sees every input channel
        alone = _dense(second, groups) @ _dense(first, groups)
    assert (alone == 0).sum() == dim * dim * (groups - 1) // groups  # and without it, its own group


@pytest.mark.parametrize("stride", [1, 2])
def test_unit_is_figure_2s(stride):
    torch.manual_seed(0)
    unit = Unit(12, 24 if stride == 2 else 12, stride, 3, 3).double().eval()
    maps = torch.rand(2, 12, 6, 6, dtype=torch.float64)
    with torch.no_grad():
        worked = F.relu(unit.reduce[1](unit.reduce[0](maps)))
        worked = unit.expand(unit.filter(torch.cat([worked[:, i :: worked.shape[1] // 3] for i in
                                                    range(worked.shape[1] // 3)], 1)))
        beside = F.avg_pool2d(maps, 3, 2, 1)
        expected = F.relu(worked + maps) if stride == 1 else F.relu(torch.cat((beside, worked), 1))
        torch.testing.assert_close(unit(maps.clone()), expected)


def test_widths_that_the_groups_do_not_divide_are_refused():
    with pytest.raises(UserError, match="dims=100: must be a multiple of 4 times the groups, 8"):
        ShuffleNetV1Config(groups=2, stem_dim=24, dims=(100, 200, 400))
    with pytest.raises(UserError, match="dims=48: must exceed the width before it, 20, by a multiple of the groups, 3"):
        ShuffleNetV1Config(groups=3, stem_dim=20, dims=(48, 96, 192))
    with pytest.raises(UserError, match="three widths"):
        ShuffleNetV1Config(dims=(240, 480))
    with pytest.raises(UserError, match=r"groups=0"):
        ShuffleNetV1(ShuffleNetV1Config(groups=0))


def _dense(conv: nn.Conv2d, groups: int) -> torch.Tensor:
    """The [D, D] matrix of a grouped 1 x 1 convolution."""
    return torch.block_diag(*conv.weight.detach()[:, :, 0, 0].chunk(groups))

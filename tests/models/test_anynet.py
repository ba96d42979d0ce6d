"""AnyNet against RegNet, which is a line in its space, and what it refuses."""

from __future__ import annotations

import pytest
import torch

from visus.core.errors import UserError
from visus.core.summary import summarise
from visus.models import registry
from visus.models.cnn.anynet import AnyNet, AnyNetConfig
from visus.run.models import create_model


@pytest.mark.parametrize(("name", "depths", "widths", "group", "se_ratio"), [
    ("regnet_x_400mf", (1, 2, 7, 12), (32, 64, 160, 400), 16, 0.0),
    ("regnet_x_3_2gf", (2, 6, 15, 2), (96, 192, 432, 1008), 48, 0.0),
    ("regnet_y_400mf", (1, 3, 6, 6), (48, 104, 208, 440), 8, 0.25),
])
def test_a_regnet_is_an_anynet(name, depths, widths, group, se_ratio):
    """The quantised stages of a RegNet make the same parameters by name and shape, and the same MACs."""
    with torch.device("meta"):
        ours = AnyNet(AnyNetConfig(depths=depths, widths=widths, group_widths=(group,) * 4, se_ratio=se_ratio))
        regnet = registry.get(name)
        theirs = regnet.build(regnet.build.Config(**regnet.variant))
    assert {n: t.shape for n, t in ours.state_dict().items()} == {n: t.shape for n, t in theirs.state_dict().items()}
    assert summarise(ours, (1, 3, 224, 224)).macs == summarise(theirs, (1, 3, 224, 224)).macs


def test_a_bottleneck_narrows_the_convolution_in_groups():
    """Inner width w / b, groups of g: weights [w / b, g, 3, 3] (paper, Figure 4)."""
    model = create_model("anynet", widths=(16, 24, 64, 48), bottlenecks=(1, 2, 4, 1), group_widths=(4, 3, 16, 24))
    shapes = [tuple(stage[0].f.b[0].weight.shape) for stage in model.trunk_output]
    assert shapes == [(16, 4, 3, 3), (12, 3, 3, 3), (16, 16, 3, 3), (48, 24, 3, 3)]


def test_strides_are_free_for_small_images():
    model = create_model("anynet", widths=(8, 8, 8, 8), group_widths=(8, 8, 8, 8), depths=(1, 1, 1, 1),
                         strides=(1, 2, 1, 2), stem_stride=1)
    assert model.feature_strides == (1, 2, 2, 4)
    assert [m.shape[-1] for m in model.features(torch.randn(2, 3, 8, 8))] == [8, 4, 4, 2]


@pytest.mark.parametrize("fields", [{"depths": (1, 2, 3)}, {"depths": (1, 2, 0, 3)}, {"widths": (32, 64, 160, 404)},
                                    {"bottlenecks": (1, 1, 3, 1)}, {"se_ratio": 2}, {"strides": (2, 2, 2, 2.0)},
                                    {"group_widths": (16, 16, 16, 17)}])
def test_stages_that_do_not_fit_are_refused(fields):
    with pytest.raises(UserError, match=next(iter(fields))):
        AnyNetConfig(**fields)

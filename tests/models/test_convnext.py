"""ConvNeXt against what the paper states."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from visus.core.errors import UserError
from visus.layers.channel_norm import ChannelNorm
from visus.models.cnn.convnext import ConvNeXt, ConvNeXtConfig

SMALL = {"depths": (1, 1, 1, 1), "dims": (4, 8, 12, 16), "num_classes": 3}


def test_a_stage_has_one_norm_and_one_activation_in_each_block():
    """Section 2.6: fewer activations and norms; norms apart in the stem, before each downsampling and at the end."""
    with torch.device("meta"):
        model = ConvNeXt(ConvNeXtConfig())
    count = {kind: sum(type(m) is kind for m in model.modules()) for kind in (nn.LayerNorm, nn.GELU, ChannelNorm)}
    assert count == {nn.LayerNorm: 18, nn.GELU: 18, ChannelNorm: 5}


def test_channel_norm_is_zero_mean_and_unit_variance_in_each_place():
    maps = torch.rand(2, 6, 3, 5, dtype=torch.float64) * 4 + 1
    out = ChannelNorm(6, eps=0.0).double()(maps)
    torch.testing.assert_close(out.mean(1), torch.zeros(2, 3, 5, dtype=torch.float64))
    torch.testing.assert_close(out.var(1, correction=0), torch.ones(2, 3, 5, dtype=torch.float64))


def test_layer_scale_at_start_leaves_blocks_near_the_identity():
    model = ConvNeXt(ConvNeXtConfig(**SMALL)).eval()
    maps = torch.rand(1, 4, 8, 8)
    torch.testing.assert_close(model.features[1](maps), maps, rtol=0, atol=1e-4)


def test_drop_path_grows_from_nothing_to_its_rate():
    model = ConvNeXt(ConvNeXtConfig(**SMALL | {"drop_path": 0.3}))
    rates = [model.features[i][0].drop_path.rate for i in (1, 3, 5, 7)]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3])


@pytest.mark.parametrize(("field", "value"), [("depths", (3, 3)), ("dims", (8, 8, 8)), ("layer_scale", 0)])
def test_wrong_configs_are_refused(field, value):
    with pytest.raises(UserError, match=field):
        ConvNeXtConfig(**{field: value})

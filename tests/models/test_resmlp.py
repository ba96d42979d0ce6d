"""ResMLP: what parity with timm does not show."""

from __future__ import annotations

import pytest
import torch

from visus.core.errors import UserError
from visus.models.vit.resmlp import Affine, ResMLP, ResMLPConfig

TINY = {"image_size": 32, "patch_size": 8, "dim": 24, "depth": 2, "num_classes": 5}


@pytest.mark.parametrize(("field", "value"), [("image_size", 33), ("layer_scale", 0), ("mlp_ratio", 0), ("depth", True),
                                              ("drop_path", 1.0)])
def test_wrong_config_is_refused_by_name(field, value):
    with pytest.raises(UserError, match=f"{field}={value}"):
        ResMLPConfig(**{**TINY, field: value})


def test_another_image_size_is_refused_with_a_remedy():
    with pytest.raises(UserError, match=r"32x40.*32 x 32.*image_size"):
        ResMLP(ResMLPConfig(**TINY))(torch.zeros(1, 3, 32, 40))


def test_affine_is_equation_1():
    layer = Affine(3)
    tokens = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(layer(tokens), tokens)  # the identity at the start
    with torch.no_grad():
        layer.alpha.copy_(torch.tensor([[[1.0, 2, 3]]]))
        layer.beta.copy_(torch.tensor([[[4.0, 5, 6]]]))
    expected = tokens * torch.tensor([1.0, 2, 3]) + torch.tensor([4.0, 5, 6])
    torch.testing.assert_close(layer(tokens), expected)


def test_no_token_is_normalised():
    """Without norms and with the channel MLPs at zero the network is linear in its images, but for biases."""
    torch.manual_seed(0)
    model = ResMLP(ResMLPConfig(**TINY, layer_scale=0.5)).double().eval()
    a, b = torch.randn(2, 1, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        curved = model(a + b) - model(a) - model(b) + model(torch.zeros_like(a))
        assert curved.abs().max() > 1e-6
        for block in model.blocks:
            block.mlp_channels.fc2.weight.zero_()
        straight = model(a + b) - model(a) - model(b) + model(torch.zeros_like(a))
    assert straight.abs().max() < 1e-12


def test_branches_start_at_the_layer_scale_and_drop_path_is_the_same_in_every_block():
    model = ResMLP(ResMLPConfig(**TINY, layer_scale=1e-3, drop_path=0.1))
    assert all((scale == 1e-3).all() for block in model.blocks for scale in (block.ls1, block.ls2))
    assert [block.drop_path.rate for block in model.blocks] == [0.1, 0.1]

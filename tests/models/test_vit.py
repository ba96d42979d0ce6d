"""ViT: what parity with a peer does not show."""

from __future__ import annotations

import pytest
import torch

from visus.core.errors import UserError
from visus.layers.drop_path import DropPath
from visus.models.vit.vit import ViT, ViTConfig
from visus.ops.positions import resize_positions

TINY = {"image_size": 32, "patch_size": 8, "dim": 24, "depth": 2, "num_heads": 3, "num_classes": 5}


@pytest.mark.parametrize(("field", "value"),
                         [("image_size", 33), ("dim", 25), ("dropout", 1.0), ("drop_path", -0.1),
                                              ("mlp_ratio", 0), ("depth", 0)])
def test_wrong_config_is_refused_by_name(field, value):
    with pytest.raises(UserError, match=f"{field}={value}"):
        ViTConfig(**{**TINY, field: value})


def test_another_image_size_is_refused_with_a_remedy():
    with pytest.raises(UserError, match=r"40x40.*32 x 32.*image_size"):
        ViT(ViTConfig(**TINY))(torch.zeros(1, 3, 40, 40))


def test_drop_path_keeps_the_mean_and_drops_whole_samples():
    torch.manual_seed(0)
    layer = DropPath(0.25).train()
    out = layer(torch.ones(20_000, 2, 3))
    assert out.mean().item() == pytest.approx(1, abs=0.02)
    low, high = out.flatten(1).aminmax(dim=1)
    assert torch.equal(low, high) and sorted(low.unique().tolist()) == pytest.approx([0, 4 / 3])
    assert torch.equal(layer.eval()(torch.ones(2, 2, 3)), torch.ones(2, 2, 3))


def test_drop_path_grows_linearly_with_depth():
    model = ViT(ViTConfig(**{**TINY, "depth": 5, "drop_path": 0.4}))
    rates = [getattr(block.drop_path, "rate", 0) for block in model.blocks]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])


def test_resized_positions_keep_prefix_and_same_grid():
    positions = torch.randn(1, 2 + 12, 4, generator=torch.Generator().manual_seed(0))
    same = resize_positions(positions, (3, 4), (3, 4), 2)
    torch.testing.assert_close(same, positions)
    assert torch.equal(resize_positions(positions, (3, 4), (6, 5), 2)[:, :2], positions[:, :2])
    assert resize_positions(torch.full((1, 13, 4), 0.5), (3, 4), (7, 9), 1).allclose(torch.tensor(0.5))

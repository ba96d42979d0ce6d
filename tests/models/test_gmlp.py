"""gMLP: what parity with timm does not show."""

from __future__ import annotations

import pytest
import torch

from visus.core.errors import UserError
from visus.models.vit.gmlp import GMLP, GMLPConfig, SpatialGate

TINY = {"image_size": 32, "patch_size": 8, "dim": 24, "depth": 2, "hidden_dim": 48, "num_classes": 5}


@pytest.mark.parametrize(("field", "value"), [("image_size", 33), ("hidden_dim", 47), ("depth", 0), ("drop_path", 1.0)])
def test_wrong_config_is_refused_by_name(field, value):
    with pytest.raises(UserError, match=f"{field}={value}"):
        GMLPConfig(**{**TINY, field: value})


def test_another_image_size_is_refused_with_a_remedy():
    with pytest.raises(UserError, match=r"40x40.*32 x 32.*image_size"):
        GMLP(GMLPConfig(**TINY))(torch.zeros(1, 3, 40, 40))


def test_a_fresh_gate_is_near_one():
    """Section 2.1: W near 0 and b = 1, so that at the start each block is a plain MLP without its gate's half."""
    torch.manual_seed(0)
    gate = GMLP(GMLPConfig(**TINY)).blocks[0].mlp_channels.gate
    units = torch.randn(3, 16, 48)
    torch.testing.assert_close(gate(units), units[..., :24], rtol=1e-4, atol=1e-4)


def test_the_gate_is_the_papers_equation():
    """s(Z) = Z1 * (W LN(Z2) + b), with one W and b for all channels."""
    torch.manual_seed(0)
    gate = SpatialGate(6, 4).double()
    units = torch.randn(2, 4, 6, dtype=torch.float64)
    second = units[..., 3:]
    normed = (second - second.mean(-1, keepdim=True)) / (second.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
    mixed = torch.einsum("mn,bnd->bmd", gate.proj.weight, normed) + gate.proj.bias[:, None]
    torch.testing.assert_close(gate(units), units[..., :3] * mixed, rtol=1e-12, atol=1e-12)


def test_drop_path_grows_linearly_with_depth():
    model = GMLP(GMLPConfig(**{**TINY, "depth": 3, "drop_path": 0.2}))
    assert [getattr(block.drop_path, "rate", 0) for block in model.blocks] == pytest.approx([0, 0.1, 0.2])

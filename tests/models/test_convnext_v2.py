"""ConvNeXt V2 against the equations of its paper."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from visus.core.errors import UserError
from visus.models.cnn.convnext_v2 import ConvNeXtV2, ConvNeXtV2Config, GlobalResponseNorm, from_timm

SMALL = {"depths": (1, 1, 1, 1), "dims": (4, 8, 12, 16), "num_classes": 3}


def test_response_norm_equals_the_papers_algorithm_by_loops():
    """Algorithm 1: gamma * (X * N(G(X))) + beta + X, each channel's norm over the mean of all channels' norms."""
    torch.manual_seed(0)
    norm = GlobalResponseNorm(5).double()
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = torch.randn(2, 3, 4, 5).double()
    out = norm(x)
    for b in range(2):
        lengths = [x[b, :, :, c].square().sum().sqrt() for c in range(5)]
        for c in range(5):
            share = lengths[c] / (sum(lengths) / 5 + 1e-6)
            expected = norm.weight[c] * x[b, :, :, c] * share + norm.bias[c] + x[b, :, :, c]
            torch.testing.assert_close(out[b, :, :, c], expected, rtol=1e-12, atol=1e-12)


def test_response_norm_starts_as_the_identity_and_knows_no_scale():
    """Doubling the maps doubles what is added: the shares of the channels stay."""
    norm = GlobalResponseNorm(6).double()
    x = torch.randn(2, 4, 4, 6).double()
    assert torch.equal(norm(x), x)
    nn.init.ones_(norm.weight)
    torch.testing.assert_close(norm(2 * x), 2 * norm(x), rtol=1e-5, atol=1e-8)


def test_response_norm_lets_gradients_through_a_dead_channel():
    norm = GlobalResponseNorm(3).double()
    nn.init.ones_(norm.weight)
    x = torch.randn(1, 2, 2, 3).double()
    x[..., 1] = 0
    x.requires_grad_()
    norm(x).sum().backward()
    assert x.grad.isfinite().all() and x.grad[..., 1].eq(1).all()


def test_each_block_has_a_response_norm_and_no_layer_scale():
    with torch.device("meta"):
        model = ConvNeXtV2(ConvNeXtV2Config())
    assert sum(isinstance(m, GlobalResponseNorm) for m in model.modules()) == 18
    assert not [n for n, _ in model.named_parameters() if "scale" in n or "gamma" in n]


def test_drop_path_grows_from_nothing_to_its_rate():
    model = ConvNeXtV2(ConvNeXtV2Config(**SMALL | {"drop_path": 0.3}))
    rates = [stage.blocks[0].drop_path.rate for stage in model.stages]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3])


def test_convolutions_of_timms_small_sizes_become_matrices():
    state = from_timm({"stages.0.blocks.0.mlp.fc1.weight": torch.ones(8, 2, 1, 1),
                       "stem.0.weight": torch.ones(2, 3, 4, 4)})
    assert {name: tuple(t.shape) for name, t in state.items()} == {
        "stages.0.blocks.0.mlp.fc1.weight": (8, 2), "stem.0.weight": (2, 3, 4, 4)}


@pytest.mark.parametrize(("field", "value"), [("depths", (3, 3)), ("dims", (8, 8, 8)), ("dims", (8, 8, 8, 0)),
                                              ("drop_path", 1.0)])
def test_wrong_configs_are_refused(field, value):
    with pytest.raises(UserError, match=field):
        ConvNeXtV2Config(**{field: value})

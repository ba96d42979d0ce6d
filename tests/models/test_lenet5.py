"""LeNet-5 against the figures of the paper, layer by layer (section II-B)."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from visus.core.errors import UserError
from visus.models.cnn.lenet5 import C3_TABLE, CodeHead, LeNet5, LeNet5Config, ScaledTanh, TableConv2d, TrainablePool

TRAINABLE = {"c1": 156, "s2": 12, "c3": 1_516, "s4": 32, "c5": 48_120, "f6": 10_164}
CONNECTIONS = {"c1": 122_304, "s2": 5_880, "c3": 151_600, "s4": 2_000, "c5": 48_120, "f6": 10_164}
PLACES = {"c1": 28 * 28, "c3": 10 * 10, "c5": 1, "f6": 1}


def test_each_layer_has_the_papers_trainable_parameters():
    model = LeNet5(LeNet5Config())
    found = {name: sum(p.numel() for p in getattr(model, name).parameters()) for name in TRAINABLE}
    assert found == TRAINABLE and sum(p.numel() for p in model.parameters()) == 60_000


def test_connections_equal_the_papers_340_908():
    found = {name: TRAINABLE[name] * places for name, places in PLACES.items()}
    found |= {"s2": 6 * 14 * 14 * 5, "s4": 16 * 5 * 5 * 5}  # four inputs and a bias each
    assert found == CONNECTIONS
    assert sum(found.values()) + 84 * 10 == 340_908


def test_table_has_the_papers_groups():
    """The first six maps take three neighbours, the next six four, three take four apart, the last takes
    all."""
    ring = [tuple(sorted((i + k) % 6 for k in range(n))) for n in (3, 4) for i in range(6)]
    assert [tuple(row) for row in C3_TABLE[:12]] == ring
    assert [len(row) for row in C3_TABLE[12:]] == [4, 4, 4, 6] and len(set(C3_TABLE)) == 16


def test_table_convolution_equals_a_convolution_per_map():
    torch.manual_seed(0)
    layer, maps = TableConv2d(6, C3_TABLE).double(), torch.randn(2, 6, 14, 14, dtype=torch.float64)
    start, outs = 0, []
    for i, inputs in enumerate(C3_TABLE):
        kernel = layer.weight[start:start + len(inputs)][None]
        outs.append(F.conv2d(maps[:, inputs], kernel, layer.bias[i:i + 1]))
        start += len(inputs)
    torch.testing.assert_close(layer(maps), torch.cat(outs, 1), rtol=1e-12, atol=1e-12)


def test_pooling_is_coefficient_times_sum_plus_bias():
    layer = TrainablePool(1)
    with torch.no_grad():
        layer.weight.fill_(2)
        layer.bias.fill_(0.5)
    assert layer(torch.tensor([[[[1.0, 2], [3, 4]]]])).item() == 2 * 10 + 0.5


def test_squashing_maps_one_to_one():
    """Appendix A: with A = 1.7159 and S = 2/3, f(1) = 1 and f(-1) = -1."""
    assert ScaledTanh()(torch.tensor([1.0, -1.0])).tolist() == pytest.approx([1, -1], abs=1e-4)


def test_codes_give_minus_the_squared_distance():
    head = CodeHead(84, 10)
    assert set(head.codes.unique().tolist()) == {-1, 1} and len(head.codes.unique(dim=0)) == 10
    features = torch.randn(5, 84, generator=torch.Generator().manual_seed(0))
    expected = -torch.cdist(features, head.codes).square()
    torch.testing.assert_close(head(features), expected, rtol=1e-4, atol=1e-3)


def test_another_size_is_refused_with_a_remedy():
    with pytest.raises(UserError, match=r"28x28.*32 x 32.*Resize or pad"):
        LeNet5(LeNet5Config())(torch.zeros(1, 1, 28, 28))
    with pytest.raises(UserError, match="image_size=28"):
        LeNet5Config(image_size=28)

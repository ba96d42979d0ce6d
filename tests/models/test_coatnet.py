"""CoAtNet: the paper's equations and sizes, and what parity with a peer does not show."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from visus.core.errors import UserError
from visus.models.vit.coatnet import CoAtNet, CoAtNetConfig, RelativeAttention, relative_bias
from visus.ops.windows import resize_bias_table
from visus.run.models import create_model, load_weights

SMALL = {"stem_dims": (8, 8), "dims": (8, 16, 16, 24), "depths": (1, 1, 2, 1), "head_dim": 8, "image_size": 64,
         "num_classes": 3}


def test_scores_get_the_bias_of_their_offset():
    table = torch.rand(25, 2)
    bias = relative_bias(table, (3, 3))
    places = [(i // 3, i % 3) for i in range(9)]
    for a, (ya, xa) in enumerate(places):
        for b, (yb, xb) in enumerate(places):
            assert torch.equal(bias[:, a, b], table[(ya - yb + 2) * 5 + xa - xb + 2])


def test_attention_is_equation_3():
    """Softmax over x_i . x_j + w_(i - j), here with queries and keys of zero: a depthwise convolution with the
    normalised weights exp(w) of the offsets, as wide as the map (equation 1)."""
    torch.manual_seed(0)
    layer = RelativeAttention(4, 4, 2, 3, widen_in_qkv=True).double()
    torch.nn.init.normal_(layer.relative_position_bias_table)
    with torch.no_grad():
        layer.qkv.weight.view(2, 3, 2, 4)[:, :2] = 0  # [head, of q k v, channel, in]: q and k
        layer.qkv.bias.view(2, 3, 2)[:, :2] = 0
        values = torch.rand(2, 3, 3, 4, dtype=torch.float64)
        weight, bias = layer.qkv.weight.view(2, 3, 2, 4)[:, 2].flatten(0, 1), layer.qkv.bias.view(2, 3, 2)[:, 2]
        v = (values @ weight.T + bias.flatten()).permute(0, 3, 1, 2)  # [B, 4, 3, 3]
        kernel = layer.relative_position_bias_table.exp().T.reshape(2, 1, 5, 5).flip(2, 3).repeat_interleave(2, 0)
        mixed = F.conv2d(v, kernel, padding=2, groups=4) / F.conv2d(torch.ones_like(v), kernel, padding=2, groups=4)
        expected = mixed.permute(0, 2, 3, 1) @ layer.proj.weight.T + layer.proj.bias
        torch.testing.assert_close(layer(values), expected, rtol=1e-12, atol=1e-12)


def test_maps_halve_by_max_pooling_and_by_the_first_stride():
    """Equations 4 and 5, in which a block whose branch gives nothing is its shortcut."""
    model = CoAtNet(CoAtNetConfig(**SMALL)).eval()
    maps = torch.rand(1, 8, 8, 8)
    block = model.stages[0].blocks[0]
    torch.nn.init.zeros_(block.conv3_1x1.weight)
    assert torch.equal(block(maps), F.max_pool2d(maps, 2))
    assert (block.conv1_1x1.stride, block.conv2_kxk.stride) == ((2, 2), (1, 1))
    first = model.stages[2].blocks[0]
    for layer in (first.attn.proj, first.mlp.fc2):
        torch.nn.init.zeros_(layer.weight)
    maps = torch.rand(1, 8, 8, 16)
    torch.testing.assert_close(first(maps), F.max_pool2d(maps.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1))


@pytest.mark.parametrize("size", [96, 32])
def test_weights_for_other_sizes_are_resized_and_it_is_said(size):
    torch.manual_seed(0)
    source, target = create_model("coatnet_0", **SMALL), create_model("coatnet_0", **SMALL | {"image_size": size})
    notes = load_weights(target, source.state_dict())
    old, new = ((4, 2), (size // 16, size // 32))
    assert notes == [f"relative position biases were resized from windows of {a} x {a} to {b} x {b}"
                     for a, b in zip(old, new, strict=True)]
    name = "relative_position_bias_table"
    expected = resize_bias_table(getattr(source.stages[2].blocks[0].attn, name).detach(), size // 16)
    assert torch.equal(getattr(target.stages[2].blocks[0].attn, name), expected)
    images = torch.rand(2, 3, size, size)
    with torch.no_grad():  # what a model does on images of another size is what a model made for them does
        torch.testing.assert_close(source.eval()(images), target.eval()(images), rtol=1e-5, atol=1e-6)


def test_images_need_not_be_square():
    model = CoAtNet(CoAtNetConfig(**SMALL)).eval()
    assert [tuple(m.shape[2:]) for m in model.features(torch.rand(1, 3, 96, 32))] == [(24, 8), (12, 4), (6, 2), (3, 1)]


def test_drop_path_grows_linearly_with_depth():
    model = CoAtNet(CoAtNetConfig(**SMALL | {"drop_path": 0.4}))
    rates = [getattr(block.drop_path, "rate", 0) for stage in model.stages for block in stage.blocks]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])


@pytest.mark.parametrize(("field", "value"),
                         [("depths", (2, 2)), ("dims", (8, 16, 20, 24)), ("stem_dims", (0, 8)), ("image_size", 50),
                          ("pool", "min"), ("stride_in", "head"), ("act", "tanh"), ("hidden_head", 1)])
def test_wrong_configs_are_refused(field, value):
    with pytest.raises(UserError, match=field):
        CoAtNetConfig(**SMALL | {field: value})


def test_images_of_a_wrong_size_are_refused():
    with pytest.raises(UserError, match="multiples of 32 pixels"):
        CoAtNet(CoAtNetConfig(**SMALL))(torch.zeros(1, 3, 64, 40))

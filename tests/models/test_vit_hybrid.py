"""The hybrid ViT: what parity with timm does not show."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from visus.core.errors import UserError
from visus.models.vit.vit_hybrid import StandardConv, ViTHybrid, ViTHybridConfig
from visus.ops.attention import seen_attention
from visus.ops.positions import resize_positions
from visus.run.models import create_model, load_weights

SMALL = {"resnet_depths": (1, 1), "dim": 24, "depth": 2, "num_heads": 3, "image_size": 32, "num_classes": 3}


@pytest.mark.parametrize(("kernel", "stride"), [(7, 2), (3, 2), (3, 1), (1, 2), (1, 1)])
@pytest.mark.parametrize("size", [(8, 8), (6, 10)])
def test_filters_are_standardised_and_padding_is_tensorflows(kernel, stride, size):
    torch.manual_seed(0)
    conv = StandardConv(3, 4, kernel, stride).double()
    torch.nn.init.uniform_(conv.weight, 0.5, 2.0)
    maps = torch.rand(2, 3, *size, dtype=torch.float64)
    filters = conv.weight.detach().flatten(1)
    variance = filters.var(1, correction=0, keepdim=True)
    filters = (filters - filters.mean(1, keepdim=True)) / (variance + 1e-8).sqrt()
    pads = []
    for side in reversed(size):  # the last axis first, as F.pad has it
        total = max((math.ceil(side / stride) - 1) * stride + kernel - side, 0)
        pads += [total // 2, total - total // 2]
    expected = F.conv2d(F.pad(maps, pads), filters.view_as(conv.weight), stride=stride)
    assert conv(maps).shape[2:] == tuple(math.ceil(side / stride) for side in size)
    torch.testing.assert_close(conv(maps), expected, rtol=1e-10, atol=1e-10)


def test_other_images_are_seen_with_resized_positions():
    """A model on images of another size does what one built for them does, after its weights are resized."""
    torch.manual_seed(0)
    source, target = create_model("vit_base_r50_s16", **SMALL), create_model("vit_base_r50_s16",
                                                                            **SMALL | {"image_size": 48})
    notes = load_weights(target, source.state_dict())
    assert notes == ["pos_embed was resized from 4 x 4 patches to 6 x 6"]
    torch.testing.assert_close(target.pos_embed.detach(),
                               resize_positions(source.pos_embed.detach(), (4, 4), (6, 6), num_prefix=1))
    images = torch.rand(2, 3, 48, 48)
    with torch.no_grad():
        torch.testing.assert_close(source.eval()(images), target.eval()(images))
    assert source(torch.rand(1, 3, 16, 40)).shape == (1, 3)


@pytest.mark.parametrize(("depths", "patch", "channels", "strides"),
                         [((1, 1, 1), 1, (256, 512, 24), (4, 8, 16)), ((1,), 2, (24,), (8,)), ((), 8, (24,), (32,))])
def test_features_are_the_resnets_maps_and_the_tokens(depths, patch, channels, strides):
    model = ViTHybrid(ViTHybridConfig(**SMALL | {"resnet_depths": depths, "patch_size": patch, "image_size": 64}))
    maps = model.eval().features(torch.rand(1, 3, 64, 96))
    assert (model.feature_channels, model.feature_strides) == (channels, strides)
    assert [tuple(m.shape[1:]) for m in maps] == [(c, 64 // s, 96 // s) for c, s in zip(channels, strides, strict=True)]


def test_the_scale_of_a_filter_does_not_matter():
    """Weight standardisation: what comes out depends on a filter's form alone."""
    torch.manual_seed(0)
    model = ViTHybrid(ViTHybridConfig(**SMALL)).double().eval()
    images = torch.rand(1, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        before = model(images)
        for module in model.modules():
            if isinstance(module, StandardConv):
                module.weight.mul_(3).add_(0.1)
        torch.testing.assert_close(model(images), before, rtol=1e-5, atol=1e-5)


def test_attention_can_be_seen():
    model = ViTHybrid(ViTHybridConfig(**SMALL)).eval()
    with torch.no_grad(), seen_attention() as seen:
        model(torch.rand(2, 3, 32, 32))
    assert [tuple(weights.shape) for weights in seen] == [(2, 3, 17, 17)] * 2


@pytest.mark.parametrize(("field", "value"), [("resnet_depths", (1, 1, 1, 1, 1)), ("resnet_depths", (0,)),
                                              ("image_size", 36), ("num_heads", 5), ("patch_size", 0),
                                              ("drop_path", 1.0)])
def test_wrong_configs_are_refused(field, value):
    with pytest.raises(UserError, match="dim" if field == "num_heads" else field):
        ViTHybridConfig(**SMALL | {field: value})


def test_images_of_a_wrong_size_are_refused():
    with pytest.raises(UserError, match="multiples of 8 pixels"):
        ViTHybrid(ViTHybridConfig(**SMALL))(torch.zeros(1, 3, 32, 36))

"""ViTDet's simple feature pyramid against its equations, and behind plain vision transformers."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from visus.core.errors import UserError
from visus.layers.simple_feature_pyramid import SimpleFeaturePyramid
from visus.run.models import create_model

SMALL = {"dim": 24, "depth": 1, "num_heads": 3}


def pyramid(in_channels: int = 8, stride: int = 16, out_channels: int = 6) -> SimpleFeaturePyramid:
    torch.manual_seed(0)
    model = SimpleFeaturePyramid(in_channels, stride, out_channels).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    return model


def doubled(maps: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
    """A transposed convolution of 2 x 2 pixels and stride 2, pixel by pixel: each pixel becomes four."""
    batch, _, height, width = maps.shape
    out = torch.zeros(batch, kernel.shape[1], 2 * height, 2 * width, dtype=maps.dtype)
    for i in range(2):
        for j in range(2):
            out[:, :, i::2, j::2] = torch.einsum("bchw,cd->bdhw", maps, kernel[:, :, i, j]) + bias[:, None, None]
    return out


def normed(maps: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    mean, variance = maps.mean(1, keepdim=True), maps.var(1, keepdim=True, unbiased=False)
    return (maps - mean) / (variance + 1e-6).sqrt() * weight[:, None, None] + bias[:, None, None]


def mixed(maps: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    """A convolution without bias as a sum over shifted maps, then the norm."""
    kernel = state[f"{name}.weight"]
    side = kernel.shape[2]
    padded = F.pad(maps, (side // 2,) * 4)
    height, width = maps.shape[2:]
    out = sum(torch.einsum("bchw,dc->bdhw", padded[:, :, i:i + height, j:j + width], kernel[:, :, i, j])
              for i in range(side) for j in range(side))
    return normed(out, state[f"{name}.norm.weight"], state[f"{name}.norm.bias"])


def test_every_channel_of_every_level_is_what_section_3_says():
    model, maps = pyramid(), torch.randn(2, 8, 5, 4, dtype=torch.float64)
    state = model.state_dict()

    def up(x: Tensor, name: str) -> Tensor:
        return doubled(x, state[f"{name}.weight"], state[f"{name}.bias"])

    pooled = maps[:, :, :4].unflatten(2, (2, 2)).unflatten(4, (2, 2)).amax((3, 5))
    inner = normed(up(maps, "simfp_2.0"), state["simfp_2.1.weight"], state["simfp_2.1.bias"])
    scaled = {"simfp_2": (up(F.gelu(inner), "simfp_2.3"), 4), "simfp_3": (up(maps, "simfp_3.0"), 1),
              "simfp_4": (maps, 0), "simfp_5": (pooled, 1)}
    with torch.no_grad():
        found = model([maps])
        assert len(found) == len(scaled)
        for each, (name, (expected, first)) in zip(found, scaled.items(), strict=True):
            expected = mixed(mixed(expected, state, f"{name}.{first}"), state, f"{name}.{first + 1}")
            torch.testing.assert_close(each, expected, rtol=1e-9, atol=1e-9)


def test_parameters_carry_detectron2s_names():
    """detectron2/modeling/backbone/vit.py: simfp_ and the logarithm of the stride; a convolution holds its norm."""
    shapes = {name: tuple(tensor.shape) for name, tensor in pyramid().state_dict().items()}
    tail = {"weight": None, "norm.weight": (6,), "norm.bias": (6,)}
    expected = {"simfp_2.0.weight": (8, 4, 2, 2), "simfp_2.0.bias": (4,), "simfp_2.1.weight": (4,),
                "simfp_2.1.bias": (4,), "simfp_2.3.weight": (4, 2, 2, 2), "simfp_2.3.bias": (2,),
                "simfp_3.0.weight": (8, 4, 2, 2), "simfp_3.0.bias": (4,)}
    for level, first, dim in ((2, 4, 2), (3, 1, 4), (4, 0, 8), (5, 1, 8)):
        for place, kernel in ((first, (6, dim, 1, 1)), (first + 1, (6, 6, 3, 3))):
            expected |= {f"simfp_{level}.{place}.{name}": shape or kernel for name, shape in tail.items()}
    assert shapes == expected


@pytest.mark.parametrize(("name", "config", "strides"), [
    ("vit_tiny_16", {**SMALL, "image_size": 64}, (4, 8, 16, 32)),
    ("dinov2_small_14_reg", {**SMALL, "image_size": 70}, (3.5, 7, 14, 28)),
    ("mae_base_16", {**SMALL, "image_size": 64}, (4, 8, 16, 32)),
    ("sam_vit_base_16", {**SMALL, "image_size": 64, "window": 3, "global_blocks": (0,), "neck_dim": 12},
     (4, 8, 16, 32)),
])
@pytest.mark.parametrize("patches", [(4, 6), (5, 3)])
def test_behind_a_plain_transformer_it_gives_maps_of_four_strides_and_teaches_it(name, config, strides, patches):
    backbone = create_model(name, num_classes=2, **config)
    neck = SimpleFeaturePyramid(backbone.feature_channels[-1], backbone.feature_strides[-1], 10)
    assert neck.feature_strides == strides and neck.feature_channels == (10,) * 4
    height, width = (count * backbone.config.patch_size for count in patches)
    maps = neck(backbone.features(torch.randn(1, 3, height, width)))
    assert [tuple(m.shape) for m in maps] == [(1, 10, int(height / s), int(width / s)) for s in strides]
    sum(m.square().mean() for m in maps).backward()
    assert backbone.patch_embed.proj.weight.grad.abs().sum() > 0
    assert all(parameter.grad.abs().sum() > 0 for parameter in neck.parameters())


@pytest.mark.parametrize(("field", "value"), [("in_channels", 6), ("stride", 0), ("out_channels", 0)])
def test_wrong_sizes_are_refused_by_name(field, value):
    with pytest.raises(UserError, match=f"{field}={value}"):
        SimpleFeaturePyramid(**{"in_channels": 8, "stride": 16, "out_channels": 6, field: value})

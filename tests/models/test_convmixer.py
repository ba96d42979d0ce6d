"""ConvMixer: what parity with timm does not show."""

from __future__ import annotations

import pytest
import torch

from visus.core.errors import UserError
from visus.models.vit.convmixer import ConvMixer, ConvMixerConfig
from visus.run.models import create_model, describe_model

TINY = {"dim": 12, "depth": 2, "num_classes": 5}


@pytest.mark.parametrize(("field", "value"), [("kernel_size", 8), ("patch_size", 0), ("dim", True),
                                              ("activation", "'tanh'")])
def test_wrong_config_is_refused_by_name(field, value):
    given = value.strip("'") if isinstance(value, str) else value
    with pytest.raises(UserError, match=f"{field}={value}"):
        ConvMixerConfig(**{**TINY, field: given})


def test_images_smaller_than_a_patch_are_refused():
    with pytest.raises(UserError, match=r"6x20.*at least 7 pixels"):
        ConvMixer(ConvMixerConfig(**TINY))(torch.zeros(1, 3, 6, 20))


def test_any_size_keeps_one_grid_and_what_fills_no_patch_is_not_read():
    torch.manual_seed(0)
    model = ConvMixer(ConvMixerConfig(**TINY)).eval()
    images = torch.randn(1, 3, 31, 24)  # 4 x 3 patches, 3 rows and 3 columns over
    with torch.no_grad():
        (maps,) = model.features(images)
        assert maps.shape == (1, 12, 4, 3)
        assert torch.equal(model(images), model(images[..., :28, :21]))


def test_the_count_is_the_papers_formula():
    """Section 2: a block has a depthwise k x k and a 1 x 1, both with bias, each before a batch norm."""
    for name, (dim, depth, kernel, patch) in {"convmixer_1536_20": (1536, 20, 9, 7),
                                              "convmixer_768_32": (768, 32, 7, 7),
                                              "convmixer_1024_20": (1024, 20, 9, 14)}.items():
        block = dim * kernel**2 + dim + 2 * dim + dim**2 + dim + 2 * dim
        stem, head = dim * 3 * patch**2 + dim + 2 * dim, dim * 1000 + 1000
        assert describe_model(name).params == stem + depth * block + head


def test_only_the_depthwise_convolution_has_a_shortcut():
    torch.manual_seed(0)
    block = create_model("convmixer_768_32", **TINY).eval().blocks[0]
    maps = torch.randn(2, 12, 5, 5)
    residual, conv, act, norm = block
    with torch.no_grad():
        for parameter in residual.fn[2].parameters():
            parameter.zero_()
        assert torch.equal(residual(maps), maps)
        torch.testing.assert_close(block(maps), norm(act(conv(maps))))

"""The speed-run net against its paper and against hand-made whitening."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from visus.core.errors import UserError
from visus.core.meta import on_meta
from visus.models.cnn.airbench import FLOOR, Airbench, AirbenchConfig
from visus.run.models import create_model


def photos(count: int = 64, channels: int = 3, side: int = 32) -> torch.Tensor:
    """Images whose neighbouring pixels are alike, [N, C, S, S]."""
    generator = torch.Generator().manual_seed(0)
    return F.avg_pool2d(torch.randn(count, channels, side + 4, side + 4, generator=generator), 5, 1)


def test_the_net_has_the_layers_of_the_published_code():
    with on_meta():
        model = Airbench(AirbenchConfig())
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters() if p.ndim > 1}
    assert shapes == {"stem.weight": (24, 3, 2, 2),
                      "blocks.0.conv1.weight": (64, 24, 3, 3), "blocks.0.conv2.weight": (64, 64, 3, 3),
                      "blocks.1.conv1.weight": (256, 64, 3, 3), "blocks.1.conv2.weight": (256, 256, 3, 3),
                      "blocks.2.conv1.weight": (256, 256, 3, 3), "blocks.2.conv2.weight": (256, 256, 3, 3),
                      "head.weight": (10, 256)}
    assert sum(p.numel() for p in model.parameters() if p.requires_grad and p.ndim == 1) == 24 + 2 * (64 + 256 + 256)


def test_at_32_pixels_the_last_pooling_is_the_papers_three_by_three_window():
    model = Airbench(AirbenchConfig(dims=(4, 8, 8))).eval()
    maps = model.features(photos(2))[-1]
    assert maps.shape == (2, 8, 3, 3)
    assert torch.equal(maps.amax((2, 3)), F.max_pool2d(maps, 3).flatten(1))


def test_the_first_filters_of_each_convolution_pass_their_inputs_on():
    conv = Airbench(AirbenchConfig(dims=(32, 40, 48))).blocks[1].conv1  # 32 -> 40 channels
    maps = torch.randn(2, 32, 6, 6)
    assert torch.allclose(conv(maps)[:, :32], maps, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
def test_whitened_patches_are_uncorrelated_with_the_variance_that_the_floor_leaves(channels):
    model, images = Airbench(AirbenchConfig(dims=(4, 4, 4), in_channels=channels)), photos(channels=channels)
    model.whiten(images)
    count = channels * 4
    with torch.no_grad():
        answers = F.conv2d(images.double(), model.stem.weight.double())  # [N, 2 C p p, H, W]
    rows = answers[:, :count].transpose(0, 1).flatten(1)
    products = rows @ rows.T / rows.shape[1]
    patches = images.double().unfold(2, 2, 1).unfold(3, 2, 1).permute(0, 2, 3, 1, 4, 5).reshape(-1, count)
    variances = torch.linalg.eigvalsh(patches.T @ patches / len(patches))
    assert torch.allclose(products, torch.diag(variances / (variances + FLOOR)), atol=1e-4)
    assert torch.allclose(answers[:, count:], -answers[:, :count], atol=1e-12)


def test_the_whitening_filters_and_the_scales_of_the_norms_stay():
    model = Airbench(AirbenchConfig(dims=(4, 4, 4)))
    still = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert still == {"stem.weight"} | {f"blocks.{b}.norm{n}.weight" for b in range(3) for n in (1, 2)}


@pytest.mark.parametrize(("field", "value"), [("dims", ()), ("dims", (4, 0)), ("patch", 0)])
def test_wrong_values_are_refused_by_name(field, value):
    with pytest.raises(UserError, match=field):
        create_model("airbench94", **{field: value})

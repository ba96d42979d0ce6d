"""The 15 corruptions: what each does to pictures of which the answer is known, their severities, and the table."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image

from tests.attack.small import right_answers, small_net
from visus.attack.corruptions import CORRUPTIONS, SEVERITIES, CorruptionTable, corrupt, corruption_table, jpeg
from visus.core.errors import UserError

NAMES = list(CORRUPTIONS)


def scenes(count: int = 6, side: int = 32, channels: int = 3) -> torch.Tensor:
    """Smooth colours with edges and fine texture, as photographs have: [count, channels, side, side] in [0, 1]."""
    generator = torch.Generator().manual_seed(4)
    coarse = torch.rand(count, channels, 4, 4, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic").clamp(0, 1)
    edges = (torch.nn.functional.interpolate(torch.rand(count, 1, 6, 6, generator=generator), (side, side)) > 0.5) * 0.3
    texture = 0.05 * torch.randn(count, channels, side, side, generator=generator)
    made = (0.1 + 0.5 * smooth + edges + texture).clamp(0, 1)
    shifts = torch.randint(0, side, (count, 2), generator=generator).tolist()  # edges anywhere, not on one grid
    return torch.stack([image.roll(shift, (1, 2)) for image, shift in zip(made, shifts, strict=True)])


def distance(name: str, images: torch.Tensor, severity: int) -> float:
    return float((corrupt(images, name, severity) - images).square().mean().sqrt())


def test_they_are_the_fifteen_of_the_paper():
    assert len(NAMES) == 15 and {"shot_noise", "glass_blur", "frost", "elastic_transform"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_each_severity_changes_an_image_more_than_the_one_before(name):
    images = scenes(48)
    away = [distance(name, images, severity) for severity in SEVERITIES]
    assert away[0] > 0 and all(b > a for a, b in zip(away, away[1:], strict=False)), away


@pytest.mark.parametrize("name", NAMES)
def test_a_seed_repeats_it_and_the_images_stay_as_they_were(name):
    images = scenes(3)
    before, state = images.clone(), torch.random.get_rng_state()
    once, again = (corrupt(images, name, 3, torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(once, again) and torch.equal(images, before)
    assert torch.equal(state, torch.random.get_rng_state())
    assert once.shape == images.shape and once.dtype == images.dtype and once.min() >= 0 and once.max() <= 1


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(2, 1, 9, 14), (1, 3, 8, 8)], ids=str)
def test_grey_small_and_oblong_images_are_taken(name, shape):
    images = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    assert corrupt(images, name, 5).isfinite().all() and not len(corrupt(images[:0], name, 5))


def test_noises_have_the_spread_that_the_severity_names():
    grey = torch.full((8, 3, 32, 32), 0.5)
    assert float((corrupt(grey, "gaussian_noise", 5) - grey).std()) == pytest.approx(0.10, rel=0.03)
    assert float((corrupt(grey, "shot_noise", 5) - grey).std()) == pytest.approx(math.sqrt(0.5 / 50), rel=0.03)
    struck = corrupt(grey, "impulse_noise", 5) != grey
    assert float(struck.float().mean()) == pytest.approx(0.07, rel=0.1)


def test_blurs_keep_flat_images_and_the_mean_of_others():
    flat, images = torch.full((2, 3, 32, 32), 0.3), scenes(4)
    steep = images.diff(dim=3).abs().mean()
    for name in ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"):
        torch.testing.assert_close(corrupt(flat, name, 5), flat, rtol=0, atol=1e-5)
        assert float((corrupt(images, name, 5).mean() - images.mean()).abs()) < 0.02
        assert corrupt(images, name, 5).diff(dim=3).abs().mean() < steep or name == "glass_blur"


def test_contrast_shrinks_around_the_mean_and_brightness_raises_the_value():
    images = scenes(4)
    out = corrupt(images, "contrast", 2)
    torch.testing.assert_close(out.std((2, 3)), 0.5 * images.std((2, 3)))
    torch.testing.assert_close(corrupt(images, "brightness", 1).amax(1), (images.amax(1) + 0.05).clamp(max=1))


@pytest.mark.parametrize("channels, quality, most", [(1, 75, 0.6), (3, 90, 1.5), (3, 40, 1.5)])
def test_jpeg_is_what_the_codec_keeps(channels, quality, most):
    """Against Pillow's coder without thinned colours: the mean difference in levels of 255."""
    pixels = (255 * scenes(1, 32, channels)[0]).byte()
    buffer = io.BytesIO()
    picture = Image.fromarray(pixels.permute(1, 2, 0).numpy().squeeze())
    picture.save(buffer, "jpeg", quality=quality, subsampling=0)
    theirs = torch.from_numpy(np.array(Image.open(buffer))).float().view(32, 32, channels).permute(2, 0, 1)
    ours = 255 * jpeg(pixels[None].float() / 255, quality)[0]
    assert float((ours - theirs).abs().mean()) < most


def test_the_table_gives_the_paper_s_errors():
    table = CorruptionTable(clean=0.1, errors={"fog": (0.2, 0.4), "snow": (0.3, 0.3)})
    reference = CorruptionTable(clean=0.2, errors={"fog": (0.4, 0.8), "snow": (0.5, 0.7)})
    assert table.mean_error == pytest.approx(0.3)
    assert table.mean_corruption_error(reference) == pytest.approx((0.6 / 1.2 + 0.6 / 1.2) / 2)
    assert table.relative_corruption_error(reference) == pytest.approx((0.4 / 0.8 + 0.4 / 0.8) / 2)
    assert table.mean_corruption_error(table) == 1


def test_a_part_of_the_table_is_that_of_the_whole():
    images, labels = right_answers(12)
    whole = corruption_table(small_net(), images, labels, names=("fog", "gaussian_noise"), severities=(1, 5))
    part = corruption_table(small_net(), images, labels, names=("gaussian_noise",), severities=(1, 5))
    assert whole.clean == 0 and part.errors["gaussian_noise"] == whole.errors["gaussian_noise"]
    assert whole.errors["gaussian_noise"][1] >= whole.errors["gaussian_noise"][0]


def test_wrong_values_are_refused():
    images = scenes(1)
    for arguments, match in (((images, "rain"), "one of"), ((images, "fog", 6), "severity=6"),
                             ((images * 255, "fog"), "0, 1")):
        with pytest.raises(UserError, match=match):
            corrupt(*arguments)

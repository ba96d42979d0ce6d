"""Mixup and CutMix against the equations of their papers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from visus.core.preprocessing import Preprocessing
from visus.data.loader import Loader
from visus.data.samples import Samples
from visus.data.transforms import Draws
from visus.data.transforms.mix import Mixing, box_masks, cut_boxes, symmetric_beta

CLASSES = 5
STREAM = "mixing"


def batch(count: int = 64, size: int = 12) -> tuple[torch.Tensor, torch.Tensor, Draws]:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(count, 3, size, size, generator=generator)
    return images, torch.randint(0, CLASSES, (count,), generator=generator), Draws(np.arange(count), 0, 0, STREAM)


@pytest.mark.parametrize("alpha", [0.2, 0.5, 0.8, 1.0, 2.0, 8.0])
def test_shares_follow_a_beta_distribution(alpha):
    stats = pytest.importorskip("scipy.stats")
    u = np.random.Generator(np.random.PCG64(3)).random((20_000, 2))
    drawn = symmetric_beta(alpha, *u.T)
    assert drawn.min() >= 0 and drawn.max() <= 1
    assert stats.kstest(drawn, stats.beta(alpha, alpha).cdf).pvalue > 0.01


@pytest.mark.parametrize("alpha", [1e-6, 1.0, 1e6])
def test_shares_are_finite_at_the_ends(alpha):
    ends = np.array([0.0, 1e-300, 0.5, 1 - 2.0**-53])
    drawn = symmetric_beta(alpha, np.repeat(ends, 4), np.tile(ends, 4))
    assert np.isfinite(drawn).all() and drawn.min() >= 0 and drawn.max() <= 1


def test_mixup_is_equation_1_with_the_same_share_for_image_and_label():
    images, labels, draws = batch()
    mixed, targets = Mixing(mixup=0.8)(images, labels, CLASSES, draws)
    u = draws.uniform(6)
    lam = torch.from_numpy(symmetric_beta(0.8, u[:, 2], u[:, 3])).float()
    one_hot = torch.eye(CLASSES)[labels]
    for i in range(64):
        j = (i + 1) % 64
        torch.testing.assert_close(mixed[i], lam[i] * images[i] + (1 - lam[i]) * images[j], rtol=0, atol=1e-6)
        torch.testing.assert_close(targets[i], lam[i] * one_hot[i] + (1 - lam[i]) * one_hot[j], rtol=0, atol=1e-6)
    assert lam.std() > 0.2


def test_cutmix_pastes_one_box_and_labels_by_its_area():
    images, labels, draws = batch(size=13)
    mixed, targets = Mixing(cutmix=1.0)(images, labels, CLASSES, draws)
    one_hot = torch.eye(CLASSES)[labels]
    shares = []
    for i in range(64):
        j = (i + 1) % 64
        pasted = (mixed[i] != images[i]).any(0)
        rows, columns = pasted.any(1), pasted.any(0)
        assert int(pasted.sum()) == int(rows.sum() * columns.sum()), "a box"
        assert torch.equal(mixed[i][:, pasted], images[j][:, pasted])
        left = 1 - pasted.double().mean().item()
        torch.testing.assert_close(targets[i], left * one_hot[i] + (1 - left) * one_hot[j], rtol=0, atol=1e-6)
        shares.append(left)
    assert max(shares) > 0.95 and min(shares) < 0.3


def test_boxes_have_the_stated_sides_and_are_cut_off_at_the_border():
    share, centre = np.array([0.75, 0.75, 0.0, 1.0]), np.array([[0.5, 0.5], [0.0, 0.0], [0.5, 0.5], [0.3, 0.3]])
    boxes = cut_boxes(share, centre, 20, 40)
    assert boxes[:3].tolist() == [[5, 10, 15, 30], [0, 0, 5, 10], [0, 0, 20, 40]]  # sides are half of the image's
    assert box_masks(boxes, 20, 40).sum((1, 2, 3)).tolist() == [200, 50, 800, 0]


def test_cutmix_boxes_are_timms():
    mixup = pytest.importorskip("tools.peers")
    try:
        mixup.load_peer("timm")
        from timm.data.mixup import rand_bbox
    except ImportError as error:
        pytest.skip(str(error))
    drawn = np.random.RandomState(0)
    np.random.seed(0)  # noqa: NPY002
    for lam in (0.36, 0.64, 0.84, 0.96):  # sides of whole pixels: timm rounds down, we to the nearest
        y0, y1, x0, x1 = rand_bbox((1, 3, 20, 40), lam)
        place = np.array([[drawn.randint(0, 20) / 20, drawn.randint(0, 40) / 40]])
        assert cut_boxes(np.array([lam + 1e-12]), place, 20, 40)[0].tolist() == [y0, x0, y1, x1]


def test_who_is_mixed_and_how_follows_the_shares():
    images, labels, draws = batch(2000, 8)
    mixed, targets = Mixing(mixup=1.0, cutmix=1.0, cutmix_share=0.25, probability=0.6)(images, labels, CLASSES, draws)
    u = draws.uniform(6)
    same = (mixed == images).flatten(1).float().mean(1)
    blended = same < 0.02
    assert torch.equal(same[u[:, 0] >= 0.6], torch.ones(int((u[:, 0] >= 0.6).sum())))
    assert abs(blended.double().mean().item() - 0.6 * 0.75) < 0.05
    torch.testing.assert_close(targets.sum(1), torch.ones(2000), rtol=0, atol=1e-5)
    off, soft = Mixing()(images, labels, CLASSES, draws)
    assert torch.equal(off, images) and torch.equal(soft, torch.eye(CLASSES)[labels])


def test_several_labels_are_mixed_too():
    images, _, draws = batch(16)
    many = (torch.rand(16, 4, generator=torch.Generator().manual_seed(1)) < 0.5).float()
    u = draws.uniform(6)
    lam = torch.from_numpy(symmetric_beta(0.4, u[:, 2], u[:, 3])).float()[:, None]
    _, targets = Mixing(mixup=0.4)(images, many, 4, draws)
    torch.testing.assert_close(targets, lam * many + (1 - lam) * many.roll(-1, 0), rtol=0, atol=1e-6)


def test_batches_are_mixed_the_same_from_any_start_and_validation_is_not():
    generator = np.random.Generator(np.random.PCG64(0))
    samples = Samples(format="npz", classes=("a", "b", "c"), targets=np.arange(50) % 3,
                      images=generator.integers(0, 256, (50, 8, 8, 3), dtype=np.uint8))
    preprocessing = Preprocessing(size=(8, 8))
    loader = Loader(samples, np.arange(50), preprocessing, mixing=Mixing(mixup=0.5, cutmix=1.0), batch_size=16,
                    shuffle=True, seed=4)
    batches = list(loader.epoch(3))
    for number, expected in enumerate(batches):
        again = loader.batch(3, number)
        assert torch.equal(again.images, expected.images) and torch.equal(again.targets, expected.targets)
        assert expected.targets.shape == (len(expected), 3) and expected.images.dtype == torch.float32
    assert not torch.equal(next(loader.epoch(4)).targets, batches[0].targets)

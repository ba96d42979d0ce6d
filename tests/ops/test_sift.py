"""Keypoints and their descriptors against blobs of known place and size, turned and enlarged images, loops over the
pixels written from the paper, scikit-image and OpenCV."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from visus.core.errors import UserError
from visus.ops.scale_space import Detector, blur
from visus.ops.sift import Keypoints, dense_places, dense_sift, match, sift


def photo(side: int = 192) -> np.ndarray:
    data = pytest.importorskip("skimage.data")
    return data.camera()[60:60 + side, 130:130 + side]


def as_images(grey: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(grey.astype(np.float32) / 255)[None, None]


def blobs(side: int, *of: tuple[float, float, float]) -> torch.Tensor:
    line = torch.arange(side, dtype=torch.float64)
    return sum(torch.exp(-((line - x) ** 2 + (line[:, None] - y) ** 2) / (2 * sigma**2))
               for x, y, sigma in of)[None, None]


def agreeing(ours: Keypoints, places: np.ndarray, sigmas: np.ndarray, angles: np.ndarray,
             most_turn: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """Which of ours has one of theirs within 1 px, a sixth of an octave, and `most_turn` radians; and which that is."""
    apart = np.linalg.norm(ours.places.numpy()[:, None] - places, axis=-1)
    octaves = np.abs(np.log2(ours.sigmas.numpy()[:, None] / sigmas))
    turn = np.abs((ours.angles.numpy()[:, None] - angles + np.pi) % (2 * np.pi) - np.pi)
    alike = (apart < 1) & (octaves < 1 / 6) & (turn < most_turn)
    return alike.any(1), np.where(alike, apart, 9).argmin(1)


def test_blur_is_scipys_gaussian():
    ndimage = pytest.importorskip("scipy.ndimage")
    image = torch.rand(1, 2, 20, 31, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = ndimage.gaussian_filter(image.numpy(), (0, 0, 1.7, 1.7), mode="nearest", radius=(0, 0, 7, 7))
    np.testing.assert_allclose(blur(image, 1.7).numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("x, y, sigma", [(30.3, 33.8, 4.0), (31.5, 29.0, 6.0)])
def test_a_blob_is_found_at_its_place_and_at_its_size(x: float, y: float, sigma: float):
    found = sift(blobs(64, (x, y, sigma)))[0]
    np.testing.assert_allclose(found.places[0].numpy(), [x, y], atol=0.05)
    # Of a Gaussian of sigma s the difference of blurs t and k t is most extreme at t = s / sqrt(k), k = 2^(1/3), where
    # the blur of 0.5 that every image is taken to have is not there in this one.
    assert float(found.sigmas[0]) == pytest.approx(sigma / 2 ** (1 / 6), rel=0.01)


def test_an_edge_and_a_faint_spot_are_no_keypoints():
    step = torch.zeros(1, 1, 64, 64)
    step[..., 30:] = 1.0
    assert len(sift(step)[0]) == 0
    spot = blobs(64, (32, 32, 3)).float()
    assert len(sift(spot)[0]) > 0 and len(sift(0.04 * spot)[0]) == 0


def test_a_quarter_turn_turns_keypoints_and_keeps_descriptors():
    image = as_images(photo())
    plain, turned = sift(torch.cat([image, torch.rot90(image, 1, (2, 3))]))
    side = image.shape[-1] - 1
    places = torch.stack([plain.places[:, 1], side - plain.places[:, 0]], dim=1)  # rot90: (x, y) -> (y, side - x)
    alike, which = agreeing(turned, places.numpy(), plain.sigmas.numpy(), plain.angles.numpy() - math.pi / 2)
    lowest = turned.sigmas.numpy() < 1.6  # of higher octaves every second pixel is kept: others after a turn
    assert lowest.sum() > 50 and alike[lowest].mean() > 0.97 and alike.mean() > 0.9
    cosines = (turned.descriptors * plain.descriptors[which]).sum(1).numpy()
    assert cosines[alike & lowest].min() > 0.99 and cosines[alike].min() > 0.95


def test_keypoints_of_an_enlarged_and_turned_image_are_found_again_and_match():
    transform = pytest.importorskip("skimage.transform")
    grey = photo().astype(float) / 255
    middle = (grey.shape[0] - 1) / 2
    move = (transform.AffineTransform(translation=(-middle, -middle))
            + transform.AffineTransform(scale=1.5, rotation=math.radians(25))
            + transform.AffineTransform(translation=(middle, middle)))
    moved = transform.warp(grey, move.inverse, order=3)
    first, second = (sift(torch.from_numpy(image.astype(np.float32))[None, None])[0] for image in (grey, moved))
    expected = move(first.places.numpy())
    shown = ((expected > 12) & (expected < grey.shape[0] - 12)).all(1) & (first.sigmas.numpy() > 1.5)
    again, _ = agreeing(Keypoints(torch.from_numpy(expected[shown]), 1.5 * first.sigmas[shown],
                                  first.angles[shown] + math.radians(25), first.strengths, first.descriptors),
                        second.places.numpy(), second.sigmas.numpy(), second.angles.numpy())
    assert again.sum() >= 20 and again.mean() > 0.55
    pairs = match(first.descriptors, second.descriptors)
    error = np.linalg.norm(expected[pairs[:, 0]] - second.places[pairs[:, 1]].numpy(), axis=1)
    assert len(pairs) >= 30 and (error < 2).mean() > 0.9


def test_keypoints_and_descriptors_are_scikit_images():
    features = pytest.importorskip("skimage.feature")
    grey = photo()
    ours, peer = sift(as_images(grey))[0], features.SIFT()
    peer.detect_and_extract(grey.astype(np.float32) / 255)
    # Its places lie a quarter pixel off (the blobs above tell); its angles count from the y axis towards the x axis,
    # of a histogram that is smoothed more.
    there = peer.positions[:, ::-1] - 0.25, peer.sigmas, np.pi / 2 - peer.orientations
    assert agreeing(ours, *there, most_turn=4)[0].mean() > 0.9
    assert agreeing(ours, *there, most_turn=0.3)[0].mean() > 0.8
    alike, which = agreeing(ours, *there, most_turn=0.05)
    theirs = peer.descriptors[which].reshape(-1, 4, 4, 8).astype(float)
    turned = np.roll(np.rot90(ours.descriptors.numpy().reshape(-1, 4, 4, 8), 3, (1, 2))[..., ::-1], 1, -1)
    cosines = (turned * theirs).sum((1, 2, 3)) / np.linalg.norm(theirs.reshape(len(theirs), -1), axis=1)
    assert alike.sum() >= 20 and np.median(cosines[alike]) > 0.98


def test_keypoints_and_descriptors_are_opencvs():
    cv2 = pytest.importorskip("cv2")
    grey = photo()
    ours = sift(as_images(grey))[0]
    points, descriptors = cv2.SIFT_create().detectAndCompute(grey, None)
    places, sigmas = np.array([point.pt for point in points]) - 0.25, np.array([point.size / 2 for point in points])
    alike, which = agreeing(ours, places, sigmas, np.radians([point.angle for point in points]))
    assert alike.mean() > 0.9 and len(set(which[alike])) / len(points) > 0.9
    theirs = descriptors[which] / np.linalg.norm(descriptors[which], axis=1, keepdims=True)
    turned = np.roll(ours.descriptors.numpy().reshape(-1, 4, 4, 8)[..., ::-1], 1, -1).reshape(-1, 128)
    assert np.median((turned * theirs).sum(1)[alike]) > 0.99  # it counts directions the other way round


def test_a_dense_descriptor_is_the_papers_histogram_by_loops():
    generator = torch.Generator().manual_seed(1)
    image = torch.rand(1, 1, 24, 21, generator=generator, dtype=torch.float64)
    found = dense_sift(image, cell=4, step=3, sigma=0.0)
    places = dense_places(24, 21, 4, 3)
    assert found.shape == (1, *places.shape[:2], 128)
    grey = image[0, 0].numpy()
    across, down = np.zeros_like(grey), np.zeros_like(grey)
    across[:, 1:-1], down[1:-1] = (grey[:, 2:] - grey[:, :-2]) / 2, (grey[2:] - grey[:-2]) / 2
    for row, column in ((0, 0), (2, 1)):
        x, y = places[row, column].tolist()
        expected = np.zeros((4, 4, 8))
        for v in range(24):
            for u in range(21):
                fx, fy = (u - x) / 4 + 1.5, (v - y) / 4 + 1.5
                turn = math.atan2(down[v, u], across[v, u]) / (2 * math.pi) * 8 % 8
                weight = math.hypot(across[v, u], down[v, u]) * math.exp(-((fx - 1.5) ** 2 + (fy - 1.5) ** 2) / 8)
                for i in range(4):
                    for j in range(4):
                        share = max(0, 1 - abs(fx - j)) * max(0, 1 - abs(fy - i))
                        for k in (math.floor(turn), math.floor(turn) + 1):
                            expected[i, j, k % 8] += weight * share * (1 - abs(turn - k))
        expected = np.minimum(expected / np.linalg.norm(expected), 0.2)
        np.testing.assert_allclose(found[0, row, column].numpy(), expected.ravel() / np.linalg.norm(expected),
                                   atol=1e-9)


def test_dense_descriptors_do_not_mind_contrast_and_flat_ones_are_zero():
    image = torch.rand(2, 3, 32, 40, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(dense_sift(0.3 * image + 0.2), dense_sift(image), rtol=1e-3, atol=1e-4)
    assert float(dense_sift(torch.full((1, 1, 20, 20), 0.5)).abs().max()) < 1e-6


def test_gradients_with_respect_to_the_image_are_right():
    image = torch.rand(1, 1, 9, 9, generator=torch.Generator().manual_seed(4), dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: dense_sift(x, cell=2, step=4), image)
    spot = blobs(48, (24, 24, 3), (30, 20, 2)).requires_grad_()
    sift(spot)[0].descriptors.sum().backward()
    assert spot.grad is not None and spot.grad.isfinite().all() and spot.grad.abs().max() > 0


def test_matching_wants_a_clear_and_mutual_nearest_neighbour():
    first = torch.tensor([[0.0, 0.0], [5.0, 0.0], [9.0, 9.0]])
    second = torch.tensor([[0.1, 0.0], [5.5, 0.0], [4.5, 0.0], [0.3, 0.0]])
    assert match(first, second, ratio=0.8).tolist() == [[0, 0]]  # the second has two rivals, the third is not mutual
    assert match(first, torch.zeros(0, 2)).shape == (0, 2)


def test_the_strongest_are_kept_and_a_batch_is_as_one_by_one():
    images = torch.cat([as_images(photo(96)), as_images(photo(128)[32:, 32:])])
    both = sift(images)
    for image, found in zip(images, both, strict=True):
        alone = sift(image[None])[0]
        torch.testing.assert_close(found.places, alone.places, rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(found.descriptors, alone.descriptors, rtol=1e-3, atol=1e-3)
    few = sift(images[:1], Detector(most=5))[0]
    torch.testing.assert_close(few.places, both[0].places[:5])


def test_refusals():
    with pytest.raises(UserError, match="12 x 40 px"):
        dense_sift(torch.zeros(1, 1, 12, 40))
    with pytest.raises(UserError, match="contrast=-1"):
        Detector(contrast=-1)

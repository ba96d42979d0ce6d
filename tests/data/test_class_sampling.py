"""Drawing classes more evenly: the shares that are stated, from (seed, epoch) alone."""

from __future__ import annotations

import numpy as np
import pytest

from tests.data.test_split import samples_of
from visus.core.preprocessing import Preprocessing
from visus.data.class_sampling import ClassSampling, expected_draws, make_sampling
from visus.data.loader import Loader

COUNTS = np.array([600, 300, 60, 40])
TARGETS = np.repeat(np.arange(4), COUNTS)


@pytest.mark.parametrize("name, q", [("weighted", 1.0), ("sqrt", 0.5)])
def test_classes_are_drawn_in_proportion_to_their_size_to_the_power_1_minus_q(name, q):
    wanted = COUNTS ** (1 - q) / (COUNTS ** (1 - q)).sum()
    assert expected_draws(TARGETS, 4, q) == pytest.approx(1000 * wanted)
    sampling = make_sampling(name, samples_of(TARGETS), np.arange(1000), seed=0)
    drawn = np.concatenate([TARGETS[sampling.order(epoch)] for epoch in range(60)])
    error = 4 * np.sqrt(wanted * (1 - wanted) / len(drawn))
    assert (np.abs(np.bincount(drawn, minlength=4) / len(drawn) - wanted) < error).all()


def test_images_of_one_class_are_drawn_alike():
    drawn = np.concatenate([ClassSampling(TARGETS, q=1.0).order(epoch) for epoch in range(200)])
    counts = np.bincount(drawn, minlength=1000)[960:]  # 40 images, 250 draws of the class an epoch
    assert abs(counts.mean() - 1250) < 50 and counts.std() < 2 * np.sqrt(1250)


def test_an_epoch_keeps_its_length_and_is_a_function_of_seed_and_epoch():
    one, two = ClassSampling(TARGETS, q=1.0, seed=3), ClassSampling(TARGETS, q=1.0, seed=3)
    two.order(0)
    assert len(one.order(5)) == len(one) == 1000 and np.array_equal(one.order(5), two.order(5))
    assert not np.array_equal(one.order(5), one.order(6))
    assert not np.array_equal(one.order(5), ClassSampling(TARGETS, q=1.0, seed=4).order(5))


def test_of_several_labels_an_image_goes_by_its_rarest():
    targets = np.array([[1, 0], [1, 0], [1, 1], [1, 0], [0, 0]], np.float32)
    weights = np.array([1 / 4, 1 / 4, 1, 1 / 4, 1 / 4])  # without a label: as the commonest
    shares = 5 * weights / weights.sum()
    assert expected_draws(targets, 2, 1.0) == pytest.approx([shares[:4].sum(), shares[2]])


def test_the_loader_delivers_what_was_drawn():
    samples = samples_of(np.repeat([0, 1], [90, 10]))
    plain = Preprocessing(size=(2, 2), channels=1, mean=(0.0,), std=(1.0,), labels=("0", "1"))
    index = np.arange(5, 100)
    sampling = make_sampling("weighted", samples, index, seed=1)
    loader = Loader(samples, index, plain, batch_size=16, seed=1, shuffle=True, sampling=sampling)
    batches = list(loader.epoch(2))
    assert len(batches) == len(loader) == 6 and sum(map(len, batches)) == 95
    assert np.array_equal(np.concatenate([b.index.numpy() for b in batches]), index[sampling.order(2)])
    assert 30 < sum(int(b.targets.sum()) for b in batches) < 65
    assert make_sampling("none", samples, index, seed=1) is None

"""Repeated augmentation: which samples an epoch holds, and that its copies differ."""

from __future__ import annotations

import numpy as np
import pytest

from visus.core.errors import DataError
from visus.core.preprocessing import Preprocessing
from visus.data.loader import Loader
from visus.data.samples import Samples
from visus.data.sampling import RepeatedSampling, draw_index
from visus.data.transforms import build_augmentation


def test_each_sample_comes_three_times_in_one_batch_and_an_epoch_is_as_long_as_ever():
    sampling = RepeatedSampling(100, 12, repeats=3, seed=5)
    order = sampling.order(4)
    assert len(order) == len(sampling) == 100
    for start in range(0, 96, 12):
        values, counts = np.unique(order[start:start + 12], return_counts=True)
        assert len(values) == 4 and (counts == 3).all()
    assert len(np.unique(order)) == 34
    assert np.array_equal(RepeatedSampling(100, 12, repeats=3, seed=5).order(4), order)
    assert not np.array_equal(sampling.order(5), order)
    assert not np.array_equal(RepeatedSampling(100, 12, repeats=3, seed=6).order(4), order)
    assert sorted(RepeatedSampling(50, 8, repeats=1).order(0)) == list(range(50))


def test_every_sample_is_shown_as_often_over_many_epochs():
    sampling = RepeatedSampling(60, 6, repeats=3)
    counts = np.bincount(np.concatenate([sampling.order(epoch) for epoch in range(600)]), minlength=60)
    assert counts.min() > 480 and counts.max() < 720  # 600 each


def test_copies_of_a_sample_get_draws_of_their_own_and_the_first_keeps_its():
    index = np.array([7, 3, 7, 7, 3, 9])
    drawn = draw_index(index)
    assert len(set(drawn.tolist())) == 6
    assert drawn[[0, 1, 5]].tolist() == [7, 3, 9]
    assert draw_index(np.arange(5)).tolist() == list(range(5)) and not len(draw_index(np.array([], np.int64)))
    augment = build_augmentation([{"name": "pca_lighting"}])
    import torch

    images = torch.full((6, 3, 2, 2), 0.5)
    assert len(torch.unique(augment(images, drawn, 0, 0)[:, 0, 0, 0])) == 6
    assert len(torch.unique(augment(images, index, 0, 0)[:, 0, 0, 0])) == 3


def test_a_loader_takes_it_as_its_sampling():
    samples = Samples(format="npz", classes=("a", "b"), targets=np.arange(30) % 2,
                      images=np.arange(30, dtype=np.uint8).reshape(30, 1, 1, 1).repeat(8, 1).repeat(8, 2))
    sampling = RepeatedSampling(30, 6, repeats=3)
    loader = Loader(samples, np.arange(30), Preprocessing(size=(8, 8), channels=1, mean=(0.5,), std=(0.5,)),
                    batch_size=6, sampling=sampling)
    batches = list(loader.epoch(2))
    assert len(batches) == 5
    seen = np.concatenate([(batch.images[:, 0, 0, 0] * 255).round().numpy() for batch in batches])
    assert np.array_equal(seen, sampling.order(2))


def test_the_copies_of_a_batch_are_augmented_each_in_its_own_way():
    samples = Samples(format="npz", classes=("a", "b"), targets=np.arange(12) % 2,
                      images=np.full((12, 8, 8, 3), 128, np.uint8))
    loader = Loader(samples, np.arange(12), Preprocessing(size=(8, 8)), batch_size=6,
                    sampling=RepeatedSampling(12, 6, repeats=3), augmentation=build_augmentation([{
                        "name": "color_jitter", "brightness": 0.5}]))
    for batch in loader.epoch(0):
        assert len({round(float(image.mean()), 6) for image in batch.images}) == 6


@pytest.mark.parametrize("batch_size, repeats", [(32, 3), (8, 0)])
def test_a_batch_that_cannot_hold_whole_repeats_is_refused(batch_size, repeats):
    with pytest.raises(DataError, match=f"repeats={repeats}"):
        RepeatedSampling(100, batch_size, repeats=repeats)

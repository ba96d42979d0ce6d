"""The shares of a batch are its rows, whoever computes them: the same pixels and targets, mixed as in the whole."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.run.kill_harness import make_data
from visus.core.errors import DataError
from visus.core.preprocessing import Preprocessing
from visus.data.fetch import share_of
from visus.data.loader import Loader
from visus.data.opening import open_samples
from visus.data.sampling import RepeatedSampling
from visus.data.transforms import build_augmentation
from visus.data.transforms.mix import Mixing

SIZE = Preprocessing(size=(6, 6), channels=3, mean=(0.0,) * 3, std=(1.0,) * 3)


@pytest.mark.parametrize("files", [False, True], ids=["memory", "files"])
@pytest.mark.parametrize("mixing", [None, Mixing(mixup=0.4, cutmix=1.0)], ids=["plain", "mixed"])
@pytest.mark.parametrize("count", [2, 3])
def test_shares_put_together_are_the_whole_batch_to_the_bit(tmp_path, files, mixing, count):
    samples = open_samples(make_data(tmp_path, files=files, count=25))
    steps = build_augmentation([{"name": "random_crop", "padding": 1}, {"name": "horizontal_flip"}])

    def loader(share: tuple[int, int]) -> Loader:
        return Loader(samples, np.arange(23), SIZE, augmentation=steps, mixing=mixing, batch_size=8, seed=5,
                      sampling=RepeatedSampling(23, 8, repeats=2, seed=5), share=share)

    whole = loader((0, 1))
    shares = [loader((number, count)) for number in range(count)]
    for parts in zip(whole.epoch(1), *(share.epoch(1) for share in shares), strict=True):
        batch, *own = parts
        assert torch.equal(torch.cat([part.images for part in own]), batch.images)
        assert torch.equal(torch.cat([part.targets for part in own]), batch.targets)
        assert torch.equal(torch.cat([part.index for part in own]), batch.index)
        assert sum(part.weight for part in own) == len(batch)
        assert max(map(len, own)) - min(map(len, own)) <= 1


def test_a_batch_of_fewer_images_than_shares_goes_whole_to_each_and_counts_once(tmp_path):
    samples = open_samples(make_data(tmp_path, files=False, count=9))
    parts = [Loader(samples, np.arange(9), SIZE, batch_size=8, share=(number, 2)).batch(0, 1) for number in range(2)]
    assert [part.copies for part in parts] == [2, 2] and torch.equal(parts[0].images, parts[1].images)
    assert sum(part.weight for part in parts) == 1


def test_shares_are_contiguous_and_cover_every_row():
    for count in range(7, 30):
        ends = [share_of(count, (number, 7)) for number in range(7)]
        assert ends[0][0] == 0 and ends[-1][1] == count
        assert all(a[1] == b[0] for a, b in zip(ends, ends[1:], strict=False))


def test_more_processes_than_images_in_a_batch_are_refused(tmp_path):
    samples = open_samples(make_data(tmp_path, files=False, count=9))
    with pytest.raises(DataError, match="3 processes cannot share a batch of 2"):
        Loader(samples, np.arange(9), SIZE, batch_size=2, share=(0, 3))

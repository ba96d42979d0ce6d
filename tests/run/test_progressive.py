"""Progressive resizing: which batch of a run has which size."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from visus.core.batch import ImageBatch
from visus.core.errors import RecipeError
from visus.core.preprocessing import Preprocessing
from visus.run.progressive import Resized, progressive_sizes
from visus.run.recipe import Recipe


class Batches:
    """Four batches of two grey images of 8 x 12 pixels, each full of its number."""

    def __len__(self) -> int:
        return 4

    def epoch(self, epoch: int, start_batch: int = 0):
        for number in range(start_batch, 4):
            yield ImageBatch(torch.full((2, 1, 8, 12), float(number)), torch.zeros(2, dtype=torch.int64),
                             torch.arange(2))


def sizes_of(sizes, **values) -> tuple:
    recipe = Recipe().with_values({"model.name": "resnet20", "train.sizes": sizes, **values})
    return progressive_sizes(recipe, Preprocessing(size=(8, 12)))


def test_each_batch_has_the_size_of_its_share_of_the_run():
    source = Resized(Batches(), ((0.0, 4, 6), (0.25, 6, 9), (0.75, 8, 12)), epochs=2)
    seen = [tuple(batch.images.shape[-2:]) for epoch in range(2) for batch in source.epoch(epoch)]
    assert seen == [(4, 6)] * 2 + [(6, 9)] * 4 + [(8, 12)] * 2


def test_a_resumed_epoch_goes_on_at_the_same_sizes():
    source = Resized(Batches(), ((0.0, 4, 6), (0.5, 8, 12)), epochs=1)
    whole, rest = list(source.epoch(0)), list(source.epoch(0, 2))
    assert [b.images.shape for b in rest] == [b.images.shape for b in whole[2:]]
    assert torch.equal(rest[0].images, whole[2].images) and float(rest[0].images[0, 0, 0, 0]) == 2


def test_smaller_images_keep_the_mean_of_what_they_show():
    generator = np.random.Generator(np.random.PCG64(0))
    images = torch.from_numpy(generator.random((1, 3, 8, 12), np.float32))
    source = Resized(Batches(), ((0.0, 4, 6),), epochs=1)
    small = source._resized(ImageBatch(images, torch.zeros(1, dtype=torch.int64), torch.arange(1)), (4, 6))
    assert torch.allclose(small.images.mean(), images.mean(), atol=0.02)


def test_sides_are_in_proportion_to_an_oblong_model():
    assert sizes_of([[0, 0.5], [0.5, 1]]) == ((0.0, 4, 6), (0.5, 8, 12))
    assert sizes_of([]) == ()


@pytest.mark.parametrize(("sizes", "said"), [
    ([[0.1, 0.5], [0.5, 1]], "begin with 0"), ([[0, 0.5], [0, 1]], "rise"), ([[0, 0.5], [0.5, 0.8]], "rise to 1"),
    ([[0, 1], [0.5, 0.5], [0.6, 1]], "rise to 1"), ([[0, 20], [0.5, 28]], "less than or equal to 1")])
def test_sizes_that_cannot_be_are_refused(sizes, said):
    with pytest.raises(RecipeError, match=said):
        sizes_of(sizes)


def test_a_model_that_is_built_for_one_size_is_refused():
    with pytest.raises(RecipeError, match="vit_tiny_16 is built for one image size"):
        sizes_of([[0, 0.5], [0.5, 1]], **{"model.name": "vit_tiny_16"})

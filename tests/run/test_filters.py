from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from visus.core.errors import ResourceError
from visus.run import filters
from visus.run.filters import MOST, FilterPictures, chosen_epochs, filter_picture, first_layer


def ended(epoch: int) -> SimpleNamespace:
    return SimpleNamespace(epoch=epoch)


def net(channels: int = 3) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(channels, 4, 1), nn.Conv2d(4, 12, 3), nn.Flatten())


@pytest.mark.parametrize("epochs", [1, 2, 3, 7, 8, 30, 300])
def test_at_most_eight_pictures_with_first_and_last_epoch(epochs):
    chosen = chosen_epochs(epochs)
    assert len(chosen) <= MOST - 1 and {1, epochs} <= chosen and max(chosen) == epochs
    assert len(chosen) == min(epochs, MOST - 1) or epochs > 7 or len(chosen) >= 3


def test_a_picture_before_training_and_at_the_end_of_chosen_epochs(tmp_path):
    pictures = FilterPictures(tmp_path, net(), epochs=3)
    for epoch in range(3):
        pictures.on_step(None)
        pictures.on_epoch(ended(epoch))
    assert sorted(path.name for path in (tmp_path / "images").iterdir()) == [
        f"filters-{k}.png" for k in range(4)]


def test_the_first_kernel_of_more_than_a_pixel_is_shown():
    model = net()
    assert first_layer(model) is model[1]
    assert first_layer(nn.Sequential(nn.Linear(3, 3))) is None


def test_a_model_without_a_convolution_leaves_no_picture(tmp_path):
    FilterPictures(tmp_path, nn.Linear(3, 3), epochs=2).on_epoch(ended(0))
    assert not list(tmp_path.rglob("*.png"))


def test_pictures_differ_only_where_weights_do(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 16, 3))
    pictures = FilterPictures(tmp_path, model, epochs=2)
    pictures.on_epoch(ended(0))
    with torch.no_grad():
        model[0].weight[5] = 0.0
    pictures.on_epoch(ended(1))
    start, same, changed = (np.array(Image.open(tmp_path / "images" / f"filters-{k}.png")) for k in range(3))
    assert np.array_equal(start, same)
    rows, columns = np.nonzero((same != changed).any(-1))
    assert rows.min() >= 0 and rows.max() < 24 and columns.min() >= 5 * 27 and columns.max() < 6 * 27  # filter 5 of 8
    assert (changed[0:24, 5 * 27:6 * 27 - 3] == 128).all()  # what is 0 is grey


@pytest.mark.parametrize(("channels", "shape"), [(1, 2), (3, 3), (7, 2)])
def test_grey_for_one_or_many_channels_colour_for_three(channels, shape):
    picture = filter_picture(torch.randn(10, channels, 5, 5))
    assert picture.dtype == np.uint8 and picture.ndim == shape


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_weights_without_a_scale_are_grey(value):
    assert set(np.unique(filter_picture(torch.full((4, 1, 3, 3), value)))) <= {128, 255}


def test_a_resumed_run_keeps_the_picture_of_its_beginning(tmp_path):
    FilterPictures(tmp_path, net(), epochs=2)
    before = (tmp_path / "images" / "filters-0.png").read_bytes()
    other = net()
    with torch.no_grad():
        other[1].weight.mul_(-1)
    FilterPictures(tmp_path, other, epochs=2)
    assert (tmp_path / "images" / "filters-0.png").read_bytes() == before


def test_a_full_disk_does_not_end_the_training(tmp_path, monkeypatch):
    def refuse(path, data):
        raise ResourceError("could not be written", where=path)

    monkeypatch.setattr(filters, "write_bytes", refuse)
    FilterPictures(tmp_path, net(), epochs=1).on_epoch(ended(0))

"""Test-time crops: torchvision's ten, and the 144 that GoogLeNet's paper describes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tools.peers import load_peer
from visus.core.errors import UserError
from visus.core.preprocessing import Preprocessing
from visus.deploy.crops import crop_evaluate, crops_of_squares, short_side, ten_crop
from visus.ops.resample import resize


def picture(height: int = 50, width: int = 61, batch: int = 2) -> torch.Tensor:
    return torch.randint(0, 256, (batch, 3, height, width), generator=torch.Generator().manual_seed(0),
                         dtype=torch.uint8)


@pytest.mark.parametrize("height, width, size", [(50, 61, 32), (33, 32, 32), (41, 40, 31), (32, 32, 32)])
def test_ten_crops_are_torchvisions(height, width, size):
    try:
        load_peer("torchvision")
        import torchvision.transforms.v2 as v2
    except ImportError as error:
        pytest.skip(str(error))
    images = picture(height, width)
    assert torch.equal(ten_crop(images, size), torch.stack(v2.TenCrop(size)(images), 1))


@pytest.mark.parametrize("shape", [(50, 80), (80, 50), (64, 64)])
def test_144_crops_are_four_scales_of_three_squares_of_six_crops_and_their_mirrors(shape):
    images = picture(*shape)
    groups = list(crops_of_squares(images, 28, (32, 36, 40, 44)))
    assert sum(group.shape[1] for group in groups) == 144
    for group, scale in zip(groups, (32, 36, 40, 44), strict=True):
        scaled = short_side(images, scale)
        assert min(scaled.shape[-2:]) == scale
        longer = max(scaled.shape[-2:])
        for number, start in enumerate((0, round((longer - scale) / 2), longer - scale)):
            square = scaled[..., start:start + scale, :] if shape[0] > shape[1] else scaled[..., start:start + scale]
            crops = group[:, 6 * number:6 * number + 6]
            assert torch.equal(crops[:, :5], ten_crop(square, 28)[:, :5])
            assert torch.equal(crops[:, 5], resize(square, (28, 28)))
        assert torch.equal(group[:, 18:], group[:, :18].flip(4))


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3 * 28 * 28, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(images.flatten(1))


@pytest.mark.parametrize("crops, count", [("ten", 10), ("144", 144)])
def test_the_answer_is_the_mean_softmax_over_all_crops(crops, count):
    torch.manual_seed(0)
    model, preprocessing = Tiny(), Preprocessing(size=(28, 28))
    images = picture(60, 90)
    got = crop_evaluate(model, images, 28, crops, preprocessing)
    if crops == "ten":
        every = ten_crop(short_side(images, 32), 28)
    else:
        every = torch.cat(list(crops_of_squares(images, 28, (32, 36, 40, 44))), 1)
    assert every.shape[1] == count
    with torch.no_grad():
        probs = model(preprocessing.normalise(every.flatten(0, 1).float() / 255)).softmax(1).view(2, count, 4)
    torch.testing.assert_close(got, probs.mean(1), rtol=0, atol=1e-6)
    floats = preprocessing.normalise(short_side(images, 60).float() / 255)
    torch.testing.assert_close(crop_evaluate(model, floats, 28, crops), got, rtol=0, atol=0.02)


@pytest.mark.parametrize("work, words", [
    (lambda: ten_crop(picture(20, 40), 24), "at most 20"), (lambda: list(crops_of_squares(picture(), 28, (20,))), "28"),
    (lambda: crop_evaluate(Tiny(), picture(), 28, "five"), "'ten' or '144'"),
    (lambda: crop_evaluate(Tiny(), picture(), 28), "preprocessing")])
def test_wrong_calls_are_refused(work, words):
    with pytest.raises(UserError, match=words):
        work()

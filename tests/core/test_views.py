"""Answers that are the mean over several views of an image."""

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor

from visus.core.batch import ImageBatch
from visus.core.errors import RecipeError
from visus.core.preprocessing import Preprocessing
from visus.losses.classification import get_loss
from visus.run.recipe import Recipe
from visus.tasks.classification import Classification

MEAN, STD = (0.4,), (0.5,)


def pixels(images: Tensor) -> Tensor:
    """[B, 1, H, W] -> its pixels as logits [B, H W]: what a view shows can be read off."""
    return images.flatten(1)


def answers(views: str, images: Tensor) -> Tensor:
    size = tuple(images.shape[-2:])
    return Preprocessing(size=size, channels=1, mean=MEAN, std=STD, views=views).answers(pixels, images)


def moved(image: list[list[float]], down: int, right: int) -> list[list[float]]:
    """By hand: what lies (down, right) of each pixel, mirrored at the centre of the last."""
    def at(place: int, count: int) -> int:
        return -place if place < 0 else 2 * (count - 1) - place if place >= count else place

    height, width = len(image), len(image[0])
    return [[image[at(y + down, height)][at(x + right, width)] for x in range(width)] for y in range(height)]


def test_the_views_and_their_weights_are_those_of_the_paper():
    image = [[0.1, 0.2, 0.3], [0.4, 0.5, 0.6], [0.7, 0.8, 1.0]]
    images = torch.tensor([[image]])

    def both_sides(rows: list[list[float]]) -> Tensor:
        return (torch.tensor(rows).flatten() + torch.tensor([row[::-1] for row in rows]).flatten()) / 2

    def normalised(values: Tensor) -> Tensor:
        return (values - MEAN[0]) / STD[0]

    assert torch.allclose(answers("none", images)[0], normalised(torch.tensor(image).flatten()))
    assert torch.allclose(answers("flip", images)[0], normalised(both_sides(image)))
    shifted = (both_sides(moved(image, -1, -1)) + both_sides(moved(image, 1, 1))) / 2
    assert torch.allclose(answers("flip_shift", images)[0], normalised((both_sides(image) + shifted) / 2), atol=1e-6)


def test_an_image_and_its_mirror_image_have_one_answer():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.Flatten(), torch.nn.Linear(4 * 36, 3)).eval()
    images, plain = torch.rand(5, 1, 8, 8), Preprocessing(size=(8, 8), channels=1, mean=MEAN, std=STD)
    flipped = Preprocessing.from_dict(plain.to_dict() | {"views": "flip"})
    assert torch.allclose(flipped.answers(model, images), flipped.answers(model, images.flip(-1)), atol=1e-6)
    assert not torch.allclose(plain.answers(model, images), plain.answers(model, images.flip(-1)), atol=1e-3)


def test_a_task_learns_from_one_view_and_answers_from_all():
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(6, 3))
    images = torch.rand(4, 1, 2, 3)
    batch = ImageBatch(images, torch.tensor([0, 1, 2, 0]), torch.arange(4))
    preprocessing = Preprocessing(size=(2, 3), channels=1, mean=MEAN, std=STD, views="flip")
    task = Classification(preprocessing=preprocessing, loss_function=get_loss("cross_entropy"))
    normalised = preprocessing.normalise(images)
    assert torch.equal(task.loss(model.train(), batch)[1], model(normalised).detach())
    model.eval()
    mean = (model(normalised) + model(normalised.flip(-1))).detach() / 2
    assert torch.allclose(task.loss(model, batch)[1], mean)
    assert torch.allclose(task.predict(model, batch).probs, mean.softmax(1))


def test_the_views_travel_with_the_model_and_older_models_have_one():
    values = json.loads(json.dumps(Preprocessing(size=(8, 8), views="flip_shift").to_dict()))
    assert Preprocessing.from_dict(values).views == "flip_shift"
    del values["views"]
    assert Preprocessing.from_dict(values).views == "none"


def test_another_word_is_refused_at_the_door():
    with pytest.raises(RecipeError, match=r"evaluate\.tta='mirror'"):
        Recipe().with_values({"evaluate.tta": "mirror"})

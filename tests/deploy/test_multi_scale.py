"""Multi-scale evaluation against a loop over scales, mirrored images and windows."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tests.parity.test_models_parity import randomise
from visus.core.errors import UserError
from visus.core.preprocessing import Preprocessing
from visus.deploy.dense import dense_evaluate, to_fully_convolutional
from visus.deploy.multi_scale import multi_scale_evaluate
from visus.run.models import create_model

STRIDE = 4  # of LeNet-5, which does not pad: places of its map are windows of 32 pixels


@pytest.fixture
def model():
    torch.manual_seed(0)
    made = create_model("lenet5_full", num_classes=5, in_channels=3)
    randomise(made)
    return made.double().eval()


def images_of(height: int, width: int) -> torch.Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def mean_over_windows(model, images: torch.Tensor) -> torch.Tensor:
    rows, columns = (range(0, side - 32 + 1, STRIDE) for side in images.shape[2:])
    scores = [model(images[..., y:y + 32, x:x + 32]) for y in rows for x in columns]
    return torch.stack(scores).mean(0)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(("shape", "sizes"), [
    ((40, 60), {32: (32, 48), 36: (36, 54), 48: (48, 72)}), ((50, 35), {35: (50, 35), 40: (57, 40)})])
def test_it_is_the_mean_of_posteriors_over_scales_and_mirrored_images(model, shape, sizes, flip):
    images = images_of(*shape)
    expected = []
    with torch.no_grad():
        for size in sizes.values():
            same = size == shape
            scaled = images if same else F.interpolate(images, size, mode="bilinear", antialias=True)
            for view in (scaled, scaled.flip(3))[:1 + flip]:
                expected.append(mean_over_windows(model, view).softmax(1))
    found = multi_scale_evaluate(model, images, list(sizes), 32, flip=flip)
    torch.testing.assert_close(found, torch.stack(expected).mean(0), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(found.sum(1), torch.ones(2, dtype=torch.float64))


def test_one_scale_is_the_softmax_of_dense_evaluation_and_a_dense_copy_is_taken_as_it_is(model):
    images, dense = images_of(40, 44), to_fully_convolutional(model, 32)
    expected = dense_evaluate(dense, images).softmax(1)
    for given in (model, dense):
        torch.testing.assert_close(multi_scale_evaluate(given, images, (40,), 32, flip=False), expected,
                                   rtol=1e-12, atol=1e-12)
    mirrored = multi_scale_evaluate(dense, images.flip(3), [40, 48], 32)
    torch.testing.assert_close(multi_scale_evaluate(dense, images, [40, 48], 32), mirrored, rtol=1e-10, atol=1e-12)


def test_the_models_own_size_gives_its_own_probabilities(model):
    images = images_of(32, 32)
    with torch.no_grad():
        torch.testing.assert_close(multi_scale_evaluate(model, images, [32], 32, flip=False), model(images).softmax(1),
                                   rtol=1e-10, atol=1e-12)


def test_bytes_are_resized_as_bytes_and_normalised_as_the_model_was_trained(model):
    preprocessing = Preprocessing(size=(32, 32), interpolation="bicubic", mean=(0.2, 0.4, 0.6), std=(0.3, 0.2, 0.1))
    images = torch.randint(0, 256, (2, 3, 40, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    double = multi_scale_evaluate(model, images, [36, 40], 32, flip=False, preprocessing=preprocessing)
    model = model.float()
    found = multi_scale_evaluate(model, images, [36, 40], 32, flip=False, preprocessing=preprocessing)
    expected = []
    with torch.no_grad():
        for side in (36, 40):
            resized = F.interpolate(images, (side, side), mode="bicubic", antialias=True) if side != 40 else images
            assert resized.dtype == torch.uint8
            expected.append(mean_over_windows(model, preprocessing.normalise(resized.float() / 255)).softmax(1))
    torch.testing.assert_close(found, torch.stack(expected).mean(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(double.float(), found, rtol=1e-4, atol=1e-5)
    with pytest.raises(UserError, match="preprocessing"):
        multi_scale_evaluate(model, images, [36], 32)


@pytest.mark.parametrize(("scales", "words"), [
    ([], "scales"), (36, "scales"), ([31], "at least the model's image_size"), ([36.5], "scales"), ([True], "scales")])
def test_wrong_scales_are_refused(model, scales, words):
    with pytest.raises(UserError, match=words):
        multi_scale_evaluate(model, images_of(40, 40), scales, 32)

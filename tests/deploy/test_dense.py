"""Dense evaluation against sliding windows, one at a time."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.parity.test_models_parity import randomise
from visus.core.errors import UserError
from visus.deploy.dense import dense_evaluate, to_fully_convolutional
from visus.run.models import create_model

SMALL = {"num_classes": 5, "in_channels": 2}
ALEXNET = {"dims": (6, 8, 10, 8, 6), "hidden_dim": 12}
MODELS = {  # name -> (config, the size that it was made for, its stride)
    "alexnet": (ALEXNET, 224, 32),
    "alexnet_original": (ALEXNET, 227, 32),
    "vgg11_bn": ({"dims": (4, 5, 6, 7, 8), "hidden_dim": 12}, 224, 32),
    "lenet5_full": ({}, 32, 4),
    "resnet20": ({"depth": 1}, 32, 4),
    "resnet18": ({"depths": (1, 1, 1, 1)}, 64, 32),
    "nin": ({}, 32, 4),
    "squeezenet1_1": ({}, 64, 16),
    "mobilenet_v2": ({"width": 0.35}, 64, 32),
    "shufflenet_v2_x0_5": ({}, 64, 32),
}


def made(name: str) -> tuple[nn.Module, int, int]:
    config, size, stride = MODELS[name]
    model = create_model(name, **SMALL, **config)
    randomise(model)
    return model.double().eval(), size, stride


def random_images(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def windows(model: nn.Module, images: torch.Tensor, size: int, stride: int) -> torch.Tensor:
    """[B, num_classes, H', W']: the scores of every window that is cut out, one by one."""
    tops, lefts = (range(0, side - size + 1, stride) for side in images.shape[2:])
    rows = [torch.stack([model(images[..., y:y + size, x:x + size]) for x in lefts], -1) for y in tops]
    return torch.stack(rows, -2)


@pytest.mark.parametrize("name", MODELS)
def test_an_image_of_the_models_size_gives_its_own_scores(name):
    model, size, stride = made(name)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    dense = to_fully_convolutional(model, size)
    images = random_images(2, 2, size, size)
    with torch.no_grad():
        scores = dense(images)
        assert scores.shape == (2, 5, 1, 1)
        torch.testing.assert_close(scores[..., 0, 0], model(images), rtol=1e-10, atol=1e-10)
        assert dense(random_images(1, 2, size + stride, size + 2 * stride)).shape == (1, 5, 2, 3)
    assert (dense.stride, dense.window) == (stride, size) and not dense.training
    assert not [m for m in dense.modules() if isinstance(m, nn.Linear)]
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


class Valid(nn.Module):
    """AlexNet's shape without padding: its maps, an average to their own size, three full layers with a norm."""

    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(2, 6, 11, 4), nn.ReLU(), nn.MaxPool2d(3, 2), nn.Conv2d(6, 8, 5), nn.ReLU(),
                                   nn.MaxPool2d(3, 2), nn.Conv2d(8, 8, 3), nn.ReLU())
        self.pool = nn.AdaptiveAvgPool2d(3)
        self.head = nn.Sequential(nn.Dropout(), nn.Linear(72, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 5))

    def forward(self, images):
        if images.shape[2] < 99:
            raise UserError("too small")
        return self.head(self.pool(self.trunk(images)).flatten(1))


class Averaged(Valid):
    """The same trunk under global average pooling."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(8, 5)

    def forward(self, images):
        return self.head(torch.relu(self.trunk(images)).mean((2, 3)))


@pytest.mark.parametrize(("kind", "size", "stride"), [(Valid, 131, 16), (Averaged, 115, 16), ("lenet5_full", 32, 4),
                                                      ("lenet5_relu", 32, 4)])
def test_without_padding_the_map_equals_every_sliding_window(kind, size, stride):
    model = create_model(kind, **SMALL) if isinstance(kind, str) else kind()
    randomise(model)
    model = model.double().eval()
    dense = to_fully_convolutional(model, size)
    images = random_images(2, 2, size + 2 * stride + 1, size + 3 * stride)
    with torch.no_grad():
        expected, found = windows(model, images, size, stride), dense(images)
    assert dense.stride == stride and found.shape == (2, 5, 3, 4)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_with_padding_the_map_is_that_of_windows_only_where_no_border_shows():
    """A window whose surroundings are zeros sees what its own padding would be: exact for one padded layer. Among other
    pixels it is not, and nothing here pretends that it is."""
    model = nn.Sequential(nn.Conv2d(2, 4, 3, 2, 1, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 64, 5))
    randomise(model)
    model = model.double().eval()
    dense = to_fully_convolutional(model, 16)
    images = torch.zeros(1, 2, 48, 48, dtype=torch.float64)
    images[..., 16:32, 16:32] = random_images(1, 2, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(dense(images)[..., 8, 8], model(images[..., 16:32, 16:32]), rtol=1e-10, atol=1e-10)
        images = random_images(1, 2, 48, 48)
        different = dense(images)[..., 8, 8] - model(images[..., 16:32, 16:32])
    assert dense.stride == 2 and different.abs().max() > 1e-3


def test_fc6_of_alexnet_becomes_4096_filters_of_6_x_6_x_256():
    """CS231n and Caffe's net surgery, at full size: the same numbers in another shape."""
    with torch.device("meta"):
        model = create_model("alexnet")
    dense = to_fully_convolutional(model, 224)
    filters = [m for m in dense.modules() if isinstance(m, nn.Conv2d)][-3:]
    assert [tuple(m.weight.shape) for m in filters] == [(4096, 256, 6, 6), (4096, 4096, 1, 1), (1000, 4096, 1, 1)]
    with torch.no_grad():
        assert dense(torch.empty(1, 3, 384, 384, device="meta")).shape == (1, 1000, 6, 6)
    assert sum(p.numel() for p in dense.parameters()) == sum(p.numel() for p in model.parameters())
    small, _, _ = made("alexnet")
    weight = next(m for m in to_fully_convolutional(small, 224).modules()
                  if isinstance(m, nn.Conv2d) and m.kernel_size == (6, 6)).weight
    assert torch.equal(weight.flatten(1), small.classifier[1].weight)


def test_vggs_windows_are_in_the_middle_of_a_larger_image():
    """The one window of an image of the model's size, and a map of 7 x 7 for 416 pixels (section 3.2)."""
    with torch.device("meta"):
        dense = to_fully_convolutional(create_model("vgg16"), 224)
    with torch.no_grad():
        assert dense(torch.empty(1, 3, 416, 416, device="meta")).shape == (1, 1000, 7, 7)


@pytest.mark.parametrize("flip", [False, True])
def test_dense_evaluation_is_the_mean_of_the_windows(flip):
    model, size, stride = made("lenet5_full")
    images = random_images(3, 2, 44, 48)
    with torch.no_grad():
        expected = windows(model, images, size, stride).mean((2, 3))
        if flip:
            expected = (expected + windows(model, images.flip(3), size, stride).mean((2, 3))) / 2
    found = dense_evaluate(to_fully_convolutional(model, size), images, flip=flip)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_the_copy_can_be_exported_and_trained():
    model, size, _ = made("lenet5_full")
    dense = to_fully_convolutional(model, size)
    images = random_images(2, 2, 40, 40)
    program = torch.export.export(dense, (images,))
    torch.testing.assert_close(program.module()(images), dense(images))
    dense(images).sum().backward()
    assert all(p.grad is not None for p in dense.parameters()) and all(p.grad is None for p in model.parameters())


class TwoHeads(Valid):
    def forward(self, images):
        flat = self.pool(self.trunk(images)).flatten(1)
        return self.head(flat) + self.head(flat * 2)


class ByValue(Valid):
    def forward(self, images):
        return self.head(self.pool(self.trunk(images)).flatten(1)) if images.sum() > 0 else images


@pytest.mark.parametrize(("model", "size", "words"), [
    (lambda: create_model("lenet5"), 32, "a step that is not"),
    (lambda: create_model("vit_tiny_16", dim=24, depth=1, num_heads=3, image_size=32), 32, "model: "),
    (lambda: create_model("alexnet", **ALEXNET), 260, "pools 7 x 7 places to 6 x 6"),
    (TwoHeads, 131, "branches|a step that is not"),
    (ByValue, 131, "cannot follow"),
    (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), 32, "no head"),
    (lambda: nn.Sequential(nn.Linear(3, 4)), 32, "no convolutions"),
    (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Softmax(1), nn.Flatten(), nn.Linear(4, 2)),
     32, "maps grow"),
    (lambda: create_model("resnet20"), 0, "image_size=0"),
])
def test_what_cannot_be_dense_is_refused(model, size, words):
    with pytest.raises(UserError, match=words):
        to_fully_convolutional(model(), size)

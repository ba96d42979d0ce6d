"""The course's three-layer network against the same network by hand in NumPy, and on the course's data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from visus.core.errors import UserError
from visus.foundations import convolution as C
from visus.foundations import layers as L
from visus.models.cnn.three_layer_convnet import ThreeLayerConvNet, ThreeLayerConvNetConfig
from visus.run.models import create_model

CIFAR10 = Path(__file__).resolve().parents[3] / "shared" / "data"


def by_hand(state: dict[str, np.ndarray], images: np.ndarray, labels: np.ndarray,
            reg: float) -> tuple[np.ndarray, float, dict[str, np.ndarray]]:
    """Logits, loss with 1/2 reg |W|^2 on the three weights, and all gradients; the course's order of layers."""
    s = state
    padding = s["conv.weight"].shape[2] // 2
    maps, conv = C.convolution_forward(images, s["conv.weight"], s["conv.bias"], padding=padding)
    maps, active = L.relu_forward(maps)
    pooled, pool = C.max_pool_forward(maps, 2, 2)
    rows = pooled.reshape(len(images), -1)
    hidden, affine = L.affine_forward(rows, s["hidden.weight"].T, s["hidden.bias"])
    hidden, active_hidden = L.relu_forward(hidden)
    logits, top = L.affine_forward(hidden, s["head.weight"].T, s["head.bias"])
    loss, dlogits = L.softmax_loss(logits, labels)

    grads: dict[str, np.ndarray] = {}
    dhidden, dw, grads["head.bias"] = L.affine_backward(dlogits, top)
    grads["head.weight"] = dw.T
    drows, dw, grads["hidden.bias"] = L.affine_backward(L.relu_backward(dhidden, active_hidden), affine)
    grads["hidden.weight"] = dw.T
    dmaps = L.relu_backward(C.max_pool_backward(drows.reshape(pooled.shape), pool), active)
    _, grads["conv.weight"], grads["conv.bias"] = C.convolution_backward(dmaps, conv)
    for name in ("conv.weight", "hidden.weight", "head.weight"):
        loss += 0.5 * reg * float((s[name] ** 2).sum())
        grads[name] = grads[name] + reg * s[name]
    return logits, loss, grads


def penalty(model: ThreeLayerConvNet) -> torch.Tensor:
    return 0.5 * sum(layer.weight.square().sum() for layer in (model.conv, model.hidden, model.head))


@pytest.mark.parametrize(("side", "filter_size", "reg"), [(8, 7, 0.0), (9, 3, 0.1), (6, 1, 1.0)])
def test_logits_loss_and_every_gradient_equal_those_by_hand(side, filter_size, reg):
    torch.manual_seed(0)
    model = ThreeLayerConvNet(ThreeLayerConvNetConfig(num_filters=4, filter_size=filter_size, hidden_dim=6,
                                                      weight_scale=0.3, image_size=side, num_classes=5)).double()
    for layer in (model.conv, model.hidden, model.head):
        torch.nn.init.normal_(layer.bias)
    images, labels = torch.randn(3, 3, side, side, dtype=torch.float64), torch.tensor([4, 0, 2])
    logits = model(images)
    loss = F.cross_entropy(logits, labels) + reg * penalty(model)
    loss.backward()
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    expected_logits, expected_loss, grads = by_hand(state, images.numpy(), labels.numpy(), reg)
    np.testing.assert_allclose(logits.detach().numpy(), expected_logits, rtol=1e-10, atol=1e-12)
    assert loss.item() == pytest.approx(expected_loss, rel=1e-12)
    assert grads.keys() == dict(model.named_parameters()).keys()
    for name, parameter in model.named_parameters():
        np.testing.assert_allclose(parameter.grad.numpy(), grads[name], rtol=1e-10, atol=1e-12, err_msg=name)


def test_it_starts_as_the_course_says():
    """Normal weights of deviation 1e-3, biases 0, so that the first loss is that of guessing: log 10."""
    torch.manual_seed(0)
    model = create_model("three_layer_convnet")
    for layer in (model.conv, model.hidden, model.head):
        assert layer.weight.std().item() == pytest.approx(1e-3, rel=0.05) and not layer.bias.any()
    loss = F.cross_entropy(model(torch.randn(50, 3, 32, 32)), torch.arange(50) % 10)
    assert loss.item() == pytest.approx(np.log(10), abs=1e-3)


def test_it_learns_a_few_images_by_heart():
    """The course's sanity check: with few images, training accuracy reaches 100 %."""
    torch.manual_seed(0)
    model = create_model("three_layer_convnet", weight_scale=1e-2, image_size=8, num_filters=8)
    images, labels = torch.randn(50, 3, 8, 8), torch.randint(0, 10, (50,))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
    assert (model(images).argmax(1) == labels).all()


@pytest.mark.parametrize(("field", "value"), [("filter_size", 4), ("filter_size", 0), ("num_filters", 0),
                                              ("hidden_dim", -1), ("weight_scale", 0), ("weight_scale", "1"),
                                              ("image_size", 1)])
def test_wrong_configs_are_refused_by_name(field, value):
    with pytest.raises(UserError, match=field):
        create_model("three_layer_convnet", **{field: value})


def cifar10(split: str) -> tuple[torch.Tensor, torch.Tensor]:
    """uint8 [N, 3, 32, 32] and labels, unpacked from planes G, R - G and B - G, differenced along both sides."""
    file = np.load(CIFAR10 / f"cifar10_{split}.npz")
    planes = file["q"].cumsum(-1, dtype=np.uint8).cumsum(-2, dtype=np.uint8)
    images = np.stack([planes[1] + planes[0], planes[0], planes[2] + planes[0]], 1)
    return torch.from_numpy(images), torch.from_numpy(file["y"].astype(np.int64))


@pytest.mark.slow
@pytest.mark.skipif(not (CIFAR10 / "cifar10_train.npz").exists(), reason="CIFAR-10 is not beside this checkout")
def test_one_epoch_on_cifar10_gives_over_forty_percent():
    """The course's settings: 49,000 images less their mean, batches of 50, Adam at 1e-3, reg 0.001; the bar is its own,
    on the test set."""
    images, labels = cifar10("train")
    test_images, test_labels = cifar10("test")
    images, labels = images[:49_000], labels[:49_000]
    mean = images.float().mean(0)
    torch.manual_seed(0)
    model = create_model("three_layer_convnet")
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for batch in torch.randperm(len(images)).split(50):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images[batch].float() - mean), labels[batch]) + 0.001 * penalty(model)
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        hits = sum((model(some.float() - mean).argmax(1) == truth).sum().item()
                   for some, truth in zip(test_images.split(500), test_labels.split(500), strict=True))
    print(f"test accuracy after one epoch: {hits / len(test_labels):.4f}")
    assert hits / len(test_labels) > 0.40

"""The frozen copy answers as the model does, asks for no gradients of its own, and leaves the model alone."""

from __future__ import annotations

import pytest
import torch

import visus
from visus.deploy.frozen import frozen


@pytest.mark.parametrize("name, options", [
    ("resnet20", {"num_classes": 5}), ("mobilenet_v2", {"num_classes": 5}),
    ("vit_tiny_16", {"num_classes": 5, "image_size": 32, "dim": 24, "depth": 2, "num_heads": 2, "patch_size": 8})])
def test_answers_and_gradients_of_images_are_equal(name: str, options: dict):
    torch.manual_seed(0)
    model = visus.create_model(name, **options).double()
    images = torch.randn(3, 3, 32, 32, dtype=torch.float64, requires_grad=True)
    for _ in range(2):
        model.train()(images)  # running statistics that are not 0 and 1
    model.zero_grad()
    copy = frozen(model, tuple(images.shape))
    assert model.training and not copy.training and all(p.requires_grad for p in model.parameters())
    assert not any(p.requires_grad for p in copy.parameters())
    model.eval()
    outputs = [one(images) for one in (model, copy)]
    torch.testing.assert_close(*outputs, rtol=1e-10, atol=1e-10)
    ours, theirs = (torch.autograd.grad(out[:, 1].sum(), images)[0] for out in outputs)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)

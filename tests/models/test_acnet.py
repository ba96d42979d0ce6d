"""ACNet against the equations of its paper, and against the plain networks that it becomes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.parity.test_models_parity import randomise
from visus.core.errors import UserError
from visus.models.cnn.acnet import AsymmetricConv
from visus.run.models import create_model

SMALL = {"depths": (1, 2), "dims": (8, 12), "num_classes": 5}


def random_images(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("stride", [1, 2])
def test_kernels_add_on_one_grid(stride):
    """Equation 5, the additivity that the method rests on: a 1 x 3 and a 3 x 1 see the middle row and column of the
    3 x 3's window, for each place and each stride."""
    layer = AsymmetricConv(2, 3, stride).double().eval()
    randomise(layer)
    images = random_images(1, 2, 9, 8)
    conv = layer.fuse()
    with torch.no_grad():
        torch.testing.assert_close(conv(images), layer(images), rtol=1e-10, atol=1e-12)
        windows = F.unfold(images, 3, padding=1, stride=stride).view(1, 2, 3, 3, -1)
        row = torch.einsum("bckl,dck->bdl", windows[:, :, 1], layer.horizontal.conv.weight[:, :, 0])
        column = torch.einsum("bckl,dck->bdl", windows[:, :, :, 1], layer.vertical.conv.weight[:, :, :, 0])
        torch.testing.assert_close(row, layer.horizontal.conv(images).flatten(2), rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(column, layer.vertical.conv(images).flatten(2), rtol=1e-10, atol=1e-12)


def test_only_the_skeleton_of_the_square_grows():
    """Figure 2: the strips touch the cross; the fused kernel has the corners of the square."""
    layer = AsymmetricConv(4, 6, 1).double().eval()
    randomise(layer)
    square, _ = layer.square.kernel_and_bias()
    added = layer.fuse().weight.detach() - square
    corners = torch.tensor([[True, False, True], [False, False, False], [True, False, True]])
    assert (added[..., corners] == 0).all() and (added[..., ~corners] != 0).all()


def test_the_training_form_has_five_thirds_of_the_weights_of_its_layers():
    layer = AsymmetricConv(16, 32, 1)
    weights = sum(m.weight.numel() for m in layer.modules() if isinstance(m, nn.Conv2d))
    assert weights * 9 == 15 * layer.fuse().weight.numel()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)], ids=str)
@pytest.mark.parametrize("stem", ["imagenet", "cifar"])
def test_fused_equals_unfused(stem, dtype, tolerance):
    model = create_model("ac_resnet18", stem=stem, **SMALL).to(dtype)
    randomise(model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    plain = model.eval().fuse()
    images = random_images(2, 3, 45, 64).to(dtype)
    with torch.no_grad():
        expected, found = model(images), plain(images)
    assert ((found - expected).abs().max() / expected.abs().max()).item() <= tolerance
    assert plain.config.fused and plain.fuse() is plain
    assert not [m for m in plain.modules() if isinstance(m, AsymmetricConv)]
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
    with torch.no_grad():
        next(plain.stages.parameters()).add_(1.0)
        plain.fc.weight.add_(1.0)
    assert torch.equal(model(images), expected)


@pytest.mark.parametrize(("name", "plain_name", "options", "size"), [
    ("ac_resnet18", "resnet18", {}, 64),
    ("ac_resnet56", "resnet56", {"shortcut": "B"}, 32)])
def test_the_fused_network_is_the_paper_s_base_network(name, plain_name, options, size):
    """Full depth: its kernels in the plain residual network, whose norms then only add the biases, compute the same."""
    model = create_model(name, num_classes=5)
    randomise(model)
    plain = model.double().eval().fuse()
    base = create_model(plain_name, num_classes=5, **options).double().eval()
    convs = [m for m in plain.modules() if isinstance(m, nn.Conv2d)]
    norms = [m for m in base.modules() if isinstance(m, nn.BatchNorm2d)]
    base_convs = [m for m in base.modules() if isinstance(m, nn.Conv2d)]
    own = {m.conv: m.bn for m in plain.modules() if hasattr(m, "bn")}
    assert len(convs) == len(base_convs) == len(norms)
    with torch.no_grad():
        for conv, base_conv, norm in zip(convs, base_convs, norms, strict=True):
            assert conv.weight.shape == base_conv.weight.shape and conv.stride == base_conv.stride
            base_conv.weight.copy_(conv.weight)
            if conv in own:
                norm.load_state_dict(own[conv].state_dict())
            else:
                norm.eps = 0.0
                norm.bias.copy_(conv.bias)
        base.fc.load_state_dict(plain.fc.state_dict())
        images = random_images(2, 3, size, size)
        torch.testing.assert_close(base(images), plain(images), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("field", "value"), [("depths", (1, 2, 3)), ("dims", (8, 8, 8, 0)), ("fused", 1),
                                              ("stem", "mnist"), ("depths", ())])
def test_wrong_configs_are_refused_by_name(field, value):
    with pytest.raises(UserError, match=field):
        create_model("ac_resnet18", **{field: value})

"""Another normalisation in a built net: torch's layers, the ones by hand, the papers' equations, and what stays."""

from __future__ import annotations

import copy
import inspect

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from visus.core.errors import UserError
from visus.foundations import layers as by_hand
from visus.layers.normalise import (
    Normalisation,
    StandardisedConv2d,
    groups_of,
    normalisation_of,
    renormalise,
)
from visus.layers.response_norm import ResponseNorm
from visus.run.models import create_model, freeze_backbone, model_config

SWAPPED = ("layer", "group", "instance", "local_response", "none")


def _one(norm: str, channels: int = 8) -> nn.Module:
    """What takes the place of a batch norm whose scale and shift are not 1 and 0."""
    net = nn.Sequential(nn.BatchNorm2d(channels))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        net[0].weight.normal_(generator=generator)
        net[0].bias.normal_(generator=generator)
    renormalise(net, Normalisation(norm))
    return net[0]


@pytest.mark.parametrize("norm", ("layer", "group", "instance"))
def test_each_norm_equals_torchs_and_the_one_by_hand_forward_and_backward(norm):
    layer, x = _one(norm), torch.randn(3, 8, 5, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    upstream = torch.randn(3, 8, 5, 4, generator=torch.Generator().manual_seed(2))
    weight, bias = layer.weight, layer.bias
    out = layer(x)
    out.backward(upstream)
    with torch.no_grad():
        theirs = {"layer": F.layer_norm(x, (8, 5, 4)) * weight[:, None, None] + bias[:, None, None],
                  "group": F.group_norm(x, 4, weight, bias), "instance": F.instance_norm(x, weight=weight, bias=bias)}
    torch.testing.assert_close(out, theirs[norm], atol=1e-5, rtol=1e-5)
    arrays = [t.detach().double().numpy() for t in (x, weight, bias)]
    if norm == "instance":
        hand, cache = by_hand.instancenorm_forward(*arrays)
        gradient = by_hand.instancenorm_backward(upstream.double().numpy(), cache)[0]
    else:
        hand, cache = by_hand.groupnorm_forward(*arrays, 1 if norm == "layer" else 4)
        gradient = by_hand.groupnorm_backward(upstream.double().numpy(), cache)[0]
    np.testing.assert_allclose(out.detach().numpy(), hand, atol=1e-5)
    np.testing.assert_allclose(x.grad.numpy(), gradient, atol=1e-5)


def test_local_response_is_alexnets_behind_a_bias_and_none_is_a_bias():
    x = torch.randn(2, 8, 3, 3)
    for norm in ("local_response", "none"):
        layer = _one(norm)
        bias = next(p for p in layer.parameters())
        assert bias.shape == (8,) and not bias.any()
        nn.init.constant_(bias, 0.5)
        torch.testing.assert_close(layer(x), ResponseNorm()(x + 0.5) if norm == "local_response" else x + 0.5)


@pytest.mark.parametrize("channels, groups", [(64, 32), (128, 32), (2048, 32), (16, 8), (24, 12), (48, 24), (96, 32),
                                              (17, 1), (1, 1), (2, 1), (30, 15), (34, 17)])
def test_groups_divide_the_channels_and_hold_two_or_more(channels, groups):
    assert groups_of(channels) == groups
    assert channels % groups == 0 and (groups == 1 or channels // groups >= 2)


@pytest.mark.parametrize("name, side, norm", [
    *[("resnet20", 16, norm) for norm in SWAPPED], ("resnet18", 64, "instance"), ("mobilenet_v2", 64, "group"),
    ("regnet_y_400mf", 64, "none"), ("inception_v3", 96, "layer")])
def test_every_batch_norm_of_a_model_is_replaced_and_shapes_are_kept(name, side, norm):
    from visus.core.meta import on_meta

    with on_meta():
        before = create_model(name)
        after = create_model(name, normalisation={"norm": norm})
        images = torch.empty(2, 3, side, side)
        assert after(images).shape == before(images).shape
    count = sum(isinstance(m, nn.BatchNorm2d) for m in before.modules())
    kinds = {"layer": nn.GroupNorm, "group": nn.GroupNorm, "instance": nn.InstanceNorm2d,
             "local_response": ResponseNorm}
    assert count and not any(isinstance(m, nn.BatchNorm2d) for m in after.modules())
    if norm in kinds:
        assert sum(isinstance(m, kinds[norm]) for m in after.modules()) == count
    names = {key for key in before.state_dict() if key.rsplit(".", 1)[-1] in ("weight", "bias")}
    if norm in ("layer", "group", "instance"):
        assert after.state_dict().keys() == names


def test_a_scale_that_begins_at_zero_stays_zero():
    net = create_model("resnet18", zero_init_residual=True, normalisation={"norm": "group"})
    assert not any(block.bn2.weight.any() for block in net.modules() if hasattr(block, "downsample"))


def test_what_a_norm_gives_does_not_depend_on_the_rest_of_the_batch_but_batch_norms_does():
    images = torch.randn(4, 1, 16, 16)
    for norm in ("batch", "layer", "group", "instance"):
        net = create_model("resnet20", in_channels=1, normalisation={"norm": norm}).train()
        alone = torch.allclose(net(images)[:2], net(images[:2]), atol=1e-5)
        assert alone == (norm != "batch")


@pytest.mark.parametrize("groups", (1, 2))
def test_standardised_kernels_equal_the_equations_and_timms(groups):
    from tools.peers import load_peer

    try:
        load_peer("timm")
        import timm.layers.std_conv as timm
    except ImportError as error:
        pytest.skip(str(error))
    ours = StandardisedConv2d(4, 6, 3, 2, 1, groups=groups)
    theirs = timm.StdConv2d(4, 6, 3, 2, 1, groups=groups, bias=True, eps=1e-5)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 4, 9, 9)
    torch.testing.assert_close(ours(x), theirs(x))
    w = ours.weight.detach().double().numpy()
    mean, variance = w.mean((1, 2, 3), keepdims=True), w.var((1, 2, 3), keepdims=True)
    kernel = torch.tensor((w - mean) / np.sqrt(variance + 1e-5)).float()
    torch.testing.assert_close(ours(x), F.conv2d(x, kernel, ours.bias, 2, 1, groups=groups))


def test_the_size_and_offset_of_a_standardised_kernel_have_no_effect_and_its_gradient_is_orthogonal_to_both():
    conv, x = StandardisedConv2d(3, 5, 3), torch.randn(2, 3, 6, 6)
    before = conv(x)
    before.square().sum().backward()
    gradient, weight = conv.weight.grad.flatten(1), conv.weight.detach().flatten(1)
    assert gradient.sum(1).abs().max() < 1e-3 * gradient.abs().sum(1).max()
    assert (gradient * (weight - weight.mean(1, keepdim=True))).sum(1).abs().max() < 2e-2 * gradient.norm(dim=1).max()
    with torch.no_grad():
        conv.weight.mul_(10).add_(0.3)
    torch.testing.assert_close(conv(x), before, rtol=1e-3, atol=1e-3)


def test_weight_norm_is_length_times_direction_and_its_gradients_are_equation_3():
    """Salimans and Kingma 2016: dL/dg = dL/dw v / |v|; dL/dv = g / |v| dL/dw - g dL/dg / |v|^2 v."""
    net = nn.Sequential(nn.Linear(5, 3))
    plain = copy.deepcopy(net)
    renormalise(net, Normalisation(weight_norm="weight_norm"))
    x = torch.randn(7, 5)
    torch.testing.assert_close(net(x), plain(x))
    length, direction = (getattr(net[0].parametrizations.weight, f"original{i}") for i in (0, 1))
    with torch.no_grad():
        length.mul_(2)
        plain[0].weight.mul_(2)
    net(x).square().sum().backward()
    plain(x).square().sum().backward()
    g, v, dw = length.detach(), direction.detach(), plain[0].weight.grad
    norm = v.norm(dim=1, keepdim=True)
    dg = (dw * v).sum(1, keepdim=True) / norm
    torch.testing.assert_close(length.grad, dg, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(direction.grad, g / norm * dw - g * dg / norm**2 * v, rtol=1e-4, atol=1e-4)


def test_a_model_is_built_again_from_what_its_config_says():
    for values in ({"norm": "group"}, {"weight_norm": "weight_norm"}, {"weight_norm": "weight_standardisation"},
                   {"norm": "fixup"}, {"norm": "local_response", "weight_norm": "weight_norm"}):
        net = create_model("resnet20", in_channels=1, num_classes=4, normalisation=values).eval()
        twin = create_model("resnet20", **model_config(net)).eval()
        twin.load_state_dict(net.state_dict(), strict=True)
        x = torch.randn(2, 1, 16, 16)
        assert torch.equal(net(x), twin(x)) and normalisation_of(twin) == normalisation_of(net)
        assert "fc" in freeze_backbone(net) and net.fc.bias.requires_grad
        trained = [name for name, p in net.named_parameters() if p.requires_grad]
        assert trained and all(name.startswith("fc.") for name in trained)
    plain = create_model("resnet20")
    assert "normalisation" not in model_config(plain)


def test_what_cannot_be_changed_is_refused_with_the_remedy():
    with pytest.raises(UserError, match="no batch norm to replace"):
        create_model("vit_tiny_16", normalisation={"norm": "group"})
    with pytest.raises(UserError, match="folds its batch norms"):
        create_model("repvgg_a0", normalisation={"norm": "group"})
    with pytest.raises(UserError, match="no plain convolution"):
        create_model("mlp", normalisation={"weight_norm": "weight_standardisation"})
    with pytest.raises(UserError, match="without any normalisation"):
        create_model("resnet20", normalisation={"norm": "fixup", "weight_norm": "weight_norm"})
    for wrong in ({"norm": "layer_norm"}, {"weight_norm": "spectral"}, {"eps": 1}, 3):
        with pytest.raises(UserError, match="is no normalisation"):
            create_model("resnet20", normalisation=wrong)


def test_the_recipe_and_the_layer_know_the_same_names():
    from visus.layers import normalise
    from visus.run.recipe import Model

    stated = set(inspect.get_annotations(Model, eval_str=True)["norm"].__args__)
    assert stated == {"auto", *normalise.NORMS} - {"fixup"}
    assert set(inspect.get_annotations(Model, eval_str=True)["weight_norm"].__args__) == set(normalise.WEIGHT_NORMS)

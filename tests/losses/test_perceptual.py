"""Gram matrices, feature and style losses and the layers they are taken from: loops, equations, gradients."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import visus
from visus.core.errors import UserError
from visus.losses.perceptual import (
    FAST_CONTENT,
    FAST_STYLE,
    PAPER_CONTENT,
    PAPER_STYLE,
    FeatureMaps,
    feature_loss,
    paper_layers,
    perceptual_loss,
    row_layers,
    style_grams,
    style_loss,
)
from visus.ops.gram import gram_matrix
from visus.ops.total_variation import total_variation


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(scope="module")
def vgg() -> nn.Module:
    torch.manual_seed(0)
    return visus.create_model("vgg16", dims=(4, 4, 5, 6, 7), hidden_dim=8, num_classes=3).double().eval()


def test_a_gram_matrix_is_the_mean_over_places_of_products_of_channels():
    maps = randn(2, 3, 4, 5)
    grams = gram_matrix(maps)
    for b in range(2):
        for i in range(3):
            for j in range(3):
                by_hand = sum(maps[b, i, y, x] * maps[b, j, y, x] for y in range(4) for x in range(5)) / 20
                torch.testing.assert_close(grams[b, i, j], by_hand, rtol=1e-12, atol=1e-12)


def test_where_things_lie_does_not_change_a_gram_matrix():
    maps = randn(1, 4, 5, 6)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(gram_matrix(maps), gram_matrix(maps.flatten(2)[..., order].view_as(maps)))


def test_a_mask_restricts_a_gram_matrix_to_its_region():
    maps, mask = randn(2, 3, 4, 6), torch.zeros(1, 1, 4, 6)
    mask[..., :2] = 1
    torch.testing.assert_close(gram_matrix(maps, mask), gram_matrix(maps[..., :2]))
    torch.testing.assert_close(gram_matrix(maps, torch.ones(1, 1, 4, 6)), gram_matrix(maps))
    assert gram_matrix(maps, torch.zeros(1, 1, 4, 6)).abs().sum() == 0


def test_gradients_are_those_of_finite_differences():
    maps = randn(1, 2, 3, 3).requires_grad_()
    elsewhere = randn(1, 2, 3, 3, seed=1)
    target = gram_matrix(elsewhere)
    mask = torch.rand(1, 1, 3, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: style_loss({"a": gram_matrix(x, mask)}, {"a": target}, relative=True),
                                    (maps,))
    assert torch.autograd.gradcheck(lambda x: feature_loss({"a": x}, {"a": elsewhere}), (maps,))
    for beta in (1.0, 2.0, 2.5):
        assert torch.autograd.gradcheck(lambda x, beta=beta: total_variation(x, beta).sum(), (maps,))


def test_losses_are_the_equations_of_the_papers():
    """Johnson et al., 2 and 4 (with their Gram matrix over C H W); Gatys et al., CVPR 2016, 4, is a quarter of it."""
    ours, theirs = {"a": randn(1, 3, 4, 4), "b": randn(1, 2, 2, 2)}, {"a": randn(1, 3, 4, 4, seed=1),
                                                                      "b": randn(1, 2, 2, 2, seed=1)}
    by_hand = sum(w * ((ours[n] - theirs[n]) ** 2).sum() / ours[n].numel() for n, w in (("a", 1.0), ("b", 0.5)))
    torch.testing.assert_close(feature_loss(ours, theirs, {"b": 0.5}), by_hand)
    grams, targets = style_grams(ours, ("a", "b")), style_grams(theirs, ("a", "b"))
    johnson, gatys = 0, 0
    for name in ("a", "b"):
        f, g = (maps[name][0].flatten(1) for maps in (ours, theirs))
        channels, places = f.shape
        johnson += ((f @ f.T - g @ g.T) / (channels * places)).square().sum()
        gatys += (f @ f.T - g @ g.T).square().sum() / (4 * channels**2 * places**2)
    torch.testing.assert_close(style_loss(grams, targets), johnson)
    torch.testing.assert_close(style_loss(grams, targets), 4 * gatys)


def test_a_relative_loss_does_not_see_the_scale_of_a_layer_and_is_one_for_nothing():
    ours, theirs = randn(2, 3, 4, 4), randn(2, 3, 4, 4, seed=1)
    plain = feature_loss({"a": ours}, {"a": theirs}, relative=True)
    torch.testing.assert_close(feature_loss({"a": 50 * ours}, {"a": 50 * theirs}, relative=True), plain)
    torch.testing.assert_close(feature_loss({"a": 0 * ours}, {"a": theirs}, relative=True), torch.ones_like(plain))


# -- layers --------------------------------------------------------------------------------------------------------


def test_layers_of_a_vgg_bear_the_papers_names(vgg):
    names = row_layers(visus.create_model("vgg16", dims=(1, 1, 1, 1, 1), hidden_dim=1))
    assert [names[layer] for layer in ("relu1_1", "relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_1", "pool5")] == \
        [1, 3, 8, 15, 22, 25, 30]  # torchvision's indices
    deeper = row_layers(visus.create_model("vgg19_bn", dims=(1, 1, 1, 1, 1), hidden_dim=1))
    assert deeper["relu4_2"] == 32 and deeper["conv4_2"] == 30 and "relu5_4" in deeper
    assert paper_layers(vgg) == paper_layers(vgg, "gatys")
    assert (paper_layers(vgg).content, paper_layers(vgg).style) == (PAPER_CONTENT, PAPER_STYLE)
    fast = paper_layers(vgg, "fast")
    assert (fast.content, fast.style) == (FAST_CONTENT, FAST_STYLE)


def test_maps_are_what_the_layers_give_before_anything_works_in_place(vgg):
    images = randn(2, 3, 32, 32)
    asked = ("relu2_2", "conv1_2", "features.3", "level2", "pool1")
    found = FeatureMaps(vgg, asked)(images)
    assert tuple(found) == asked
    maps = vgg.features[0](images).relu()
    conv = vgg.features[2](maps)
    assert (conv < 0).any(), "the ReLU behind it works in place"
    torch.testing.assert_close(found["conv1_2"], conv)
    torch.testing.assert_close(found["features.3"], conv.relu())
    torch.testing.assert_close(found["pool1"], F.max_pool2d(conv.relu(), 2))
    torch.testing.assert_close(found["relu2_2"], vgg.features(images)[1])
    torch.testing.assert_close(found["level2"], vgg.features(images)[2])


def test_average_pooling_stands_in_for_max_pooling(vgg):
    images = randn(1, 3, 16, 16)
    found = FeatureMaps(vgg, ("pool1", "relu1_2"), pool="average")(images)
    torch.testing.assert_close(found["pool1"], F.avg_pool2d(found["relu1_2"], 2))


def test_only_what_is_needed_is_computed(vgg):
    class Trap(nn.Module):
        def forward(self, maps):
            raise AssertionError("a layer behind the last one asked for")

    trunk = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), Trap())
    model = nn.Module()
    model.features = trunk
    assert FeatureMaps(model, ("pool1",))(torch.rand(1, 3, 8, 8))["pool1"].shape == (1, 4, 3, 3)
    assert FeatureMaps(trunk, ("1",))(torch.rand(1, 3, 8, 8))["1"].shape == (1, 4, 6, 6)
    assert not any(module._forward_hooks for module in trunk.modules()), "hooks are gone"


@pytest.mark.parametrize("name, config, content, style", [
    ("resnet18", {}, "level1", ["level0", "level1", "level2"]),
    ("vit_tiny_16", {"image_size": 32, "patch_size": 8, "dim": 24, "depth": 2, "num_heads": 2}, "level0", ["level0"]),
])
def test_other_networks_are_compared_by_the_maps_of_their_pyramid(name, config, content, style):
    torch.manual_seed(0)
    model = visus.create_model(name, num_classes=3, **config).eval()
    layers = paper_layers(model)
    assert layers.content == (content,) and list(layers.style) == style
    images = torch.rand(1, 3, 32, 32)
    found = FeatureMaps(model, (*layers.content, *layers.style))(images)
    for number, maps in enumerate(model.features(images)):
        if f"level{number}" in found:
            torch.testing.assert_close(found[f"level{number}"], maps)


def test_tokens_of_a_module_count_as_places():
    torch.manual_seed(0)
    model = visus.create_model("vit_tiny_16", image_size=32, patch_size=8, dim=24, depth=2, num_heads=2).eval()
    assert FeatureMaps(model, ("blocks.0",))(torch.rand(2, 3, 32, 32))["blocks.0"].shape == (2, 24, 17, 1)


def test_a_perceptual_loss_reaches_the_image_and_leaves_the_network_alone(vgg):
    before = {name: tensor.clone() for name, tensor in vgg.state_dict().items()}
    images, targets = randn(1, 3, 32, 32).requires_grad_(), randn(1, 3, 32, 32, seed=1).requires_grad_()
    loss = perceptual_loss(FeatureMaps(vgg, ("relu2_2",)), images, targets)
    torch.testing.assert_close(loss, F.mse_loss(vgg.features(images)[1], vgg.features(targets)[1]))
    torch.autograd.grad(loss, images)
    assert not torch.autograd.grad(perceptual_loss(FeatureMaps(vgg, ("relu2_2",)), images, targets), targets,
                                   allow_unused=True)[0]
    assert all(parameter.grad is None for parameter in vgg.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in vgg.state_dict().items())


@pytest.mark.parametrize("build, words", [
    (lambda vgg: FeatureMaps(vgg, ("relu1_3",)), "Did you mean .relu"),
    (lambda vgg: FeatureMaps(vgg, ("relu1_1",), pool="median"), "max, average"),
    (lambda vgg: FeatureMaps(nn.Sequential(nn.Linear(2, 2)), ("0",), pool="average"), "Take pool='max'"),
    (lambda vgg: paper_layers(nn.Linear(2, 2)), "vgg16"),
    (lambda vgg: paper_layers(vgg, "slow"), "gatys, fast, super"),
    (lambda vgg: FeatureMaps(nn.Linear(2, 2), ("relu1_1",)), "no such layer"),
])
def test_what_does_not_fit_is_refused_with_a_remedy(vgg, build, words):
    with pytest.raises(UserError, match=words):
        build(vgg)

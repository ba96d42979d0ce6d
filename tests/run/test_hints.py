"""Hidden layers and the regressor between them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from visus.core.errors import UserError
from visus.run.hint_layers import Regressor, layer_output, maps_first, middle_layer
from visus.run.models import create_model


def test_a_layer_gives_what_it_gives_in_the_whole_pass_and_nothing_behind_it_runs():
    model = create_model("resnet20", num_classes=3).train()
    images = torch.rand(2, 3, 16, 16)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items() if "running_mean" in name}
    layer_output(model, "layer1", images)
    moved = {name for name, tensor in before.items() if not torch.equal(tensor, model.state_dict()[name])}
    assert moved == {name for name in before if name.startswith(("bn1.", "layer1."))}
    model.eval()
    assert torch.equal(layer_output(model, "layer1", images), model.layer1(torch.relu(model.bn1(model.conv1(images)))))


def test_a_module_that_never_runs_is_refused():
    model = nn.Sequential(nn.Linear(2, 2))
    model.unused = nn.Identity()
    model.forward = lambda x: model[0](x)
    with pytest.raises(UserError, match="never runs"):
        layer_output(model, "unused", torch.zeros(1, 2))


@pytest.mark.parametrize(("name", "config", "size", "wanted"), [
    ("resnet20", {}, 16, "layer2"),
    ("vit_tiny_16", {"image_size": 32, "patch_size": 8, "dim": 12, "depth": 4, "num_heads": 2}, 32, "blocks.2"),
])
def test_the_middle_of_a_network(name, config, size, wanted):
    model = create_model(name, num_classes=3, **config)
    assert middle_layer(model, torch.rand(1, 3, size, size)) == wanted
    assert model.training


def test_a_classifier_without_a_hidden_layer_has_no_middle():
    with pytest.raises(UserError, match="no hidden layer"):
        middle_layer(nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), torch.rand(1, 3, 2, 2))


def test_the_regressor_has_the_papers_kernel_and_size():
    """Section 2.2: a guided layer of n x n places and a hint of m x m take a kernel of n - m + 1."""
    regressor = Regressor((8, 10, 9), (16, 6, 6))
    assert regressor.layer.kernel_size == (5, 4)
    assert regressor(torch.rand(2, 8, 10, 9)).shape == (2, 16, 6, 6)


def test_a_smaller_guided_map_is_compared_with_the_averaged_hint():
    regressor = Regressor((8, 4, 4), (16, 8, 8))
    hint = torch.rand(2, 16, 8, 8)
    assert torch.allclose(regressor.target(hint), nn.functional.avg_pool2d(hint, 2))
    assert regressor(torch.rand(2, 8, 4, 4)).shape == (2, 16, 4, 4)


def test_a_much_larger_guided_map_is_averaged_first():
    regressor = Regressor((8, 32, 32), (16, 8, 8))
    assert regressor.layer.kernel_size == (1, 1) and regressor(torch.rand(1, 8, 32, 32)).shape == (1, 16, 8, 8)


def test_tokens_and_features_take_a_linear_layer():
    assert Regressor((5, 8), (5, 16))(torch.rand(2, 5, 8)).shape == (2, 5, 16)
    assert Regressor((8,), (16,))(torch.rand(2, 8)).shape == (2, 16)


def test_layers_of_different_kinds_take_a_linear_layer_between_all_values():
    regressor = Regressor((32,), (4, 3, 3))
    assert regressor(torch.rand(2, 32)).shape == regressor.target(torch.rand(2, 4, 3, 3)).shape == (2, 36)


def test_one_that_would_be_too_large_is_refused():
    with pytest.raises(UserError, match="would have 602,112,000 weights"):
        Regressor((64, 56, 56), (3000,))


def test_channels_last_maps_are_turned():
    assert maps_first(torch.rand(2, 7, 7, 96)).shape == (2, 96, 7, 7)
    assert maps_first(torch.rand(2, 96, 7, 7)).shape == (2, 96, 7, 7)

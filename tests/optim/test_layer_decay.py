"""Layers in order, and their rates against timm's own groups, for the same architectures."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tools.peers import load_peer
from visus.core.errors import RecipeError
from visus.core.meta import on_meta
from visus.optim.layer_decay import layer_scales, layers_of
from visus.optim.parameter_groups import parameter_groups
from visus.optim.schedules import Schedule, schedule
from visus.run.build import make_optimizer
from visus.run.models import create_model, head_parameters, passports
from visus.run.recipe import Recipe
from visus.run.schedule_groups import make_groups


def ordered(model: nn.Module) -> dict[str, int]:
    known = dict(model.named_parameters())
    return layers_of(model, [name for name in head_parameters(model) if name in known])


def by_scale(rows) -> list[tuple[float, bool, int]]:
    """(scale, decays, weights) of each group, so that names do not matter."""
    return sorted((round(scale, 12), bool(decay), sum(p.numel() for p in params)) for scale, decay, params in rows)


PAIRS = [("vit_tiny_16", "vit_tiny_patch16_224"), ("resnet18", "resnet18"), ("resnet50", "resnet50"),
         ("convnext_tiny", "convnext_tiny"), ("swin_tiny", "swin_tiny_patch4_window7_224"),
         ("efficientnet_b0", "efficientnet_b0"), ("mixer_small_32", "mixer_s32_224")]


@pytest.mark.parametrize("ours, theirs", PAIRS, ids=lambda name: name)
def test_rates_equal_timms_param_groups_layer_decay(ours, theirs):
    timm = load_peer("timm")
    from timm.optim import param_groups_layer_decay

    with on_meta():
        model, peer = create_model(ours), timm.create_model(theirs)
        expected = param_groups_layer_decay(peer, weight_decay=0.05, layer_decay=0.7,
                                            no_weight_decay_list=peer.no_weight_decay() if hasattr(
                                                peer, "no_weight_decay") else ())
        recipe = Recipe().with_values({"model.name": ours, "optimizer.lr": 2.0, "optimizer.weight_decay": 0.05,
                                       "optimizer.layer_decay": 0.7})
        groups = make_groups(recipe, model)
    assert by_scale((g["lr"] / 2, g["weight_decay"], g["params"]) for g in groups) == \
        by_scale((g["lr_scale"], g["weight_decay"], g["params"]) for g in expected)


# each family's smallest model: how many layers, stem, blocks and classifier, and a parameter of the second and of the
# last but one
FAMILIES = {
    "alexnet": (6, "features.3.", "features.10."), "ac_resnet18": (10, "stages.0.0.", "stages.3.1."),
    "anynet": (24, "trunk_output.block1.block1-0.", "trunk_output.block4.block4-11."),
    "bn_inception": (12, "inception_3a.", "inception_5b."), "cait_xxs24": (28, "blocks.0.", "blocks_token_only.1."),
    "cell_net": (7, "cells.0.", "cells.4."), "clip_vit_base_32": (14, "blocks.0.", "blocks.11."),
    "coatnet_0": (14, "stages.0.blocks.0.", "stages.3.blocks.1."),
    "convmixer_1536_20": (22, "blocks.0.", "blocks.19."), "convnext_v2_atto": (14, "stages.0.blocks.0.",
                                                                                "stages.3.blocks.1."),
    "cvt_13": (14, "stages.1.blocks.0.", "stages.2.blocks.9."),
    "densenet121": (60, "features.denseblock1.denselayer1.", "features.denseblock4.denselayer16."),
    "fractalnet20": (6, "blocks.1.", "blocks.4."),
    "gmlp_tiny_16": (32, "blocks.0.", "blocks.29."), "lenet5": (4, "c3.", "c5."), "mlp": (3, "hidden.2.", "hidden.2."),
    "mnasnet_050": (18, "layers.8.0.", "layers.13.0."), "mobilenet_v1_025": (15, "blocks.0.0.", "blocks.4.1."),
    "mvit_v2_tiny": (12, "stages.0.blocks.0.", "stages.3.blocks.1."),
    "nasnet_a_large": (24, "cell_stem_0.", "cell_17."),
    "nfnet_f0": (14, "stages.0.0.", "stages.3.2."), "preact_resnet110": (56, "layer1.0.", "layer3.17."),
    "pvt_tiny": (10, "stages.0.blocks.0.", "stages.3.blocks.1."), "regnet_x_400mf": (
        24, "trunk_output.block1.block1-0.", "trunk_output.block4.block4-11."),
    "repvgg_a0": (23, "stages.0.0.", "stages.3.0."), "resmlp_12": (14, "blocks.0.", "blocks.11."),
    "resnet20": (11, "layer1.0.", "layer3.2."), "sam_vit_base_16": (14, "blocks.0.", "blocks.11."),
    "shufflenet_v1_x0_25_g3": (18, "stage2.0.", "stage4.3."), "squeezenet1_0": (10, "features.3.", "features.12."),
    "vgg11": (9, "features.3.", "features.18."), "xception": (16, "block1.", "conv4."),
}


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) if name.startswith("nasnet") else name
                                  for name in FAMILIES])
def test_layers_go_from_the_stem_block_by_block_to_the_classifier(name):
    with on_meta():
        layers = ordered(create_model(name))
    count, second, last_block = FAMILIES[name]
    assert set(layers.values()) == set(range(count))
    assert {layers[n] for n in layers if n.startswith(second)} == {1}
    assert {layers[n] for n in layers if n.startswith(last_block)} == {count - 2}


@pytest.mark.slow
def test_the_smallest_model_of_each_family_has_an_order_that_leaves_no_parameter_out():
    smallest: dict[str, str] = {}
    for passport in sorted(passports().values(), key=lambda passport: -passport.params):
        smallest[passport.family] = passport.name
    assert len(smallest) > 50
    for name in smallest.values():
        with on_meta():
            model = create_model(name)
            layers = ordered(model)
        assert layers.keys() == dict(model.named_parameters()).keys(), name
        assert sorted(set(layers.values())) == list(range(max(layers.values()) + 1)), name


def test_scales_fall_from_the_classifier_to_the_stem():
    assert layer_scales({"a": 0, "b": 1, "c": 2}, 0.5) == {"a": 0.25, "b": 0.5, "c": 1.0}


def recipe(**values) -> Recipe:
    return Recipe().with_values({"model.name": "resnet20", "optimizer.name": "sgd", "optimizer.lr": 0.1,
                                 "optimizer.weight_decay": 1e-3} | {f"optimizer.{k}": v for k, v in values.items()})


def test_a_faster_head_has_its_own_rate_and_the_logged_one_is_the_backbones():
    model = create_model("resnet20", num_classes=4)
    optimizer = make_optimizer(recipe(head_lr=10.0), model)
    of = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    assert of[id(model.fc.weight)]["lr"] == pytest.approx(1.0) and of[id(model.conv1.weight)]["lr"] == 0.1
    assert of[id(model.fc.weight)]["weight_decay"] == 1e-3 and of[id(model.fc.bias)]["weight_decay"] == 0
    assert optimizer.param_groups[0]["lr"] == 0.1
    plan = Schedule(optimizer, schedule("linear", 10))
    plan.apply(5)
    assert of[id(model.fc.weight)]["lr"] == pytest.approx(0.5) and of[id(model.conv1.weight)]["lr"] == \
        pytest.approx(0.05)


def test_layer_scale_and_tokens_do_not_decay_whatever_their_shape():
    with on_meta():
        model = create_model("convnext_tiny")
    kept = {id(p) for g in parameter_groups(model, 0.1) if g["weight_decay"] == 0 for p in g["params"]}
    scales = [p for name, p in model.named_parameters() if name.endswith("layer_scale")]
    assert scales and all(p.ndim == 3 and id(p) in kept for p in scales)


def test_frozen_parameters_are_in_no_group_and_without_rates_of_their_own_the_groups_are_the_two():
    model = create_model("resnet20", num_classes=4)
    model.conv1.weight.requires_grad_(False)
    groups = make_groups(recipe(layer_decay=0.5), model)
    assert all(p.requires_grad for g in groups for p in g["params"])
    assert sum(len(g["params"]) for g in groups) == len(list(model.parameters())) - 1
    plain = make_groups(recipe(), model)
    assert [g["name"] for g in plain] == ["decay", "no_decay"] == [g["name"] for g in parameter_groups(model, 1e-3)]


def test_a_step_of_sgd_moves_each_layer_by_its_share_of_the_rate():
    torch.manual_seed(0)
    model = create_model("resnet20", num_classes=4)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = make_optimizer(recipe(layer_decay=0.5, weight_decay=0.0, momentum=0.0, nesterov=False), model)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    optimizer.step()
    layers = ordered(model)
    for name, p in model.named_parameters():
        torch.testing.assert_close(p, before[name] - 0.1 * 0.5 ** (10 - layers[name]))


def test_a_model_of_one_layer_and_one_without_a_known_head_are_refused():
    with pytest.raises(RecipeError, match=r"layer_decay=0\.5"):
        make_groups(recipe(layer_decay=0.5).with_values({"model.name": "softmax_regression"}),
                    create_model("softmax_regression", num_classes=3))

"""The feature layer of every family, and the maps that weigh it, against hooks, loops, weights read off and planted
evidence."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.rows_models import MODELS
from visus.core.errors import UserError
from visus.deploy.frozen import frozen
from visus.explain.attention import attention_maps
from visus.explain.cam import averaged_layer, class_activation_map
from visus.explain.feature_layer import feature_layer, last_maps
from visus.explain.grad_cam import GradCam, grad_cam, grad_cam_plus_plus
from visus.explain.gradient_rollout import GradientRollout, attention_relevance, gradient_rollout
from visus.explain.guided_grad_cam import guided_grad_cam
from visus.explain.layer_cam import layer_cam
from visus.explain.relu_rules import ruled_gradients
from visus.explain.score_cam import score_cam
from visus.models import registry
from visus.run.models import create_model

CLASSES = 7
FAMILIES: dict[str, str] = {}  # file -> its first name
for _name, _file in registry.index().items():
    FAMILIES.setdefault(_file, _name)
WITHOUT_MAPS = {"mlp", "softmax_regression"}
# Where the feature layer is not the last map of `features`: the dotted name expected. A pooling that reads it: the
# finer map before it. A head with a convolution of its own: the map behind that. A class token that answers: what
# enters the last block. A layer norm or rescaling at the end: the tokens before it.
ELSEWHERE = {
    "alexnet": "features.11", "overfeat_fast": "features.11", "vgg11": "features.19", "zfnet": "features.13",
    "all_cnn_c": "classifier.1", "nin": "classifier.1", "squeezenet1_0": "classifier.2", "shufflenet_v2_x0_5": "conv5",
    "nfnet_f0": "final_act", "nasnet_a_large": "relu in the model itself",
    "inception_resnet_v2": "repeat_1", "inception_v4": "features.8",  # 1 x 1 at the end at this size
    "cait_xxs24": "blocks", "clip_vit_base_32": "blocks.0", "cvt_13": "stages.2.blocks.0", "deit_tiny_16": "blocks.0",
    "deit3_small_16": "blocks.0", "dino_small_16": "blocks.0", "dinov2_small_14": "blocks.0", "vit_tiny_16": "blocks.0",
    "vit_tiny_r_s16_p8": "blocks.0", "mvit_base_16": "blocks.4", "pvt_tiny": "cat in stages.3",
    "gmlp_tiny_16": "blocks", "mae_base_16": "blocks", "mixer_small_32": "blocks", "pvt_v2_b0": "stages.3.blocks",
    "sam_vit_base_16": "neck.2", "swin_v2_tiny": "features.7", "lenet5": "mul in squash",
}
PREFIX = {"clip_vit_base_32": 1, "cvt_13": 1, "deit_tiny_16": 1, "deit3_small_16": 1, "dino_small_16": 1,
          "dinov2_small_14": 1, "vit_tiny_16": 1, "vit_tiny_r_s16_p8": 1, "mae_base_16": 1, "mvit_base_16": 1,
          "pvt_tiny": 1}


def tiny(name: str, **config) -> nn.Module:
    """In float64, with statistics in its norms."""
    torch.manual_seed(0)
    model = create_model(name, **{"num_classes": CLASSES, "in_channels": 2} | MODELS[name].tiny | config).double()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return model.eval()


def images_for(name: str, batch: int = 2) -> Tensor:
    side = MODELS[name].size
    return torch.randn(batch, 2, side, side, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def hooked(model: nn.Module, images: Tensor, layer: str, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Output of a module and its gradient, by a forward pass that keeps the whole graph."""
    held = []
    hook = model.get_submodule(layer).register_forward_hook(lambda _, __, out: held.append(
        out if isinstance(out, Tensor) else out[0]))
    try:
        logits = model(images.clone().requires_grad_())
    finally:
        hook.remove()
    gradient, = torch.autograd.grad(logits.gather(1, targets[:, None]).sum(), held[-1])
    return held[-1].detach(), gradient


# -- the feature layer ---------------------------------------------------------------------------------------------


def test_the_tables_name_families():
    assert set(ELSEWHERE) | set(PREFIX) | WITHOUT_MAPS <= set(FAMILIES.values())


@pytest.mark.parametrize("name", FAMILIES.values())
def test_the_feature_layer_of_each_family_is_the_last_map_that_the_answer_is_read_from(name):
    """Equal to the last map of `features`, or to what the table says; and the gradient there, of a graph that begins
    there, is that of the whole graph."""
    model, images = tiny(name), images_for(name, 1)
    if name in WITHOUT_MAPS:
        with pytest.raises(UserError, match="no feature map"):
            feature_layer(model, images)
        return
    layer, targets = feature_layer(model, images), torch.tensor([4])
    found = last_maps(model, images)
    maps, gradient = found.maps, found.gradient(targets)
    assert layer.num_prefix == PREFIX.get(name, 0) and gradient.any()
    assert maps.shape[2:] == layer.grid and maps.shape[2] == maps.shape[3] > 1
    with torch.no_grad():
        torch.testing.assert_close(found.logits.detach(), model(images), rtol=1e-9, atol=1e-9)
    if name not in ELSEWHERE:
        torch.testing.assert_close(maps, model.features(images)[-1], rtol=1e-9, atol=1e-9)
    else:
        assert layer.name == ELSEWHERE[name]
    if layer.name in dict(model.named_modules()):
        raw, expected = hooked(model, images, layer.name, targets)
        torch.testing.assert_close(found.raw.detach(), raw, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(gradient, layer.maps(expected), rtol=1e-9, atol=1e-12)


def test_class_token_and_registers_are_cut_and_patches_lie_row_by_row():
    model = tiny("dinov2_small_14_reg")
    images = images_for("dinov2_small_14_reg")
    layer = feature_layer(model, images)
    assert (layer.num_prefix, layer.grid, layer.layout) == (5, (4, 4), "tokens")
    tokens, _ = hooked(model, images, "blocks.0", torch.tensor([0, 0]))
    maps = last_maps(model, images).maps
    for y in range(4):
        for x in range(4):
            assert torch.equal(maps[:, :, y, x], tokens[:, 5 + 4 * y + x])


def test_a_head_of_zeros_does_not_change_the_choice():
    """As before training: nothing of the answer depends on anything."""
    for name in ("vit_tiny_16", "deit_tiny_distilled_16", "resnet20"):
        model, images = tiny(name), images_for(name)
        expected = feature_layer(model, images)
        again = copy.deepcopy(model)
        for head in (module for module in again.modules() if isinstance(module, nn.Linear)):
            if head.out_features == CLASSES:
                nn.init.zeros_(head.weight)
        assert feature_layer(again, images) == expected


class Patches(nn.Module):
    """The mean brightness of each 4 x 4 patch and its negative, then an answer from all patches; no padding, no mixing,
    so that a map must be bright where the image is."""

    def __init__(self, layout: str):
        super().__init__()
        self.embed, self.head, self.layout = nn.Conv2d(1, 3, 4, 4, bias=False), nn.Linear(3, 2, bias=False), layout
        self.query = nn.Parameter(torch.zeros(1, 1, 3))
        with torch.no_grad():
            self.embed.weight.copy_(torch.tensor([1.0, -1.0, 0.5]).view(3, 1, 1, 1) / 16)
            self.head.weight.copy_(torch.tensor([[1.0, -1.0, 0.0], [-1.0, 1.0, 0.0]]))

    def forward(self, images: Tensor) -> Tensor:
        maps = self.embed(images).relu()
        if self.layout == "channels first":
            return self.head(maps.mean((2, 3)))
        if self.layout == "channels last":
            return self.head((maps.permute(0, 2, 3, 1) * 1.0).mean((1, 2)))
        tokens = torch.cat([self.query.expand(len(images), -1, -1), maps.flatten(2).transpose(1, 2)], dim=1)
        first = tokens[:, :1] + (tokens @ tokens.transpose(1, 2)).softmax(-1)[:, :1] @ tokens
        return self.head(first[:, 0])


@pytest.mark.parametrize("layout", ["channels first", "channels last", "tokens"])
@pytest.mark.parametrize("method", [grad_cam, grad_cam_plus_plus, layer_cam, score_cam])
def test_heat_lies_where_the_evidence_was_planted_in_any_layout_and_form(layout, method):
    model = Patches(layout)
    images = 0.1 * torch.rand(3, 1, 12, 20, generator=torch.Generator().manual_seed(0))
    for number, (y, x) in enumerate([(0, 4), (2, 1), (1, 0)]):
        images[number, 0, 4 * y:4 * y + 4, 4 * x:4 * x + 4] += 3
    layer = feature_layer(model, images)
    assert (layer.layout, layer.grid) == (layout, (3, 5))
    assert layer.num_prefix == (layout == "tokens")
    heat = method(model, images, 0)
    assert heat.shape == (3, 3, 5) and heat.flatten(1).argmax(1).tolist() == [4, 11, 5]


def test_images_of_another_size_have_their_own_choice():
    model = tiny("resnet18")
    assert feature_layer(model, images_for("resnet18")).grid == (2, 2)
    assert feature_layer(model, torch.zeros(1, 2, 96, 128, dtype=torch.float64)).grid == (3, 4)
    small = feature_layer(model, torch.zeros(1, 2, 32, 32, dtype=torch.float64))
    assert (small.grid, small.name) == ((2, 2), "layer3"), "the last with more than one place"


def test_a_layer_is_named_and_wrong_names_are_refused_with_a_remedy():
    model, images = tiny("resnet20"), images_for("resnet20")
    raw, gradient = hooked(model, images, "layer2.0", torch.tensor([2, 2]))
    expected = (gradient.mean((2, 3), keepdim=True) * raw).sum(1).relu()
    torch.testing.assert_close(grad_cam(model, images, 2, "layer2.0"), expected)
    for layer, words in (("layer22", "'layer2'"), ("fc", "no places"), (3, "dotted name")):
        with pytest.raises(UserError, match=words):
            grad_cam(model, images, 2, layer)
    model.spare = nn.Conv2d(1, 1, 1)
    with pytest.raises(UserError, match="does not call"):
        grad_cam(model, images, 2, "spare")


def test_a_model_that_was_changed_gets_a_new_choice_and_one_that_keeps_changing_is_refused():
    model, images = tiny("resnet20"), images_for("resnet20")
    grad_cam(model, images)
    model.layer3 = nn.Sequential(nn.Identity(), nn.AvgPool2d(2), nn.Conv2d(32, 64, 1).double(), nn.Tanh())
    raw, gradient = hooked(model, images, "layer3", torch.tensor([3, 3]))
    torch.testing.assert_close(grad_cam(model, images, 3), (gradient.mean((2, 3), keepdim=True) * raw).sum(1).relu())

    class Restless(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.calls = nn.Conv2d(1, 2, 3), 0

        def forward(self, images: Tensor) -> Tensor:
            self.calls += 1
            for _ in range(self.calls):
                images = images.sin()
            return self.conv(images).relu().mean((2, 3))

    with pytest.raises(UserError, match="differ from each other"):
        grad_cam(Restless(), torch.ones(1, 1, 8, 8))


# -- methods -------------------------------------------------------------------------------------------------------


def test_cam_is_the_maps_weighed_by_the_full_layer_and_its_mean_the_logit():
    model, images = tiny("resnet20"), images_for("resnet20")
    with torch.no_grad():
        logits, maps = model(images), model.features(images)[-1]
    for target in range(CLASSES):
        heat = class_activation_map(model, images, target)
        torch.testing.assert_close(heat, torch.einsum("k,bkhw->bhw", model.fc.weight[target].detach(), maps))
        torch.testing.assert_close(heat.mean((1, 2)) + model.fc.bias[target].detach(), logits[:, target])


@pytest.mark.parametrize("name", ["resnet20", "mobilenet_v2", "efficientnet_lite0"])
def test_cam_is_grad_cam_times_the_number_of_places(name):
    model, images = tiny(name), images_for(name)
    heat = class_activation_map(model, images, 1)
    places = heat[0].numel()
    torch.testing.assert_close(heat, places * grad_cam(model, images, 1, rectify=False))
    torch.testing.assert_close(heat.relu(), places * grad_cam(model, images, 1))


def test_cam_reads_behind_the_last_layer_norm():
    """Of a Swin the averages are those of the normalised map, which Grad-CAM goes before."""
    model, images = tiny("swin_tiny"), images_for("swin_tiny")
    assert averaged_layer(model, images).function == "layer_norm"
    with torch.no_grad():
        logits = model(images)
    heat = class_activation_map(model, images, 5)
    torch.testing.assert_close(heat.mean((1, 2)) + model.head.bias[5].detach(), logits[:, 5])


@pytest.mark.parametrize("name", ["vgg11", "mobilenet_v3_small", "convnext_tiny", "vit_tiny_16", "lenet5"])
def test_cam_refuses_heads_that_do_more(name):
    with pytest.raises(UserError, match="no weighed average"):
        class_activation_map(tiny(name), images_for(name))


def test_grad_cam_plus_plus_and_layer_cam_by_hand():
    """One image, two channels, two places; the answer is a product, so that gradients differ from place to place."""

    class Product(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 2, 1, bias=False)

        def forward(self, images: Tensor) -> Tensor:
            maps = self.conv(images).relu()  # [B, 2, 1, 2]
            a, b = maps[:, 0, 0, 0], maps[:, 0, 0, 1]
            return torch.stack([a * a * b + maps[:, 1].sum((1, 2)), -a], dim=1)

    model = Product().double()
    with torch.no_grad():
        model.conv.weight.copy_(torch.tensor([1.0, 0.5]).view(2, 1, 1, 1))
    images = torch.tensor([[[[2.0, 3.0]]]], dtype=torch.float64)
    maps = [(2.0, 3.0), (1.0, 1.5)]
    slopes = [(2 * 2 * 3.0, 2 * 2.0), (1.0, 1.0)]  # d(a^2 b)
    weights = [sum(g * g * g / (2 * g * g + sum(a) * g**3) for g in of) for a, of in zip(maps, slopes, strict=True)]
    expected = [weights[0] * maps[0][x] + weights[1] * maps[1][x] for x in range(2)]
    torch.testing.assert_close(grad_cam_plus_plus(model, images, 0)[0, 0], torch.tensor(expected, dtype=torch.float64))
    torch.testing.assert_close(layer_cam(model, images, 0)[0, 0],
                               torch.tensor([12 * 2.0 + 1.0, 4 * 3.0 + 1.5], dtype=torch.float64))
    assert not layer_cam(model, images, 1).any() and not grad_cam_plus_plus(model, images, 1).any()


def test_score_cam_is_its_algorithm_channel_by_channel():
    model, images = tiny("resnet20", depth=1), images_for("resnet20")
    model.layer3[-1].bn2.weight.data[:3] = 0  # maps that may be flat
    with torch.no_grad():
        maps, targets = model.features(images)[-1], model(images).argmax(1)
        for number in range(2):
            scores = []
            for one in maps[number]:
                mask = F.interpolate(one[None, None], (16, 16), mode="bilinear")
                flat = mask.max() == mask.min()
                mask = torch.zeros_like(mask) if flat else (mask - mask.min()) / (mask.max() - mask.min())
                scores.append(model(images[number:number + 1] * mask)[0, targets[number]])
            expected = torch.einsum("k,khw->hw", torch.stack(scores).softmax(0), maps[number]).relu()
            torch.testing.assert_close(score_cam(model, images, batch=7)[number], expected, rtol=1e-9, atol=1e-9)
    few = score_cam(model, images, channels=4)
    assert few.shape == (2, 4, 4) and not torch.allclose(few, expected)
    torch.testing.assert_close(score_cam(model, images, channels=64), score_cam(model, images))


def test_guided_grad_cam_is_the_product_of_the_two():
    model, images = tiny("resnet20", depth=1), images_for("resnet20")
    heat = F.interpolate(grad_cam(model, images, 4)[:, None], (16, 16), mode="bilinear")
    expected = ruled_gradients(model, images, 4, rule="guided") * heat
    torch.testing.assert_close(guided_grad_cam(model, images, 4), expected)
    with torch.no_grad():
        answers = model(images).argmax(1)
    torch.testing.assert_close(guided_grad_cam(model, images), guided_grad_cam(model, images, answers))


@pytest.mark.parametrize("name", ["resnet20", "mobilenet_v3_small", "efficientnet_lite0", "repvgg_a0"])
def test_the_frozen_copy_gives_the_same_maps(name):
    model, images = tiny(name), images_for(name)
    fast = frozen(model, tuple(images.shape))
    for method in (grad_cam, grad_cam_plus_plus, layer_cam):
        torch.testing.assert_close(method(fast, images, 1), method(model, images, 1), rtol=1e-8, atol=1e-10)


def test_the_sentence_names_the_layer():
    assert "layer3, 4 x 4 places" in GradCam()(tiny("resnet20"), images_for("resnet20")).sentence


# -- attention x gradient ------------------------------------------------------------------------------------------


def test_relevance_is_attention_times_its_gradient_where_positive():
    """The gradient by differences: the weights of the last layer are moved one by one."""
    model, images = tiny("vit_tiny_16"), images_for("vit_tiny_16", 1)
    found = attention_relevance(model, images, 3)
    maps = attention_maps(model, images)
    assert len(found) == 2 and found[1].shape == maps.layers[1].weights.shape
    block, heads, step = model.blocks[1], 3, 1e-5
    before, _ = hooked(model, images, "blocks.0", torch.tensor([3]))
    with torch.no_grad():
        tokens = block.norm1(before)
        v = block.attn.qkv(tokens)[0].unflatten(1, (3, heads, -1))[:, 2]  # [N, heads, d]

        def logit(weights: Tensor) -> Tensor:
            mixed = torch.einsum("hnm,mhd->nhd", weights, v).flatten(1)
            middle = before + block.attn.proj(mixed)[None]
            return model.head(model.norm(middle + block.mlp(block.norm2(middle)))[:, 0])[0, 3]

        weights = maps.layers[1].weights[0]
        torch.testing.assert_close(logit(weights), model(images)[0, 3])
        for head, key in ((0, 0), (1, 5), (2, 16)):
            moved = weights.clone()
            moved[head, 0, key] += step
            slope = (logit(moved) - logit(weights)) / step
            expected = (weights[head, 0, key] * slope).clamp(min=0)
            torch.testing.assert_close(found[1][0, head, 0, key], expected, rtol=1e-4, atol=1e-9)
    assert not found[1][0, :, 1:].any(), "patches of the last layer answer nothing"


def test_gradient_rollout_is_the_papers_recursion_and_depends_on_the_class():
    generator = torch.Generator().manual_seed(0)
    layers = [torch.rand(1, 2, 3, 3, generator=generator, dtype=torch.float64) for _ in range(3)]
    eye = torch.eye(3, dtype=torch.float64)
    expected = (eye + layers[2][0].mean(0)) @ (eye + layers[1][0].mean(0)) @ (eye + layers[0][0].mean(0))
    torch.testing.assert_close(gradient_rollout(layers)[0], expected)
    model, images = tiny("vit_tiny_16"), images_for("vit_tiny_16")
    maps = [GradientRollout(target=target)(model, images).heat for target in (0, 1)]
    assert maps[0].shape == (2, 4, 4) and not torch.allclose(*maps)


def test_tokens_that_take_no_part_in_a_layer_keep_what_they_have():
    """In CaiT patches attend among themselves, then the class token asks: its row is the product of the two."""
    model, images = tiny("cait_xxs24"), images_for("cait_xxs24")
    found = attention_relevance(model, images, 2)
    among, asking = found[:2], found[2:]
    assert [layer.shape[2] for layer in found] == [16, 16, 1, 1]
    patches = gradient_rollout(among)
    row = torch.zeros(2, 1, 17, dtype=torch.float64)
    row[:, :, 0] = 1
    for layer in asking:
        taken = layer.mean(1)  # [B, 1, 17], of the class token as it is by now and of the patches
        step = taken[:, :, :1] * row
        step[:, :, 1:] += taken[:, :, 1:] @ patches
        row = row + step
    heat = GradientRollout(target=2)(model, images).heat
    torch.testing.assert_close(heat.flatten(1), row[:, 0, 1:])

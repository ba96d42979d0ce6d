"""The Inception family against what its papers state: GoogLeNet, BN-Inception, Inception-v3, -v4, -ResNet-v2."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.parity.test_models_parity import assert_near, peer, randomise
from visus.core.errors import UserError
from visus.core.summary import summarise
from visus.models.cnn.bn_inception import BNInception, BNInceptionConfig, HalvingPool
from visus.models.cnn.googlenet import GoogLeNet, GoogLeNetConfig, Inception, NaiveInception
from visus.models.cnn.inception_resnet_v2 import Residual
from visus.models.cnn.inception_v3 import InceptionV3, InceptionV3Config, ModuleB
from visus.run.models import create_model, describe_model, load_weights

IMAGES = torch.randn(4, 3, 96, 96, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def count(model) -> int:
    return sum(p.numel() for p in model.parameters())


def test_auxiliary_heads_cost_what_the_passport_says():
    with torch.device("meta"):
        whole, bare = create_model("googlenet"), create_model("googlenet", aux_heads=False)
    assert count(bare) == 6_624_904 and count(whole) - count(bare) == 6_379_984
    assert describe_model(whole).macs == describe_model(bare).macs


def test_a_module_puts_its_branches_side_by_side():
    torch.manual_seed(0)
    module = Inception(6, 2, 3, 4, 3, 5, 1).eval()
    maps = torch.randn(2, 6, 7, 7)
    with torch.no_grad():
        parts = module(maps).split([2, 4, 5, 1], 1)
        for part, branch in zip(parts, (module.branch1, module.branch2, module.branch3, module.branch4), strict=True):
            assert torch.equal(part, branch(maps))


@pytest.mark.parametrize("training", [True, False])
def test_googlenet_forward_is_the_main_classifier_and_loss_adds_the_others(training):
    torch.manual_seed(0)
    model = GoogLeNet(GoogLeNetConfig(num_classes=5, dropout=0.0, aux_dropout=0.0)).double().train(training)
    labels = torch.arange(4)
    seen = {}
    model.inception4a.register_forward_hook(lambda _, __, out: seen.update(aux1=out))
    model.inception4d.register_forward_hook(lambda _, __, out: seen.update(aux2=out))
    with torch.no_grad():
        logits, loss = model(IMAGES), model.loss(IMAGES, labels)
        expected = F.cross_entropy(logits, labels) + 0.3 * sum(
            F.cross_entropy(getattr(model, head)(maps), labels) for head, maps in seen.items())
        torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
        soft = model.loss(IMAGES, F.one_hot(labels, 5).double())
    assert logits.shape == (4, 5)
    torch.testing.assert_close(soft, loss, rtol=1e-12, atol=0)


def test_googlenet_loss_without_heads_is_the_plain_one():
    model = GoogLeNet(GoogLeNetConfig(num_classes=5, aux_heads=False)).double().eval()
    labels = torch.arange(4)
    with torch.no_grad():
        torch.testing.assert_close(model.loss(IMAGES, labels), F.cross_entropy(model(IMAGES), labels), rtol=0, atol=0)
    assert not [n for n in model.state_dict() if n.startswith("aux")]


def test_inception_v3_has_the_maps_of_table_1():
    with torch.device("meta"):
        model = create_model("inception_v3").eval()
        maps = model.features(torch.empty(1, 3, 299, 299))
    assert [tuple(m.shape[1:]) for m in maps[1:]] == [(288, 35, 35), (768, 17, 17), (2048, 8, 8)]
    assert maps[0].shape[1:] == (192, 71, 71)  # of the public weights' stem


@pytest.mark.parametrize("size", [75, 76, 96])
def test_inception_v3_takes_images_from_75_pixels_on(size):
    model = InceptionV3(InceptionV3Config(num_classes=2, image_size=size, aux_head=False)).eval()
    with torch.no_grad():
        assert model(torch.randn(1, 3, size, size)).isfinite().all()


def test_inception_v3_refuses_smaller_images_by_name():
    with pytest.raises(UserError, match="image_size=74"):
        create_model("inception_v3", image_size=74)
    with torch.device("meta"):
        assert create_model("inception_v3", num_classes=2, image_size=298).AuxLogits is None
        assert create_model("inception_v3", num_classes=2, image_size=299).AuxLogits is not None
        model = create_model("inception_v3", num_classes=2, image_size=298, aux_head=True)
        with pytest.raises(UserError, match="298x320.*aux_head=False"):
            model.loss(torch.empty(1, 3, 298, 320), torch.zeros(1, dtype=torch.int64))


def test_inception_v3_loss_takes_smoothed_labels():
    """Label smoothing of section 7 from outside: soft labels give what torch's label_smoothing gives."""
    torch.manual_seed(0)
    model = InceptionV3(InceptionV3Config(num_classes=5, aux_head=False, dropout=0.0)).double().eval()
    labels = torch.arange(4)
    soft = 0.9 * F.one_hot(labels, 5).double() + 0.1 / 5
    with torch.no_grad():
        expected = F.cross_entropy(model(IMAGES), labels, label_smoothing=0.1)
        torch.testing.assert_close(model.loss(IMAGES, soft), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("training", [True, False])
def test_inception_v3_loss_adds_the_auxiliary_classifier(training):
    torch.manual_seed(0)
    model = InceptionV3(InceptionV3Config(num_classes=5, dropout=0.0)).train(training)
    images, labels, seen = torch.randn(2, 3, 299, 299), torch.arange(2), []
    model.Mixed_6e.register_forward_hook(lambda _, __, out: seen.append(out))
    model.fc.register_forward_hook(lambda _, __, out: seen.append(out))
    with torch.no_grad():
        loss = model.loss(images, labels)
        maps, logits = seen
        expected = F.cross_entropy(logits, labels) + 0.4 * F.cross_entropy(model.AuxLogits(maps), labels)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)


def macs(module, in_dim: int, side: int) -> int:
    return summarise(module, (1, in_dim, side, side)).macs


def test_reductions_make_modules_as_cheap_as_table_1_of_googlenet_says():
    """Columns `ops` and `params` (in units of 1024, biases counted) of rows 3a and 3b, with the paper's 5 x 5."""
    reduced_3a = Inception(192, 64, 96, 128, 16, 32, 32, kernel_5=5)
    reduced_3b = Inception(256, 128, 128, 192, 32, 96, 64, kernel_5=5)
    assert round(macs(reduced_3a, 192, 28) / 1e6) == 128 and round(macs(reduced_3b, 256, 28) / 1e6) == 304
    assert [sum(c.weight.numel() + c.out_channels for c in m.modules() if isinstance(c, nn.Conv2d)) / 1024
            for m in (reduced_3a, reduced_3b)] == pytest.approx([159, 380], abs=1)
    naive_3a, naive_3b = NaiveInception(192, 64, 128, 32), NaiveInception(256, 128, 192, 96)
    assert macs(naive_3a, 192, 28) == 28 * 28 * 192 * (64 + 9 * 128 + 25 * 32)
    assert macs(naive_3b, 256, 28) == 28 * 28 * 256 * (128 + 9 * 192 + 25 * 96)
    assert 2.3 < macs(naive_3a, 192, 28) / macs(reduced_3a, 192, 28) < macs(naive_3b, 256, 28) / macs(
        reduced_3b, 256, 28) == pytest.approx(854 / 304, rel=0.01)


def test_naive_modules_hand_all_channels_on_and_grow():
    torch.manual_seed(0)
    module, maps = NaiveInception(6, 2, 4, 5).eval(), torch.randn(2, 6, 7, 7)
    with torch.no_grad():
        out = module(maps)
        assert torch.equal(out[:, 11:], F.max_pool2d(maps, 3, 1, 1)) and out.shape == (2, 17, 7, 7)
        assert torch.equal(out[:, 6:11], module.branch3(maps)) and module.branch3.conv.kernel_size == (5, 5)


@pytest.mark.parametrize("size", [(15, 15), (16, 31), (45, 33), (97, 224)])
def test_googlenet_is_fully_convolutional(size):
    """Any size: the mean over all places of the last layer as a 1 x 1 convolution is the answer."""
    torch.manual_seed(0)
    model = GoogLeNet(GoogLeNetConfig(num_classes=4, aux_heads=False)).double().eval()
    images = torch.randn(2, 3, *size, dtype=torch.float64)
    with torch.no_grad():
        maps = model.features(images)[-1]
        scores = F.conv2d(maps, model.fc.weight[:, :, None, None], model.fc.bias)  # [B, 4, ceil(H/32), ceil(W/32)]
        torch.testing.assert_close(model(images), scores.mean((2, 3)), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("name", "least"), [("googlenet", 15), ("bn_inception", 7), ("inception_v3", 75),
                                             ("inception_v4", 75), ("inception_resnet_v2", 75)])
def test_images_too_small_are_refused_and_the_least_are_not(name, least):
    shallow = {"depths": (1, 1, 1)} if name in ("inception_v4", "inception_resnet_v2") else {}
    with torch.device("meta"):
        model = create_model(name, **shallow).eval()
        assert model(torch.empty(1, 3, least, least + 5)).shape == (1, 1000)
        with pytest.raises(UserError, match=f"{least - 1}x{least + 5}: .*at least {least} pixels"):
            model(torch.empty(1, 3, least - 1, least + 5))
    if hasattr(model.config, "image_size"):
        with pytest.raises(UserError, match=f"image_size={least - 1}"):
            create_model(name, image_size=least - 1)


FIGURE_5 = {  # module -> (side, channels out), with the paper's 96 in 4c and 4d; of a halving module at its output
    "3a": (28, 256), "3b": (28, 320), "3c": (14, 576), "4a": (14, 576), "4b": (14, 576), "4c": (14, 576),
    "4d": (14, 576), "4e": (7, 1024), "5a": (7, 1024), "5b": (7, 1024),
}


def test_bn_inception_has_the_rows_of_figure_5():
    seen = {}
    with torch.device("meta"):
        model = create_model("bn_inception_original").eval()
        for name in FIGURE_5:
            model.get_submodule(f"inception_{name}").register_forward_hook(
                lambda _, __, out, name=name: seen.update({name: (out.shape[2], out.shape[1])}))
        model(torch.empty(1, 3, 224, 224))
    assert seen == FIGURE_5
    wide = create_model("bn_inception")
    assert wide.inception_4d.single.conv.in_channels == wide.inception_4e.three[0].conv.in_channels == 608
    assert wide.inception_5a.single.conv.in_channels == 1056


def test_bn_inception_counts_as_the_public_code_does():
    """That gives each convolution a bias."""
    with torch.device("meta"):
        model = create_model("bn_inception")
    biases = sum(m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d))
    assert biases == 10_016 and count(model) + biases == 11_295_240


def test_bn_inception_replaces_5_x_5_by_two_3_x_3_and_pools_as_figure_5_says():
    with torch.device("meta"):
        model = create_model("bn_inception")
    kernels = {m.kernel_size for m in model.modules() if isinstance(m, nn.Conv2d)}
    assert kernels == {(7, 7), (3, 3), (1, 1)}
    averaged = [n for n, m in model.named_modules() if isinstance(m, nn.AvgPool2d)]
    assert [n.split(".")[0].removeprefix("inception_") for n in averaged] == ["3a", "3b", "4a", "4b", "4c", "4d", "5a"]


@pytest.mark.parametrize("size", [(8, 8), (9, 9), (9, 8), (28, 13), (1, 2)])
def test_a_halving_pool_makes_what_a_strided_convolution_makes(size):
    maps = torch.randn(1, 2, *size)
    pooled = HalvingPool()(maps)
    assert pooled.shape[2:] == F.conv2d(maps, torch.zeros(1, 2, 3, 3), None, 2, 1).shape[2:]
    if size[0] % 2 == size[1] % 2 == 0:
        assert torch.equal(pooled, F.max_pool2d(maps, 3, 2, ceil_mode=True))
    else:  # around places 0, 2, 4, ... of an odd side
        padded = F.pad(maps, (1, 1, 1, 1), value=-torch.inf)
        if size[0] % 2:
            row = padded[:, :, 0:3, :].amax(2)
            first = row[:, :, 0:3].amax(2) if size[1] % 2 else row[:, :, 1:4].amax(2)
            assert torch.equal(pooled[:, :, 0, 0], first)


def public_bn_inception(model: BNInception) -> dict[str, torch.Tensor]:
    """Random weights under the names of the Caffe network, with biases, BGR and vectors of [1, C]."""
    branches = {"single": "1x1", "three.0": "3x3_reduce", "three.1": "3x3", "twice.0": "double_3x3_reduce",
                "twice.1": "double_3x3_1", "twice.2": "double_3x3_2", "pool.1": "pool_proj"}
    stem = {"conv1": "conv1_7x7_s2", "conv2_reduce": "conv2_3x3_reduce", "conv2": "conv2_3x3"}
    generator, state = torch.Generator().manual_seed(3), {}
    for name, module in model.named_modules():
        if not isinstance(module, nn.Conv2d):
            continue
        ours = name.removesuffix(".conv")
        theirs = stem.get(ours) or "{}_{}".format(ours.split(".")[0], branches[ours.split(".", 1)[1]])
        dim = module.out_channels
        state[f"{theirs}.weight"] = torch.randn(module.weight.shape, generator=generator) * 0.1
        state[f"{theirs}.bias"] = torch.randn(dim, generator=generator)
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            state[f"{theirs}_bn.{leaf}"] = torch.rand(1, dim, generator=generator) + 0.5
    state["last_linear.weight"] = torch.randn(model.fc.weight.shape, generator=generator)
    state["last_linear.bias"] = torch.randn(model.fc.bias.shape, generator=generator)
    return state


def test_bn_inception_takes_the_public_names_biases_and_channel_order():
    model = BNInception(BNInceptionConfig(num_classes=3)).double().eval()
    state = {name: tensor.double() for name, tensor in public_bn_inception(model).items()}
    assert load_weights(model, state, "pretrainedmodels") == []

    def layer(maps, name, **options):
        maps = F.conv2d(maps, state[f"{name}.weight"], state[f"{name}.bias"], **options)
        mean, var, weight, bias = (state[f"{name}_bn.{leaf}"].flatten() for leaf in ("running_mean", "running_var",
                                                                                   "weight", "bias"))
        return F.relu(F.batch_norm(maps, mean, var, weight, bias, eps=1e-5))

    images = torch.randn(2, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        maps = layer(images.flip(1), "conv1_7x7_s2", stride=2, padding=3)  # RGB -> BGR
        maps = layer(F.max_pool2d(maps, 3, 2, ceil_mode=True), "conv2_3x3_reduce")
        maps = layer(maps, "conv2_3x3", padding=1)
        assert_near(model.features(images)[0], maps, 1e-12, "stem")
        maps = F.max_pool2d(maps, 3, 2, ceil_mode=True)
        double = layer(maps, "inception_3a_double_3x3_reduce")
        double = layer(layer(double, "inception_3a_double_3x3_1", padding=1), "inception_3a_double_3x3_2", padding=1)
        expected = torch.cat([layer(maps, "inception_3a_1x1"),
                              layer(layer(maps, "inception_3a_3x3_reduce"), "inception_3a_3x3", padding=1), double,
                              layer(F.avg_pool2d(maps, 3, 1, 1), "inception_3a_pool_proj")], 1)
        assert_near(model.inception_3a(maps), expected, 1e-12, "3a")


def test_batch_norm_makes_biases_and_scales_of_kernels_vanish():
    """Sections 3.2 and 3.3: BN((a W) x + b) is BN(W x) in training."""
    torch.manual_seed(0)
    model = BNInception(BNInceptionConfig(num_classes=3)).double().train()
    images = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        before = model(images)
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                module.weight *= 1e3
                module.bias = nn.Parameter(torch.randn(module.out_channels, dtype=torch.float64))
        torch.testing.assert_close(model(images), before, rtol=1e-2, atol=1e-2)  # up to the epsilon


def test_factorised_kernels_cost_what_inception_v3_says_and_can_equal_a_whole_one():
    """Section 3: 1 x 7 and 7 x 1 make 14 of 49 products, three 3 x 3 make 27; a product of the two is a 7 x 7."""
    dim, side = 5, 9
    chains = {"7x7": [(7, 7)], "1x7": [(1, 7), (7, 1)], "3x3": [(3, 3)] * 3}
    cost = {name: macs(nn.Sequential(*[nn.Conv2d(dim, dim, k, padding=(k[0] // 2, k[1] // 2), bias=False)
                                       for k in kernels]), dim, side) for name, kernels in chains.items()}
    assert cost == {"7x7": 49 * dim**2 * side**2, "1x7": 14 * dim**2 * side**2, "3x3": 27 * dim**2 * side**2}
    row, column, maps = torch.randn(7).double(), torch.randn(7).double(), torch.randn(1, 1, side, side).double()
    chain = F.conv2d(F.conv2d(maps, row[None, None, None], padding=(0, 3)), column[None, None, :, None], padding=(3, 0))
    torch.testing.assert_close(chain, F.conv2d(maps, torch.outer(column, row)[None, None], padding=3), rtol=1e-10,
                               atol=1e-10)
    kernels = [m.kernel_size for m in ModuleB(768, 128).modules() if isinstance(m, nn.Conv2d)]
    assert kernels.count((1, 7)) == kernels.count((7, 1)) == 3 and (7, 7) not in kernels


def test_a_chain_sees_as_far_as_the_kernel_that_it_replaces():
    for kernels in ([(1, 7), (7, 1)], [(3, 3)] * 3):
        layers = [nn.Conv2d(1, 1, k, bias=False) for k in kernels]
        maps = torch.zeros(1, 1, 7, 7, requires_grad=True)
        for layer in layers:
            nn.init.ones_(layer.weight)
        nn.Sequential(*layers)(maps).sum().backward()
        assert (maps.grad > 0).all()  # one place of the output, all 49 of the input


def test_inception_v4_has_the_maps_of_its_figures():
    with torch.device("meta"):
        model = create_model("inception_v4").eval()
        maps = model.features(torch.empty(1, 3, 299, 299))
    assert [tuple(m.shape[1:]) for m in maps] == [(64, 147, 147), (160, 73, 73), (384, 35, 35), (1024, 17, 17),
                                                  (1536, 8, 8)]
    grids = list(model.features.children())[6:]
    assert len(grids) == 4 + 1 + 7 + 1 + 3


def test_inception_resnet_v2_has_the_public_grid_sizes_and_depths():
    with torch.device("meta"):
        model = create_model("inception_resnet_v2").eval()
        maps = model.features(torch.empty(1, 3, 299, 299))
    assert [tuple(m.shape[1:]) for m in maps] == [(64, 147, 147), (192, 71, 71), (320, 35, 35), (1088, 17, 17),
                                                  (1536, 8, 8)]
    assert [m.scale for m in model.modules() if isinstance(m, Residual)] == [0.17] * 10 + [0.10] * 20 + [0.20] * 9 + [1]


def test_a_residual_module_adds_a_scaled_correction():
    torch.manual_seed(0)
    maps = torch.randn(2, 4, 5, 5)
    module = Residual(4, 6, 0.25, [nn.Conv2d(4, 2, 1), nn.Conv2d(4, 4, 3, padding=1)]).eval()
    with torch.no_grad():
        inner = torch.cat([module.branch0(maps), module.branch1(maps)], 1)
        expected = maps + 0.25 * module.conv2d(inner)
        torch.testing.assert_close(module(maps), expected.clamp(min=0), rtol=1e-6, atol=1e-6)
        module.activate = False
        torch.testing.assert_close(module(maps), expected, rtol=1e-6, atol=1e-6)
        module.conv2d.weight.zero_()
        module.conv2d.bias.zero_()
        assert torch.equal(module(maps), maps)


@pytest.mark.parametrize("name", ["bn_inception", "inception_v3", "inception_v4", "inception_resnet_v2"])
def test_channels_last_gives_the_same(name):
    shallow = {"depths": (1, 1, 1)} if name in ("inception_v4", "inception_resnet_v2") else {}
    torch.manual_seed(0)
    model = create_model(name, num_classes=3, **shallow).eval()
    images = torch.randn(1, 3, 75, 81)
    with torch.no_grad():
        expected = model(images)
        model.to(memory_format=torch.channels_last)
        assert_near(model(images.to(memory_format=torch.channels_last)), expected, 1e-5, name)


@pytest.mark.slow
def test_inception_v3_loss_equals_timms_two_outputs():
    """timm gives (logits, auxiliary logits) where it is built with the auxiliary classifier."""
    theirs = peer("timm", "inception_v3", num_classes=5, aux_logits=True)
    randomise(theirs)
    ours = create_model("inception_v3", num_classes=5, dropout=0.0)
    assert load_weights(ours, theirs.state_dict(), "timm") == []
    ours, theirs, labels = ours.double().train(), theirs.double().train(), torch.arange(2)
    images = torch.randn(2, 3, 299, 299, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    loss = ours.loss(images, labels)
    loss.backward()
    logits, auxiliary = theirs(images)
    expected = F.cross_entropy(logits, labels) + 0.4 * F.cross_entropy(auxiliary, labels)
    expected.backward()
    assert_near(loss, expected, 1e-12, "loss")
    for name, a in ours.named_parameters():
        assert_near(a.grad, theirs.get_parameter(name).grad, 1e-9, name)


def test_weights_with_the_auxiliary_classifier_fit_a_model_without_it():
    state = create_model("inception_v3", num_classes=3).state_dict()
    bare = create_model("inception_v3", num_classes=3, image_size=96)
    assert load_weights(bare, state) == ["the weights of the auxiliary classifier were left out: the model has none"]
    assert all(torch.equal(tensor, state[name]) for name, tensor in bare.state_dict().items())

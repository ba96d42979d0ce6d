"""Equal weights and images in visus and in torchvision or timm: equal outputs, gradients and running
statistics."""

from __future__ import annotations

import importlib
from functools import partial

import pytest
import torch
from torch import nn

from tools.peers import load_peer
from visus.run.models import create_model, load_weights

VIT = {"image_size": 32, "patch_size": 8, "depth": 2, "num_classes": 6, "dim": 48, "num_heads": 4}
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
SLOW = pytest.mark.slow


def peer(package: str, maker: str, **options) -> nn.Module:
    try:
        module = load_peer(package)
    except ImportError as error:
        pytest.skip(str(error))
    if package == "torchvision":
        module = importlib.import_module("torchvision.models")
        return getattr(module, maker)(weights=None, **options)
    return module.create_model(maker, pretrained=False, **options)


def torchvision_small_head(maker: str) -> nn.Module:
    """AlexNet or VGG with 48 units in place of 4096 in the full layers, and no dropout."""
    with torch.device("meta"):
        model = peer("torchvision", maker, num_classes=6, dropout=0.0)
        full = [i for i, layer in enumerate(model.classifier) if isinstance(layer, nn.Linear)]
        for i, sides in zip(full, ((model.classifier[full[0]].in_features, 48), (48, 48), (48, 6)), strict=True):
            model.classifier[i] = nn.Linear(*sides)
    model.to_empty(device="cpu")
    for buffer in model.buffers():
        buffer.zero_()
    return model


def torchvision_vit() -> nn.Module:
    try:
        load_peer("torchvision")
    except ImportError as error:
        pytest.skip(str(error))
    from torchvision.models.vision_transformer import VisionTransformer

    return VisionTransformer(image_size=32, patch_size=8, num_layers=2, num_heads=4, hidden_dim=48,
                             mlp_dim=192,
                             num_classes=6)


def wide_resnet14() -> nn.Module:
    try:
        load_peer("torchvision")
    except ImportError as error:
        pytest.skip(str(error))
    from torchvision.models.resnet import Bottleneck, ResNet

    return ResNet(Bottleneck, [1, 1, 1, 1], num_classes=6, width_per_group=128)


def small_convnext() -> nn.Module:
    try:
        load_peer("torchvision")
    except ImportError as error:
        pytest.skip(str(error))
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    return ConvNeXt([CNBlockConfig(8, 16, 1), CNBlockConfig(16, 24, 1), CNBlockConfig(24, 32, 2),
                     CNBlockConfig(32, None, 1)], num_classes=6)


TIMM_VIT = {"img_size": 32, "patch_size": 8, "depth": 2, "num_classes": 6, "embed_dim": 48, "num_heads": 4}
SMALL_HEAD = {"num_classes": 6, "hidden_dim": 48, "dropout": 0.0}
ROWS = {  # test id -> (name, config, origin, peer's maker, size)
    "alexnet": ("alexnet", SMALL_HEAD, "torchvision", lambda: torchvision_small_head("alexnet"), 71),
    "vgg11": ("vgg11", SMALL_HEAD, "torchvision", lambda: torchvision_small_head("vgg11"), 40),
    "vgg16_bn": ("vgg16_bn", SMALL_HEAD, "torchvision", lambda: torchvision_small_head("vgg16_bn"), 32),
    **{name: (name, {"num_classes": 6, "dropout": 0.0}, "torchvision",
              partial(peer, "torchvision", name, num_classes=6, dropout=0.0), 64)
       for name in ("squeezenet1_0", "squeezenet1_1")},
    "resnet18-torchvision": ("resnet18", {"num_classes": 6}, "torchvision",
                             lambda: peer("torchvision", "resnet18", num_classes=6), 64),
    "resnet50-torchvision": ("resnet50", {"num_classes": 6}, "torchvision",
                             lambda: peer("torchvision", "resnet50", num_classes=6), 64),
    "resnext50-torchvision": ("resnext50_32x4d", {"num_classes": 6}, "torchvision",
                              lambda: peer("torchvision", "resnext50_32x4d", num_classes=6), 64),
    "wide-resnet50-torchvision": ("wide_resnet50_2", {"num_classes": 6, "depths": (1, 1, 1, 1)}, "torchvision",
                                  wide_resnet14, 64),
    "convnext-torchvision": ("convnext_tiny", {"num_classes": 6, "depths": (1, 1, 2, 1), "dims": (8, 16, 24, 32)},
                             "torchvision", small_convnext, 64),
    "regnet-x-torchvision": ("regnet_x_400mf", {"num_classes": 6}, "torchvision",
                             lambda: peer("torchvision", "regnet_x_400mf", num_classes=6), 64),
    "regnet-y-torchvision": ("regnet_y_400mf", {"num_classes": 6}, "torchvision",
                             lambda: peer("torchvision", "regnet_y_400mf", num_classes=6), 64),
    "resnet18-timm": ("resnet18", {"num_classes": 6}, "timm", lambda: peer("timm", "resnet18", num_classes=6),
                      64),
    "vit-timm": ("vit_tiny_16", VIT, "timm", lambda: peer("timm", "vit_tiny_patch16_224", **TIMM_VIT), 32),
    "vit-torchvision": ("vit_tiny_16", VIT, "torchvision", torchvision_vit, 32),
    "mobilenet_v2-torchvision": ("mobilenet_v2", {"num_classes": 6, "dropout": 0.0}, "torchvision",
                                     lambda: peer("torchvision", "mobilenet_v2", num_classes=6, dropout=0.0), 64),
    "mobilenet_v2-wide-torchvision": ("mobilenet_v2", {"num_classes": 6, "dropout": 0.0, "width": 1.4}, "torchvision",
                                      lambda: peer("torchvision", "mobilenet_v2", num_classes=6, dropout=0.0,
                                                   width_mult=1.4), 64),
    "densenet121-torchvision": ("densenet121", {"num_classes": 6}, "torchvision",
                                lambda: peer("torchvision", "densenet121", num_classes=6), 64),
    "mobilenet_v3_small-torchvision": ("mobilenet_v3_small", {"num_classes": 6, "dropout": 0.0}, "torchvision",
                                           lambda: peer("torchvision", "mobilenet_v3_small", num_classes=6,
                                                        dropout=0.0), 64),
    "mobilenet_v3_large-torchvision": ("mobilenet_v3_large", {"num_classes": 6, "dropout": 0.0}, "torchvision",
                                           lambda: peer("torchvision", "mobilenet_v3_large", num_classes=6,
                                                        dropout=0.0), 64),
    "mobilenet_v1-timm": ("mobilenet_v1", {"num_classes": 6}, "timm",
                          lambda: peer("timm", "mobilenetv1_100", num_classes=6), 64),
    "shufflenet_v2_x0_5-torchvision": ("shufflenet_v2_x0_5", {"num_classes": 6}, "torchvision",
                                           lambda: peer("torchvision", "shufflenet_v2_x0_5", num_classes=6), 64),
    "shufflenet_v2_x1_0-torchvision": ("shufflenet_v2_x1_0", {"num_classes": 6}, "torchvision",
                                           lambda: peer("torchvision", "shufflenet_v2_x1_0", num_classes=6), 64),
    "mnasnet_050-torchvision": ("mnasnet_050", {"num_classes": 6, "dropout": 0.0}, "torchvision",
                                lambda: peer("torchvision", "mnasnet0_5", num_classes=6, dropout=0.0), 64),
    "mnasnet_130-torchvision": ("mnasnet_130", {"num_classes": 6, "dropout": 0.0}, "torchvision",
                                lambda: peer("torchvision", "mnasnet1_3", num_classes=6, dropout=0.0), 64),
    "googlenet-torchvision": ("googlenet", {"num_classes": 6, "aux_heads": False, "dropout": 0.0}, "torchvision",
                              lambda: peer("torchvision", "googlenet", num_classes=6, aux_logits=False,
                                           init_weights=False, dropout=0.0), 64),
    "efficientnet_b0-torchvision": ("efficientnet_b0", {"num_classes": 6, "dropout": 0.0, "drop_path": 0.0},
                                    "torchvision",
                                    lambda: peer("torchvision", "efficientnet_b0", num_classes=6, dropout=0.0,
                                                 stochastic_depth_prob=0.0), 64),
    "inception_v3-torchvision": ("inception_v3", {"num_classes": 6, "aux_head": False, "dropout": 0.0}, "torchvision",
                                 lambda: peer("torchvision", "inception_v3", num_classes=6, aux_logits=False,
                                              init_weights=False, dropout=0.0), 107),
}
FULL = {
    **{f"efficientnet_b{i}": (f"efficientnet_b{i}", "torchvision", f"efficientnet_b{i}", 64) for i in range(8)},
    **{f"mnasnet_{ours}": (f"mnasnet_{ours}", "torchvision", f"mnasnet{theirs}", 64)
       for ours, theirs in (("050", "0_5"), ("075", "0_75"), ("100", "1_0"), ("130", "1_3"))},
    **{f"shufflenet_v2_x{x}": (f"shufflenet_v2_x{x}", "torchvision", f"shufflenet_v2_x{x}", 64)
       for x in ("0_5", "1_0", "1_5", "2_0")},
    "mobilenet_v1": ("mobilenet_v1", "timm", "mobilenetv1_100", 224),
    **{f"mobilenet_v3_{size}": (f"mobilenet_v3_{size}", "torchvision", f"mobilenet_v3_{size}", 64)
       for size in ("small", "large")},
    "alexnet": ("alexnet", "torchvision", "alexnet", 224),
    **{name: (name, "torchvision", name, 224) for name in ("squeezenet1_0", "squeezenet1_1")},
    **{name: (name, "torchvision", name, 64)
       for name in (f"vgg{depth}{norm}" for depth in (11, 13, 16, 19) for norm in ("", "_bn"))},
    "mobilenet_v2": ("mobilenet_v2", "torchvision", "mobilenet_v2", 64),
    **{name: (name, "torchvision", name, 64)
       for name in ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")},
    **{name: (name, "torchvision", name, 64)
       for name in ("resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d", "wide_resnet50_2", "wide_resnet101_2")},
    **{f"convnext_{size}": (f"convnext_{size}", "torchvision", f"convnext_{size}", 64)
       for size in ("tiny", "small", "base", "large")},
    **{f"regnet_{kind}_{size}": (f"regnet_{kind}_{size}", "torchvision", f"regnet_{kind}_{size}", 64)
       for kind in "xy" for size in ("400mf", "800mf", "1_6gf", "3_2gf", "8gf", "16gf", "32gf")},
    **{f"vit_{size}_{patch}": (f"vit_{size}_{patch}", "timm", f"vit_{size}_patch{patch}_224", 224)
       for size, patch in (("tiny", 16), ("small", 16), ("base", 16), ("base", 32), ("large", 16),
                           ("large", 32))},
    **{f"vit_{long}_{patch}-torchvision": (f"vit_{long}_{patch}", "torchvision", f"vit_{short}_{patch}", 224)
       for long, short, patch in (("base", "b", 16), ("base", "b", 32), ("large", "l", 16),
                                  ("large", "l", 32))},
    **{name: (name, "torchvision", name, 64)
       for name in ("densenet121", "densenet161", "densenet169", "densenet201")},
}


def randomise(model: nn.Module) -> None:
    """Weights, biases and statistics that leave no term at zero or one, and outputs near one."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            noise = torch.randn(tensor.shape, generator=generator)
            if tensor.ndim > 1:
                tensor.copy_(noise * tensor[0].numel() ** -0.5)
            else:
                tensor.copy_(noise * 0.1 + (0 if name.endswith("bias") else 1))
        for name, tensor in model.named_buffers():
            if name.endswith("running_var"):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
            elif name.endswith("running_mean"):
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.1)


def assert_near(a: torch.Tensor, b: torch.Tensor, tolerance: float, what: str) -> None:
    assert a.shape == b.shape
    difference = ((a - b).abs().max() / b.abs().max()).item()
    assert difference <= tolerance, f"{what}: {difference:.2g}"


def pair(row: str, dtype: torch.dtype) -> tuple[nn.Module, nn.Module, torch.Tensor]:
    name, config, origin, make, size = ROWS[row]
    theirs = make()
    randomise(theirs)
    ours = create_model(name, **config)
    assert load_weights(ours, theirs.state_dict(), origin) == []
    images = torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(1)).to(dtype)
    return ours.to(dtype), theirs.to(dtype), images


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("row", ROWS)
def test_eval_output_equals_the_peers(row, dtype):
    ours, theirs, images = pair(row, dtype)
    with torch.no_grad():
        assert_near(ours.eval()(images), theirs.eval()(images), TOLERANCE[dtype], row)


@pytest.mark.parametrize("row", ROWS)
def test_training_step_equals_the_peers(row):
    """Outputs, every gradient and the running statistics, in train mode and float64."""
    ours, theirs, images = pair(row, torch.float64)
    labels = torch.arange(4)
    for model in (ours.train(), theirs.train()):
        nn.functional.cross_entropy(model(images), labels).backward()
    name, config, origin, _, _ = ROWS[row]
    gradients = create_model(name, **config).double()
    load_weights(gradients, {**theirs.state_dict(), **{n: p.grad for n, p in theirs.named_parameters()}},
                 origin)
    expected = dict(gradients.named_parameters())
    for n, p in ours.named_parameters():
        assert_near(p.grad, expected[n], 1e-9, n)
    for n, b in ours.named_buffers():
        assert_near(b.double(), dict(gradients.named_buffers())[n].double(), 1e-10, n)


@pytest.mark.parametrize("row", ["resnet18-torchvision", "resnet50-torchvision", "resnet18-timm", "vit-timm",
                                 "densenet121-torchvision", "alexnet", "vgg16_bn",
                                 "mobilenet_v1-timm", "mobilenet_v2-torchvision", "mobilenet_v3_small-torchvision",
                                 "shufflenet_v2_x1_0-torchvision", "mnasnet_050-torchvision",
                                 "efficientnet_b0-torchvision"])
def test_state_loads_into_the_peer_too(row):
    ours, theirs, _ = pair(row, torch.float32)
    theirs.load_state_dict(ours.state_dict(), strict=True)


def test_a_changed_weight_is_seen():
    """The comparison itself can fail."""
    ours, theirs, images = pair("vit-timm", torch.float64)
    with torch.no_grad():
        ours.blocks[0].mlp.fc1.weight[3, 3] += 1e-3
        difference = (ours.eval()(images) - theirs.eval()(images)).abs().max().item()
    assert difference > 1e-7


def test_features_equal_timms():
    ours, _, images = pair("resnet18-timm", torch.float64)
    theirs = peer("timm", "resnet18", features_only=True, out_indices=(1, 2, 3, 4)).double().eval()
    theirs.load_state_dict({n: t for n, t in ours.state_dict().items() if not n.startswith("fc.")},
                           strict=True)
    assert tuple(theirs.feature_info.channels()) == ours.feature_channels
    assert tuple(theirs.feature_info.reduction()) == ours.feature_strides
    with torch.no_grad():
        for a, b in zip(ours.eval().features(images), theirs(images), strict=True):
            assert_near(a, b, 1e-10, "features")


@pytest.mark.parametrize(("grid", "new"), [((14, 14), (24, 24)), ((14, 14), (7, 7)), ((4, 6), (5, 9))])
def test_resized_positions_equal_timms(grid, new):
    try:
        load_peer("timm")
    except ImportError as error:
        pytest.skip(str(error))
    from timm.layers import resample_abs_pos_embed

    from visus.ops.positions import resize_positions

    positions = torch.randn(1, 1 + grid[0] * grid[1], 8, generator=torch.Generator().manual_seed(0))
    theirs = resample_abs_pos_embed(positions, new, old_size=grid, num_prefix_tokens=1)
    torch.testing.assert_close(resize_positions(positions, grid, new, 1), theirs, rtol=1e-6, atol=1e-6)


@SLOW
@pytest.mark.parametrize("row", FULL)
def test_full_size_model_equals_the_peers(row):
    name, origin, maker, size = FULL[row]
    theirs = peer(origin, maker, num_classes=1000)
    randomise(theirs)
    ours = create_model(name)
    load_weights(ours, theirs.state_dict(), origin)
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    for dtype, tolerance in TOLERANCE.items():
        with torch.no_grad():
            assert_near(ours.to(dtype).eval()(images.to(dtype)), theirs.to(dtype).eval()(images.to(dtype)),
                        tolerance, row)

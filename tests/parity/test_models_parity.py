"""Equal weights and images in visus and in torchvision or timm: equal outputs, gradients and running
statistics."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from tools.peers import load_peer
from visus.models import registry
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


def small_nasnet(filters: int, stem_dim: int) -> nn.Module:
    try:
        load_peer("timm")
    except ImportError as error:
        pytest.skip(str(error))
    from timm.models.nasnet import NASNetALarge

    return NASNetALarge(num_classes=6, stem_size=stem_dim, num_features=24 * filters)


def timm_small_head(maker: str) -> nn.Module:
    """VGG with 48 units in place of 4096 in the full layers."""
    with torch.device("meta"):
        model = peer("timm", maker, num_classes=6)
        model.pre_logits.fc1 = nn.Conv2d(512, 48, 7)
        model.pre_logits.fc2 = nn.Conv2d(48, 48, 1)
        model.head.fc = nn.Linear(48, 6)
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


def bottlenecks(depths: tuple[int, ...], **options: int) -> nn.Module:
    try:
        load_peer("torchvision")
    except ImportError as error:
        pytest.skip(str(error))
    from torchvision.models.resnet import Bottleneck, ResNet

    return ResNet(Bottleneck, list(depths), num_classes=6, **options)


def shallow_resnet(block: str, **options) -> nn.Module:
    """timm's ResNet of four blocks; block: BasicBlock or Bottleneck."""
    try:
        load_peer("timm")
    except ImportError as error:
        pytest.skip(str(error))
    from timm.models import resnet

    return resnet.ResNet(getattr(resnet, block), (1, 1, 1, 1), num_classes=6, **options)


def shallow_senet(block: str, **options) -> nn.Module:
    """timm's SENet, with the authors' names, of four blocks and without dropout."""
    try:
        load_peer("timm")
    except ImportError as error:
        pytest.skip(str(error))
    from timm.models import senet

    return senet.SENet(getattr(senet, block), (1, 1, 1, 1), reduction=16, drop_rate=0.0, num_classes=6, **options)


def timm_squeeze() -> type[nn.Module]:
    from timm.layers import SEModule

    return SEModule


def small_convnext() -> nn.Module:
    try:
        load_peer("torchvision")
    except ImportError as error:
        pytest.skip(str(error))
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    return ConvNeXt([CNBlockConfig(8, 16, 1), CNBlockConfig(16, 24, 1), CNBlockConfig(24, 32, 2),
                     CNBlockConfig(32, None, 1)], num_classes=6)


def small_nfnet(depths: tuple[int, ...] = (1, 1, 2, 1)) -> nn.Module:
    try:
        load_peer("timm")
    except ImportError as error:
        pytest.skip(str(error))
    from timm.models.nfnet import NfCfg, NormFreeNet

    return NormFreeNet(NfCfg(depths, (16, 32, 48, 48), stem_type="deep_quad", stem_chs=16, group_size=8,
                             bottle_ratio=0.5, extra_conv=True, gamma_in_act=True, same_padding=True, skipinit=True,
                             num_features=96, act_layer="gelu", attn_layer="se", attn_kwargs={"rd_ratio": 0.5}),
                       num_classes=6)


NFNET = {"num_classes": 6, "depths": (1, 1, 2, 1), "dims": (16, 32, 48, 48), "stem_dim": 16, "group_width": 8,
         "dropout": 0.0}
def free_regnet(se_ratio: float | None) -> nn.Module:
    """torchvision's RegNet with stages of free depth, width, bottleneck and group width: an AnyNet."""
    try:
        load_peer("torchvision")
    except ImportError as error:
        pytest.skip(str(error))
    from torchvision.models.regnet import BlockParams, RegNet

    return RegNet(BlockParams([1, 3, 2, 1], [16, 24, 64, 48], [4, 3, 16, 24], [1, 0.5, 0.25, 1], [2, 2, 2, 1],
       se_ratio),
                  num_classes=6)


ANYNET = {"num_classes": 6, "depths": (1, 3, 2, 1), "widths": (16, 24, 64, 48), "bottlenecks": (1, 2, 4, 1),
          "group_widths": (4, 3, 16, 24), "strides": (2, 2, 2, 1)}
CONVNEXT = {"num_classes": 6, "depths": (1, 1, 2, 1), "dims": (8, 16, 24, 32)}
def small_repvgg(**options) -> nn.Module:
    try:
        load_peer("timm")
    except ImportError as error:
        pytest.skip(str(error))
    from timm.models.byobnet import ByobNet, ByoModelCfg, _rep_vgg_bcfg

    groups = options.pop("groups", 0)
    return ByobNet(ByoModelCfg(blocks=_rep_vgg_bcfg(d=(2, 2, 4, 1), wf=(0.25, 0.25, 0.25, 0.25), groups=groups),
                               stem_type="rep", stem_chs=16, **options), num_classes=6)


def shallow_inception_v4() -> nn.Module:
    """One module of each kind instead of four, seven and three."""
    model = peer("timm", "inception_v4", num_classes=6)
    model.features = nn.Sequential(*[model.features[i] for i in (*range(7), 10, 11, 18, 19)])
    return model


def shallow_inception_resnet_v2() -> nn.Module:
    """One residual module of each kind, and the last, instead of ten, twenty and nine."""
    model = peer("timm", "inception_resnet_v2", num_classes=6)
    for name in ("repeat", "repeat_1", "repeat_2"):
        setattr(model, name, getattr(model, name)[:1])
    return model


TIMM_VIT = {"img_size": 32, "patch_size": 8, "depth": 2, "num_classes": 6, "embed_dim": 48, "num_heads": 4}
SMALL_REPVGG = {"depths": (2, 2, 4, 1), "dims": (16, 32, 64, 128)}
SMALL_HEAD = {"num_classes": 6, "hidden_dim": 48, "dropout": 0.0}
ROWS = {  # test id -> (name, config, origin, peer's maker, size)
    "anynet-x-torchvision": ("anynet", ANYNET, "torchvision", lambda: free_regnet(None), 64),
    "anynet-y-torchvision": ("anynet", ANYNET | {"se_ratio": 0.25}, "torchvision", lambda: free_regnet(0.25), 64),
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
                                  partial(bottlenecks, (1, 1, 1, 1), width_per_group=128), 64),
    "wide-resnet101-torchvision": ("wide_resnet101_2", {"num_classes": 6, "depths": (1, 2, 1, 1)}, "torchvision",
                                   partial(bottlenecks, (1, 2, 1, 1), width_per_group=128), 64),
    "resnext101-torchvision": ("resnext101_32x8d", {"num_classes": 6, "depths": (1, 1, 2, 1)}, "torchvision",
                               partial(bottlenecks, (1, 1, 2, 1), groups=32, width_per_group=8), 64),
    "mobilenet_v1-wide-timm": ("mobilenet_v1", {"num_classes": 6, "width": 1.25}, "timm",
                               partial(peer, "timm", "mobilenetv1_125", num_classes=6), 64),
    "convnext_ladder-first-torchvision": ("convnext_ladder_0_resnet50", {"num_classes": 6}, "torchvision",
                                          lambda: peer("torchvision", "resnet50", num_classes=6), 64),
    "convnext_ladder-last-torchvision": ("convnext_ladder_12_separate_downsampling", CONVNEXT, "torchvision",
                                         small_convnext, 64),
    "convnext-torchvision": ("convnext_tiny", {"num_classes": 6, "depths": (1, 1, 2, 1), "dims": (8, 16, 24, 32)},
                             "torchvision", small_convnext, 64),
    "regnet-x-torchvision": ("regnet_x_400mf", {"num_classes": 6}, "torchvision",
                             lambda: peer("torchvision", "regnet_x_400mf", num_classes=6), 64),
    "regnet-y-torchvision": ("regnet_y_400mf", {"num_classes": 6}, "torchvision",
                             lambda: peer("torchvision", "regnet_y_400mf", num_classes=6), 64),
    "nfnet_f0-timm": ("nfnet_f0", NFNET, "timm", small_nfnet, 64),
    "nfnet_f1-timm": ("nfnet_f1", NFNET | {"depths": (2, 4, 2, 1)}, "timm", lambda: small_nfnet((2, 4, 2, 1)), 49),
    "convnext_tiny-timm": ("convnext_tiny", CONVNEXT, "timm", lambda: peer("timm", "convnext_tiny", **CONVNEXT), 64),
    "convnext_base-timm": ("convnext_base", CONVNEXT | {"depths": (2, 1, 1, 2)}, "timm",
                           lambda: peer("timm", "convnext_base", **CONVNEXT | {"depths": (2, 1, 1, 2)}), 67),
    "convnext_v2_atto-timm": ("convnext_v2_atto", CONVNEXT, "timm",
                              lambda: peer("timm", "convnextv2_atto", **CONVNEXT), 64),
    "convnext_v2_tiny-timm": ("convnext_v2_tiny", CONVNEXT | {"depths": (2, 1, 1, 2)}, "timm",
                              lambda: peer("timm", "convnextv2_tiny", **CONVNEXT | {"depths": (2, 1, 1, 2)}), 67),
    "resnet18-timm": ("resnet18", {"num_classes": 6}, "timm", lambda: peer("timm", "resnet18", num_classes=6),
                      64),
    "resnet18d-timm": ("resnet18d", {"num_classes": 6}, "timm", lambda: peer("timm", "resnet18d", num_classes=6), 64),
    "resnet50d-timm": ("resnet50d", {"num_classes": 6, "depths": (1, 1, 1, 1)}, "timm",
                       lambda: shallow_resnet("Bottleneck", stem_width=32, stem_type="deep", avg_down=True), 71),
    "resnetrs50-timm": ("resnetrs50", {"num_classes": 6, "dropout": 0.0}, "timm",
                        lambda: peer("timm", "resnetrs50", num_classes=6), 64),
    "resnetrs101-timm": ("resnetrs101", {"num_classes": 6, "dropout": 0.0, "depths": (1, 1, 1, 1)}, "timm",
                         lambda: shallow_resnet("Bottleneck", stem_width=32, stem_type="deep", avg_down=True,
                                                replace_stem_pool=True,
                                                block_args={"attn_layer": partial(timm_squeeze(), rd_ratio=0.25)}), 75),
    "seresnet18-timm": ("seresnet18", {"num_classes": 6}, "timm",
                        lambda: peer("timm", "seresnet18", num_classes=6), 64),
    "seresnext50-timm": ("seresnext50_32x4d", {"num_classes": 6, "depths": (1, 1, 1, 1)}, "timm",
                         lambda: shallow_resnet("Bottleneck", cardinality=32, base_width=4,
                                                block_args={"attn_layer": "se"}), 64),
    "seresnet50_v1-timm": ("seresnet50_v1", {"num_classes": 6, "depths": (1, 1, 1, 1)}, "timm",
                           lambda: shallow_senet("SEResNetBottleneck", groups=1), 69),
    "senet154-timm": ("senet154", {"num_classes": 6, "dropout": 0.0, "depths": (1, 1, 1, 1)}, "timm",
                      lambda: shallow_senet("SEBottleneck", groups=64, inplanes=128, input_3x3=True,
                                            downsample_kernel_size=3, downsample_padding=1), 71),
    "senet154-gluon": ("senet154", {"num_classes": 6, "dropout": 0.0, "depths": (1, 1, 1, 1), "groups": 8,
                                    "caffe_pool": False}, "timm",
                       lambda: shallow_resnet("Bottleneck", cardinality=8, base_width=4, stem_type="deep",
                                              down_kernel_size=3, block_reduce_first=2,
                                              block_args={"attn_layer": "se"}), 64),
    "vit-timm": ("vit_tiny_16", VIT, "timm", lambda: peer("timm", "vit_tiny_patch16_224", **TIMM_VIT), 32),
    "vit-small-timm": ("vit_small_16", VIT, "timm", lambda: peer("timm", "vit_small_patch16_224", **TIMM_VIT), 32),
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
    **{f"efficientnet_lite{i}-timm": (
        f"efficientnet_lite{i}", {"num_classes": 6, "dropout": 0.0, "drop_path": 0.0}, "timm",
        partial(peer, "timm", f"tf_efficientnet_lite{i}", num_classes=6, bn_momentum=0.01), size)
       for i, size in ((0, 64), (1, 51))},
    **{f"{theirs}-timm": (ours, {"num_classes": 6, "dropout": 0.0, **config}, "timm",
                        partial(peer, "timm", theirs, num_classes=6, **options), 64)
       for ours, theirs, config, options in (
           ("efficientnet_b0", "efficientnet_b0", {"drop_path": 0.0}, {}),
           ("efficientnet_b1", "efficientnet_b1", {"drop_path": 0.0}, {}),
           ("mobilenet_v2", "mobilenetv2_100", {}, {}), ("mobilenet_v2", "mobilenetv2_140", {"width": 1.4}, {}),
           ("mobilenet_v3_large", "mobilenetv3_large_100", {"bn_eps": 1e-5}, {"bn_momentum": 0.01}),
           ("mobilenet_v3_small", "mobilenetv3_small_100", {"bn_eps": 1e-5}, {"bn_momentum": 0.01}),
           ("mnasnet_050", "mnasnet_050", {}, {"bn_momentum": 1 - 0.9997}),
           ("mnasnet_100", "mnasnet_100", {}, {"bn_momentum": 1 - 0.9997}))},
    "efficientnet_v2_s-torchvision": ("efficientnet_v2_s", {"num_classes": 6, "dropout": 0.0, "drop_path": 0.0},
                                      "torchvision", lambda: peer("torchvision", "efficientnet_v2_s", num_classes=6,
                                                                  dropout=0.0, stochastic_depth_prob=0.0), 64),
    **{f"efficientnetv2_{size}-timm": (
        f"efficientnet_v2_{size}", {"num_classes": 6, "dropout": 0.0, "drop_path": 0.0, "width": 0.5, "depth": 0.2,
                                    "bn_eps": 1e-5}, "timm",
        partial(peer, "timm", f"efficientnetv2_{size}", num_classes=6, channel_multiplier=0.5, depth_multiplier=0.2),
           64)
       for size in "ml"},
    "inception_v3-torchvision": ("inception_v3", {"num_classes": 6, "aux_head": False, "dropout": 0.0}, "torchvision",
                                 lambda: peer("torchvision", "inception_v3", num_classes=6, aux_logits=False,
                                              init_weights=False, dropout=0.0), 107),
    "inception_v3-timm": ("inception_v3", {"num_classes": 6, "aux_head": False, "dropout": 0.0}, "timm",
                          lambda: peer("timm", "inception_v3", num_classes=6), 75),
    "inception_v4-timm": ("inception_v4", {"num_classes": 6, "depths": (1, 1, 1)}, "timm", shallow_inception_v4, 75),
    "inception_resnet_v2-timm": ("inception_resnet_v2", {"num_classes": 6, "depths": (1, 1, 1)}, "timm",
                                 shallow_inception_resnet_v2, 75),
    "xception-timm": ("xception", {"num_classes": 6}, "timm",
                      lambda: peer("timm", "legacy_xception", num_classes=6), 48),
    **{f"nasnet-{size}-timm": ("nasnet_a_large", {"num_classes": 6, "filters": filters, "stem_dim": stem_dim,
                                                  "dropout": 0.0, "drop_path": 0.0},
                               "timm", partial(small_nasnet, filters, stem_dim), size)
       for filters, stem_dim, size in ((8, 12, 64), (12, 10, 107))},
    **{f"{name}-timm": (name, SMALL_HEAD, "timm", partial(timm_small_head, name), 40)
       for name in ("vgg11", "vgg16_bn")},
    **{f"{name}-timm": (name, {"num_classes": 6}, "timm", partial(peer, "timm", name, num_classes=6), 64)
       for name in ("densenet121", "densenet169")},
    **{f"{ours}-timm": (ours, {"num_classes": 6}, "timm", partial(peer, "timm", theirs, num_classes=6), 64)
       for ours, theirs in (("regnet_x_400mf", "regnetx_004_tv"), ("regnet_y_400mf", "regnety_004"))},
    "repvgg_a0-timm": ("repvgg_a0", {"num_classes": 6}, "timm", lambda: peer("timm", "repvgg_a0", num_classes=6), 64),
    "repvgg_b1g4-timm": ("repvgg_b1g4", {"num_classes": 6, **SMALL_REPVGG}, "timm", partial(small_repvgg, groups=4),
       64),
    "repvgg_d2se-timm": ("repvgg_d2se", {"num_classes": 6, **SMALL_REPVGG}, "timm",
                         partial(small_repvgg, attn_layer="se", attn_kwargs={"rd_ratio": 0.0625, "rd_divisor": 1}), 64),
}
FULL = {
    **{name: (name, "timm", name, 64)
       for name in ("seresnet18", "seresnet34", "seresnet50", "seresnet101", "seresnet152", "seresnext50_32x4d",
                    "seresnext101_32x4d")},
    **{f"seresnet{depth}_v1": (f"seresnet{depth}_v1", "timm", f"legacy_seresnet{depth}", 64)
       for depth in (50, 101, 152)},
    "senet154": ("senet154", "timm", "legacy_senet154", 64),
    **{f"efficientnet_v2_{size}": (f"efficientnet_v2_{size}", "torchvision", f"efficientnet_v2_{size}", 64)
       for size in "sml"},
    **{f"efficientnet_lite{i}": (f"efficientnet_lite{i}", "timm", f"tf_efficientnet_lite{i}", 64) for i in range(5)},
    **{f"repvgg_{size}": (f"repvgg_{size}", "timm", f"repvgg_{size}", 64)
       for size in ("a0", "a1", "a2", "b0", "b1", "b1g4", "b2", "b2g4", "b3", "b3g4", "d2se")},
    **{name: (name, "timm", name, 64)
       for name in ("resnet18d", "resnet26d", "resnet34d", "resnet50d", "resnet101d", "resnet152d", "resnet200d",
                    "resnetrs50", "resnetrs101", "resnetrs152", "resnetrs200", "resnetrs270", "resnetrs350",
                    "resnetrs420")},
    **{name: (name, "timm", theirs, 299)
       for name, theirs in (("inception_v4", "inception_v4"), ("inception_resnet_v2", "inception_resnet_v2"),
                            ("xception", "legacy_xception"))},
    "anynet": ("anynet", "torchvision", "regnet_x_400mf", 64),
    "nasnet_a_large": ("nasnet_a_large", "timm", "nasnetalarge", 96),
    **{f"{name}-timm": (name, "timm", name, 224) for name in ("vgg11", "vgg16_bn", "densenet121")},
    **{f"{ours}-timm": (ours, "timm", theirs, 64)
       for ours, theirs in (("regnet_x_400mf", "regnetx_004_tv"), ("regnet_x_3_2gf", "regnetx_032"),
                            ("regnet_y_800mf", "regnety_008_tv"), ("regnet_y_8gf", "regnety_080_tv"))},
    **{f"efficientnet_b{i}": (f"efficientnet_b{i}", "torchvision", f"efficientnet_b{i}", 64) for i in range(8)},
    **{f"mnasnet_{ours}": (f"mnasnet_{ours}", "torchvision", f"mnasnet{theirs}", 64)
       for ours, theirs in (("050", "0_5"), ("075", "0_75"), ("100", "1_0"), ("130", "1_3"))},
    **{f"shufflenet_v2_x{x}": (f"shufflenet_v2_x{x}", "torchvision", f"shufflenet_v2_x{x}", 64)
       for x in ("0_5", "1_0", "1_5", "2_0")},
    "mobilenet_v1": ("mobilenet_v1", "timm", "mobilenetv1_100", 224),
    **{f"mobilenet_v3_{size}": (f"mobilenet_v3_{size}", "torchvision", f"mobilenet_v3_{size}", 64)
       for size in ("small", "large")},
    "alexnet": ("alexnet", "torchvision", "alexnet", 224),
    **{f"convnext_{size}-timm": (f"convnext_{size}", "timm", f"convnext_{size}", 64)
       for size in ("tiny", "small", "base", "large")},
    **{f"convnext_v2_{size}": (f"convnext_v2_{size}", "timm", f"convnextv2_{size}", 64)
       for size in ("atto", "femto", "pico", "nano", "tiny", "base", "large", "huge")},
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


def test_two_variants_of_every_family_that_a_peer_has_are_compared():
    families: dict[str, tuple[set[str], set[str]]] = {}
    files = sorted(path.stem for path in Path(__file__).parent.glob("test_*_parity.py"))
    modules = [importlib.import_module(f"tests.parity.{file}") for file in files]
    compared = {row[0] for module in modules for row in getattr(module, "ROWS", {}).values()}
    for entry in registry.entries():
        with_peer, rows = families.setdefault(entry.about["family"], (set(), set()))
        with_peer |= {entry.name} & set(entry.about.get("peers", {}))
        rows |= {entry.name} & compared
    for family, (with_peer, rows) in families.items():
        assert len(rows) >= min(2, len(with_peer)), f"{family}: {sorted(rows)} of {sorted(with_peer)}"


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


def assert_same_step(ours: nn.Module, theirs: nn.Module, images: torch.Tensor, origin: str) -> None:
    """A training step of both in float64: equal outputs, gradients of every parameter and running statistics. The
    peer's gradients come under our names through the origin's converter, which is linear."""
    gradients = copy.deepcopy(ours)
    outputs = [getattr(out, "logits", out) for out in (ours.train()(images), theirs.train()(images))]
    assert_near(*outputs, 1e-10, "outputs in train mode")
    for logits in outputs:
        nn.functional.cross_entropy(logits, torch.arange(len(images))).backward()
    theirs_gradients = {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in theirs.named_parameters()}
    load_weights(gradients, {**theirs.state_dict(), **theirs_gradients}, origin)
    expected = dict(gradients.named_parameters())
    for n, p in ours.named_parameters():
        if max(p.grad.abs().max(), expected[n].abs().max()) > 1e-13:  # a bias before a norm moves nothing: rounding
            assert_near(p.grad, expected[n], 1e-9, n)
    for n, b in ours.named_buffers():
        assert_near(b.double(), dict(gradients.named_buffers())[n].double(), 1e-10, n)


@contextmanager
def without_random_weights() -> Iterator[None]:
    """For nets whose every weight is set right after: drawing them first is a large part of building a large net."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("kaiming_normal_", "kaiming_uniform_", "trunc_normal_", "normal_", "uniform_", "xavier_uniform_"):
            patch.setattr(nn.init, name, lambda tensor, *_, **__: tensor)
        yield


def pair(row: str, dtype: torch.dtype) -> tuple[nn.Module, nn.Module, torch.Tensor]:
    name, config, origin, make, size = ROWS[row]
    with without_random_weights():
        theirs = make()
        ours = create_model(name, **config)
    randomise(theirs)
    assert load_weights(ours, theirs.state_dict(), origin) == []
    images = torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(1)).to(dtype)
    return ours.to(dtype), theirs.to(dtype), images


@pytest.fixture(scope="module")
def built(request):
    """A row and its `pair`, built once for the three tests that take it: they run one after the other."""
    return request.param, *pair(request.param, torch.float32)


EACH_PAIR = pytest.mark.parametrize("built", ROWS, indirect=True, scope="module")
# A training step takes a second: by default one net of each file takes it, with -m slow the others too.
LAST_OF_FILE = set({registry.index()[ROWS[row][0]]: row for row in ROWS}.values())


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@EACH_PAIR
def test_eval_output_equals_the_peers(built, dtype):
    row, ours, theirs, images = built
    with torch.no_grad():  # float64 holds every float32, so that the change of type can be undone
        found, expected = (net.to(dtype).eval()(images.to(dtype)) for net in (ours, theirs))
    assert_near(found, expected, TOLERANCE[dtype], row)


@pytest.mark.parametrize("built", [pytest.param(row, marks=() if row in LAST_OF_FILE else pytest.mark.slow)
                                   for row in ROWS], indirect=True, scope="module")
def test_training_step_equals_the_peers(built):
    """Outputs, every gradient and the running statistics, in train mode and float64."""
    row, ours, theirs, images = built
    assert_same_step(ours.double(), theirs.double(), images.double(), ROWS[row][2])


@pytest.mark.parametrize("row", ["resnet18-torchvision", "resnet50-torchvision", "resnet18-timm", "vit-timm",
                                 "densenet121-torchvision", "alexnet", "vgg16_bn",
                                 "mobilenet_v1-timm", "mobilenet_v2-torchvision", "mobilenet_v3_small-torchvision",
                                 "shufflenet_v2_x1_0-torchvision", "mnasnet_050-torchvision",
                                 "efficientnet_v2_s-torchvision", "efficientnet_lite0-timm",
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

"""A row for every registered model: what the harness in models/test_every_model.py needs to know.

tiny: config fields that make the smallest honest instance of the same code; size: side in pixels of its
images. slow: the full-size model's fingerprint needs minutes, not seconds. lost: places that a side of a
feature map may lack of size / stride, where convolutions do not pad.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class ModelTestRow:
    params: int
    size: int
    tiny: dict[str, Any] = field(default_factory=dict)
    slow: bool = False
    lost: int = 0


_VIT = {"dim": 24, "depth": 2, "num_heads": 3, "image_size": 64}
_DENSE = {"growth_rate": 8, "depths": (1, 2, 2, 1)}
_VGG = {"dims": (6, 8, 10, 12, 14), "hidden_dim": 24}
_CONVNEXT = {"depths": (1, 1, 2, 1), "dims": (8, 16, 24, 32), "drop_path": 0.1}
_REGNET = {"depth": 6, "w_0": 8, "w_a": 8.0, "w_m": 1.9, "group_width": 4}
MODELS = {
    "softmax_regression": ModelTestRow(7_850, 9, {"image_size": 9}),
    "mlp": ModelTestRow(535_818, 9, {"image_size": 9, "hidden_dims": (12, 8), "dropout": 0.1}),
    "lenet5": ModelTestRow(60_000, 32),
    "lenet5_full": ModelTestRow(61_706, 32),
    "lenet5_relu": ModelTestRow(61_706, 32),
    "resnet20": ModelTestRow(269_722, 16),
    "resnet32": ModelTestRow(464_154, 16, {"shortcut": "B"}),
    "resnet44": ModelTestRow(658_586, 16, {"depth": 1}),
    "resnet56": ModelTestRow(853_018, 16, {"depth": 1}),
    "resnet110": ModelTestRow(1_727_962, 16, {"depth": 1}),
    "resnet1202": ModelTestRow(19_421_274, 16, {"depth": 1}, slow=True),
    "alexnet": ModelTestRow(61_100_840, 63, {"dims": (8, 12, 16, 12, 10), "hidden_dim": 24}),
    "alexnet_original": ModelTestRow(60_965_224, 67, {"dims": (8, 12, 16, 12, 10), "hidden_dim": 24}, lost=1),
    "vgg11": ModelTestRow(132_863_336, 32, _VGG, slow=True),
    "vgg11_lrn": ModelTestRow(132_863_336, 32, _VGG, slow=True),
    "vgg13": ModelTestRow(133_047_848, 32, _VGG, slow=True),
    "vgg16_c": ModelTestRow(133_638_952, 32, _VGG, slow=True),
    "vgg16": ModelTestRow(138_357_544, 32, _VGG, slow=True),
    "vgg19": ModelTestRow(143_667_240, 32, _VGG, slow=True),
    "vgg11_bn": ModelTestRow(132_868_840, 32, _VGG, slow=True),
    "vgg13_bn": ModelTestRow(133_053_736, 32, _VGG, slow=True),
    "vgg16_bn": ModelTestRow(138_365_992, 32, _VGG, slow=True),
    "vgg19_bn": ModelTestRow(143_678_248, 32, _VGG, slow=True),
    "squeezenet1_0": ModelTestRow(1_248_424, 64, lost=3),
    "squeezenet1_1": ModelTestRow(1_235_496, 64, lost=1),
    "all_cnn_c": ModelTestRow(1_369_738, 16, lost=2),
    "preact_resnet110": ModelTestRow(1_727_962, 16, {"depth": 2}),
    "preact_resnet164": ModelTestRow(1_703_258, 16, {"depth": 2}),
    "preact_resnet1001": ModelTestRow(10_327_706, 16, {"depth": 1}, slow=True),
    "wrn28_10": ModelTestRow(36_479_194, 16, {"depth": 1, "width": 2}, slow=True),
    "wrn40_2": ModelTestRow(2_243_546, 16, {"depth": 2, "width": 1, "dropout": 0.1}),
    "wrn16_4": ModelTestRow(2_748_890, 16, {"depth": 1, "width": 2}),
    "nin": ModelTestRow(966_986, 16),
    "resnet18": ModelTestRow(11_689_512, 64),
    "resnet34": ModelTestRow(21_797_672, 64, {"depths": (1, 1, 1, 1)}),
    "resnet50": ModelTestRow(25_557_032, 64, {"depths": (1, 1, 1, 1)}),
    "resnet101": ModelTestRow(44_549_160, 64, {"depths": (1, 1, 1, 1)}, slow=True),
    "resnet152": ModelTestRow(60_192_808, 64, {"depths": (1, 1, 1, 1)}, slow=True),
    "densenet121": ModelTestRow(7_978_856, 64),
    "densenet161": ModelTestRow(28_681_000, 64, _DENSE, slow=True),
    "densenet169": ModelTestRow(14_149_480, 64, _DENSE),
    "densenet201": ModelTestRow(20_013_928, 64, _DENSE, slow=True),
    "densenet_bc_100_12": ModelTestRow(769_162, 16, {"depths": (2, 2, 2), "dropout": 0.2}),
    "densenet_bc_250_24": ModelTestRow(15_324_406, 16, {"depths": (2, 1, 1)}, slow=True),
    "densenet_bc_190_40": ModelTestRow(25_624_430, 16, {"depths": (1, 1, 1)}, slow=True),
    "resnext50_32x4d": ModelTestRow(25_028_904, 64, {"depths": (1, 1, 1, 1), "groups": 4}),
    "resnext101_32x8d": ModelTestRow(88_791_336, 64, {"depths": (1, 1, 1, 1), "groups": 4}, slow=True),
    "resnext101_64x4d": ModelTestRow(83_455_272, 64, {"depths": (1, 1, 1, 1), "groups": 4}, slow=True),
    "wide_resnet50_2": ModelTestRow(68_883_240, 64, {"depths": (1, 1, 1, 1), "width_per_group": 48}, slow=True),
    "wide_resnet101_2": ModelTestRow(126_886_696, 64, {"depths": (1, 1, 1, 1), "width_per_group": 48}, slow=True),
    "googlenet": ModelTestRow(13_004_888, 64, {"aux_heads": False}),
    "convnext_tiny": ModelTestRow(28_589_128, 64, _CONVNEXT, slow=True),
    "convnext_small": ModelTestRow(50_223_688, 64, _CONVNEXT, slow=True),
    "convnext_base": ModelTestRow(88_591_464, 64, _CONVNEXT, slow=True),
    "convnext_large": ModelTestRow(197_767_336, 64, _CONVNEXT, slow=True),
    "regnet_x_400mf": ModelTestRow(5_495_976, 64, _REGNET),
    "regnet_x_800mf": ModelTestRow(7_259_656, 64, _REGNET),
    "regnet_x_1_6gf": ModelTestRow(9_190_136, 64, _REGNET),
    "regnet_x_3_2gf": ModelTestRow(15_296_552, 64, _REGNET),
    "regnet_x_8gf": ModelTestRow(39_572_648, 64, _REGNET, slow=True),
    "regnet_x_16gf": ModelTestRow(54_278_536, 64, _REGNET, slow=True),
    "regnet_x_32gf": ModelTestRow(107_811_560, 64, _REGNET, slow=True),
    "regnet_y_400mf": ModelTestRow(4_344_144, 64, _REGNET),
    "regnet_y_800mf": ModelTestRow(6_432_512, 64, _REGNET),
    "regnet_y_1_6gf": ModelTestRow(11_202_430, 64, _REGNET),
    "regnet_y_3_2gf": ModelTestRow(19_436_338, 64, _REGNET),
    "regnet_y_8gf": ModelTestRow(39_381_472, 64, _REGNET, slow=True),
    "regnet_y_16gf": ModelTestRow(83_590_140, 64, _REGNET, slow=True),
    "regnet_y_32gf": ModelTestRow(145_046_770, 64, _REGNET, slow=True),
    "inception_v3": ModelTestRow(27_161_264, 107, {"aux_head": False, "image_size": 107}, slow=True, lost=3),
    "vit_tiny_16": ModelTestRow(5_717_416, 64, _VIT),
    "vit_small_16": ModelTestRow(22_050_664, 64, _VIT),
    "vit_base_16": ModelTestRow(86_567_656, 64, _VIT, slow=True),
    "vit_base_32": ModelTestRow(88_224_232, 64, _VIT, slow=True),
    "vit_large_16": ModelTestRow(304_326_632, 64, _VIT, slow=True),
    "vit_large_32": ModelTestRow(306_535_400, 64, _VIT, slow=True),
    "mobilenet_v2": ModelTestRow(3_504_872, 64, {"width": 0.35}),
    "mobilenet_v3_small": ModelTestRow(2_542_856, 64, {"width": 0.5}),
    "mobilenet_v3_large": ModelTestRow(5_483_032, 64, {"width": 0.35}),
    "mobilenet_v1_025": ModelTestRow(470_072, 64),
    "mobilenet_v1_050": ModelTestRow(1_331_592, 64, {"width": 0.25}),
    "mobilenet_v1_075": ModelTestRow(2_585_560, 64, {"width": 0.375}),
    "mobilenet_v1": ModelTestRow(4_231_976, 64, {"width": 0.25}),
    "shufflenet_v2_x0_5": ModelTestRow(1_366_792, 64),
    "shufflenet_v2_x1_0": ModelTestRow(2_278_604, 64, {"dims": (16, 24, 32), "last_dim": 40}),
    "shufflenet_v2_x1_5": ModelTestRow(3_503_624, 64, {"dims": (16, 24, 32), "last_dim": 40}),
    "shufflenet_v2_x2_0": ModelTestRow(7_393_996, 64, {"dims": (16, 24, 32), "last_dim": 40}),
    "mnasnet_050": ModelTestRow(2_218_512, 64, {"width": 0.3}),
    "mnasnet_075": ModelTestRow(3_170_208, 64, {"width": 0.25}),
    "mnasnet_100": ModelTestRow(4_383_312, 64, {"width": 0.35}),
    "mnasnet_130": ModelTestRow(6_282_256, 64, {"width": 0.4}),
    "efficientnet_b0": ModelTestRow(5_288_548, 64, {"width": 0.5}),
    "efficientnet_b1": ModelTestRow(7_794_184, 64, {"width": 0.25, "depth": 0.3}),
    "efficientnet_b2": ModelTestRow(9_109_994, 64, {"width": 0.25, "depth": 0.3}),
    "efficientnet_b3": ModelTestRow(12_233_232, 64, {"width": 0.25, "depth": 0.3}),
    "efficientnet_b4": ModelTestRow(19_341_616, 64, {"width": 0.25, "depth": 0.3}),
    "efficientnet_b5": ModelTestRow(30_389_784, 64, {"width": 0.25, "depth": 0.3}),
    "efficientnet_b6": ModelTestRow(43_040_704, 64, {"width": 0.25, "depth": 0.3}, slow=True),
    "efficientnet_b7": ModelTestRow(66_347_960, 64, {"width": 0.25, "depth": 0.3}, slow=True),
}

"""A row for every registered model: what the harness in models/test_every_model.py needs to know.

tiny: config fields that make the smallest honest instance of the same code; size: side in pixels of its
images. slow: the full-size model's fingerprint needs minutes, not seconds.
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


_VIT = {"dim": 24, "depth": 2, "num_heads": 3, "image_size": 64}
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
    "resnet18": ModelTestRow(11_689_512, 64),
    "resnet34": ModelTestRow(21_797_672, 64, {"depths": (1, 1, 1, 1)}),
    "resnet50": ModelTestRow(25_557_032, 64, {"depths": (1, 1, 1, 1)}),
    "resnet101": ModelTestRow(44_549_160, 64, {"depths": (1, 1, 1, 1)}, slow=True),
    "resnet152": ModelTestRow(60_192_808, 64, {"depths": (1, 1, 1, 1)}, slow=True),
    "vit_tiny_16": ModelTestRow(5_717_416, 64, _VIT),
    "vit_small_16": ModelTestRow(22_050_664, 64, _VIT),
    "vit_base_16": ModelTestRow(86_567_656, 64, _VIT, slow=True),
    "vit_base_32": ModelTestRow(88_224_232, 64, _VIT, slow=True),
    "vit_large_16": ModelTestRow(304_326_632, 64, _VIT, slow=True),
    "vit_large_32": ModelTestRow(306_535_400, 64, _VIT, slow=True),
}

"""Maps of four strides from the one map of a plain vision transformer.

Paper: Li et al., Exploring Plain Vision Transformer Backbones for Object Detection (ViTDet), ECCV 2022,
arXiv:2203.16527, section 3: the last map alone, scaled by 4, 2, 1 and 1/2. Parameters carry detectron2's names.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from torch import Tensor, nn

from visus.core.validate import positive, require
from visus.layers.channel_norm import ChannelNorm

NORM_EPS = 1e-6


class NormedConv(nn.Conv2d):
    """Convolution without bias, then a norm over channels: [B, in_channels, H, W] -> [B, out_channels, H, W]."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int):
        super().__init__(in_channels, out_channels, kernel, padding=kernel // 2, bias=False)
        self.norm = ChannelNorm(out_channels, eps=NORM_EPS)

    def forward(self, maps: Tensor) -> Tensor:
        return self.norm(super().forward(maps))


class SimpleFeaturePyramid(nn.Module):
    """One map [B, in_channels, h, w] of a backbone's `features` -> maps [B, out_channels, .., ..] of 4 h, 2 h, h and
    h / 2 rows (rounded down), and columns alike. stride: of the map, 16 in the paper; those of the maps are stride / 4
    to 2 stride, which are no whole numbers for some patches (3.5 to 28 for 14)."""

    def __init__(self, in_channels: int, stride: int = 16, out_channels: int = 256):
        super().__init__()
        positive(in_channels=in_channels, stride=stride, out_channels=out_channels)
        require(in_channels % 4 == 0, "in_channels", in_channels, "be a multiple of 4")
        half, quarter = in_channels // 2, in_channels // 4
        scaled: dict[int, tuple[list[nn.Module], int]] = {  # level (log2 of the paper's stride) -> layers, width
            2: ([nn.ConvTranspose2d(in_channels, half, 2, 2), ChannelNorm(half, eps=NORM_EPS), nn.GELU(),
                 nn.ConvTranspose2d(half, quarter, 2, 2)], quarter),
            3: ([nn.ConvTranspose2d(in_channels, half, 2, 2)], half),
            4: ([], in_channels),
            5: ([nn.MaxPool2d(2)], in_channels),
        }
        for level, (layers, dim) in scaled.items():
            self.add_module(f"simfp_{level}", nn.Sequential(*layers, NormedConv(dim, out_channels, 1),
                                                            NormedConv(out_channels, out_channels, 3)))
        self.feature_channels = (out_channels,) * 4
        strides = [Fraction(stride, 4) * 2**i for i in range(4)]
        self.feature_strides = tuple(int(each) if each.denominator == 1 else float(each) for each in strides)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """maps: what `features` gives, of which the last is read."""
        return [getattr(self, f"simfp_{level}")(maps[-1]) for level in (2, 3, 4, 5)]

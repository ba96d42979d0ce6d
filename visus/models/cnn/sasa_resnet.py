"""Stand-alone self-attention: a ResNet whose 3 x 3 convolutions are attention of each pixel to its neighbours.

Paper: Ramachandran, Parmar, Vaswani, Bello, Levskaya, Shlens, Stand-Alone Self-Attention in Vision Models, NeurIPS
2019, arXiv:1906.05909. A pixel's scores for the k x k places around it are q . k + q . r, where r joins an embedding
of the row offset and one of the column offset (equation 3); a block that halves its maps averages 2 x 2 places after
its attention. The stem attends within blocks of 4 x 4 pixels, with values whose matrix is a mixture that depends on the
place in the block (section 3.2.2), then takes each block's maximum. The paper leaves open and is chosen here: places
outside of the map have zero keys and values, as a convolution's padding; shortcuts and head are ResNet's.
Memory: each attention holds the neighbours' keys and values, together 2 k^2 (98) numbers for each channel and place.
forward: images [B, C, H, W], normalised -> logits [B, num_classes].
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visus import models
from visus.core.validate import one_of, positive, require
from visus.ops.attention import attend

DIMS = (64, 128, 256, 512)
EXPANSION = 4
BLOCK = 4  # side of the stem's blocks


@dataclass(frozen=True, kw_only=True)
class SASAResNetConfig:
    """depths: residual blocks of each of the four stages. attention: which of the stages attend; the others keep their
    3 x 3 convolutions, as in section 4.4. stem: 'attention' or 'conv' (ResNet's). kernel: side of a pixel's
    neighbourhood. mixtures: matrices that the values of the stem are mixed from. dims: inner channels of the stages'
    blocks."""

    depths: tuple[int, ...] = (3, 4, 6, 3)
    attention: tuple[bool, ...] = (True, True, True, True)
    stem: str = "attention"
    kernel: int = 7
    num_heads: int = 8
    mixtures: int = 4
    dims: tuple[int, ...] = DIMS
    in_channels: int = 3
    num_classes: int = 1000

    def __post_init__(self) -> None:
        for field in ("depths", "attention", "dims"):
            value = getattr(self, field)
            require(isinstance(value, tuple) and len(value) == 4, field, value, "have four entries, one a stage")
        for depth in self.depths:
            positive(depths=depth)
        require(all(isinstance(value, bool) for value in self.attention), "attention", self.attention,
                "be true or false for each stage")
        one_of(("attention", "conv"), stem=self.stem)
        positive(kernel=self.kernel, num_heads=self.num_heads, mixtures=self.mixtures, in_channels=self.in_channels,
                 num_classes=self.num_classes)
        require(self.kernel % 2 == 1, "kernel", self.kernel, "be odd")
        for dim in self.dims:
            positive(dims=dim)
            require(dim % (2 * self.num_heads) == 0, "dims", self.dims,
                    f"be multiples of 2 num_heads={2 * self.num_heads}")


def neighbours(maps: Tensor, kernel: int) -> Tensor:
    """[B, H, W, C] -> a view [B, H, W, kernel, kernel, C]: for each place the values around it, zeros outside of the
    map."""
    side = kernel // 2
    padded = F.pad(maps, (0, 0, side, side, side, side))
    return padded.unfold(1, kernel, 1).unfold(2, kernel, 1).permute(0, 1, 2, 4, 5, 3)


class LocalAttention(nn.Module):
    """Equation 3 in several heads: [B, in_dim, H, W] -> [B, dim, H, W]."""

    def __init__(self, in_dim: int, dim: int, kernel: int, num_heads: int):
        super().__init__()
        self.kernel = kernel
        self.num_heads = num_heads
        self.query = nn.Linear(in_dim, dim, bias=False)
        self.key = nn.Linear(in_dim, dim, bias=False)
        self.value = nn.Linear(in_dim, dim, bias=False)
        self.row_offset = nn.Parameter(torch.empty(kernel, num_heads, dim // num_heads // 2))
        self.column_offset = nn.Parameter(torch.empty(kernel, num_heads, dim // num_heads // 2))

    def relative(self) -> Tensor:
        """[kernel, kernel, dim]: r for each offset; of each head the first half tells rows apart, the second
        columns."""
        size = (self.kernel, self.kernel, -1, -1)
        rows, columns = self.row_offset[:, None].expand(size), self.column_offset[None].expand(size)
        return torch.cat([rows, columns], dim=3).flatten(2)  # [kernel, kernel, heads, dim / heads] -> joined

    def forward(self, maps: Tensor) -> Tensor:
        places = maps.permute(0, 2, 3, 1)  # [B, H, W, in_dim]
        q, shape = self.query(places), places.shape[:3]
        k = neighbours(self.key(places), self.kernel) + self.relative()  # q . k + q . r = q . (k + r)
        v = neighbours(self.value(places), self.kernel)
        q = q.reshape(-1, 1, self.num_heads, q.shape[3] // self.num_heads).transpose(1, 2)  # [B H W, heads, 1, d]
        k, v = (t.reshape(q.shape[0], self.kernel**2, self.num_heads, -1).transpose(1, 2) for t in (k, v))
        out = attend(q, k, v, scale=1.0)  # [B H W, heads, 1, d]
        return out.reshape(*shape, -1).permute(0, 3, 1, 2)


class AttentionStem(nn.Module):
    """[B, C, H, W] -> [B, dim, H / 4, W / 4]. Sides that are no multiples of 4 are filled up with zeros."""

    def __init__(self, in_channels: int, dim: int, num_heads: int, mixtures: int):
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(in_channels, dim, bias=False)
        self.key = nn.Linear(in_channels, dim, bias=False)
        self.value = nn.Parameter(torch.empty(mixtures, dim, in_channels))
        self.row = nn.Parameter(torch.empty(BLOCK, dim))
        self.column = nn.Parameter(torch.empty(BLOCK, dim))
        self.mixture = nn.Parameter(torch.empty(mixtures, dim))
        self.bn = nn.BatchNorm2d(dim)

    def values(self, pixels: Tensor) -> Tensor:
        """[B, blocks, 16, C] -> [B, blocks, 16, dim], by the matrices sum_m p(a, b, m) W_m of the places (a, b)."""
        places = (self.row[:, None] + self.column).flatten(0, 1)  # [16, dim]
        shares = (places @ self.mixture.T).softmax(dim=1)  # [16, mixtures]
        matrices = torch.einsum("pm,mdc->pcd", shares, self.value)
        return (pixels.transpose(1, 2).flatten(0, 1).unflatten(0, (-1, BLOCK**2)) @ matrices).transpose(1, 2)

    def forward(self, images: Tensor) -> Tensor:
        images = F.pad(images, (0, -images.shape[3] % BLOCK, 0, -images.shape[2] % BLOCK))
        batch, channels, height, width = images.shape
        rows, columns = height // BLOCK, width // BLOCK
        pixels = images.reshape(batch, channels, rows, BLOCK, columns, BLOCK).permute(0, 2, 4, 3, 5, 1)
        pixels = pixels.reshape(batch, rows * columns, BLOCK**2, channels)
        q, k, v = (t.reshape(batch * rows * columns, BLOCK**2, self.num_heads, -1).transpose(1, 2)
                   for t in (self.query(pixels), self.key(pixels), self.values(pixels)))  # [blocks, heads, 16, d]
        out = attend(q, k, v, scale=1.0).transpose(1, 2).reshape(batch, rows, columns, BLOCK**2, -1)
        out = self.bn(out.permute(0, 4, 1, 2, 3).flatten(3))  # [B, dim, rows, columns * 16]
        return out.unflatten(3, (columns, BLOCK**2)).amax(4)


class Bottleneck(nn.Module):
    """1 x 1 down, attention or 3 x 3, 1 x 1 up, added to the shortcut: [B, in_dim, H, W] ->
    [B, 4 dim, H / stride, W / stride]."""

    def __init__(self, in_dim: int, dim: int, stride: int, kernel: int, num_heads: int | None):
        super().__init__()
        out_dim = EXPANSION * dim
        self.conv1 = nn.Conv2d(in_dim, dim, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(dim)
        self.pool = num_heads is not None and stride > 1
        if num_heads is None:
            self.conv2: nn.Module = nn.Conv2d(dim, dim, 3, stride, 1, bias=False)
        else:
            self.conv2 = LocalAttention(dim, dim, kernel, num_heads)
        self.bn2 = nn.BatchNorm2d(dim)
        self.conv3 = nn.Conv2d(dim, out_dim, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_dim)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if stride > 1 or in_dim != out_dim:
            self.downsample = nn.Sequential(nn.Conv2d(in_dim, out_dim, 1, stride, bias=False), nn.BatchNorm2d(out_dim))

    def forward(self, maps: Tensor) -> Tensor:
        out = self.conv2(self.relu(self.bn1(self.conv1(maps))))
        if self.pool:
            out = F.avg_pool2d(out, 2, ceil_mode=True)
        out = self.bn3(self.conv3(self.relu(self.bn2(out))))
        out += maps if self.downsample is None else self.downsample(maps)
        return self.relu(out)


class SASAResNet(nn.Module):
    Config = SASAResNetConfig

    def __init__(self, config: SASAResNetConfig):
        super().__init__()
        self.config = config
        in_dim = config.dims[0]
        if config.stem == "attention":
            self.stem: nn.Module = AttentionStem(config.in_channels, in_dim, config.num_heads, config.mixtures)
        else:
            self.stem = nn.Sequential(nn.Conv2d(config.in_channels, in_dim, 7, 2, 3, bias=False),
                                      nn.BatchNorm2d(in_dim), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1))
        stages = []
        for number, (dim, depth, attends) in enumerate(zip(config.dims, config.depths, config.attention, strict=True)):
            blocks = []
            for i in range(depth):
                blocks.append(Bottleneck(in_dim, dim, 2 if i == 0 and number else 1, config.kernel,
                                         config.num_heads if attends else None))
                in_dim = EXPANSION * dim
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.ModuleList(stages)
        self.fc = nn.Linear(in_dim, config.num_classes)
        self.feature_channels = tuple(EXPANSION * dim for dim in config.dims)
        self.feature_strides = (4, 8, 16, 32)
        self._initialise()

    def _initialise(self) -> None:
        """Scores of about unit size: queries get the 1 / sqrt(d) that the paper's scores lack."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(module, LocalAttention | AttentionStem):
                dim, in_dim = module.query.weight.shape
                nn.init.normal_(module.query.weight, std=math.sqrt(module.num_heads / (dim * in_dim)))
                nn.init.normal_(module.key.weight, std=in_dim**-0.5)
                matrix = module.value if isinstance(module, AttentionStem) else module.value.weight
                nn.init.normal_(matrix, std=in_dim**-0.5)
                others = ((module.row, module.column, module.mixture) if isinstance(module, AttentionStem)
                          else (module.row_offset, module.column_offset))
                for parameter in others:
                    nn.init.normal_(parameter, std=dim**-0.25 if isinstance(module, AttentionStem) else 1.0)

    def features(self, images: Tensor) -> list[Tensor]:
        """[B, C, H, W] -> maps of strides 4, 8, 16 and 32."""
        maps, out = self.stem(images), []
        for stage in self.stages:
            maps = stage(maps)
            out.append(maps)
        return out

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.features(images)[-1].mean((2, 3)))


_DEPTHS = {"26": (1, 2, 4, 1), "38": (2, 3, 5, 2), "50": (3, 4, 6, 3)}
VARIANTS = {
    **{f"sasa_resnet{size}": {"depths": depths} for size, depths in _DEPTHS.items()},
    **{f"sasa_resnet{size}_conv_stem": {"depths": depths, "stem": "conv"} for size, depths in _DEPTHS.items()},
}

_TABLE_1 = "Ramachandran et al. 2019 (from memory), Table 1"
_HALF = f"{_TABLE_1}: half of its {{}}e9 FLOPs, where a multiplication and an addition are two"
_FOLDED = "q . k + q . r is computed as q . (k + r) here; counted apart, as in the paper, it comes to {}e9"
_STEM = (f"{_FOLDED}, with every matrix of the stem's mixture applied to every pixel, too; how the paper counts the "
         "rest of its stem is not said")
_PARAMS_38 = "14.18 million, which the paper may have cut"


def _published(params: str, flops: str, top1: str, reason: str) -> list[dict[str, str]]:
    macs = f"{float(flops) / 2:.2f}e9"
    return [{"what": "params", "value": params, "source": _TABLE_1, "reason": _PARAMS_38},
            {"what": "macs", "value": macs, "source": _HALF.format(flops), "reason": reason},
            {"what": "top1", "value": top1, "data": "ImageNet-1k", "source": _TABLE_1}]


PUBLISHED = {
    "sasa_resnet26": _published("10.3e6", "4.7", "74.8", _STEM.format("2.28")),
    "sasa_resnet38": _published("14.1e6", "6.0", "76.9", _STEM.format("2.91")),
    "sasa_resnet50": _published("18.0e6", "7.2", "77.6", _STEM.format("3.53")),
    "sasa_resnet26_conv_stem": _published("10.3e6", "4.5", "75.8", _FOLDED.format("2.24")),
    "sasa_resnet38_conv_stem": _published("14.1e6", "5.7", "77.1", _FOLDED.format("2.86")),
    "sasa_resnet50_conv_stem": _published("18.0e6", "7.0", "77.4", _FOLDED.format("3.48")),
}

models.add(SASAResNet, VARIANTS, family="sasa_resnet", task="classification", published=PUBLISHED,
           paper="Ramachandran, Parmar, Vaswani, Bello, Levskaya, Shlens: Stand-Alone Self-Attention in Vision Models, "
                 "NeurIPS 2019, arXiv:1906.05909",
           preprocessing={"size": (224, 224), "resize": "crop", "crop_fraction": 0.875})

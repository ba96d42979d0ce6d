"""Networks that make pictures in one pass: style transfer, super-resolution, textures from noise.

Papers: Johnson, Alahi, Fei-Fei, Perceptual Losses for Real-Time Style Transfer and Super-Resolution, ECCV 2016,
arXiv:1603.08155, with the layer tables of its supplement: `StyleNet` (1,679,235 parameters) and `SuperNet`. Ulyanov,
Vedaldi, Lempitsky, Instance Normalization, 2016, arXiv:1607.08022: norm='instance' in place of batch norm. Dumoulin,
Shlens, Kudlur, A Learned Representation for Artistic Style, ICLR 2017, arXiv:1610.07629: norm='conditional', a scale
and shift for each style, mixed between styles; mirrored borders and nearest-neighbour upsampling (`DUMOULIN`). Ulyanov,
Lebedev, Vedaldi, Lempitsky, Texture Networks, ICML 2016, arXiv:1603.03417: `TextureNet`. Departures: images are [0, 1]
at both ends, and enter as [-1, 1]; the tables say nothing of biases: every convolution has one. These networks have no
classes and no public weights, so they are not in the registry of models: `visus.run.style` trains and applies them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from visus.core.errors import UserError
from visus.core.validate import one_of, positive, require

Norm = Literal["batch", "instance", "conditional"]
NORMS = ("batch", "instance", "conditional")


@dataclass(frozen=True, kw_only=True)
class StyleNetConfig:
    """dims: filters at full, half and quarter resolution. depth: residual blocks. norm: 'batch', 'instance' or
    'conditional' with a scale and shift for each of num_styles. padding: 'border', the paper's: mirrored once about the
    image, none in the residual blocks; or 'mirror': mirrored before each convolution. upsample: 'transposed', the
    paper's, or 'nearest' and a convolution. output: 'tanh', scaled to [0, 1], or 'sigmoid'."""

    dims: tuple[int, int, int] = (32, 64, 128)
    depth: int = 5
    norm: Norm = "batch"
    num_styles: int = 1
    padding: str = "border"
    upsample: str = "transposed"
    output: str = "tanh"
    in_channels: int = 3

    def __post_init__(self) -> None:
        require(len(self.dims) == 3, "dims", self.dims, "be three filter counts")
        positive(depth=self.depth, num_styles=self.num_styles, in_channels=self.in_channels,
                 **{f"dims[{n}]": dim for n, dim in enumerate(self.dims)})
        one_of(NORMS, norm=self.norm)
        one_of(("border", "mirror"), padding=self.padding)
        one_of(("transposed", "nearest"), upsample=self.upsample)
        one_of(("tanh", "sigmoid"), output=self.output)
        require(self.num_styles == 1 or self.norm == "conditional", "num_styles", self.num_styles,
                "be 1 unless norm='conditional'")


JOHNSON = StyleNetConfig()
INSTANCE = StyleNetConfig(norm="instance")


def dumoulin(num_styles: int) -> StyleNetConfig:
    """The network of Dumoulin et al., Table 1."""
    return StyleNetConfig(norm="conditional", num_styles=num_styles, padding="mirror", upsample="nearest",
                          output="sigmoid")


class ConditionalInstanceNorm2d(nn.Module):
    """gamma_s (x - mu) / sigma + beta_s, mean and spread over the places of each image and channel: Dumoulin et al.,
    equation 5. The scale and shift of a mixture of styles are the mixture of theirs, section 3.3."""

    def __init__(self, channels: int, num_styles: int, eps: float = 1e-5):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(num_styles, channels))
        self.bias = nn.Parameter(torch.zeros(num_styles, channels))

    def forward(self, maps: Tensor, shares: Tensor) -> Tensor:
        """maps: [B, C, H, W]. shares: [B, num_styles], of each style in each image."""
        scale, shift = (shares @ table for table in (self.weight, self.bias))  # [B, C]
        return F.instance_norm(maps, eps=self.eps) * scale[:, :, None, None] + shift[:, :, None, None]


class _Norm(nn.Module):
    """Batch, instance or conditional norm behind one call, (maps, shares)."""

    def __init__(self, kind: str, channels: int, num_styles: int):
        super().__init__()
        self.conditional = kind == "conditional"
        if kind == "batch":
            self.norm: nn.Module = nn.BatchNorm2d(channels)
        elif kind == "instance":
            self.norm = nn.InstanceNorm2d(channels, affine=True)
        else:
            self.norm = ConditionalInstanceNorm2d(channels, num_styles)

    def forward(self, maps: Tensor, shares: Tensor | None) -> Tensor:
        return self.norm(maps, shares) if self.conditional else self.norm(maps)


class _Conv(nn.Module):
    """Convolution, norm, ReLU. up: doubles the resolution."""

    def __init__(self, config: StyleNetConfig, in_dim: int, dim: int, kernel: int, stride: int = 1, up: bool = False):
        super().__init__()
        transposed = up and config.upsample == "transposed"
        mirror = "reflect" if config.padding == "mirror" else "zeros"
        self.enlarge = up and not transposed
        self.conv: nn.Module = nn.ConvTranspose2d(in_dim, dim, kernel, 2, kernel // 2, 1) if transposed else \
            nn.Conv2d(in_dim, dim, kernel, stride, kernel // 2, padding_mode=mirror)
        self.norm = _Norm(config.norm, dim, config.num_styles)

    def forward(self, maps: Tensor, shares: Tensor | None) -> Tensor:
        if self.enlarge:
            maps = F.interpolate(maps, scale_factor=2.0, mode="nearest")
        return self.norm(self.conv(maps), shares).relu()


class _Residual(nn.Module):
    """Two 3 x 3 convolutions and a shortcut, without a ReLU behind it (Gross, Wilber, as Johnson et al. cite them).
    padded='none' takes two pixels off each side, of the shortcut too."""

    def __init__(self, dim: int, norm: str, num_styles: int, padded: str):
        super().__init__()
        mode = "reflect" if padded == "mirror" else "zeros"
        padding = 0 if padded == "none" else 1
        self.cut = 2 if padded == "none" else 0
        self.conv1 = nn.Conv2d(dim, dim, 3, padding=padding, padding_mode=mode)
        self.norm1 = _Norm(norm, dim, num_styles)
        self.conv2 = nn.Conv2d(dim, dim, 3, padding=padding, padding_mode=mode)
        self.norm2 = _Norm(norm, dim, num_styles)

    def forward(self, maps: Tensor, shares: Tensor | None) -> Tensor:
        branch = self.norm2(self.conv2(self.norm1(self.conv1(maps), shares).relu()), shares)
        if self.cut:
            maps = maps[:, :, self.cut:-self.cut, self.cut:-self.cut]
        return maps + branch


class StyleNet(nn.Module):
    """images [B, C, H, W] in [0, 1] -> images of the same size in [0, 1]. H and W: any of at least 44 pixels (16 with
    padding='mirror'); those that are no multiple of 4 are mirrored up to one and cut back.

    style, of a conditional one: int64 [B], or float [B, num_styles], the share of each style, which are not scaled to
    sum to 1: styles may be mixed, and exaggerated."""

    Config = StyleNetConfig

    def __init__(self, config: StyleNetConfig = JOHNSON):
        super().__init__()
        self.config = config
        full, half, quarter = config.dims
        padded = "none" if config.padding == "border" else "mirror"
        self.down = nn.ModuleList([_Conv(config, config.in_channels, full, 9), _Conv(config, full, half, 3, 2),
                                   _Conv(config, half, quarter, 3, 2)])
        self.blocks = nn.ModuleList(_Residual(quarter, config.norm, config.num_styles, padded)
                                    for _ in range(config.depth))
        self.up = nn.ModuleList([_Conv(config, quarter, half, 3, up=True), _Conv(config, half, full, 3, up=True)])
        self.last = nn.Conv2d(full, config.in_channels, 9, padding=4,
                              padding_mode="reflect" if config.padding == "mirror" else "zeros")
        self.border = 8 * config.depth if config.padding == "border" else 0  # 40 in the paper
        self.least = max(self.border + 4, 16)

    def forward(self, images: Tensor, style: Tensor | None = None) -> Tensor:
        height, width = images.shape[2:]
        if min(height, width) < self.least:
            raise UserError("the image is too small for its mirrored border", where=f"{height}x{width}",
                            remedy=f"Give at least {self.least} pixels a side")
        shares = self._shares(images, style)
        border = self.border
        maps = F.pad(2 * images - 1, (border, border + -width % 4, border, border + -height % 4), mode="reflect")
        for layer in self.down:
            maps = layer(maps, shares)
        for block in self.blocks:
            maps = block(maps, shares)
        for layer in self.up:
            maps = layer(maps, shares)
        return _pixels(self.last(maps), self.config.output)[:, :, :height, :width]

    def _shares(self, images: Tensor, style: Tensor | None) -> Tensor | None:
        """[B, num_styles], or None for a network of one style without conditional norms."""
        count = self.config.num_styles
        if self.config.norm != "conditional":
            require(style is None, "style", style, "be left out: the network has one style")
            return None
        if style is None:
            require(count == 1, "style", style, f"name one of the {count} styles of each image")
            return images.new_ones(len(images), 1)
        if style.is_floating_point():
            require(style.shape == (len(images), count), "style", tuple(style.shape), f"be [{len(images)}, {count}]")
            return style.to(images)
        require(style.shape == (len(images),) and int(style.min()) >= 0 and int(style.max()) < count, "style",
                style.tolist(), f"hold one number from 0 to {count - 1} for each image")
        return F.one_hot(style, count).to(images)


def _pixels(maps: Tensor, output: str) -> Tensor:
    return maps.sigmoid() if output == "sigmoid" else (maps.tanh() + 1) / 2


# -- super-resolution ----------------------------------------------------------------------------------------------


class SuperNet(nn.Module):
    """images [B, C, H, W] in [0, 1] -> [B, C, scale H, scale W] in [0, 1]: Johnson et al., supplement, Table 2. `dim`
    filters throughout, `depth` residual blocks (padded) at the small size, log2(scale) convolutions of stride 1/2."""

    def __init__(self, scale: int = 4, *, dim: int = 64, depth: int = 4, in_channels: int = 3):
        super().__init__()
        require(scale in (2, 4, 8, 16), "scale", scale, "be 2, 4, 8 or 16")
        positive(dim=dim, depth=depth, in_channels=in_channels)
        self.scale = scale
        about = StyleNetConfig(in_channels=in_channels)
        self.first = _Conv(about, in_channels, dim, 9)
        self.blocks = nn.ModuleList(_Residual(dim, "batch", 1, "zeros") for _ in range(depth))
        self.up = nn.ModuleList(_Conv(about, dim, dim, 3, up=True) for _ in range(round(math.log2(scale))))
        self.last = nn.Conv2d(dim, in_channels, 9, padding=4)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.first(2 * images - 1, None)
        for block in self.blocks:
            maps = block(maps, None)
        for layer in self.up:
            maps = layer(maps, None)
        return _pixels(self.last(maps), "tanh")


# -- textures ------------------------------------------------------------------------------------------------------


class _CircularBlock(nn.Module):
    """Two 3 x 3 convolutions and one 1 x 1, each with a norm and a leaky ReLU, on a picture without borders."""

    def __init__(self, in_dim: int, dim: int, norm: str):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(before, dim, kernel, padding=kernel // 2, padding_mode="circular")
                                   for before, kernel in ((in_dim, 3), (dim, 3), (dim, 1)))
        self.norms = nn.ModuleList(_Norm(norm, dim, 1) for _ in range(3))

    def forward(self, maps: Tensor) -> Tensor:
        for conv, norm in zip(self.convs, self.norms, strict=True):
            maps = F.leaky_relu(norm(conv(maps), None), 0.01)
        return maps


class TextureNet(nn.Module):
    """Noise at several scales -> textures [B, C, H, W] in [0, 1], seamless: Ulyanov et al., Texture Networks, Fig. 2.

    Noise of the smallest size goes through a block of `dim` filters; it is doubled in size and joined (each side with a
    norm of its own) to a block on the noise of the next size, and so on: with 5 scales and 8 filters 8, 16, 24, 32 and
    40 channels. norm: 'batch' as the paper, or 'instance'."""

    def __init__(self, *, scales: int = 5, dim: int = 8, norm: str = "batch", in_channels: int = 3,
                 noise_channels: int = 3):
        super().__init__()
        positive(scales=scales, dim=dim, in_channels=in_channels, noise_channels=noise_channels)
        one_of(("batch", "instance"), norm=norm)
        self.scales, self.noise_channels = scales, noise_channels
        self.entries = nn.ModuleList(_CircularBlock(noise_channels, dim, norm) for _ in range(scales))
        self.deep_norms = nn.ModuleList(_Norm(norm, n * dim, 1) for n in range(1, scales))
        self.entry_norms = nn.ModuleList(_Norm(norm, dim, 1) for _ in range(1, scales))
        self.joined = nn.ModuleList(_CircularBlock(n * dim, n * dim, norm) for n in range(2, scales + 1))
        self.last = nn.Conv2d(scales * dim, in_channels, 1)

    def noise(self, count: int, size: tuple[int, int], generator: Generator | None = None) -> list[Tensor]:
        """Uniform in [0, 1], [count, noise_channels, h, w] for each scale, the smallest first."""
        step = 2 ** (self.scales - 1)
        require(min(size) >= 2 * step and size[0] % step == 0 and size[1] % step == 0, "size", size,
                f"be multiples of {step}, of at least {2 * step}")
        device = self.last.weight.device
        return [torch.rand(count, self.noise_channels, size[0] >> n, size[1] >> n, generator=generator).to(device)
                for n in reversed(range(self.scales))]

    def forward(self, noise: list[Tensor]) -> Tensor:
        maps = self.entries[0](noise[0])
        for number, draws in enumerate(noise[1:]):
            deep = F.interpolate(maps, scale_factor=2.0, mode="nearest")
            pair = (self.deep_norms[number](deep, None),
                    self.entry_norms[number](self.entries[number + 1](draws), None))
            maps = self.joined[number](torch.cat(pair, dim=1))  # [B, n dim] and [B, dim] -> [B, (n + 1) dim]
        return _pixels(self.last(maps), "sigmoid")

"""FractalNet: very deep without residuals, as short and long paths of one fractal meet again and again.

Paper: Larsson, Maire, Shakhnarovich, FractalNet: Ultra-Deep Neural Networks without Residuals, ICLR 2017,
arXiv:1605.07648. A fractal of one column is a convolution; one more column puts two copies in a row and a convolution
beside them: f_{C+1}(z) = [f_C(f_C(z))] join [conv(z)], so column k of C has 2^k convolutions in a block. A join is the
mean of its inputs. Drop-path (section 3) drops inputs of joins in training, for half of the images each on its own
(local), for the others all but one column of the whole network (global); then each column can be used alone, see
`column`. Departures: paths are drawn for each image, not for a mini-batch, so that shapes do not depend on chance;
dropout follows each block's pooling; the last maps are averaged, which does nothing at 32 pixels and admits others.
forward: images [B, C, H, W], normalised, H and W of at least 2^blocks -> logits [B, num_classes].
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visus import models
from visus.core.validate import positive, probability, require
from visus.layers.conv import conv_bn_act
from visus.layers.image_size import require_size

GLOBAL_SHARE = 0.5  # of the images, in training


@dataclass(frozen=True, kw_only=True)
class FractalNetConfig:
    """columns: C; a block is 2^(C - 1) convolutions deep. dims: channels of each block, which ends in a halving.
    dropouts: after each block. drop_path: an input of a join is dropped at this rate where paths are drawn locally;
    0 switches global drop-path off too."""

    columns: int = 3
    dims: tuple[int, ...] = (64, 128, 256, 512, 512)
    dropouts: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3, 0.4)
    drop_path: float = 0.15
    in_channels: int = 3
    num_classes: int = 10

    def __post_init__(self) -> None:
        positive(columns=self.columns, in_channels=self.in_channels, num_classes=self.num_classes)
        require(self.columns <= 8, "columns", self.columns, "be at most 8: 128 convolutions in a row")
        require(isinstance(self.dims, tuple) and len(self.dims) > 0, "dims", self.dims, "be channel counts")
        require(isinstance(self.dropouts, tuple) and len(self.dropouts) == len(self.dims), "dropouts", self.dropouts,
                f"be {len(self.dims)} rates, as many as dims")
        for dim, rate in zip(self.dims, self.dropouts, strict=True):
            positive(dims=dim)
            probability(dropouts=rate)
        probability(drop_path=self.drop_path)


def draw_shares(num_inputs: int, rate: float, chosen: Tensor) -> Tensor:
    """The share of each input of one join for each image: [B, num_inputs], rows that sum to 1.

    chosen: int64 [B], the input that an image keeps; -1 where it drops each at `rate` instead, but never all; and past
    the last where the column that it keeps does not enter this join, which then keeps all and is not seen from the
    output."""
    batch, device = len(chosen), chosen.device
    keep = torch.rand(batch, num_inputs, device=device) >= rate
    survivor = F.one_hot(torch.randint(num_inputs, (batch,), device=device), num_inputs).bool()
    keep = torch.where(keep.any(1, keepdim=True), keep, survivor)
    one = torch.arange(num_inputs, device=device) == chosen[:, None]  # [B, num_inputs]
    one = one | ~one.any(1, keepdim=True)
    shares = torch.where((chosen >= 0)[:, None], one, keep).float()
    return shares / shares.sum(1, keepdim=True)


def join(inputs: list[Tensor], shares: Tensor | None) -> Tensor:
    """Mean of maps [B, D, H, W], weighted by `shares` [B, len(inputs)] where given."""
    if len(inputs) == 1:
        return inputs[0]
    if shares is None:
        out = inputs[0] + inputs[1]
        for maps in inputs[2:]:
            out = out + maps
        return out / len(inputs)
    weights = shares.to(inputs[0].dtype).unsqueeze(-1).unsqueeze(-1)  # [B, n, 1, 1]
    out = inputs[0] * weights[:, 0:1]
    for i, maps in enumerate(inputs[1:], 1):
        out = torch.addcmul(out, maps, weights[:, i:i + 1])
    return out


class FractalBlock(nn.Module):
    """f_C: [B, in_dim, H, W] -> [B, dim, H, W]. columns[k] holds the 2^k convolutions of column k in order."""

    def __init__(self, in_dim: int, dim: int, columns: int, drop_path: float):
        super().__init__()
        self.columns = nn.ModuleList([
            nn.ModuleList([conv_bn_act(in_dim if i == 0 else dim, dim, 3) for i in range(2**k)])
            for k in range(columns)])
        self.drop_path = drop_path

    def forward(self, maps: Tensor, chosen: Tensor | None) -> Tensor:
        """chosen: int64 [B], the column that each image keeps, or -1 to draw its paths here; None: all are kept."""
        last = len(self.columns) - 1
        depth = 2**last
        states = [maps] * (last + 1)  # what the next convolution of each column reads
        for step in range(1, depth + 1):
            ending = [k for k in range(last + 1) if step % 2**(last - k) == 0]  # columns last, last - 1, ...
            outs = [self.columns[k][step // 2**(last - k) - 1](states[k]) for k in ending]
            shares = None
            if chosen is not None and len(ending) > 1:
                first = ending[0]
                shares = draw_shares(len(ending), self.drop_path, torch.where(
                    chosen < 0, -1, torch.where(chosen < first, len(ending), chosen - first)))
            joined = join(outs, shares)
            for k in ending:
                states[k] = joined
        return joined


class FractalNet(nn.Module):
    Config = FractalNetConfig

    def __init__(self, config: FractalNetConfig):
        super().__init__()
        self.config = config
        entering = (config.in_channels, *config.dims[:-1])
        self.blocks = nn.ModuleList([FractalBlock(in_dim, dim, config.columns, config.drop_path)
                                     for in_dim, dim in zip(entering, config.dims, strict=True)])
        self.pool = nn.MaxPool2d(2)
        self.dropouts = nn.ModuleList([nn.Dropout(rate) for rate in config.dropouts])
        self.fc = nn.Linear(config.dims[-1], config.num_classes)
        self.feature_channels = config.dims
        self.feature_strides = tuple(2**i for i in range(len(config.dims)))
        for module in self.modules():  # section 4.1
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)

    def features(self, images: Tensor) -> list[Tensor]:
        """[B, C, H, W] -> the maps of each block before its halving: strides 1, 2, 4, ..."""
        require_size(images, self.feature_strides[-1] * 2)
        chosen = self.draw_columns(len(images), images.device) if self.training and self.config.drop_path else None
        maps, out = images, []
        for i, block in enumerate(self.blocks):
            if i:
                maps = self.dropouts[i - 1](self.pool(maps))
            maps = block(maps, chosen)
            out.append(maps)
        return out

    def forward(self, images: Tensor) -> Tensor:
        return self._classify(self.features(images)[-1])

    def draw_columns(self, batch: int, device: torch.device) -> Tensor:
        """The column that each image keeps, or -1 where it draws its paths locally: int64 [B]."""
        columns = torch.randint(self.config.columns, (batch,), device=device)
        return torch.where(torch.rand(batch, device=device) < GLOBAL_SHARE, columns, -1)

    def column(self, number: int) -> nn.Sequential:
        """A plain network of one column, 0 the shortest and columns - 1 the deepest; it shares its weights with this
        one. images [B, C, H, W] -> logits [B, num_classes]."""
        require(isinstance(number, int) and 0 <= number < self.config.columns, "number", number,
                f"be a column of 0 to {self.config.columns - 1}")
        layers: list[nn.Module] = []
        for block, dropout in zip(self.blocks, self.dropouts, strict=True):
            layers += [*block.columns[number], self.pool, dropout]
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), self.fc).train(self.training)

    def _classify(self, maps: Tensor) -> Tensor:
        maps = self.dropouts[-1](self.pool(maps))
        return self.fc(F.adaptive_avg_pool2d(maps, 1).flatten(1))  # [B, D] -> [B, num_classes]


VARIANTS = {
    "fractalnet20": {"columns": 3, "dims": (64, 128, 256, 512, 512), "num_classes": 10},
    "fractalnet40": {"columns": 4, "dims": (16, 32, 64, 128, 128), "num_classes": 100},
}

_TABLE_1 = "Larsson et al. 2017, Table 1 (from memory)"
_TABLE_3 = "Larsson et al. 2017, Table 3, 4 columns (from memory)"
PUBLISHED = {
    "fractalnet20": [
        {"what": "params", "value": "38.6e6", "source": _TABLE_1,
         "reason": "35 convolutions of the stated channels come to 33.7e6; the same code gives each count of the "
                   "paper's Table 3"},
        {"what": "top1", "value": "95.40", "data": "CIFAR-10", "source": _TABLE_1 + ", 4.60 % error, augmented"}],
    "fractalnet40": [
        {"what": "params", "value": "4.8e6", "source": _TABLE_3},
        {"what": "top1", "value": "72.62", "data": "CIFAR-100", "source": _TABLE_3 + ", 27.38 % error, augmented"}],
}

models.add(FractalNet, VARIANTS, family="fractalnet", task="classification", published=PUBLISHED,
           paper="Larsson, Maire, Shakhnarovich: FractalNet: Ultra-Deep Neural Networks without Residuals, ICLR 2017, "
                 "arXiv:1605.07648",
           preprocessing={"size": (32, 32), "mean": (0.4914, 0.4822, 0.4465), "std": (0.2470, 0.2435, 0.2616)})

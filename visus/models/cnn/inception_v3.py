"""Inception-v3: inception modules with their larger convolutions factorised, and one auxiliary classifier.

Paper: Szegedy, Vanhoucke, Ioffe, Shlens, Wojna, Rethinking the Inception Architecture for Computer Vision, CVPR
2016, arXiv:1512.00567. 5 x 5 becomes two 3 x 3, and 7 x 7 becomes 1 x 7 and 7 x 1. Departures, all as the public
weights have them: after its first pooling the stem is 1 x 1, 3 x 3 and another pooling, the modules at stride 8
have a 5 x 5 in place of their single 3 x 3, and the auxiliary loss weighs 0.4. Label smoothing (section 7) is of
the loss, not of the model: hand `loss` soft labels. Parameters carry torchvision's names, which timm shares; all
but one of timm's files lack the auxiliary classifier (aux_head=False).
forward: images [B, C, H, W], normalised, H and W of at least 75 -> logits [B, num_classes] of the main
classifier, in training too. loss: images of at least 299, targets -> scalar, with the auxiliary classifier.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visus import models
from visus.core.validate import boolean, positive, probability, require
from visus.layers.conv_norm import ConvNorm
from visus.layers.image_size import require_size
from visus.losses.classification import cross_entropy

AUX_WEIGHT = 0.4
MIN_SIZE = 75        # of a side in pixels: the stem does not pad
AUX_MIN_SIZE = 299   # likewise with the auxiliary head, which reads maps of 17 x 17


@dataclass(frozen=True, kw_only=True)
class InceptionV3Config:
    """image_size: side in pixels that the images will have, at least 75; it shapes no parameter but where
    aux_head is None. aux_head: with the auxiliary classifier, which `training_logits` and `loss` alone read; None:
    where images of image_size are large enough for it. dropout: before the last layer."""

    image_size: int = 299
    aux_head: bool | None = None
    dropout: float = 0.5
    in_channels: int = 3
    num_classes: int = 1000

    def __post_init__(self) -> None:
        positive(image_size=self.image_size, in_channels=self.in_channels, num_classes=self.num_classes)
        require(self.image_size >= MIN_SIZE, "image_size", self.image_size, f"be at least {MIN_SIZE}")
        if self.aux_head is not None:
            boolean(aux_head=self.aux_head)
        probability(dropout=self.dropout)


def _valid(in_dim: int, dim: int, kernel: int, stride: int = 1) -> ConvNorm:
    return ConvNorm(in_dim, dim, kernel, stride, padding=0)


class ModuleA(nn.Module):
    """Figure 5, with a 5 x 5 for its single 3 x 3: [B, in_dim, H, W] -> [B, 224 + pool_dim, H, W]."""

    def __init__(self, in_dim: int, pool_dim: int):
        super().__init__()
        self.branch1x1 = ConvNorm(in_dim, 64, 1)
        self.branch5x5_1 = ConvNorm(in_dim, 48, 1)
        self.branch5x5_2 = ConvNorm(48, 64, 5)
        self.branch3x3dbl_1 = ConvNorm(in_dim, 64, 1)
        self.branch3x3dbl_2 = ConvNorm(64, 96, 3)
        self.branch3x3dbl_3 = ConvNorm(96, 96, 3)
        self.branch_pool = ConvNorm(in_dim, pool_dim, 1)

    def forward(self, maps: Tensor) -> Tensor:
        five = self.branch5x5_2(self.branch5x5_1(maps))
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(maps)))
        return torch.cat([self.branch1x1(maps), five, double, self.branch_pool(F.avg_pool2d(maps, 3, 1, 1))], 1)


class ReductionA(nn.Module):
    """Figure 10, halving 35 x 35: [B, in_dim, H, W] -> [B, 480 + in_dim, (H - 1) / 2, (W - 1) / 2]."""

    def __init__(self, in_dim: int):
        super().__init__()
        self.branch3x3 = _valid(in_dim, 384, 3, 2)
        self.branch3x3dbl_1 = ConvNorm(in_dim, 64, 1)
        self.branch3x3dbl_2 = ConvNorm(64, 96, 3)
        self.branch3x3dbl_3 = _valid(96, 96, 3, 2)

    def forward(self, maps: Tensor) -> Tensor:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(maps)))
        return torch.cat([self.branch3x3(maps), double, F.max_pool2d(maps, 3, 2)], 1)


class ModuleB(nn.Module):
    """Figure 6 with n = 7, `dim` channels between its factors: [B, in_dim, H, W] -> [B, 768, H, W]."""

    def __init__(self, in_dim: int, dim: int):
        super().__init__()
        self.branch1x1 = ConvNorm(in_dim, 192, 1)
        self.branch7x7_1 = ConvNorm(in_dim, dim, 1)
        self.branch7x7_2 = ConvNorm(dim, dim, (1, 7))
        self.branch7x7_3 = ConvNorm(dim, 192, (7, 1))
        self.branch7x7dbl_1 = ConvNorm(in_dim, dim, 1)
        self.branch7x7dbl_2 = ConvNorm(dim, dim, (7, 1))
        self.branch7x7dbl_3 = ConvNorm(dim, dim, (1, 7))
        self.branch7x7dbl_4 = ConvNorm(dim, dim, (7, 1))
        self.branch7x7dbl_5 = ConvNorm(dim, 192, (1, 7))
        self.branch_pool = ConvNorm(in_dim, 192, 1)

    def forward(self, maps: Tensor) -> Tensor:
        seven = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(maps)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(maps)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        return torch.cat([self.branch1x1(maps), seven, double, self.branch_pool(F.avg_pool2d(maps, 3, 1, 1))], 1)


class ReductionB(nn.Module):
    """Halving 17 x 17: [B, in_dim, H, W] -> [B, 512 + in_dim, (H - 1) / 2, (W - 1) / 2]."""

    def __init__(self, in_dim: int):
        super().__init__()
        self.branch3x3_1 = ConvNorm(in_dim, 192, 1)
        self.branch3x3_2 = _valid(192, 320, 3, 2)
        self.branch7x7x3_1 = ConvNorm(in_dim, 192, 1)
        self.branch7x7x3_2 = ConvNorm(192, 192, (1, 7))
        self.branch7x7x3_3 = ConvNorm(192, 192, (7, 1))
        self.branch7x7x3_4 = _valid(192, 192, 3, 2)

    def forward(self, maps: Tensor) -> Tensor:
        three = self.branch3x3_2(self.branch3x3_1(maps))
        seven = self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(maps)))
        return torch.cat([three, self.branch7x7x3_4(seven), F.max_pool2d(maps, 3, 2)], 1)


class ModuleC(nn.Module):
    """Figure 7, 1 x 3 beside 3 x 1: [B, in_dim, H, W] -> [B, 2048, H, W]."""

    def __init__(self, in_dim: int):
        super().__init__()
        self.branch1x1 = ConvNorm(in_dim, 320, 1)
        self.branch3x3_1 = ConvNorm(in_dim, 384, 1)
        self.branch3x3_2a = ConvNorm(384, 384, (1, 3))
        self.branch3x3_2b = ConvNorm(384, 384, (3, 1))
        self.branch3x3dbl_1 = ConvNorm(in_dim, 448, 1)
        self.branch3x3dbl_2 = ConvNorm(448, 384, 3)
        self.branch3x3dbl_3a = ConvNorm(384, 384, (1, 3))
        self.branch3x3dbl_3b = ConvNorm(384, 384, (3, 1))
        self.branch_pool = ConvNorm(in_dim, 192, 1)

    def forward(self, maps: Tensor) -> Tensor:
        one, three = self.branch1x1(maps), self.branch3x3_1(maps)
        three = torch.cat([self.branch3x3_2a(three), self.branch3x3_2b(three)], 1)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(maps))
        double = torch.cat([self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double)], 1)
        return torch.cat([one, three, double, self.branch_pool(F.avg_pool2d(maps, 3, 1, 1))], 1)


class AuxiliaryHead(nn.Module):
    """Figure 8, a classifier on maps of 17 x 17 or more: [B, in_dim, H, W] -> logits [B, num_classes]."""

    def __init__(self, in_dim: int, num_classes: int):
        super().__init__()
        self.conv0 = ConvNorm(in_dim, 128, 1)
        self.conv1 = _valid(128, 768, 5)
        self.fc = nn.Linear(768, num_classes)

    def forward(self, maps: Tensor) -> Tensor:
        maps = self.conv1(self.conv0(F.avg_pool2d(maps, 5, 3)))  # [B, 768, 1, 1] for maps of 17 x 17
        return self.fc(F.adaptive_avg_pool2d(maps, 1).flatten(1))


class InceptionV3(nn.Module):
    Config = InceptionV3Config

    def __init__(self, config: InceptionV3Config):
        super().__init__()
        self.config = config
        self.Conv2d_1a_3x3 = _valid(config.in_channels, 32, 3, 2)
        self.Conv2d_2a_3x3 = _valid(32, 32, 3)
        self.Conv2d_2b_3x3 = ConvNorm(32, 64, 3)
        self.maxpool1 = nn.MaxPool2d(3, 2)
        self.Conv2d_3b_1x1 = ConvNorm(64, 80, 1)
        self.Conv2d_4a_3x3 = _valid(80, 192, 3)
        self.maxpool2 = nn.MaxPool2d(3, 2)
        self.Mixed_5b = ModuleA(192, 32)
        self.Mixed_5c = ModuleA(256, 64)
        self.Mixed_5d = ModuleA(288, 64)
        self.Mixed_6a = ReductionA(288)
        self.Mixed_6b = ModuleB(768, 128)
        self.Mixed_6c = ModuleB(768, 160)
        self.Mixed_6d = ModuleB(768, 160)
        self.Mixed_6e = ModuleB(768, 192)
        aux_head = config.image_size >= AUX_MIN_SIZE if config.aux_head is None else config.aux_head
        self.AuxLogits = AuxiliaryHead(768, config.num_classes) if aux_head else None
        self.Mixed_7a = ReductionB(768)
        self.Mixed_7b = ModuleC(1280)
        self.Mixed_7c = ModuleC(2048)
        self.dropout = nn.Dropout(config.dropout)
        self.fc = nn.Linear(2048, config.num_classes)
        self.feature_channels = (192, 288, 768, 2048)
        self.feature_strides = (4, 8, 16, 32)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def features(self, images: Tensor) -> list[Tensor]:
        """[B, C, H, W] -> maps of strides 4, 8, 16 and 32, up to three places smaller than H / stride: 71, 35, 17
        and 8 of 299."""
        require_size(images, MIN_SIZE)
        maps = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(images)))
        maps_2 = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(self.maxpool1(maps)))
        maps_3 = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(self.maxpool2(maps_2))))
        maps_4 = self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(maps_3)))
        maps_4 = self.Mixed_6e(self.Mixed_6d(maps_4))
        return [maps_2, maps_3, maps_4, self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(maps_4)))]

    def forward(self, images: Tensor) -> Tensor:
        return self._classify(self.features(images)[-1])

    def training_logits(self, images: Tensor) -> tuple[Tensor, tuple[tuple[float, Tensor], ...]]:
        """Logits of the main classifier, and (0.4, logits) of the auxiliary one where the model has it. Raises
        UserError for images too small for the auxiliary classifier."""
        if self.AuxLogits is not None:
            require_size(images, AUX_MIN_SIZE, "the auxiliary classifier",
                         "Resize the images, or build the model with aux_head=False")
        _, _, maps_4, maps_5 = self.features(images)
        logits = self._classify(maps_5)
        return logits, () if self.AuxLogits is None else ((AUX_WEIGHT, self.AuxLogits(maps_4)),)

    def loss(self, images: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy of the main classifier plus 0.4 times that of the auxiliary one, where the model has it,
        in train and eval. targets: int64 [B], or float [B, num_classes] soft labels. -> scalar. Raises UserError
        for images too small for the auxiliary classifier."""
        logits, auxiliary = self.training_logits(images)
        return cross_entropy(logits, targets) + sum(weight * cross_entropy(aux, targets) for weight, aux in auxiliary)

    def adapt(self, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """Weights with the auxiliary classifier for a model without it: what `load_weights` leaves out and says."""
        extra = [name for name in state if name.startswith("AuxLogits.")]
        if self.AuxLogits is not None or not extra:
            return state, []
        return {name: tensor for name, tensor in state.items() if name not in extra}, [
            "the weights of the auxiliary classifier were left out: the model has none"]

    def _classify(self, maps: Tensor) -> Tensor:
        return self.fc(self.dropout(F.adaptive_avg_pool2d(maps, 1).flatten(1)))  # [B, 2048] -> [B, num_classes]


VARIANTS = {
    "inception_v3": {"image_size": 299},
}

_TORCHVISION = "torchvision 0.28.0, weights IMAGENET1K_V1"
PUBLISHED = {
    "inception_v3": [{"what": "params", "value": "27161264", "source": _TORCHVISION},
                     {"what": "macs", "value": "5.713e9", "source": _TORCHVISION},
                     {"what": "top1", "value": "77.294", "data": "ImageNet-1k", "source": _TORCHVISION},
                     {"what": "top1", "value": "77.862", "data": "ImageNet-1k",
                      "source": "timm, results/results-imagenet.csv (inception_v3.tf_in1k)"}],
}

WEIGHTS = {
    "inception_v3": {"torchvision": {"file": "inception_v3_google-0cc3c7bd.pth",
                                     "licence": "BSD-3-Clause (torchvision); trained on ImageNet-1k"},
                     "timm": {"file": "inception_v3.tf_in1k", "config": {"aux_head": False},
                              "licence": "Apache-2.0 (timm, from TensorFlow); trained on ImageNet-1k"}},
}

models.add(InceptionV3, VARIANTS, WEIGHTS, family="inception", task="classification", published=PUBLISHED,
           origins={"torchvision": dict, "timm": dict}, peers={"inception_v3": ("torchvision", "inception_v3")},
           paper="Szegedy, Vanhoucke, Ioffe, Shlens, Wojna: Rethinking the Inception Architecture for Computer "
                 "Vision, CVPR 2016, arXiv:1512.00567",
           # of the public weights, which come from TensorFlow; torchvision does the same inside of its model
           preprocessing={"size": (299, 299), "resize": "crop", "crop_fraction": 0.875,
                          "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)})

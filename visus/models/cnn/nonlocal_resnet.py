"""Non-local ResNet-50: a ResNet in which some maps are mixed over all their places; with non-local blocks, or with the
self-attention block of SAGAN.

Papers: Wang, Girshick, Gupta, He, Non-local Neural Networks, CVPR 2018, arXiv:1711.07971, for images (a video adds a
time axis): one block before the last residual block of res4, five after every other residual block of res3 and res4,
or ten after each of them. Zhang et al., Self-Attention GAN, ICML 2019, arXiv:1805.08318: its block, here at the end of
res3 in a classifier; the paper has it in a generator and a discriminator, with spectral norms. The trunk is ResNet-50
(He et al., CVPR 2016, arXiv:1512.03385; it halves maps in its 3 x 3 convolutions) under torchvision's names, and
weights of a ResNet without attention load: the blocks that they lack start as the identity.
forward: images [B, C, H, W], normalised -> logits [B, num_classes].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from visus import models
from visus.core.validate import boolean, one_of, positive, require
from visus.layers.image_size import require_size
from visus.layers.map_attention import KINDS, NonLocal, SelfAttention2d

DIMS = (64, 128, 256, 512)
EXPANSION = 4


@dataclass(frozen=True, kw_only=True)
class NonLocalResNetConfig:
    """depths: residual blocks of each of the four stages. places: for each stage the residual blocks, counted from 0,
    that an attention block follows. kind: of non-local blocks, or 'sagan'. subsample: keys and values are taken from
    2 x 2 maxima. start: first value of what an attention block's branch is multiplied with; 0 is the papers'."""

    depths: tuple[int, ...] = (3, 4, 6, 3)
    places: tuple[tuple[int, ...], ...] = ((), (), (4,), ())
    kind: str = "embedded_gaussian"
    subsample: bool = False
    start: float = 0.0
    in_channels: int = 3
    num_classes: int = 1000

    def __post_init__(self) -> None:
        for field in ("depths", "places"):
            value = getattr(self, field)
            require(isinstance(value, tuple) and len(value) == 4, field, value, "have four entries, one a stage")
        for depth in self.depths:
            positive(depths=depth)
        known = all(isinstance(stage, tuple) and len(set(stage)) == len(stage) and set(stage) <= set(range(depth))
                    for stage, depth in zip(self.places, self.depths, strict=True))
        require(known, "places", self.places, f"name blocks of stages of {self.depths}")
        one_of((*KINDS, "sagan"), kind=self.kind)
        boolean(subsample=self.subsample)
        require(isinstance(self.start, int | float) and not isinstance(self.start, bool), "start", self.start,
                "be a number")
        positive(in_channels=self.in_channels, num_classes=self.num_classes)


class Bottleneck(nn.Module):
    """1 x 1 down, 3 x 3, 1 x 1 up, added to the shortcut: [B, in_dim, H, W] -> [B, 4 dim, H / stride, W / stride]."""

    def __init__(self, in_dim: int, dim: int, stride: int):
        super().__init__()
        out_dim = EXPANSION * dim
        self.conv1 = nn.Conv2d(in_dim, dim, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(dim)
        self.conv2 = nn.Conv2d(dim, dim, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(dim)
        self.conv3 = nn.Conv2d(dim, out_dim, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_dim)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if stride > 1 or in_dim != out_dim:
            self.downsample = nn.Sequential(nn.Conv2d(in_dim, out_dim, 1, stride, bias=False), nn.BatchNorm2d(out_dim))

    def forward(self, maps: Tensor) -> Tensor:
        out = self.relu(self.bn1(self.conv1(maps)))
        out = self.relu(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        out += maps if self.downsample is None else self.downsample(maps)
        return self.relu(out)


class NonLocalResNet(nn.Module):
    Config = NonLocalResNetConfig

    def __init__(self, config: NonLocalResNetConfig):
        super().__init__()
        self.config = config
        self.conv1 = nn.Conv2d(config.in_channels, DIMS[0], 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(DIMS[0])
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.attention = nn.ModuleDict()  # 'STAGE_BLOCK', as in layerSTAGE.BLOCK -> what follows that block
        in_dim = DIMS[0]
        for number, (dim, depth, places) in enumerate(zip(DIMS, config.depths, config.places, strict=True), 1):
            stage = []
            for i in range(depth):
                stage.append(Bottleneck(in_dim, dim, 2 if i == 0 and number > 1 else 1))
                in_dim = EXPANSION * dim
                if i in places:
                    self.attention[f"{number}_{i}"] = _attention(config, in_dim)
            self.add_module(f"layer{number}", nn.ModuleList(stage))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(in_dim, config.num_classes)
        coarsest = max([stage for stage, places in enumerate(config.places) if places], default=0)
        self.least = (4 << coarsest) + 1 if config.subsample and self.attention else 1  # maps of 2 x 2 where pooled
        self.feature_channels = tuple(EXPANSION * dim for dim in DIMS)
        self.feature_strides = (4, 8, 16, 32)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def features(self, images: Tensor) -> list[Tensor]:
        """[B, C, H, W] -> maps of strides 4, 8, 16 and 32. Raises UserError where 2 x 2 maxima have no place."""
        require_size(images, self.least)
        maps, out = self.maxpool(self.relu(self.bn1(self.conv1(images)))), []
        for number in range(1, 5):
            for i, block in enumerate(getattr(self, f"layer{number}")):
                maps = block(maps)
                if f"{number}_{i}" in self.attention:
                    maps = self.attention[f"{number}_{i}"](maps)
            out.append(maps)
        return out

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.avgpool(self.features(images)[-1]).flatten(1))  # [B, D] -> [B, num_classes]

    def adapt(self, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """The state; where it is that of a ResNet without attention, with this model's own attention blocks as they
        are, and a word about them."""
        state = dict(state)
        if not self.attention or any(name.startswith("attention.") for name in state):
            return state, []
        state |= {name: tensor for name, tensor in self.state_dict().items() if name.startswith("attention.")}
        return state, [f"the weights have no attention; {len(self.attention)} attention block(s) start fresh"]


def _attention(config: NonLocalResNetConfig, dim: int) -> nn.Module:
    if config.kind == "sagan":
        return SelfAttention2d(dim, config.subsample, config.start)
    return NonLocal(dim, dim // 2, config.kind, config.subsample, config.start)


VARIANTS = {
    "nonlocal_resnet50_1": {"places": ((), (), (4,), ())},
    "nonlocal_resnet50_5": {"places": ((), (1, 3), (1, 3, 5), ())},
    "nonlocal_resnet50_10": {"places": ((), (0, 1, 2, 3), (0, 1, 2, 3, 4, 5), ())},
}
SAGAN_VARIANTS = {
    "self_attention_resnet50": {"places": ((), (3,), (), ()), "kind": "sagan", "subsample": True},
}

_PREPROCESSING = {"size": (224, 224), "resize": "crop", "crop_fraction": 0.875}
for _variants, _family, _paper in (
        (VARIANTS, "nonlocal_resnet",
         "Wang, Girshick, Gupta, He: Non-local Neural Networks, CVPR 2018, arXiv:1711.07971"),
        (SAGAN_VARIANTS, "self_attention_resnet",
         "Zhang, Goodfellow, Metaxas, Odena: Self-Attention Generative Adversarial Networks, ICML 2019, "
         "arXiv:1805.08318")):
    models.add(NonLocalResNet, _variants, family=_family, task="classification", paper=_paper,
               origins={"torchvision": dict, "timm": dict}, preprocessing=_PREPROCESSING)

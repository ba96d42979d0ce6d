"""Another normalisation in a built net: what takes the place of its batch norms, how its kernels are normalised.

Sources: Ba, Kiros, Hinton, Layer Normalization, 2016, arXiv:1607.06450; Ulyanov, Vedaldi, Lempitsky, Instance
Normalization, 2016, arXiv:1607.08022; Wu, He, Group Normalization, ECCV 2018, arXiv:1803.08494 (layer norm of maps is
group norm of one group, section 3.1); Krizhevsky, Sutskever, Hinton, NIPS 2012, section 3.3 (local response); Salimans,
Kingma, Weight Normalization, NIPS 2016, arXiv:1602.07868; Qiao, Wang, Liu, Shen, Yuille, Weight Standardization, 2019,
arXiv:1903.10520; Zhang, Dauphin, Ma, Fixup Initialization, ICLR 2019, arXiv:1901.09321.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from visus.core.errors import UserError
from visus.layers.response_norm import ResponseNorm

MAX_GROUPS, LEAST_PER_GROUP = 32, 2  # Wu and He: 32 groups, on maps of 64 channels and more
NORMS = ("batch", "layer", "group", "instance", "local_response", "none", "fixup")
WEIGHT_NORMS = ("none", "weight_norm", "weight_standardisation")


@dataclass(frozen=True)
class Normalisation:
    """norm: what stands where the model has batch norms ('auto': they); 'fixup': the scalars of a Fixup net.
    weight_norm: how kernels and matrices are normalised."""

    norm: str = "auto"
    weight_norm: str = "none"

    @classmethod
    def of(cls, values: object) -> Normalisation:
        """From plain values. Raises UserError for anything but its two fields."""
        if not isinstance(values, Mapping) or not values.keys() <= {"norm", "weight_norm"}:
            raise UserError("is no normalisation", where=f"normalisation={values!r}",
                            remedy="Its fields are norm and weight_norm")
        return cls(**values)

    @property
    def changes(self) -> bool:
        return self.norm not in ("auto", "batch") or self.weight_norm != "none"


def renormalise(model: nn.Module, wanted: Normalisation) -> list[str]:
    """Change the model in place; it keeps `wanted` as its `normalisation`. Returns what was done, in words.

    Raises UserError where there is no batch norm to replace, where the net folds its batch norms into its kernels, or
    where its blocks are not such as Fixup is defined for.
    """
    notes = []
    if wanted.norm not in ("auto", *NORMS) or wanted.weight_norm not in WEIGHT_NORMS:
        raise UserError("is no normalisation", where=f"normalisation={asdict(wanted)}")
    if wanted.norm == "fixup":
        if wanted.weight_norm != "none":
            raise UserError("Fixup is for nets without any normalisation", where=f"weight_norm={wanted.weight_norm}",
                            remedy="Set model.weight_norm=none, or another model.init")
        notes.append(_scalars(model))
    elif wanted.norm not in ("auto", "batch"):
        count = _replace(model, nn.BatchNorm2d, _PLACES[wanted.norm], f"norm={wanted.norm}")
        notes.append(f"{count} batch norms became {wanted.norm}" + (" (a bias in each place)"
                                                                    if wanted.norm == "none" else ""))
    if wanted.weight_norm == "weight_norm":
        count = 0
        for module in list(model.modules()):
            if isinstance(module, nn.Linear | nn.Conv2d) and not hasattr(module, "parametrizations"):
                weight_norm(module, dim=0)
                count += 1
        notes.append(f"weight norm: {count} layers learn length and direction of their weights apart")
    elif wanted.weight_norm == "weight_standardisation":
        count = _replace(model, nn.Conv2d, StandardisedConv2d.of, "weight_norm=weight_standardisation")
        notes.append(f"weight standardisation: {count} convolutions have kernels of mean 0 and variance 1")
    if wanted.changes:
        model.normalisation = wanted  # type: ignore[assignment]
    return notes


def normalisation_of(model: nn.Module) -> Normalisation:
    """What `renormalise` made of the model."""
    found = getattr(model, "normalisation", None)
    return found if isinstance(found, Normalisation) else Normalisation()


def groups_of(channels: int) -> int:
    """Groups of a group norm: the most, up to 32, that divide the channels and leave two or more in each; else 1."""
    return next(groups for groups in range(min(MAX_GROUPS, max(1, channels // LEAST_PER_GROUP)), 0, -1)
                if channels % groups == 0)


class ChannelBias(nn.Module):
    """maps [B, C, H, W] -> maps + bias [C]: what convolutions before a batch norm lack."""

    def __init__(self, channels: int):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, maps: Tensor) -> Tensor:
        return maps + self.bias[:, None, None]


class StandardisedConv2d(nn.Conv2d):
    """A convolution by kernels whose numbers have mean 0 and variance 1 for each output channel (Qiao et al. 2019,
    equations 2 to 4, variance over the fan-in): it wants a norm behind it."""

    eps = 1e-5

    @classmethod
    def of(cls, conv: nn.Conv2d) -> nn.Conv2d:
        return _same_shape(cls, conv)

    def forward(self, maps: Tensor) -> Tensor:
        variance, mean = torch.var_mean(self.weight, dim=(1, 2, 3), keepdim=True, correction=0)
        return self._conv_forward(maps, (self.weight - mean) / (variance + self.eps).sqrt(), self.bias)


class Scalars(nn.Module):
    """x -> scale x + shift, two numbers that are learnt; without the first in most places (Fixup, rule 3)."""

    def __init__(self, scale: bool):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1)) if scale else None
        self.shift = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.shift if self.scale is None else x * self.scale + self.shift


class ShiftedConv2d(nn.Conv2d):
    """A convolution of x + shift, one number that is learnt (Fixup, rule 3)."""

    shift: nn.Parameter

    @classmethod
    def of(cls, conv: nn.Conv2d) -> nn.Conv2d:
        out = _same_shape(cls, conv)
        out.shift = nn.Parameter(torch.zeros(1, device=conv.weight.device))
        return out

    def forward(self, maps: Tensor) -> Tensor:
        return super().forward(maps + self.shift)


def residual_branches(model: nn.Module) -> list[tuple[str, list[nn.Conv2d]]]:
    """(name, convolutions in their order) of the blocks that are convolution, norm, convolution, norm (and a third
    pair) beside a shortcut, as in He et al. 2016. Raises UserError where the model has none, or others as well."""
    found, inside = [], set()
    for name, block in model.named_modules():
        parts = dict(block.named_children())
        pairs = [(f"conv{i}", f"bn{i}") for i in (1, 2, 3) if f"conv{i}" in parts]
        known = {part for pair in pairs for part in pair} | {"relu", "downsample", "drop"}
        if not hasattr(block, "downsample") or getattr(block, "plain", False) or len(pairs) < 2 or \
                list(parts)[:2] != ["conv1", "bn1"] or not parts.keys() <= known:
            continue
        convs = [parts[conv] for conv, _ in pairs]
        if all(isinstance(conv, nn.Conv2d) for conv in convs):
            found.append((name, convs))
            inside.update(id(module) for module in block.modules())
    elsewhere = [name for name, module in model.named_modules()
                 if isinstance(module, nn.BatchNorm2d) and id(module) not in inside]
    if not found or len(elsewhere) > 3:  # the stem has one to three
        raise UserError("Fixup is defined for residual blocks of two or three convolutions, which this model is not "
                        "made of", where="model.init=fixup",
                        remedy="Use a residual net such as resnet20, resnet18 or resnet50, or model.init=kaiming")
    return found  # type: ignore[return-value]


# -- what takes the place ------------------------------------------------------------------------------------------


def _group(norm: nn.BatchNorm2d) -> nn.Module:
    return _like(nn.GroupNorm(groups_of(norm.num_features), norm.num_features, norm.eps, norm.affine), norm)


def _layer(norm: nn.BatchNorm2d) -> nn.Module:
    return _like(nn.GroupNorm(1, norm.num_features, norm.eps, norm.affine), norm)


def _instance(norm: nn.BatchNorm2d) -> nn.Module:
    return _like(nn.InstanceNorm2d(norm.num_features, norm.eps, affine=norm.affine), norm)


def _response(norm: nn.BatchNorm2d) -> nn.Module:
    return nn.Sequential(ChannelBias(norm.num_features), ResponseNorm())


_PLACES: dict[str, Callable[[Any], nn.Module]] = {
    "layer": _layer, "group": _group, "instance": _instance, "local_response": _response,
    "none": lambda norm: ChannelBias(norm.num_features)}


def _like(made: nn.Module, norm: nn.BatchNorm2d) -> nn.Module:
    """With the scale and shift that the batch norm began with: some begin at 0 on purpose."""
    made.weight, made.bias = norm.weight, norm.bias
    return made


def _same_shape(kind: Any, conv: nn.Conv2d) -> nn.Conv2d:
    with torch.device("meta"):
        made = kind(conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, conv.dilation,
                    conv.groups, conv.bias is not None, conv.padding_mode)
    made.weight, made.bias = conv.weight, conv.bias
    return made


def _replace(model: nn.Module, kind: type[nn.Module], make: Callable[[Any], nn.Module], where: str) -> int:
    """Put make(module) in the place of each module of exactly this kind; one that has two places stays one."""
    if kind is nn.BatchNorm2d and any(callable(getattr(type(module), "fuse", None)) for module in model.modules()):
        raise UserError("this net folds its batch norms into its kernels for use", where=f"model.{where}",
                        remedy="Leave model.norm at auto, or use another net")
    made: dict[int, nn.Module] = {}
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if child is not None and type(child) is kind:
                made.setdefault(id(child), make(child))
                made[id(child)].train(child.training)
                setattr(parent, name, made[id(child)])
    if not made:
        what = "batch norm to replace" if kind is nn.BatchNorm2d else "plain convolution"
        raise UserError(f"this model has no {what}", where=f"model.{where}",
                        remedy="Leave the field as it is, or use a net that has: resnet20, vgg11_bn")
    return len(made)


def _scalars(model: nn.Module) -> str:
    """Fixup's rule 3: a bias before each convolution, linear layer and activation, a factor at the end of a branch."""
    branches = residual_branches(model)
    for name, convs in branches:
        block = model.get_submodule(name)
        setattr(block, f"bn{len(convs)}", Scalars(scale=True))
        for number in range(1, len(convs) + 1):
            setattr(block, f"conv{number}", ShiftedConv2d.of(convs[number - 1]))
    _replace(model, nn.BatchNorm2d, lambda _: Scalars(scale=False), "init=fixup")
    return f"{len(branches)} residual branches without norms, with the scalars of Fixup"

"""A convolution, its batch norm and an activation, in a row."""

from __future__ import annotations

from torch import nn


def conv_bn_act(in_dim: int, dim: int, kernel: int, stride: int = 1, groups: int = 1,
                act: type[nn.Module] | None = nn.ReLU, eps: float = 1e-5, momentum: float = 0.1) -> nn.Sequential:
    """[B, in_dim, H, W] -> [B, dim, H / stride, W / stride], for an odd kernel: 0 convolution (without bias),
    1 batch norm, 2 activation (none where `act` is None). eps, momentum: of the batch norm."""
    layers: list[nn.Module] = [nn.Conv2d(in_dim, dim, kernel, stride, kernel // 2, groups=groups, bias=False),
                               nn.BatchNorm2d(dim, eps=eps, momentum=momentum)]
    if act is not None:
        layers.append(act(inplace=True))
    return nn.Sequential(*layers)

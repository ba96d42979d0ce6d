"""Sizes, strides and receptive fields of layers by arithmetic, before any network is built.

One axis at a time, in places. Output of a convolution: floor((W - F + 2 P) / S) + 1 for W places, a filter that spans F
of them (dilation included), P zeros on each side and a stride of S.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from visus.core.errors import UserError
from visus.core.validate import positive, require


def conv_output_size(size: int, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1) -> int:
    """Places that a convolution puts out. Raises UserError where the filter does not fit."""
    return _steps(size, kernel, stride, padding, dilation) // stride + 1


def pool_output_size(size: int, kernel: int, stride: int | None = None, padding: int = 0, dilation: int = 1,
                     ceil_mode: bool = False) -> int:
    """Places that a pooling puts out. stride: the kernel where None. ceil_mode: a window that hangs over the end counts
    if it starts inside the places or the padding before them. Raises UserError where the window does not fit."""
    stride = kernel if stride is None else stride
    steps = _steps(size, kernel, stride, padding, dilation, ceil_mode)
    require(padding <= kernel // 2, "padding", padding, f"be at most half of kernel={kernel}")
    out = (-(-steps // stride) if ceil_mode else steps // stride) + 1
    return out - 1 if ceil_mode and (out - 1) * stride >= size + padding else out


def transposed_output_size(size: int, kernel: int, stride: int = 1, padding: int = 0, output_padding: int = 0,
                           dilation: int = 1) -> int:
    """Places that a transposed convolution puts out. Raises UserError where none are left."""
    positive(size=size, kernel=kernel, stride=stride, dilation=dilation)
    _not_negative(padding=padding, output_padding=output_padding)
    require(output_padding < max(stride, dilation), "output_padding", output_padding,
            f"be below stride={stride} or dilation={dilation}")
    out = (size - 1) * stride - 2 * padding + span(kernel, dilation) + output_padding
    require(out >= 1, "padding", padding, f"leave a place of the {out + 2 * padding} that are made")
    return out


def span(kernel: int, dilation: int = 1) -> int:
    """Places from the first to the last that a filter sees."""
    return (kernel - 1) * dilation + 1


def tiling_problem(size: int, kernel: int, stride: int = 1, padding: int = 0, dilation: int = 1) -> str | None:
    """What is wrong where the stride does not tile the places, so that some at the end are never seen: the rule of
    CS231n that (W - F + 2 P) / S is whole. None where it is."""
    steps = _steps(size, kernel, stride, padding, dilation)
    left = steps % stride
    if left == 0:
        return None
    return (f"(W - F + 2P) / S = ({size} - {span(kernel, dilation)} + 2 x {padding}) / {stride} = {steps / stride:g} "
            f"is not whole: the last {left} of {size + 2 * padding} places are not seen; {size - left} or "
            f"{size + stride - left} places would tile")


@dataclass(frozen=True, kw_only=True)
class LayerSpec:
    """A convolution, or a pooling where pool=True, along one axis."""

    kernel: int
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    pool: bool = False
    ceil_mode: bool = False
    name: str = ""


@dataclass(frozen=True)
class LayerGeometry:
    """What a layer of a chain puts out. size: places. receptive_field: input pixels that one place depends on. stride:
    input pixels between neighbouring places. start: the first input pixel that the first place depends on, below 0
    where it lies in the padding. problem: of `tiling_problem`, or None."""

    name: str
    size: int
    receptive_field: int
    stride: int
    start: int
    problem: str | None


def chain_geometry(size: int, layers: Iterable[LayerSpec]) -> list[LayerGeometry]:
    """The geometry after each of `layers`, for an image of `size` pixels: place i of a layer depends on the pixels from
    start + i * stride, `receptive_field` of them. Raises UserError, with the layer's name, where a filter does not
    fit."""
    out = []
    field, jump, start = 1, 1, 0
    for number, layer in enumerate(layers):
        name = layer.name or f"layer {number + 1}"
        numbers = (size, layer.kernel, layer.stride, layer.padding, layer.dilation)
        try:
            require(layer.pool or not layer.ceil_mode, "ceil_mode", True, "be false where pool=False")
            made = pool_output_size(*numbers, layer.ceil_mode) if layer.pool else conv_output_size(*numbers)
        except UserError as error:
            raise UserError(error.problem, where=f"{name}: {error.where}", remedy=error.remedy) from None
        problem = None if layer.ceil_mode else tiling_problem(*numbers)
        field, start = field + (span(layer.kernel, layer.dilation) - 1) * jump, start - layer.padding * jump
        size, jump = made, jump * layer.stride
        out.append(LayerGeometry(name, size, field, jump, start, problem))
    return out


def _steps(size: int, kernel: int, stride: int, padding: int, dilation: int, ceil_mode: bool = False) -> int:
    """Places by which the filter can be moved along."""
    positive(size=size, kernel=kernel, stride=stride, dilation=dilation)
    _not_negative(padding=padding)
    steps = size + 2 * padding - span(kernel, dilation)
    if steps < 0 and not (ceil_mode and steps > -stride):
        raise UserError(f"the filter spans {span(kernel, dilation)} places, more than the {size} + 2 x {padding} that "
                        "there are", where=f"kernel={kernel!r}", remedy="Use a larger image, more padding or a smaller "
                        "filter, or fewer layers that halve the maps before it")
    return steps


def _not_negative(**fields: int) -> None:
    for field, value in fields.items():
        require(isinstance(value, int) and not isinstance(value, bool) and value >= 0, field, value,
                "be a whole number of at least 0")

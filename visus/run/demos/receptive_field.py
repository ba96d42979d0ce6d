"""What a place of a deep map depends on: a field that grows with the depth, and is used in its middle only."""

from __future__ import annotations

import numpy as np
from markupsafe import Markup

from visus.foundations.convolution import convolution_backward, convolution_forward
from visus.ops.geometry import LayerSpec, chain_geometry
from visus.report.demo import Drawing, Fact, Shown, Table, near, same
from visus.report.sketch import bounds, grid, plot, sheet, words
from visus.run.demo import Tell

TOPIC = "convolution"
SUMMARY = "the field that a place of a map sees in theory, and the part of it that counts"
SOURCE = ("Luo, Li, Urtasun, Zemel, NeurIPS 2016, arXiv:1701.04128; Araujo, Norris, Sim, Distill 2019 "
          "(doi 10.23915/distill.00021), for the fields of known networks")

DEPTHS = (1, 2, 3, 5, 8, 12, 20, 32)
DRAWN = (3, 8, 20)


def make(seed: int, advance: Tell, small: bool = False) -> Shown:
    draws = 80 if small else 400
    rng = np.random.default_rng(seed)
    uniform = {depth: _gradient(depth, [np.full((3, 3), 1 / 9)] * depth) for depth in DEPTHS}
    random = {}
    for place, depth in enumerate(DRAWN):
        networks = rng.choice([-1.0, 1.0], size=(draws, depth, 3, 3))
        random[depth] = np.mean([_gradient(depth, list(kernels)) ** 2 for kernels in networks], axis=0)
        advance(place + 1, len(DRAWN))

    facts: list[Fact] = []
    for depth in (1, 3, 20):
        field = chain_geometry(99, [LayerSpec(kernel=3)] * depth)[-1].receptive_field
        facts.append(same(f"{depth} layers of 3 x 3: width of the gradient's support, by arithmetic 1 + 2 x {depth}",
                          _support(uniform[depth]), field))
    facts += [near(f"{depth} equal-weight layers: standard deviation of the field's weights, by theory "
                   f"sqrt({depth} x 2/3)", _spread(uniform[depth]), (depth * 2 / 3) ** 0.5, 1e-9)
              for depth in (8, 32)]
    facts += [near(f"{depth} layers of random signs: the same for the squared gradient, mean of {draws} networks",
                   _spread(random[depth]), (depth * 2 / 3) ** 0.5, 0.3 * (depth * 2 / 3) ** 0.5) for depth in DRAWN]
    shares = {depth: _spread(uniform[depth]) / (1 + 2 * depth) for depth in DEPTHS}
    facts += [
        near("from 8 to 32 layers the theoretical field grows by the factor", (1 + 64) / (1 + 16), 4.0, 0.25),
        near("and its used part by the factor", _spread(uniform[32]) / _spread(uniform[8]), 2.0, 1e-9),
        same("three 3 x 3 layers see as far as one of", _field(_stack(3)), 7),
        same("dilations 1, 2, 4, 8 with 3 x 3 filters", _field([LayerSpec(kernel=3, dilation=d) for d in (1, 2, 4, 8)]),
             31),
        same("AlexNet's pool5 (Araujo et al.)", _field(_alexnet()), 195),
        same("VGG-16's pool5 (Araujo et al.)", _field(_vgg16()), 212),
        same("ResNet-50 with the strides in the last blocks of its stages (Araujo et al.)",
             _field(_resnet50(first=False)), 483),
        same("ResNet-50 with the strides in the first blocks, as it is built now", _field(_resnet50()), 427),
    ]
    return Shown(
        "Receptive fields, in theory and in use",
        "A place of a map depends on a window of the image. By arithmetic the window grows with each layer by "
        "(kernel - 1) times the product of the strides before it. Whether every pixel in it counts is another "
        "question, and the gradient of the place with respect to the image answers it.\n\n"
        "Many more paths lead to the middle of the window than to its rim. The weights spread like a sum of "
        "independent steps: a bell whose width grows with the square root of the depth, while the window grows with "
        "the depth. So the deeper the stack, the smaller the share of its window that it uses. Strides and dilations "
        "widen both.",
        [Drawing(_panels(random), f"Mean squared gradient over {draws} networks of 3 x 3 layers, weights of random "
                 "sign, with the theoretical field as a frame. All on one scale of pixels.", "What counts", wide=True),
         Drawing(plot([("theoretical field", [(d, 1.0 + 2 * d) for d in DEPTHS]),
                       ("used: 4 standard deviations", [(d, 4 * _spread(uniform[d])) for d in DEPTHS])],
                      x_label="layers", y_label="pixels", log_x=True, log_y=True, title="Growth with depth"),
                 "Straight lines on logarithmic axes: slope 1 for the window, 1/2 for what is used.",
                 "Growth with depth"),
         Drawing(plot([("standard deviation / field", [(d, shares[d]) for d in DEPTHS])], x_label="layers",
                      ranges=(None, None, 0, None), title="Share of the field"),
                 "The share falls like 1 / sqrt(depth).", "Share of the window in use")],
        facts, [_table()])


def _gradient(depth: int, kernels: list[np.ndarray]) -> np.ndarray:
    """d (middle of the top map) / d image, [2 depth + 1, 2 depth + 1], through `depth` linear 3 x 3 layers."""
    x = np.zeros((1, 1, 2 * depth + 1, 2 * depth + 1))
    caches = []
    for kernel in kernels:
        x, cache = convolution_forward(x, kernel[None, None], np.zeros(1))
        caches.append(cache)
    gradient = np.ones_like(x)
    for cache in reversed(caches):
        gradient = convolution_backward(gradient, cache)[0]
    return gradient[0, 0]


def _support(weights: np.ndarray) -> int:
    return int(np.count_nonzero(np.abs(weights).sum(axis=0)))


def _spread(weights: np.ndarray) -> float:
    """Standard deviation along one axis of weights taken as a distribution, in pixels."""
    along = np.abs(weights).sum(axis=0) / np.abs(weights).sum()
    place = np.arange(len(along))
    mean = along @ place
    return float((along @ (place - mean) ** 2) ** 0.5)


def _field(layers: list[LayerSpec]) -> int:
    return chain_geometry(2000, layers)[-1].receptive_field


def _stack(count: int) -> list[LayerSpec]:
    return [LayerSpec(kernel=3, padding=1)] * count


def _alexnet() -> list[LayerSpec]:
    pool = LayerSpec(kernel=3, stride=2, pool=True)
    return [LayerSpec(kernel=11, stride=4), pool, LayerSpec(kernel=5, padding=2), pool, *_stack(3), pool]


def _vgg16() -> list[LayerSpec]:
    pool = LayerSpec(kernel=2, stride=2, pool=True)
    return [layer for count in (2, 2, 3, 3, 3) for layer in (*_stack(count), pool)]


def _resnet50(*, first: bool = True) -> list[LayerSpec]:
    """Of each bottleneck the 3 x 3 counts. The three strides of 2 lie in the first block of stages 2 to 4, or in the
    last one of stages 1 to 3."""
    layers = [LayerSpec(kernel=7, stride=2, padding=3), LayerSpec(kernel=3, stride=2, padding=1, pool=True)]
    for stage, blocks in enumerate((3, 4, 6, 3)):
        strided = (0 if stage else -1) if first else (blocks - 1 if stage < 3 else -1)
        layers += [LayerSpec(kernel=3, padding=1, stride=2 if block == strided else 1) for block in range(blocks)]
    return layers


def _table() -> Table:
    rows: list[list[str | int]] = []
    for name, layers in (("AlexNet, pool5", _alexnet()), ("VGG-16, pool5", _vgg16()),
                         ("ResNet-50, last block", _resnet50()), ("20 layers of 3 x 3", _stack(20)),
                         ("dilations 1, 2, 4, 8", [LayerSpec(kernel=3, dilation=d) for d in (1, 2, 4, 8)])):
        last = chain_geometry(2000, layers)[-1]
        rows.append([name, len(layers), last.receptive_field, last.stride])
    return Table("By arithmetic", ["network", "layers that count", "field in pixels", "stride in pixels"], rows)


def _panels(found: dict[int, np.ndarray]) -> Markup:
    widest, cell = 2 * max(found) + 1, 6
    parts, x = [], 20.0
    for depth, weights in found.items():
        side = (2 * depth + 1) * cell
        y = 34 + (widest * cell - side) / 2
        parts += [grid(np.sqrt(weights), x, y, cell, form=None), bounds(x, y, 2 * depth + 1, 2 * depth + 1, cell),
                  words(f"{depth} layers: {2 * depth + 1} x {2 * depth + 1}", x, y - 10)]
        x += max(side, 110) + 46
    return sheet(x - 20, 34 + widest * cell + 16, *parts, title="Gradient of one place with respect to the image")

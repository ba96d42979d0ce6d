"""An object turns; some of its views are half hidden. Projecting the visible pixels alone finds the hidden ones."""

from __future__ import annotations

import math

import numpy as np
import torch
from markupsafe import Markup
from torch import Tensor

from visus.ops.principal import Principal
from visus.ops.robust_projection import robust_projection, usual_residual
from visus.report.demo import Drawing, Shown, Table, above, below
from visus.report.sketch import picture, plot, sheet, words
from visus.run.demo import Tell

TOPIC = "classical"
SUMMARY = "occluded images seen whole: a projection that trusts only the pixels that agree"
SOURCE = "Leonardis and Bischof, Computer Vision and Image Understanding 78, 2000"

SIDE = 32
VIEWS = 72          # one every five degrees, as in the Columbia object library that the paper uses
COMPONENTS = 12
SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
SHOWN = (3, 17, 40, 58)


def make(seed: int, advance: Tell) -> Shown:
    generator = torch.Generator().manual_seed(seed)
    views = _views(torch.arange(0, 2 * math.pi, 2 * math.pi / VIEWS), generator)      # [72, 1024]
    between = _views(torch.arange(0, 2 * math.pi, 2 * math.pi / VIEWS) + math.pi / VIEWS,
                     torch.Generator().manual_seed(seed))                           # the same object, other angles
    principal = Principal.fit(views, COMPONENTS)
    usual = usual_residual(views, principal)
    errors: dict[str, list[float]] = {"plain": [], "robust": []}
    for number, share in enumerate(SHARES):
        covered = _covered(between, share, generator)
        for name, found in _both(covered, principal, usual).items():
            errors[name].append(float((found - between).square().mean().sqrt()))
        advance(number + 1, len(SHARES))
    covered = _covered(between, 0.3, generator)
    rebuilt = _both(covered, principal, usual)
    at = SHARES.index(0.3)
    facts = [
        above(f"share of the variance of {VIEWS} views that {COMPONENTS} components hold",
              float(principal.shares.sum()), 0.9),
        below("nothing hidden: error of the robust over that of the plain projection",
              errors["robust"][0] / errors["plain"][0], 1.2),
        above("30 % hidden: error of the plain over that of the robust projection",
              errors["plain"][at] / errors["robust"][at], 3),
        below("30 % hidden: error of the robust projection over that with nothing hidden",
              errors["robust"][at] / errors["robust"][0], 1.5),
    ]
    table = Table("Error of the reconstruction (root mean square, pixels from 0 to 1)", ["hidden", *errors],
                  [[f"{share:.0%}", *(f"{errors[name][place]:.4f}" for name in errors)]
                   for place, share in enumerate(SHARES)])
    return Shown(
        "Seeing behind what hides",
        "Principal components learn what the views of an object look like: a dozen numbers draw any of them. The plain "
        "projection finds these numbers from all pixels at once, and a hidden part pulls them to wherever it likes.\n\n"
        "The robust projection fits many hypotheses, each to a few random pixels, lets each drop the pixels that agree "
        "least, and keeps the one that explains most of the image. What it does not explain is what hides the object, "
        "and the components fill in the rest. It needs images that the components describe well, so that a hidden "
        "pixel stands out from the usual error.",
        [Drawing(_panels({"hidden": covered, "plain": rebuilt["plain"], "robust": rebuilt["robust"],
                          "as it is": between}), "Four views between those that were learnt, 30 % of each hidden by "
                 "squares of noise.", "Views", wide=True),
         Drawing(plot([(name, list(zip(map(float, SHARES), values))) for name, values in errors.items()],
                      x_label="share of the pixels hidden", y_label="root mean squared error", title="Errors"),
                 "The robust projection keeps its error until the hidden part outvotes the object.",
                 "Error by what is hidden")],
        facts, [table])


def _both(covered: Tensor, principal: Principal, usual: float) -> dict[str, Tensor]:
    robust = robust_projection(covered, principal, 3 * usual)
    return {"plain": principal.inverse(principal.transform(covered)),
            "robust": principal.inverse(robust.coefficients)}


def _views(angles: Tensor, generator: torch.Generator) -> Tensor:
    """[N, SIDE^2] in [0, 1]: soft spots on a body that turns about its upright axis; near ones are brighter."""
    height, far, start, size, light = torch.rand(5, 14, 1, 1, 1, generator=generator).unbind()
    turn = angles[None, :, None, None] + 2 * math.pi * start[:, :, :]                 # [14, N, 1, 1]
    x = (0.3 + 0.5 * far) * turn.sin()
    near = 1 + 0.6 * turn.cos()
    grid = torch.linspace(-1, 1, SIDE)
    across = (grid[None, None, None] - x).square() + (grid[None, None, :, None] - (1.6 * height - 0.8)).square()
    drawn = (light + 0.3) * near * (-across / (2 * (0.12 + 0.12 * size) ** 2)).exp()  # [14, N, SIDE, SIDE]
    return (1 - (-drawn.sum(0)).exp()).flatten(1)


def _covered(views: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """A copy with squares of noise over `share` of each image, more or less."""
    images = views.clone().view(-1, SIDE, SIDE)
    side = 8
    wanted = round(share * (SIDE // side) ** 2)
    for image in images:
        for place in torch.randperm((SIDE // side) ** 2, generator=generator)[:wanted].tolist():
            row, column = place // (SIDE // side) * side, place % (SIDE // side) * side
            image[row:row + side, column:column + side] = torch.rand(side, side, generator=generator)
    return images.flatten(1)


def _panels(rows: dict[str, Tensor]) -> Markup:
    cell, left, parts = 104, 66, []
    for row, (name, images) in enumerate(rows.items()):
        parts.append(words(name, 0, 8 + row * cell + 52))
        for column, place in enumerate(SHOWN):
            pixels = (images[place].view(SIDE, SIDE).clamp(0, 1) * 255).round().numpy().astype(np.uint8)
            parts.append(picture(pixels, left + column * cell, 4 + row * cell, 96))
    return sheet(left + cell * len(SHOWN), cell * len(rows), *parts,
                 title="Views hidden in part, and what each projection makes of them")

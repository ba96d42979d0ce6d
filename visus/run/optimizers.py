"""What optimizers are, how they descend on known surfaces, and what they do in the unit tests of Schaul et al. 2014."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from visus.core.errors import UserError, did_you_mean
from visus.core.files import write_text
from visus.core.validate import positive
from visus.optim.about import ABOUT
from visus.optim.build import OPTIMIZERS
from visus.optim.contenders import Contender, contenders, coupling, descend, rate_grid
from visus.optim.surfaces import SURFACES, Surface
from visus.report.optimizers import render_surfaces
from visus.run.display import Display

STAY = 10  # steps at the end, at least, that a path must be near to have arrived
NEAR = 0.01  # of the start's distance to the nearest minimum: what counts as having arrived
GRID = 70  # heights drawn along each side of a surface's window
LOST = 1e3  # of the window's width: a path is drawn no further out


def list_optimizers(names: Sequence[str] = ()) -> list[dict[str, str]]:
    """name, equation, takes (fields of the recipe's section `optimizer` that mean something to it), paper: of each, or
    of those of these names."""
    found = []
    for name in dict.fromkeys(contender.name for contender in contenders(names)):
        kind = OPTIMIZERS[name]
        about = ABOUT.get(name)
        plain = (kind.build.__doc__ or "").strip().split("\n")[0]
        found.append({"name": name, "equation": about.equation if about else plain,
                      "takes": ", ".join(["lr", *sorted(kind.takes), *["weight_decay"] * kind.decays]),
                      "paper": about.paper if about else ""})
    return found


def watch_surfaces(optimizers: Sequence[str] = (), surfaces: Sequence[str] = (), *, steps: int = 200,
                   out: str | Path | None = "surfaces.html", progress: bool = True) -> dict[str, Any]:
    """Each optimizer on each surface, at each rate of one grid, of which the best is drawn and told.

    optimizers: names or labels (see `visus optimizers list`); none: all. surfaces: names of
    `visus.optim.surfaces.SURFACES`; none: all. The best rate is the one that arrives first (from that step on, for
    ten steps or more, within 1 % of the start's distance to a minimum), or, where none arrives, ends nearest. out: the
    page; None for none.
    -> the record that the page shows: surfaces -> rows of label, rate, distance (at the end, as a share of the
    start's), arrived (steps, or None), path [[x, y], ...]. Raises UserError for unknown names and wrong numbers.
    """
    positive(steps=steps)
    chosen = contenders(optimizers)
    fields = _surfaces(surfaces)
    rates = rate_grid()
    display = Display(show=progress)
    display.say("surfaces", f"{len(fields)} surfaces, {len(chosen)} optimizers, {len(rates)} rates from {rates[0]:g} "
                f"to {rates[-1]:g}, {steps} steps each; the best rate of each is drawn")
    rows: dict[str, list[dict[str, Any]]] = {surface.name: [] for surface in fields}
    starts = torch.tensor([surface.start for surface in fields for _ in rates], dtype=torch.float64)
    with display.steps("surfaces", len(chosen) * len(starts) * steps) as advance:
        for contender in chosen:
            paths = descend(contender, starts, list(rates) * len(fields), _evaluator(fields, len(rates)), steps,
                            advance)
            for surface, of_rates in zip(fields, paths.split(len(rates), dim=1), strict=True):
                rows[surface.name].append(_best(contender, surface, of_rates, rates))
    record = {"steps": steps, "rates": list(rates), "near": NEAR, "surfaces": [
        _drawn(surface) | {"rows": rows[surface.name]} for surface in fields]}
    if out is not None:
        write_text(out, render_surfaces(record))
        display.say("page", str(out))
    return record


def _surfaces(names: Sequence[str]) -> list[Surface]:
    for name in names:
        if name not in SURFACES:
            raise UserError("there is no such surface", where=f"surface={name!r}", remedy=did_you_mean(name, SURFACES))
    return [SURFACES[name] for name in names or SURFACES]


def _evaluator(fields: list[Surface], per_surface: int) -> Any:
    def evaluate(points: Tensor, which: Tensor, step: int) -> tuple[Tensor, Tensor]:
        if len(points) == 1:
            surface, (x, y) = fields[int(which) // per_surface], points.unbind(1)
            return surface.value(x, y), torch.stack(surface.gradient(x, y), 1)
        values, gradients = torch.empty(len(points), dtype=points.dtype), torch.empty_like(points)
        owner = which // per_surface
        for number in owner.unique().tolist():
            rows = (owner == number).nonzero()[:, 0]
            x, y = points[rows].unbind(1)
            values[rows] = fields[number].value(x, y)
            gradients[rows] = torch.stack(fields[number].gradient(x, y), 1)
        return values, gradients

    return evaluate


def _best(contender: Contender, surface: Surface, paths: Tensor, rates: Sequence[float]) -> dict[str, Any]:
    """paths: [steps + 1, R, 2], a path for each rate."""
    shares = surface.distance(paths) / surface.distance(paths[0, 0])  # [steps + 1, R]
    inside = (shares <= NEAR).flip(0).cumprod(0).sum(0)  # how many of the last points are all near
    arrived = [len(paths) - int(count) if count > min(STAY, len(paths) // 2) else None for count in inside]
    order = sorted(range(len(rates)), key=lambda k: (arrived[k] or math.inf, float(shares[-1, k])))
    best = order[0]
    x0, x1, y0, y1 = surface.window
    path = paths[:, best]
    path = path[(path.abs() < LOST * max(x1 - x0, y1 - y0)).all(1)]
    end = float(shares[-1, best])
    return {"label": contender.label, "rate": rates[best], "distance": end if math.isfinite(end) else None,
            "arrived": arrived[best], "path": [[round(x, 4), round(y, 4)] for x, y in path.tolist()],
            "rates_arrived": sum(steps is not None for steps in arrived), "coupling": coupling(contender)}


def _drawn(surface: Surface) -> dict[str, Any]:
    """Name, window, minima, and heights on a grid, rows from the lowest y up."""
    x0, x1, y0, y1 = surface.window
    y, x = torch.meshgrid(torch.linspace(y0, y1, GRID, dtype=torch.float64),
                          torch.linspace(x0, x1, GRID, dtype=torch.float64), indexing="ij")
    return {"name": surface.name, "about": surface.about, "window": list(surface.window), "start": list(surface.start),
            "minima": [list(point) for point in surface.minima],
            "heights": (surface.value(x, y) - surface.least).clamp_min(0).tolist()}

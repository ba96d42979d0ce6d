"""Square attack: random search with square-shaped changes, by scores alone.

Paper: Andriushchenko, Croce, Flammarion, Hein, Square Attack: a query-efficient black-box adversarial attack via random
search, ECCV 2020, arXiv:1912.00049: algorithm 1, with algorithm 2 for linf (stripes to begin with, then squares of
+eps or -eps in each channel) and algorithm 3 for l2 (mass moves from one window of the difference to another). A change
is kept when the margin rises. Each sample has its own squares; one that is fooled leaves the batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, Tensor

from visus import attack
from visus.attack.attack import (
    USUAL_EPS,
    Attacked,
    Classifier,
    Ledger,
    Norm,
    Sees,
    check_eps,
    check_norm,
    checked,
    lengths,
    margin,
    over,
    remaining,
    seeded,
)
from visus.core.validate import positive, require

HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # of 10,000 queries: where a square's area halves
TILES = 5  # l2 begins with 5 x 5 of them


def area_share(query: int, queries: int, first: float) -> float:
    """The share of the image that a square covers at this query of so many (appendix of the paper)."""
    passed = sum(query * 10_000 // queries > at for at in HALVINGS)
    return first / 2**passed


def bump(height: int, width: int) -> Tensor:
    """[height, width] of length 1: highest in the middle, falling with the larger of the two distances (equation 2)."""
    rows, columns = height // 2, width // 2
    far = torch.maximum((torch.arange(height) - rows).abs()[:, None], (torch.arange(width) - columns).abs()[None])
    terms = 1 / torch.arange(1, max(rows, columns) + 2, dtype=torch.float64).square()
    tail = terms.flip(0).cumsum(0).flip(0)  # tail[d] = the sum of 1 / (k + 1)^2 for k >= d
    made = tail[far].float()
    return made / made.norm()


def two_bumps(side: int) -> Tensor:
    """[side, side] of length 1: a hill above a hollow."""
    upper = side // 2
    made = torch.cat([bump(upper, side), -bump(side - upper, side)])
    return made / made.norm()


@dataclass(frozen=True, kw_only=True)
class Square:
    """norm: linf or l2. eps: the radius; None is 8/255 or 0.5. queries: images asked about per sample at most. share:
    of the image that the first squares cover."""

    norm: Norm = "linf"
    eps: float | None = None
    queries: int = 5000
    share: float = 0.8
    sees: ClassVar[Sees] = "scores"
    targeted: ClassVar[bool] = True
    random: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_norm(self.norm, ("linf", "l2"))
        positive(queries=self.queries)
        require(0 < self.share <= 1, "share", self.share, "lie in (0, 1]")
        if self.eps is None:
            object.__setattr__(self, "eps", USUAL_EPS[self.norm])
        check_eps(self.eps)  # type: ignore[arg-type]

    @torch.no_grad()
    def __call__(self, classifier: Classifier, images: Tensor, labels: Tensor, *, targets: Tensor | None = None,
                 generator: Generator | None = None) -> Attacked:
        checked(self, images, labels, targets)
        require(self.norm == "linf" or min(images.shape[2:]) >= TILES, "images", tuple(images.shape),
                f"have sides of at least {TILES} pixels for l2")
        ledger, generator = Ledger(images), seeded(generator)
        if not len(images):
            return ledger.result()
        assert self.eps is not None
        rows, origin = ledger.rows, ledger.originals
        first = self._stripes if self.norm == "linf" else self._tiles
        change = self._squares if self.norm == "linf" else self._windows
        height, width = images.shape[2:]
        best = margin(classifier(origin), labels, targets)
        ledger.asked(rows)
        gone = best > 0
        ledger.done(rows[gone], origin[gone], True)
        here = origin
        for query in range(self.queries):
            rows, origin, here, labels, targets, best = remaining(~gone, rows, origin, here, labels, targets, best)
            if not len(rows):
                break
            if query == 0:
                tried = first(origin, generator)
            else:
                area = area_share(query, self.queries, self.share) * height * width
                tried = change(origin, here, max(1, min(round(math.sqrt(area)), min(height, width) - 1)), generator)
            found = margin(classifier(tried), labels, targets)
            ledger.asked(rows)
            ledger.moved(rows)
            # the stripes are taken as they are: search goes on from the edge of the ball
            better = found > best if query else torch.ones_like(found, dtype=torch.bool)
            best, here = torch.where(better, found, best), torch.where(over(better, here), tried, here)
            gone = best > 0
            ledger.done(rows[gone], here[gone], True)
        if len(rows):
            ledger.done(rows[~gone], here[~gone], False)
        return ledger.result()

    @property
    def radius(self) -> float:
        assert self.eps is not None  # filled in when it was made
        return self.eps

    # -- linf ------------------------------------------------------------------------------------------------------

    def _stripes(self, origin: Tensor, generator: Generator) -> Tensor:
        count, channels, _, width = origin.shape
        return (origin + self.radius * _signs((count, channels, 1, width), generator).to(origin)).clamp(0, 1)

    def _squares(self, origin: Tensor, here: Tensor, side: int, generator: Generator) -> Tensor:
        count, channels, height, width = origin.shape
        colour = self.radius * _signs((count, channels, 1, 1), generator).to(origin)
        top, left = _corners(count, height, width, side, generator, origin.device)
        row, column = torch.arange(height, device=origin.device), torch.arange(width, device=origin.device)
        inside = (((row >= top) & (row < top + side))[:, None, :, None]
                  & ((column >= left) & (column < left + side))[:, None, None, :])  # [B, 1, H, W]
        return torch.where(inside, (origin + colour).clamp(0, 1), here)

    # -- l2 --------------------------------------------------------------------------------------------------------

    def _onto_the_ball(self, origin: Tensor, moves: Tensor) -> Tensor:
        return (origin + self.radius * moves / over(lengths(moves, "l2").clamp(min=1e-12), moves)).clamp(0, 1)

    def _tiles(self, origin: Tensor, generator: Generator) -> Tensor:
        count, channels, height, width = origin.shape
        side = min(height, width) // TILES
        tile = two_bumps(side) if side > 1 else torch.ones(1, 1)
        signs = _signs((count, channels, TILES, TILES), generator)
        made = torch.kron(signs, tile[None, None])  # [B, C, 5 side, 5 side]
        top, left = (height - made.shape[2]) // 2, (width - made.shape[3]) // 2
        moves = torch.zeros_like(origin)
        moves[:, :, top:top + made.shape[2], left:left + made.shape[3]] = made.to(origin)
        return self._onto_the_ball(origin, moves)

    def _windows(self, origin: Tensor, here: Tensor, side: int, generator: Generator) -> Tensor:
        """Window 1 takes a new shape added to its own, and with it the length that window 2, emptied, gives up."""
        count, channels, height, width = origin.shape
        side = max(3, side)
        side = min(side + 1 - side % 2, height, width)
        moves = (here - origin).flatten(2)  # [B, C, H W]
        one, two = (self._places(count, height, width, side, generator, origin.device) for _ in range(2))
        one, two = (places[:, None].expand(-1, channels, -1) for places in (one, two))  # [B, C, side side]
        covered = torch.zeros_like(moves, dtype=torch.bool).scatter(2, one, True).scatter(2, two, True)
        spare = (self.radius**2 - moves.square().sum((1, 2), keepdim=True)).clamp(min=0) / channels
        length = (spare + (moves * covered).square().sum(2, keepdim=True)).sqrt()  # [B, C, 1]
        shape = two_bumps(side)
        turned = torch.rand(count, 1, 1, generator=generator) < 0.5
        shapes = torch.where(turned, shape.T, shape).flatten(1)[:, None]  # [B, 1, side side]
        old = moves.gather(2, one)
        new = shapes.to(origin) * _signs((count, channels, 1), generator).to(origin) \
            + old / old.norm(dim=2, keepdim=True).clamp(min=1e-12)
        new = new * length / new.norm(dim=2, keepdim=True).clamp(min=1e-12)
        return self._onto_the_ball(origin, moves.scatter(2, two, 0.0).scatter(2, one, new).view_as(origin))

    @staticmethod
    def _places(count: int, height: int, width: int, side: int, generator: Generator, device: torch.device) -> Tensor:
        """int64 [B, side side]: the pixels of a window of each sample, row by row."""
        top, left = _corners(count, height, width, side, generator, device)
        step = torch.arange(side, device=device)
        return ((top + step)[:, :, None] * width + (left + step)[:, None, :]).flatten(1)


def _corners(count: int, height: int, width: int, side: int, generator: Generator,
             device: torch.device) -> tuple[Tensor, Tensor]:
    """Top and left of a square of each sample, int64 [B, 1] each."""
    return (torch.randint(0, height - side + 1, (count, 1), generator=generator).to(device),
            torch.randint(0, width - side + 1, (count, 1), generator=generator).to(device))


def _signs(shape: tuple[int, ...], generator: Generator) -> Tensor:
    """+1 or -1, float."""
    return torch.randint(0, 2, shape, generator=generator).mul(2).sub(1).float()


attack.add(Square, {"square": {}}, summary="random squares of change, kept when the margin rises; needs scores alone",
           paper="Andriushchenko, Croce, Flammarion, Hein, ECCV 2020, arXiv:1912.00049")

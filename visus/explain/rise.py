"""RISE: the image seen through random masks; a pixel counts as much as the score when it is seen.

Paper: Petsiuk et al., RISE: Randomized Input Sampling for Explanation of Black-box Models, BMVC 2018, arXiv:1806.07421,
equation 6 and section 3.2: coarse grids of zeros and ones, one with probability p, enlarged bilinearly to a size that
is a cell more than the image's, and cut out at a random place within that cell. Masked pixels are zeros of the
normalised image. The paper takes 4,000 to 8,000 masks.

Departure: the mean score is taken off before scores weigh masks (`centred`). The map moves by a constant in
expectation, and pixels that chance shows more often no longer stand out: the same map from fewer masks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from visus import explain
from visus.core.validate import boolean, natural, one_of, positive, require
from visus.explain.explanation import Explanation, classes_in, in_eval_mode
from visus.explain.masking import FILLS, SCORES, Fill, Score, hidden, masked_scores, single_output_problem

MOST_KEPT = 2**24  # values of masks that are kept


class RandomMasks:
    """`count` masks of a size (H, W), made when they are asked for: grids and shifts are kept, and the masks themselves
    where they are not many.

    An enlarged and shifted grid is rows @ grid @ columns: for each shift there is one matrix of the weights with which
    cells enter pixels along a side.
    """

    def __init__(self, count: int, size: tuple[int, int], cells: int = 7, share: float = 0.5, seed: int = 0,
                 like: Tensor | None = None) -> None:
        positive(masks=count, cells=cells)
        natural(seed=seed)
        require(0 < share < 1, "share", share, "lie between 0 and 1")
        generator = Generator().manual_seed(seed)
        like = torch.zeros(()) if like is None else like  # gives dtype and device
        self.grids = (torch.rand(count, cells, cells, generator=generator) < share).to(like)
        pixels = [math.ceil(side / cells) for side in size]  # of a cell
        self.shifts = [torch.randint(cell, (count,), generator=generator).to(like.device) for cell in pixels]
        self.weights = []  # [shifts, side, cells], for each axis
        for side, cell in zip(size, pixels, strict=True):
            one_hot = torch.eye(cells).to(like)[None]
            whole = F.interpolate(one_hot, (cells + 1) * cell, mode="linear", align_corners=False)[0]  # [cells, pixels]
            self.weights.append(whole.unfold(1, side, 1)[:, :cell].permute(1, 2, 0).contiguous())
        few = count * size[0] * size[1] <= MOST_KEPT
        self.kept = self._made(torch.arange(count, device=like.device)) if few else None

    def __call__(self, numbers: Tensor) -> Tensor:
        """[n] -> [n, H, W] in [0, 1]."""
        return self._made(numbers) if self.kept is None else self.kept[numbers]

    def _made(self, numbers: Tensor) -> Tensor:
        rows, columns = (weights[shifts[numbers]] for weights, shifts in zip(self.weights, self.shifts, strict=True))
        return rows @ self.grids[numbers] @ columns.transpose(1, 2)

    def weighted_sum(self, scores: Tensor, batch: int) -> Tensor:
        """Of all masks, each with its score: [B, count] -> [B, H, W]."""
        numbers = torch.arange(len(self.grids), device=scores.device)
        parts = [torch.einsum("bn,nhw->bhw", scores[:, part], self(part)) for part in numbers.split(batch)]
        return torch.stack(parts).sum(0)


@torch.no_grad()
def rise(model: nn.Module, images: Tensor, targets: Tensor | int | None = None, *, masks: int = 1000, cells: int = 7,
         share: float = 0.5, seed: int = 0, centred: bool = True, fill: Fill = "grey", of: Score = "probability",
         batch: int = 64) -> Tensor:
    """[B, C, H, W] -> [B, H, W]: equation 6; the same masks for each image. targets: int64 [B], one class for all, or
    None for the model's own answers. cells: of a mask along each side. share: of cells that are seen, p. centred:
    scores are taken about their mean."""
    drawn = RandomMasks(masks, (images.shape[2], images.shape[3]), cells, share, seed, images)
    if not isinstance(targets, Tensor):
        with in_eval_mode(model):
            targets = classes_in(model(images), targets)
    scores = masked_scores(model, images, targets, hidden(images, fill), drawn, masks, of=of, batch=batch)
    if centred:
        scores = scores - scores.mean(1, keepdim=True)
    return drawn.weighted_sum(scores, batch) / (masks * share)


@dataclass(frozen=True, kw_only=True)
class Rise:
    """target: the class asked about; None: the model's own answer. masks: how many random ones. cells: of a mask along
    each side. share: of cells that are seen. seed: of the masks. centred: scores about their mean. fill: what is seen
    elsewhere: grey, mean (the image's own mean colour) or blur. of: probability or logit. batch: images at a time."""

    target: int | None = None
    masks: int = 1000
    cells: int = 7
    share: float = 0.5
    seed: int = 0
    centred: bool = True
    fill: Fill = "grey"
    of: Score = "probability"
    batch: int = 64
    needs_images: ClassVar[bool] = True
    folded: ClassVar[bool] = True

    def __post_init__(self) -> None:
        positive(masks=self.masks, cells=self.cells, batch=self.batch)
        natural(seed=self.seed)
        require(isinstance(self.share, float) and 0 < self.share < 1, "share", self.share, "lie between 0 and 1")
        boolean(centred=self.centred)
        one_of(FILLS, fill=self.fill)
        one_of(SCORES, of=self.of)

    def problem(self, model: nn.Module, images: Tensor) -> str | None:
        return single_output_problem(model, images, self.of)

    def __call__(self, model: nn.Module, images: Tensor) -> Explanation:
        return Explanation(
            sentence=f"Where the {self.of} of the answer is high when the place is seen, over {self.masks} random "
                     f"masks of {self.cells} x {self.cells} cells, "
                     + ("against the mean over all masks." if self.centred else "each place weighed by its score."),
            heat=rise(model, images, self.target, masks=self.masks, cells=self.cells, share=self.share, seed=self.seed,
                      centred=self.centred, fill=self.fill, of=self.of, batch=self.batch), signed=self.centred)


explain.add(Rise, {"rise": {}}, summary="which places have to be seen, from random masks",
            paper="Petsiuk et al., BMVC 2018, arXiv:1806.07421")

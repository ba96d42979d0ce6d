"""How alike the learned positions of a grid are: whether a model has found that pictures have two dimensions.

Paper: Dosovitskiy et al., ICLR 2021, arXiv:2010.11929, section 4.5 and Fig. 7 (centre): the cosine of each position
embedding with each other one, laid out as the grid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visus import explain
from visus.core.errors import UserError
from visus.explain.explanation import Explanation


@torch.no_grad()
def position_similarity(model: nn.Module) -> Tensor:
    """[h, w, h, w]: cosine of the position embedding of patch (i, j) with that of (k, l).

    For models whose positions are added to the patches: those that have `position_embedding(grid)`, else a tensor
    `pos_embed`, [1, prefix + h * w, C] or [1, h, w, C]. Raises UserError for one without: relative biases and rotations
    belong to pairs of places.
    """
    unit = F.normalize(_table(model).detach().double(), dim=-1)  # [h, w, C]
    return torch.einsum("ijc,klc->ijkl", unit, unit).float()


def _table(model: nn.Module) -> Tensor:
    """[h, w, C], at the grid that the model was built for."""
    side = getattr(getattr(model, "patch_embed", None), "side", None)
    embedding = getattr(model, "position_embedding", None)
    table = getattr(model, "pos_embed", None) if embedding is None else embedding((side, side))
    if not isinstance(table, Tensor) or table.ndim not in (3, 4) or table.shape[0] != 1:
        raise UserError(f"{type(model).__name__} has no embedding of positions on a grid of patches",
                        remedy="Relative biases and rotations belong to pairs of places; ViT, DeiT and CaiT have one")
    if table.ndim == 4:
        return table[0]
    side = side or math.isqrt(table.shape[1])
    return table[0, table.shape[1] - side**2:].unflatten(0, (side, side))  # tokens without a place come first


@dataclass(frozen=True, kw_only=True)
class Positions:
    """No options."""

    needs_images: ClassVar[bool] = False

    def problem(self, model: nn.Module, images: Tensor) -> str | None:
        try:
            _table(model)
        except UserError as error:
            return error.problem
        return None

    def __call__(self, model: nn.Module, images: Tensor) -> Explanation:
        similarity = position_similarity(model)
        height, width = similarity.shape[:2]
        return Explanation(
            sentence=f"Cosine similarity of the {height} x {width} position embeddings: the tile in row i, column j "
                     "compares the position of that patch with all others.", similarity=similarity)


explain.add(Positions, {"positions": {}}, summary="how alike the position embeddings of the patches are",
            paper="Dosovitskiy et al., ICLR 2021, arXiv:2010.11929, Fig. 7")

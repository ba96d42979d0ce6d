"""Gradient-weighted attention rollout: what of the attention the answer was made of, followed through all layers.

Paper: Chefer, Gur, Wolf, Generic Attention-model Explainability for Interpreting Bi-Modal and Encoder-Decoder
Transformers, ICCV 2021, arXiv:2103.15679, equations 5 and 6: a layer's relevance is the mean over heads of attention
times the gradient of the class's logit at it, where positive, and R becomes R + A R from R = I on. Their equations 8
and 9, for attention between two inputs, are not here. Plain attention rollout knows no class; this one does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from visus import explain
from visus.core.errors import UserError
from visus.explain.attention import AttentionMaps, attention_maps
from visus.explain.explanation import Explanation, classes_in, in_eval_mode
from visus.explain.rollout import whole_layers
from visus.ops.attention import seen_attention


def attention_relevance(model: nn.Module, images: Tensor, targets: Tensor | int | None = None) -> list[Tensor]:
    """Of each attention layer, [B, heads, N, M]: weight times the gradient of the target's logit, where positive
    (equation 5 before the mean over heads). targets: int64 [B], one class for all, or None for the model's answers."""
    with in_eval_mode(model), torch.enable_grad(), seen_attention() as seen:
        logits = model(images.detach().requires_grad_())
        asked = logits.gather(1, classes_in(logits, targets)[:, None]).sum()
    slopes = torch.autograd.grad(asked, seen, allow_unused=True, materialize_grads=True)
    return [(weights.detach() * slope).relu() for weights, slope in zip(seen, slopes, strict=True)]


def gradient_rollout(relevance: Sequence[Tensor]) -> Tensor:
    """What the answer takes from each token through each: [B, N, N]. relevance: of each layer, first to last,
    [B, heads, N, N] over the same tokens."""
    rolled = torch.eye(relevance[0].shape[-1]).to(relevance[0]).expand(len(relevance[0]), -1, -1)
    for layer in relevance:
        rolled = rolled + layer.mean(1) @ rolled  # equation 6
    return rolled


def _over_all_tokens(maps: AttentionMaps, relevance: Sequence[Tensor]) -> list[Tensor]:
    """[B, heads, N, N] over all tokens that the model ever has; those that take no part in a layer have zeros there."""
    count, out = max(layer.weights.shape[3] for layer in maps.layers), []
    for layer in maps.layers:
        found = relevance[layer.number]
        queries, keys = found.shape[2:]
        full = found.new_zeros(*found.shape[:2], count, count)
        full[:, :, slice(0, 1) if queries == 1 else slice(count - queries, count), count - keys:] = found
        out.append(full)
    return out


@dataclass(frozen=True, kw_only=True)
class GradientRollout:
    """target: the class asked about."""

    target: int | None = None
    needs_images: ClassVar[bool] = True

    def problem(self, model: nn.Module, images: Tensor) -> str | None:
        try:
            whole_layers(attention_maps(model, images))
        except UserError as error:
            return error.problem
        return None

    def __call__(self, model: nn.Module, images: Tensor) -> Explanation:
        maps = attention_maps(model, images)
        whole_layers(maps)  # refuses layers over different tokens
        rolled = gradient_rollout(_over_all_tokens(maps, attention_relevance(model, images, self.target)))
        grid, classed = maps.layers[0].grid, any(layer.classed for layer in maps.layers)
        prefix = rolled.shape[-1] - grid[0] * grid[1]
        own = torch.eye(rolled.shape[-1]).to(rolled)  # what each token had of itself before all layers
        read = (rolled - own)[:, 0] if classed else (rolled - own)[:, prefix:].mean(1)
        return Explanation(
            sentence="What of each patch reached the answer through attention: in every layer only the attention that "
                     "raises the class's score counts, multiplied through all layers.",
            heat=read[:, prefix:].unflatten(1, grid))


explain.add(GradientRollout, {"gradient_rollout": {}},
            summary="the attention that raised the class's score, through all layers",
            paper="Chefer et al., ICCV 2021, arXiv:2103.15679")

"""Model soups: one model whose weights are the mean of several models' weights.

Wortsman et al., Model soups: averaging weights of multiple fine-tuned models improves accuracy without increasing
inference time, ICML 2022, arXiv:2203.05482: the uniform soup, and the greedy one of Recipe 1, in which a model is kept
where the soup with it is no worse on held out images. Batch norms get statistics of their own (Izmailov et al., 2018).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from visus.optim.batch_statistics import measure_batch_norms

SOUPS = ("uniform", "greedy")


@dataclass(frozen=True)
class Tasted:
    """One step of a greedy soup. ingredient: its number. value: of the soup with it. kept: whether it stays in."""

    ingredient: int
    value: float
    kept: bool


def mean_weights(states: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of each floating-point tensor, summed in float64; counters and other integers are the first one's. Of
    one state its own tensors, to the bit."""
    if len(states) == 1:
        return {name: tensor.clone() for name, tensor in states[0].items()}
    return {name: torch.stack([state[name].double() for state in states]).mean(0).to(tensor.dtype)
            if tensor.is_floating_point() else tensor.clone() for name, tensor in states[0].items()}


def cook(model: nn.Module, states: Sequence[dict[str, Tensor]], batches: Callable[[], Iterable[Tensor]]) -> int:
    """Give `model` the mean of the states, and batch norms the statistics of `batches()` where there are several.
    Returns how many batch norms were measured."""
    model.load_state_dict(mean_weights(states), strict=True)
    return measure_batch_norms(model, batches()) if len(states) > 1 else 0


def greedy(order: Sequence[int], first: float, value_of: Callable[[Sequence[int]], float],
           higher_is_better: bool = True) -> tuple[list[int], list[Tasted]]:
    """The ingredients of a greedy soup and how each was judged. order: all of them, the best alone first; first: its
    value alone; value_of(ingredients): of the soup of several. The soup's value is never worse than `first`."""
    chosen, best = [order[0]], first
    tasted = [Tasted(order[0], first, True)]
    for candidate in order[1:]:
        value = value_of([*chosen, candidate])
        kept = value >= best if higher_is_better else value <= best
        tasted.append(Tasted(candidate, value, kept))
        if kept:
            chosen, best = [*chosen, candidate], value
    return chosen, tasted

"""What frozen features know of the classes: a linear classifier and the nearest neighbours, fitted on them alone.

Sources: multinomial logistic regression with an L2 price, by L-BFGS (Nocedal and Wright 2006, chapter 7); the weighted
vote of neighbours by cosine similarity, Wu et al., Unsupervised Feature Learning via Non-Parametric Instance
Discrimination, CVPR 2018, arXiv:1805.01978, section 3.4, as DINO (Caron et al., ICCV 2021) measures features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from visus.core.errors import UserError
from visus.core.validate import positive
from visus.ops import neighbours

STRENGTHS = tuple(10.0**power for power in range(1, -8, -1))  # of the L2 price, the strongest first
PATIENCE = 2  # weaker strengths in turn that are worse on val than the best, after which none is tried
STEPS = 300   # of L-BFGS for each strength on the way
NEIGHBOURS = (1, 5, 10, 20, 50, 100, 200)
TEMPERATURES = (0.02, 0.07, 0.2, 1.0)  # 0.07: Wu et al. and DINO
_TOLERANCE = 1e-6  # of each slope of the mean cost


@dataclass(frozen=True, eq=False)
class Linear:
    """weight: float64 [C, D], bias: float64 [C], on features of which `mean` was taken and that were divided by
    `scale`, both [D]. strength: of the L2 price."""

    weight: Tensor
    bias: Tensor
    mean: Tensor
    scale: Tensor
    strength: float

    def __call__(self, features: Tensor) -> Tensor:
        """[N, D] -> probabilities float64 [N, C]."""
        return (((features.double() - self.mean) / self.scale) @ self.weight.T + self.bias).softmax(1)


def fit_linear(features: Tensor, targets: Tensor, num_classes: int, strength: float, *, start: Linear | None = None,
               standardise: bool = True, steps: int = 1000) -> Linear:
    """Logistic regression of targets int64 [N] on features [N, D], in float64.

    Minimises the mean cross-entropy plus strength / 2 times the sum of squared weights; the bias is free. It is
    scikit-learn's LogisticRegression with C = 1 / (strength N). With more features than images it is solved among the
    combinations of the images, where the answer lies: the same cost with N numbers in place of D.

    standardise: features first take mean 0 and standard deviation 1 over these N, so that one strength fits all of
    them. start: where to begin, such as the fit of the next larger strength. steps: most iterations of L-BFGS.
    """
    features = features.double()
    count, size = features.shape
    mean, scale = torch.zeros(size, dtype=torch.float64), torch.ones(size, dtype=torch.float64)
    if standardise:
        mean, scale = features.mean(0), features.std(0, correction=0)
        scale = torch.where(scale > 1e-12, scale, torch.ones_like(scale))  # a feature that never varies stays 0
    inputs, axes = (features - mean) / scale, None
    if size > count:
        _, _, axes = torch.linalg.svd(inputs, full_matrices=False)  # [N, D], orthonormal rows
        inputs = inputs @ axes.T
    weight = torch.zeros(num_classes, inputs.shape[1], dtype=torch.float64)
    if start is not None:
        weight = start.weight.clone() if axes is None else start.weight @ axes.T
    bias = torch.zeros(num_classes, dtype=torch.float64) if start is None else start.bias.clone()
    one_hot = F.one_hot(targets, num_classes).double()
    solver = torch.optim.LBFGS([weight, bias], max_iter=steps, max_eval=2 * steps, tolerance_grad=_TOLERANCE,
                               tolerance_change=1e-14, history_size=20, line_search_fn="strong_wolfe")

    @torch.no_grad()
    def cost() -> Tensor:
        logits = inputs @ weight.T + bias
        log_probs = logits.log_softmax(1)
        slopes = (log_probs.exp() - one_hot) / count  # [N, C], of the mean cross-entropy at the logits
        weight.grad, bias.grad = slopes.T @ inputs + strength * weight, slopes.sum(0)
        return -(one_hot * log_probs).sum() / count + strength / 2 * weight.square().sum()

    solver.step(cost)
    return Linear(weight if axes is None else weight @ axes, bias, mean, scale, strength)


@dataclass(frozen=True)
class Trial:
    """One setting tried: its values by name, and the share of right answers on val."""

    setting: dict[str, float]
    accuracy: float


def choose_linear(train: tuple[Tensor, Tensor], val: tuple[Tensor, Tensor], num_classes: int,
                  strengths: Sequence[float] = STRENGTHS,
                  advance: Callable[[int], object] = lambda count: None) -> tuple[Linear, list[Trial]]:
    """The fit on train whose strength has the most right answers on val, of equals the one with the smaller negative
    log-likelihood there; each fit begins where the next stronger one ended, and two that are worse in turn end the
    search. train, val: (features [N, D], targets int64 [N])."""
    best: tuple[tuple[float, float], Linear] | None = None
    fitted: Linear | None = None
    worse, trials = 0, []
    for strength in sorted(strengths, reverse=True):
        fitted = fit_linear(*train, num_classes, strength, start=fitted, steps=STEPS)
        probs = fitted(val[0])
        accuracy = float((probs.argmax(1) == val[1]).double().mean())
        likelihood = float(probs.gather(1, val[1][:, None]).clamp_min(1e-300).log().mean())
        trials.append(Trial({"strength": strength}, accuracy))
        if best is None or (accuracy, likelihood) > best[0]:
            best, worse = ((accuracy, likelihood), fitted), 0
        else:
            worse += 1
        advance(1)
        if worse == PATIENCE:
            break
    assert best is not None
    return best[1], trials


def nearest(queries: Tensor, bank: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """(cosine similarities float32 [Q, k], largest first; positions in bank int64 [Q, k]), exact.

    queries: [Q, D], bank: [N, D], k at most N, in memory that does not grow with the two (`visus.ops.neighbours`).
    """
    positive(k=k)
    if k > len(bank):
        raise UserError(f"must be at most {len(bank)}, the number of training images", where=f"k={k}")
    distances, index = neighbours.nearest(queries.float(), bank.float(), k, "cosine")
    return 1 - distances, index


def weighted_vote(similarities: Tensor, labels: Tensor, num_classes: int, temperature: float) -> Tensor:
    """Class c gets the sum of exp(s_i / temperature) over the neighbours i of class c, of all classes' sum.

    similarities: [Q, k] cosines, labels: int64 [Q, k] of the neighbours -> probabilities float64 [Q, C].
    """
    logs = similarities.double() / temperature
    weights = (logs - logs.amax(1, keepdim=True)).exp()  # no overflow at low temperatures: the ratio stays
    votes = torch.zeros(len(labels), num_classes, dtype=torch.float64).scatter_add_(1, labels, weights)
    return votes / votes.sum(1, keepdim=True)


def choose_neighbours(train: tuple[Tensor, Tensor], val: tuple[Tensor, Tensor], num_classes: int,
                      ks: Sequence[int] = NEIGHBOURS,
                      temperatures: Sequence[float] = TEMPERATURES) -> tuple[int, float, list[Trial]]:
    """(k, temperature) with the most right answers on val, of equals the larger likelihood; k above the number of
    training images are left out. train, val: (features [N, D], targets int64 [N])."""
    fitting = [k for k in ks if k <= len(train[1])] or [len(train[1])]
    similarities, index = nearest(val[0], train[0], max(fitting))
    labels = train[1][index]
    best: tuple[tuple[float, float], int, float] | None = None
    trials = []
    for k in fitting:
        for temperature in temperatures:
            probs = weighted_vote(similarities[:, :k], labels[:, :k], num_classes, temperature)
            accuracy = float((probs.argmax(1) == val[1]).double().mean())
            likelihood = float(probs.gather(1, val[1][:, None]).clamp_min(1e-12).log().mean())
            trials.append(Trial({"k": k, "temperature": temperature}, accuracy))
            if best is None or (accuracy, likelihood) > best[0]:
                best = (accuracy, likelihood), k, temperature
    assert best is not None
    return best[1], best[2], trials

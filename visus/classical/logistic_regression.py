"""Logistic regression: the log-odds of a class are linear in the pixels; for several classes, each against the rest.

Paper: Cox, The regression analysis of binary sequences, JRSS-B 1958. The objective is l2 / 2 |w|^2 + the mean of
log(1 + exp(-s f)), s = 1 for the class and -1 else, the bias free of the penalty; it is convex, with the derivative
mean (p - y) x + l2 w. Solved by Newton's method (Bishop 2006, section 4.3.3, iterative reweighted least squares) where
the matrices are small, else by L-BFGS (Nocedal and Wright, chapter 7). The form with one softmax over all classes is
the model softmax_regression.
forward: images [B, C, S, S], normalised -> logits [B, num_classes]: (0, f) for two classes, log sigmoid(f_k) for more,
whose softmax is each class's probability over their sum.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from visus import classical
from visus.classical.fitted import Examples
from visus.classical.linear import CHOSEN_ON, STRENGTHS, LinearFitted, choose_strength, some, with_ones
from visus.core.validate import one_of, positive, require

SOLVERS = ("auto", "newton", "lbfgs")
NEWTON_FLOPS = 1e10  # of the second derivatives of one step and of solving with them; more goes to L-BFGS


@dataclass(frozen=True, kw_only=True)
class LogisticRegressionConfig:
    """image_size: side in pixels of the square images. l2: strength of the penalty, None = chosen on val. solver:
    newton, lbfgs, or auto. tolerance: of the gradient's largest entry.
    max_iterations: of either solver, at most."""

    image_size: int = 28
    in_channels: int = 1
    num_classes: int = 10
    l2: float | None = None
    solver: str = "auto"
    tolerance: float = 1e-5
    max_iterations: int = 300

    def __post_init__(self) -> None:
        positive(image_size=self.image_size, in_channels=self.in_channels, num_classes=self.num_classes,
                 max_iterations=self.max_iterations)
        require(self.num_classes >= 2, "num_classes", self.num_classes, "be at least 2")
        require(self.l2 is None or self.l2 > 0, "l2", self.l2, "be above 0, or null to have it chosen")
        require(self.tolerance > 0, "tolerance", self.tolerance, "be above 0")
        one_of(SOLVERS, solver=self.solver)


class LogisticRegression(LinearFitted):
    Config = LogisticRegressionConfig

    def __init__(self, config: LogisticRegressionConfig):
        super().__init__()
        self.config = config
        self._begin(1 if config.num_classes == 2 else config.num_classes)

    def fit(self, examples: Examples) -> None:
        images, targets = examples.gathered()
        rows = with_ones(self.flat(images))
        signs = self._signs(targets)
        l2, config = self.config.l2, self.config
        weight = torch.zeros(len(self.weight), rows.shape[1], device=rows.device)
        if l2 is None:
            examples.begin("strengths", len(STRENGTHS))
            drawn, labels = some(examples, rows, targets, CHOSEN_ON)
            its_signs = self._signs(labels)

            def solve(strength: float) -> Tensor:
                nonlocal weight
                weight = solution(drawn, its_signs, strength, weight, config.solver, config.tolerance * 10,
                                  config.max_iterations)
                examples.advance(1)
                return weight

            l2 = choose_strength(examples, solve, "logistic_regression")
        examples.begin("coefficients", None)
        self.hold(solution(rows, signs, l2, weight, config.solver, config.tolerance, config.max_iterations))

    def _signs(self, targets: Tensor) -> Tensor:
        """[N] -> [N, K] of 1 for the class and -1 else; [N, 1] of class 1 where there are two."""
        classes = torch.arange(self.config.num_classes, device=targets.device)
        one = targets[:, None] == (classes[1:] if self.config.num_classes == 2 else classes)
        return one.float() * 2 - 1

    def forward(self, images: Tensor) -> Tensor:
        """[B, C, S, S] -> logits [B, num_classes]."""
        scores = super().forward(images)
        if self.config.num_classes == 2:
            return torch.cat([torch.zeros_like(scores), scores], 1)
        return F.logsigmoid(scores)

    def templates(self) -> Tensor:
        """[num_classes, C, S, S]; of two classes the first one's is the other's negative."""
        found = super().templates()
        return torch.cat([-found, found]) if self.config.num_classes == 2 else found


def solution(rows: Tensor, signs: Tensor, l2: float, begin: Tensor, solver: str = "auto", tolerance: float = 1e-5,
             max_iterations: int = 300) -> Tensor:
    """The weights [K, D] of least objective. rows: [N, D], the last column ones; signs: [N, K]; begin: [K, D]."""
    cost = signs.shape[1] * rows.shape[1] ** 2 * (len(rows) + rows.shape[1])
    if solver == "newton" or (solver == "auto" and cost <= NEWTON_FLOPS):
        return newton(rows.double(), signs.double(), l2, begin.double(), tolerance, max_iterations).to(rows)
    return lbfgs(rows, signs, l2, begin, tolerance, max_iterations)


def objective(weight: Tensor, rows: Tensor, signs: Tensor, l2: float) -> Tensor:
    """Of each of the K problems, [K]."""
    return F.softplus(-signs * (rows @ weight.T)).mean(0) + 0.5 * l2 * weight[:, :-1].square().sum(1)


def gradient(weight: Tensor, rows: Tensor, signs: Tensor, l2: float) -> Tensor:
    """mean (p - y) x + l2 w, the bias unpenalised: [K, D]."""
    errors = torch.sigmoid(rows @ weight.T) - (signs + 1) / 2  # p - y, [N, K]
    return errors.T @ rows / len(rows) + l2 * _unbiased(weight)


def newton(rows: Tensor, signs: Tensor, l2: float, begin: Tensor, tolerance: float, max_iterations: int) -> Tensor:
    """Newton's steps for all classes, each halved until its objective falls (Armijo's rule)."""
    weight = begin.clone()
    eye = torch.eye(rows.shape[1], dtype=rows.dtype, device=rows.device)
    eye[-1, -1] = 0.0
    for _ in range(max_iterations):
        slope = gradient(weight, rows, signs, l2)
        if float(slope.abs().max()) < tolerance:
            break
        p = torch.sigmoid(rows @ weight.T)
        second = torch.stack([(rows * curve[:, None]).T @ rows for curve in (p * (1 - p) / len(rows)).T])  # [K, D, D]
        second = second + l2 * eye + 1e-12 * torch.eye(len(eye), dtype=rows.dtype, device=rows.device)
        step = -torch.linalg.solve(second, slope)
        falls = (slope * step).sum(1)
        before = objective(weight, rows, signs, l2)
        size = torch.ones_like(before)
        for _ in range(40):
            high = objective(weight + size[:, None] * step, rows, signs, l2) > before + 1e-4 * size * falls + 1e-14
            if not bool(high.any()):
                break
            size = torch.where(high, size / 2, size)
        weight = weight + size[:, None] * step
    return weight


def lbfgs(rows: Tensor, signs: Tensor, l2: float, begin: Tensor, tolerance: float, max_iterations: int) -> Tensor:
    """All classes as one problem, whose minimum is that of each."""
    weight = begin.clone().requires_grad_()
    search = torch.optim.LBFGS([weight], max_iter=max_iterations, history_size=20, line_search_fn="strong_wolfe",
                               tolerance_grad=tolerance, tolerance_change=1e-12)

    def closure() -> Tensor:
        with torch.no_grad():
            weight.grad = gradient(weight, rows, signs, l2)
            return objective(weight, rows, signs, l2).sum()

    search.step(closure)
    return weight.detach()


def _unbiased(weight: Tensor) -> Tensor:
    return torch.cat([weight[:, :-1], torch.zeros_like(weight[:, -1:])], 1)


VARIANTS: dict[str, dict[str, Any]] = {"logistic_regression": {}}

classical.add(LogisticRegression, VARIANTS, family="linear", task="classification",
              paper="Cox: The regression analysis of binary sequences, JRSS-B 1958")

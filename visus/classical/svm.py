"""Linear support vector machines of several classes: the largest margin between the right score and the wrong ones.

Papers: Weston and Watkins, Support vector machines for multi-class pattern recognition, ESANN 1999; Crammer and Singer,
On the algorithmic implementation of multiclass kernel-based vector machines, JMLR 2001; one against all, Rifkin and
Klautau, JMLR 2004. The objective is l2 / 2 |W|^2 + the mean loss, with the bias in W (CS231n's bias trick; its
reg is l2 / 2, liblinear's C is 1 / (l2 N)), solved to a known distance from its least value.
The same loss followed by stochastic gradients is `--model softmax_regression --set loss.name=multiclass_hinge`, and on
top of a deep net (Tang, arXiv:1306.0239) `--set loss.name=squared_hinge`.
forward: images [B, C, S, S], normalised -> scores [B, num_classes], times a scale that makes val likeliest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from visus import classical
from visus.classical.fitted import Examples
from visus.classical.hinge import Hinge
from visus.classical.linear import CHOSEN_ON, STRENGTHS, LinearFitted, choose_strength, some, with_ones
from visus.classical.splitting import Solution, Splitting
from visus.core.validate import positive, require


@dataclass(frozen=True, kw_only=True)
class SVMConfig:
    """image_size: side in pixels of the square images. formulation: weston_watkins, one_vs_all or crammer_singer.
    squared: each hinge squared (L2-SVM; not for crammer_singer). margin: delta. l2: strength of the penalty, None =
    chosen on val. tolerance: largest relative gap between the objective and its lower bound. max_iterations: at most,
    for each strength."""

    image_size: int = 28
    in_channels: int = 1
    num_classes: int = 10
    formulation: str = "weston_watkins"
    squared: bool = False
    margin: float = 1.0
    l2: float | None = None
    tolerance: float = 1e-3
    max_iterations: int = 300

    def __post_init__(self) -> None:
        positive(image_size=self.image_size, in_channels=self.in_channels, num_classes=self.num_classes,
                 max_iterations=self.max_iterations)
        require(self.l2 is None or self.l2 > 0, "l2", self.l2, "be above 0, or null to have it chosen")
        require(self.tolerance > 0, "tolerance", self.tolerance, "be above 0")
        self.hinge()

    def hinge(self) -> Hinge:
        return Hinge(self.formulation, self.squared, self.margin)


class SVM(LinearFitted):
    Config = SVMConfig

    def __init__(self, config: SVMConfig):
        super().__init__()
        self.config = config
        self._begin(config.num_classes)

    def fit(self, examples: Examples) -> None:
        images, targets = examples.gathered()
        rows = with_ones(self.flat(images))
        l2, config = self.config.l2, self.config
        problem: Splitting | None = None
        if l2 is None:
            drawn, labels = some(examples, rows, targets, CHOSEN_ON)
            examples.begin("strengths", len(STRENGTHS) * config.max_iterations)
            path = Splitting(drawn, labels, config.num_classes, config.hinge())
            l2 = choose_strength(examples, lambda strength: self._solve(path, strength, examples).weight, "svm")
            problem = path if len(drawn) == len(rows) else None
        examples.begin("margin", config.max_iterations)
        problem = problem or Splitting(rows, targets, config.num_classes, config.hinge())
        found = self._solve(problem, l2, examples)
        if found.gap > self.config.tolerance:
            examples.say(f"svm: after {found.iterations} iterations the objective may be {100 * found.gap:.2g} % above "
                         "its least value (--set model.config.max_iterations=...)")
        self.hold(found.weight)
        self.find_scale(examples)

    def _solve(self, problem: Splitting, l2: float, examples: Examples) -> Solution:
        """Of the objective divided by l2, which has the same weights."""
        return problem.solve(1 / (l2 * len(problem.targets)), tolerance=self.config.tolerance,
                             max_iterations=self.config.max_iterations, advance=examples.advance)

    def objective(self, images: Tensor, targets: Tensor, l2: float) -> float:
        """l2 / 2 |W|^2 + the mean loss, the bias in W."""
        penalty = float(self.weight.double().square().sum() + self.bias.double().square().sum())
        return 0.5 * l2 * penalty + float(self.config.hinge().losses(self.scores(images), targets).double().mean())


VARIANTS: dict[str, dict[str, Any]] = {"svm": {}, "svm_one_vs_all": {"formulation": "one_vs_all", "squared": True},
            "svm_crammer_singer": {"formulation": "crammer_singer"}}

classical.add(SVM, VARIANTS, family="linear", task="classification",
              paper="Weston, Watkins: Support vector machines for multi-class pattern recognition, ESANN 1999")

"""A linear support vector machine on histograms of oriented gradients, alone or beside a histogram of the hue.

Papers: Dalal and Triggs, Histograms of Oriented Gradients for Human Detection, CVPR 2005 (gradients and a linear SVM);
hog_color_svm is the feature pipeline of assignment 1 of Stanford's course CS231n: 144 + 10 numbers for a 32 x 32 image,
standardised with the statistics of the training images, and the multiclass hinge of Weston and Watkins (solved here to
a known gap, where the course follows stochastic gradients).
forward: images [B, C, S, S], normalised -> scores [B, num_classes]. Differentiable but for the hues.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from visus import classical
from visus.classical.described import DescribedSVM
from visus.classical.fitted import Examples
from visus.classical.image_features import FeatureConfig
from visus.core.validate import positive, require


@dataclass(frozen=True, kw_only=True)
class HogSVMConfig(FeatureConfig):
    """Beside the features: l2: strength of the penalty, None = chosen on val. max_iterations: of the solver."""

    descriptor: str = "dalal_triggs"
    l2: float | None = None
    max_iterations: int = 300

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(max_iterations=self.max_iterations)
        require(self.l2 is None or self.l2 > 0, "l2", self.l2, "be above 0, or null to have it chosen")


class HogSVM(DescribedSVM):
    Config = HogSVMConfig
    config: HogSVMConfig

    def __init__(self, config: HogSVMConfig):
        super().__init__()
        self.config = config
        self.method = "hog_color_svm" if config.hue_bins else "hog_svm"
        self.begin(config.length())

    def learn(self, examples: Examples) -> None:
        for sentence in self.config.words():
            examples.say(sentence)
        super().learn(examples)

    def describe(self, images: Tensor) -> Tensor:
        return self.config.describe(images)


VARIANTS = {"hog_svm": {}, "hog_color_svm": {"descriptor": "course", "hue_bins": 10}}

classical.add(HogSVM, VARIANTS, family="features", task="classification",
              paper="Dalal, Triggs: Histograms of Oriented Gradients for Human Detection, CVPR 2005")

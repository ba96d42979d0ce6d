"""A row for every registered classical model: what the harness in classical/test_every_classical.py needs to know.

accuracy: share of right answers, on 540 digits after a fit to 1,257 others, that the model must reach; a guess is right
one time in ten. config: fields that make a quick instance of the same code, if the default is slow. side, channels: of
the digits that it sees, whose pixels become squares where side is above 8. train: so many images are enough.
slow: the fit needs more than some seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class ClassicalRow:
    accuracy: float
    config: dict[str, Any] = field(default_factory=dict)
    side: int = 8
    channels: int = 1
    train: int = 1257
    slow: bool = False


CLASSICAL = {
    "nearest_mean": ClassicalRow(0.85),
    "nearest_neighbour": ClassicalRow(0.95),
    "knn": ClassicalRow(0.95),
    "pca_neighbour": ClassicalRow(0.95),
    "gaussian_classifier": ClassicalRow(0.95),
    "gmm_classifier": ClassicalRow(0.95),
    "viola_jones": ClassicalRow(0.72, {"window": 8, "features": 400, "stages": 2, "stumps": 25, "min_detection": 0.98,
                                       "max_false_positives": 0.05}, train=600, slow=True),
    "svm": ClassicalRow(0.89, {"max_iterations": 100}),
    "svm_one_vs_all": ClassicalRow(0.89, {"max_iterations": 100}),
    "svm_crammer_singer": ClassicalRow(0.89, {"max_iterations": 100}),
    "logistic_regression": ClassicalRow(0.89),
    "perceptron": ClassicalRow(0.9),
    "random_search_classifier": ClassicalRow(0.12, {"tries": 200}),  # poor: it is what following the slope is seen by
    "local_search_classifier": ClassicalRow(0.45, {"tries": 500}),
    "adaboost": ClassicalRow(0.75, {"rounds": 100}),
    "hog_svm": ClassicalRow(0.9, {"max_iterations": 100, "l2": 1.0}, train=500),
    "hog_color_svm": ClassicalRow(0.75, {"max_iterations": 100}, channels=3, train=500),
    "hog_color_net": ClassicalRow(0.75, {"hidden": 64, "epochs": 20}, channels=3, train=500),
    "bag_of_words_svm": ClassicalRow(0.5, {"num_words": 40, "max_iterations": 50, "l2": 1.0}, train=400),
    "spatial_pyramid_svm": ClassicalRow(0.8, {"num_words": 16, "max_iterations": 50, "l2": 1.0}, train=400),
}

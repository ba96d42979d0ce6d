"""What a training does against classes of different sizes, for the report: how often each is drawn, what it weighs."""

from __future__ import annotations

from typing import Any

import numpy as np

from visus.data.class_sampling import EXPONENTS, expected_draws
from visus.data.samples import Samples
from visus.losses.imbalance import class_weights
from visus.run.build import loss_options
from visus.run.recipe import Recipe


def balance_record(samples: Samples, train: np.ndarray, recipe: Recipe) -> dict[str, Any] | None:
    """What is done against classes of different sizes: {"sampling": a sentence or None, "loss": a sentence or None,
    "classes": rows {"name", "images", "draws": of an epoch, expected, "weight": in the loss, or None}}; None where
    nothing is done."""
    sampling, loss = recipe.data.sampling, recipe.loss
    options = loss_options(recipe, samples.class_counts(train))
    if sampling == "none" and not options:
        return None
    counts = samples.class_counts(train)
    draws = counts if sampling == "none" else expected_draws(
        np.asarray(samples.targets)[train], len(samples.classes), EXPONENTS[sampling])
    weights = options.get("class_weights")
    if "class_counts" in options and "beta" in options:
        weights = class_weights(options["class_counts"], "effective", beta=options["beta"])
    said = {"weighted": "images are drawn with replacement, every class equally often (q = 1)",
            "sqrt": "images are drawn with replacement, each class by the root of its size (q = 0.5)"}.get(sampling)
    by_loss = {"focal": f"focal loss, gamma {loss.gamma:g}: images that are easy by now count less",
               "sigmoid_focal": f"sigmoid focal loss, gamma {loss.gamma:g}, alpha {loss.alpha}",
               "class_balanced": f"class-balanced loss by the effective number of images, beta {loss.beta:g}",
               "logit_adjusted": f"logits adjusted by the class shares, tau {loss.tau:g}"}.get(loss.name, "")
    by_weight = {"balanced": "classes weighed by 1 / images",
                 "effective": f"classes weighed by 1 / effective number of images, beta {loss.beta:g}"}
    words = "; ".join(part for part in (by_loss, by_weight.get(loss.class_weights, "")) if part)
    return {"sampling": said, "loss": words or None, "classes": [
        {"name": name, "images": int(counts[k]), "draws": round(float(draws[k]), 1),
         "weight": None if weights is None else round(float(weights[k]), 4)}
        for k, name in enumerate(samples.classes)]}

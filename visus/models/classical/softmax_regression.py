"""Softmax regression: one linear score per class on the pixels, logits = W x + b.

Paper: Cox, The regression analysis of binary sequences, JRSS-B 1958, for two classes; the form for several
classes is multinomial logistic regression (Bishop, Pattern Recognition and Machine Learning, 2006, section
4.3.4). Each row of W is a template that can be drawn as an image. W starts at zero: the loss is convex, and
starts at ln(num_classes).
forward: images [B, C, S, S], normalised -> logits [B, num_classes].
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from visus import models
from visus.core.errors import UserError
from visus.core.validate import positive


@dataclass(frozen=True, kw_only=True)
class SoftmaxRegressionConfig:
    """image_size: side in pixels of the square images."""

    image_size: int = 28
    in_channels: int = 1
    num_classes: int = 10

    def __post_init__(self) -> None:
        positive(image_size=self.image_size, in_channels=self.in_channels, num_classes=self.num_classes)


class SoftmaxRegression(nn.Module):
    Config = SoftmaxRegressionConfig

    def __init__(self, config: SoftmaxRegressionConfig):
        super().__init__()
        self.config = config
        self.head = nn.Linear(config.in_channels * config.image_size**2, config.num_classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, images: Tensor) -> Tensor:
        """[B, C, S, S] -> logits [B, num_classes]. Raises UserError for another image shape."""
        expected = (self.config.in_channels, self.config.image_size, self.config.image_size)
        if tuple(images.shape[1:]) != expected:
            raise UserError(f"this model was built for images of {expected}", where=tuple(images.shape[1:]),
                            remedy="Resize the images, or build the model with their image_size and in_channels")
        return self.head(images.flatten(1))  # [B, C * S * S]


VARIANTS = {"softmax_regression": {}}

models.add(SoftmaxRegression, VARIANTS, family="linear", task="classification",
           paper="Cox: The regression analysis of binary sequences, JRSS-B 1958",
           preprocessing={"size": (28, 28), "channels": 1, "mean": (0.5,), "std": (0.5,)})

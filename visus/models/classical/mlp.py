"""Multi-layer perceptron: fully connected layers with ReLU on the pixels.

Paper: Rumelhart, Hinton, Williams, Learning representations by back-propagating errors, Nature 1986.
Departures: ReLU (Nair and Hinton, ICML 2010) with He initialisation (arXiv:1502.01852) in place of the
logistic function (activation='sigmoid'), and optional dropout after each hidden layer (Srivastava et al., JMLR 2014).
forward: images [B, C, S, S], normalised -> logits [B, num_classes].
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from visus import models
from visus.core.errors import UserError
from visus.core.validate import one_of, positive, probability, require

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh}


@dataclass(frozen=True, kw_only=True)
class MLPConfig:
    """image_size: side in pixels of the square images. hidden_dims: width of each hidden layer, first to
    last. activation: 'relu', or 'sigmoid' or 'tanh' of the original."""

    image_size: int = 28
    in_channels: int = 1
    num_classes: int = 10
    hidden_dims: tuple[int, ...] = (512, 256)
    dropout: float = 0.0
    activation: str = "relu"

    def __post_init__(self) -> None:
        positive(image_size=self.image_size, in_channels=self.in_channels, num_classes=self.num_classes)
        require(isinstance(self.hidden_dims, tuple), "hidden_dims", self.hidden_dims, "be a tuple of widths")
        for dim in self.hidden_dims:
            positive(hidden_dims=dim)
        probability(dropout=self.dropout)
        one_of(tuple(ACTIVATIONS), activation=self.activation)


class MLP(nn.Module):
    Config = MLPConfig

    def __init__(self, config: MLPConfig):
        super().__init__()
        self.config = config
        layers: list[nn.Module] = []
        dim = config.in_channels * config.image_size**2
        for width in config.hidden_dims:
            layers += [nn.Linear(dim, width), ACTIVATIONS[config.activation]()]
            if config.dropout:
                layers.append(nn.Dropout(config.dropout))
            dim = width
        self.hidden = nn.Sequential(*layers)
        self.head = nn.Linear(dim, config.num_classes)
        for layer in self.hidden:
            if isinstance(layer, nn.Linear):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)

    def forward(self, images: Tensor) -> Tensor:
        """[B, C, S, S] -> logits [B, num_classes]. Raises UserError for another image shape."""
        expected = (self.config.in_channels, self.config.image_size, self.config.image_size)
        if tuple(images.shape[1:]) != expected:
            raise UserError(f"this model was built for images of {expected}", where=tuple(images.shape[1:]),
                            remedy="Resize the images, or build the model with their image_size and in_channels")
        return self.head(self.hidden(images.flatten(1)))  # [B, C * S * S]


VARIANTS = {"mlp": {"hidden_dims": (512, 256)}}

models.add(MLP, VARIANTS, family="mlp", task="classification",
           paper="Rumelhart, Hinton, Williams: Learning representations by back-propagating errors, "
                 "Nature 1986",
           preprocessing={"size": (28, 28), "channels": 1, "mean": (0.5,), "std": (0.5,)})

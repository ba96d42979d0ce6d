"""A two-layer net on histograms of oriented gradients and of the hue: the second half of the feature exercise in
assignment 1 of Stanford's course CS231n. It learns combinations of features that a linear classifier cannot form.

The net is trained inside `fit`, by Adam or by the course's stochastic gradients, with the epoch kept whose validation
accuracy is highest.
forward: images [B, C, S, S], normalised -> logits [B, num_classes]. Differentiable but for the hues.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from visus import classical
from visus.classical.described import Described
from visus.classical.fitted import Examples
from visus.classical.image_features import FeatureConfig
from visus.core.errors import TrainingDiverged
from visus.core.validate import one_of, positive, probability, require


@dataclass(frozen=True, kw_only=True)
class HogColorNetConfig(FeatureConfig):
    """Beside the features: hidden: units of the hidden layer. solver: "adam" or "sgd" (no momentum). lr: at the
    beginning, None = 0.001 for adam, 0.1 for sgd; it falls to 0 along half a cosine. epochs: passes over the features.
    batch_size: None = 200, of few images a twentieth, at least 8. weight_decay: L2, as Adam has it. dropout: of hidden
    units while training."""

    hue_bins: int = 10
    hidden: int = 500
    solver: str = "adam"
    lr: float | None = None
    epochs: int = 30
    batch_size: int | None = None
    weight_decay: float = 1e-4
    dropout: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(hidden=self.hidden, epochs=self.epochs)
        if self.batch_size is not None:
            positive(batch_size=self.batch_size)
        one_of(("adam", "sgd"), solver=self.solver)
        require(self.lr is None or self.lr > 0, "lr", self.lr, "be above 0, or null for the solver's own")
        require(self.weight_decay >= 0, "weight_decay", self.weight_decay, "be at least 0")
        probability(dropout=self.dropout)


class HogColorNet(Described):
    Config = HogColorNetConfig
    config: HogColorNetConfig
    method = "hog_color_net"

    def __init__(self, config: HogColorNetConfig):
        super().__init__()
        self.config = config
        self.begin(config.length())
        self.fc1 = nn.Linear(config.length(), config.hidden)
        self.fc2 = nn.Linear(config.hidden, config.num_classes)

    def describe(self, images: Tensor) -> Tensor:
        return self.config.describe(images)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised [B, C, S, S] -> logits [B, K]."""
        return self.fc2(self.fc1(self.rows(images)).relu())

    @torch.no_grad()
    def fit(self, examples: Examples) -> None:
        for sentence in self.config.words():
            examples.say(sentence)
        self.learn_range(examples)
        rows, targets = self.learn_rows(examples)
        held_out, labels = self.described(examples, "val")
        held_out = (held_out - self.mean) / self.scale
        generator = torch.Generator().manual_seed(examples.seed)
        for layer in (self.fc1, self.fc2):  # He et al., ICCV 2015
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
            nn.init.zeros_(layer.bias)
        self._train(examples, rows, targets, held_out, labels, generator)

    def _train(self, examples: Examples, rows: Tensor, targets: Tensor, held_out: Tensor, labels: Tensor,
               generator: torch.Generator) -> None:
        config, best = self.config, -1.0
        kept: dict[str, Any] = {}
        lr = config.lr if config.lr is not None else {"adam": 1e-3, "sgd": 0.1}[config.solver]
        parameters = list(self.parameters())
        solver: torch.optim.Optimizer = (
            torch.optim.AdamW(parameters, lr, weight_decay=config.weight_decay) if config.solver == "adam"
            else torch.optim.SGD(parameters, lr, weight_decay=config.weight_decay))
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(solver, config.epochs)
        batch_size = config.batch_size or max(8, min(200, len(rows) // 20))
        examples.begin("epochs", config.epochs)
        for epoch in range(config.epochs):
            total = torch.zeros((), device=rows.device)
            for chosen in torch.randperm(len(rows), generator=generator).to(rows.device).split(batch_size):
                with torch.enable_grad():
                    hidden = self.fc1(rows[chosen]).relu()
                    kept_share = torch.rand(hidden.shape, generator=generator).to(hidden) >= config.dropout
                    logits = self.fc2(hidden * kept_share / (1 - config.dropout))
                    loss = F.cross_entropy(logits, targets[chosen])
                    solver.zero_grad()
                    loss.backward()
                solver.step()
                total += loss.detach() * len(chosen)
            schedule.step()
            train_loss = float(total) / len(rows)
            if not train_loss < float("inf"):
                raise TrainingDiverged("the loss is no longer finite", where=f"hog_color_net, epoch {epoch + 1}",
                                       remedy="Use a smaller --set model.config.lr")
            values = {"train_loss": train_loss}
            if len(held_out):
                logits = self.fc2(self.fc1(held_out).relu())
                values |= {"val_loss": float(F.cross_entropy(logits, labels)),
                           "val_accuracy": float((logits.argmax(1) == labels).float().mean())}
            examples.log(epoch + 1, **values)
            examples.advance(1)
            if values.get("val_accuracy", float(epoch)) > best:
                best = values.get("val_accuracy", float(epoch))
                kept = {"epoch": epoch + 1, "fc1": copy.deepcopy(self.fc1.state_dict()),
                        "fc2": copy.deepcopy(self.fc2.state_dict())}
        self.fc1.load_state_dict(kept["fc1"])
        self.fc2.load_state_dict(kept["fc2"])
        if len(held_out):
            examples.say(f"hog_color_net: epoch {kept['epoch']} of {config.epochs} is kept, whose validation accuracy "
                         f"is the highest, {100 * best:.1f} %")


VARIANTS: dict[str, dict[str, Any]] = {"hog_color_net": {}}

classical.add(HogColorNet, VARIANTS, family="features", task="classification",
              paper="Stanford CS231n, assignment 1, exercise 5 (features)")

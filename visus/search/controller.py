"""A recurrent controller that writes architectures, and learns by policy gradient which ones score well.

Papers: Zoph, Le, Neural Architecture Search with Reinforcement Learning, ICLR 2017, arXiv:1611.01578: an LSTM makes one
decision after the other, each fed back as the next input; REINFORCE (Williams 1992) with a moving average of the
rewards as baseline. Pham et al., ENAS, ICML 2018, arXiv:1802.03268: a bonus for entropy, so that it does not settle too
early. Departures: the reward is the score itself (the paper cubes it), and the bonus enters as a reward of
-weight log p, whose gradient is in the mean exactly that of weight times the entropy of whole architectures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from visus.core.validate import positive, require
from visus.search.proxy import seeded


class Controller(nn.Module):
    """Decisions t = 0..T-1 with choices[t] options each. The paper's has two layers of 35 units."""

    def __init__(self, choices: tuple[int, ...], dim: int = 35, num_layers: int = 2, seed: int = 0):
        super().__init__()
        positive(dim=dim, num_layers=num_layers)
        require(len(choices) > 0, "choices", choices, "name at least one decision")
        self.choices = choices
        with seeded(seed), torch.no_grad():
            self.start = nn.Parameter(torch.empty(dim))
            self.embeddings = nn.ModuleList(nn.Embedding(options, dim) for options in choices[:-1])
            self.lstm = nn.LSTM(dim, dim, num_layers, batch_first=True)
            self.heads = nn.ModuleList(nn.Linear(dim, options) for options in choices)
            for parameter in self.parameters():
                parameter.uniform_(-0.08, 0.08)

    def log_probs(self, tokens: Tensor) -> Tensor:
        """[N, T] decisions -> [N] log-probabilities of the whole lists."""
        inputs = [self.start.expand(len(tokens), -1)]
        inputs += [embed(tokens[:, t]) for t, embed in enumerate(self.embeddings)]
        states, _ = self.lstm(torch.stack(inputs, 1))  # T x [N, dim] -> [N, T, dim]
        each = [head(states[:, t]).log_softmax(-1).gather(1, tokens[:, t:t + 1])[:, 0]
                for t, head in enumerate(self.heads)]
        return torch.stack(each, 1).sum(1)

    @torch.no_grad()
    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """[count, T] decisions."""
        entering, state, tokens = self.start.expand(count, 1, -1), None, []
        for t, head in enumerate(self.heads):
            out, state = self.lstm(entering, state)
            probs = head(out[:, 0]).softmax(-1)
            tokens.append(torch.multinomial(probs, 1, generator=generator))  # [count, 1]
            if t < len(self.embeddings):
                entering = self.embeddings[t](tokens[-1])
        return torch.cat(tokens, 1)


def policy_loss(log_probs: Tensor, rewards: Tensor, baseline: float, entropy_weight: float = 0.0) -> Tensor:
    """Its gradient is an unbiased estimate of that of -(mean reward + entropy_weight * entropy) for a baseline that
    does not depend on these samples. log_probs, rewards: [N]."""
    gain = rewards - entropy_weight * log_probs.detach() - baseline
    return -(gain * log_probs).mean()


@dataclass(frozen=True, kw_only=True)
class ControllerSettings:
    """batch_size: architectures an update. baseline_decay: weight of the past in the moving average of the rewards,
    which starts at the mean of the first batch. The paper's rate is 0.0006, for 12,800 architectures; with a few dozen
    it has to be higher."""

    batch_size: int = 6
    lr: float = 0.03
    baseline_decay: float = 0.9
    entropy_weight: float = 0.002
    dim: int = 35
    num_layers: int = 2

    def __post_init__(self) -> None:
        positive(batch_size=self.batch_size, dim=self.dim, num_layers=self.num_layers)
        require(self.lr > 0, "lr", self.lr, "be above 0")
        require(0 <= self.baseline_decay < 1, "baseline_decay", self.baseline_decay, "lie in [0, 1)")
        require(self.entropy_weight >= 0, "entropy_weight", self.entropy_weight, "be at least 0")


class Reinforce:
    """The controller with its optimizer and its baseline: sample, score, learn."""

    def __init__(self, choices: tuple[int, ...], settings: ControllerSettings, seed: int):
        self.settings = settings
        self.controller = Controller(choices, settings.dim, settings.num_layers, seed)
        self.optimizer = torch.optim.Adam(self.controller.parameters(), settings.lr)
        self.generator = torch.Generator().manual_seed(seed)
        self.baseline: float | None = None

    def update(self, reward: Callable[[Sequence[tuple[int, ...]]], Sequence[float]]) -> list[float]:
        """One step: rewards of a batch of sampled decisions, which are returned."""
        tokens = self.controller.sample(self.settings.batch_size, self.generator)
        rewards = [float(r) for r in reward([tuple(row) for row in tokens.tolist()])]
        mean, decay = sum(rewards) / len(rewards), self.settings.baseline_decay
        baseline = mean if self.baseline is None else self.baseline
        loss = policy_loss(self.controller.log_probs(tokens), torch.tensor(rewards), baseline,
                           self.settings.entropy_weight)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.baseline = decay * baseline + (1 - decay) * mean
        return rewards

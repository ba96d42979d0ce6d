"""The MLP of vision transformers and of networks made of MLPs alone."""

from __future__ import annotations

from torch import Tensor, nn


class MLP(nn.Module):
    """Linear, activation, linear over the last axis: [..., dim] -> the same shape. dropout: after the activation and at
    the end. activation: GELU unless given."""

    def __init__(self, dim: int, hidden_dim: int, dropout: float = 0.0, activation: type[nn.Module] = nn.GELU):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.act = activation()
        self.drop1 = nn.Dropout(dropout)
        self.fc2 = nn.Linear(hidden_dim, dim)
        self.drop2 = nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.drop2(self.fc2(self.drop1(self.act(self.fc1(tokens)))))

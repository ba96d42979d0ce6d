"""The MLP of vision transformers and of networks made of MLPs alone."""

from __future__ import annotations

from torch import Tensor, nn


class MLP(nn.Module):
    """Linear, GELU, linear over the last axis: [..., dim] -> the same shape. dropout: after GELU and at the end."""

    def __init__(self, dim: int, hidden_dim: int, dropout: float = 0.0):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.act = nn.GELU()
        self.drop1 = nn.Dropout(dropout)
        self.fc2 = nn.Linear(hidden_dim, dim)
        self.drop2 = nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.drop2(self.fc2(self.drop1(self.act(self.fc1(tokens)))))

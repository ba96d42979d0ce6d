"""What the loop asks of what it is given: batches, and a task."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any, Protocol

from torch import Tensor, nn

from visus.core.batch import ImageBatch


class BatchSource(Protocol):
    """Batch n of epoch e, the same whenever and wherever it is asked for."""

    def __len__(self) -> int: ...

    def epoch(self, epoch: int, start_batch: int = 0) -> Iterator[ImageBatch]: ...


class Stateful(Protocol):
    """Something that remembers from step to step."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Averager(Stateful, Protocol):
    """Averaged weights: `update` after each update of the weights, `copy_to` as a context that lends them out."""

    def update(self, model: nn.Module) -> None: ...

    def copy_to(self, model: nn.Module) -> AbstractContextManager[Any]: ...


class Regulariser(Protocol):
    """What holds the weights back: a price in the loss, a constraint after each update."""

    def penalty(self, model: nn.Module) -> Tensor | None:
        """A scalar to add to the loss of each update; None where there is none."""

    def constrain(self, model: nn.Module) -> None:
        """Put the weights back into their bounds, in place, without gradients."""


class TrainingTask(Protocol):
    @property
    def headline(self) -> str: ...

    @property
    def higher_is_better(self) -> bool: ...

    def loss(self, model: nn.Module, batch: ImageBatch) -> tuple[Tensor, Tensor]: ...

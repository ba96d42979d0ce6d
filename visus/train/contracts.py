"""What the loop asks of what it is given: batches, and a task."""

from __future__ import annotations

from collections.abc import Iterator
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


class TrainingTask(Protocol):
    @property
    def headline(self) -> str: ...

    @property
    def higher_is_better(self) -> bool: ...

    def loss(self, model: nn.Module, batch: ImageBatch) -> tuple[Tensor, Tensor]: ...

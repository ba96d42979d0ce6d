"""What a classical model is: a module that is fitted to all its images at once instead of following gradients.

A fitted model builds from its config alone, as a network does; `fit` then fills its buffers and parameters, and
replaces `config` where their shapes depend on the images (a nearest neighbour keeps as many as it was given), so that
`Build(Build.Config(**config))` followed by a strict `load_state_dict` gives the same model again.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from visus.core.errors import ResourceError

Batches = Callable[[], Iterator[tuple[Tensor, Tensor]]]
GATHERED_BYTES = 4 << 30


@dataclass(frozen=True, kw_only=True)
class Examples:
    """The images that a model is fitted to, as it will see them later: normalised, unaugmented, always in one order.

    train, val: called for one pass over the split, in batches of (float32 [B, C, H, W], int64 [B]). count: images of
    the training split. names: of the classes, by label; () where they have none. advance: called with the number of
    images, or of parts of `begin`'s whole, that are done. begin: names the next piece of work and how many parts it has
    (None: not known), for the progress bar. say: a choice that was made for the user, as a sentence. log: a point of a
    curve, as its number from 1 and values by name, such as log(3, train_loss=0.4, val_accuracy=0.9).
    """

    train: Batches
    val: Batches
    count: int
    num_classes: int
    seed: int
    device: torch.device
    names: tuple[str, ...] = ()
    begin: Callable[[str, int | None], None] = lambda name, parts: None
    advance: Callable[[int], None] = lambda count: None
    say: Callable[[str], None] = lambda sentence: None
    log: Callable[..., None] = lambda number, **values: None

    def gathered(self, split: str = "train", limit_bytes: int = GATHERED_BYTES) -> tuple[Tensor, Tensor]:
        """All images of a split, float32 [N, C, H, W] on `device`, and their labels, int64 [N]. Raises ResourceError
        where they take more than `limit_bytes`."""
        images: list[Tensor] = []
        labels: list[Tensor] = []
        size = 0
        for batch, targets in (self.train if split == "train" else self.val)():
            size += batch.nbytes
            if size > limit_bytes:
                raise ResourceError(f"the {split} images take more than {limit_bytes >> 20:,} MiB together",
                                    where=f"{self.count:,} images of {tuple(batch.shape[1:])}",
                                    remedy="Use a smaller --image-size, or fewer images")
            images.append(batch)
            labels.append(targets)
        return torch.cat(images).to(self.device), torch.cat(labels).to(self.device)


class Fitted(nn.Module, ABC):
    """forward: normalised images [B, C, H, W] -> logits [B, num_classes], whose softmax are the model's probabilities
    (a method that counts votes gives logarithms of their shares). The same in train and eval mode; differentiable with
    respect to the images where the method is."""

    Config: ClassVar[Any]
    config: Any

    @abstractmethod
    def fit(self, examples: Examples) -> None:
        """Find the numbers. Deterministic: the same examples and seed give the same bits on one machine."""

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor:
        """Normalised images [B, C, H, W] -> logits [B, num_classes]."""

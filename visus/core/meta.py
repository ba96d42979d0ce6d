"""Building models without memory and without drawing weights that nobody will see."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_FILLS = frozenset({Tensor.uniform_, Tensor.normal_, Tensor.fill_, Tensor.zero_, Tensor.bernoulli_})


@contextmanager
def on_meta() -> Iterator[None]:
    """Tensors made inside have shapes and no values (the meta device); functions that fill them do nothing.

    Simulating the random numbers takes most of the time of building on the meta device otherwise.
    """
    with torch.device("meta"), _NoFilling():
        yield


class _NoFilling(TorchFunctionMode):
    def __torch_function__(self, func: Callable[..., Any], types: Sequence[type], args: tuple[Any, ...] = (),
                           kwargs: Mapping[str, Any] | None = None) -> Any:
        if func in _FILLS or getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))

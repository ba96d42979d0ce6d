"""Folders and files -> samples -> splits -> transforms -> batches.

    samples = open_samples("photos")              # class folders, CSV, .npz, IDX, or the built-in "digits"
    parts = split_samples(samples, seed=0)        # indices of train, val and test
    loader = Loader(samples, parts["train"], preprocessing, batch_size=32, shuffle=True)

Importing this package does not load torch; using Loader or build_augmentation does.
"""

from __future__ import annotations

import importlib
from typing import Any

_PUBLIC = {
    "open_samples": "visus.data.opening",
    "Samples": "visus.data.samples",
    "BadImage": "visus.data.scan",
    "scan_images": "visus.data.scan",
    "survey_images": "visus.data.scan",
    "handle_bad_images": "visus.data.scan",
    "split_samples": "visus.data.split",
    "Loader": "visus.data.loader",
    "build_augmentation": "visus.data.transforms",
}
__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'visus.data' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__

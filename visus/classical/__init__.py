"""Models from before deep learning, one in a file, registered by name: each finds its numbers by an algorithm of its
own. Importing this package loads none of them, and no torch."""

from __future__ import annotations

from visus.core.registry import Registry

registry = Registry("classical model", "visus.classical")
add = registry.add

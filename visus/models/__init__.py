"""Architectures, one in a file, registered by name. Importing this package loads none of them, and no
torch."""

from __future__ import annotations

from visus.core.registry import Registry

registry = Registry("model", "visus.models")
add = registry.add

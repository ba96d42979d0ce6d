"""A finished model -> what it looks at, how far it sees, what it keeps equal.

A method is one file: a frozen dataclass of its options, `__call__(model, images) -> Explanation`, and one `add` at the
end. Importing this package loads none of them, and no torch.
"""

from __future__ import annotations

from visus.core.registry import Registry

registry = Registry("method", "visus.explain")
add = registry.add

"""A classifier and images -> images a little different that it answers wrongly, and how hard they were to find.

An attack is one file: a frozen dataclass of its options, `__call__(classifier, images, labels) -> Attacked`, and one
`add` at the end; visus/attack/attack.py is the contract. Importing this package loads none of them, and no torch.
"""

from __future__ import annotations

from visus.core.registry import Registry

registry = Registry("attack", "visus.attack")
add = registry.add

"""Numbers of channels that a width multiplier leaves usable."""

from __future__ import annotations


def round_width(dim: float, multiple: int = 8) -> int:
    """The multiple nearest to `dim` (halves go up), at least one multiple, and never more than a tenth below."""
    rounded = max(multiple, int(dim + multiple / 2) // multiple * multiple)
    return rounded if rounded >= 0.9 * dim else rounded + multiple

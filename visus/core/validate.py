"""Checks that configs share: each refusal names the field, its value and the range that it must lie in."""

from __future__ import annotations

from typing import Any

from visus.core.errors import UserError


def require(ok: bool, field: str, value: Any, must: str) -> None:
    """Raises UserError "field=value: must ..." unless `ok`."""
    if not ok:
        raise UserError(f"must {must}", where=f"{field}={value!r}")


def positive(**fields: Any) -> None:
    """Each field is an int of at least 1 (bool is not an int here)."""
    for field, value in fields.items():
        require(isinstance(value, int) and not isinstance(value, bool) and value >= 1, field, value,
                "be a whole number of at least 1")


def natural(**fields: Any) -> None:
    """Each field is an int of at least 0 (bool is not an int here)."""
    for field, value in fields.items():
        require(isinstance(value, int) and not isinstance(value, bool) and value >= 0, field, value,
                "be a whole number of at least 0")


def probability(**fields: Any) -> None:
    """Each field is a number in [0, 1)."""
    for field, value in fields.items():
        require(isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1, field,
                value,
                "lie in [0, 1)")


def boolean(**fields: Any) -> None:
    for field, value in fields.items():
        require(isinstance(value, bool), field, value, "be true or false")


def one_of(known: tuple[str, ...], **fields: Any) -> None:
    for field, value in fields.items():
        require(value in known, field, value, "be one of " + ", ".join(known))

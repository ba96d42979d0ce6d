"""One look-up for every model that has a name: networks, and classical models that are fitted."""

from __future__ import annotations

from visus import classical
from visus.core.errors import UserError, did_you_mean
from visus.core.registry import Entry
from visus.models import registry as networks


def is_fitted(name: str) -> bool:
    """Whether the name is of a classical model, which is fitted instead of following gradients."""
    return name in classical.registry.names()


def entry_of(name: str) -> Entry:
    """The registered model. Raises UserError with the nearest names when there is none."""
    if is_fitted(name):
        return classical.registry.get(name)
    if name in networks.index():
        return networks.get(name)
    known = [*networks.names(), *classical.registry.names()]
    raise UserError(f"there is no model {name!r}", remedy=did_you_mean(name, sorted(known)))

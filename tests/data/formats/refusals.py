"""What a reader must do with data that it cannot read."""

from __future__ import annotations

from pathlib import Path

import pytest

from visus.core.errors import DataError, ImageError, UserError
from visus.data.opening import open_samples


def refused(path: str | Path, *words: str, **options) -> DataError:
    """Opening ends in a DataError that says the words, where it is and what to do."""
    with pytest.raises(DataError) as caught:
        open_samples(path, **options)
    for word in words:
        assert word in str(caught.value), str(caught.value)
    assert caught.value.where and caught.value.remedy
    return caught.value


def read_or_refused(path: str | Path) -> None:
    """Samples, of which each is read or refused by name; or a refusal of the whole. Anything else is raised."""
    try:
        samples = open_samples(path)
        for i in range(len(samples)):
            try:
                samples.read(i)
            except ImageError:
                pass
    except UserError:
        pass

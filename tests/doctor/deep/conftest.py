from __future__ import annotations

import pytest

from visus.doctor.thresholds import THRESHOLDS, Threshold


@pytest.fixture(scope="package", autouse=True)
def _short():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(THRESHOLDS, "controls.steps", Threshold(48, "enough for clouds"))
        yield

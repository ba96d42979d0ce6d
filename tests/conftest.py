"""One thread for all tests and the processes that they start: with a busy neighbour two threads wait for each other.
Trainings end with the metrics; what the report adds to them is made where a test asks for it (`with_trust`)."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest


@pytest.fixture(scope="session", autouse=True)
def _metrics_only():
    from visus.run import evaluate

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate, "add_trust", lambda *_: {})
        yield


@pytest.fixture
def with_trust(monkeypatch):
    from visus.run import evaluate, trust

    monkeypatch.setattr(evaluate, "add_trust", trust.add_trust)

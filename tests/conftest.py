"""One thread for all tests and the processes that they start: with a busy neighbour two threads wait for each other.
Trainings begin with the first step and end with the metrics: what checks them before is run where a test asks for it
(`with_doctor`), and so is what the report adds (`with_trust`). They compute in float32, whatever the machine is quicker
in."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

from tests.deployed import digit_files as digit_files
from tests.deployed import digits_bundle as digits_bundle
from tests.deployed import digits_run as digits_run

# Files that take a minute or more, longest first: begun last, one of them would keep one process waiting for another.
LONG = ("test_docs.py", "test_every_model.py", "test_models_parity.py", "test_zoo.py", "test_every_cnn.py",
        "test_cli.py", "test_abuse.py")


def pytest_collection_modifyitems(items):
    from visus.deploy.openvino_package import may_compute

    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))
    if not may_compute():
        skipped = pytest.mark.skip(reason="OpenVINO may end the process on this machine: VISUS_OPENVINO=1 tries it")
        for item in items:
            needs = ("openvino", "half_precision_mostly_agrees")
            if any(word in item.nodeid for word in needs) and "openvino_package" not in item.nodeid:
                item.add_marker(skipped)


@pytest.fixture(scope="session", autouse=True)
def _plain_trainings():
    from visus.core import device
    from visus.run import evaluate, train

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device, "bf16_may_pay_on_cpu", lambda: False)
        patch.setattr(evaluate, "add_trust", lambda *_: {})
        patch.setattr(evaluate, "add_rungs", lambda *_: ([], []))
        patch.setattr(train, "check_before", lambda *_: None)
        yield


@pytest.fixture
def with_doctor(monkeypatch):
    from visus.run import doctor, train

    monkeypatch.setattr(train, "check_before", doctor.check_before)


@pytest.fixture
def with_ladder(monkeypatch):
    """The baselines that cost seconds, too."""
    from visus.run import evaluate, ladder

    monkeypatch.setattr(evaluate, "add_rungs", ladder.add_rungs)


@pytest.fixture
def with_trust(monkeypatch):
    from visus.run import evaluate, trust

    monkeypatch.setattr(evaluate, "add_trust", trust.add_trust)

import os
import signal
import threading
import time
from pathlib import Path

import pytest

pytest.importorskip("uvicorn", reason="the extra serve is not installed")
pytest.importorskip("prometheus_client", reason="the extra serve is not installed")

from tests.deploy.server import fake_worker
from visus.core.errors import ResourceError
from visus.deploy.server import supervisor as module
from visus.deploy.server.serving import listen
from visus.deploy.server.settings import ServerSettings
from visus.deploy.server.supervisor import Supervisor

SETTINGS = ServerSettings(port=0, workers=2, drain_seconds=10)


@pytest.fixture
def supervisor(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PRELOADED", ["tests.deploy.server.fake_worker"])
    return lambda work: Supervisor(work, (str(tmp_path),), SETTINGS, listen(SETTINGS))


def until(condition, seconds: float = 30) -> float:
    begin = time.monotonic()
    while not condition():
        assert time.monotonic() - begin < seconds
        time.sleep(0.005)
    return time.monotonic() - begin


def test_a_killed_worker_is_replaced_at_once_and_readiness_is_false_meanwhile(supervisor, tmp_path: Path):
    one, found, failures = supervisor(fake_worker.work), {}, []
    handler = signal.getsignal(signal.SIGTERM)

    def drive():
        try:
            ready = one.metrics[0].gauge("ready")
            until(ready.all)
            os.kill(os.getpid(), signal.SIGHUP)
            until(lambda: all((tmp_path / f"hup-{row}").exists() for row in (0, 1)))
            first = one.processes[1].pid
            os.kill(first, signal.SIGKILL)
            until(lambda: not ready[1])
            found["took"] = until(lambda: ready.all() and one.processes[1].pid != first)
            found["other"] = ready[0]
        except BaseException as error:
            failures.append(error)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=drive)
    clean = one.run(thread.start)
    thread.join()
    assert not failures, failures
    assert clean and found["took"] < 2 and found["other"] == 1
    assert len(list(tmp_path.glob("1-*"))) == 2 and len(list(tmp_path.glob("0-*"))) == 1
    text = one.metrics[0].text("m", "v").decode()
    assert "visus_restarts_total 1.0" in text and "visus_ready 0.0" in text
    assert signal.getsignal(signal.SIGTERM) is handler
    assert not any(process.is_alive() for process in one.processes)


def test_workers_that_never_come_up_end_the_server(supervisor):
    with pytest.raises(ResourceError, match="before they are ready"):
        supervisor(fake_worker.broken).run()

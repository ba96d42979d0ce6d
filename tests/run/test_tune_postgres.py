"""A study on a real PostgreSQL server, shared by processes: nothing is lost or made twice, no password is told."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.run.kill_harness import make_data
from tests.run.postgres_server import PASSWORD, postgres
from tests.run.test_tune import RATE, VALUES, small
from visus.core.errors import RunError, UserError
from visus.run.tune import resume_study, tune
from visus.run.tune_storage import Storage, load_optuna

TAKER = """
import sys
from pathlib import Path
from visus.run.tune_storage import Storage, load_optuna
storage = Storage(sys.stdin.readline().strip(), Path("."))
study = storage.study("race", maximise=True, create=False)
state = load_optuna().trial.TrialState
print("ready", flush=True)
sys.stdin.readline()
while (taken := storage.take(study)) is not None:
    storage.backend.set_trial_state_values(taken[0], state=state.COMPLETE, values=[float(taken[1])])
    print(taken[1], flush=True)
"""


@pytest.fixture(scope="module")
def server():
    with postgres() as url:
        yield url


def take_in_two(url: str) -> list[list[int]]:
    """The numbers of the trials that each of two processes took, which begin together."""
    root = Path(__file__).resolve().parents[2]
    takers = [subprocess.Popen([sys.executable, "-c", TAKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                               cwd=root) for _ in range(2)]
    for taker in takers:
        taker.stdin.write(url + "\n")
        taker.stdin.flush()
    for taker in takers:
        assert taker.stdout.readline() == "ready\n"
    answers = []
    for taker in takers:
        taker.stdin.write("go\n")
        taker.stdin.flush()
    for taker in takers:
        answers.append([int(line) for line in taker.communicate(timeout=60)[0].split()])
        assert taker.returncode == 0
    return answers


@pytest.mark.parametrize("kind", ["postgresql", pytest.param("sqlite", marks=pytest.mark.slow)])
def test_two_processes_take_each_trial_once(kind, request, tmp_path):
    url = request.getfixturevalue("server") if kind == "postgresql" else f"sqlite:///{tmp_path / 'study.db'}"
    storage = Storage(url, tmp_path)
    study = storage.study("race", maximise=True)
    for _ in range(30):
        study.enqueue_trial({})
    taken = take_in_two(url)
    assert Counter([*taken[0], *taken[1]]) == Counter(range(30))
    assert min(map(len, taken)) > 0, "one process took all: there was no race"
    storage.close()


def test_no_credential_is_written_or_printed_and_another_process_may_help(server, tmp_path, capfd):
    data = make_data(tmp_path, files=False)
    study = small(data, tmp_path / "s", trials=2, storage=server, progress=True,
                  command=["visus", "tune", "--storage", server])
    shown = "".join(capfd.readouterr())
    assert "postgresql://***@127.0.0.1" in shown and PASSWORD not in shown
    for path in study.path.rglob("*"):
        assert path.is_dir() or PASSWORD.encode() not in path.read_bytes(), path
    assert "***" in json.loads((study.path / "study.json").read_text())["storage"]

    with pytest.raises(UserError, match="credentials are kept nowhere"):  # so that they are asked for again
        resume_study(study.path, progress=False)
    more = resume_study(study.path, storage=server, trials=3, progress=False)
    assert len(more.trials) == 3
    helped = small(data, tmp_path / "elsewhere", storage=server, study="s")  # begun, and ended, by another
    assert len(helped.trials) == 3 and helped.best["value"] == more.best["value"]

    (tmp_path / "other").mkdir()
    other = make_data(tmp_path / "other", files=False, count=60)
    with pytest.raises(RunError, match="not those that the study began with"):
        small(other, tmp_path / "wrong", storage=server, study="s")


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", ["postgresql", "sqlite"])
def test_two_workers_make_a_study_together(kind, request, tmp_path):
    data = make_data(tmp_path, files=False)
    url = request.getfixturevalue("server") if kind == "postgresql" else None
    study = tune(data, values=VALUES, vary=RATE, trials=8, epochs=[1], method="random", workers=2, storage=url,
                 out=tmp_path / f"of-{kind}", train_best=False, progress=False)
    rows = study.trials
    assert sorted(row["number"] for row in rows) == list(range(8)) and {row["status"] for row in rows} == {"complete"}
    alone = small(data, tmp_path / "alone", trials=8)
    assert [row["values"] for row in rows] == [row["values"] for row in alone.trials]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_worker_killed_in_the_middle_is_replaced_and_its_trial_made_again(tmp_path):
    """SIGKILL to the process that trains; the other workers and a fresh one finish the study."""
    data = make_data(tmp_path, files=False)
    out = tmp_path / "s"
    values = [f"{name}={json.dumps(value)}" for name, value in VALUES.items()]
    command = [sys.executable, "-m", "visus", "tune", str(data), "--workers", "2", "--trials", "6", "--epochs", "60",
               "--method", "random", "--pruner", "none", "--vary", RATE[0], "--no-train-best", "--out", str(out)]
    whole = subprocess.Popen([*command, *(word for value in values for word in ("--set", value))],
                             cwd=Path(__file__).resolve().parents[2], stdout=subprocess.DEVNULL)
    victim = None
    for _ in range(600):
        time.sleep(0.2)
        running = [row for row in _rows(out) if row.user_attrs.get("worker")]
        if running:
            victim = int(running[0].user_attrs["worker"].rpartition(":")[2])
            break
    assert victim is not None and victim != whole.pid
    os.kill(victim, signal.SIGKILL)
    assert whole.wait(500) == 0
    record = json.loads((out / "study.json").read_text())
    killed = [row for row in record["trials"] if row["status"] == "killed"]
    again = [row for row in record["trials"] if row["retry_of"] is not None]
    assert len(killed) == len(again) == 1 and again[0]["values"] == killed[0]["values"]
    assert sum(row["status"] == "complete" for row in record["trials"]) == 6


def _rows(out: Path) -> list:
    if not (out / "study.db").exists():
        return []
    storage = Storage(None, out)
    try:
        if not storage.has("s/1"):
            return []
        state = load_optuna().trial.TrialState.RUNNING
        return storage.study("s/1", maximise=True, create=False).get_trials(states=(state,))
    finally:
        storage.close()


def test_a_server_that_says_no_is_named_without_the_password(server, tmp_path):
    data = make_data(tmp_path, files=False)
    for wrong in (server.replace(PASSWORD, "an0ther-Wort"), server.replace("127.0.0.1:", "127.0.0.1:1")):
        with pytest.raises(UserError, match="cannot be used") as error:
            small(data, tmp_path / "s", storage=wrong)
        assert "Wort" not in str(error.value) and error.value.__cause__ is None

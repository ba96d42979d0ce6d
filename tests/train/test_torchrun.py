"""Several processes as a person starts and loses them: one message, a whole checkpoint, a restart that goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import visus
from tests.run.kill_harness import digest, make_data
from tests.train.processes import forked, torchrun
from visus.core.errors import RunError
from visus.train.checkpoint import CheckpointStore

VALUES = {"train.epochs": 3, "train.batch_size": 8, "train.checkpoint_steps": 3, "train.ema": 0.9, "train.threads": 1,
          "train.layout": "contiguous", "train.precision": "fp32", "model.name": "mlp", "data.image_size": 8,
          "model.config.hidden_dims": [16], "doctor.before": False, "doctor.watch": False, "report.budget_s": 0,
          "optimizer.lr": 0.05, "data.workers": 0}


def words(data: Path, out: Path, epochs: int = 3) -> list[str]:
    values = VALUES | {"train.epochs": epochs}
    return ["train", str(data), "--out", str(out), *(word for name, value in values.items()
                                                     for word in ("--set", f"{name}={json.dumps(value)}"))]


def worker(parent: int, rank: int) -> int:
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(parent)], capture_output=True, text=True).stdout
    return next(pid for pid in map(int, listed.split())
                if f"RANK={rank}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"))


def test_a_killed_process_is_named_and_a_restart_goes_on_while_a_second_start_is_refused(tmp_path):
    """What torchrun --max-restarts does, with forked processes: SIGKILL to rank 1 in step 11, then the same command
    with the variable by which torchrun tells that it started it again. The end is that of a job that nothing befell."""
    from visus.cli.main import main

    data, run = make_data(tmp_path, files=False), tmp_path / "run"

    def work() -> None:
        import visus.train.trainer as trainer

        real = trainer.Trainer._step

        def step(self, group, waited_s):
            if self.position.step == 10 and self.world.rank == 1 and "TORCHELASTIC_RESTART_COUNT" not in os.environ:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(self, group, waited_s)

        trainer.Trainer._step = step
        sys.argv = ["visus", *words(data, run)]
        sys.exit(main(words(data, run)))

    assert forked(work, words=tmp_path) == [2, -signal.SIGKILL]
    assert spoken(tmp_path).count("error:") == 1 and "rank 1 of 2 ended without a word" in spoken(tmp_path)
    step, _, problems = CheckpointStore(run / "checkpoints").load()
    assert step == 9 and not problems
    with pytest.raises(RunError, match="is not empty"):
        visus.train(data, out=run, values=VALUES, progress=False)
    assert forked(work, environment={"TORCHELASTIC_RESTART_COUNT": "1"}) == [0, 0]
    resumes = [row for row in map(json.loads, (run / "log.jsonl").read_text().splitlines()) if row["event"] == "resume"]
    assert [row["step"] for row in resumes] == [9]
    assert forked(lambda: visus.train(data, out=tmp_path / "whole", values=VALUES, progress=False)) == [0, 0]
    assert digest(run) == digest(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_killed_worker_is_named_and_the_restart_ends_with_the_same_bits(tmp_path):
    """SIGKILL to one of two: the other says which rank is gone; torchrun --max-restarts 1 starts both again, and they
    go on from the checkpoint to the bits of a job that nothing befell. A plain second start is refused as ever."""
    data, run = make_data(tmp_path, files=False), tmp_path / "run"
    job = torchrun(*words(data, run, epochs=6), options=("--max-restarts", "1"))
    until = time.monotonic() + 120
    while not (run / "log.jsonl").exists() or (run / "log.jsonl").read_text().count('"step"') < 8:
        assert job.poll() is None and time.monotonic() < until
        time.sleep(0.02)
    os.kill(worker(job.pid, 1), signal.SIGKILL)
    said, errors = job.communicate(timeout=150)
    assert job.returncode == 0, errors
    assert errors.count("rank 1 of 2 ended without a word") == 1
    assert "resume     from step" in said and said.count("on 15 test images") == 1
    resumes = [row for row in map(json.loads, (run / "log.jsonl").read_text().splitlines()) if row["event"] == "resume"]
    assert len(resumes) == 1 and resumes[0]["step"] > 0
    assert forked(lambda: visus.train(data, out=tmp_path / "whole", values=VALUES | {"train.epochs": 6},
                                      progress=False)) == [0, 0]
    assert digest(run) == digest(tmp_path / "whole")
    with pytest.raises(RunError, match="is not empty"):
        visus.train(data, out=run, values=VALUES, progress=False)


def spoken(folder: Path) -> str:
    return "".join((folder / f"err-{rank}").read_text() for rank in range(2))


def test_a_wrong_path_is_told_once_and_both_processes_exit_with_2(tmp_path):
    from visus.cli.main import main

    def work() -> None:
        sys.exit(main(["train", str(tmp_path / "nothing"), "--out", str(tmp_path / "run")]))

    assert forked(work, words=tmp_path) == [2, 2]
    assert spoken(tmp_path).count("error:") == 1 and not (tmp_path / "run").exists()


def test_an_error_in_one_process_ends_the_job_with_one_message_that_names_its_rank(tmp_path):
    from visus.cli.main import main
    from visus.core.errors import DataError
    from visus.data.loader import Loader

    data, real = make_data(tmp_path, files=False), Loader._compute

    def compute(self, files, epoch, positions):
        if os.environ["RANK"] == "1" and epoch == 1:
            raise DataError("the disk of this machine is gone", where="images")
        return real(self, files, epoch, positions)

    def work() -> None:
        Loader._compute = compute
        sys.exit(main(words(data, tmp_path / "run")))

    assert forked(work, words=tmp_path) == [2, 2]
    assert spoken(tmp_path).count("error:") == 1
    assert "rank 1 of 2: the disk of this machine is gone" in spoken(tmp_path)
    assert json.loads((tmp_path / "run/run.json").read_text())["status"] == "failed"


@pytest.mark.parametrize("values, named", [
    ({"train.batch_size": 1}, "train.batch_size=1"),
    ({"defend.method": "free"}, "defend.method=free"),
    ({"train.strategy": "fsdp", "optimizer.name": "lamb"}, "optimizer.name=lamb"),
    ({"data.folds": 3}, "data.folds=3"),
], ids=str)
def test_what_several_processes_cannot_do_is_refused_at_the_door(values, named):
    from visus.core.errors import UserError
    from visus.run.recipe import Recipe
    from visus.run.spread import check_spread
    from visus.train.world import World

    with pytest.raises(UserError) as error:
        check_spread(Recipe().with_values(values), World(0, 2))
    assert named in str(error.value) and error.value.remedy

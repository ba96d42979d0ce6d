"""Several processes for a test: forked, which takes no time, or started by torchrun, as a person does."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def forked(work: Callable[[], Any], size: int = 2, *, environment: dict[str, str] | None = None,
           words: Path | None = None, seconds: float = 60.0) -> list[int]:
    """Run `work` in `size` processes that know each other; -> their exit codes by rank, negative for a signal. words:
    a folder for what each of them prints."""
    port, started = free_port(), []
    for rank in range(size):
        pid = os.fork()
        if not pid:
            status = 1
            try:
                os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank),
                               "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)} | (environment or {})
                out = os.open(os.devnull if words is None else words / f"out-{rank}", os.O_WRONLY | os.O_CREAT)
                os.dup2(out, 1)
                if words is not None:
                    os.dup2(os.open(words / f"err-{rank}", os.O_WRONLY | os.O_CREAT), 2)
                sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")  # not pytest's
                import torch

                torch.set_num_threads(1)
                work()
                status = 0
            except SystemExit as exit:
                status = int(exit.code or 0)
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)
        started.append(pid)
    codes, until = [], time.monotonic() + seconds
    for pid in started:
        while not (done := os.waitpid(pid, os.WNOHANG))[0]:
            if time.monotonic() > until:
                for other in started[len(codes):]:
                    os.kill(other, signal.SIGKILL)
                until = float("inf")
            time.sleep(0.01)
        codes.append(os.waitstatus_to_exitcode(done[1]))
    return codes


def torchrun(*words: str, size: int = 2, options: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    """torchrun --nproc-per-node `size` -m visus ..., as a person types it."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(size), "--master-port",
               str(free_port()), *options, "-m", "visus", *words]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            env=os.environ | {"OMP_NUM_THREADS": "1"})

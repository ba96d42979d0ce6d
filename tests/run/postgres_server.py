"""A real PostgreSQL server for the tests that share a study: started here, with a password, and stopped at the end.

The server refuses to run as root, so that root starts it as nobody, in a folder of the system's temporary files that
nobody may enter (pytest's own folders are closed to others).
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

USER, PASSWORD = "tuner", "s3cret-Wort"
BINARIES = Path("/usr/lib/postgresql")


@contextmanager
def postgres() -> Iterator[str]:
    """The URL of an empty database, credentials in it. Skips where there is no server to start."""
    found = {name: shutil.which(name) or next(map(str, sorted(BINARIES.glob(f"*/bin/{name}"), reverse=True)), None)
             for name in ("initdb", "pg_ctl")}
    missing = [name for name, path in found.items() if path is None]
    if missing:
        pytest.skip(f"no PostgreSQL server on this machine: {', '.join(missing)} not found")
    pytest.importorskip("psycopg", reason="psycopg is not installed: the extra hpo-postgres")
    other_user: list[str] = []
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("a PostgreSQL server does not run as root, and setpriv is not there to start it as nobody")
        other_user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    folder = Path(tempfile.mkdtemp(prefix="visus-pg-"))
    try:
        (folder / "password").write_text(PASSWORD)
        if other_user:
            for path in (folder, folder / "password"):
                os.chown(path, 65534, 65534)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]

        def call(*words: str) -> None:
            done = subprocess.run([*other_user, *words], cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                                  timeout=60)
            if done.returncode:
                pytest.skip(f"the PostgreSQL server does not start: {done.stderr.decode(errors='replace')[-300:]}")

        database = str(folder / "db")
        call(str(found["initdb"]), "-D", database, "-U", USER, "--auth=scram-sha-256",
             f"--pwfile={folder / 'password'}", "--no-sync")
        call(str(found["pg_ctl"]), "-D", database, "-w", "-l", str(folder / "log"), "-o",
             f"-p {port} -h 127.0.0.1 -k {folder} -c fsync=off -c shared_buffers=16MB", "start")
        try:
            yield f"postgresql://{USER}:{PASSWORD}@127.0.0.1:{port}/postgres"
        finally:
            subprocess.run([*other_user, str(found["pg_ctl"]), "-D", database, "-m", "immediate", "-w", "stop"],
                           cwd="/", capture_output=True, timeout=60)
    finally:
        shutil.rmtree(folder, ignore_errors=True)

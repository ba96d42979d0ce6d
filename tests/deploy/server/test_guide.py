"""The shell lines of the guide to `visus serve`, run in their order against real servers."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

pytest.importorskip("uvicorn", reason="the extra serve is not installed")

GUIDE = Path(__file__).resolve().parents[3] / "docs/guide/serve.md"
LINES = [line.strip() for line in GUIDE.read_text().splitlines()
         if re.match(r"    (visus|curl|openssl) ", line)]
ENVIRONMENT = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


@pytest.fixture
def place(tmp_path, digits_run, digits_bundle, digit_files):
    shutil.copytree(digits_run, tmp_path / "runs/my-photos")
    shutil.copytree(digits_bundle, tmp_path / "bundle")
    for name in ("cat.jpg", "one.jpg", "two.png"):
        shutil.copy(sorted(digit_files.iterdir())[7], tmp_path / name)
    return tmp_path


def served(line: str, port: int, place: Path) -> subprocess.Popen[bytes]:
    process = subprocess.Popen([*line.split(), "--port", str(port)], cwd=place, env=ENVIRONMENT,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < until:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready", timeout=5):
                return process
        except OSError:
            time.sleep(0.1)
    raise AssertionError(f"{line}: not ready, exit code {process.poll()}")


@pytest.mark.skipif(not shutil.which("curl") or not shutil.which("openssl"), reason="curl or openssl is not installed")
def test_every_shell_line_of_the_page_works(place):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server, asked = None, 0
    try:
        for line in LINES:
            if line.startswith("visus serve"):
                if server is not None:
                    server.send_signal(signal.SIGTERM)
                    assert server.wait(60) == 0
                server = served(line, port, place)
                continue
            line = re.sub(r"(127\.0\.0\.1|server):8000", f"127.0.0.1:{port}", line)
            done = subprocess.run(["bash", "-c", line], cwd=place, env=ENVIRONMENT, capture_output=True, text=True)
            assert done.returncode == 0, (line, done.stderr)
            if line.startswith("curl"):
                answer, asked = json.loads(done.stdout), asked + 1
                assert answer["results"] and all(row["predicted"] for row in answer["results"]), (line, answer)
    finally:
        if server is not None:
            server.kill()
            server.wait()
    assert asked >= 3 and len(LINES) >= 6

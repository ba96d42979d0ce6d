"""One thread for all tests and the processes that they start: with a busy neighbour two threads wait for each other."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

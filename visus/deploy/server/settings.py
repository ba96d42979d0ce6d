"""What a server is told at its start: where it listens, how much it takes, how long it waits."""

from __future__ import annotations

import ipaddress
import math
import os
from dataclasses import dataclass, fields
from pathlib import Path

from visus.core.errors import UserError

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """host, port: where to listen; port 0 takes a free one. workers: processes, each with a model of its own. streams:
    images that one worker computes at a time; 0: its share of the cores. queue: requests of a worker that may wait.

    Limits: bytes of a request's body, of all bodies that a worker holds, pixels of an image as its header says, images
    of a request, open connections of a worker. Seconds: until a request's headers are there; until its body is (more
    for a large one: `least_rate`, bytes a second); until a reader has taken what it asked for; until an answer is
    computed; that an idle connection is kept; for what is under way after SIGTERM.

    keys: SHA-256 digests (hex) of the keys that may ask; none: anyone may. insecure: listen beyond this machine without
    keys. hosts: further names that a Host header may have. batch: images computed together, at most; 1: each alone,
    0: measured at the start. batch_delay_ms: how long the first image of a batch waits for others. statistics: a file
    for `visus monitor` (histograms, no images). access_log: '-' standard error, '' none, or a file. watch: look for a
    new bundle each second.

    Raises UserError for a value that cannot be meant, and for an address beyond loopback without keys.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    workers: int = 1
    streams: int = 0
    queue: int = 64
    max_body_bytes: int = 16 << 20
    max_held_bytes: int = 256 << 20
    max_pixels: int = 50_000_000
    max_images: int = 16
    max_connections: int = 256
    header_seconds: float = 10
    body_seconds: float = 15
    least_rate: int = 64 << 10
    answer_seconds: float = 30
    keep_alive_seconds: float = 5
    drain_seconds: float = 30
    keys: tuple[str, ...] = ()
    insecure: bool = False
    hosts: tuple[str, ...] = ()
    batch: int = 1
    batch_delay_ms: float = 2
    statistics: str = ""
    access_log: str = "-"
    watch: bool = False

    def __post_init__(self) -> None:
        least = {"port": 0, "streams": 0, "queue": 0, "batch": 0, "workers": 1, "max_body_bytes": 1024,
                 "max_held_bytes": 1024, "max_pixels": 64, "max_images": 1, "max_connections": 1, "least_rate": 1}
        for name, low in least.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < low:
                raise UserError(f"must be a whole number of at least {low}", where=f"{name} {value!r}")
        if self.port > 65535:
            raise UserError("must be at most 65535", where=f"port {self.port}")
        for name in (f.name for f in fields(self) if f.name.endswith("_seconds")):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not 0 < value < math.inf:
                raise UserError("must be a number of seconds above 0", where=f"{name} {value!r}")
        if not 0 <= self.batch_delay_ms <= 1000:
            raise UserError("must lie between 0 and 1000", where=f"batch_delay_ms {self.batch_delay_ms!r}")
        if self.max_held_bytes < self.max_body_bytes:
            raise UserError(f"is less than one body may have ({self.max_body_bytes})",
                            where=f"max_held_bytes {self.max_held_bytes}")
        if not self.loopback and not self.keys and not self.insecure:
            raise UserError("can be reached from other machines, and no key would be asked for",
                            where=f"host {self.host}",
                            remedy="Give --keys-file FILE, or --insecure where everyone may ask, or leave --host out")

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the address."""
        if self.host.lower() == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host.strip("[]")).is_loopback
        except ValueError:
            return False

    @property
    def host_names(self) -> frozenset[str]:
        """The names that a Host header may have; empty: any."""
        if not self.loopback and not self.hosts:
            return frozenset()
        own = f"[{self.host}]" if ":" in self.host and not self.host.startswith("[") else self.host
        return frozenset(name.lower() for name in (*self.hosts, own, *(LOOPBACK_NAMES if self.loopback else ())))

    @property
    def computing_streams(self) -> int:
        """Streams of one worker, a core each where there are enough."""
        return self.streams or max(1, usable_cores() // self.workers)


def usable_cores() -> int:
    """Cores that this process may use: its affinity, or less where a control group grants it less."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(cores, round(int(quota) / int(period))))
    except (OSError, ValueError):  # no such file, or 'max'
        return cores

"""The processes of one job, as torchrun starts them: who this one is, and the few words that they exchange.

Control words (counts, losses, a request to stop) go over the CPU with gloo, so that no GPU waits for them; gradients go
with NCCL where the device is CUDA. Nothing that is exchanged here is pickled: numbers, JSON and safetensors only.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor
from torch import distributed as dist

from visus.core.errors import ResourceError

WAIT_S = 1800.0  # longest wait for a process that has other work: the checks before training, a long validation
ROLL_CALL_S = 3.0  # how long the others have to say that they are still there
_CONNECTION = re.compile(r"gloo|nccl|connection|broken pipe|socket|recvvalue|timed out", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Report:
    """How a process ended. cause: False where it only lost the others. code: its exit code."""

    cause: bool
    text: str
    code: int


class World:
    """One process among `size`; alone by itself. rank: 0 writes and speaks, the others are silent."""

    def __init__(self, rank: int = 0, size: int = 1, store: dist.Store | None = None, attempt: int = 0):
        self.rank, self.size, self.attempt = rank, size, attempt
        self._store = store

    @property
    def leads(self) -> bool:
        return self.rank == 0

    @property
    def place(self) -> tuple[int, int]:
        """(rank, size): which share of how many is this process's."""
        return self.rank, self.size

    # -- words ---------------------------------------------------------------------------------------------------

    def sum(self, values: Sequence[float]) -> list[float]:
        """The sums over all processes, in float64; the same bits on each."""
        return self._reduced(values, dist.ReduceOp.SUM)

    def max(self, values: Sequence[float]) -> list[float]:
        return self._reduced(values, dist.ReduceOp.MAX)

    def barrier(self) -> None:
        """Wait until all processes are here."""
        self.sum([0.0])

    def gather(self, value: Any) -> list[Any]:
        """What each process gives, by rank: plain JSON values."""
        return [json.loads(data) for data in self._bytes(json.dumps(value).encode())]

    def share(self, value: Any) -> Any:
        """What the first process gives, on all of them: plain JSON values."""
        return self.gather(value if self.leads else None)[0] if self.size > 1 else value

    def gather_tensors(self, tensors: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
        """What each process gives, by rank, on the CPU; shapes may differ."""
        if self.size == 1:
            return [dict(tensors)]
        own = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        return [load_tensors(data) for data in self._bytes(save_tensors(own))]

    def _reduced(self, values: Sequence[float], operation: Any) -> list[float]:
        if self.size == 1:
            return list(values)
        tensor = torch.tensor(list(values), dtype=torch.float64)
        dist.all_reduce(tensor, operation)
        return tensor.tolist()

    def _bytes(self, data: bytes) -> list[bytes]:
        if self.size == 1:
            return [data]
        length = torch.tensor([len(data)])
        lengths = [torch.zeros_like(length) for _ in range(self.size)]
        dist.all_gather(lengths, length)
        longest = max(int(n) for n in lengths)
        padded = torch.frombuffer(bytearray(data.ljust(longest, b"\0")), dtype=torch.uint8)
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        dist.all_gather(parts, padded)
        return [part.numpy().tobytes()[:int(n)] for part, n in zip(parts, lengths, strict=True)]

    # -- the end -------------------------------------------------------------------------------------------------

    def announce(self, own: Report) -> None:
        """Say how this process ends, before it tidies up."""
        if self._store is not None:
            self._store.set(f"end/{self.rank}", json.dumps([own.cause, own.text, own.code]))

    def roll_call(self, own: Report, wait_s: float = ROLL_CALL_S) -> dict[int, Report]:
        """Say how this process ends, and hear who else has. Whoever is missing is gone, or still at work."""
        assert self._store is not None
        self.announce(own)
        found, until = {self.rank: own}, time.monotonic() + wait_s
        while len(found) < self.size and time.monotonic() < until:
            for rank in set(range(self.size)) - found.keys():
                if self._store.check([f"end/{rank}"]):
                    found[rank] = Report(*json.loads(self._store.get(f"end/{rank}")))
            time.sleep(0.02)
        return found


_joined: World | None = None


def here() -> World:
    """The world that this process joined; alone where it did not."""
    return _joined or World()


def launched() -> bool:
    """Whether torchrun, or another launcher with its variables, started this process as one of several."""
    return {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys() and \
        int(os.environ["WORLD_SIZE"]) > 1


def join(device: str = "auto") -> World:
    """Meet the other processes of the job. device: as of the recipe; 'auto' and 'cuda' take this process's own GPU.

    Raises ResourceError for more processes on a machine than it has GPUs, or when the others do not come.
    """
    global _joined
    if _joined is not None or not launched():
        return here()
    on_gpu = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    if on_gpu:
        local, count = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
        if local >= count:
            raise ResourceError(f"process {local + 1} of this machine finds {count} GPU{'' if count == 1 else 's'}",
                                where="torchrun --nproc-per-node", remedy="Start as many processes as there are GPUs, "
                                "or add --device cpu")
        torch.cuda.set_device(local)
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    attempt = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))
    kept = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"  # torchrun's store outlives its processes
    try:
        root = dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), size,
                             is_master=rank == 0 and not kept, timeout=timedelta(seconds=WAIT_S))
        store = dist.PrefixStore(f"visus/{attempt}", root)
        dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", store=dist.PrefixStore("group", store),
                                rank=rank, world_size=size, timeout=timedelta(seconds=WAIT_S))
    except (RuntimeError, ValueError) as error:
        raise ResourceError(f"rank {rank} of {size} did not meet the others: {error}",
                            where=f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}",
                            remedy="Are all machines started, with the same --rdzv-endpoint?") from error
    _joined = World(rank, size, store, attempt)
    return _joined


def leave() -> None:
    """The end of the job for this process; it may not join again."""
    global _joined
    if _joined is not None:
        _joined = None
        dist.destroy_process_group()


def lost_others(error: BaseException) -> bool:
    """Whether the error says that another process is gone, and nothing about this one."""
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and _CONNECTION.search(str(error)) is not None)

"""SIGINT and SIGTERM as a request: the step in hand is finished and saved. A second signal ends at once."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType

from visus.core.errors import Interrupted


class StopRequest:
    """Poll `requested` between steps and batches. As a context manager it takes the two signals over. remedy: what to
    do when work that cannot go on where it stopped was interrupted; None for what `visus train --resume` goes on
    with."""

    def __init__(self, remedy: str | None = None) -> None:
        self.remedy = remedy
        self.signal: signal.Signals | None = None
        self._agreed: signal.Signals | None = None
        self._before: dict[signal.Signals, object] = {}
        self._process = os.getpid()

    @property
    def requested(self) -> bool:
        return self.received is not None

    @property
    def received(self) -> signal.Signals | None:
        """The signal that this process received, or another of its job."""
        return self.signal or self._agreed

    def agree(self, number: int) -> None:
        """Another process of the job received it. The same signal on its way to this one is then not a second."""
        self._agreed = signal.Signals(number)

    def request(self, number: int = signal.SIGINT, frame: FrameType | None = None) -> None:
        if os.getpid() != self._process:  # a loader worker inherited the handler: the parent decides for both
            return
        if self.signal is not None:
            os._exit(128 + number)
        self.signal = signal.Signals(number)

    def interrupted(self, saved: bool, where: object) -> Interrupted:
        """The error to raise once the state is on disk (or could not be written)."""
        name = (self.received or signal.SIGINT).name
        if self.remedy is None:
            error = Interrupted(f"stopped by {name}" + (", saved" if saved else ", NOT saved"), where=where,
                                remedy=f"Go on with: visus train --resume {where}")
        else:
            error = Interrupted(f"stopped by {name}", where=where, remedy=self.remedy)
        error.exit_code = 128 + int(self.received or signal.SIGINT)
        return error

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self.request)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._before.clear()

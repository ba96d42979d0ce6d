"""Where a search keeps its trials: Optuna's storage on SQLite or PostgreSQL, shared by any number of workers.

A trial is a row that waits, is taken by one worker, and ends. PostgreSQL locks the row while it is taken; SQLite knows
no such lock, so that its takers wait for a file lock beside the database. Who and whether they live: each taken trial
names its worker, which leaves a heartbeat. Needs the extra 'hpo'.
"""

from __future__ import annotations

import fcntl
import os
import re
import socket
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from visus.core.errors import MissingExtra, ResourceError, UserError

if TYPE_CHECKING:
    import optuna

HEARTBEAT_S, GRACE_S = 15, 90
RETRIES = 1  # of a trial whose worker was killed
KILLED = "its worker was killed"
STOPPED = "stopped"
_CREDENTIALS = re.compile(r"([a-zA-Z][\w+.-]*://)\S*@")  # to the last @: a password may hold / and @
_QUERY = re.compile(r"(?i)\b(user|password|passfile|sslpassword|sslkey)=[^&\s]+")


def hidden(text: str) -> str:
    """The text with the credentials of each URL in it as ***."""
    return _QUERY.sub(r"\1=***", _CREDENTIALS.sub(r"\1***@", text))


class Storage:
    """Trials in a database. url: sqlite:///FILE or postgresql://[USER[:PASSWORD]@]HOST[:PORT]/DATABASE; None: an SQLite
    file in `folder`. Raises UserError, without the credentials, where it cannot be reached."""

    def __init__(self, url: str | None, folder: Path):
        optuna = load_optuna()
        self.url = url or f"sqlite:///{folder / 'study.db'}"
        self.shown = hidden(self.url)
        self.own = url is None
        self.worker = f"{socket.gethostname()}:{os.getpid()}"
        kind = urlsplit(self.url).scheme.partition("+")[0]
        self.file: Path | None = None
        address = self.url
        options: dict[str, Any] = {}
        if kind == "sqlite":
            self.file = Path(self.url.partition(":///")[2])
            if not str(self.file) or str(self.file) == ".":
                raise UserError("names no file", where=f"--storage {self.shown}",
                                remedy="For example: --storage sqlite:///study.db")
            options = {"connect_args": {"timeout": 60.0}}
        elif kind in ("postgresql", "postgres"):
            try:
                import psycopg  # noqa: F401
            except ImportError:
                raise MissingExtra("a study on PostgreSQL", "hpo-postgres") from None
            address = "postgresql+psycopg://" + self.url.partition("://")[2]
            options = {"pool_pre_ping": True, "pool_size": 2}
        else:
            raise UserError("is neither SQLite nor PostgreSQL", where=f"--storage {self.shown}",
                            remedy="Give sqlite:///FILE or postgresql://USER@HOST/DATABASE")
        import inspect

        known = inspect.signature(optuna.storages.RDBStorage).parameters
        callback = "heartbeat_stale_trial_callback" if "heartbeat_stale_trial_callback" in known \
            else "failed_trial_callback"  # its name before Optuna 5
        try:
            with warnings.catch_warnings(), self.lock():
                warnings.simplefilter("ignore")
                more: dict[str, Any] = {callback: lambda study, trial: self._retry(study, trial)}
                self.backend = optuna.storages.RDBStorage(address, engine_kwargs=options, grace_period=GRACE_S,
                                                          heartbeat_interval=HEARTBEAT_S, **more)
        except Exception as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"cannot be used: {reason(error)}", where=f"--storage {self.shown}",
                            remedy="See that the database is there and lets you in; a password may also lie in "
                            "~/.pgpass or PGPASSWORD") from None

    def study(self, name: str, *, maximise: bool, pruner: optuna.pruners.BasePruner | None = None,
              create: bool = True) -> optuna.Study:
        """The study of this name. Raises UserError where it is not there and not to be made."""
        optuna = load_optuna()
        try:
            with self.lock():
                if create:
                    return optuna.create_study(storage=self.backend, study_name=name, load_if_exists=True,
                                               direction="maximize" if maximise else "minimize", pruner=pruner)
                return optuna.load_study(storage=self.backend, study_name=name, pruner=pruner)
        except KeyError:
            raise UserError(f"holds no study {name!r}", where=f"--storage {self.shown}") from None

    def has(self, name: str) -> bool:
        return any(study.study_name == name for study in self.backend.get_all_studies())

    def take(self, study: optuna.Study) -> tuple[int, int] | None:
        """(id, number) of a waiting trial that is this worker's from now on; None where none waits."""
        optuna = load_optuna()
        running = optuna.trial.TrialState.RUNNING
        with self.lock():
            waiting = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.WAITING,))
            for trial in sorted(waiting, key=lambda t: ("retry_of" not in t.user_attrs, t.number)):
                try:
                    taken = self.backend.set_trial_state_values(trial._trial_id, state=running)
                except optuna.exceptions.UpdateFinishedTrialError:
                    continue
                if taken:
                    self.backend.set_trial_user_attr(trial._trial_id, "worker", self.worker)
                    return trial._trial_id, trial.number
        return None

    def revive(self, study: optuna.Study) -> None:
        """Trials whose worker is gone end as failed and are queued again, once: those of this machine at once, others
        when their heartbeat is too old."""
        optuna = load_optuna()
        host = socket.gethostname()
        state = optuna.trial.TrialState
        with self.lock():
            for trial in study.get_trials(deepcopy=False, states=(state.RUNNING,)):
                where, _, process = str(trial.user_attrs.get("worker", "")).rpartition(":")
                if where != host or not process.isdecimal() or _alive(int(process)):
                    continue
                try:
                    self.backend.set_trial_user_attr(trial._trial_id, "problem", KILLED)
                    if self.backend.set_trial_state_values(trial._trial_id, state=state.FAIL):
                        self._retry(study, trial)
                except optuna.exceptions.UpdateFinishedTrialError:  # another worker saw it first
                    continue
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                optuna.storages.fail_stale_trials(study)

    def _retry(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        retries = int(trial.user_attrs.get("retries", 0))
        if retries < RETRIES:
            self.again(study, trial, retries + 1)

    def again(self, study: optuna.Study, trial: optuna.trial.FrozenTrial, retries: int) -> None:
        """Queue a trial with the same values."""
        study.enqueue_trial(dict(trial.params), user_attrs={"retry_of": trial.number, "retries": retries})

    @contextmanager
    def heartbeat(self, trial_id: int) -> Iterator[None]:
        """While inside, the database hears from this trial every few seconds."""
        ended = threading.Event()

        def beat() -> None:
            while not ended.is_set():
                try:
                    self.backend.record_heartbeat(trial_id)
                except Exception:  # a beat that is missed harms nothing; one that is always missed ends the trial
                    pass
                ended.wait(HEARTBEAT_S)

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join(timeout=5)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """One process at a time where the database is a file; nothing otherwise. Not to be nested."""
        if self.file is None:
            yield
            return
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(f"{self.file}.lock", os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise ResourceError(f"cannot be written: {error.strerror}", where=self.file,
                                remedy="Choose another --out or --storage") from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def close(self) -> None:
        """Give the connections back."""
        self.backend.remove_session()
        self.backend.engine.dispose()


def load_optuna() -> Any:
    """The module, quiet. Raises MissingExtra naming the extra."""
    try:
        import optuna
    except ImportError:
        raise MissingExtra("visus tune", "hpo") from None
    if optuna.logging.get_verbosity() != optuna.logging.ERROR:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def reason(error: Exception) -> str:
    """The first line of what the database said, without credentials."""
    inner = getattr(error, "orig", None) or error.__cause__ or error
    inner = getattr(inner, "orig", None) or inner
    lines = [line.strip() for line in str(inner).splitlines() if line.strip()]
    return hidden(lines[0] if lines else type(inner).__name__)[:300]

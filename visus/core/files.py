"""Writing files so that a reader, a crash or a full disk never sees half of one."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from visus.core.errors import ResourceError, UserError


def write_bytes(path: str | Path, data: bytes) -> None:
    """Replace `path` by `data` in one step: temporary file beside it, fsync, rename, fsync of the folder.

    Raises ResourceError when the disk or the permissions refuse; the old file is then still whole.
    """
    with atomic(path) as file:
        file.write(data)


def write_text(path: str | Path, text: str) -> None:
    write_bytes(path, text.encode("utf-8", "surrogateescape"))


def write_json(path: str | Path, value: Any) -> None:
    """Strict JSON (no NaN literals), indented, with a newline at the end."""
    write_text(path, json.dumps(finite(value), indent=2, ensure_ascii=True, allow_nan=False) + "\n")


@contextmanager
def atomic(path: str | Path) -> Iterator[IO[bytes]]:
    """A binary file that takes the name `path` only when the block ends without an error."""
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:80]}.", suffix=".tmp")
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
        temporary = None
        sync_folder(path.parent)
    except OSError as error:
        raise ResourceError(f"could not be written: {error.strerror or error}", where=path,
                            remedy="Free some space or choose another folder; what was there before is unchanged"
                            ) from error
    finally:
        if temporary is not None:
            try:
                os.unlink(temporary)
            except OSError:
                pass


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def sync_folder(folder: Path) -> None:
    """Make a rename in this folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:  # some file systems refuse fsync on folders; the rename itself is still atomic
        pass
    finally:
        os.close(handle)


def read_json(path: str | Path, *, error: type[UserError] = UserError, max_bytes: int = 256 << 20) -> Any:
    """A JSON file of ours. Raises `error` naming the file (and line) when it is missing, too big or not JSON."""
    path = Path(path)
    try:
        size = path.stat().st_size
        if size > max_bytes:
            raise error(f"is {size >> 20} MiB, more than the limit of {max_bytes >> 20} MiB", where=path)
        return json.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as cause:
        raise error(f"cannot be read: {cause.strerror or cause}", where=path) from cause
    except json.JSONDecodeError as cause:
        raise error(f"is not JSON: {cause.msg} in line {cause.lineno}, column {cause.colno}", where=path) from cause
    except (UnicodeDecodeError, RecursionError) as cause:
        raise error(f"is not JSON: {type(cause).__name__}", where=path) from cause


def finite(value: Any) -> Any:
    """The value with NaN and infinities as None, and NumPy scalars and arrays as plain numbers and lists."""
    if isinstance(value, dict):
        return {str(k): finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [finite(v) for v in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist") and not isinstance(value, str | bytes):
        return finite(value.tolist())
    if isinstance(value, float):
        return value if value - value == 0 else None
    return value


def sha256(path: str | Path, progress: Callable[[int], None] | None = None) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
            if progress:
                progress(len(block))
    return digest.hexdigest()


def child(folder: str | Path, name: str) -> Path:
    """`folder / name`, refused when it would lie outside of `folder`."""
    folder = Path(folder).resolve()
    path = (folder / name).resolve()
    if not path.is_relative_to(folder) or path == folder:
        raise UserError(f"leads outside of {folder}", where=name, remedy="Use a plain relative path")
    return path

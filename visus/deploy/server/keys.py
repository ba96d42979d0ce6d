"""API keys: kept as SHA-256 digests, compared in a time that does not depend on them."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
from pathlib import Path

from visus.core.errors import UserError

SHORTEST = 16  # characters of a key


def read_keys(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """The digests of a file with one key, or one 'sha256:HEX', a line; '#' begins a comment. Raises UserError."""
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot be read: {getattr(error, 'strerror', None) or 'it is not text'}", where=path) from None
    found = []
    for number, line in enumerate(lines, 1):
        key = line.strip()
        if not key or key.startswith("#"):
            continue
        if key.startswith("sha256:"):
            if not re.fullmatch(r"sha256:[0-9a-fA-F]{64}", key):
                raise UserError("is not 'sha256:' and 64 hexadecimal digits", where=f"{path}, line {number}")
            found.append(key[7:].lower())
        elif len(key) < SHORTEST or not key.isascii() or not key.isprintable() or " " in key:
            raise UserError(f"is not a key: at least {SHORTEST} printable ASCII characters without a space",
                            where=f"{path}, line {number}", remedy="Make one: openssl rand -hex 24")
        else:
            found.append(digest(key.encode()))
    if not found:
        raise UserError("holds no key", where=path, remedy="Write one a line; make one with: openssl rand -hex 24")
    return tuple(found)


def digest(key: bytes) -> str:
    return hashlib.sha256(key).hexdigest()


def given(headers: list[tuple[bytes, bytes]]) -> bytes | None:
    """The key in 'Authorization: Bearer KEY' or 'X-API-Key: KEY'."""
    for name, value in headers:
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            return value[7:].strip()
        if name == b"x-api-key":
            return value.strip()
    return None


def accepted(key: bytes | None, digests: tuple[str, ...]) -> bool:
    """Whether the key is one of them. All are compared, whichever fits."""
    if key is None:
        return False
    found = digest(key)
    fits = False
    for known in digests:
        fits |= hmac.compare_digest(found, known)
    return fits

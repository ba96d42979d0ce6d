"""Files from the network: whole, checked and resumable, or not there at all. The one place that opens a connection."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPException, HTTPMessage
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from visus.core.errors import ResourceError, UserError
from visus.core.files import read_json, sha256, sync_folder, write_json

BLOCK = 1 << 20
TIMEOUT_S = 30.0
ATTEMPTS = 4          # connections that may break before giving up, as long as each brings something
PAUSE_S = 0.5         # before trying again, times the failures in a row
MAX_BYTES = 16 << 30
LOOPBACK = ("127.0.0.1", "::1", "localhost")
BY_HAND = "Fetch it by other means and give the path of the file instead"
_SHA256 = re.compile(r'^"?([0-9a-f]{64})"?$')


class DownloadError(UserError):
    """A file that could not be fetched or is not what it should be."""


def download(url: str, path: str | Path, *, digest: str | None = None, max_bytes: int = MAX_BYTES,
             progress: Callable[[int, int | None], None] | None = None) -> Path:
    """Fetch `url` to `path`, which appears only when the file is whole and its digest right.

    digest: the SHA-256 in hexadecimal, or its first 8 or more digits; a SHA-256 that the server itself states for the
    file (Hugging Face's X-Linked-Etag) is checked too. What a broken connection left in `path`.part is gone on with
    if the file at the server is still the same. progress(bytes so far, bytes in all or None). Two processes that fetch
    the same file take turns. https only, but for the loopback device.
    Raises DownloadError with the address and what to do by hand; ResourceError when the disk is too small.
    """
    path = Path(path)
    _refuse_insecure(url)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResourceError(f"cannot be made: {error.strerror or error}", where=path.parent) from error
    with _turn(path) as part:
        if path.is_file() and _is(path, digest):  # another process was faster
            _part(path).unlink()
            return path
        stated = _fetch(url, path, part, max_bytes, progress)
        for wanted, whose in ((digest, "expected"), (stated, "stated by the server")):
            if wanted is not None and not _is(_part(path), wanted):
                found = sha256(_part(path))
                part.truncate(0)
                raise DownloadError(f"has the SHA-256 {found[:16]}..., not {wanted[:16]}... as {whose}", where=url,
                                    remedy="Try again; if it stays so, the file at this address is not the one meant")
        os.fsync(part.fileno())
        os.replace(_part(path), path)
        _notes(path).unlink(missing_ok=True)
        sync_folder(path.parent)
    return path


@contextmanager
def _turn(path: Path) -> Iterator[IO[bytes]]:
    """The .part file of `path`, open for appending and ours alone."""
    name = _part(path)
    while True:
        try:
            part = open(name, "ab")  # noqa: SIM115  # closed by the block below
        except OSError as error:
            raise ResourceError(f"cannot be written: {error.strerror or error}", where=name) from error
        with part:
            fcntl.flock(part, fcntl.LOCK_EX)  # not lockf, which another handle of this process would free
            try:
                ours = os.fstat(part.fileno()).st_ino == name.stat().st_ino
            except FileNotFoundError:
                ours = False
            if ours:
                yield part
                return
        # another process has finished it while we waited: begin again


def _fetch(url: str, path: Path, part: IO[bytes], max_bytes: int,
           progress: Callable[[int, int | None], None] | None) -> str | None:
    """Bring .part to the full length, over as many connections as it takes. Returns the SHA-256 that the server
    states, if any."""
    failures = 0
    while True:
        before = part.seek(0, os.SEEK_END)
        try:
            whole, stated = _connection(url, path, part, max_bytes, progress)
            if whole:
                return stated
            problem, final = "the connection ended early", False
        except urllib.error.HTTPError as error:
            error.close()
            problem, final = f"the server says {error.code} {error.reason}", error.code < 500
            if error.code in (416, 429):  # the file became shorter than what we hold; too many requests
                final = False
                part.truncate(0 if error.code == 416 else before)
        except (OSError, HTTPException) as error:
            problem, final = f"could not be fetched: {getattr(error, 'reason', None) or error}", False
        failures = 0 if part.seek(0, os.SEEK_END) > before else failures + 1
        if final or failures >= ATTEMPTS:
            raise DownloadError(problem, where=url, remedy=BY_HAND)
        time.sleep(PAUSE_S * failures)


def _connection(url: str, path: Path, part: IO[bytes], max_bytes: int,
                progress: Callable[[int, int | None], None] | None) -> tuple[bool, str | None]:
    """Append what one connection brings. (Whether the file is whole, the SHA-256 that the server states)."""
    have = part.seek(0, os.SEEK_END)
    headers = {"User-Agent": "visus", "Accept-Encoding": "identity"}
    etag = _known_etag(path, url)
    if have and etag:
        headers |= {"Range": f"bytes={have}-", "If-Range": etag}
    redirects = _Redirects()
    request = urllib.request.Request(url, headers=headers)
    with urllib.request.build_opener(redirects).open(request, timeout=TIMEOUT_S) as answer:
        if answer.status != 206:
            have = part.truncate(0)
        total = _length(answer.headers, have)
        free = shutil.disk_usage(path.parent).free
        if total is not None and total - have > free:
            raise ResourceError(f"{total - have >> 20} MiB are needed, {free >> 20} MiB are free", where=path.parent,
                                remedy="Free some space, or set VISUS_CACHE to a folder on a larger disk")
        write_json(_notes(path), {"url": url, "etag": answer.headers.get("ETag")})
        block = b""
        while max(have, total or 0) <= max_bytes and (block := answer.read(BLOCK)):
            have += part.write(block)
            if progress is not None:
                progress(have, total)
        part.flush()
        if max(have, total or 0) > max_bytes:
            raise DownloadError(f"is more than the limit of {max_bytes >> 20} MiB", where=url)
        return total in (None, have), redirects.digest or _stated(answer.headers)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows to secure addresses only, and keeps the digest that the first server states."""

    def __init__(self) -> None:
        self.digest: str | None = None

    def redirect_request(self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage,
                         newurl: str) -> urllib.request.Request | None:
        _refuse_insecure(newurl)
        self.digest = self.digest or _stated(headers)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _refuse_insecure(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK):
        return
    raise DownloadError("is not an https address", where=url)


def _stated(headers: HTTPMessage) -> str | None:
    found = _SHA256.match(headers.get("X-Linked-Etag", ""))
    return None if found is None else found[1]


def _length(headers: HTTPMessage, have: int) -> int | None:
    whole = re.match(r"bytes (\d+)-\d+/(\d+)", headers.get("Content-Range", ""))
    if whole is not None:
        if int(whole[1]) != have:
            raise HTTPException(f"the server goes on at byte {whole[1]}, not {have}")
        return int(whole[2])
    length = headers.get("Content-Length")
    return int(length) if length is not None and length.isdigit() else None


def _part(path: Path) -> Path:
    return path.with_name(path.name + ".part")


def _notes(path: Path) -> Path:
    return path.with_name(path.name + ".part.json")


def _known_etag(path: Path, url: str) -> str | None:
    """The strong ETag of the answer that .part comes from."""
    try:
        notes = read_json(_notes(path))
        etag = notes["etag"] if notes["url"] == url else None
    except (UserError, KeyError, TypeError):
        return None
    return etag if isinstance(etag, str) and not etag.startswith("W/") else None


def _is(path: str | Path, digest: str | None) -> bool:
    return digest is None or sha256(path).startswith(digest.lower())

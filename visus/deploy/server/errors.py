"""What a client is told when it gets no answer: a status, a code to branch on, and what to do. Never a path, a
traceback or a name from the code."""

from __future__ import annotations

import io
from typing import Any

from visus.core.errors import ImageError
from visus.core.image_files import recognise

BUSY_SECONDS = 1  # what Retry-After says


class Refusal(Exception):
    """status: of HTTP. code: for programs. problem, remedy: for people. retry_after: seconds, or None.

    close: the connection ends with this answer, as the rest of the request is not read.
    """

    def __init__(self, status: int, code: str, problem: str, remedy: str, *, retry_after: int | None = None,
                 close: bool = False):
        super().__init__(problem)
        self.status, self.code, self.problem, self.remedy = status, code, problem, remedy
        self.retry_after, self.close = retry_after, close

    def about(self, request: str) -> dict[str, Any]:
        """The error object of an answer. request: its id."""
        return {"code": self.code, "problem": self.problem, "remedy": self.remedy, "id": request}

    def headers(self) -> list[tuple[bytes, bytes]]:
        found = []
        if self.retry_after is not None:
            found.append((b"retry-after", b"%d" % self.retry_after))
        if self.close:
            found.append((b"connection", b"close"))
        if self.status == 401:
            found.append((b"www-authenticate", b"Bearer"))
        return found


def queue_full() -> Refusal:
    return Refusal(429, "queue_full", "More requests wait than the server holds", "Ask again after the given time",
                   retry_after=BUSY_SECONDS)


def draining() -> Refusal:
    return Refusal(503, "draining", "The server is stopping", "Ask again after the given time, or another server",
                   retry_after=BUSY_SECONDS, close=True)


def too_slow() -> Refusal:
    return Refusal(504, "deadline", "The answer took longer than the server allows",
                   "Send fewer or smaller images, or ask again when the server is less busy")


def internal() -> Refusal:
    return Refusal(500, "internal", "The server failed on this request",
                   "Tell the server's operator this id: the log has the details")


def of_image(error: ImageError, data: bytes) -> Refusal:
    """An image that cannot be read, as its status: 413 too many pixels, 415 no image, 422 anything else."""
    problem = error.problem
    if "megapixels" in problem or "memory" in problem:
        return Refusal(413, "image_too_large", problem, "Make the image smaller")
    try:
        recognise(io.BytesIO(data), "image")
    except ImageError as other:
        said = other.remedy or ""
        return Refusal(415, "not_an_image", other.problem.partition(" (it starts with")[0],
                       said if said.startswith(("Export", "Convert", "Unpack")) else
                       "Send JPEG, PNG, WebP, AVIF, GIF, BMP, TIFF or PPM")
    if problem.startswith("truncated"):
        return Refusal(422, "truncated_image", "The file ends before the image does", "Send the whole file")
    if problem.startswith(("damaged", "is a ")):  # the rest is the decoder's own words
        return Refusal(422, "damaged_image", "The file is damaged: it does not decode", "Send another file")
    return Refusal(422, "unusable_image", problem, "Send another image")

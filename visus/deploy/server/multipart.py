"""The files of a multipart form (RFC 7578), from a body that is wholly in memory. No file is written, no name is used
as a path."""

from __future__ import annotations

from dataclasses import dataclass

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from visus.core.errors import printable
from visus.deploy.server.errors import Refusal

MOST_HEADERS = 8        # of a part
MOST_HEADER_BYTES = 4096
MOST_BOUNDARY = 70      # RFC 2046, section 5.1.1
LONGEST_NAME = 200      # characters that are echoed
MOST_FIELDS = 16        # parts without a file name, which are passed over


@dataclass(frozen=True)
class Part:
    """name: as the client calls the file, printable and bounded; only to be echoed."""

    name: str
    data: bytes


def malformed(problem: str) -> Refusal:
    return Refusal(400, "malformed_multipart", problem, "Send a form with one or more files: curl -F file=@cat.jpg")


def files(body: bytes, content_type: bytes, most: int) -> list[Part]:
    """The parts that have a file name, in order. Raises Refusal: 400 for a body that is no such form, holds no file, or
    ends early; 413 for more than `most` files."""
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary or len(boundary) > MOST_BOUNDARY:
        raise malformed("The Content-Type has no usable boundary")
    found: list[Part] = []
    pieces: list[bytes] = []
    field, value, name = bytearray(), bytearray(), [b""]
    fields = headers = 0
    is_file = ended = False

    def part_begin() -> None:
        nonlocal is_file, headers
        pieces.clear()
        is_file, headers = False, 0

    def header_end() -> None:
        nonlocal is_file, headers
        headers += 1
        if headers > MOST_HEADERS or len(field) + len(value) > MOST_HEADER_BYTES:
            raise malformed(f"A part has more than {MOST_HEADERS} headers, or one of over {MOST_HEADER_BYTES} bytes")
        if bytes(field).lower() == b"content-disposition":
            options = parse_options_header(bytes(value))[1]
            if b"filename" in options:
                is_file, name[0] = True, options[b"filename"]
        field.clear()
        value.clear()

    def headers_finished() -> None:
        nonlocal fields
        fields += not is_file
        if fields > MOST_FIELDS:
            raise malformed(f"The form has more than {MOST_FIELDS} fields that are no files")
        if is_file and len(found) == most:
            raise Refusal(413, "too_many_images", f"The form has more than {most} files",
                          "Send them in several requests")

    def part_data(data: bytes, start: int, end: int) -> None:
        if is_file:
            pieces.append(data[start:end])

    def part_end() -> None:
        if is_file:
            found.append(Part(echoed(name[0]), b"".join(pieces)))

    def end() -> None:
        nonlocal ended
        ended = True

    try:
        parser = MultipartParser(boundary, {
            "on_part_begin": part_begin, "on_part_data": part_data, "on_part_end": part_end,
            "on_header_field": lambda data, start, stop: field.extend(data[start:stop]),
            "on_header_value": lambda data, start, stop: value.extend(data[start:stop]),
            "on_header_end": header_end, "on_headers_finished": headers_finished, "on_end": end,
        })
        parser.write(body)
        parser.finalize()
    except FormParserError:
        raise malformed("The body is not the multipart form that its Content-Type says") from None
    if not ended:
        raise malformed("The form ends before its last boundary")
    if not found:
        raise malformed("The form holds no file")
    return found


def echoed(name: bytes) -> str:
    """A client's file name, fit to be shown: its last component, printable, bounded."""
    text = name.decode("utf-8", "surrogateescape").replace("\\", "/").rpartition("/")[2]
    return printable(text[:LONGEST_NAME])[:LONGEST_NAME] or "image"

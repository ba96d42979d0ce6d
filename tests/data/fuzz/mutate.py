"""Mutations of files: of bytes, of tokens, and of the parts of a container whose sums are then made right again."""

from __future__ import annotations

import io
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from random import Random

NUMBERS = [b"-1", b"0", b"1", b"2", b"255", b"256", b"65536", b"-2147483649", b"4294967296", b"9223372036854775808",
           b"-9223372036854775809", b"1e308", b"1e400", b"-1e400", b"nan", b"NaN", b"inf", b"-Infinity", b"1e-320",
           b"0.5", b"1" * 60, b"9" * 400, b"0x10", b"1_000", b"1,5", b"-0.0", b"00012", b"true", b"null"]
WORDS = [b"", b"..", b"../../etc/passwd", b"/etc/passwd", b"\x00", b"\xff\xfe", b"\xc3\x28", b"\xef\xbb\xbf",
         b"http://a/b", b"%s%n", b"\\", b'"', b"'", b"a" * 3000, "\u202e\u0130\u1e9e".encode(), b"\xed\xa0\x80",
         b"None", b"con", b"~", b"*"]
DEEP = [b"[", b"{", b"(", b"<a>", b'{"a":', b"[[", b"- ", b"&a [", b"!!", b"<!--"]
INTEGERS = [0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF,
            2**63 - 1, 2**63, 2**64 - 1]
_TOKEN = re.compile(rb"[A-Za-z_]+|[-+]?\d[\d.eE+-]*|\s+|[^\w\s]")

Mutation = Callable[[Random, bytes], bytes]


def bytes_of(random: Random, data: bytes) -> bytes:
    """One to six changes of bytes; half of them near the beginning or the end, where headers and tables are."""
    for _ in range(random.choice((1, 1, 1, 2, 3, 6))):
        data = _one_change(random, data)
    return data


def text(random: Random, data: bytes) -> bytes:
    """One to six changes of tokens, now and then of bytes."""
    if random.random() < 0.25:
        return bytes_of(random, data)
    tokens = _TOKEN.findall(data)
    for _ in range(random.choice((1, 1, 1, 2, 3, 6))):
        if not tokens:
            break
        kind, at = random.randrange(9), random.randrange(len(tokens))
        numbers = [k for k, token in enumerate(tokens) if token[-1:].isdigit()]
        words = [k for k, token in enumerate(tokens) if token[:1].isalpha()]
        if kind <= 2 and numbers:
            tokens[random.choice(numbers)] = random.choice(NUMBERS)
        elif kind == 3 and words:
            tokens[random.choice(words)] = random.choice([*WORDS, tokens[random.choice(words)]])
        elif kind == 4:
            other = random.randrange(len(tokens))
            tokens[at], tokens[other] = tokens[other], tokens[at]
        elif kind == 5:
            del tokens[at:at + random.choice((1, 1, 2, 8, 40))]
        elif kind == 6:
            tokens[at:at] = tokens[at:at + random.choice((1, 4, 20))] * random.choice((1, 2, 30))
        elif kind == 7:
            tokens.insert(at, random.choice(WORDS + NUMBERS))
        else:
            tokens.insert(at, random.choice(DEEP) * random.choice((1, 3, 60, 1500)))
    return b"".join(tokens)


def npz(random: Random, data: bytes) -> bytes:
    """The archive's bytes, or the head of an array in an archive that is whole."""
    if random.random() < 0.3:
        return bytes_of(random, data)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = random.choice(list(members))
    head, rest = members[name][:128], members[name][128:]
    members[name] = (text if random.random() < 0.7 else bytes_of)(random, head) + rest
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", random.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return file.getvalue()


def tar(random: Random, data: bytes) -> bytes:
    """The archive's bytes, or a header whose sum is then made right."""
    if random.random() < 0.3:
        return bytes_of(random, data)
    heads = [at for at in range(0, len(data) - 511, 512) if data[at + 257:at + 262] == b"ustar"]
    at = random.choice(heads)
    head = bytearray(data[at:at + 512])
    field, size = random.choice(((0, 100), (100, 8), (124, 12), (136, 12), (156, 1), (157, 100), (257, 8), (345, 155)))
    value = random.choice((random.choice(WORDS), random.choice(NUMBERS), b"\x80" + bytes(10) + b"\x7f", b"77777777777",
                           b"\xff" * 12, bytes([random.choice(b"01234567xgLKSVMDN\x00")])))[:size]
    head[field:field + len(value)] = value
    head[148:156] = b"        "
    head[148:156] = b"%06o\0 " % sum(head)
    return data[:at] + bytes(head) + data[at + 512:]


def png(random: Random, data: bytes) -> bytes:
    """The file's bytes, or chunks whose sums are then made right: changed, twice, in another order, or gone."""
    if random.random() < 0.3:
        return bytes_of(random, data)
    chunks, at = [], 8
    while at + 8 <= len(data):
        size = struct.unpack(">I", data[at:at + 4])[0]
        chunks.append((data[at + 4:at + 8], data[at + 8:at + 8 + size]))
        at += 12 + size
    for _ in range(random.choice((1, 1, 2))):
        k = random.randrange(len(chunks))
        kind, body = chunks[k]
        what = random.randrange(6)
        if what <= 2:
            chunks[k] = kind, bytes_of(random, body)
        elif what == 3:
            other = random.choice((kind, b"tRNS", b"PLTE", b"zTXt", b"iCCP", b"acTL", b"eXIf", b"fdAT"))
            chunks.insert(random.randrange(len(chunks)), (other, bytes_of(random, body)))
        elif what == 4:
            chunks[k], chunks[0] = chunks[0], chunks[k]
        elif len(chunks) > 1:
            del chunks[k]
    return data[:8] + b"".join(struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
                               for kind, body in chunks)


def _one_change(random: Random, data: bytes) -> bytes:
    if not data:
        return bytes(random.randrange(1, 40))
    made, size = bytearray(data), len(data)
    near = random.random()
    at = random.randrange(size)
    if near < 0.4:
        at = random.randrange(min(size, 128))
    elif near < 0.5:
        at = size - 1 - random.randrange(min(size, 128))
    kind = random.randrange(8)
    if kind <= 1:
        made[at] ^= 1 << random.randrange(8)
    elif kind == 2:
        made[at] = random.choice((0, 1, 127, 128, 255, random.randrange(256)))
    elif kind == 3:
        width = random.choice((2, 4, 8))
        value = random.choice(INTEGERS) & ((1 << 8 * width) - 1)
        made[at:at + width] = value.to_bytes(width, random.choice(("big", "little")))
    elif kind == 4:
        del made[at:]
    elif kind == 5:
        del made[at:at + random.choice((1, 2, 4, 16, 200))]
    elif kind == 6:
        other = random.randrange(size)
        made[at:at] = made[other:other + random.choice((1, 4, 16, 200))]
    else:
        made[at:at] = random.choice(WORDS[:19] + NUMBERS)
    return bytes(made)

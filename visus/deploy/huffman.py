"""Huffman's code of small symbols, in its canonical form: the lengths of the codes say all.

Huffman 1952: repeatedly join the two rarest. Codes of one length are consecutive numbers in the order of the symbols,
and begin where those one bit shorter end (RFC 1951, section 3.2.2). The mean length L of a code is at least the entropy
H of the symbols, and less than H + 1. Codes are at most 16 bits long, which only counts that differ by a factor of more
than a thousand could make worse than Huffman's.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np

from visus.core.errors import CheckpointError

MOST_BITS = 16
MOST_SYMBOLS = 1 << 12


def code_lengths(counts: Sequence[int]) -> list[int]:
    """counts: how often each symbol 0, 1, ... occurs. Bits of each code; 0 for a symbol that does not occur; 1 for one
    that is alone."""
    weights = [int(count) for count in counts]
    while True:
        lengths = _lengths(weights)
        if max(lengths, default=0) <= MOST_BITS:
            return lengths
        weights = [(weight + 1) // 2 for weight in weights]


def codes(lengths: Sequence[int]) -> list[int]:
    """The canonical code of each symbol, as a number; of one that does not occur, 0."""
    out, code, before = [0] * len(lengths), 0, 0
    for length, symbol in sorted((length, symbol) for symbol, length in enumerate(lengths) if length):
        code <<= length - before
        out[symbol], before, code = code, length, code + 1
    return out


def encode(symbols: np.ndarray, lengths: Sequence[int]) -> bytes:
    """symbols: integers [n], each of a length above 0. The codes one after the other, the first bit highest; zeros fill
    the last byte."""
    if not len(symbols):
        return b""
    widths = np.asarray(lengths, np.int64)[symbols]
    assert widths.min() > 0, "a symbol without a code"
    values = np.asarray(codes(lengths), np.int64)[symbols]
    ends = np.cumsum(widths)
    place = np.arange(ends[-1]) - np.repeat(ends - widths, widths)
    bits = (np.repeat(values, widths) >> (np.repeat(widths, widths) - 1 - place)) & 1
    return np.packbits(bits.astype(np.uint8)).tobytes()


def decode(data: bytes, lengths: Sequence[int], count: int) -> np.ndarray:
    """The `count` symbols, int64. Raises CheckpointError for lengths that are no code, and for data that are too short
    or too long."""
    _check(lengths)
    if not 0 <= count <= 8 * len(data):
        raise CheckpointError(f"says that {len(data)} bytes hold {count} codes", where="Huffman code")
    if not count:
        if data:
            raise CheckpointError("holds bytes and no codes", where="Huffman code")
        return np.empty(0, np.int64)
    symbol_at, width_at = _tables(lengths)
    padded = np.frombuffer(data + b"\0\0\0", np.uint8).astype(np.uint32)
    triples = padded[:-2] << 16 | padded[1:-1] << 8 | padded[2:]  # [bytes + 1]
    total = 8 * len(data)
    starts = np.arange(total, dtype=np.uint32)
    windows = (triples[starts >> 3] >> (8 - (starts & 7))) & 0xFFFF  # the 16 bits from each bit on
    widths = width_at[windows].tolist()
    places, at = [0] * count, 0
    for number in range(count):
        if at >= total or not widths[at]:
            raise CheckpointError("ends within a code, or holds one that is none", where="Huffman code")
        places[number] = at
        at += widths[at]
    if at > total or total - at >= 8:
        raise CheckpointError(f"holds {total} bits, and its codes take {at}", where="Huffman code")
    return symbol_at[windows[np.asarray(places)]]


def entropy(counts: Sequence[int]) -> float:
    """Bits a symbol: -sum p log2 p."""
    shares = np.asarray([count for count in counts if count], np.float64)
    shares /= shares.sum()
    return float(-(shares * np.log2(shares)).sum())


def _lengths(weights: Sequence[int]) -> list[int]:
    lengths = [0] * len(weights)
    heap: list[tuple[int, int, tuple[int, ...]]] = [(weight, symbol, (symbol,)) for symbol, weight in
                                                    enumerate(weights) if weight]
    if len(heap) == 1:
        lengths[heap[0][1]] = 1
        return lengths
    heapq.heapify(heap)
    order = len(weights)
    while len(heap) > 1:
        first, second = heapq.heappop(heap), heapq.heappop(heap)
        for symbol in (*first[2], *second[2]):
            lengths[symbol] += 1
        heapq.heappush(heap, (first[0] + second[0], order, first[2] + second[2]))
        order += 1
    return lengths


def _check(lengths: Sequence[int]) -> None:
    """A complete prefix code (Kraft's sum is 1), or one symbol alone."""
    used = [length for length in lengths if length]
    if len(lengths) > MOST_SYMBOLS or any(type(n) is not int or not 0 <= n <= MOST_BITS for n in lengths):
        raise CheckpointError("has lengths that no code of ours has", where="Huffman code")
    total = sum(1 << (MOST_BITS - length) for length in used)
    if used != [1] and used and total != 1 << MOST_BITS:
        raise CheckpointError("has lengths that make no prefix code", where="Huffman code")


def _tables(lengths: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """For each 16 bits: the symbol whose code they begin with, and its bits (0: none)."""
    symbol_at, width_at = np.zeros(1 << MOST_BITS, np.int64), np.zeros(1 << MOST_BITS, np.int64)
    for symbol, (code, length) in enumerate(zip(codes(lengths), lengths, strict=True)):
        if length:
            low, span = code << (MOST_BITS - length), 1 << (MOST_BITS - length)
            symbol_at[low:low + span], width_at[low:low + span] = symbol, length
    return symbol_at, width_at

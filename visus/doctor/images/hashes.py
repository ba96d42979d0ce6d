"""A perceptual hash of each image, and all pairs of hashes that differ in few bits."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

BITS = 64
BANDS = 4  # of 16 bits: of 6 differing bits at most one lies in one of them, so one of 17 look-ups meets every pair
CHUNK = 1 << 22  # candidate pairs at once

_POPULATION = np.array([bin(i).count("1") for i in range(1 << 16)], np.uint8)


def perceptual_hash(grey: np.ndarray) -> np.ndarray:
    """uint8 [n, S, S] -> uint64 [n]: for each of the 64 lowest frequencies of the cosine transform but the constant,
    whether its coefficient is above their median (after Zauner, 2010, "Implementation and benchmarking of perceptual
    image hash functions")."""
    side = grey.shape[-1]
    place = np.arange(side)
    u, v = np.meshgrid(place, place, indexing="ij")
    lowest = np.lexsort((u.ravel(), np.maximum(u, v).ravel(), (u**2 + v**2).ravel()))[1:BITS + 1]
    u, v = u.ravel()[lowest], v.ravel()[lowest]
    rows = max(u.max(), v.max()) + 1
    basis = np.cos(np.pi / side * (place + 0.5) * np.arange(rows)[:, None]).astype(np.float32)  # [rows, S]
    hashes = np.zeros(len(grey), np.uint64)
    for start in range(0, len(grey), 4096):
        block = grey[start:start + 4096].astype(np.float32)
        coefficients = (basis @ block @ basis.T)[:, u, v]  # [b, 64]
        above = coefficients > np.median(coefficients, axis=1, keepdims=True)
        hashes[start:start + 4096] = np.ascontiguousarray(np.packbits(above, axis=1)).view(">u8").ravel()
    return hashes


def bits_between(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Number of bits in which uint64 [P] and [P] differ."""
    parts = np.ascontiguousarray(a ^ b).view(np.uint16).reshape(-1, BANDS)
    return _POPULATION[parts].sum(1, dtype=np.uint8)


def close_pairs(hashes: np.ndarray, distance: int = 6, most: int = 20_000_000) -> np.ndarray | None:
    """int64 [P, 2], i < j: every pair of hashes that differs in at most `distance` <= 7 bits, by multi-index hashing
    (Norouzi, Punjani and Fleet, 2012, arXiv:1307.2982). None when there are more than `most`: the hash does not tell
    such images apart."""
    assert distance < 2 * BANDS
    unique, inverse = np.unique(hashes, return_inverse=True)
    inverse = inverse.reshape(-1)
    members = np.argsort(inverse, kind="stable")
    counts = np.bincount(inverse, minlength=len(unique))
    starts = np.concatenate([[0], np.cumsum(counts)])
    if int((counts * (counts - 1) // 2).sum()) > most:
        return None
    found = [_equal_pairs(members, starts)]
    total = len(found[0])
    codes: list[np.ndarray] = []
    for i, j in _candidates(unique):
        near = bits_between(unique[i], unique[j]) <= distance
        codes.append(np.minimum(i, j)[near] * len(unique) + np.maximum(i, j)[near])
        total += len(codes[-1])
        if total > most:
            return None
    if codes:
        code = np.unique(np.concatenate(codes))
        first, second = code // len(unique), code % len(unique)
        if int((counts[first] * counts[second]).sum()) > most:
            return None
        found.append(_product_pairs(members, starts, first, second))
    pairs = np.sort(np.concatenate(found), axis=1)
    return pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]


def _candidates(hashes: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Positions (i, j) whose hashes agree in a band of 16 bits but for at most one bit; a pair may come again."""
    for band in range(BANDS):
        key = ((hashes >> np.uint64(16 * band)) & np.uint64(0xFFFF)).astype(np.int64)
        order = np.argsort(key, kind="stable")
        starts = np.searchsorted(key[order], np.arange((1 << 16) + 1))
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        everyone = np.arange(len(hashes))
        yield from _expanded(everyone, place + 1, starts[key + 1], order)
        for bit in range(16):
            lower = np.flatnonzero((key >> bit) & 1 == 0)  # each pair is met from its side without the bit
            partner = key[lower] | (1 << bit)
            yield from _expanded(lower, starts[partner], starts[partner + 1], order)


def _expanded(who: np.ndarray, begin: np.ndarray, end: np.ndarray,
              order: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(who[k], order[m]) for all begin[k] <= m < end[k], in chunks."""
    counts = np.maximum(end - begin, 0)
    some = counts > 0
    who, begin, counts = who[some], begin[some], counts[some]
    sums = np.cumsum(counts)
    at = 0
    while at < len(who):
        done = int(sums[at - 1]) if at else 0
        to = max(int(np.searchsorted(sums, done + CHUNK, side="right")), at + 1)
        part = counts[at:to]
        offset = np.arange(int(part.sum())) - np.repeat(np.cumsum(part) - part, part)
        yield np.repeat(who[at:to], part), order[np.repeat(begin[at:to], part) + offset]
        at = to


def _equal_pairs(members: np.ndarray, starts: np.ndarray) -> np.ndarray:
    place = np.arange(len(members))
    end = np.repeat(starts[1:], np.diff(starts))
    parts = [np.stack([members[i], j], 1) for i, j in _expanded(place, place + 1, end, members)]
    return np.concatenate([np.zeros((0, 2), np.int64), *parts])


def _product_pairs(members: np.ndarray, starts: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Every member of group first[p] with every one of group second[p]."""
    counts = np.diff(starts)
    left = [(members[m], p) for p, m in _expanded(np.arange(len(first)), starts[first], starts[first + 1],
                                                  np.arange(len(members)))]
    who = np.concatenate([np.zeros(0, np.int64), *(one for one, _ in left)])
    pair = np.concatenate([np.zeros(0, np.int64), *(p for _, p in left)])
    assert len(who) == int(counts[first].sum())
    parts = [np.stack([who[k], j], 1) for k, j in _expanded(np.arange(len(who)), starts[second[pair]],
                                                            starts[second[pair] + 1], members)]
    return np.concatenate([np.zeros((0, 2), np.int64), *parts])

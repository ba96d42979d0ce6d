"""Randomness as a pure function of what it is for: (seed, stream, epoch, sample), never of a worker or a history."""

from __future__ import annotations

import numpy as np

_MASK = (1 << 64) - 1
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_ROUNDS = ((np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)), (np.uint64(27), np.uint64(0x94D049BB133111EB)),
           (np.uint64(31), None))
_BLOCK = 1 << 15  # numbers at once: what is computed stays in the cache


def hash64(values: np.ndarray | int, *keys: int | str) -> np.ndarray:
    """splitmix64 of each value under the keys: uint64, the same on every platform and version."""
    return _hashed(np.asarray(values).astype(np.uint64), np.uint64(_key(keys)))


def _hashed(values: np.ndarray, state: np.ndarray | np.uint64) -> np.ndarray:
    with np.errstate(over="ignore"):
        z = np.asarray(values + state)
        z *= _GOLDEN
        z += state
        shifted = np.empty_like(z)
        for shift, factor in _ROUNDS:
            np.right_shift(z, shift, out=shifted)
            z ^= shifted
            if factor is not None:
                z *= factor
        return z[()]


def _key(keys: tuple[int | str, ...]) -> int:
    state = 0x243F6A8885A308D3
    for key in keys:
        number = int.from_bytes(key.encode(), "little") if isinstance(key, str) else int(key)
        while True:  # absorb 64 bits at a time
            state = _mix(state ^ (number & _MASK))
            number >>= 64
            if number in (0, -1):
                break
    return state


def _mix(z: int) -> int:
    z = (z + 0x9E3779B97F4A7C15) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)


def uniform(index: np.ndarray | int, *keys: int | str, draws: int | None = None) -> np.ndarray:
    """Numbers in [0, 1) that depend on the keys and the index alone: shape `index.shape` (+ `[draws]`)."""
    index = np.asarray(index)
    if draws is None and index.size > _BLOCK:
        flat, found = index.reshape(-1), np.empty(index.size)
        for start in range(0, index.size, _BLOCK):
            found[start:start + _BLOCK] = uniform(flat[start:start + _BLOCK], *keys)
        return found.reshape(index.shape)
    if draws is None:
        return (hash64(index, *keys) >> np.uint64(11)).astype(np.float64) * 2.0**-53
    states = np.array([_key((*keys, f"draw{d}")) for d in range(draws)], np.uint64)  # of all draws at once
    return (_hashed(index.astype(np.uint64)[..., None], states) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def permutation(count: int, *keys: int | str) -> np.ndarray:
    """A random order of range(count), int64, that depends on the keys alone."""
    return np.argsort(hash64(np.arange(count), *keys), kind="stable").astype(np.int64)

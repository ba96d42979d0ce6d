"""Codes are Huffman's and canonical, come back as they were, and a hostile table ends in an error, not in a loop."""

import math

import numpy as np
import pytest

from visus.core.errors import CheckpointError
from visus.deploy.huffman import MOST_BITS, code_lengths, codes, decode, encode, entropy


def test_the_code_of_a_hand_example():
    lengths = code_lengths([45, 13, 12, 16, 9, 5])  # Cormen et al., Introduction to Algorithms, figure 16.3
    assert lengths == [1, 3, 3, 3, 4, 4]
    assert sum(n * c for n, c in zip(lengths, [45, 13, 12, 16, 9, 5], strict=True)) == 224
    # RFC 1951, section 3.2.2: its own example of canonical codes
    given = [3, 3, 3, 3, 3, 2, 4, 4]
    assert [f"{code:0{n}b}" for code, n in zip(codes(given), given, strict=True)] \
        == ["010", "011", "100", "101", "110", "00", "1110", "1111"]
    assert encode(np.array([5, 0, 6]), [3, 3, 3, 3, 3, 2, 4, 4]) == bytes([0b00010111, 0b00000000])


@pytest.mark.parametrize("seed", range(6))
def test_symbols_come_back_and_the_mean_length_is_within_a_bit_of_the_entropy(seed):
    rng = np.random.default_rng(seed)
    count = (1, 2, 7, 100, 255, 31)[seed]
    symbols = rng.choice(count, 3000, p=rng.dirichlet(np.full(count, 0.3)))
    counts = np.bincount(symbols, minlength=count).tolist()
    lengths = code_lengths(counts)
    data = encode(symbols, lengths)
    assert np.array_equal(decode(data, lengths, len(symbols)), symbols)
    mean = sum(n * c for n, c in zip(lengths, counts, strict=True)) / 3000
    assert mean < entropy(counts) + 1 + 1e-12 or sum(c > 0 for c in counts) == 1
    assert mean >= entropy(counts) - 1e-12
    assert len(data) == math.ceil(3000 * mean / 8 - 1e-9)


def test_counts_far_apart_keep_codes_short_enough():
    fibonacci = [1, 1]
    while len(fibonacci) < 40:
        fibonacci.append(sum(fibonacci[-2:]))
    lengths = code_lengths(fibonacci)
    assert max(lengths) <= MOST_BITS and sum(2.0 ** -n for n in lengths) == 1
    symbols = np.arange(40)
    assert np.array_equal(decode(encode(symbols, lengths), lengths, 40), symbols)


@pytest.mark.parametrize(("data", "lengths", "count"), [
    (b"\xff", [1, 1, 1], 4),             # more codes than a tree has places
    (b"\xff", [2, 2], 2),                # fewer
    (b"\xff", [1, 2], 2),
    (b"\x00", [1, 1], 9),                # more symbols than bits
    (b"\x00", [1, 1], 10**18),           # a declared size bomb
    (b"\x00", [1, 1], -1),
    (b"\x00\x00", [1, 1], 8),            # a byte that no symbol needs
    (b"", [1, 1], 1),
    (b"\x01", [1, 1], 0),
    (b"\xff", [1], 8),                   # a bit that is no code
    (b"\xff", [17, 17], 1), (b"\xff", [True, 1], 1), (b"\xff", ["1", 1], 1), (b"\xff", [0] * 5000, 1),
    (b"\xff", [], 3), (b"\xfe", [1, 2, 3, 4, 5, 6, 7, 8, 8], 2)])
def test_hostile_tables_and_data_are_refused(data, lengths, count):
    with pytest.raises(CheckpointError):
        decode(data, lengths, count)


def test_nothing_is_nothing():
    assert encode(np.empty(0, np.int64), []) == b"" and len(decode(b"", [], 0)) == 0

"""The n-gram language model: the next token depends on the last n - 1 only, and its probability is a count.

Counts of long contexts are sparse: most n-grams of a new text were never seen, and a probability of 0 makes the whole
text impossible. Three ways out, in `SMOOTHINGS`: "add_k" gives every n-gram k more; "interpolated" mixes each order
with the one below by a fixed share; "kneser_ney" takes a discount off every count and gives it to the order below,
where a token counts by the number of contexts that it has been seen to complete, not by how often it occurs.

    model = NGram(order=3, smoothing="kneser_ney").fit(text)
    model.perplexity(other), "".join(model.sample(200, rng))

Sources: Shannon 1948; Jelinek and Mercer 1980; Kneser and Ney 1995; Chen and Goodman 1998 (the interpolated form).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from visus.core.errors import UserError, did_you_mean

SMOOTHINGS = ("add_k", "interpolated", "kneser_ney")


@dataclass
class _Order:
    """The m-grams of a text. keys: sorted, (index of the (m-1)-gram) * base + token; counts: of each; totals, types:
    for each (m-1)-gram, the sum and the number of the counts that continue it."""

    keys: np.ndarray
    counts: np.ndarray
    totals: np.ndarray
    types: np.ndarray


class NGram:
    """order: n, at least 1. k: of add_k, above 0. share: of interpolated, the weight of the longer context, in [0, 1).
    discount: of kneser_ney, in (0, 1). Tokens are anything that hashes: letters of a string, words of a list. A token
    that the text did not hold counts as one further word."""

    def __init__(self, order: int = 3, *, smoothing: str = "kneser_ney", k: float = 1.0, share: float = 0.7,
                 discount: float = 0.75):
        if smoothing not in SMOOTHINGS:
            raise UserError("is no smoothing that is known here", where=f"smoothing={smoothing!r}",
                            remedy=did_you_mean(smoothing, SMOOTHINGS))
        for name, value, fits in (("order", order, order >= 1), ("k", k, k > 0), ("share", share, 0 <= share < 1),
                                  ("discount", discount, 0 < discount < 1)):
            if not fits:
                raise UserError(f"{name} is {value}", where="NGram",
                                remedy="order is 1 or more, k above 0, share in [0, 1), discount in (0, 1)")
        self.order, self.smoothing, self.k, self.share, self.discount = order, smoothing, k, share, discount
        self.vocabulary: dict[Hashable, int] = {}
        self._orders: list[_Order] = []

    @property
    def size(self) -> int:
        """Words of the vocabulary, one for all unknown ones included."""
        return len(self.vocabulary) + 1

    def fit(self, tokens: Sequence[Hashable]) -> NGram:
        """Count every 1-gram to n-gram of a text. Before its first token stand n - 1 marks of the beginning."""
        if not len(tokens):
            raise UserError("a text without tokens", where="fit", remedy="Pass at least one")
        self.vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
        coded = self._coded(tokens)
        self._orders = []
        ends, parents = np.zeros(len(coded), np.int64), 1  # index of the (m-1)-gram that ends at each place
        suffixes: list[np.ndarray] = []
        for m in range(1, self.order + 1):
            places = np.arange(self.order - 1, len(coded)) if m == self.order else np.arange(m - 1, len(coded))
            before = ends[places - 1] if m > 1 else np.zeros(len(places), np.int64)
            keys, inverse, counts = np.unique(before * self._base + coded[places], return_inverse=True,
                                              return_counts=True)
            real = np.where(keys % self._base == self._mark, 0, counts)  # marks are context, never predicted
            found = np.full(len(coded), -1, np.int64)
            found[places] = inverse
            suffixes.append(found)
            self._orders.append(self._tabled(keys, real, parents))
            ends, parents = found, len(keys)
        if self.smoothing == "kneser_ney":
            self._count_contexts(suffixes)
        return self

    def log_probabilities(self, tokens: Sequence[Hashable]) -> np.ndarray:
        """Natural log p of each token given those before it, [T]."""
        if not self._orders:
            raise UserError("the model has counted nothing yet", where="NGram", remedy="Call fit first")
        coded = self._coded(tokens)
        return self._logs(coded, np.arange(self.order - 1, len(coded)))

    def perplexity(self, tokens: Sequence[Hashable]) -> float:
        """e to the mean of -log p: the number of equally likely tokens that would be as hard to guess."""
        if not len(tokens):
            raise UserError("a text without tokens", where="perplexity", remedy="Pass at least one")
        return math.exp(-float(self.log_probabilities(tokens).mean()))

    def distribution(self, context: Sequence[Hashable]) -> np.ndarray:
        """p of every word of the vocabulary, and last of an unknown one, after `context` (its last n - 1 tokens count);
        sums to 1. An empty context is the beginning of a text."""
        if not self._orders:
            raise UserError("the model has counted nothing yet", where="NGram", remedy="Call fit first")
        kept = list(context)[len(context) - min(self.order - 1, len(context)):]
        before = self._coded(kept)[len(kept):]  # [order - 1]
        blocks = np.column_stack([np.tile(before, (self.size, 1)), np.arange(self.size)])  # [words, order]
        return np.exp(self._logs(blocks.ravel(), np.arange(self.order - 1, blocks.size, self.order)))

    def sample(self, count: int, rng: np.random.Generator, context: Sequence[Hashable] = ()) -> list[Hashable]:
        """`count` tokens, each drawn given those before it; unknown words are never drawn."""
        words, text = list(self.vocabulary), list(context)
        seen: dict[tuple[Hashable, ...], np.ndarray] = {}
        for _ in range(count):
            last = tuple(text[max(0, len(text) - self.order + 1):])
            if last not in seen:
                share = self.distribution(last)[:-1]
                seen[last] = np.cumsum(share / share.sum())
            text.append(words[min(int(np.searchsorted(seen[last], rng.random())), len(words) - 1)])
        return text[len(context):]

    @property
    def _base(self) -> int:
        return len(self.vocabulary) + 2

    @property
    def _mark(self) -> int:
        return len(self.vocabulary) + 1

    def _coded(self, tokens: Sequence[Hashable]) -> np.ndarray:
        unknown = len(self.vocabulary)
        marks = [self._mark] * (self.order - 1)
        return np.array(marks + [self.vocabulary.get(token, unknown) for token in tokens], np.int64)

    def _logs(self, coded: np.ndarray, places: np.ndarray) -> np.ndarray:
        """log p of the codes at `places`, each given the n - 1 before it."""
        probability = np.full(len(places), 1 / self.size)
        ends = np.zeros(len(coded), np.int64)
        for m, table in enumerate(self._orders, 1):
            before = np.concatenate([[-1], ends[:-1]]) if m > 1 else np.zeros(len(coded), np.int64)
            before[:m - 1] = -1
            ends = _looked_up(table.keys, np.where(before >= 0, before * self._base + coded, -1))
            context, index = before[places], ends[places]
            count = np.where(index >= 0, table.counts[index], 0)
            total = np.where(context >= 0, table.totals[context], 0)
            types = np.where(context >= 0, table.types[context], 0)
            probability = self._mixed(m, count, total, types, probability)
        with np.errstate(divide="ignore"):
            return np.log(probability)

    def _tabled(self, keys: np.ndarray, counts: np.ndarray, parents: int) -> _Order:
        context = keys // self._base
        return _Order(keys, counts, np.bincount(context, counts, parents), np.bincount(context, counts > 0, parents))

    def _mixed(self, m: int, count: np.ndarray, total: np.ndarray, types: np.ndarray,
               below: np.ndarray) -> np.ndarray:
        """p of order m from its counts and the p of the order below; a context never seen leaves the order below."""
        if self.smoothing == "add_k":
            return (count + self.k) / (total + self.k * self.size)
        seen, divisor = total > 0, np.maximum(total, 1)
        if self.smoothing == "interpolated":
            return np.where(seen, self.share * count / divisor + (1 - self.share) * below, below)
        held = self.discount * types / divisor
        return np.where(seen, np.maximum(count - self.discount, 0) / divisor + held * below, below)

    def _count_contexts(self, suffixes: list[np.ndarray]) -> None:
        """Below the highest order, a count becomes the number of different tokens that precede the m-gram."""
        for m in range(self.order - 1, 0, -1):
            longer, table = suffixes[m], self._orders[m - 1]
            _, first = np.unique(longer, return_index=True)  # one place for each (m + 1)-gram
            first = first[longer[first] >= 0]
            preceded = np.bincount(suffixes[m - 1][first], minlength=len(table.keys))
            preceded = np.where(table.keys % self._base == self._mark, 0, preceded)
            self._orders[m - 1] = self._tabled(table.keys, preceded, len(table.totals))


def _looked_up(keys: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The index of each wanted key, -1 where it is not there."""
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, at, -1)

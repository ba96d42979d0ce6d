"""Counting n letters at a time: a language model without a network, and what smoothing is for."""

from __future__ import annotations

import math
import pydoc_data.topics

import numpy as np

from visus.foundations.ngram import NGram
from visus.report.demo import Drawing, Shown, Table, above, below, near, shown
from visus.report.sketch import plot
from visus.run.demo import Tell

TOPIC = "classical"
SUMMARY = "n-gram language models: counts, add-k, interpolation, Kneser-Ney, perplexity"
SOURCE = ("Shannon, Bell System Technical Journal 27 (1948); Kneser, Ney, ICASSP 1995; Chen, Goodman, TR-10-98, "
          "Harvard (1998); Bengio et al., JMLR 3 (2003)")

ORDERS = (1, 2, 3, 4, 5, 6, 7)
STYLES = {"add-1": ("add_k", 1.0), "add-0.01": ("add_k", 0.01), "interpolated": ("interpolated", 1.0),
          "Kneser-Ney": ("kneser_ney", 1.0)}


def make(seed: int, advance: Tell, small: bool = False) -> Shown:
    text = _text(60_000 if small else 150_000)
    cut = len(text) * 9 // 10
    train, test = text[:cut], text[cut:]
    orders = ORDERS[:5] if small else ORDERS
    found: dict[str, list[float]] = {name: [] for name in STYLES}
    seen = []
    for done, order in enumerate(orders, 1):
        for name, (smoothing, k) in STYLES.items():
            found[name].append(NGram(order, smoothing=smoothing, k=k).fit(train).perplexity(test))
        known = {train[i:i + order] for i in range(len(train) - order + 1)}
        seen.append(float(np.mean([test[i:i + order] in known for i in range(len(test) - order + 1)])))
        advance(done, len(orders) + 2)
    rng = np.random.default_rng(seed)
    samples = [[str(order), "".join(map(str, NGram(order).fit(train[:60_000]).sample(110, rng, train[:6])))]
               for order in (1, 2, 4, 6)]
    advance(len(orders) + 1, len(orders) + 2)
    bound, reached, alone = _known_source(rng)
    model = NGram(3).fit(train[:20_000])
    totals = [model.distribution(context).sum() for context in ("th", "qz", "")]
    lengths = {name: values[-1] for name, values in found.items()}
    best = min(found["Kneser-Ney"])
    words = _francisco()
    advance(len(orders) + 2, len(orders) + 2)
    facts = [
        below("probabilities after a known, an unknown and an empty context sum to 1: largest difference",
              max(abs(t - 1) for t in totals), 1e-12),
        near("a source whose next letter depends on the last: perplexity of the 2-gram, and the source's own",
             reached, bound, 0.05 * bound),
        above("the 1-gram cannot see it: its perplexity, of the source's", alone / bound, 1.05),
        shown(f"longest n, {orders[-1]}: Kneser-Ney below interpolation below add-1",
              lengths["Kneser-Ney"] < lengths["interpolated"] < lengths["add-1"],
              ", ".join(f"{name} {value:.2f}" for name, value in lengths.items()), "in this order"),
        shown("with add-1, longer contexts are worse from some n on", found["add-1"][-1] > 1.5 * min(found["add-1"]),
              f"{min(found['add-1']):.2f} at best, {found['add-1'][-1]:.2f} at n = {orders[-1]}", "rising"),
        below("Kneser-Ney does not get worse with n: last, of its best", found["Kneser-Ney"][-1] / best, 1.05),
        above("perplexity of single letters, of the best", found["Kneser-Ney"][0] / best, 3.0),
        below(f"share of the {orders[-1]}-grams of the new text that were ever seen", seen[-1], 0.9),
        shown("'francisco' is frequent but follows one word only: Kneser-Ney's 1-gram ranks it below 'glass', "
              "plain counts above", words[0] < words[1] and words[2] > words[3],
              f"{words[0]:.3f} < {words[1]:.3f}, {words[2]:.3f} > {words[3]:.3f}", "below, above"),
    ]
    table = Table("Texts drawn from the models", ["n", "drawn letters"], samples,
                  "Kneser-Ney, begun with the first letters of the text.")
    return Shown(
        "n-gram language models",
        "The next letter is guessed from the n - 1 before it, by counting what followed them in a text. Perplexity is "
        "how many equally likely letters would be as hard to guess; the test is on text that was not counted.\n\nLong "
        "contexts know more, but many of them were never seen, and a probability of zero makes a whole text "
        "impossible. Adding to every count spoils the known ones. Mixing with shorter contexts does better, and "
        "Kneser-Ney's discount best: below the top, a letter counts by the number of contexts that it completes. "
        "Neural language models were measured against this.",
        [Drawing(plot([(name, list(zip(map(float, orders), values, strict=True))) for name, values in found.items()],
                      x_label="n", y_label="perplexity of new text", log_y=True, title="Perplexity by n"),
                 f"{len(train):,} letters counted, {len(test):,} guessed: the help texts of Python.", "Perplexity"),
         Drawing(plot([("", list(zip(map(float, orders), seen, strict=True)))], x_label="n",
                      y_label="share of new n-grams that were seen", ranges=(None, None, 0, 1), title="Seen n-grams"),
                 "The longer the context, the more often it is new.", "Sparse counts")], facts,
        [table, Table("Perplexity of new text", ["n", *found], [
            [str(n), *(f"{found[name][i]:.2f}" for name in found)] for i, n in enumerate(orders)])])


def _text(letters: int) -> str:
    """English that every Python brings along: its help texts, runs of blanks as one."""
    topics = pydoc_data.topics.topics
    return " ".join(" ".join(topics[name] for name in sorted(topics)).split())[:letters].lower()


def _known_source(rng: np.random.Generator) -> tuple[float, float, float]:
    """Letters drawn by a fixed table: e to the entropy of the source, perplexity of the 2-gram and of the 1-gram."""
    table = rng.dirichlet(np.full(6, 0.5), 6)
    steps, letters = np.cumsum(table, axis=1), [0]
    for u in rng.random(24_000):
        letters.append(min(int(np.searchsorted(steps[letters[-1]], u)), 5))
    share = np.linalg.matrix_power(table, 200)[0]  # how often each letter occurs in the long run
    entropy = -float((share[:, None] * table * np.log(np.maximum(table, 1e-300))).sum())
    train, test = letters[:18_000], letters[18_000:]
    return math.exp(entropy), NGram(2).fit(train).perplexity(test), NGram(1).fit(train).perplexity(test)


def _francisco() -> tuple[float, float, float, float]:
    """p of francisco and glass after a word never seen: by Kneser-Ney, then by plain counts below the top."""
    text = ("san francisco " * 12 + "a glass the glass my glass one glass red glass ").split()
    found = []
    for smoothing in ("kneser_ney", "interpolated"):
        model = NGram(2, smoothing=smoothing).fit(text)
        after = dict(zip([*model.vocabulary, None], model.distribution(["reading"]), strict=True))
        found += [float(after["francisco"]), float(after["glass"])]
    return found[0], found[1], found[2], found[3]

"""Unit tests for stochastic optimizers (Schaul, Antonoglou, Silver, ICLR 2014, arXiv:1312.6055): one difficulty each.

A test is a function of one or more dimensions, each a chain of shapes (`visus.optim.prototypes`), with noise on its
gradients, perhaps turned, with a curl that no loss has, or drifting. An optimizer takes 100 steps at one rate, ten
times over; the middle of the ten final values, without the noise, is set against the best plain SGD of 34 rates: 0 is
the start, 1 the best SGD. The verdicts and their limits (a tenth, a quarter of the repetitions, twice, 1e10) are those
of the authors' test bench, as are levels, drifts and the chains. Ours: which of its thousands of combinations are in
`TESTS`, the ends of the 34 rates, drifts as a random walk every ten steps, and the start's value taken on the last
step's function, so that a drift alone is neither progress nor loss.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from visus.optim.contenders import Contender, descend
from visus.optim.prototypes import NOISES, chain, draw_noise

Verdict = Literal["diverged", "failing", "none", "variable", "good", "excellent"]
GOOD: tuple[Verdict, ...] = ("good", "excellent")
STEPS, REPETITIONS = 100, 10
RATES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
FEW_RATES, FEW_REPETITIONS = (1e-3, 1e-2, 1e-1, 1.0), 3  # of optimizers whose descents must run one by one
SLOPES = {"normal": -1.0, "steep": -10.0, "flat": -0.1, "saddle": 1.0}
LIMIT = 1e10
DRIFT_EVERY = 10
DRIFTS = {"scale": 0.1, "noise": 0.5, "offset": 0.1}  # standard deviation of each change; scale and noise: of its log
CURL = 0.1
REFERENCE_RATES = tuple(10 ** (-6 + 7 * k / 33) for k in range(34))  # of the SGD that all are measured against


@dataclass(frozen=True)
class UnitTest:
    """dims: (chain of shapes, name of its slope) for each dimension. noise: one of NOISES. drift: one of DRIFTS."""

    name: str
    dims: tuple[tuple[tuple[str, ...], str], ...]
    noise: str = "exact"
    turned: bool = False
    curl: bool = False
    drift: str = ""


def _tests() -> list[UnitTest]:
    def one(chain_: str, slope: str = "normal", noise: str = "exact", drift: str = "") -> UnitTest:
        words = [chain_.replace("-", " "), *([] if slope == "normal" else [slope]), noise, *([drift] * bool(drift))]
        return UnitTest(", ".join(words), ((tuple(chain_.split("-")), slope),), noise, drift=drift)

    def many(parts: Sequence[tuple[str, str, int]], noise: str, turned: bool = False, curl: bool = False) -> UnitTest:
        words = " + ".join(f"{count} {chain_.replace('-', ' ')}" + ("" if slope == "normal" else f" {slope}")
                           for chain_, slope, count in parts)
        dims = tuple((tuple(chain_.split("-")), slope) for chain_, slope, count in parts for _ in range(count))
        return UnitTest(", ".join([words, noise, *["turned"] * turned, *["curl"] * curl]), dims, noise, turned, curl)

    single = ("line", "quad_bowl", "abs", "bend", "relu", "gauss_bowl", "cliff", "ridge")
    chained = (
        "quad_convex-line", "exponential", "line-exponential", "quad_convex-relu", "line-quad_bowl-line",
        "gauss_convex-relu", "laplace_convex-exponential", "quad_convex-abs-quad_convex",
        "quad_convex-cliff-quad_bowl", "cliff-exponential", "relu-bend-line", "quad_convex-relu-bend-quad_bowl",
        "gauss_nonconvex-gauss_convex-gauss_bowl-gauss_convex-gauss_nonconvex",
        "laplace_nonconvex-laplace_convex-laplace_bowl-laplace_convex-laplace_nonconvex")
    found = [one(name, slope, noise) for name in single for slope in ("normal", "steep", "flat")
             for noise in ("exact", "gauss 0.1", "times 1", "mask 0.9", "cauchy 1")]
    found += [one(name, "normal", noise) for name in ("quad_bowl", "cliff") for noise in
              ("gauss 0.01", "gauss 10", "times 0.1", "times 10", "mask 0.1")]
    found += [one(name, "normal", noise) for name in chained for noise in ("exact", "gauss 0.1")]
    found += [one(name, "normal", "gauss 0.1", drift) for name in ("line", "quad_bowl", "abs", "cliff")
              for drift in DRIFTS]
    pairs: list[tuple[list[tuple[str, str, int]], bool]] = [
        ([("quad_bowl", "steep", 1), ("quad_bowl", "normal", 1)], True),
        ([("abs", "normal", 1), ("quad_bowl", "steep", 1)], True),
        ([("cliff", "normal", 1), ("line", "normal", 1)], True),
        ([("exponential", "normal", 1), ("quad_bowl", "normal", 1)], False),
        ([("gauss_nonconvex", "saddle", 1), ("quad_bowl", "normal", 1)], False)]
    for parts, both in pairs:
        for noise in ("exact", "gauss 0.1"):
            found.append(many(parts, noise))
            found += [many(parts, noise, turned=True), many(parts, noise, curl=True)] if both else []
    for parts in ([("quad_bowl", "normal", 10)], [("abs", "normal", 1), ("quad_bowl", "steep", 9)],
                  [("cliff", "normal", 1), ("line", "normal", 9)], [("quad_bowl", "steep", 1), ("line", "normal", 9)]):
        found += [many(parts, noise) for noise in ("exact", "gauss 0.1")]
    return found


TESTS: tuple[UnitTest, ...] = tuple(_tests())


class Bench:
    """Tests of one number of dimensions side by side: what is random about them is drawn once, for every optimizer."""

    def __init__(self, tests: Sequence[UnitTest], steps: int = STEPS, repetitions: int = REPETITIONS, seed: int = 0):
        self.tests, self.steps, self.repetitions = list(tests), steps, repetitions
        self.dims = len(self.tests[0].dims)
        assert all(len(test.dims) == self.dims for test in self.tests)
        self.slopes = torch.tensor([[SLOPES[slope] for _, slope in t.dims] for t in self.tests], dtype=torch.float64)
        self.chains = list(dict.fromkeys(names for test in self.tests for names, _ in test.dims))
        self.which_chain = torch.tensor([[self.chains.index(names) for names, _ in test.dims] for test in self.tests])
        generator = torch.Generator().manual_seed(seed)
        turns: list[Tensor] = []
        curls: list[Tensor] = []
        for _ in self.tests:
            for kept in (turns, curls):
                square = torch.randn(self.dims, self.dims, generator=generator, dtype=torch.float64)
                kept.append(torch.linalg.qr(square)[0])
        plain = torch.eye(self.dims, dtype=torch.float64)
        self.turn = torch.stack([t if test.turned else plain for t, test in zip(turns, self.tests, strict=True)])
        self.curl = torch.stack([CURL * c if test.curl else 0 * c for c, test in zip(curls, self.tests, strict=True)])
        self.moves = self.dims > 1 and any(test.turned or test.curl for test in self.tests)
        shape = (steps, repetitions, self.dims)
        factors, addends, walks = [], [], []
        for test in self.tests:
            factor, addend = draw_noise(*NOISES[test.noise], shape, generator)
            moves = (-(-steps // DRIFT_EVERY), repetitions, self.dims)
            walk = torch.randn(moves, generator=generator, dtype=torch.float64)
            walk[0] = 0
            walk = (DRIFTS.get(test.drift, 0.0) * walk).cumsum(0).repeat_interleave(DRIFT_EVERY, 0)[:steps]
            if test.drift == "noise":
                factor, addend = factor ** torch.exp(walk), addend * torch.exp(walk)
            factors.append(factor)
            addends.append(addend)
            walks.append(walk)
        drifts = [test.drift for test in self.tests]
        self.factor, self.addend, walk = torch.stack(factors, 1), torch.stack(addends, 1), torch.stack(walks, 1)
        none = torch.zeros_like(walk[:, :1])
        self.offset = torch.cat([walk[:, k:k + 1] if d == "offset" else none for k, d in enumerate(drifts)], 1)
        self.scale = torch.cat([walk[:, k:k + 1, :, :1].exp() if d == "scale" else none[..., :1] + 1
                                for k, d in enumerate(drifts)], 1)  # [steps, T, R, 1]

    def clean(self, points: Tensor, test: Tensor, repetition: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Values [K] and gradients [K, D] without noise at points [K, D] of the tests and repetitions [K]."""
        x = points - self.offset[step, test, repetition]
        turn = self.turn[test] if self.moves else None
        inner = x if turn is None else torch.einsum("kij,kj->ki", turn, x)
        slopes, kinds = self.slopes[test], self.which_chain[test]
        values, slope_at = torch.empty_like(inner), torch.empty_like(inner)
        for number in kinds.unique().tolist():
            rows = kinds == number
            values[rows], slope_at[rows] = chain(self.chains[number], inner[rows], slopes[rows])
        if turn is not None:
            slope_at = torch.einsum("kji,kj->ki", turn, slope_at) + torch.einsum("kij,kj->ki", self.curl[test], x)
        scale = self.scale[step, test, repetition]
        return scale[:, 0] * values.sum(1), scale * slope_at

    def run(self, contender: Contender, rates: Sequence[float], repetitions: int | None = None,
            advance: Callable[[int], object] = lambda n: None) -> Tensor:
        """Final values without noise, float64 [rates, T, R]; NaN where the numbers were left. repetitions: only the
        first so many."""
        tests, repetitions = len(self.tests), repetitions or self.repetitions
        each = tests * repetitions
        starts = torch.zeros(len(rates) * each, self.dims, dtype=torch.float64)

        def evaluate(points: Tensor, which: Tensor, step: int) -> tuple[Tensor, Tensor]:
            test, repetition = which % each // repetitions, which % repetitions
            values, gradients = self.clean(points, test, repetition, step)
            addend = self.addend[step, test, repetition]
            factor = self.factor[step, test, repetition]
            return values * factor[:, 0] + (points * addend).sum(1), factor * gradients + addend

        path = descend(contender, starts, [rate for rate in rates for _ in range(each)], evaluate, self.steps, advance)
        return self.final(path[-1].view(len(rates), tests, repetitions, self.dims))

    def final(self, points: Tensor) -> Tensor:
        """Values without noise at points [..., T, R, D] on the last step's function -> [..., T, R]."""
        test, repetition = torch.meshgrid(torch.arange(len(self.tests)), torch.arange(points.shape[-2]), indexing="ij")
        lead = points.shape[:-3]
        test, repetition = (index.expand(*lead, *index.shape).reshape(-1) for index in (test, repetition))
        return self.clean(points.reshape(-1, self.dims), test, repetition, self.steps - 1)[0].view(points.shape[:-1])


def reference(bench: Bench, advance: Callable[[int], object] = lambda n: None) -> tuple[Tensor, Tensor, Tensor]:
    """Value at the start [T, R], the best plain SGD's median [T], and its rate [T]."""
    start = bench.final(torch.zeros(len(bench.tests), bench.repetitions, bench.dims, dtype=torch.float64))
    found = bench.run(Contender("sgd", "sgd", {"momentum": 0.0}), REFERENCE_RATES, advance=advance)
    middle = _median(found)
    middle = torch.where(torch.isnan(middle), torch.inf, middle)
    best, place = middle.min(0)
    return start, best, torch.tensor(REFERENCE_RATES, dtype=torch.float64)[place]


def judge(values: Tensor, start: Tensor, best: Tensor) -> list[Verdict]:
    """The verdict on each test from the final values [T, R], the values at the start [T, R], and the best SGD's [T].

    Progress p = (value - start) / (best - start), of the median over repetitions. diverged: more than half of the
    repetitions left the numbers, or the median is above 1e10. failing: some did. none: p <= 0.1. variable: p > 0.1, but
    below 0.1 in more than a quarter of the repetitions. good: else; excellent: p > 2.
    """
    verdicts: list[Verdict] = []
    for value, begin, most in zip(values, start, best.clamp_min(-LIMIT), strict=True):
        kept = torch.isfinite(value)
        count, middle = int(kept.sum()), float(begin.median())
        if 2 * count < len(value) or float(value[kept].median()) > LIMIT:
            verdicts.append("diverged")
            continue
        gain = float(most) - middle
        progress = (value[kept].clamp_min(-LIMIT) - middle) / gain if gain else torch.zeros(count)
        share = float(_median(progress[:, None])[0])
        if not share > 0.1:
            verdicts.append("none")
        elif count < len(value):
            verdicts.append("failing")
        elif int((progress < 0.1).sum()) > 0.25 * len(value):
            verdicts.append("variable")
        else:
            verdicts.append("excellent" if share > 2 else "good")
    return verdicts


def _median(values: Tensor) -> Tensor:
    """Over the last axis of [..., R] (the only one of [R, 1]), the mean of the middle two; nan where one is."""
    return values.quantile(0.5, dim=0 if values.shape[-1] == 1 else -1)

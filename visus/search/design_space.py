"""Design spaces: sets of networks, compared by the distribution of the errors of their samples, not by their best one.

Paper: Radosavovic, Kosaraju, Girshick, He, Dollar, Designing Network Design Spaces, CVPR 2020, arXiv:2003.13678,
sections 3.1 to 3.3 and Table 1. Each of AnyNetX_A to E adds one restriction to the one before; RegNet asks that widths
follow a quantised line. A space is judged by F(e), the share of its samples, all of about one cost, with an error below
e.

    A   4 stages, each with a depth of 1 to 16, a width of 8 to 1024 in steps of 8, a bottleneck ratio in {1, 2, 4} and
        a group width in {1, 2, 4, 8, 16, 32}
    B   one bottleneck ratio for all stages          C   also one group width
    D   also widths that never fall                  E   also depths that never fall
    RegNet   quantised linear widths (equations 2 to 4), one ratio and one group width

Depths and widths are drawn log-uniformly: P(v) is proportional to 1 / v on the values above. A width that its group
width does not divide is then moved to one that it does (`compatible`), so that a point of the space stands for the
network nearest to it. Departure: of RegNet, w_a and w_m are drawn log-uniformly from [8, 256] and [1.5, 3] and the
depth from 4 to 64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from visus.core.errors import UserError
from visus.core.seeds import hash64
from visus.core.validate import positive, require
from visus.models.cnn.regnet import stages_of
from visus.search.trials import TrialLog

NUM_STAGES = 4
STEM_DIM = 32
QUANTUM = 8  # widths are multiples of this
BOTTLENECKS = (1, 2, 4)
GROUP_WIDTHS = (1, 2, 4, 8, 16, 32)
MAX_DRAWS = 1_000_000  # of one sample, before a cost that the space hardly holds is refused


@dataclass(frozen=True)
class Stages:
    """What the four stages of an AnyNet are, by the names of its config."""

    depths: tuple[int, ...]
    widths: tuple[int, ...]
    bottlenecks: tuple[int, ...]
    group_widths: tuple[int, ...]

    def config(self) -> dict[str, tuple[int, ...]]:
        """Fields of `create_model("anynet", ...)`, with widths and group widths that divide."""
        return asdict(compatible(self))


def compatible(stages: Stages) -> Stages:
    """The nearest stages whose group width divides the width of the grouped convolution: a group is never wider than
    that, and the width goes to the nearest multiple (halves up)."""
    widths, groups = [], []
    for width, ratio, group in zip(stages.widths, stages.bottlenecks, stages.group_widths, strict=True):
        inner = max(1, width // ratio)
        group = min(group, inner)
        inner = max(group, (2 * inner + group) // (2 * group) * group)
        widths.append(inner * ratio)
        groups.append(group)
    return Stages(stages.depths, tuple(widths), stages.bottlenecks, tuple(groups))


@dataclass(frozen=True, kw_only=True)
class AnyNetSpace:
    """share_bottleneck, share_group: one value for the four stages. widths_rise, depths_rise: no stage has less than
    the one before. max_depth, max_width: of a stage, the paper's by default."""

    name: str
    share_bottleneck: bool = False
    share_group: bool = False
    widths_rise: bool = False
    depths_rise: bool = False
    max_depth: int = 16
    max_width: int = 1024

    def __post_init__(self) -> None:
        positive(max_depth=self.max_depth, max_width=self.max_width)
        require(self.max_width % QUANTUM == 0, "max_width", self.max_width, f"be a multiple of {QUANTUM}")

    @property
    def size(self) -> float:
        """Points as the paper counts them: an order of four values leaves 1 / 4! of them (ties are not corrected)."""
        depths, widths = self.max_depth, self.max_width // QUANTUM
        points = float(depths * widths) ** NUM_STAGES
        points *= len(BOTTLENECKS) ** (1 if self.share_bottleneck else NUM_STAGES)
        points *= len(GROUP_WIDTHS) ** (1 if self.share_group else NUM_STAGES)
        return points / math.factorial(NUM_STAGES) ** (self.widths_rise + self.depths_rise)

    @property
    def num_dimensions(self) -> int:
        return 2 * NUM_STAGES + (1 if self.share_bottleneck else NUM_STAGES) + (1 if self.share_group else NUM_STAGES)

    def __contains__(self, stages: Stages) -> bool:
        """Whether the stages, as drawn, obey the restrictions."""
        def rises(values: tuple[int, ...]) -> bool:
            return all(a <= b for a, b in zip(values, values[1:], strict=False))

        return (all(1 <= d <= self.max_depth for d in stages.depths)
                and all(w % QUANTUM == 0 and QUANTUM <= w <= self.max_width for w in stages.widths)
                and set(stages.bottlenecks) <= set(BOTTLENECKS) and set(stages.group_widths) <= set(GROUP_WIDTHS)
                and (not self.share_bottleneck or len(set(stages.bottlenecks)) == 1)
                and (not self.share_group or len(set(stages.group_widths)) == 1)
                and (not self.widths_rise or rises(stages.widths)) and (not self.depths_rise or rises(stages.depths)))

    def draw(self, generator: np.random.Generator) -> Stages:
        """A point of the space. Orders are kept by drawing again, so that the rest of the distribution stays."""
        return Stages(_ordered(generator, 1, self.max_depth, 1, self.depths_rise),
                      _ordered(generator, QUANTUM, self.max_width, QUANTUM, self.widths_rise),
                      _stagewise(generator, BOTTLENECKS, self.share_bottleneck),
                      _stagewise(generator, GROUP_WIDTHS, self.share_group))


@dataclass(frozen=True, kw_only=True)
class RegNetSpace:
    """Widths from a quantised line of at most max_depth blocks; max_slope bounds w_0 and w_a."""

    name: str = "regnet"
    max_depth: int = 64
    max_slope: int = 256

    @property
    def size(self) -> float:
        """Points as the paper counts them: 64 values each of the depth, w_0, w_a and w_m."""
        return 64.0 ** 4 * len(GROUP_WIDTHS) * len(BOTTLENECKS)

    @property
    def num_dimensions(self) -> int:
        return 6

    def draw(self, generator: np.random.Generator) -> Stages:
        """A rule that does not make four stages is drawn again."""
        while True:
            depth = int(generator.integers(NUM_STAGES, self.max_depth + 1))
            w_0 = _log_uniform(generator, QUANTUM, self.max_slope, QUANTUM)
            w_a = float(np.exp(generator.uniform(np.log(QUANTUM), np.log(self.max_slope))))
            w_m = float(np.exp(generator.uniform(np.log(1.5), np.log(3.0))))
            found = stages_of(depth, w_0, w_a, w_m)
            if len(found) == NUM_STAGES:
                break
        return Stages(tuple(blocks for _, blocks in found), tuple(width for width, _ in found),
                      _stagewise(generator, BOTTLENECKS, True), _stagewise(generator, GROUP_WIDTHS, True))


Space = AnyNetSpace | RegNetSpace


def _log_uniform(generator: np.random.Generator, low: int, high: int, step: int) -> int:
    values = np.arange(low, high + 1, step)
    edges = np.cumsum(1 / values)
    return int(values[np.searchsorted(edges, generator.random() * edges[-1], side="right")])


def _ordered(generator: np.random.Generator, low: int, high: int, step: int, rises: bool) -> tuple[int, ...]:
    while True:
        values = tuple(_log_uniform(generator, low, high, step) for _ in range(NUM_STAGES))
        if not rises or list(values) == sorted(values):
            return values


def _stagewise(generator: np.random.Generator, choices: tuple[int, ...], shared: bool) -> tuple[int, ...]:
    picks = generator.integers(0, len(choices), 1 if shared else NUM_STAGES)
    return tuple(choices[i] for i in picks) * (NUM_STAGES if shared else 1)


SPACES: dict[str, Space] = {
    "anynetx_a": AnyNetSpace(name="anynetx_a"),
    "anynetx_b": AnyNetSpace(name="anynetx_b", share_bottleneck=True),
    "anynetx_c": AnyNetSpace(name="anynetx_c", share_bottleneck=True, share_group=True),
    "anynetx_d": AnyNetSpace(name="anynetx_d", share_bottleneck=True, share_group=True, widths_rise=True),
    "anynetx_e": AnyNetSpace(name="anynetx_e", share_bottleneck=True, share_group=True, widths_rise=True,
                             depths_rise=True),
    "regnet": RegNetSpace(),
}


def count_macs(stages: Stages, image_size: int = 224, in_channels: int = 3, num_classes: int = 1000,
               stem_stride: int = 2, strides: Sequence[int] = (2, 2, 2, 2)) -> int:
    """Multiply-accumulates of the AnyNet of these stages for one square image, by counting, without building it: what
    `visus.core.summary.summarise` finds on the meta device, a thousand times faster."""
    fitting = compatible(stages)
    side = -(-image_size // stem_stride)
    macs, in_dim = side * side * 9 * in_channels * STEM_DIM, STEM_DIM
    rows = zip(fitting.depths, fitting.widths, fitting.bottlenecks, fitting.group_widths, strides, strict=True)
    for depth, width, ratio, group, stride in rows:
        inner = width // ratio
        for block in range(depth):
            step = stride if block == 0 else 1
            entering, places = side * side, (-(-side // step)) ** 2
            macs += entering * in_dim * inner + places * 9 * inner * group + places * inner * width
            if step != 1 or in_dim != width:
                macs += places * in_dim * width
            side, in_dim = -(-side // step), width
    return macs + in_dim * num_classes


def sample(space: Space, count: int, seed: int, *, cost: Callable[[Stages], float] = count_macs, low: float = 0.0,
           high: float = math.inf) -> list[Stages]:
    """`count` points with low <= cost <= high. The n-th depends on the space, the seed and n alone.

    Raises UserError where the space holds too few points of that cost to be found by drawing.
    """
    out = []
    for number in range(count):
        generator = np.random.Generator(np.random.PCG64(int(hash64(number, seed, space.name))))
        for _ in range(MAX_DRAWS):
            stages = space.draw(generator)
            if low <= cost(stages) <= high:
                out.append(stages)
                break
        else:
            raise UserError(f"holds no network that costs {low:g} to {high:g} in {MAX_DRAWS} draws", where=space.name,
                            remedy="Ask for a wider range")
    return out


def edf(errors: Sequence[float] | np.ndarray, at: Sequence[float] | np.ndarray) -> np.ndarray:
    """Equation 1: F(e), the share of errors below e, for each e of `at`."""
    return np.searchsorted(np.sort(np.asarray(errors, dtype=np.float64)), np.asarray(at), side="left") / len(errors)


def edf_band(errors: Sequence[float], at: Sequence[float], seed: int, draws: int = 1000,
             share: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper bound of F(e) at each e: the middle `share` of its values over resampled sets of models."""
    generator = np.random.Generator(np.random.PCG64(seed))
    values = np.asarray(errors, dtype=np.float64)
    curves = np.stack([edf(values[generator.integers(0, len(values), len(values))], at) for _ in range(draws)])
    low, high = np.quantile(curves, [(1 - share) / 2, (1 + share) / 2], axis=0)
    return low, high


def distance(first: Sequence[float] | np.ndarray, second: Sequence[float] | np.ndarray) -> float:
    """Largest difference of the two distributions (the statistic of Kolmogorov and Smirnov)."""
    every = np.concatenate([first, second])
    at = np.append(np.unique(every), np.inf)
    return float(np.abs(edf(first, at) - edf(second, at)).max())


def best_range(values: Sequence[float], errors: Sequence[float], seed: int, draws: int = 10_000, part: float = 0.25,
               share: float = 0.95) -> tuple[float, float, float]:
    """Where the best value of a parameter lies: (low, median, high) of the value of the model with the least error,
    over random subsets of a quarter of the models, drawn with replacement (section 3.1, the empirical bootstrap)."""
    generator = np.random.Generator(np.random.PCG64(seed))
    taken = max(1, round(part * len(values)))
    picks = generator.integers(0, len(values), (draws, taken))
    errors_of = np.asarray(errors, dtype=np.float64)[picks]  # [draws, taken]
    best = np.asarray(values, dtype=np.float64)[picks[np.arange(draws), errors_of.argmin(1)]]
    low, median, high = np.quantile(best, [(1 - share) / 2, 0.5, (1 + share) / 2])
    return float(low), float(median), float(high)


@dataclass(frozen=True)
class LineFit:
    """error: mean of |log(width / fitted width)| over the blocks, the paper's e_fit."""

    w_0: float
    w_a: float
    w_m: float
    error: float


def quantised_line(depth: int, w_0: np.ndarray, w_a: np.ndarray, w_m: np.ndarray) -> np.ndarray:
    """Equations 2 to 4 without the rounding to multiples of 8: parameters of shape [...] -> widths [..., depth]."""
    w_0, w_a, w_m = (np.asarray(value, dtype=np.float64)[..., None] for value in (w_0, w_a, w_m))
    line = w_0 + w_a * np.arange(depth)
    return w_0 * w_m ** np.round(np.log(line / w_0) / np.log(w_m))


def fit_line(stages: Stages, steps: int = 24) -> LineFit:
    """The quantised line nearest to the widths of the blocks: a grid of `steps` values each of w_0, w_a and w_m, then
    three finer ones around the best."""
    widths = np.repeat(np.asarray(stages.widths, dtype=np.float64), stages.depths)
    ranges = [(4.0, 2 * widths.max()), (0.25, 2 * widths.max()), (1.2, 4.0)]
    best = LineFit(0, 0, 0, math.inf)
    for _ in range(4):
        w_0, w_a, w_m = np.meshgrid(*(np.geomspace(*r, steps) for r in ranges), indexing="ij")
        fitted = quantised_line(len(widths), w_0, w_a, w_m)  # [steps, steps, steps, blocks]
        errors = np.abs(np.log(widths / fitted)).mean(-1)
        at = np.unravel_index(errors.argmin(), errors.shape)
        if errors[at] < best.error:
            best = LineFit(float(w_0[at]), float(w_a[at]), float(w_m[at]), float(errors[at]))
        ranges = [(value / (high / low) ** (2 / steps), value * (high / low) ** (2 / steps))
                  for value, (low, high) in zip((best.w_0, best.w_a, best.w_m), ranges, strict=True)]
        ranges[2] = (max(1.05, ranges[2][0]), ranges[2][1])
    return best


@dataclass(frozen=True)
class SpaceResult:
    """The samples of one space and their errors, in the order drawn."""

    space: str
    stages: tuple[Stages, ...]
    errors: tuple[float, ...]


def compare_spaces(spaces: Sequence[Space], train_and_score: Callable[[Mapping[str, tuple[int, ...]], int], float],
                   count: int, seed: int, *, cost: Callable[[Stages], float] = count_macs, low: float = 0.0,
                   high: float = math.inf, protocol: Mapping[str, object] | None = None, log: TrialLog | None = None,
                   progress: Callable[[str, int, float], None] | None = None) -> list[SpaceResult]:
    """Draw `count` networks of each space and train each by train_and_score(config fields, seed) -> error in [0, 1].

    The spaces take turns, so that a search that is stopped has as many of each. protocol: what else an error depends
    on (data, epochs), part of its key in `log`. progress: called with (space, number, error) after each.
    """
    log = TrialLog() if log is None else log
    drawn = {space.name: sample(space, count, seed, cost=cost, low=low, high=high) for space in spaces}
    errors: dict[str, list[float]] = {space.name: [] for space in spaces}
    for number in range(count):
        for space in spaces:
            config = drawn[space.name][number].config()
            key = {**config, "seed": seed, "protocol": dict(protocol or {})}
            trial = log.run(key, lambda config=config: train_and_score(config, seed))
            errors[space.name].append(trial.score)
            if progress is not None:
                progress(space.name, number, trial.score)
    return [SpaceResult(name, tuple(drawn[name]), tuple(errors[name])) for name in errors]

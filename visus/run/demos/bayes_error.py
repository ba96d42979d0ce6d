"""The best that any classifier can do: where the densities of the classes overlap, some error is left for ever."""

from __future__ import annotations

import numpy as np

from visus.foundations.bayes import GaussianClasses, bayes_error, two_gaussians_error
from visus.report.demo import Drawing, Shown, Table, above, below, near, shown
from visus.report.plane import beside, plane, points_of
from visus.report.sketch import plot
from visus.run.demo import Tell

TOPIC = "classical"
SUMMARY = "the Bayes classifier and the error that no model can avoid"
SOURCE = ("Duda, Hart, Stork, Pattern Classification, 2001, chapter 2; Cover, Hart, IEEE Trans. Information Theory 13 "
          "(1967)")

DISTANCES = np.linspace(0, 5, 26)


def make(seed: int, advance: Tell, small: bool = False) -> Shown:
    rng = np.random.default_rng(seed)
    cells, count = (400, 1500) if small else (800, 4000)
    line = GaussianClasses(np.array([[0.0], [2.0]]), np.ones((2, 1, 1)), np.array([0.5, 0.5]))
    skewed = GaussianClasses(line.means, line.covariances, np.array([0.8, 0.2]))
    plane_of = GaussianClasses(np.array([[-1.2, 0.0], [1.2, 0.3], [0.2, -1.8]]),
                               np.array([[[1.0, 0.5], [0.5, 0.8]], [[0.6, -0.3], [-0.3, 1.0]],
                                         [[1.2, 0.0], [0.0, 0.3]]]),
                               np.array([0.4, 0.35, 0.25]))
    floor = bayes_error(plane_of, cells=cells)
    advance(1, 3)
    train, test = plane_of.sample(count, rng), plane_of.sample(count, rng)
    nearest = _nearest_error(train, test)
    ideal = float((plane_of.classify(test[0]) != test[1]).mean())
    own = _fitted(*train)
    estimated = float((own.classify(test[0]) != test[1]).mean())
    advance(2, 3)
    borders = np.linspace(-3, 5, 801)
    rules = [0.5 * (1 - _below(t)) + 0.5 * _below(t - 2.0) for t in borders]
    best = int(np.argmin(rules))
    spread = 3 * (floor * (1 - floor) / count) ** 0.5
    bound = floor * (2 - 3 / 2 * floor)  # Cover and Hart, three classes: C / (C - 1) = 3/2
    facts = [
        near("two classes two deviations apart: error by the grid, and in closed form Phi(-1)", bayes_error(line),
             two_gaussians_error(2.0), 1e-6),
        near("the best single border lies in the middle", float(borders[best]), 1.0, 0.011),
        near("priors 0.8 and 0.2: error by the grid and in closed form", bayes_error(skewed),
             two_gaussians_error(2.0, 0.8), 1e-6),
        below("a rule that ignores the priors errs more, by (negative)",
              two_gaussians_error(2.0, 0.8) - two_gaussians_error(2.0), 0.0),
        near(f"three classes in the plane: error of the Bayes classifier on {count:,} draws", ideal, floor, spread),
        above("1-nearest neighbour, less the Bayes error and three deviations", nearest - floor + spread, 0.0),
        below("1-nearest neighbour: never above Cover and Hart's B (2 - 3/2 B) with many examples", nearest,
              bound + spread),
        near("densities estimated from the examples come close to it", estimated, floor, spread + 0.01),
        shown("the error falls as the classes move apart, from one half to nearly nothing",
              two_gaussians_error(0.0) == 0.5 and two_gaussians_error(5.0) < 0.01,
              f"0.5 to {two_gaussians_error(5.0):.4f}", "0.5 to below 0.01"),
    ]
    x = np.linspace(-3.5, 5.5, 181)
    joint = np.exp(line.log_joint(x[:, None]))
    extent = (-4.5, 4.5, -4.2, 3.6)
    shown_points = 150
    asked = points_of(extent, 90)
    nn = np.eye(3)[train[1][_nearest(train[0], asked)]]
    panels = [plane(plane_of.posteriors(asked), test[0][:shown_points], test[1][:shown_points], extent, side=260,
                    name=f"Bayes: {floor:.1%} error"),
              plane(nn, test[0][:shown_points], test[1][:shown_points], extent, side=260,
                    name=f"1-nearest neighbour: {nearest:.1%}")]
    advance(3, 3)
    return Shown(
        "The Bayes classifier and the Bayes error",
        "If the densities of the classes are known, the best answer at each point is the class with the largest "
        "posterior. Where densities overlap it is still wrong now and then: the same image comes from two classes. "
        "That share, the area under the smaller curve, is the Bayes error. More data and larger models come closer to "
        "it, never below.\n\nIt is also a yardstick: with many examples, the nearest neighbour errs at most about "
        "twice as often.",
        [Drawing(plot([("p(x, first)", list(zip(x, joint[:, 0], strict=True))),
                       ("p(x, second)", list(zip(x, joint[:, 1], strict=True))),
                       ("smaller of both: the error", list(zip(x, joint.min(1), strict=True)))], x_label="x",
                      title="Two densities"), "Two classes, two deviations apart: the area under the lowest curve is "
                 f"{two_gaussians_error(2.0):.1%}.", "What is left"),
         Drawing(plot([("equal priors", [(float(d), two_gaussians_error(float(d))) for d in DISTANCES]),
                       ("0.8 and 0.2", [(float(d), two_gaussians_error(float(d), 0.8)) for d in DISTANCES])],
                      x_label="distance of the means, in deviations", y_label="Bayes error", title="Error by distance"),
                 "With unequal priors one can always name the more frequent class.", "By distance"),
         Drawing(beside(panels, 260, 284, columns=2, title="Regions in the plane"),
                 f"Three classes. Left the best border there is, right the one of {count:,} neighbours, with "
                 f"{shown_points} new points.", "In the plane", wide=True)], facts,
        [Table("Error on new points", ["classifier", "error"], [
            ["Bayes, in theory", f"{floor:.2%}"], ["Bayes, on the draws", f"{ideal:.2%}"],
            ["Gaussian densities, estimated", f"{estimated:.2%}"], ["1-nearest neighbour", f"{nearest:.2%}"]])])


def _nearest(known: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """The index of the closest known point of each, in parts of bounded memory."""
    half = 0.5 * (known**2).sum(1)
    return np.concatenate([(half - part @ known.T).argmin(1) for part in np.array_split(asked, -(-len(asked) // 500))])


def _nearest_error(train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray]) -> float:
    return float((train[1][_nearest(train[0], test[0])] != test[1]).mean())


def _fitted(x: np.ndarray, labels: np.ndarray) -> GaussianClasses:
    """Means, covariances and priors of the examples."""
    groups = [x[labels == c] for c in range(int(labels.max()) + 1)]
    return GaussianClasses(np.stack([g.mean(0) for g in groups]), np.stack([np.cov(g.T) for g in groups]),
                           np.array([len(g) / len(x) for g in groups]))


def _below(z: float) -> float:
    """The standard normal distribution function, by its error at a distance: Phi(z) = error at -2 z."""
    return two_gaussians_error(-2 * z) if z <= 0 else 1 - two_gaussians_error(2 * z)

"""Too simple, too flexible: polynomials fitted to noisy points, and what their error on new points consists of."""

from __future__ import annotations

import numpy as np

from visus.report.charts import tag
from visus.report.demo import Drawing, Shown, Table, above, below, near, shown
from visus.report.sketch import plot, plot_axes
from visus.run.demo import Tell

TOPIC = "training"
SUMMARY = "underfitting, overfitting, and error as bias, variance and noise"
SOURCE = ("Geman, Bienenstock, Doursat, Neural Computation 4 (1992); Bishop, Pattern Recognition and Machine Learning, "
          "2006, sections 1.1 and 3.2")

POINTS, NOISE, DEGREES, RIDGES = 16, 0.3, tuple(range(14)), (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)


def truth(x: np.ndarray) -> np.ndarray:
    """What the points would be without noise, on [-1, 1]."""
    return np.sin(np.pi * x)


def features(x: np.ndarray, degree: int) -> np.ndarray:
    """[N] -> Legendre polynomials up to `degree`, [N, degree + 1]: the same curves as powers, well conditioned."""
    return np.polynomial.legendre.legvander(x, degree)


def make(seed: int, advance: Tell, small: bool = False) -> Shown:
    sets = 150 if small else 400
    rng = np.random.default_rng(seed)
    x = -1 + 2 * (np.arange(POINTS) + rng.uniform(0.2, 0.8, (sets, POINTS))) / POINTS
    x[:, 0], x[:, -1] = -1, 1  # no curve has to run on beyond its points
    y = truth(x) + NOISE * rng.standard_normal(x.shape)
    grid = np.linspace(-1, 1, 101)
    by_degree, curves = {}, {}
    for degree in DEGREES:
        by_degree[degree], curves[degree] = _measured(x, y, grid, degree, 0.0, rng)
        advance(degree + 1, len(DEGREES) + len(RIDGES))
    by_ridge = {}
    for done, ridge in enumerate(RIDGES, len(DEGREES) + 1):
        by_ridge[ridge], _ = _measured(x, y, grid, DEGREES[-1], ridge, rng)
        advance(done, len(DEGREES) + len(RIDGES))
    best = min(DEGREES, key=lambda d: by_degree[d]["new"])
    gaps = [one["new"] - one["own"] for one in by_degree.values()]
    sums = {d: one["bias"] + one["variance"] + NOISE**2 for d, one in by_degree.items()}
    most = DEGREES[-1]
    facts = [
        shown("the training error falls with every degree", all(
            by_degree[b]["own"] < by_degree[a]["own"] for a, b in zip(DEGREES, DEGREES[1:], strict=False)),
            f"{by_degree[0]['own']:.3f} to {by_degree[most]['own']:.3f}", "falling"),
        shown("the error on new points falls, then rises: best degree", 2 <= best <= 6, str(best), "2 to 6"),
        above(f"error of degree {most}, of the best", by_degree[most]["new"] / by_degree[best]["new"], 2.0),
        above("error of degree 0, of the best", by_degree[0]["new"] / by_degree[best]["new"], 2.0),
        below("bias^2 + variance + noise against the error on new points, largest relative difference up to degree 8",
              max(abs(sums[d] / by_degree[d]["new"] - 1) for d in range(9)), 0.1),
        shown("bias falls while variance rises", by_degree[7]["bias"] < by_degree[3]["bias"] < by_degree[1]["bias"]
              and by_degree[1]["variance"] < by_degree[3]["variance"] < by_degree[7]["variance"],
              f"degrees 1, 3, 7: {by_degree[1]['bias']:.3f}, {by_degree[3]['bias']:.3f}, {by_degree[7]['bias']:.4f}",
              "falling"),
        near("training error of a fit with p numbers: noise^2 (1 - p / N), degree 7", by_degree[7]["own"],
             NOISE**2 * (1 - 8 / POINTS), 0.015),
        above("the gap between new and training points grows: last, of the best degree's", gaps[-1] / gaps[best], 3.0),
        below(f"degree {most} with the best ridge penalty: error, of that without", min(
            one["new"] for one in by_ridge.values()) / by_degree[most]["new"], 0.5),
        shown("with more ridge the variance falls and the bias rises", all(
            by_ridge[b]["variance"] < by_ridge[a]["variance"] for a, b in zip(RIDGES, RIDGES[1:], strict=False))
            and by_ridge[RIDGES[-1]]["bias"] > by_ridge[1e-3]["bias"],
            f"variance {by_ridge[RIDGES[0]]['variance']:.2g} to {by_ridge[RIDGES[-1]]['variance']:.2g}", "falling"),
    ]
    limits = (-1.0, 1.0, -2.0, 2.0)
    fits = []
    for degree, name in ((1, "too simple"), (3, "about right"), (most, "too flexible")):
        shown_curves = [("truth", list(zip(grid, truth(grid), strict=True))),
                        ("one fit", list(zip(grid, np.clip(curves[degree][0], -2, 2), strict=True)))]
        across, up, _ = plot_axes(shown_curves, width=330, height=240, ranges=limits)
        many = [tag("polyline", class_="line steps", points=" ".join(
            f"{across(float(a)):.1f},{up(float(np.clip(b, -2, 2))):.1f}" for a, b in zip(grid, line, strict=True)))
            for line in curves[degree][1:25]]
        dots = [tag("circle", class_="under", cx=across(float(a)), cy=up(float(np.clip(b, -2, 2))), r=2.6)
                for a, b in zip(x[0], y[0], strict=True)]
        top = [tag("polyline", class_=f"line curve{k}", points=" ".join(
            f"{across(float(a)):.1f},{up(float(b)):.1f}" for a, b in line)) for k, (_, line) in enumerate(shown_curves)]
        over = [*many, *top, *dots]
        fits.append(Drawing(plot(shown_curves, x_label="x", width=330, height=240, ranges=limits, over=over,
                                 title=f"Fits of degree {degree}"),
                            f"{name.capitalize()}. Pale: fits to 24 other draws of {POINTS} points; their spread is "
                            "the variance, the distance of their mean from the truth the bias.", f"Degree {degree}"))

    noise = ("noise", [(0.0, NOISE**2), (float(most), NOISE**2)])

    def line(key: str, found: dict) -> list[tuple[float, float]]:
        return [(float(k), one[key]) for k, one in found.items()]
    return Shown(
        "Bias, variance and overfitting",
        "The same points are fitted with polynomials of growing degree. The error on the points themselves only falls; "
        "the error on new ones falls, then rises again, as the curve begins to follow the noise.\n\nOver many draws of "
        "the data, the error on new points splits into three: how far the mean fit is from the truth (bias, squared), "
        "how much single fits spread around their mean (variance), and the noise, which no fit removes. A penalty on "
        "the weights trades variance for bias without changing the degree.",
        [*fits,
         Drawing(plot([("new points", line("new", by_degree)), ("training points", line("own", by_degree)),
                       noise], x_label="degree", y_label="mean squared error",
                      log_y=True, title="Error by degree"), f"Means over {sets} draws of {POINTS} points.",
                 "Overfitting"),
         Drawing(plot([("bias^2", line("bias", by_degree)), ("variance", line("variance", by_degree)),
                       noise], x_label="degree", log_y=True,
                      title="Parts of the error"), "The parts of the error on new points.", "Bias and variance"),
         Drawing(plot([("new points", line("new", by_ridge)), ("bias^2", line("bias", by_ridge)),
                       ("variance", line("variance", by_ridge))], x_label="penalty", log_x=True, log_y=True,
                      title="Parts of the error by penalty"), f"Degree {most} with a ridge penalty.",
                 "Regularisation")],
        facts,
        [Table("Mean squared errors", ["degree", "training points", "new points", "bias^2", "variance"], [
            [str(d), *(f"{one[k]:.3g}" for k in ("own", "new", "bias", "variance"))] for d, one in by_degree.items()])])


def _measured(x: np.ndarray, y: np.ndarray, grid: np.ndarray, degree: int, ridge: float,
              rng: np.random.Generator) -> tuple[dict[str, float], np.ndarray]:
    """Errors of the fits to each row of x and y, and the fitted curves [sets, grid]."""
    at = features(x, degree)  # [sets, N, degree + 1]
    moments = at.transpose(0, 2, 1) @ at / x.shape[1] + ridge * np.eye(degree + 1)
    weights = np.linalg.solve(moments, (at.transpose(0, 2, 1) @ y[..., None]) / x.shape[1])  # [sets, degree + 1, 1]
    own = float(((at @ weights)[..., 0] - y).__pow__(2).mean())
    curves = (features(grid, degree) @ weights)[..., 0]
    new = truth(grid) + NOISE * rng.standard_normal(curves.shape)
    return {"own": own, "new": float(((curves - new) ** 2).mean()),
            "bias": float(((curves.mean(0) - truth(grid)) ** 2).mean()),
            "variance": float(curves.var(0).mean())}, curves

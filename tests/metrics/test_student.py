"""Student's t and the interval of a mean, against SciPy."""

from __future__ import annotations

import numpy as np
import pytest

from visus.metrics.student import incomplete_beta, mean_interval, t_quantile


@pytest.mark.parametrize("df", [1, 2, 4, 9, 49, 500])
@pytest.mark.parametrize("p", [0.02, 0.5, 0.6, 0.975, 0.999])
def test_quantiles_are_scipys(p, df):
    from scipy import stats

    assert t_quantile(p, df) == pytest.approx(stats.t.ppf(p, df), rel=1e-9, abs=1e-9)


def test_the_incomplete_beta_function_is_scipys():
    from scipy import special

    for x in (0.0, 0.01, 0.3, 0.5, 0.99, 1.0):
        for a, b in ((0.5, 0.5), (1, 3), (5, 0.5), (50, 7)):
            assert incomplete_beta(x, a, b) == pytest.approx(special.betainc(a, b, x), abs=1e-12)


def test_the_overlap_widens_the_interval_as_the_paper_has_it():
    values = [0.9, 0.92, 0.95, 0.91, 0.9]
    plain, corrected = mean_interval(values), mean_interval(values, overlap=0.25)
    assert corrected.half / plain.half == pytest.approx(np.sqrt((1 / 5 + 0.25) / (1 / 5)))
    assert mean_interval([0.5]).low is None and mean_interval([0.5]).std == 0

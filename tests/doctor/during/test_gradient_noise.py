"""The simple noise scale, against a problem whose noise scale is known."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.doctor.during.loops import by_check, look, told
from visus.doctor.during.gradient_noise import GradientNoise
from visus.doctor.watcher import Watcher


def test_the_estimates_are_those_of_the_paper_for_exact_norms():
    """|g_n|^2 = G2 + S / n in expectation (McCandlish et al., equation A.1)."""
    true, trace = 0.3, 60.0
    rule = GradientNoise()
    told(rule, [look(1, noise=(16, true + trace / 16, 64, true + trace / 64))])
    assert rule.scale == pytest.approx(trace / true)


class Mean(nn.Module):
    """Gradient of the loss below with respect to `at`: at - mean(x); its covariance is that of x over the batch."""

    def forward(self, outputs, targets):
        return 0.5 * ((outputs - targets) ** 2).sum(1).mean()


def linear_problem(accumulate: int) -> tuple[dict, float]:
    """y = W x with x = 1 and targets N(0, I) around 0.5: gradient of W is the mean of (W - t)."""
    torch.manual_seed(0)
    dim = 32
    model = nn.Linear(1, dim, bias=False)
    nn.init.zeros_(model.weight)
    optimizer, loss = torch.optim.SGD(model.parameters(), 0.0), Mean()
    with Watcher(model, optimizer, loss, share=1.0) as watcher:
        watcher._grace = 100.0
        for _ in range(80):
            optimizer.zero_grad()
            for _ in range(accumulate):
                targets = 0.5 + torch.randn(32, dim)
                (loss(model(torch.ones(32, 1)), targets) / accumulate).backward()
            optimizer.step()
    rule = dict(watcher._rules)["gradient-noise"]
    assert watcher.failed is None
    return by_check(watcher), rule.scale if len(rule.pairs) >= 20 else 0.0


@pytest.mark.parametrize("accumulate", [1, 4])
def test_halves_of_a_batch_and_accumulated_passes_find_the_noise_scale(accumulate):
    """S = trace of the covariance = 32, G2 = 32 * 0.25: the noise scale is 4 samples."""
    findings, scale = linear_problem(accumulate)
    finding = findings["gradient-noise"]
    assert finding.severity == "note" and scale == pytest.approx(4.0, rel=0.4)
    assert "smaller batch" in finding.remedy


def test_a_gradient_lost_in_the_noise_is_said_and_equal_norms_give_no_number():
    looks = [look(step, noise=(16, 1.0, 32, 0.4)) for step in range(1, 25)]
    assert "larger than can be measured" in told(GradientNoise(), looks)[0].title

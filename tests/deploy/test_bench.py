"""Numbers of one setting fit together."""

from __future__ import annotations

import time

import numpy as np
import pytest

from visus.deploy import bench
from visus.deploy.bench import joules, matmul_peak, measure, peak_mb, resident_mb


def test_throughput_is_batch_over_mean_and_percentiles_are_ordered():
    laps = iter([0.002, 0.004] * 10_000)
    found = measure(lambda: lambda images: time.sleep(next(laps)), np.zeros((4, 2)), 1, 0.3)
    assert found.batch == 4 and found.calls >= 30
    assert 2.0 <= found.p50_ms <= found.p90_ms <= found.p99_ms
    assert found.images_per_s == pytest.approx(4 / (found.mean_ms / 1e3), rel=1e-6)
    assert found.cpu_ms < found.mean_ms


def test_a_slow_call_is_made_often_enough():
    assert measure(lambda: lambda images: time.sleep(0.01), np.zeros((1, 2)), 1, 0.001).calls == 5


@pytest.mark.skipif(resident_mb() is None, reason="this system does not tell what is in memory")
def test_memory_is_what_was_touched_since_the_start():
    before = peak_mb()
    found = measure(lambda: (held := np.ones(64 << 17)).sum and (lambda images: held[0]), np.zeros((1, 2)), 1, 0.01)
    assert found.memory_mb is not None and peak_mb() >= before
    if peak_mb() > before:  # else an earlier test of this process held more
        assert found.memory_mb >= 60


def test_energy_is_that_of_all_packages_over_the_images(tmp_path, monkeypatch):
    for number, value in enumerate((1_500_000, 250_000)):
        (tmp_path / f"intel-rapl:{number}").mkdir()
        (tmp_path / f"intel-rapl:{number}" / "energy_uj").write_text(f"{value}\n")
    (tmp_path / "intel-rapl:0:0").mkdir()  # a part of package 0, which counts it too
    assert joules(tmp_path) == (1.5, 0.25) and joules(tmp_path / "none") is None
    shown = iter([(1.0, 2.0), (3.5, 2.5)])
    monkeypatch.setattr(bench, "joules", lambda: next(shown))
    found = measure(lambda: lambda images: None, np.zeros((2, 2)), 1, 0.001)
    assert found.joules == pytest.approx(3.0 / (2 * found.calls))
    shown = iter([(3.0,), (1.0,)])  # began again
    assert measure(lambda: lambda images: None, np.zeros((2, 2)), 1, 0.001).joules is None


def test_the_peak_is_a_plausible_rate():
    import torch

    before = torch.get_num_threads()
    peak = matmul_peak(1, seconds=0.1)
    a = torch.ones(256, 256)
    torch.set_num_threads(1)
    laps = []
    for _ in range(20):
        start = time.perf_counter()
        torch.mm(a, a)
        laps.append(time.perf_counter() - start)
    torch.set_num_threads(before)
    assert torch.get_num_threads() == before and 1e9 < peak < 1e13
    assert 2 * 256**3 / min(laps) < 20 * peak  # busy neighbours slow the one and not the other

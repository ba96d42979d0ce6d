"""Memory that grows at every hundred steps."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.doctor.during.loops import by_check, data, look, net, told
from visus.doctor.during.memory_growth import MemoryGrowth
from visus.doctor.watcher import Watcher


def looks(slope: float, steps: int, where: str = "process", start: int = 0):
    return [look(start + step, memory_mb=(where, 500 + slope * step / 100)) for step in range(0, steps + 1, 50)]


def test_a_process_that_grows_is_a_note_for_it_may_be_a_cache():
    findings = told(MemoryGrowth(), looks(6.0, 1300))
    assert [f.severity for f in findings] == ["note"]
    assert findings[0].step == 400 and "6 MiB" in findings[0].title
    assert told(MemoryGrowth(), looks(4.0, 1300)) == []


def test_on_a_gpu_three_hundred_steps_are_enough():
    assert [f.severity for f in told(MemoryGrowth(), looks(6.0, 400, "gpu"))] == ["warning"]


def test_growth_that_ends_after_two_hundred_steps_is_none():
    filling = looks(20.0, 250)
    full = [look(step, memory_mb=("gpu", 550.0)) for step in range(300, 2000, 50)]
    assert told(MemoryGrowth(), filling + full) == []


@pytest.mark.parametrize("keep", ["loss", "sum", "number", "outputs", "detached"])
def test_losses_that_are_kept_with_their_graph_are_told(keep):
    model, loss = net(), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    images, labels = data()
    kept, total = [], 0.0
    with Watcher(model, optimizer, loss, share=1.0) as watcher:
        watcher._grace = 100.0
        for _ in range(50):
            optimizer.zero_grad()
            outputs = model(images[:16])
            value = loss(outputs, labels[:16])
            value.backward()
            optimizer.step()
            if keep == "sum":
                total = total + value
            else:
                choices = {"loss": value, "number": value.item(), "outputs": outputs, "detached": outputs.detach()}
                kept.append(choices[keep])
                del choices
    assert ("memory-growth" in by_check(watcher)) == (keep in ("loss", "sum", "outputs"))

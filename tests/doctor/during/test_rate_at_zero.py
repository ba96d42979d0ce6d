"""Schedules that end early, swing or never begin; those that end in time are none."""

from __future__ import annotations

import math

import torch
from torch import nn

from tests.doctor.during.loops import by_check, data, look, net, told
from visus.doctor.during.rate_at_zero import RateAtZero
from visus.doctor.watcher import Watcher


def rates(values: list[float]):
    return told(RateAtZero(), [look(step, lr=value) for step, value in enumerate(values, 1)])


def test_a_step_schedule_for_epochs_that_is_stepped_once_a_batch_is_told():
    model, loss = net(), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 3, 0.1)
    images, labels = data()
    with Watcher(model, optimizer, loss, share=1.0) as watcher:
        for _ in range(60):
            optimizer.zero_grad()
            loss(model(images[:16]), labels[:16]).backward()
            optimizer.step()
            schedule.step()
    finding = by_check(watcher)["rate-at-zero"]
    assert finding.severity == "error" and "goes on" in finding.title and finding.step < 40


def test_cosine_for_epochs_that_swings_with_every_few_batches_is_told():
    finding = rates([0.05 * (1 + math.cos(math.pi * step / 5)) for step in range(80)])[0]
    assert finding.severity == "warning" and "every 10 updates" in finding.title


def test_a_rate_of_zero_from_the_start_is_told():
    assert "since the start" in rates([0.0] * 25)[0].title


def test_schedules_that_end_with_the_training_are_none():
    for steps in (50, 1000, 20_000):
        assert rates([0.05 * (1 + math.cos(math.pi * step / steps)) for step in range(steps)]) == []
        assert rates([0.1 * min(1, step / 20) * (1 - step / steps) for step in range(steps)]) == []
    assert rates([0.1 * 0.1 ** (step // 300) for step in range(1000)]) == []
    assert rates([0.05 * (1 + math.cos(math.pi * (step % 200) / 200)) for step in range(1000)]) == []


def test_a_second_group_that_still_learns_counts():
    looks = [look(step, lr=0.0) for step in range(1, 60)]
    for one in looks:
        one.facts["lr"] = 0.1
    assert told(RateAtZero(), looks) == []

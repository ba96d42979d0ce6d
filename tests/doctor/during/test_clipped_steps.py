"""A clip that decides the length of each step."""

from __future__ import annotations

import torch
from torch import nn

from tests.doctor.during.loops import by_check, data, look, net, told
from visus.doctor.during.clipped_steps import ClippedSteps
from visus.doctor.look import LayerLook
from visus.doctor.watcher import Watcher


def test_a_clip_far_below_the_gradient_is_a_note_with_how_far_where_that_is_known():
    model, loss = net(), nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), 0.001)
    images, labels = data()
    with Watcher(model, optimizer, loss, share=1.0) as watcher:
        watcher._grace = 100.0
        for _ in range(60):
            chosen = torch.randint(0, 256, (16,))
            optimizer.zero_grad()
            loss(model(images[chosen]), labels[chosen]).backward()
            watcher.gradient_norm(torch.nn.utils.clip_grad_norm_(model.parameters(), 0.01))
            optimizer.step()
    finding = by_check(watcher)["clipped-steps"]
    assert "the norm 0.01" in finding.evidence and "times that" in finding.evidence


def test_the_bound_is_half_of_fifty_steps_and_updates_that_are_starved_make_it_a_warning():
    def looks(clipped: int, ratio: float = 1e-3):
        return [look(step, {"a": LayerLook(ratio=ratio)}, gradient_norm=1.0 if step <= clipped else 0.3 + 0.001 * step)
                for step in range(1, 51)]

    assert told(ClippedSteps(), looks(25)) == []
    assert "52 %" in told(ClippedSteps(), looks(26))[0].title
    assert told(ClippedSteps(), looks(26, 1.1e-4))[0].severity == "note"
    assert told(ClippedSteps(), looks(26, 0.9e-4))[0].severity == "warning"

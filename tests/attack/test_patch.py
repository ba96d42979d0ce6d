"""Adversarial patch: where it is put, that its pixels get gradients, and that it works on images it has not seen."""

from __future__ import annotations

import math

import torch

from tests.attack.small import right_answers, small_net, stripes
from visus.attack.attack import fooled
from visus.attack.patch import Patch, Placement, placements, put_patch


def placed(share: float, turn: float = 0.0, row: float = 0.5, column: float = 0.5, count: int = 1) -> Placement:
    return Placement(**{name: torch.full((count,), value) for name, value in
                        {"share": share, "turn": turn, "row": row, "column": column}.items()})


def test_it_covers_a_disc_and_leaves_the_rest():
    images, patch = torch.zeros(1, 1, 40, 40), torch.ones(1, 9, 9)
    out = put_patch(images, patch, placed(0.5, row=0.4, column=0.6))[0, 0]
    torch.testing.assert_close(out, out.round())
    assert abs(float(out.sum()) - math.pi * 100) < 15  # radius 10
    rows, columns = out.nonzero().float().mean(0).tolist()
    assert abs(rows + 0.5 - 16) < 0.2 and abs(columns + 0.5 - 24) < 0.2


def test_a_quarter_turn_turns_it():
    patch = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))
    images = torch.zeros(1, 3, 8, 8)
    straight, turned = (put_patch(images, patch, placed(1.0, turn)) for turn in (0.0, math.pi / 2))
    torch.testing.assert_close(turned, straight.rot90(-1, (2, 3)), rtol=0, atol=1e-5)


def test_draws_keep_the_disc_inside():
    where = placements(500, (0.2, 0.6), 30.0, torch.Generator().manual_seed(0))
    for centre in (where.row, where.column):
        assert (centre >= where.share / 2 - 1e-6).all() and (centre <= 1 - where.share / 2 + 1e-6).all()
    assert 0.2 <= where.share.min() < 0.25 and 0.55 < where.share.max() <= 0.6
    assert where.turn.abs().max() <= math.radians(30)


def test_a_learnt_patch_leads_unseen_images_to_its_class_more_often_than_a_grey_one():
    images, labels = right_answers(24)
    attack = Patch(target=2, share=0.7, steps=25, step_size=0.15)
    patch = attack.learn(small_net(), images, labels, torch.Generator().manual_seed(0))
    unseen, _ = stripes(64, seed=11)
    aim = torch.full((64,), 2)
    with torch.no_grad():
        rates = [float(fooled(small_net()(put_patch(unseen, each, placed(0.7, count=64))), aim, aim).float().mean())
                 for each in (patch, torch.full_like(patch, 0.5))]
    assert rates[0] > rates[1] + 0.2, rates

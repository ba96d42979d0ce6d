"""Robust accuracy with its interval, curves, rates and the transfer table."""

from __future__ import annotations

from math import comb

import pytest
import torch

from tests.attack.small import SmallNet, right_answers, small_net, stripes
from visus.attack.attack import Attacked, distances
from visus.attack.deepfool import DeepFool
from visus.attack.fgsm import FGSM
from visus.attack.measures import (
    Share,
    answers,
    attack_all,
    distance_curve,
    fooling_rate,
    rho,
    robust_curve,
    transfer_table,
    wilson,
)
from visus.attack.pgd import PGD
from visus.core.errors import UserError


def test_wilsons_interval_is_the_papers_and_covers():
    assert wilson(8, 10) == pytest.approx((0.4901625, 0.9433178), abs=1e-6)
    assert wilson(0, 20)[0] == 0 and wilson(20, 20)[1] == 1 and wilson(0, 0) == (0.0, 1.0)
    share, count = 0.1, 40
    covered = sum(comb(count, k) * share**k * (1 - share)**(count - k) for k in range(count + 1)
                  if wilson(k, count)[0] <= share <= wilson(k, count)[1])
    assert 0.93 <= covered <= 0.98


def test_rates_are_shares_of_what_they_say():
    assert fooling_rate(torch.tensor([0, 1, 2, 2]), torch.tensor([0, 2, 2, 1])) == Share(2, 4)
    originals = torch.full((3, 1, 1, 4), 0.5)  # of length 1
    moved = originals.clone()
    moved[0, 0, 0, 0], moved[1, 0, 0, 0], moved[2, 0, 0, 0] = 0.6, 0.8, 1.0
    found = Attacked(images=moved, success=torch.tensor([True, True, False]), queries=torch.ones(3, dtype=torch.int64),
                     steps=torch.ones(3, dtype=torch.int64), distances=distances(originals, moved))
    assert rho(originals, found) == pytest.approx(0.2), "the mean of 0.1 and 0.3; what failed does not count"
    curve = distance_curve(found, "l2", [0.0, 0.15, 0.25, 0.4], count=4)
    assert [point.robust.hits for point in curve] == [3, 2, 2, 1], "the failed one stands at any distance"


def test_the_curve_starts_at_the_plain_accuracy_falls_and_ends_at_the_attack():
    images, labels = stripes(48, seed=7)
    labels = labels.clone()
    labels[:5] = (labels[:5] + 1) % 4  # wrong from the start
    points = list(robust_curve(lambda eps: PGD(eps=eps), small_net(), images, labels, [0, 0.02, 0.04, 0.06, 0.1],
                               batch_size=16))
    hits = [point.robust.hits for point in points]
    assert hits[0] == 43 and hits == sorted(hits, reverse=True) and hits[-1] == 0 and 0 < hits[2] < 43
    assert all(point.robust.count == 48 for point in points)
    with pytest.raises(UserError, match="ascend"):
        list(robust_curve(lambda eps: PGD(eps=eps), small_net(), images, labels, [0.1, 0.05]))


def test_a_curve_of_smallest_changes_lies_above_none_of_its_own_images():
    images, labels = right_answers(24)
    found = DeepFool()(small_net(), images, labels)
    curve = distance_curve(found, "l2", [0.0, float(found.distances["l2"].median()), 9.0], 24)
    assert [point.robust.hits for point in curve] == [24, 12, 0]


def test_many_batches_give_what_one_does():
    images, labels = right_answers(10)
    whole = attack_all(FGSM(eps=0.1), small_net(), images, labels, batch_size=16)
    parts = attack_all(FGSM(eps=0.1), small_net(), images, labels, batch_size=3)
    torch.testing.assert_close(whole.images, parts.images)
    assert torch.equal(whole.success, parts.success) and len(parts.distances["l2"]) == 10
    assert answers(small_net(), images, 3).tolist() == labels.tolist()


def test_examples_fool_their_source_and_transfer_to_a_sibling_more_than_to_a_stranger():
    images, labels = stripes(32, seed=8)
    net = small_net()
    torch.manual_seed(1)
    sibling = SmallNet().eval()
    sibling.load_state_dict(net.state_dict())
    with torch.no_grad():
        for parameter in sibling.parameters():
            parameter.add_(0.02 * parameter.std() * torch.randn_like(parameter))
    flat = lambda x: net(torch.nn.functional.avg_pool2d(x, 2).repeat_interleave(2, 2).repeat_interleave(2, 3))  # noqa: E731
    table = transfer_table(PGD(eps=0.06, steps=8), {"net": net, "sibling": sibling, "blurred": flat}, images, labels)
    assert table.names == ("net", "sibling", "blurred")
    assert table.rates[0][0].value == 1 and table.rates[1][1].value == 1
    assert table.rates[0][1].value > 0.9 and table.rates[0][1].value >= table.rates[0][2].value
    assert all(share.count <= 32 for row in table.rates for share in row)

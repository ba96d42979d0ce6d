"""The controller against enumeration: its probabilities, its gradient, and what it converges to."""

from __future__ import annotations

import itertools

import pytest
import torch

from visus.core.errors import UserError
from visus.search.controller import Controller, ControllerSettings, Reinforce, policy_loss

CHOICES = (2, 3, 2)
EVERY = torch.tensor(list(itertools.product(*(range(n) for n in CHOICES))))  # [12, 3]
REWARDS = torch.tensor([7, 2, 11, 4, 9, 0, 5, 10, 1, 8, 3, 6], dtype=torch.float64) / 20 + 0.3


def controller(**options) -> Controller:
    """In float64, with weights large enough that decisions depend on one another."""
    made = Controller(CHOICES, dim=6, **options).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return made


def gradient(model: Controller, value: torch.Tensor) -> torch.Tensor:
    return torch.cat([g.flatten() for g in torch.autograd.grad(value, list(model.parameters()))])


def test_probabilities_of_all_architectures_sum_to_one():
    probs = controller().log_probs(EVERY).exp()
    assert probs.sum().item() == pytest.approx(1, abs=1e-12) and probs.max() / probs.min() > 10


def test_samples_have_these_probabilities():
    model, count = controller(), 40_000
    tokens = model.sample(count, torch.Generator().manual_seed(0))
    seen = torch.bincount((tokens * torch.tensor([6, 2, 1])).sum(1), minlength=12) / count
    probs = model.log_probs(EVERY).exp()
    assert ((seen - probs).abs() < 4.5 * (probs * (1 - probs) / count).sqrt() + 1e-9).all()


@pytest.mark.parametrize("baseline", [0.0, 0.6])
@pytest.mark.parametrize("entropy_weight", [0.0, 0.3])
def test_the_mean_policy_gradient_is_the_gradient_of_the_mean_reward(baseline, entropy_weight):
    """Over all architectures, each with its probability: -grad(loss) = grad(sum p R + weight * entropy) to 1e-6 and
    better, for every baseline."""
    model = controller()
    log_probs = model.log_probs(EVERY)
    exact = (log_probs.exp() * (REWARDS - entropy_weight * log_probs)).sum()
    expected = gradient(model, exact)
    each = torch.stack([policy_loss(lp[None], r[None], baseline, entropy_weight)
                        for lp, r in zip(model.log_probs(EVERY), REWARDS, strict=True)])
    found = -gradient(model, (log_probs.detach().exp() * each).sum())
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_a_baseline_makes_the_estimate_quieter():
    model = controller()
    probs = model.log_probs(EVERY).exp().detach()
    mean = (probs * REWARDS).sum().item()

    def spread(baseline: float) -> float:
        each = [gradient(model, policy_loss(model.log_probs(EVERY[i:i + 1]), REWARDS[i:i + 1], baseline))
                for i in range(12)]
        return sum(p.item() * g.square().sum().item() for p, g in zip(probs, each, strict=True))

    assert spread(mean) < 0.5 * spread(0.0)


def test_it_finds_the_known_best_of_many():
    """The reward is the share of decisions that equal a hidden list: one of 20,736 architectures has reward 1."""
    hidden = (1, 3, 0, 2, 1, 0, 2, 3)
    choices = (3, 4, 3, 4, 3, 4, 3, 4)
    learner = Reinforce(choices, ControllerSettings(batch_size=16, lr=0.02), 0)

    def reward(batch):
        return [sum(a == b for a, b in zip(tokens, hidden, strict=True)) / len(hidden) for tokens in batch]

    first = sum(learner.update(reward)) / 16
    for _ in range(250):
        last = learner.update(reward)
    prob = learner.controller.log_probs(torch.tensor([hidden])).exp().item()
    assert first < 0.6 and sum(last) / 16 > 0.95 and prob > 0.85
    assert learner.baseline == pytest.approx(1, abs=0.05)


def test_entropy_keeps_a_choice_between_equals_open():
    """With equal rewards a strong bonus brings every decision to its uniform distribution: log p = -sum log n."""
    learner = Reinforce(CHOICES, ControllerSettings(batch_size=32, lr=0.01, entropy_weight=1.0, dim=8), 0)
    with torch.no_grad():
        learner.controller.heads[0].bias.copy_(torch.tensor([3.0, 0.0]))
    before = learner.controller.log_probs(EVERY).exp().max().item()
    for _ in range(300):
        learner.update(lambda batch: [0.5] * len(batch))
    after = learner.controller.log_probs(EVERY).exp()
    assert before > 0.15 and (after - 1 / 12).abs().max() < 0.035


def test_the_baseline_is_a_moving_average_of_rewards():
    learner = Reinforce((2,), ControllerSettings(batch_size=2, baseline_decay=0.8), 0)
    for rewards in ([0.2, 0.4], [1.0, 1.0], [0.0, 0.5]):
        learner.update(lambda batch, rewards=rewards: rewards)
    assert learner.baseline == pytest.approx(0.8 * (0.8 * 0.3 + 0.2 * 1.0) + 0.2 * 0.25, abs=1e-12)


def test_one_seed_one_history_and_the_global_generator_is_left_alone():
    before = torch.random.get_rng_state()
    seen = [[] for _ in range(2)]
    for history in seen:
        learner = Reinforce(CHOICES, ControllerSettings(), 7)
        for _ in range(3):
            learner.update(lambda batch, history=history: history.extend(batch) or [0.1 * t[1] for t in batch])
    assert seen[0] == seen[1] and torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize(("field", "value"), [("batch_size", 0), ("lr", 0.0), ("baseline_decay", 1.0),
                                              ("entropy_weight", -1.0), ("dim", 2.5)])
def test_settings_out_of_range_are_refused(field, value):
    with pytest.raises(UserError, match=f"{field}={value}"):
        ControllerSettings(**{field: value})

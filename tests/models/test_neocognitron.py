"""The neocognitron against its equations in loops, and against what the paper says that it learns."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from visus.core.errors import UserError
from visus.models.cnn.neocognitron import ComplexCells, Neocognitron, NeocognitronConfig, SimpleCells, seed_cells
from visus.run.models import create_model


def simple_cells(in_dim: int, dim: int, selectivity: float = 4.0, rate: float = 16.0, column: int = 3) -> SimpleCells:
    torch.manual_seed(0)
    return SimpleCells(in_dim, dim, selectivity, rate, column).double()


def positive_maps(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def area(maps: np.ndarray, row: int, column: int) -> np.ndarray:
    """[C, 5, 5] around a place, 0 outside."""
    return np.pad(maps, ((0, 0), (2, 2), (2, 2)))[:, row:row + 5, column:column + 5]


def test_an_s_cell_is_the_papers_equation_place_by_place():
    layer, maps = simple_cells(3, 4), positive_maps(2, 3, 6, 7)
    torch.nn.init.uniform_(layer.a, 0, 0.05)
    torch.nn.init.uniform_(layer.b, 0, 2)
    a, b, c, r = layer.a.detach().numpy(), layer.b.detach().numpy(), layer.c.numpy()[0, 0] / 3, layer.selectivity
    assert 3 * c.sum() == pytest.approx(1)
    expected = np.zeros((2, 4, 6, 7))
    for image, k, i, j in np.ndindex(expected.shape):
        u = area(maps[image].numpy(), i, j)
        v = np.sqrt(sum(c[p, q] * u[n, p, q] ** 2 for n, p, q in np.ndindex(u.shape)))
        excited = 1 + sum(a[k, n, p, q] * u[n, p, q] for n, p, q in np.ndindex(u.shape))
        expected[image, k, i, j] = r * max(excited / (1 + 2 * r / (1 + r) * b[k] * v) - 1, 0)
    assert 0.1 < (expected > 0).mean() < 0.95
    np.testing.assert_allclose(layer(maps).detach().numpy(), expected, rtol=1e-10, atol=1e-12)


def test_a_c_cell_is_the_papers_equation_place_by_place():
    layer, maps = ComplexCells(4, 0.5).double(), positive_maps(2, 4, 7, 6)
    d = layer.d.numpy()[0, 0]
    expected = np.zeros((2, 4, 4, 3))
    for image, i, j in np.ndindex(2, 4, 3):
        near = (area(maps[image].numpy(), 2 * i, 2 * j) * d).sum((1, 2))
        for k in range(4):
            x = (1 + near[k]) / (1 + near.mean()) - 1
            expected[image, k, i, j] = max(x / (0.5 + x), 0)
    assert 0.2 < (expected > 0).mean() < 0.8
    np.testing.assert_allclose(layer(maps).numpy(), expected, rtol=1e-10, atol=1e-12)


def test_seed_cells_are_the_largest_of_their_column_and_then_of_their_plane():
    responses = positive_maps(3, 5, 6, 7) * (positive_maps(3, 5, 6, 7, seed=2) > 0.6)
    responses[:, 4] *= 0.01  # a plane that may well win nowhere
    index, found = seed_cells(responses, 3)
    u = responses.numpy()
    for image in range(3):
        candidates: dict[int, set[tuple[float, int]]] = {}
        for i, j in np.ndindex(6, 7):
            rows, columns = range(max(i - 1, 0), min(i + 2, 6)), range(max(j - 1, 0), min(j + 2, 7))
            value, k, place = max((u[image, k, p, q], k, 7 * p + q) for k in range(5) for p in rows for q in columns)
            if value > 0:
                candidates.setdefault(k, set()).add((value, place))
        assert found[image].tolist() == [k in candidates for k in range(5)]
        for k, cells in candidates.items():
            assert index[image, k] == max(cells)[1]
    assert not found.all()


def test_one_presentation_adds_q_c_u_and_half_q_v_of_the_seed_cells_area():
    layer, maps = simple_cells(2, 3, rate=5.0), positive_maps(1, 2, 6, 6)
    torch.nn.init.uniform_(layer.a, 0, 0.2)
    before, (index, found) = layer.a.detach().numpy().copy(), seed_cells(layer(maps), 3)
    assert found.any()
    layer.reinforce(maps)
    c = layer.c.numpy()[0] / 2
    for k in range(3):
        u = area(maps[0].numpy(), int(index[0, k]) // 6, int(index[0, k]) % 6) * found[0, k].item()
        np.testing.assert_allclose(layer.a[k].detach().numpy() - before[k], 5 * c * u, rtol=1e-10, atol=1e-12)
        assert layer.b[k].item() == pytest.approx(5 / 2 * np.sqrt((c * u**2).sum()), rel=1e-10, abs=1e-5)


def test_a_cell_that_has_learnt_answers_to_what_has_a_cosine_above_r_over_1_plus_r():
    """The reason of 2r / (1 + r) and of q / 2: to its own pattern the answer tends to 1, to others it falls with the
    cosine (weighted by c) and ends at r / (1 + r)."""
    layer, pattern = simple_cells(1, 2, selectivity=4.0, rate=1e5, column=5), positive_maps(1, 1, 5, 5)
    torch.nn.init.zeros_(layer.a)
    torch.nn.init.constant_(layer.a[:1], 0.01)
    for _ in range(3):
        layer.reinforce(pattern)
    seed = int(seed_cells(layer(pattern), 5)[0][0, 0])
    assert layer(pattern)[0, 0].flatten()[seed].item() == pytest.approx(1, abs=1e-3)
    learnt = torch.as_tensor(area(pattern[0].numpy(), seed // 5, seed % 5))[None]
    other = positive_maps(1, 1, 5, 5, seed=3)
    answered = []
    for mix in torch.linspace(0, 1, 41, dtype=torch.float64):
        shown = (1 - mix) * learnt + mix * other
        cosine = ((layer.c * shown * learnt).sum() / (layer.intensity(shown) * layer.intensity(learnt))[0, 0, 2, 2])
        answer = layer(shown)[0, 0, 2, 2].item()
        assert answer == pytest.approx(max(4 * (cosine.item() * 5 / 4 - 1), 0), abs=2e-3)
        answered.append(answer > 0)
    assert answered[0] and not answered[-1]


def test_planes_learn_different_patterns_without_a_teacher():
    """Bars of four directions: before, each plane answers to all; after, each bar has a plane of the first layer
    that answers to it alone, and a cell of the last layer that a shift by two pixels does not change."""
    torch.manual_seed(0)
    model = Neocognitron(NeocognitronConfig(column=15))
    bars = torch.zeros(4, 1, 15, 15)
    bars[0, 0, 7, 3:12] = bars[1, 0, 3:12, 7] = 1
    for step in range(9):
        bars[2, 0, 3 + step, 3 + step] = bars[3, 0, 3 + step, 11 - step] = 1
    with torch.no_grad():
        before = model.simple[0](bars).amax((2, 3))  # [4, 24]
        learnt = model.learn(bars, 80)
        after = model.simple[0](bars).amax((2, 3))
        winners = [model.planes(bars.roll((down, right), (2, 3))).argmax(1).tolist()
                   for down in (-2, 0, 2) for right in (-2, 0, 2)]
    assert (before > 0).all() and min(learnt) >= 4
    alone = [plane for plane in range(24) if (after[:, plane] > 0.5).sum() == 1 == (model.simple[0].b[plane] > 0)]
    assert {int(after[:, plane].argmax()) for plane in alone} == {0, 1, 2, 3}
    assert len(set(winners[0])) == 4 and all(found == winners[0] for found in winners)


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """scikit-learn's handwritten digits, 12 pixels a side in the middle of 16."""
    load_digits = pytest.importorskip("sklearn.datasets").load_digits
    found = load_digits()
    images = torch.tensor(found.images, dtype=torch.float32)[:, None] / 16
    images = F.interpolate(images, size=(12, 12), mode="bilinear", antialias=True)
    return F.pad(images, (2, 2, 2, 2)), torch.tensor(found.target)


def kept(winners, images: torch.Tensor, pixels: int) -> float:
    """Share of images that keep their winner when they are shifted up, down, left and right; no winner is not kept."""
    plane, answered = winners(images)
    total = 0.0
    for shift in ((0, pixels), (0, -pixels), (pixels, 0), (-pixels, 0)):
        other, still = winners(images.roll(shift, (2, 3)))
        total += ((plane == other) & answered & still).float().mean().item()
    return total / 4


def test_a_shifted_digit_keeps_its_winner_which_s_layers_alone_do_not_give():
    """The paper's experiment, 0 to 4 shown twenty times each, with handwritten digits; then 200 that were not shown.
    S-layers alone: C-cells that see the one place in their middle, and the answers in the middle of the last S-layer,
    with the paper's selectivities, which suit them better."""
    images, labels = digits()
    figures = []
    for seed in (0, 1, 2):
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
        shown = [order[labels[order] == digit][0].item() for digit in range(5)]
        others = [i for i in order[labels[order] < 5].tolist() if i not in shown][:200]
        for alone in (False, True):
            torch.manual_seed(seed)
            model = create_model("neocognitron", selectivities=(4.0, 1.5, 1.5) if alone else (4.0, 3.0, 3.0))
            for layer in model.complex if alone else ():
                layer.d.zero_()[..., 2, 2] = 1

            @torch.no_grad()
            def winners(some, model=model, alone=alone):
                answers = model.features(some)[-1][..., 2, 2] if alone else model.planes(some)
                return answers.argmax(1), answers.amax(1) > 0

            model.learn(images[shown], 100)
            plane, answered = winners(images[others])
            pure = sum(torch.bincount(labels[others][(plane == k) & answered], minlength=5).max().item()
                       for k in range(24)) / 200
            figures.append([pure, *(kept(winners, images[others], pixels) for pixels in (1, 2))])
    both, simple = (torch.tensor(figures[start::2]).mean(0).tolist() for start in (0, 1))
    print(f"share of the winner's own digit, kept at 1 px, at 2 px: {both}; S-layers alone: {simple}")
    assert both[0] > 0.5  # the winner says something: of five digits
    assert both[1] > 0.7 and both[2] > 0.6 and both[1] > simple[1] + 0.4 and both[2] > simple[2] + 0.4


def test_gradient_trains_what_learning_without_a_teacher_began():
    """1,400 digits, three passes, tested on the other 397: with what `learn` found, and from the start."""
    images, labels = digits()
    accuracy = []
    for steps in (0, 300):
        torch.manual_seed(0)
        model = create_model("neocognitron")
        order = torch.randperm(len(images))
        train, test = order[:1400], order[1400:]
        if steps:
            model.learn(images[train], steps)
        optimizer = torch.optim.Adam(model.parameters(), 0.005)
        for batch in torch.cat([train[torch.randperm(1400)] for _ in range(3)]).split(32):
            optimizer.zero_grad()
            F.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
        with torch.no_grad():
            accuracy.append((model(images[test]).argmax(1) == labels[test]).float().mean().item())
    print(f"accuracy from the start: {accuracy[0]:.3f}; after learning without a teacher: {accuracy[1]:.3f}")
    assert accuracy[1] > 0.6 and accuracy[1] > accuracy[0] + 0.4


def test_blank_images_give_no_answer_and_a_finite_gradient():
    torch.manual_seed(0)
    model = create_model("neocognitron")
    blank = torch.zeros(2, 1, 16, 16, requires_grad=True)
    assert not model.planes(blank).any()
    model(blank).sum().backward()
    assert blank.grad.isfinite().all() and all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("images", [torch.zeros(0, 1, 16, 16), torch.zeros(2, 3, 16, 16), -torch.ones(2, 1, 16, 16),
                                    torch.zeros(1, 16, 16)])
def test_learning_refuses_other_images(images):
    with pytest.raises(UserError, match="at least 0"):
        create_model("neocognitron").learn(images, 3)


@pytest.mark.parametrize(("field", "value"), [
    ("dims", (24, 24)), ("dims", (24, 1, 24)), ("selectivities", (4.0, 0, 1.5)), ("rates", (1.0, 16.0)),
    ("rates", (1.0, -1.0, 16.0)), ("saturation", 0), ("column", 4), ("column", 0)])
def test_wrong_configs_are_refused_by_name(field, value):
    with pytest.raises(UserError, match=field):
        create_model("neocognitron", **{field: value})

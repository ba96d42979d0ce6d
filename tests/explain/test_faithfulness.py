"""Deletion, insertion, pointing, sensitivity-n and randomisation on models whose right map is known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from tests.explain.test_perturbation import SIZE, Linear, net, noise
from visus.cli.main import main
from visus.core.errors import UserError
from visus.explain.explanation import Explanation
from visus.explain.faithfulness import (
    Faithfulness,
    area,
    control_maps,
    curve,
    enlarged,
    faithfulness,
    pointing_hits,
    rank_correlation,
    sanity_check,
    sensitivity_n,
)
from visus.explain.occlusion import Occlusion


def corner() -> tuple[nn.Module, Tensor, Tensor]:
    """A model that goes by one corner alone, images, and the right map [B, H, W]."""
    weights = torch.zeros(2, 1, SIZE, SIZE)
    weights[1, 0, :4, :4] = 1.0
    return Linear(weights), noise(2, 1, SIZE, SIZE).abs() + 0.5, weights[1].expand(2, -1, -1)


def test_curves_are_scores_with_the_hottest_share_of_pixels_gone_or_there():
    model, images, targets = net().eval(), noise(2, 3, SIZE, SIZE), torch.tensor([1, 3])
    heat = noise(2, SIZE, SIZE, seed=1)
    for insert in (False, True):
        found = curve(model, images, targets, heat, steps=7, insert=insert, batch=5)
        for number in range(2):
            order = np.argsort(-heat[number].flatten().numpy(), kind="stable")
            for step in range(8):
                gone = np.zeros(SIZE * SIZE, bool)
                gone[order[:round(step * SIZE * SIZE / 7)]] = True
                keep = torch.from_numpy(gone if insert else ~gone).view(SIZE, SIZE)
                with torch.no_grad():
                    expected = model(images[number:number + 1] * keep).softmax(1)[0, targets[number]]
                torch.testing.assert_close(found[number, step], expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(area(found), torch.trapezoid(found, dx=1 / 7))


def test_the_right_map_wins_and_the_wrong_one_is_warned_of():
    model, images, right = corner()
    found = faithfulness(model, images, 1, right, steps=16, controls=8, start="grey")
    assert found.deletion.shape == found.insertion.shape == (2, 17) and found.control_deletion.shape == (2, 8)
    assert float(found.deletion[0, 0]) > 0.99 and float(found.deletion[0, 1]) == pytest.approx(0.5)
    assert found.deletion_margin > 0.2 and found.insertion_margin > 0.04 and found.beaten > 0.9
    assert found.warnings == () and all(f"{float(found.deletion_area.mean()):.3f}" in line
                                        for line in found.lines[:1])
    wrong = faithfulness(model, images, 1, -right, steps=16, controls=8, start="grey")
    assert len(wrong.warnings) == 2 and "not what the model needs" in wrong.warnings[0]
    assert wrong.deletion_margin < 0 and wrong.insertion_margin < 0 and wrong.beaten < 0.1


def test_a_map_that_is_the_same_everywhere_is_no_better_than_its_controls():
    model, images, right = corner()
    found = faithfulness(model, images, 1, torch.ones_like(right), steps=8, controls=20)
    assert abs(found.deletion_margin) < 0.1 and abs(found.insertion_margin) < 0.1 and found.warnings


def test_a_map_that_barely_wins_is_said_to():
    curves = torch.tensor([[1.0, 0.0]])
    found = Faithfulness(deletion=curves, insertion=curves, control_deletion=torch.tensor([[0.4, 0.9, 0.4, 0.9]]),
                         control_insertion=torch.tensor([[0.5, 0.2, 0.5, 0.2]]))
    assert found.beaten == 0.5 and "only 50%" in found.warnings[0]


def test_control_maps_have_the_same_values_in_other_places():
    maps = noise(3, 12, 20)
    controls = control_maps(maps, 40, seed=1)
    assert controls.shape == (3, 40, 12, 20), controls.shape
    for own, others in zip(maps, controls, strict=True):
        values = own.flatten().sort().values
        assert torch.equal(others.flatten(1).sort(1).values, values.expand(40, -1))
        assert not (others == own).all((1, 2)).any() and len({tuple(one.flatten().tolist()) for one in others}) > 30
    smooth = enlarged(noise(1, 3, 3), (12, 20))
    steps = (control_maps(smooth, 8)[0].diff(dim=2).abs() > smooth.diff(dim=2).abs().max() + 1e-6).any(1)  # [8, 19]
    assert (steps.sum(1) <= 1).all(), "as smooth as the map, but for the seam where its sides meet"


def test_a_coarse_map_is_checked_as_it_is_drawn():
    model, images, right = corner()
    coarse = nn.functional.avg_pool2d(right[:, None], 4)[:, 0]
    assert coarse.shape == (2, 4, 4)
    found = faithfulness(model, images, 1, coarse, steps=16, start="grey")
    assert found.warnings == () and found.beaten > 0.9
    with pytest.raises(UserError, match="be finite"):
        faithfulness(model, images, 1, coarse / 0 * 0)


def test_the_pointing_game_is_won_in_a_box_or_near_it():
    heat = torch.zeros(4, 20, 30)
    heat[:, 10, 25] = 1.0
    far, near, at = torch.tensor([[0.0, 0, 5, 5]]), torch.tensor([[18.0, 8, 22, 12]]), torch.tensor([[24.0, 9, 27, 12]])
    boxes = [far, near, torch.cat([far, at]), torch.zeros(0, 4)]
    assert pointing_hits(heat, boxes, (20, 30), tolerance_px=0).tolist() == [False, False, True, False]
    assert pointing_hits(heat, boxes, (20, 30), tolerance_px=4).tolist() == [False, True, True, False]
    assert pointing_hits(heat, [2 * box for box in boxes], (40, 60), 0).tolist() == [False, False, True, False]


def test_a_map_that_adds_up_has_sensitivity_1_for_every_n():
    model = Linear(noise(3, 2, SIZE, SIZE, dtype=torch.float64))
    images = noise(2, 2, SIZE, SIZE, seed=1, dtype=torch.float64)
    heat = (images * model.weights[2]).sum(1).detach()
    found = sensitivity_n(model, images, 2, heat, [1, 10, 200], subsets=30)
    torch.testing.assert_close(found, torch.ones_like(found), rtol=1e-4, atol=0)
    patches = sensitivity_n(model, images, 2, heat, [3, 40], subsets=30, patch_px=2)
    torch.testing.assert_close(patches, torch.ones_like(patches), rtol=1e-4, atol=0)
    assert float(sensitivity_n(model, images, 2, -heat, [10], subsets=30).max()) < -0.99
    assert float(sensitivity_n(model, images, 2, noise(2, SIZE, SIZE, seed=5), [10], subsets=300).abs().max()) < 0.3
    assert not sensitivity_n(model, images, 2, torch.ones(2, SIZE, SIZE), [10], subsets=30).any()
    with pytest.raises(UserError, match="between 1 and 255"):
        sensitivity_n(model, images, 2, heat, [256])


def test_rank_correlation_is_spearmans_with_shared_ranks():
    a, b = noise(1, 6, 7), noise(1, 6, 7, seed=1).round()

    def ranks(values: np.ndarray) -> np.ndarray:
        return np.array([(values < one).sum() + ((values == one).sum() - 1) / 2 for one in values])

    expected = np.corrcoef(ranks(a.flatten().numpy()), ranks(b.flatten().numpy()))[0, 1]
    assert float(rank_correlation(a, b)) == pytest.approx(expected)
    assert float(rank_correlation(a, a**3)) == pytest.approx(1) and float(rank_correlation(a, -a)) == pytest.approx(-1)
    assert float(rank_correlation(a, torch.ones_like(a))) == 0


@dataclass(frozen=True, kw_only=True)
class Edges:
    """Shows where the picture has edges and never asks the model: what the check is there to find."""

    needs_images: ClassVar[bool] = True

    def problem(self, model: nn.Module, images: Tensor) -> None:
        return None

    def __call__(self, model: nn.Module, images: Tensor) -> Explanation:
        return Explanation(sentence="", heat=(images[:, :, 1:, 1:] - images[:, :, :-1, :-1]).abs().sum(1))


def test_a_map_of_edges_fails_the_check_and_one_of_weights_passes():
    images, weights = noise(2, 1, SIZE, SIZE).abs() + 0.5, noise(2, 1, SIZE, SIZE, seed=3)
    model = Linear(weights)
    edges = sanity_check(Edges(), model, images)
    assert edges.final == pytest.approx(1) and not edges.passed and "not what the model has learnt" in edges.warnings[0]
    weighed = sanity_check(Occlusion(window=2, of="logit"), model, images)
    assert weighed.passed and weighed.warnings == () and abs(weighed.final) < 0.3
    assert f"{weighed.final:.2f} down to" in weighed.lines[0]


def test_layers_are_shuffled_from_the_top_down_and_the_model_stays_as_it_was():
    seen: list[list[bool]] = []
    model, images = net(), noise(1, 3, SIZE, SIZE)
    before = {name: one.clone() for name, one in model.state_dict().items()}

    @dataclass(frozen=True, kw_only=True)
    class Looking(Edges):
        def __call__(self, model: nn.Module, images: Tensor) -> Explanation:
            state = model.state_dict()
            seen.append([torch.equal(state[name], before[name]) for name in ("8.weight", "3.weight", "0.weight")])
            for name in ("8.weight", "3.weight", "0.weight"):
                assert torch.equal(state[name].flatten().sort().values, before[name].flatten().sort().values)
            return super().__call__(model, images)

    found = sanity_check(Looking(), model, images, stages=4)
    assert seen == [[True, True, True], [False, True, True], [False, False, True], [False, False, True],
                    [False, False, False]]
    assert found.layers == ("8", "3", "1", "0") and found.correlation.shape == (4, 1)
    assert all(torch.equal(before[name], one) for name, one in model.state_dict().items())
    assert all(module.training for module in model.modules())


def test_the_class_stays_that_of_the_model_as_it_is():
    asked: list[int | None] = []

    @dataclass(frozen=True, kw_only=True)
    class Asking(Edges):
        target: int | None = None

        def __call__(self, model: nn.Module, images: Tensor) -> Explanation:
            asked.append(self.target)
            return super().__call__(model, images)

    model, images = net(), noise(3, 3, SIZE, SIZE)
    with torch.no_grad():
        own = model.eval()(images).argmax(1).tolist()
    sanity_check(Asking(), model, images, stages=2)
    assert asked == own * 3
    with pytest.raises(UserError, match="gives no map"):
        sanity_check(NoMap(), model, images)


@dataclass(frozen=True, kw_only=True)
class NoMap(Edges):
    def __call__(self, model: nn.Module, images: Tensor) -> Explanation:
        return Explanation(sentence="")


# -- the door ------------------------------------------------------------------------------------------------------


def test_the_door_prints_the_numbers_warns_and_shows_them_on_the_page(tmp_path, capsys):
    pixels = np.random.Generator(np.random.PCG64(0)).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    words = ["explain", "resnet20", str(tmp_path / "a.png"), "--image-size", "32", "--out", str(tmp_path / "out"),
             "--method", "occlusion", "--set", "window=16", "--set", "stride=16"]
    assert main(words) == 0
    assert "deletion area" not in capsys.readouterr().out
    assert main([*words, "--check"]) == 0
    said, page = capsys.readouterr().out, (tmp_path / "out" / "index.html").read_text()
    for line in ("deletion area", "insertion area", "control maps", "rank correlation with the map of shuffled"):
        assert line in said and line in page
    warned = [line.removeprefix("warning: ") for line in said.splitlines() if line.startswith("warning: ")]
    assert all(line in page for line in warned) and ("checked: see below" in page) == bool(warned)


def test_the_door_refuses_to_check_what_is_no_map(tmp_path, capsys):
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(tmp_path / "a.png")
    code = main(["explain", "vit_tiny_16", str(tmp_path / "a.png"), "--image-size", "32", "--method", "distance",
                 "--check", "--out", str(tmp_path / "out")])
    message = capsys.readouterr().err
    assert code == 2 and "no map of an image" in message and not (tmp_path / "out").exists()

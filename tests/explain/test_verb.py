"""visus explain: what it writes, what it says, and how it refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import visus
from visus.cli import explain as door
from visus.cli.main import main
from visus.core.errors import UserError
from visus.explain import registry
from visus.explain.attention import attention_maps
from visus.explain.distance import Distance
from visus.report import heat
from visus.report.explanation import ExplainedImage, ExplanationView, distance_svg, render_explanation
from visus.run.bundle import load_model

SMALL = ["--image-size", "32"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Two classes of six pictures, not square; names that a page must escape."""
    folder = tmp_path_factory.mktemp("pictures")
    generator = np.random.Generator(np.random.PCG64(0))
    for label in ("cat", "<b>dog"):
        for number in range(6):
            path = folder / label / f"{label}{number}.png"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(generator.integers(0, 255, (20, 28, 3), dtype=np.uint8)).save(path)
    return folder


@pytest.fixture(scope="module")
def run(pictures, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "vit"
    config = {"patch_size": 8, "dim": 24, "depth": 2, "num_heads": 2}
    visus.train(str(pictures), out=str(out), progress=False, values={
        "model.name": "vit_tiny_16", "data.image_size": 32, "train.epochs": 1, "train.threads": 1,
        "train.layout": "contiguous", **{f"model.config.{name}": value for name, value in config.items()}})
    return out


def png_size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return image.size


def test_the_index_is_fresh_and_the_help_names_every_method():
    assert registry.index() == registry.fresh_index(), "write visus/explain/index.json again"
    for name in registry.names():
        assert re.search(rf"^  {name} ", door.__doc__ or "", re.MULTILINE), name
        assert {"summary", "paper"} <= set(registry.get(name).about)


def test_a_run_explains_images_with_its_own_preprocessing(run, pictures, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["explain", str(run), str(pictures), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert f"{out}/index.html and 24 files" in said and "random weights" not in said
    assert len(re.findall(r"(cat|dog), [\d.]+ %", said)) == 12
    assert sorted(path.suffix for path in out.iterdir()) == [".html"] + 24 * [".png"]
    trained = load_model(run)
    pixels = np.asarray(Image.open(sorted(pictures.rglob("*.png"))[7]))
    batch = trained.preprocessing.normalise(trained.preprocessing.resized(pixels)[None].float() / 255)
    expected = attention_maps(trained.model, batch).layers[-1].class_map().mean(1)
    found = visus.explain(run, sorted(pictures.rglob("*.png"))).explanation.heat
    assert found.shape == (12, 4, 4)
    torch.testing.assert_close(found[7:8], expected, rtol=1e-4, atol=1e-6)
    page = (out / "index.html").read_text()
    assert "<b>dog" not in page and "&lt;b&gt;dog" in page and page.count('<img class="heat"') == 24
    assert "://" not in page.replace("http://www.w3.org/2000/svg", "")
    assert "default-src &#39;none&#39;" in page and "<script" not in page


@pytest.mark.parametrize("method, files", [
    ("attention", ["000-cat0-heads.png", "000-cat0.png"]), ("rollout", ["000-cat0-layers.png", "000-cat0.png"]),
    ("distance", ["distance.svg"]), ("positions", ["positions.png"])])
def test_each_method_writes_its_pictures(run, pictures, tmp_path, method: str, files: list[str]):
    image = [] if method == "positions" else [str(pictures / "cat" / "cat0.png")]
    assert main(["explain", str(run), *image, "--method", method, "--out", str(tmp_path)]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*files, "index.html"])
    for name in files:
        if name.endswith(".png"):
            width, height = png_size(tmp_path / name)
            assert min(width, height) > 100
    page = (tmp_path / "index.html").read_text()
    assert registry.get(method).about["paper"] in page and method in page


def test_options_reach_the_method(run, pictures):
    image = pictures / "cat" / "cat0.png"
    first = visus.explain(run, image, layer=0, head=1).explanation
    assert "attention layer 0" in first.sentence and "head 1" in first.sentence
    torch.testing.assert_close(first.heat, first.tiles[:, 1])
    rolled = [visus.explain(run, image, "rollout", fusion=fusion).explanation.heat for fusion in ("mean", "min")]
    assert not torch.allclose(*rolled)


def test_images_one_by_one_give_what_a_batch_gives(run, pictures):
    paths = sorted(pictures.rglob("*.png"))[:6]
    trained = load_model(run)
    images = torch.stack([trained.preprocessing.resized(np.asarray(Image.open(path))) for path in paths])
    whole = Distance()(trained.model, trained.preprocessing.normalise(images.float() / 255))
    found = visus.explain(run, paths, "distance").explanation
    for ours, expected in zip(found.distances, whole.distances, strict=True):
        assert ours.layer == expected.layer
        torch.testing.assert_close(ours.pixels, expected.pixels, rtol=1e-5, atol=1e-5)


def test_a_named_model_has_random_weights_and_says_so_and_takes_a_file(tmp_path, pictures, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    image = str(pictures / "cat" / "cat0.png")
    assert main(["explain", "vit_tiny_16", image, *SMALL]) == 0
    said = capsys.readouterr().out
    assert "random weights" in said and "the method is attention, the default for a transformer" in said
    assert (tmp_path / "explained/vit_tiny_16-attention-1").is_dir()
    assert main(["explain", "vit_tiny_16", image, *SMALL]) == 0
    assert (tmp_path / "explained/vit_tiny_16-attention-2/index.html").exists()
    from visus.core.weights import write_state_dict

    write_state_dict(tmp_path / "w.safetensors", visus.create_model("vit_tiny_16", image_size=32).state_dict())
    capsys.readouterr()
    assert main(["explain", "vit_tiny_16", image, *SMALL, "--weights", "w.safetensors", "--origin", "timm"]) == 0
    assert "random weights" not in capsys.readouterr().out


@pytest.mark.parametrize("words, expected", [
    (["resnet18", "IMAGE", "--method", "rollout"], "has no attention\n  -> Methods that fit this model: "),
    (["swin_tiny", "IMAGE", "--method", "rollout"], "Methods that fit this model: "),
    (["vit_tiny_16", "IMAGE", "--method", "rolout"], "Did you mean 'rollout'"),
    (["vit_tiny_16", "IMAGE", *SMALL, "--set", "fuson=max", "--method", "rollout"], "Did you mean 'fusion'"),
    (["vit_tiny_16", "IMAGE", *SMALL, "--set", "fusion=median", "--method", "rollout"], "mean, max, min"),
    (["vit_tiny_16", "IMAGE", *SMALL, "--method", "distance", "--layer", "1"], "It has none"),
    (["vit_tiny_16", "IMAGE", *SMALL, "--layer", "12"], "0 to 11; -1 is the last"),
    (["vit_tiny_16", "IMAGE", *SMALL, "--set", "head=a"], "must be a whole number"),
    (["vit_tiny_16"], "no images given"),
    (["vit_tiny_16", "nosuch.png", *SMALL], "there is no such file"),
    (["vit_tiny_17", "IMAGE"], "Did you mean 'vit_tiny_16'"),
    (["runs/nosuch", "IMAGE"], "is no run folder"),
    (["vit_tiny_16", "IMAGE", "--weights", "tim"], "Did you mean 'timm'"),
    (["vit_tiny_16", "IMAGE", "--image-size", "30"], "multiple of patch_size"),
])
def test_wrong_inputs_end_with_a_remedy(pictures, tmp_path, monkeypatch, capsys, words, expected):
    monkeypatch.chdir(tmp_path)
    image = str(pictures / "cat" / "cat0.png")
    code = main(["explain", *(image if word == "IMAGE" else word for word in words)])
    message = capsys.readouterr().err
    assert code == 2 and expected in message and "Traceback" not in message, message
    assert not list(tmp_path.iterdir()), "nothing is written"


def test_a_model_without_attention_gets_grad_cam_and_it_is_said(tmp_path, pictures, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    image = str(pictures / "cat" / "cat0.png")
    assert main(["explain", "resnet20", image]) == 0
    said = capsys.readouterr().out
    assert "the method is grad_cam, the default for a model that is no transformer" in said
    assert "layer3, 8 x 8 places" in said
    assert sorted(path.name for path in (tmp_path / "explained/resnet20-grad_cam-1").iterdir()) == \
        ["000-cat0.png", "index.html"]
    assert main(["explain", "resnet20", image, "--layer", "layer2.1", "--target", "3"]) == 0
    assert "layer2.1, 16 x 16 places" in capsys.readouterr().out
    assert main(["explain", "resnet20", image, "--layer", "2"]) == 2
    assert "dotted name of a module" in capsys.readouterr().err
    assert main(["explain", "mlp", image]) == 2
    assert "no feature map" in capsys.readouterr().err


def test_the_folded_copy_that_the_verb_asks_gives_what_the_model_gives(pictures):
    from visus.explain.grad_cam import grad_cam
    from visus.run.explain import _subject

    trained, _ = _subject("resnet20", None, "visus", None)
    paths = sorted(pictures.rglob("*.png"))[:3]
    images = torch.stack([trained.preprocessing.resized(np.asarray(Image.open(path))) for path in paths])
    expected = grad_cam(trained.model, trained.preprocessing.normalise(images.float() / 255), 2)
    found = visus.explain("resnet20", paths, "grad_cam", target=2).explanation.heat
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.max()))


def test_a_run_takes_no_weights(run, pictures, capsys):
    with pytest.raises(UserError, match="weights and an image size of its own"):
        visus.explain(run, pictures, weights="timm")


def test_the_room_and_the_verb_share_a_name():
    import visus.explain.attention as attention

    assert callable(visus.explain) and visus.explain.attention is attention


# -- pictures ------------------------------------------------------------------------------------------------------


def test_colours_are_viridis_ends_and_grow_in_lightness():
    ends = heat.colours(np.array([0.0, 1.0, -3.0, 7.0, np.nan]))
    assert ends.tolist() == [[68, 1, 84], [253, 231, 37], [68, 1, 84], [253, 231, 37], [68, 1, 84]]
    lightness = heat.colours(np.linspace(0, 1, 200)) @ np.array([0.2126, 0.7152, 0.0722])
    assert (np.diff(lightness) > -0.6).all()


def test_an_overlay_is_hot_where_the_heat_is_and_names_its_scale():
    pixels = np.full((30, 60, 3), 128, np.uint8)
    map_ = np.zeros((2, 4))
    map_[0, 3] = 0.25
    drawn = np.asarray(heat.overlay(pixels, map_, side_px=120), np.int64)
    right = drawn[:60, 120 + heat.GAP:]
    yellow = right[..., :2].sum(-1) - right[..., 2]
    y, x = np.unravel_index(yellow.argmax(), yellow.shape)
    assert y < 30 and x > 90, "the upper right patch"
    assert (drawn[:60, :120] == 128).all(), "the picture itself stands beside it"
    assert heat.stretched(np.ones((2, 2))).tolist() == [[0, 0], [0, 0]]


def test_tiles_and_similarity_lie_in_their_places():
    tiles = np.zeros((3, 2, 2))
    tiles[1, 1, 0] = 1
    sheet = np.asarray(heat.tile_sheet(tiles, ("a", "b", "c"), tile_px=40, columns=2))
    hot = np.argwhere((sheet == (253, 231, 37)).all(-1))
    assert hot.min(0).tolist() == [20, 40 + heat.GAP] and hot.max(0).tolist() == [39, 40 + heat.GAP + 19]
    similarity = np.full((2, 2, 2, 2), -1.0)
    similarity[0, 1, 1, 0] = 1
    sheet = np.asarray(heat.similarity_sheet(similarity, side_px=200))[:200]
    hot = np.argwhere((sheet == (253, 231, 37)).all(-1)).mean(0)
    assert hot[0] < 120 and hot[1] > 120, "the tile in row 0, column 1"


def test_the_distance_chart_has_a_dot_for_each_head_at_its_height():
    svg = distance_svg([(0, [10.0, 30.0]), (1, [20.0])], uniform_px=40.0)
    dots = re.findall(r'cx="([\d.]+)" cy="([\d.]+)" r="4"[^>]*><title>layer (\d), head (\d): ([\d.]+) px', svg)
    assert [(layer, head, px) for *_, layer, head, px in dots] == [("0", "0", "10.0"), ("0", "1", "30.0"),
                                                                  ("1", "0", "20.0")]
    heights = [float(dot[1]) for dot in dots]
    assert heights[2] == pytest.approx((heights[0] + heights[1]) / 2, abs=0.1) and heights[0] > heights[1]


def test_the_page_escapes_all_that_it_is_given():
    payload = "</style><script>top.injected=1</script>\" onload=x"
    image = ExplainedImage(source=payload, answer=payload, overlay=b"x")
    page = render_explanation(ExplanationView(
        method=payload, summary=payload, paper=payload, model=payload, sentence=payload, command=["visus", payload],
        notes=[payload], images=[image] * 30, tiles_title=payload))
    assert "<script" not in page and page.count("</style>") == 1 and page.count('<img class="heat"') == 24
    assert "6 further images" in page
    assert json.dumps(payload) not in page

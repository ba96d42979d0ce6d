"""visus attack: what it counts, what it writes, and how it refuses."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import visus
from tests.attack.small import stripes
from visus.attack.corruptions import corrupt
from visus.cli.main import main
from visus.core.errors import UserError
from visus.data.loader import Loader
from visus.data.opening import open_samples
from visus.report.attack import AttackView, Pair, curve_svg, render_attack, sheet
from visus.run.attack import eps_text, make_attack, number_of
from visus.run.bundle import load_model


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Stripes in four directions, as files; a class name that a page must escape."""
    folder = tmp_path_factory.mktemp("pictures")
    images, labels = stripes(160, seed=4)
    for number, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
        path = folder / ("across", "<b>up", "slope", "fall")[label] / f"{number:03d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray((255 * image).byte().permute(1, 2, 0).numpy()).save(path)
    return folder


@pytest.fixture(scope="module")
def run(pictures, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "net"
    visus.train(str(pictures), out=str(out), progress=False, values={
        "model.name": "three_layer_convnet", "data.image_size": 12, "train.epochs": 20, "train.threads": 1,
        "train.batch_size": 16, "optimizer.name": "adamw", "optimizer.lr": 3e-3,
        "report.budget_s": 0})
    return out


def test_it_counts_prints_and_writes(run, pictures, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["attack", str(run), str(pictures), "--eps", "16/255", "--curve", "--limit", "60", "--set", "steps=4",
                 "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "60 of 160 images, drawn with seed 0" in said and "within 16/255 in linf" in said
    assert sorted(path.name for path in out.iterdir()) == ["attack.json", "curve.svg", "index.html", "pictures.png"]
    found = json.loads((out / "attack.json").read_text())
    assert found["clean"]["count"] == found["robust"]["count"] == 60
    assert found["robust"]["hits"] + found["turned"]["hits"] == found["clean"]["hits"] == len(found["images"])
    assert found["robust"]["low"] <= found["robust"]["value"] <= found["robust"]["high"]
    assert sum(row["turned"] for row in found["images"]) == found["turned"]["hits"] > 0
    assert all(row["linf"] <= 16 / 255 + 1e-6 and (row["answer"] != row["label"]) == row["turned"]
               for row in found["images"])
    curve = [point["value"] for point in found["curve"]]
    assert curve[0] == found["clean"]["value"] and curve == sorted(curve, reverse=True)
    page = (out / "index.html").read_text()
    assert "<b>up" not in page and "<script" not in page and "Madry" in page
    assert "://" not in page.replace("http://www.w3.org/2000/svg", "")
    with Image.open(out / "pictures.png") as picture:
        assert picture.width > 400


def test_the_numbers_are_those_of_the_model_itself(run, pictures):
    """The attacked images, put through the run's own preprocessing and weights, give what is reported."""
    weights = {key: value.clone() for key, value in load_model(run).model.state_dict().items()}
    trained = load_model(run)
    made = visus.attack(trained, pictures, "bim", eps="12/255", limit=None)
    assert made.clean.count == 160
    with torch.no_grad():
        answers = trained.model(trained.preprocessing.normalise(made.attacked.images)).argmax(1)
    assert ((answers != made.labels) == made.attacked.success).all()
    assert made.robust.hits == int((answers == made.labels).sum())
    assert all(torch.equal(weights[key], value) for key, value in trained.model.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in trained.model.parameters())


def test_its_own_test_split_is_the_default(run, pictures):
    made = visus.attack(run, method="fgsm", eps=0.0)
    assert made.split == "test" and made.robust == made.clean
    assert made.clean.value == pytest.approx(visus.evaluate(run).metrics["accuracy"].value)
    again = visus.attack(run, method="fgsm", eps=0.1)
    assert again.robust.hits < made.robust.hits


def test_the_smallest_change_is_read_off_at_a_distance(run, pictures):
    free = visus.attack(run, pictures, "deepfool", limit=40)
    assert free.eps is None and free.turned.value == 1
    near = visus.attack(run, pictures, "deepfool", limit=40, eps=free.distance, curve=[free.distance])
    assert 0.3 < near.turned.value < 0.7, "about half lie within the median"
    assert near.curve[-1].robust == near.robust and near.curve[0].robust == near.clean


def test_a_target_is_reached(run, pictures):
    made = visus.attack(run, pictures, "pgd", target="slope", eps=0.15, steps=20, limit=60)
    assert "slope" not in {load_model(run).labels[int(label)] for label in made.labels}
    assert made.turned.hits > 0 and made.target == "slope"


@pytest.mark.parametrize("words, expected", [
    (["--method", "pdg"], "Did you mean 'pgd'"),
    (["--eps", "8/0"], "such as 8/255"),
    (["--eps", "much"], "such as 8/255"),
    (["--norm", "l3"], "linf, l2, l1, l0"),
    (["--method", "carlini_wagner", "--norm", "linf"], "in l2 alone"),
    (["--set", "stepz=4"], "Did you mean 'steps'"),
    (["--set", "steps=many"], "whole number"),
    (["--set", "step_size=fast"], "such as 8/255"),
    (["--target", "slop"], "Did you mean 'slope'"),
    (["--method", "deepfool", "--target", "slope"], "takes no target"),
    (["--limit", "-1"], "at least 0"),
    (["--split", "tests"], "Did you mean 'test'"),
])
def test_wrong_inputs_end_with_a_remedy(run, tmp_path, monkeypatch, capsys, words, expected):
    monkeypatch.chdir(tmp_path)
    assert main(["attack", str(run), *words]) == 2
    message = capsys.readouterr().err
    assert expected in message and "Traceback" not in message
    assert not list(tmp_path.iterdir()), "nothing is written"


def test_what_fools_one_model_is_shown_to_the_other(run, pictures, tmp_path, capsys):
    twin = tmp_path / "twin"
    shutil.copytree(run, twin)
    assert main(["attack", str(run), str(pictures), "--transfer", str(twin), "--eps", "16/255", "--set", "steps=4",
                 "--limit", "40", "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "100.0% of the images that fool one model by pgd fool another too" in said, "the twin is the same model"
    found = json.loads((tmp_path / "out" / "transfer.json").read_text())
    assert found["models"] == ["net", "twin"] and found["rows"][0][1]["hits"] == found["rows"][0][0]["hits"] > 0
    assert main(["attack", str(run), str(pictures), "--transfer", str(tmp_path / "no"), "--out", "x"]) == 2


def test_corruptions_are_counted_as_the_model_itself_answers(run, pictures, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["attack", str(run), str(pictures), "--corruptions", "contrast,jpeg_compression", "--reference",
                 str(run), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "mCE 100.0%" in said and "jpeg compression" in said
    found = json.loads((out / "corruptions.json").read_text())
    trained, samples = load_model(run), open_samples(pictures)
    loader = Loader(samples, range(len(samples)), trained.preprocessing, batch_size=64)
    images = torch.cat([batch.images for batch in loader.epoch(0)])
    with torch.no_grad():
        changed = torch.cat([corrupt(part, "contrast", 3) for part in images.split(128)])
        wrong = (trained.model.eval()(trained.preprocessing.normalise(changed)).argmax(1).numpy() != samples.targets)
    assert found["errors"]["contrast"][2] == pytest.approx(wrong.mean()), "contrast draws no random number"
    with Image.open(out / "corruptions.png") as sheet:
        assert sheet.height == 22 + 2 * 76
    assert main(["attack", str(run), str(pictures), "--corruptions", "contrats", "--out", str(out)]) == 2
    assert "contrast" in capsys.readouterr().err


def test_signs_of_a_hidden_gradient_are_looked_for(run, pictures, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["attack", str(run), str(pictures), "--masking", "--limit", "24", "--eps", "16/255", "--out", str(out),
                 "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads((out / "masking.json").read_text()) and found["images"] > 0
    assert {"one step", "Square", "unbounded", "random search"} <= set(found["success"])
    assert main(["attack", str(run), "--masking", "--set", "steps=4"]) == 2


def test_all_attacks_are_listed(capsys):
    assert main(["attack", "any", "--method", "list"]) == 0
    said = capsys.readouterr().out
    from visus.attack import registry

    assert all(re.search(rf"^{name} ", said, re.MULTILINE) for name in registry.names())


def test_fractions_are_numbers_and_back():
    assert number_of("8/255", "eps") == 8 / 255 and number_of(0.5, "eps") == 0.5 and number_of("0.25", "eps") == 0.25
    assert eps_text(8 / 255) == "8/255" and eps_text(0.5) == "0.5" and eps_text(0.0) == "0"
    assert make_attack("pgd", step_size="2/255").step_size == 2 / 255
    with pytest.raises(UserError, match="at least 0"):
        number_of(-1, "eps")


def test_the_room_and_the_verb_share_a_name():
    import visus.attack.pgd as pgd

    assert callable(visus.attack) and visus.attack.pgd is pgd


def test_the_sheet_shows_the_difference_enlarged_around_grey():
    original = np.full((4, 4, 3), 100, np.uint8)
    difference = np.zeros((4, 4, 3))
    difference[0, 0, 0] = 0.1
    data = sheet([Pair(original=original, attacked=original, difference=difference, before="a", after="b",
                       distance=0.1)], "linf")
    import io

    pixels = np.asarray(Image.open(io.BytesIO(data)))
    middle = pixels[22:182, 184:344]
    assert middle[100, 100].tolist() == [128, 128, 128] and middle[5, 5].tolist() == [255, 128, 128]


def test_the_curve_falls_where_the_accuracy_does():
    svg = curve_svg([(0.0, 1.0, 0.9, 1.0), (4 / 255, 0.5, 0.4, 0.6), (8 / 255, 0.0, 0.0, 0.1)], "linf")
    line = re.findall(r'class="line train" points="([^"]+)"', svg)[0]
    heights = [float(point.split(",")[1]) for point in line.split()]
    assert heights == sorted(heights) and "1/255" in svg


def test_the_page_escapes_all_that_it_is_given():
    payload = "</style><script>top.injected=1</script>\" onload=x"
    page = render_attack(AttackView(method=payload, summary=payload, paper=payload, model=payload, sentence=payload,
                                    norm=payload, numbers=[(payload,) * 3], points=[(payload,) * 3], notes=[payload],
                                    command=["visus", payload], chart=None, sheet=b"x"))
    assert "<script" not in page and page.count("</style>") == 1

"""What `visus monitor` says of images that did and did not change."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import visus
from visus.core.errors import CheckpointError, DataError, UserError
from visus.core.files import finite
from visus.deploy.drift import Collector, Observed, answer_statistics, file_statistics, image_statistics
from visus.deploy.statistics_file import Reference, read_reference_file
from visus.run.drift import compare
from visus.run.monitor import write_reference


@pytest.fixture(scope="module")
def digits() -> np.ndarray:
    """uint8 [1797, 8, 8, 1]."""
    import visus.data.builtin

    return np.load(Path(visus.data.builtin.__file__).parent / "digits.npz")["images"].reshape(-1, 8, 8, 1)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A trained run with its reference."""
    out = tmp_path_factory.mktemp("monitor") / "run"
    visus.train("digits", out=str(out), progress=False,
                values={"model.name": "mlp", "train.epochs": 6, "train.threads": 1})
    write_reference(out)
    return out


@pytest.fixture(scope="module")
def held_out(run, digits) -> np.ndarray:
    """The digits that the run was not trained on, of which a part plays the recent images."""
    indices = [np.load(run / f"evaluation/{split}.npz")["index"] for split in ("val", "test")]
    return digits[np.concatenate(indices)]


def state(found, name: str) -> str:
    return next(row["state"] for row in found.record["rows"] if row["name"] == name)


# -- real images -------------------------------------------------------------------------------------------------------


def test_the_same_kind_of_images_raises_no_alarm(run, held_out):
    found = visus.monitor(run, list(held_out[::3]))
    assert not found.moved and found.sentence.startswith("No drift")
    assert {row["state"] for row in found.record["rows"]} == {"same"}
    assert {"brightness", "sharpness", "confidence", "distance", "features", "classes"} <= {
        row["name"] for row in found.record["rows"]}


def blurred(images: np.ndarray) -> np.ndarray:
    padded = np.pad(images.astype(float), ((0, 0), (1, 1), (1, 1), (0, 0)), "edge")
    return np.mean([padded[:, i:i + 8, j:j + 8] for i in range(3) for j in range(3)], 0).astype(np.uint8)


def noisy(images: np.ndarray) -> np.ndarray:
    noise = np.random.Generator(np.random.PCG64(0)).normal(0, 60, images.shape)
    return np.clip(images + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize(("change", "statistic", "words"), [
    (lambda images: (images * 0.6).astype(np.uint8), "brightness", "images are darker: mean brightness 0.1"),
    (blurred, "sharpness", "images are blurred"),
    (noisy, "sharpness", "images are sharper or noisier"),
    (lambda images: 255 - images, "brightness", "images are brighter"),
    (lambda images: np.kron(images, np.ones((1, 5, 5, 1), np.uint8)), "width", "images are wider: typical width 40 px "
                                                                               "instead of 8 px")],
    ids=["darkened", "blurred", "noisy", "inverted", "larger"])
def test_a_real_change_is_found_and_named(run, held_out, change, statistic, words):
    found = visus.monitor(run, list(change(held_out[::3])))
    assert found.moved and state(found, statistic) == "moved"
    assert words in found.sentence.lower(), found.sentence
    if statistic != "width":
        assert state(found, "features") == "moved" and "accuracy on such images is estimated" in found.sentence


def test_another_mix_of_classes_is_found_named_and_undone(run, held_out):
    """Sevens four times as often: what the confusion of the run says of the true shares is right."""
    targets = np.concatenate([np.load(run / f"evaluation/{split}.npz")["targets"] for split in ("val", "test")])
    many = np.concatenate([held_out[targets == 7]] * 4 + [held_out[targets != 7]])
    true = 4 * (targets == 7).sum() / len(many)
    found = visus.monitor(run, list(many))
    assert state(found, "classes") == "moved"
    assert re.search(r"he class 7 is given \d\.\d times as often", found.sentence), found.sentence
    row = next(row for row in found.record["classes"] if row["label"] == "7")
    assert row["low"] <= true <= row["high"] and row["estimated"] == pytest.approx(true, abs=0.05)


def test_photographs_in_other_colours_are_told_apart():
    data = pytest.importorskip("skimage.data")
    photos = [data.astronaut(), data.coffee(), data.chelsea()]
    generator = np.random.Generator(np.random.PCG64(1))

    def seen(change=lambda crop: crop) -> Observed:
        observed = Observed(np.zeros(0, np.int64))
        for k in range(300):
            photo = photos[k % 3]
            top, left = (int(generator.integers(0, size - 64)) for size in photo.shape[:2])
            observed.add(image_statistics(change(photo[top:top + 64, left:left + 64])))
        return observed

    nothing = Observed(np.zeros(2, np.int64))
    reference = Reference("m", ("a", "b"), None, seen(), nothing)

    def moved(change) -> set[str]:
        found = compare(reference, replaced(seen(change)))
        return {row["name"] for row in found.record["rows"] if row["state"] == "moved"}

    def replaced(observed: Observed) -> Observed:
        observed.predicted = np.zeros(2, np.int64)
        return observed

    assert moved(lambda crop: crop) == set()
    redder = moved(lambda crop: (crop * [1, 0.6, 0.6]).astype(np.uint8))
    assert {"green", "blue", "saturation"} <= redder and "red" not in redder
    assert moved(lambda crop: crop.mean(2, keepdims=True).repeat(3, 2).astype(np.uint8)) >= {"saturation"}
    halved = moved(lambda crop: np.kron(crop[::2, ::2], np.ones((2, 2, 1), np.uint8)))  # a smaller file, enlarged
    assert "sharpness" in halved and "brightness" not in halved


# -- chance ------------------------------------------------------------------------------------------------------------


def test_false_alarms_are_as_rare_as_alpha_says(digits):
    """200 times two random sets of the same digits: the share of alarms of any statistic, distance left aside."""
    generator = np.random.Generator(np.random.PCG64(3))
    values = [image_statistics(image) for image in digits]
    alpha, alarms = 0.1, 0
    for _ in range(200):
        order = generator.permutation(len(values))
        images, recent, answers = (Observed(np.zeros(k, np.int64)) for k in (0, 4, 4))
        for i in order[:300]:
            images.add(values[i])
        for i in order[300:500]:
            recent.add(values[i] | {"confidence": generator.beta(8, 1)}, [int(generator.integers(4))])
        for _ in range(300):
            answers.add({"confidence": generator.beta(8, 1)}, [int(generator.integers(4))])
        found = compare(Reference("m", tuple("abcd"), None, images, answers), recent, alpha)
        alarms += any(row["p_adjusted"] < alpha for row in found.record["rows"])
    assert 0.03 < alarms / 200 < 0.15


def answered(generator, count: int, ends=(9, 1)):
    """(Observed, accuracy) of answers that are right with the probability that they state."""
    seen = Observed(np.zeros(2, np.int64))
    confidence = generator.beta(*ends, count)
    for one in confidence:
        seen.add({"confidence": float(one)}, [0])
    return seen, float((generator.random(count) < confidence).mean())


def test_the_fall_of_a_calibrated_confidence_is_the_fall_of_the_accuracy():
    generator = np.random.Generator(np.random.PCG64(4))
    before, accuracy = answered(generator, 5000)
    after, true = answered(generator, 5000, ends=(4, 2))
    found = compare(Reference("m", ("a", "b"), None, Observed(np.zeros(0, np.int64)), before, accuracy=accuracy), after)
    assert found.record["accuracy"]["by_confidence"] == pytest.approx(true, abs=0.02)
    assert true < accuracy - 0.2 and "confidence fell" in found.sentence.lower()


def test_many_images_alone_move_nothing():
    """A shift of a twentieth of a standard deviation among 20,000 images is certain, and small."""
    generator = np.random.Generator(np.random.PCG64(5))

    def seen(mean: float) -> Observed:
        observed = Observed(np.zeros(1, np.int64))
        for value in generator.normal(mean, 0.1, 20_000):
            observed.add({"brightness": float(value)})
        return observed

    reference = Reference("m", ("a",), None, seen(0.5), Observed(np.zeros(1, np.int64)))
    found = compare(reference, seen(0.507))
    assert state(found, "brightness") == "slight" and not found.moved
    assert "small differences in brightness" in found.sentence


def test_few_images_are_said_to_show_little(run, held_out):
    found = visus.monitor(run, list(held_out[:12]))
    assert not found.moved and "12 images show only shifts above" in found.sentence
    assert not found.record["power"]["enough"] and 12 < found.record["power"]["images_for_half"] < 400
    nothing = visus.monitor(run, list(held_out[:2]))
    assert nothing.sentence.startswith("Nothing could be compared: 2 recent images") and not nothing.moved


# -- what is given -----------------------------------------------------------------------------------------------------


def test_statistics_of_a_server_say_the_same_as_the_images(run, held_out, tmp_path):
    dark = (held_out[::3] * 0.6).astype(np.uint8)
    preprocessing = read_preprocessing(run)
    rows = visus.predict(run, list(dark), top=10)
    for worker in range(2):
        collector = Collector(json.loads((run / "monitor/reference.json").read_text()), every_requests=20)
        for image, row in list(zip(dark, rows, strict=True))[worker::2]:
            probs = np.zeros(10, np.float32)
            probs[[int(label) for label in row.labels]] = row.probs
            collector.add(preprocessing.resized_array(image), probs, (8, 8))
        collector.save(tmp_path / f"worker-{worker}.json")
    kept, looked = visus.monitor(run, requests=tmp_path, features=False), visus.monitor(run, list(dark), features=False)
    for a, b in zip(kept.record["rows"], looked.record["rows"], strict=True):
        assert (a["name"], a["state"]) == (b["name"], b["state"])
        if a["name"] not in ("confidence", "uncertainty"):
            assert a["p"] == pytest.approx(b["p"])
    assert len(kept.record["windows"]) == 10 and kept.record["notes"] == []
    latest = visus.monitor(run, requests=tmp_path / "worker-0.json", last=1, features=False)
    assert latest.record["images"]["recent"] == len(dark[0::2]) % 20 or 20


def test_a_server_that_starts_again_goes_on_with_its_statistics(run, held_out, tmp_path):
    reference, path = json.loads((run / "monitor/reference.json").read_text()), tmp_path / "kept.json"
    probs = np.eye(10, dtype=np.float32)
    for start in (0, 7):
        collector = Collector(reference, every_requests=5)
        if start:
            collector.resume(path)
        for k in range(7):
            collector.add(held_out[start + k], probs[k])
        collector.save(path)
    assert [window.count for window in collector.windows()] == [5, 5, 4]
    whole = Collector(reference, every_requests=5)
    for k in range(14):
        whole.add(held_out[k], probs[k % 7])
    for a, b in zip(collector.windows(), whole.windows(), strict=True):
        assert a.predicted.tolist() == b.predicted.tolist() and a.sketches.keys() == b.sketches.keys()
    with pytest.raises(DataError, match="another model"):
        Collector(reference | {"weights": "0" * 64}).resume(path)
    path.write_text(path.read_text()[:200])
    with pytest.raises(DataError):
        Collector(reference).resume(path)


def read_preprocessing(run: Path):
    from visus.core.preprocessing import Preprocessing

    return Preprocessing.from_dict(json.loads((run / "model/model.json").read_text())["preprocessing"])


def test_a_page_shows_it_and_needs_nothing_else(run, held_out, tmp_path):
    folder = tmp_path / "recent"
    folder.mkdir()
    for k, image in enumerate((held_out[:40] * 0.5).astype(np.uint8)):
        Image.fromarray(image[..., 0]).save(folder / f"{k}<b>.png")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    found = visus.monitor(run, folder, out=tmp_path / "monitor.html", command=("visus", "monitor"))
    text = (tmp_path / "monitor.html").read_text()
    assert "Recent images differ" in text and "<b>.png" not in text and "broken.png" in text
    assert not re.search(r"(src|href)=\"(?!data:|#)", text) and "default-src" in text
    assert len(found.record["far"]) == 12 and text.count("data:image/png") == 12
    scores = [row["score"] for row in found.record["far"]]
    assert scores == sorted(scores, reverse=True)
    assert json.dumps(finite(found.record))


def test_the_strangest_image_comes_first(run, held_out):
    images = [*held_out[:30], np.full((8, 8, 1), 255, np.uint8)]
    found = visus.monitor(run, images)
    assert "brightness 1.00, usually 0.3" in found.record["far"][0]["why"]


def test_a_reference_is_made_once_and_again_for_another_model(run, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    path = write_reference(copy)
    before = path.stat().st_mtime_ns
    assert write_reference(copy).stat().st_mtime_ns == before
    about = json.loads((copy / "model/model.json").read_text())
    (copy / "model/model.json").write_text(json.dumps(about | {"calibration": {"method": "temperature",
                                                                               "temperature": 2.0}}))
    softer = read_reference_file(write_reference(copy))
    assert path.stat().st_mtime_ns != before
    assert softer.held_out.sketches["confidence"].mean < read_reference_file(
        run / "monitor/reference.json").held_out.sketches["confidence"].mean - 0.05


def test_a_reference_holds_the_runs_own_numbers(run, tmp_path):
    path = write_reference(run, tmp_path)
    reference = read_reference_file(path)
    parts = [np.load(run / f"evaluation/{split}.npz") for split in ("val", "test")]
    predicted = np.concatenate([part["probs"].argmax(1) for part in parts])
    targets = np.concatenate([part["targets"] for part in parts])
    assert path == tmp_path / "reference.json" and path.stat().st_size < 2_000_000
    assert reference.images.count == 1797 and reference.accuracy == pytest.approx((predicted == targets).mean())
    assert reference.held_out.predicted.tolist() == np.bincount(predicted, minlength=10).tolist()
    assert reference.confusion is not None and reference.confusion[3, 3] == ((predicted == 3) & (targets == 3)).sum()
    assert reference.features is not None and reference.features.sample.shape == (400, 33)
    gaps = reference.features.basis @ reference.features.basis.T - np.eye(32)
    assert abs(gaps).max() < 1e-5


def test_where_the_images_are_gone_the_answers_are_still_compared(run, held_out, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    shutil.rmtree(copy / "monitor")
    text = (copy / "recipe.yaml").read_text()
    (copy / "recipe.yaml").write_text(re.sub(r"path: digits", "path: gone-since", text, count=1))
    found = visus.monitor(copy, list((held_out[:60] * 0.4).astype(np.uint8)))
    assert {row["name"] for row in found.record["rows"]} == {"confidence", "uncertainty", "classes"}
    assert any("could not be looked at" in note for note in found.record["notes"])


def test_several_labels_have_shares_and_no_accuracy():
    generator = np.random.Generator(np.random.PCG64(6))

    def seen(rate: float) -> Observed:
        observed = Observed(np.zeros(3, np.int64))
        for _ in range(300):
            probs = np.clip(generator.normal([rate, 0.5, 0.3], 0.2), 0.01, 0.99)
            observed.add(*answer_statistics(probs, (0.5,) * 3))
        return observed

    reference = Reference("m", ("a", "b", "c"), None, Observed(np.zeros(0, np.int64)), seen(0.3))
    found = compare(reference, seen(0.8))
    assert state(found, "classes") == "moved" and found.record["accuracy"] is None
    assert found.record["classes"][0]["ratio"] > 1.5 and "estimated" not in found.record["classes"][0]


def test_what_cannot_be_done_is_said(run, held_out, tmp_path):
    with pytest.raises(UserError, match="nothing to compare"):
        visus.monitor(run)
    with pytest.raises(UserError, match="between 0 and 1"):
        visus.monitor(run, list(held_out[:3]), alpha=1.0)
    with pytest.raises(UserError, match=r"holds no \.json files"):
        visus.monitor(run, requests=tmp_path)
    Collector().save(tmp_path / "s.json")
    with pytest.raises(UserError, match="no request was counted yet"):
        visus.monitor(run, requests=tmp_path)
    (tmp_path / "x.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(UserError, match="no image could be read"):
        visus.monitor(run, tmp_path / "x.png")
    (tmp_path / "lonely.onnx").write_bytes(b"")
    with pytest.raises(CheckpointError):
        visus.monitor(tmp_path / "lonely.onnx", list(held_out[:3]))


def test_sizes_come_from_the_file():
    assert file_statistics(30, 20) == {"width": 30, "height": 20, "aspect": 1.5}

"""What is counted of images and answers, by a collector and in a file."""

from __future__ import annotations

import json
import math
import threading
import time

import numpy as np
import pytest

from visus.core.errors import CheckpointError, DataError
from visus.deploy import drift
from visus.deploy.drift import BINS, SCALES, Collector, Observed, Sketch, answer_statistics, image_statistics, merged
from visus.deploy.statistics_file import (
    FeatureSketch,
    Reference,
    read_reference_file,
    read_statistics,
    write_reference_file,
)


@pytest.fixture
def generator():
    return np.random.Generator(np.random.PCG64(5))


def smooth(generator, side: int = 48) -> np.ndarray:
    """uint8 [side, side, 3] with some structure."""
    small = generator.integers(30, 220, (side // 8, side // 8, 3))
    rows = np.kron(small, np.ones((8, 8, 1)))
    for axis in (0, 1):
        rows = (np.roll(rows, 2, axis) + np.roll(rows, -2, axis) + rows) / 3
    return rows.astype(np.uint8)


# -- statistics of one image -------------------------------------------------------------------------------------------


def test_statistics_are_those_of_the_definition(generator):
    """Against float64 over all pixels: 48 x 48 are few enough that every one is looked at."""
    image = smooth(generator)
    found = image_statistics(image)
    rgb = image / 255
    grey = np.floor(rgb @ [77 / 256, 150 / 256, 29 / 256] * 255 + 1e-9) / 255
    assert found["brightness"] == pytest.approx(grey.mean(), abs=1e-9)
    assert found["contrast"] == pytest.approx(grey.std(), abs=1e-9)
    assert [found[name] for name in ("red", "green", "blue")] == pytest.approx(rgb.mean((0, 1)).tolist())
    assert found["saturation"] == pytest.approx(((rgb.max(2) - rgb.min(2)) / np.maximum(rgb.max(2), 1 / 255)).mean(),
                                                rel=1e-5)
    shares = np.unique(np.round(grey * 255), return_counts=True)[1] / grey.size
    assert found["entropy"] == pytest.approx(-(shares * np.log2(shares)).sum())
    green = image[..., 1].astype(float)
    laplacian = 4 * green[1:-1, 1:-1] - green[:-2, 1:-1] - green[2:, 1:-1] - green[1:-1, :-2] - green[1:-1, 2:]
    assert found["sharpness"] == pytest.approx(laplacian.var() / green[1:-1].var(), rel=1e-4)


def test_sharpness_knows_blur_from_darkness(generator):
    image = smooth(generator)
    sharp = image_statistics(image)["sharpness"]
    blurred = np.mean([np.roll(image.astype(float), shift, axis) for axis in (0, 1) for shift in (-2, -1, 0, 1, 2)], 0)
    assert image_statistics(blurred.astype(np.uint8))["sharpness"] < 0.6 * sharp
    assert image_statistics((image * 0.5).astype(np.uint8))["sharpness"] == pytest.approx(sharp, rel=0.05)
    noise = generator.integers(0, 256, (64, 64, 1), dtype=np.uint8)
    assert image_statistics(noise)["sharpness"] == pytest.approx(20, rel=0.05)  # 4^2 + 4 times the variance
    assert math.isnan(image_statistics(np.full((8, 8, 1), 7, np.uint8))["sharpness"])
    assert math.isnan(image_statistics(np.zeros((2, 8, 3), np.uint8))["sharpness"])


def test_a_large_image_is_described_by_a_part_of_its_pixels(generator):
    image = np.kron(smooth(generator), np.ones((8, 8, 1), np.uint8))  # 384 px
    found, whole = image_statistics(image), image / 255
    assert found["brightness"] == pytest.approx((whole @ [0.3, 0.586, 0.114]).mean(), abs=0.01)
    assert "red" not in image_statistics(image[..., :1])


def test_statistics_of_an_answer():
    values, classes = answer_statistics(np.array([0.25, 0.25, 0.25, 0.25], np.float32))
    assert classes == [0] and values == {"confidence": 0.25, "uncertainty": pytest.approx(1)}
    assert answer_statistics(np.array([0, 1, 0], np.float32))[0] == {"confidence": 1, "uncertainty": 0}
    values, classes = answer_statistics(np.array([0.9, 0.5, 0.2]), thresholds=(0.5, 0.6, 0.1))
    assert classes == [0, 2] and values["confidence"] == pytest.approx((0.9 + 0.5 + 0.8) / 3)


def test_bins_hold_what_their_edges_say(generator):
    for name, scale in SCALES.items():
        edges = scale.edges
        for value in generator.uniform(edges[0], min(edges[-1], 1e3), 50):
            k = scale.bin(float(value))
            assert edges[k] * (1 - 1e-9) <= value <= edges[k + 1] * (1 + 1e-9) or k in (0, BINS - 1), name
    assert SCALES["confidence"].bin(1.0) == BINS - 1 and SCALES["width"].bin(0.0) == 0


# -- the collector -----------------------------------------------------------------------------------------------------


def collected(images, probs, **settings) -> Collector:
    collector = Collector(**settings)
    for image, prob in zip(images, probs, strict=True):
        collector.add(image, prob, (640, 480))
    return collector


@pytest.fixture
def served(generator):
    return [smooth(generator) for _ in range(60)], generator.dirichlet(np.ones(4), 60).astype(np.float32)


def test_a_window_holds_the_mean_and_the_deviation_of_all(served):
    images, probs = served
    window, = collected(images, probs).windows()
    brightness = [image_statistics(image)["brightness"] for image in images]
    assert window.count == 60 and window.predicted.tolist() == np.bincount(probs.argmax(1), minlength=4).tolist()
    assert window.sketches["brightness"].mean == pytest.approx(np.mean(brightness))
    assert window.sketches["brightness"].std == pytest.approx(np.std(brightness))
    assert window.sketches["width"].mean == pytest.approx(math.log10(640))


def test_no_image_is_lost_between_threads(served):
    images, probs = served
    whole, collector = collected(images, probs), Collector(every_requests=7)

    def work(part: int) -> None:
        for k in range(part, 60, 4):
            collector.add(images[k], probs[k], (640, 480))
            collector.windows()

    threads = [threading.Thread(target=work, args=(part,)) for part in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [window.count for window in collector.windows()] == [7] * 8 + [4]
    together, expected = merged(collector.windows(), 4), whole.windows()[0]
    assert together.predicted.tolist() == expected.predicted.tolist()
    for name, sketch in expected.sketches.items():
        assert together.sketches[name].counts.tolist() == sketch.counts.tolist(), name
        assert together.sketches[name].squares == pytest.approx(sketch.squares)


def test_windows_follow_the_clock_and_the_oldest_go(served):
    images, probs = served
    now = [7000.0]
    collector = Collector(every_s=3600, keep=3, clock=lambda: now[0])
    for hour in range(5):
        now[0] = 7000.0 + 3600 * hour
        for k in range(hour + 1):
            collector.add(images[k], probs[k])
    assert [(window.start, window.count) for window in collector.windows()] == [
        (7000.0 + 3600 * hour, hour + 1) for hour in (2, 3, 4)]


def test_a_model_with_other_classes_begins_anew(served):
    images, probs = served
    collector = collected(images[:3], probs[:3])
    collector.add(images[0], np.array([0.5, 0.5]))
    assert [len(window.predicted) for window in collector.windows()] == [2]


def test_an_image_costs_less_than_a_millisecond(generator):
    """0.2 ms on an idle core; four times that is left to a busy one."""
    image, probs = generator.integers(0, 256, (224, 224, 3), dtype=np.uint8), generator.dirichlet(np.ones(1000))
    collector, times = Collector(), []
    for _ in range(8):
        begin = time.thread_time()
        for _ in range(20):
            collector.add(image, probs)
        times.append((time.thread_time() - begin) / 20)
    assert min(times) < 0.8e-3


# -- files -------------------------------------------------------------------------------------------------------------


def test_a_file_gives_back_what_was_kept_and_files_of_workers_add_up(tmp_path, served):
    images, probs = served
    labels = list("abcd")
    about = {"model": "resnet20", "labels": labels, "weights": "0f", "images": {"not": "kept"}}
    for worker in range(3):
        collected(images[worker::3], probs[worker::3], reference=about).save(tmp_path / f"{worker}.json")
    assert "not" not in (tmp_path / "0.json").read_text()
    read = [read_statistics(tmp_path / f"{worker}.json", labels) for worker in range(3)]
    assert read[0][1] == {"model": "resnet20", "weights": "0f"}
    together = merged([window for windows, _ in read for window in windows], 4)
    expected, = collected(images, probs).windows()
    assert together.count == 60 and together.predicted.tolist() == expected.predicted.tolist()
    for name, sketch in expected.sketches.items():
        assert together.sketches[name].counts.tolist() == sketch.counts.tolist()
        assert together.sketches[name].total == pytest.approx(sketch.total)


def test_a_file_of_another_models_classes_is_refused(tmp_path, served):
    collected(*served, reference={"labels": list("abcd")}).save(tmp_path / "s.json")
    for labels in (list("abc"), list("abce")):
        with pytest.raises(DataError, match="other classes"):
            read_statistics(tmp_path / "s.json", labels)


def damaged(value: dict) -> list:
    """The file's content, wrong in one place each."""
    def wrong(change) -> dict:
        copy = json.loads(json.dumps(value))
        change(copy)
        return copy

    def window(copy: dict) -> dict:
        return copy["windows"][0]

    def brightness(copy: dict) -> dict:
        return window(copy)["statistics"]["brightness"]

    return [
        [], {"kind": "other"}, wrong(lambda v: v.update(format=99)), wrong(lambda v: v.update(windows=7)),
        wrong(lambda v: v.update(windows=[None])), wrong(lambda v: v.update(windows=[{}] * 10_001)),
        wrong(lambda v: window(v).update(count=-1)), wrong(lambda v: window(v).update(count=True)),
        wrong(lambda v: window(v).update(count=2)), wrong(lambda v: window(v).update(start="now")),
        wrong(lambda v: window(v).update(classes=10**9)), wrong(lambda v: window(v).update(statistics=[1])),
        wrong(lambda v: window(v).update(predicted={"at": [4], "counts": [1]})),
        wrong(lambda v: brightness(v).update(total=None)), wrong(lambda v: brightness(v).update(total=True)),
        wrong(lambda v: brightness(v).update(at=[BINS], counts=[1])),
        wrong(lambda v: brightness(v).update(at=[-1], counts=[1])),
        wrong(lambda v: brightness(v).update(at=[1, 2], counts=[1])),
        wrong(lambda v: brightness(v).update(at=[0.5], counts=[1])),
        wrong(lambda v: brightness(v).update(at=[1], counts=[2**60])),
        wrong(lambda v: brightness(v).update(at="1", counts="1"))]


def test_a_file_that_somebody_changed_is_refused_in_words(tmp_path, served):
    path = tmp_path / "s.json"
    collected(*served).save(path)
    good = json.loads(path.read_text())
    for bad in damaged(good):
        path.write_text(json.dumps(bad))
        with pytest.raises(DataError) as caught:
            read_statistics(path, list("abcd"))
        assert str(path) in str(caught.value.where)
    total = str(good["windows"][0]["statistics"]["brightness"]["total"])
    for text in (path.read_text()[:50], "[" * 100_000, json.dumps(good).replace(total, "1e999"), "\udcff", "",
                 json.dumps(good).replace(total, "1" * 5000), json.dumps(good).replace(total, "NaN")):
        path.write_bytes(text.encode("utf-8", "surrogateescape"))
        with pytest.raises(DataError):
            read_statistics(path, list("abcd"))
    good["windows"][0]["statistics"]["of the future"] = {"anything": 1}
    path.write_text(json.dumps(good))
    assert "of the future" not in read_statistics(path)[0][0].sketches


@pytest.fixture
def reference(generator):
    images, answers = Observed(np.zeros(0, np.int64)), Observed(np.zeros(3, np.int64))
    for _ in range(40):
        images.add({"brightness": generator.random(), "width": 64.0})
        answers.add({"confidence": generator.random()}, [int(generator.integers(3))])
    basis = np.linalg.qr(generator.normal(size=(10, 4)))[0].T
    features = FeatureSketch(np.arange(10), generator.normal(size=10), basis, np.full(5, 2.0), 1.5,
                             generator.normal(size=(20, 5)).astype(np.float32))
    return Reference(model="m", labels=("a", "b", "c"), weights="0f", images=images, held_out=answers, accuracy=0.8,
                     confusion=np.array([[5, 1, 0], [0, 7, 0], [2, 0, 9]]), features=features, notes=("n",), of="run")


def test_a_reference_comes_back_from_its_file(tmp_path, generator, reference):
    write_reference_file(tmp_path / "reference.json", reference)
    read = read_reference_file(tmp_path / "reference.json")
    assert (read.labels, read.accuracy, read.notes) == (reference.labels, 0.8, ("n",))
    assert read.confusion is not None and read.confusion.tolist() == reference.confusion.tolist()
    assert read.images.sketches["brightness"].counts.tolist() == reference.images.sketches["brightness"].counts.tolist()
    features = generator.normal(size=(6, 10))
    assert read.features is not None
    assert read.features.coordinates(features) == pytest.approx(reference.features.coordinates(features), abs=1e-4)


def test_coordinates_keep_the_length_of_what_the_directions_leave(generator):
    """Four directions and the rest: squares add up to the squared distance from the mean."""
    basis = np.linalg.qr(generator.normal(size=(10, 4)))[0].T
    sketch = FeatureSketch(np.arange(10), np.ones(10), basis, np.ones(5), 0.0, np.zeros((0, 5), np.float32))
    features = generator.normal(size=(6, 10))
    assert (sketch.coordinates(features) ** 2).sum(1) == pytest.approx(((features - 1) ** 2).sum(1))
    assert sketch.distances(sketch.coordinates(np.ones((1, 10))))[0] == 0


def test_a_damaged_reference_is_refused(tmp_path, reference):
    path = tmp_path / "reference.json"
    write_reference_file(path, reference)
    good = json.loads(path.read_text())
    for change in ({"labels": "abc"}, {"labels": ["a"]}, {"accuracy": 7}, {"confusion": [[3], [0], [1]]},
                   {"confusion": [[0], [0]]}, {"confusion": [[0], [0], [-1]]}, {"model": None}, {"held_out": None},
                   {"features": {**good["features"], "basis": "AAAA"}}, {"features": {**good["features"], "mean": "!"}},
                   {"features": {**good["features"], "rest": "x"}}, {"features": 3},
                   {"features": {**good["features"], "scale": good["features"]["mean"]}}):
        path.write_text(json.dumps(good | change))
        with pytest.raises(CheckpointError):
            read_reference_file(path)


def test_sketches_say_nothing_of_nothing():
    empty = Sketch()
    empty.add(SCALES["sharpness"], math.nan)
    assert empty.count == 0 and empty.mean == 0 and empty.std == 0
    assert drift.merged([], 3).count == 0

"""How a recipe becomes objects, and what is chosen when it says `auto`."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from visus.core.errors import DataError, RecipeError
from visus.core.preprocessing import Preprocessing
from visus.data.opening import open_samples
from visus.data.samples import Samples
from visus.data.split import split_samples
from visus.data.transforms.mix import Mixing
from visus.losses.classification import get_loss
from visus.run import baselines
from visus.run.build import build_loader, build_mixing, build_model, build_preprocessing
from visus.run.choose import Facts, choose
from visus.run.recipe import Recipe
from visus.run.train import flat
from visus.tasks.classification import Classification


def facts(**changes) -> Facts:
    values = {"train_images": 1259, "num_classes": 10, "multi_label": False, "median_size": (8, 8), "channels": 1,
              "in_memory": True, "device": "cpu"}
    return Facts(**values | changes)


CHOICES = [  # facts, field of the resolved recipe, value
    ({}, "data.image_size", 16),
    ({}, "model.name", "resnet20"),
    ({}, "train.batch_size", 32),
    ({}, "train.epochs", 20),
    ({"median_size": (32, 32), "channels": 3, "train_images": 45000}, "data.image_size", 32),
    ({"median_size": (30, 26), "channels": 3}, "data.image_size", 32),
    ({"median_size": (375, 500), "channels": 3}, "model.name", "resnet18"),
    ({"median_size": (375, 500), "channels": 3}, "data.image_size", 128),
    ({"median_size": (375, 500), "channels": 3, "device": "cuda"}, "data.image_size", 224),
    ({"multi_label": True}, "loss.name", "binary_cross_entropy"),
    ({"train_images": 45000}, "optimizer.lr", 0.1),
]


@pytest.mark.parametrize("model, optimizer, lr", [("resnet20", "sgd", 0.1), ("vgg11", "sgd", 0.01),
                                                  ("vgg11_bn", "sgd", 0.1), ("vit_tiny_16", "adamw", 1e-3),
                                                  ("convnext_tiny", "adamw", 1e-3)])
def test_the_rate_follows_the_kind_of_model(model, optimizer, lr):
    recipe, _ = choose(Recipe().with_values({"model.name": model, "train.batch_size": 128}), facts())
    assert (recipe.optimizer.name, recipe.optimizer.lr) == (optimizer, lr)


@pytest.mark.parametrize("changes, field, value", CHOICES, ids=str)
def test_choices_follow_the_images_and_the_machine(changes, field, value):
    recipe, reasons = choose(Recipe(), facts(**changes))
    found = recipe.model_dump()
    for part in field.split("."):
        found = found[part]
    assert found == value and reasons


def test_what_the_recipe_says_is_kept():
    given = Recipe().with_values({"model.name": "lenet5", "train.epochs": 3, "optimizer.lr": 0.5,
                                  "data.image_size": 32, "augmentation": []})
    recipe, _ = choose(given, facts())
    for section in ("model", "augmentation"):
        assert getattr(recipe, section) == getattr(given, section)
    assert (recipe.train.epochs, recipe.optimizer.lr, recipe.data.image_size) == (3, 0.5, 32)


def test_grey_images_are_not_mirrored_and_colour_images_are():
    assert "horizontal_flip" not in str(choose(Recipe(), facts())[0].augmentation)
    assert "horizontal_flip" in str(choose(Recipe(), facts(channels=3, median_size=(32, 32)))[0].augmentation)


def test_nothing_but_layout_threads_and_precision_is_left_to_the_machine():
    chosen = flat(choose(Recipe(), facts())[0].model_dump(mode="json", exclude={"defend", "distill"}))  # there is none
    assert {name for name, value in chosen.items() if value == "auto"} == {
        "device", "data.format", "train.precision", "train.layout", "train.threads",
        "model.init", "model.norm"}  # the last two: the model as its paper has it


@pytest.mark.parametrize("values, multi_label, named", [
    ({"loss.name": "cross_entropy"}, True, "loss.name"),
    ({"loss.label_smoothing": 0.1}, True, "loss.label_smoothing"),
    ({"task": "multilabel"}, False, "task=multilabel"),
    ({"loss.name": "squared_hinge", "mix.mixup": 0.2}, False, "mix.mixup")])
def test_a_recipe_that_contradicts_the_data_or_itself_is_refused(values, multi_label, named):
    with pytest.raises(RecipeError, match=named):
        choose(Recipe().with_values(values), facts(multi_label=multi_label))


def test_mixing_is_for_training_alone_and_its_numbers_are_the_recipes():
    recipe = Recipe().with_values({"mix.mixup": 0.3, "mix.cutmix": 0.7, "mix.cutmix_share": 0.2,
                                   "mix.probability": 0.9})
    assert build_mixing(recipe, training=True) == Mixing(mixup=0.3, cutmix=0.7, cutmix_share=0.2, probability=0.9)
    assert build_mixing(recipe, training=False) is None and build_mixing(Recipe(), training=True) is None


def test_a_model_for_squares_refuses_another_shape():
    recipe = Recipe().with_values({"model.name": "mlp"})
    preprocessing = Preprocessing(size=(16, 24), channels=1, mean=(0.0,), std=(1.0,))
    with pytest.raises(RecipeError, match="square"):
        build_model(recipe, preprocessing, 10)


def test_normalisation_statistics_come_from_the_training_split_alone():
    images = np.zeros((40, 8, 8, 3), np.uint8)
    images[:20] = np.arange(20, dtype=np.uint8)[:, None, None, None] * 10
    images[20:] = 255  # were these seen, the mean would be far off
    samples = Samples(format="npz", classes=("a", "b"), targets=np.arange(40) % 2, images=images)
    recipe = Recipe().with_values({"data.image_size": 8, "data.channels": 3})
    made = build_preprocessing(recipe, samples, np.arange(20))
    expected = images[:20].astype(np.float64) / 255
    assert made.mean == pytest.approx((expected.mean(),) * 3, abs=1e-6)
    assert made.std == pytest.approx((expected.std(),) * 3, abs=1e-6)


def test_normalise_equals_its_equation():
    preprocessing = Preprocessing(size=(4, 4), mean=(0.1, 0.5, 0.9), std=(0.2, 0.5, 2.0))
    images = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for c in range(3):
        expected = (images[:, c] - preprocessing.mean[c]) / preprocessing.std[c]
        torch.testing.assert_close(preprocessing.normalise(images)[:, c], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [(50, 37), (224, 224), (17, 90)])
@pytest.mark.parametrize("interpolation, levels", [("bilinear", 1), ("bicubic", 3)])
def test_resize_is_within_rounding_of_pillows(size, interpolation, levels):
    """On noise, the hardest case; both work in fixed point, with weights rounded differently."""
    generator = np.random.Generator(np.random.PCG64(1))
    pixels = generator.integers(0, 256, (120, 91, 3), dtype=np.uint8)
    ours = Preprocessing(size=size, interpolation=interpolation).resized(pixels).permute(1, 2, 0).numpy()
    kind = Image.Resampling.BILINEAR if interpolation == "bilinear" else Image.Resampling.BICUBIC
    pillows = np.asarray(Image.fromarray(pixels).resize((size[1], size[0]), kind))
    difference = np.abs(ours.astype(int) - pillows.astype(int))
    assert difference.max() <= levels and difference.mean() < 0.5


@pytest.mark.parametrize("shape", [(300, 400), (400, 300), (256, 256), (257, 511)])
def test_short_side_resize_and_centre_crop_see_what_pillow_sees(shape):
    """The rule of ImageNet evaluation: short side to size / crop_fraction, then the centre."""
    generator = np.random.Generator(np.random.PCG64(2))
    pixels = np.asarray(Image.fromarray(generator.integers(0, 256, (9, 9, 3), dtype=np.uint8)).resize(shape[::-1]))
    ours = Preprocessing(size=(224, 224), resize="crop", crop_fraction=0.875).resized(pixels)
    scale = 256 / min(shape)
    height, width = round(shape[0] * scale), round(shape[1] * scale)
    left, top = round((width - 224) / 2), round((height - 224) / 2)
    expected = Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR).crop(
        (left, top, left + 224, top + 224))
    assert np.abs(ours.permute(1, 2, 0).numpy().astype(int) - np.asarray(expected).astype(int)).max() <= 1


def test_padding_keeps_the_aspect_and_fills_with_the_background():
    pixels = np.full((10, 20, 3), 7, np.uint8)
    out = Preprocessing(size=(40, 40), resize="pad", background=(1, 2, 3)).resized(pixels)
    assert (out[:, 10:30] == 7).all()
    assert out[:, 0, 0].tolist() == [1, 2, 3] and out[:, 39, 39].tolist() == [1, 2, 3]


def test_grey_is_the_luma_that_pillow_computes():
    generator = np.random.Generator(np.random.PCG64(3))
    pixels = generator.integers(0, 256, (16, 16, 3), dtype=np.uint8)
    ours = Preprocessing(size=(16, 16), channels=1, mean=(0.0,), std=(1.0,)).resized(pixels)[0].numpy()
    assert np.array_equal(ours, np.asarray(Image.fromarray(pixels).convert("L")))


# -- baselines ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits():
    samples = open_samples("digits")
    splits = split_samples(samples)
    preprocessing = Preprocessing(size=(16, 16), channels=1, mean=(0.3,), std=(0.35,), labels=samples.classes)
    task = Classification(preprocessing=preprocessing, loss_function=get_loss("cross_entropy"))
    return samples, splits, preprocessing, task


def test_chance_and_prior_baselines_are_what_their_names_say(digits):
    samples, splits, preprocessing, task = digits
    made = {b.name: b.metrics for b in baselines.baselines(samples, splits, preprocessing, task, seed=0)}
    assert made["chance"]["accuracy"].value == 0.1
    train, test = samples.targets[splits["train"]], samples.targets[splits["test"]]
    majority = np.bincount(train).argmax()
    assert made["class prior"]["accuracy"].value == pytest.approx((test == majority).mean())
    prior = np.bincount(train) / len(train)
    assert made["class prior"]["nll"].value == pytest.approx(-np.log(prior[test]).mean(), abs=1e-6)


def test_the_softmax_regression_baseline_equals_scikit_learns(digits):
    linear_model = pytest.importorskip("sklearn.linear_model", reason="scikit-learn (extra parity) is not installed")
    samples, splits, preprocessing, _ = digits
    ours = baselines._softmax_regression(samples, splits, preprocessing, seed=0, many=False)
    small = torch.stack([preprocessing.resized(image) for image in samples.images]).float() / 255
    pixels = preprocessing.normalise(small).flatten(1).numpy()
    count = len(splits["train"])
    peer = linear_model.LogisticRegression(C=1 / (baselines.L2 * count), max_iter=2000, tol=1e-8)
    peer.fit(pixels[splits["train"]], samples.targets[splits["train"]])
    expected = peer.predict_proba(pixels[splits["test"]])
    assert np.abs(ours.probs.numpy() - expected).mean() < 0.01
    assert (ours.probs.numpy().argmax(1) == expected.argmax(1)).mean() > 0.99


# -- observers ---------------------------------------------------------------------------------------------------


def test_tensorboard_events_hold_what_the_log_holds(tmp_path):
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    import visus

    run = visus.train("digits", out=tmp_path / "run", progress=False, tensorboard=True, values={
        "model.name": "softmax_regression", "train.epochs": 2, "train.threads": 1, "train.layout": "contiguous"})
    events = EventAccumulator(str(run.path / "tensorboard")).Reload()
    logged = [e["metrics"]["accuracy"] for e in run.log if e["event"] == "epoch"]
    assert [e.value for e in events.Scalars("val/accuracy")] == pytest.approx(logged, abs=1e-6)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_in_python_is_what_the_command_makes(tmp_path, precision):
    import visus

    run = visus.train("digits", out=tmp_path / "run", progress=False, values={
        "model.name": "softmax_regression", "train.epochs": 2, "train.threads": 1, "train.layout": "contiguous",
        "train.precision": precision})
    assert run.status == "finished" and run.report.exists() and 0.5 < run.metrics["accuracy"] <= 1
    assert visus.load(run.path).recipe == run.recipe
    assert "<svg" in run._repr_html_() and "accuracy" in repr(run)
    samples = open_samples("digits")
    with np.load(run.path / "evaluation/test.npz") as file:
        index, probs = file["index"], file["probs"]
    answers = run.predict([samples.images[i] for i in index], top=10)
    for answer, row in zip(answers, probs, strict=True):
        assert answer.probs[0] == pytest.approx(float(row.max()), abs=1e-6)
    assert run.evaluate().metrics["accuracy"].value == run.metrics["accuracy"]


def test_repeats_reach_the_loader_and_what_contradicts_them_is_refused(tmp_path):
    samples = open_samples("digits")
    preprocessing = Preprocessing(size=(8, 8), channels=1, mean=(0.0,), std=(1.0,), labels=samples.classes)
    values = {"data.repeats": 3, "train.batch_size": 12, "data.workers": 0, "data.cache": False, "augmentation": ()}

    def first(**changes):
        recipe = Recipe().with_values(values | changes)
        loader = build_loader(recipe, samples, np.arange(60), preprocessing, training=True,
                              device=torch.device("cpu"), cache=None)
        return loader.batch(0, 0).index.tolist()

    assert len(set(first())) == 4 and len(first()) == 12
    with pytest.raises(DataError, match="repeats=3"):
        first(**{"train.batch_size": 10})
    with pytest.raises(RecipeError, match="data.repeats=3"):
        first(**{"data.sampling": "weighted"})

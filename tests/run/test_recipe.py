from __future__ import annotations

import json

import pytest
import yaml
from pydantic import ValidationError

from visus.core.errors import RecipeError
from visus.run.recipe import Recipe, parse_assignments, read_yaml
from visus.run.recipes import find_recipe, recipes_folder, shipped_recipes

WRONG = [  # values, what the message must name
    ({"train": {"epoch": 3}}, ["train.epoch", "no such field", "'train.epochs'"]),
    ({"trian": {"epochs": 3}}, ["trian", "'train'"]),
    ({"train": {"epochs": "many"}}, ["train.epochs='many'"]),
    ({"train": {"epochs": 0}}, ["train.epochs=0"]),
    ({"optimizer": {"lr": -0.1}}, ["optimizer.lr=-0.1"]),
    ({"optimizer": {"lr": float("nan")}}, ["optimizer.lr=nan"]),
    ({"data": {"val": 0.6, "test": 0.5}}, ["data.val=0.6", "data.test=0.5"]),
    ({"data": {"image_size": [32]}}, ["data.image_size=[32]"]),
    ({"data": {"on_bad_image": "ignore"}}, ["data.on_bad_image='ignore'", "'stop'"]),
    ({"model": {"_target_": "os.system"}}, ["model._target_", "no such field"]),
]
NOT_PLAIN = [  # file content, what the message must name
    ("train: {epochs: [", "line"),
    ("train: !!python/object/apply:os.system [ls]", "line 1"),
    ("a: &x [1]\nb: *x", "line 1"),
    ("\ttrain: 3", "line 1"),
    ("- 1\n- 2", "holds a list"),
    ("just text", "holds a str"),
]


@pytest.mark.parametrize("values, named", WRONG, ids=lambda v: str(v)[:40])
def test_a_wrong_field_is_named_with_value_and_remedy(values, named):
    with pytest.raises(RecipeError) as error:
        Recipe.parse(values)
    for word in named:
        assert word in str(error.value)


@pytest.mark.parametrize("text, named", NOT_PLAIN, ids=lambda t: repr(t)[:30])
def test_a_file_that_is_not_plain_yaml_is_refused_with_its_line(tmp_path, text, named):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=named) as error:
        Recipe.load(path)
    assert str(path) in str(error.value)


def test_a_recipe_file_above_the_limit_is_not_parsed(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("description: " + "x" * (1 << 20))
    with pytest.raises(RecipeError, match="more than the limit"):
        read_yaml(path)


def test_deep_nesting_is_refused(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("a: " + "[" * 2000)
    with pytest.raises(RecipeError):
        Recipe.load(path)


def test_yaml_round_trip_is_the_same_recipe(tmp_path):
    recipe = Recipe().with_values({"train.epochs": 3, "augmentation": [{"name": "horizontal_flip"}],
                                   "data.image_size": [32, 48], "optimizer.lr": 1e-5, "description": "ä <b> é"})
    recipe.save(tmp_path / "r.yaml")
    assert Recipe.load(tmp_path / "r.yaml") == recipe


def test_a_recipe_is_frozen():
    with pytest.raises(ValidationError):
        Recipe().task = "multilabel"


@pytest.mark.parametrize("text, value", [("train.epochs=3", 3), ("optimizer.lr=1e-3", 1e-3), ("train.ema=0.99", 0.99),
                                         ("data.path=a b/c", "a b/c"), ("model.config.depth=5", 5),
                                         ("train.clip_norm=null", None)])
def test_an_assignment_sets_its_field(text, value):
    recipe = Recipe().with_values(parse_assignments([text]))
    found = recipe.model_dump()
    for part in text.split("=")[0].split("."):
        found = found[part]
    assert found == value


@pytest.mark.parametrize("text", ["train.epochs", "=3", "train.epoch=3", "train.epochs=many", "x.y.z=[1"])
def test_a_wrong_assignment_is_named(text):
    with pytest.raises(RecipeError) as error:
        Recipe().with_values(parse_assignments([text]))
    assert text.split("=")[0] in str(error.value)


def test_the_json_schema_describes_every_field():
    schema = Recipe.json_schema()
    assert set(schema["properties"]) == set(Recipe.model_fields)
    assert "epochs" in schema["$defs"]["Train"]["properties"]


@pytest.mark.parametrize("path", shipped_recipes().values(), ids=lambda p: p.stem)
def test_each_shipped_recipe_is_valid_and_states_its_result(path):
    recipe = Recipe.load(path)
    assert recipe.description
    assert yaml.safe_load(path.read_text())["description"] == recipe.description


def test_the_result_that_a_recipe_states_is_the_measured_one():
    results = json.loads((recipes_folder() / "results.json").read_text())
    assert results.keys() <= shipped_recipes().keys()
    for name, path in shipped_recipes().items():
        if name not in results:
            assert "Not measured here" in Recipe.load(path).description
            continue
        runs = results[name]["runs"]
        accuracy = 100 * sum(run["test_accuracy"] for run in runs) / len(runs)
        minutes = sum(run["cpu_minutes"] for run in runs) / len(runs)
        assert Recipe.load(path).description.endswith(
            f"Measured: {accuracy:.2f} % test accuracy, {len(runs)} seed{'s' * (len(runs) > 1)}, {minutes:.1f} CPU "
            "minutes")


def test_vit_and_cnn_were_compared_at_nearly_equal_cost():
    results = json.loads((recipes_folder() / "results.json").read_text())
    vit, cnn = (results[name]["runs"][0]["cpu_minutes"] for name in ("cifar10-vit", "cifar10-resnet20-short"))
    assert 0.8 < vit / cnn < 1.25


def test_an_unknown_recipe_name_gets_the_nearest():
    name = next(iter(shipped_recipes()))
    with pytest.raises(RecipeError, match=name):
        find_recipe(name + "x")


def test_the_cifar10_recipe_reached_the_courses_bar():
    """CS231n assignment 2, question 5: at least 70 % within 10 epochs; here on the test images."""
    recipe = Recipe.load(find_recipe("cifar10-resnet20"))
    runs = json.loads((recipes_folder() / "results.json").read_text())["cifar10-resnet20"]["runs"]
    assert recipe.train.epochs <= 10 and runs and all(run["test_accuracy"] >= 0.70 for run in runs)

"""visus doctor: a recipe, images, a run; exit codes; wrong calls."""

from __future__ import annotations

import json

import pytest

from visus.cli.main import main

QUICK = ["--set", "train.threads=1", "--set", "train.layout=contiguous", "--set", "model.name=mlp", "--set",
         "data.image_size=8"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("doctor") / "run"
    assert main(["train", "digits", "--out", str(out), "--epochs", "2", "--quiet", *QUICK]) == 0
    return out


def test_healthy_images_and_recipe_have_no_error(capsys):
    assert main(["doctor", "digits", "--quiet", "--budget", "900", *QUICK]) == 0
    out = capsys.readouterr().out
    assert " checks in " in out and "error" not in out and "KeyError" not in out and "left out" not in out, out


def test_a_rate_that_is_far_too_high_is_found_before_training(capsys):
    assert main(["doctor", "digits", "--no-images", "--quiet", *QUICK, "--set", "optimizer.lr=1000"]) == 1
    out = capsys.readouterr().out
    assert "rate" in out.splitlines()[1] or "rate" in out.splitlines()[4], out


def test_a_skipped_check_is_said_to_be_left_out(capsys):
    assert main(["doctor", "digits", "--no-images", "--quiet", *QUICK, "--skip", "overfit-batch"]) == 0
    assert "left out: overfit-batch: as asked" in capsys.readouterr().out


def test_a_run_is_looked_at_and_nothing_is_written_twice(run, capsys):
    assert main(["doctor", str(run)]) in (0, 1)
    out = capsys.readouterr().out
    assert "14 checks in" in out
    first = out, (run / "findings.jsonl").read_text() if (run / "findings.jsonl").exists() else ""
    main(["doctor", str(run)])
    again = (run / "findings.jsonl").read_text() if (run / "findings.jsonl").exists() else ""
    assert again == first[1] and (run / "report.html").exists()


def test_a_training_is_checked_first_and_ends_with_the_same_weights(run, tmp_path, with_doctor, capsys):
    assert main(["train", "digits", "--out", str(tmp_path / "run"), "--epochs", "2", *QUICK, "--set",
                 "doctor.budget_s=900"]) == 0
    assert "checks in" in capsys.readouterr().out
    record = json.loads((tmp_path / "run/doctor.json").read_text())
    assert record["seconds"].keys() >= {"initial-loss", "overfit-batch", "label-range"}
    assert (tmp_path / "run/model/model.safetensors").read_bytes() == (run / "model/model.safetensors").read_bytes()


def test_every_check_is_listed_with_its_rule(capsys):
    from visus.doctor import registry

    assert main(["doctor", "--list"]) == 0
    out = capsys.readouterr().out
    for entry in registry.entries():
        assert f"  {entry.name}\n      {entry.about['rule']}" in out


@pytest.mark.parametrize("words, said", [
    ([], "run, recipe or path"), (["nowhere"], "nowhere"), (["digits", "--skip", "overfit"], "overfit-batch"),
    (["digits", "--budget", "0"], "budget=0"), (["digits", "other"], "digits other"), (["data"], "data"),
    (["digits", "--set", "optimizer.rate=1"], "optimizer.lr")])
def test_a_wrong_call_ends_with_exit_code_2_and_a_remedy(words, said, capsys):
    assert main(["doctor", *words]) == 2
    assert said in capsys.readouterr().err


def test_a_skipped_check_of_a_run_must_exist(run, capsys):
    assert main(["doctor", str(run), "--skip", "overfiting"]) == 2
    assert "overfitting" in capsys.readouterr().err


def test_the_controls_are_not_of_a_finished_run(run, capsys):
    assert main(["doctor", str(run), "--deep"]) == 2
    assert "recipe.yaml" in capsys.readouterr().err

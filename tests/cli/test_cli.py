"""The command line as a person meets it: one clear message, exit code 2, and nothing lost."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from visus.cli.main import VERBS, main

QUICK = ["--epochs", "1", "--quiet", "--set", "train.threads=1", "--set", "train.layout=contiguous",
         "--set", "train.precision=fp32",
         "--set", "model.name=mlp", "--set", "data.image_size=8", "--set", "report.budget_s=0",
         "--set", "doctor.before=false"]


def picture(path: Path, level: int, side: int = 12) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    generator = np.random.Generator(np.random.PCG64(level))
    Image.fromarray(generator.integers(level, level + 60, (side, side, 3), dtype=np.uint8)).save(path)
    return path


def make_photos(folder: Path, classes: tuple[str, ...] = ("cat", "dog"), count: int = 10) -> Path:
    for number, name in enumerate(classes):
        for i in range(count):
            picture(folder / name / f"{i}.png", 20 + 70 * number + i)
    return folder


def tree(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        digest.update(str(path.relative_to(folder)).encode() + (path.read_bytes() if path.is_file() else b""))
        digest.update(str(path.stat().st_mtime_ns).encode())
    return digest.hexdigest()


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    return make_photos(tmp_path_factory.mktemp("data") / "photos")


@pytest.fixture(scope="module")
def run(photos, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    before = tree(photos)
    assert main(["train", str(photos), "--out", str(out), *QUICK]) == 0
    assert tree(photos) == before, "training changed the image folder"
    return out


def refused(capsys, arguments: list[str], *words: str) -> str:
    """The message of a command that must end with exit code 2."""
    code = main(arguments)
    message = capsys.readouterr().err
    assert code == 2, (code, message)
    assert "Traceback" not in message and "error: " in message
    for word in words:
        assert word in message, message
    return message


# -- wrong inputs ------------------------------------------------------------------------------------------------


def empty_folder(path: Path) -> None:
    path.mkdir()


def one_class(path: Path) -> None:
    make_photos(path, ("cat",))


def text_named_jpg(path: Path) -> None:
    make_photos(path)
    (path / "cat" / "fake.jpg").write_text("not an image at all")


def class_with_one_image(path: Path) -> None:
    make_photos(path)
    picture(path / "owl" / "only.png", 180)


def labels_not_integers(path: Path) -> None:
    path.mkdir()
    np.savez(path / "d.npz", images=np.zeros((9, 8, 8), np.uint8), labels=np.linspace(0, 1, 9))


def labels_missing(path: Path) -> None:
    path.mkdir()
    np.savez(path / "d.npz", images=np.zeros((9, 8, 8), np.uint8))


def csv_with_missing_file(path: Path) -> None:
    path.mkdir()
    (path / "d.csv").write_text("path,label\nnowhere.jpg,cat\n")


def csv_with_empty_label(path: Path) -> None:
    make_photos(path / "p")
    (path / "d.csv").write_text("path,label\np/cat/0.png,cat\np/dog/0.png,\n")


def case_only_difference(path: Path) -> None:
    make_photos(path, ("Cat", "cat", "dog"))


BAD_DATA = [  # what lies at PATH, the file below it, what the message must name
    (empty_folder, "", ["images"]),
    (one_class, "", ["one class"]),
    (text_named_jpg, "", ["fake.jpg"]),
    (class_with_one_image, "", ["owl"]),
    (labels_not_integers, "d.npz", ["labels"]),
    (labels_missing, "d.npz", ["labels"]),
    (csv_with_missing_file, "d.csv", ["nowhere.jpg", "d.csv"]),
    (csv_with_empty_label, "d.csv", ["d.csv", "3"]),
    (case_only_difference, "", ["Cat", "cat"]),
]


@pytest.mark.parametrize("make, file, words", BAD_DATA, ids=lambda v: getattr(v, "__name__", ""))
def test_bad_data_ends_in_one_message_before_a_run_folder_is_made(tmp_path, capsys, make, file, words):
    make(tmp_path / "data")
    before = tree(tmp_path / "data")
    refused(capsys, ["train", str(tmp_path / "data" / file), "--out", str(tmp_path / "run"), *QUICK], *words)
    assert not (tmp_path / "run").exists() and tree(tmp_path / "data") == before


WRONG_COMMANDS = [
    (["train"], ["PATH"]),
    (["train", "no/such/place"], ["no/such/place"]),
    (["train", "digit"], ["digits"]),
    (["trian", "digits"], ["'train'"]),
    (["train", "digits", "--epochs", "many"], ["--epochs"]),
    (["train", "digits", "--epochs", "0"], ["train.epochs"]),
    (["train", "digits", "--lr", "-1"], ["optimizer.lr"]),
    (["train", "digits", "--model", "resnet21"], ["resnet20"]),
    (["train", "digits", "--set", "train.epoch=3"], ["train.epochs"]),
    (["train", "digits", "--set", "epochs"], ["--set epochs"]),
    (["train", "digits", "--recipe", "no-such"], ["no-such"]),
    (["train", "digits", "--device", "cuda:99"], ["cuda:99"]),
    (["train", "digits", "--set", "augmentation=[{name: flipp}]"], ["flipp"]),
    (["train", "digits", "--set", "model.config.depht=3", "--model", "resnet20"], ["depht"]),
    (["train", "digits", "--set", "loss.name=squared_hinge", "--set", "mix.mixup=0.2"], ["loss.name", "mix.mixup"]),
    (["train", "--resume", "no/such/run"], ["no/such/run"]),
    (["evaluate", "."], ["run.json"]),
    (["predict", "no/such/run", "x.jpg"], ["no/such/run", "there is no such run folder"]),
    (["models", "show", "resnet51"], ["resnet50"]),
    (["models", "--family", "resnets"], ["resnet"]),
    (["recipes", "no-such-recipe"], ["no-such-recipe"]),
]


@pytest.mark.parametrize("arguments, words", WRONG_COMMANDS, ids=lambda v: " ".join(v)[:50])
def test_a_wrong_command_names_what_and_the_remedy(tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(tmp_path)
    refused(capsys, arguments, *words)
    assert not list(tmp_path.iterdir()), "something was left behind"


def test_images_may_stand_after_the_options(run, photos, capsys):
    image = str(next(photos.rglob("*.png")))
    for words in (["predict", str(run), image, "--top", "1"], ["predict", "--top", "1", str(run), image],
                  ["predict", str(run), "--top", "1", image]):
        assert main(words) == 0
        assert capsys.readouterr().out.count(image) == 1


def test_a_recipe_file_with_a_misspelt_field_is_named(tmp_path, capsys):
    (tmp_path / "r.yaml").write_text("train: {epoch: 3}\n")
    refused(capsys, ["train", "digits", "--recipe", str(tmp_path / "r.yaml")], "r.yaml", "train.epoch", "train.epochs")


def test_a_run_of_a_newer_version_is_refused(run, tmp_path, capsys):
    import shutil

    newer = tmp_path / "newer"
    shutil.copytree(run, newer)
    about = json.loads((newer / "run.json").read_text())
    (newer / "run.json").write_text(json.dumps(about | {"format": 99}))
    for arguments in (["evaluate", str(newer)], ["train", "--resume", str(newer)], ["report", str(newer)]):
        refused(capsys, arguments, "newer version", "Upgrade")
    model = json.loads((run / "model/model.json").read_text())
    (newer / "model/model.json").write_text(json.dumps(model | {"format": 99}))
    refused(capsys, ["predict", str(newer), "x.png"], "newer version")


def test_an_existing_run_folder_is_never_written_over(run, photos, capsys):
    before = tree(run)
    refused(capsys, ["train", str(photos), "--out", str(run), *QUICK], "not empty", str(run))
    assert tree(run) == before


def test_a_finished_run_is_not_resumed(run, capsys):
    refused(capsys, ["train", "--resume", str(run)], "finished")


def test_a_run_in_use_names_the_process(run, capsys):
    from visus.core.record import RunFolder

    folder = RunFolder.open(run)
    folder.lock()
    try:
        code = subprocess.run([sys.executable, "-m", "visus", "train", "--resume", str(run)], capture_output=True,
                              text=True)
    finally:
        folder.unlock()
    assert code.returncode == 2 and f"in use by process {os.getpid()}" in code.stderr


def test_a_disk_that_is_full_is_one_message_and_the_earlier_run_is_whole(run, photos, tmp_path):
    """A file-size limit of the process stands for the disk: writes fail in the middle of the file."""
    before = tree(run)
    code = ("import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000)); from visus.cli.main import main;"
            "sys.exit(main(sys.argv[1:]))")
    done = subprocess.run([sys.executable, "-c", code, "train", str(photos), "--out", str(tmp_path / "run"), *QUICK],
                          capture_output=True, text=True)
    assert done.returncode == 2 and "could not be written" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
    assert tree(run) == before
    left = list((tmp_path / "run").rglob("step-*.safetensors"))
    assert not left, "a broken checkpoint lies under a final name"


def test_a_damaged_model_is_refused(run, tmp_path, capsys, photos):
    import shutil

    broken = tmp_path / "broken"
    shutil.copytree(run, broken)
    weights = broken / "model/model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-5] ^= 1
    weights.write_bytes(data)
    refused(capsys, ["predict", str(broken), str(photos)], "damaged", "model.safetensors")


# -- what works --------------------------------------------------------------------------------------------------


def test_a_run_folder_holds_what_the_guide_says(run):
    for name in ("report.html", "model/model.safetensors", "model/model.json", "recipe.yaml", "environment.json",
                 "data.json", "metrics.json", "evaluation/test.npz", "log.jsonl", "run.json"):
        assert (run / name).is_file(), name
    about = json.loads((run / "run.json").read_text())
    assert about["status"] == "finished" and about["command"][:3] == ["visus", "train", "--recipe"]
    assert "auto" not in [v for v in json.loads(json.dumps(about)).values() if isinstance(v, str)]


def test_predictions_equal_what_the_evaluation_recorded(run, photos, capsys):
    from visus.data import open_samples

    with np.load(run / "evaluation/test.npz") as file:
        probs, index = file["probs"], file["index"]
    samples = open_samples(str(photos))
    paths = [str(photos / samples.source(int(i))) for i in index]
    assert main(["predict", str(run), *paths, "--output", "jsonl", "--top", "2"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    for row, prob in zip(rows, probs, strict=True):
        given = {answer["label"]: answer["prob"] for answer in row["top"]}
        assert given["cat"] == pytest.approx(float(prob[0]), abs=1e-6)


def test_evaluate_gives_what_the_report_says(run, capsys):
    assert main(["evaluate", str(run), "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    recorded = json.loads((run / "metrics.json").read_text())["splits"]["test"]
    assert again["metrics"]["accuracy"] == recorded["metrics"]["accuracy"]
    assert again["confusion"] == recorded["confusion"]


def test_evaluate_matches_class_names_whatever_their_order(run, photos, tmp_path, capsys):
    rows = "".join(f"{photos}/{name}/{i}.png,{name}\n" for name in ("dog", "cat") for i in range(10))
    (tmp_path / "d.csv").write_text("path,label\n" + rows)
    assert main(["evaluate", str(run), str(photos), "--json"]) == 0
    by_folder = json.loads(capsys.readouterr().out)
    assert main(["evaluate", str(run), str(tmp_path / "d.csv"), "--json"]) == 0
    by_table = json.loads(capsys.readouterr().out)
    assert by_folder["metrics"]["accuracy"]["value"] == by_table["metrics"]["accuracy"]["value"]


def test_evaluate_on_an_unknown_class_names_the_nearest(run, tmp_path, capsys):
    make_photos(tmp_path / "p", ("cats", "dog"))
    refused(capsys, ["evaluate", str(run), str(tmp_path / "p")], "cats", "'cat'")


def test_predict_writes_csv_reads_standard_input_and_goes_on_after_a_bad_file(run, photos, tmp_path, capsys,
                                                                              monkeypatch):
    bad = tmp_path / "bad.png"
    bad.write_text("no")
    evil = picture(tmp_path / "=cmd.png", 30)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{photos}/cat/0.png\n{bad}\n{evil.name}\n"))
    assert main(["predict", str(run), "-", "--output", "csv", "--top", "2"]) == 2
    shown = capsys.readouterr()
    rows = list(csv.DictReader(io.StringIO(shown.out)))
    assert [bool(r["error"]) for r in rows] == [False, True, False] and "bad.png" in shown.err
    assert rows[2]["source"] == "'=cmd.png"


def test_predict_annotates(run, photos, tmp_path):
    assert main(["predict", str(run), str(photos / "cat"), "--annotate", str(tmp_path / "drawn")]) == 0
    drawn = sorted((tmp_path / "drawn").iterdir())
    assert len(drawn) == 10
    with Image.open(drawn[0]) as image:
        assert image.width >= 128 and image.height > image.width


def test_a_command_run_again_from_its_recipe_gives_the_same_bits(run, tmp_path):
    assert main(["train", "--recipe", str(run / "recipe.yaml"), "--out", str(tmp_path / "again"), "--quiet"]) == 0
    assert (tmp_path / "again/model/model.safetensors").read_bytes() == (run / "model/model.safetensors").read_bytes()


def test_a_multi_label_table_trains_and_predicts(tmp_path, capsys):
    generator = np.random.Generator(np.random.PCG64(0))
    rows = []
    for i in range(40):
        red, blue = i % 2, (i // 2) % 2
        pixels = generator.integers(0, 60, (10, 10, 3), dtype=np.uint8)
        pixels[..., 0] += np.uint8(150 * red)
        pixels[..., 2] += np.uint8(150 * blue)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
        rows.append(f"{i}.png," + "|".join(["red"] * red + ["blue"] * blue + ["any"]))
    (tmp_path / "d.csv").write_text("path,labels\n" + "\n".join(rows) + "\n")
    arguments = [*QUICK, "--lr", "0.01"]
    arguments[1] = "12"
    assert main(["train", str(tmp_path / "d.csv"), "--out", str(tmp_path / "run"), *arguments]) == 0
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    assert metrics["headline"]["name"] == "mean_average_precision"
    assert metrics["splits"]["test"]["metrics"]["mean_average_precision"]["value"] > 0.8
    capsys.readouterr()
    assert main(["predict", str(tmp_path / "run"), str(tmp_path / "3.png"), "--output", "jsonl"]) == 0
    assert set(json.loads(capsys.readouterr().out)["predicted"]) <= {"red", "blue", "any"}


def test_every_verb_explains_itself(capsys):
    for verb in VERBS:
        with pytest.raises(SystemExit) as end:
            main([verb, "--help"])
        assert end.value.code == 0
        shown = capsys.readouterr().out
        assert len(shown) > 200 and "--debug" in shown


def test_a_closed_pipe_is_not_an_error():
    done = subprocess.run(f"{sys.executable} -m visus recipes --fields | head -1", shell=True, capture_output=True,
                          text=True)
    assert done.returncode == 0 and "Traceback" not in done.stderr and "Broken" not in done.stderr


def test_names_that_no_terminal_shows_are_printed_safely(run, tmp_path, capsys):
    folder = tmp_path / "odd"
    good = picture(folder / "a.png", 40)
    name = os.fsencode(str(folder)) + b"/new\nline-\xff.png"
    os.rename(os.fsencode(good), name)
    assert main(["predict", str(run), str(folder), "--output", "jsonl"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert "\\n" in row["source"]


def interrupted_run(photos: Path, out: Path) -> Path:
    """A run that was stopped after a few steps, in this process."""
    from visus.core.errors import Interrupted
    from visus.train import trainer

    real, steps = trainer.Trainer._step, [0]

    def step(self, group, waited_s):
        steps[0] += 1
        if steps[0] == 3:
            self.stop.request()
        return real(self, group, waited_s)

    trainer.Trainer._step = step
    try:
        with pytest.raises(Interrupted):
            import visus

            visus.train(photos, out=out, progress=False, values={
                "train.epochs": 2, "train.batch_size": 4, "model.name": "mlp", "data.image_size": 8,
                "train.threads": 1, "train.layout": "contiguous"})
    finally:
        trainer.Trainer._step = real
    return out


def test_a_resume_may_change_the_workers_and_ends_with_the_same_bits(photos, tmp_path, capsys):
    whole, parts = interrupted_run(photos, tmp_path / "whole"), interrupted_run(photos, tmp_path / "parts")
    assert main(["train", "--resume", str(whole), "--quiet"]) == 0
    refused(capsys, ["train", "--resume", str(parts), "--epochs", "9"], "train.epochs=9", "data.workers")
    assert main(["train", "--resume", str(parts), "--quiet", "--workers", "2"]) == 0
    for name in ("model/model.safetensors", "metrics.json"):
        assert (whole / name).read_bytes() == (parts / name).read_bytes(), name


def test_a_resume_with_an_edited_recipe_is_refused_field_by_field(photos, tmp_path, capsys):
    run = interrupted_run(photos, tmp_path / "run")
    text = (run / "recipe.yaml").read_text()
    (run / "recipe.yaml").write_text(text.replace("epochs: 2", "epochs: 5"))
    refused(capsys, ["train", "--resume", str(run)], "train.epochs: 2 became 5", "recipe.yaml")
    (run / "recipe.yaml").write_text(text)
    assert main(["train", "--resume", str(run), "--quiet"]) == 0


def test_a_resume_with_changed_images_is_refused_until_it_is_accepted(tmp_path, capsys):
    photos = make_photos(tmp_path / "photos")
    run = interrupted_run(photos, tmp_path / "run")
    picture(photos / "cat" / "0.png", 120, side=14)
    refused(capsys, ["train", "--resume", str(run)], "images have changed", "--resume-anyway")
    assert main(["train", "--resume", str(run), "--quiet", "--resume-anyway"]) == 0
    assert "images changed" in (run / "findings.jsonl").read_text()


def test_a_run_without_validation_images_is_refused_before_it_begins(photos, tmp_path, capsys):
    refused(capsys, ["train", str(photos), "--out", str(tmp_path / "run"), *QUICK, "--set", "data.val=0"],
            "data.val=0", "no images are left")
    assert not (tmp_path / "run").exists()


def test_a_run_that_diverges_leaves_a_report_with_the_finding(photos, tmp_path, capsys):
    out = tmp_path / "run"
    message = refused(capsys, ["train", str(photos), "--out", str(out), *QUICK, "--epochs", "30", "--lr", "1e30",
                               "--set", "optimizer.name=sgd"], "step", "layer", "--lr")
    assert "saved" not in message
    assert json.loads((out / "run.json").read_text())["status"] == "diverged"
    assert "Training diverged" in (out / "report.html").read_text()


def test_an_image_that_goes_away_after_the_scan_is_named_and_the_run_can_go_on(tmp_path, capsys, monkeypatch):
    from visus.run import train as verb

    photos = make_photos(tmp_path / "photos")
    away, real = photos / "cat" / "3.png", verb._build

    def remove_first(*arguments):
        away.rename(tmp_path / "3.png")
        return real(*arguments)

    monkeypatch.setattr(verb, "_build", remove_first)
    out = tmp_path / "run"
    refused(capsys, ["train", str(photos), "--out", str(out), *QUICK], "3.png")
    monkeypatch.undo()
    assert json.loads((out / "run.json").read_text())["status"] == "failed"
    (tmp_path / "3.png").rename(away)
    assert main(["train", "--resume", str(out), "--quiet"]) == 0


def test_a_run_that_skipped_bad_images_resumes_and_is_evaluated_without_them(tmp_path, capsys):
    photos = make_photos(tmp_path / "photos")
    (photos / "cat" / "bad.png").write_text("no image")
    out = tmp_path / "run"
    assert main(["train", str(photos), "--out", str(out), *QUICK, "--on-bad-image", "skip"]) == 0
    assert [p["file"] for p in json.loads((out / "data.json").read_text())["problems"]] == ["cat/bad.png"]
    assert "bad.png" in (out / "report.html").read_text()
    capsys.readouterr()
    assert main(["evaluate", str(out), "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)
    recorded = json.loads((out / "metrics.json").read_text())["splits"]["test"]
    assert measured["metrics"] == recorded["metrics"]


def test_numbers_get_the_names_of_the_recipe_and_are_matched_when_measured(tmp_path, capsys):
    generator = np.random.Generator(np.random.PCG64(0))
    labels = np.arange(60) % 2
    images = generator.integers(0, 100, (60, 8, 8), dtype=np.uint8) + (100 * labels[:, None, None]).astype(np.uint8)
    np.savez(tmp_path / "d.npz", images=images, labels=labels)
    command = ["train", str(tmp_path / "d.npz"), "--out", str(tmp_path / "run"), *QUICK, "--set"]
    refused(capsys, [*command, "data.class_names=[dark]"], "data.class_names", "2 classes")
    assert main([*command, "data.class_names=[dark, bright]"]) == 0
    assert json.loads((tmp_path / "run/model/model.json").read_text())["preprocessing"]["labels"] == ["dark", "bright"]
    capsys.readouterr()
    for arguments in (["evaluate", str(tmp_path / "run"), "--json"],
                      ["evaluate", str(tmp_path / "run"), str(tmp_path / "d.npz"), "--json"]):
        assert main(arguments) == 0
        assert [c["name"] for c in json.loads(capsys.readouterr().out)["per_class"]] == ["dark", "bright"]


def test_running_out_of_memory_names_batch_and_size(photos, tmp_path, monkeypatch, capsys):
    import torch

    from visus.train.trainer import Trainer

    def step(self, group, waited_s):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr(Trainer, "_step", step)
    refused(capsys, ["train", str(photos), "--out", str(tmp_path / "run"), *QUICK], "out of memory", "--batch-size")


def test_too_little_shared_memory_means_no_workers(photos, tmp_path, monkeypatch, capsys):
    import shutil
    from collections import namedtuple

    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1 << 20, 1 << 20, 1000))
    arguments = [a for a in QUICK if a != "--quiet"]
    assert main(["train", str(photos), "--out", str(tmp_path / "run"), "--workers", "2", *arguments]) == 0
    assert "shared memory" in capsys.readouterr().out
    assert "workers: 0" in (tmp_path / "run/recipe.yaml").read_text()


def test_sigterm_saves_and_resume_ends_with_the_same_bits(photos, tmp_path):
    import signal
    import time

    def command(out: Path) -> list[str]:
        return [sys.executable, "-m", "visus", "train", str(photos), "--out", str(out), *QUICK, "--epochs", "24",
                "--batch-size", "4"]

    def wait_for_steps(out: Path) -> None:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            log = out / "log.jsonl"
            if log.exists() and log.read_text().count("\n") > 5:
                return
            time.sleep(0.02)
        raise AssertionError("training did not begin")

    subprocess.run(command(tmp_path / "whole"), check=True, capture_output=True)
    process = subprocess.Popen(command(tmp_path / "parts"), stderr=subprocess.PIPE, text=True)
    wait_for_steps(tmp_path / "parts")
    process.send_signal(signal.SIGTERM)
    _, message = process.communicate(timeout=60)
    assert process.returncode == 143 and "--resume" in message
    assert json.loads((tmp_path / "parts/run.json").read_text())["status"] == "interrupted"
    assert main(["train", "--resume", str(tmp_path / "parts"), "--quiet"]) == 0
    for name in ("model/model.safetensors", "metrics.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes(), name

"""Learning from a teacher: the loss of each method, what the teacher sees, phases, resumes, refusals."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from visus.core.batch import ImageBatch
from visus.core.errors import RunError, UserError
from visus.core.files import read_json, write_json
from visus.core.preprocessing import Preprocessing
from visus.losses.classification import cross_entropy
from visus.losses.distillation import hard, mimic, softened
from visus.run.distill import Announced, Distillation, choose_distillation
from visus.run.models import create_model
from visus.run.recipe import Recipe
from visus.run.teacher import Teacher
from visus.tasks.classification import Classification
from visus.train.trainer import Trainer

PLAIN = {"train.layout": "contiguous", "train.threads": 1, "report.budget_s": 0, "train.epochs": 2, "model.name": "mlp",
         "model.config.hidden_dims": [16, 16], "train.batch_size": 16, "data.image_size": 8, "doctor.watch": False}
GREY = Preprocessing(size=(8, 8), channels=1, mean=(0.4,), std=(0.3,), labels=("a", "b", "c"))


def _images(count=96, names=("0", "1", "2")):
    generator = np.random.default_rng(0)
    images = generator.integers(0, 128, (count, 8, 8), dtype=np.uint8)
    labels = np.arange(count) % len(names)
    for i, label in enumerate(labels):
        images[i, :, 2 * label:2 * label + 2] += 100
    return images, labels


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """(data, a trained teacher's run), for students to learn from."""
    import visus

    folder = tmp_path_factory.mktemp("taught")
    images, labels = _images()
    np.savez(folder / "d.npz", images=images, labels=labels)
    run = visus.train(folder / "d.npz", out=folder / "teacher", progress=False,
                      values=PLAIN | {"model.config.hidden_dims": [32, 32, 32], "train.epochs": 4})
    return folder / "d.npz", run


def _student(taught, out, **values):
    import visus

    data, teacher = taught
    return visus.train(data, out=out, progress=False, values=PLAIN | {"distill.teacher": str(teacher.path)} | values)


# -- the loss ------------------------------------------------------------------------------------------------------


def _batch(count=5):
    generator = torch.Generator().manual_seed(1)
    return ImageBatch(torch.rand(count, 1, 8, 8, generator=generator), torch.arange(count) % 3, torch.arange(count))


def _net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))


@pytest.mark.parametrize("loss", [mimic, hard, lambda s, t: softened(s, t, 4.0)])
def test_the_loss_is_the_weighted_sum_of_labels_and_teacher(loss):
    student, teacher, batch = _net(), _net(1), _batch()
    task = Classification(preprocessing=GREY, loss_function=cross_entropy, defence=Distillation(
        lambda images: teacher(images), loss, weight=0.7, preprocessing=GREY, loss_function=cross_entropy))
    value, logits = task.loss(student.train(), batch)
    own = student((batch.images - 0.4) / 0.3)
    wanted = 0.3 * F.cross_entropy(own, batch.targets) + 0.7 * loss(own, teacher(batch.images).detach())
    assert torch.allclose(value, wanted, rtol=1e-5) and torch.allclose(logits, own.detach(), atol=1e-6)
    assert value.requires_grad
    assert torch.allclose(task.loss(student.eval(), batch)[0], F.cross_entropy(own, batch.targets))  # on val: labels


def test_a_distillation_token_learns_from_the_teacher_and_the_class_token_from_the_labels():
    """DeiT, equation 3: half of each."""
    torch.manual_seed(0)
    model = create_model("deit_tiny_distilled_16", image_size=8, patch_size=4, dim=12, depth=1, num_heads=2,
                         in_channels=1, num_classes=3).train()
    teacher, batch = _net(1), _batch()
    lesson = Distillation(teacher, hard, weight=0.5, preprocessing=GREY, loss_function=cross_entropy)
    value, logits = lesson(lambda *_: pytest.fail("the plain loss"), model, batch)
    images = GREY.normalise(batch.images)
    by_label, by_teacher = model.distillation_logits(images)
    wanted = 0.5 * F.cross_entropy(by_label, batch.targets) + 0.5 * F.cross_entropy(
        by_teacher, teacher(batch.images).argmax(1))
    assert torch.allclose(value, wanted) and torch.allclose(logits, model(images), atol=1e-6)
    lesson.weight = 0.0
    lesson(lambda *_: None, model, batch)[0].backward()
    assert model.head.weight.grad.abs().sum() > 0 and not model.head_dist.weight.grad.any()


def test_auxiliary_classifiers_learn_from_the_labels():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = _net(0), _net(2)

        def training_logits(self, images):
            return self.one(images), ((0.3, self.two(images)),)

    net, batch, teacher = Net(), _batch(), _net(1)
    value, _ = Distillation(teacher, mimic, weight=0.25, preprocessing=GREY, loss_function=cross_entropy)(
        lambda *_: None, net, batch)
    x = GREY.normalise(batch.images)
    labels = F.cross_entropy(net.one(x), batch.targets) + 0.3 * F.cross_entropy(net.two(x), batch.targets)
    assert torch.allclose(value, 0.75 * labels + 0.25 * mimic(net.one(x), teacher(batch.images)))


def test_lambda_of_fitnets_falls_in_a_line_from_4_to_1_over_the_epochs():
    lesson = Distillation(_net(), mimic, weight=0.8, preprocessing=GREY, loss_function=cross_entropy, falls_over=7)
    found = []

    class Source:
        def epoch(self, epoch, start_batch=0):
            found.append(lesson.weight / (1 - lesson.weight))
            return iter(())

    for epoch in (0, 1, 2, 3, 4, 5, 6):
        list(Announced(Source(), lesson.begin_epoch).epoch(epoch, 2))
    assert found == pytest.approx([4, 3.5, 3, 2.5, 2, 1.5, 1])


# -- what the teacher sees -----------------------------------------------------------------------------------------


def test_the_teacher_sees_its_own_size_channels_and_mean_and_answers_in_the_students_order():
    own = Preprocessing(size=(16, 16), mean=(0.1, 0.2, 0.3), std=(0.5, 0.5, 0.5), labels=("c", "a", "b"))
    seen = []

    class Net(nn.Module):
        def forward(self, images):
            seen.append(images)
            return torch.tensor([[1.0, 2.0, 3.0]]).expand(len(images), -1)

    logits = Teacher(Net(), "net", own, "here", order=(1, 2, 0))(torch.full((2, 1, 8, 8), 0.6))
    assert logits.tolist() == [[2.0, 3.0, 1.0]] * 2
    assert seen[0].shape == (2, 3, 16, 16)
    assert torch.allclose(seen[0][:, 0], torch.tensor(1.0)) and torch.allclose(seen[0][:, 2], torch.tensor(0.6))


def test_colour_becomes_luma_for_a_grey_teacher():
    plain = Preprocessing(size=(4, 4), channels=1, mean=(0.0,), std=(1.0,))
    seen = Teacher(nn.Identity(), "net", plain, "here").prepared(
        torch.tensor([1.0, 0.5, 0.0]).view(1, 3, 1, 1).expand(1, 3, 4, 4))
    assert seen.shape == (1, 1, 4, 4) and torch.allclose(seen, torch.tensor(0.299 + 0.5 * 0.587))


def test_the_teacher_has_no_graph_and_stays_in_eval_mode(taught, tmp_path):
    from visus.run.teacher import load_teacher

    recipe = Recipe().with_values({"distill.teacher": str(taught[1].path)})
    teacher = load_teacher(recipe, taught[1].preprocessing)
    assert not teacher.model.training and not any(p.requires_grad for p in teacher.model.parameters())
    images = torch.rand(2, 1, 8, 8, requires_grad=True)
    assert not teacher(images).requires_grad
    wanted = taught[1].model(taught[1].preprocessing.normalise(images)).detach()
    assert torch.allclose(teacher(images), wanted, atol=1e-6)


# -- runs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "weight"), [("logits", 0.9), ("mimic", 1.0), ("hard", 0.5)])
def test_a_run_learns_from_a_teacher_and_reports_both(taught, tmp_path, method, weight):
    run = _student(taught, tmp_path / "run", **{"distill.method": method})
    assert run.recipe.distill.weight == weight
    rows = {row["name"]: row for row in run.folder.read("metrics.json")["baselines"]}
    assert rows["teacher, mlp"]["metrics"]["accuracy"]["value"] == taught[1].metrics["accuracy"]
    assert "teacher, mlp" in run.report.read_text()
    assert run.folder.read("teacher.json")["source"] == str(taught[1].path)


def test_the_first_phase_moves_the_guided_layer_towards_the_hint_and_leaves_its_curve(taught, tmp_path):
    run = _student(taught, tmp_path / "run", **{"distill.method": "hints", "distill.hint_epochs": 4})
    curve = read_json(run.path / "hints/epochs.json", error=RunError)
    assert [row["epoch"] for row in curve] == [0, 1, 2, 3]
    assert curve[-1]["val_loss"] < curve[0]["val_loss"]
    settings = run.recipe.distill
    assert settings.weight == 0.8 and "auto" not in (settings.hint_layer, settings.guided_layer)
    assert len([e for e in run.log if e["event"] == "epoch"]) == 2  # the phase is not in the run's own curve


class Killed(BaseException):
    pass


def _digest(run):
    return [hashlib.sha256((run / "model/model.safetensors").read_bytes()).hexdigest(),
            (run / "metrics.json").read_text().replace(str(run), "")]


@pytest.mark.parametrize("steps", [3, 7, 10, 15], ids=["first phase", "later in it", "training", "later in that"])
def test_a_run_with_hints_killed_in_either_phase_goes_on_to_the_same_bits(taught, tmp_path, monkeypatch, steps):
    import visus

    values = {"distill.method": "hints", "distill.hint_epochs": 2, "train.checkpoint_steps": 2, "train.ema": 0.8,
              "train.epochs": 3}
    whole = _student(taught, tmp_path / "whole", **values)
    done, step = [0], Trainer._step

    def mortal(self, *arguments):
        if done[0] == steps:
            raise Killed
        done[0] += 1
        return step(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", mortal)
        with pytest.raises(Killed):
            _student(taught, tmp_path / "killed", **values)
    resumed = visus.resume(tmp_path / "killed", progress=False)
    assert _digest(resumed.path) == _digest(whole.path)
    assert (resumed.path / "hints/epochs.json").read_text() == (whole.path / "hints/epochs.json").read_text()


def test_a_resume_with_another_teacher_is_refused(taught, tmp_path, monkeypatch):
    import visus

    def killed(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", killed)
        with pytest.raises(Killed):
            _student(taught, tmp_path / "run")
    record = json.loads((tmp_path / "run/teacher.json").read_text())
    write_json(tmp_path / "run/teacher.json", record | {"sha256": "0" * 64})
    with pytest.raises(RunError, match="the teacher has changed"):
        visus.resume(tmp_path / "run", progress=False)


# -- refusals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("values", "message"), [
    ({"distill.teacher": "nowhere"}, "no such run folder"),
    ({"distill.teacher": "resnet20:torchvision"}, "no public weights of this origin"),
    ({"distill.method": "hints", "distill.guided_layer": "layers.9"}, "Did you mean|Known"),
    ({"distill.method": "hints", "distill.weight": 1.0}, "cannot begin at 1"),
    ({"distill.hint_epochs": 2}, "reads no hidden layer"),
    ({"defend.method": "fgsm"}, "Choose one of the two"),
    ({"distill.teacher": None, "distill.method": "mimic"}, "without a teacher"),
])
def test_what_cannot_be_is_refused_before_a_folder_is_made(taught, tmp_path, values, message):
    with pytest.raises(UserError, match=message):
        _student(taught, tmp_path / "run", **values)
    assert not (tmp_path / "run").exists()


def test_a_teacher_of_other_classes_is_refused_and_they_are_named(taught, tmp_path):
    import visus

    images, labels = _images()
    np.savez(tmp_path / "d.npz", images=images, labels=labels, class_names=np.array(["0", "1", "cat"]))
    with pytest.raises(UserError, match=r"other classes: 3, the student 3; not in both: 2, cat"):
        visus.train(tmp_path / "d.npz", out=tmp_path / "run", progress=False, values=PLAIN | {
            "distill.teacher": str(taught[1].path), "data.class_names": ["0", "1", "cat"]})


def test_several_labels_are_refused():
    recipe = Recipe().with_values({"distill.teacher": "runs/a"})
    with pytest.raises(UserError, match="one label per image"):
        choose_distillation(recipe, {"task": "multilabel"}, [])


def test_the_command_line_names_the_teacher(taught, tmp_path, capsys):
    from visus.cli.main import main

    words = [str(word) for name, value in PLAIN.items() for word in ("--set", f"{name}={json.dumps(value)}")]
    assert main(["train", str(taught[0]), "--distill", str(taught[1].path), "--out", str(tmp_path / "run"),
                 *words]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "distilled by logits at temperature 4: the teacher counts 0.9 of the loss, the labels 0.1" in said
    assert "teacher, mlp: accuracy" in said

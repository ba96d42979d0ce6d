"""Classification and multi-label tasks: normalisation, loss, predictions, metrics."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from visus.core.batch import ImageBatch
from visus.core.preprocessing import Preprocessing
from visus.losses.classification import binary_cross_entropy, cross_entropy
from visus.metrics.running import Mean, concatenate
from visus.tasks.classification import Classification, MultiLabel

PREPROCESSING = Preprocessing(size=(4, 4), mean=(0.2, 0.4, 0.6), std=(0.5, 0.25, 0.1), labels=("a", "b", "c"))
SINGLE = Classification(preprocessing=PREPROCESSING, loss_function=cross_entropy)
MANY = MultiLabel(preprocessing=PREPROCESSING, loss_function=binary_cross_entropy)


def model(dtype=torch.float32) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 3)).to(dtype)


def batch(count: int = 11, *, many: bool = False, dtype=torch.float32) -> ImageBatch:
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(count, 3, 4, 4, generator=generator).to(dtype)
    targets = torch.randint(0, 3, (count,), generator=generator)
    return ImageBatch(images, torch.eye(3)[targets] if many else targets, torch.arange(count) + 5)


def split(whole: ImageBatch, size: int) -> list[ImageBatch]:
    return [ImageBatch(*parts) for parts in zip(whole.images.split(size), whole.targets.split(size),
                                                whole.index.split(size), strict=True)]


@pytest.mark.parametrize(("task", "activation"), [(SINGLE, lambda z: z.softmax(1)), (MANY, torch.sigmoid)])
def test_loss_and_predictions_see_the_normalised_images(task, activation):
    data, net = batch(many=task is MANY), model()
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (PREPROCESSING.mean, PREPROCESSING.std))
    logits = net((data.images - mean) / std)
    loss, shown = task.loss(net, data)
    assert torch.allclose(loss, task.loss_function(logits, data.targets), rtol=1e-5)
    assert torch.allclose(shown, logits, atol=1e-5) and not shown.requires_grad
    got = task.predict(net, data)
    assert torch.allclose(got.probs, activation(logits), atol=1e-6) and not got.probs.requires_grad
    assert torch.equal(got.probs, task.predictions(shown, data).probs)
    assert torch.equal(got.index, data.index) and torch.equal(got.targets, data.targets)


@pytest.mark.parametrize("task", [SINGLE, MANY])
def test_mean_loss_over_uneven_batches_equals_the_loss_of_the_whole(task):
    whole, net = batch(many=task is MANY, dtype=torch.float64), model(torch.float64)
    mean = Mean()
    for part in split(whole, 4):  # 4, 4, 3
        mean.update(task.loss(net, part)[0], len(part))
    assert mean.compute() == pytest.approx(task.loss(net, whole)[0].item(), rel=1e-12)


@pytest.mark.parametrize("task", [SINGLE, MANY])
def test_headline_is_among_the_metrics_and_equals_its_quick_form(task):
    whole, net = batch(60, many=task is MANY), model()
    predictions = concatenate([task.predict(net, part) for part in split(whole, 16)])
    evaluation = task.evaluate(predictions, PREPROCESSING.labels, "val", resamples=100)
    assert evaluation.metrics[task.headline].value == pytest.approx(task.headline_value(predictions), abs=1e-12)
    assert evaluation.metrics[task.headline].low is not None
    assert task.higher_is_better and task.num_outputs == 3


@pytest.mark.parametrize(("task", "metric"), [(SINGLE, "accuracy"), (MANY, "micro_f1")])
def test_running_metric_on_logits_equals_the_evaluation(task, metric):
    whole, net = batch(60, many=task is MANY), model()
    running = task.running_metric()
    for part in split(whole, 16):
        running.update(task.loss(net, part)[1], part.targets)
    evaluation = task.evaluate(task.predict(net, whole), PREPROCESSING.labels, "val", resamples=0)
    assert running.compute() == pytest.approx(evaluation.metrics[metric].value, abs=1e-12)


@pytest.mark.parametrize("task", [SINGLE, MANY])
def test_loss_and_probabilities_are_float32_under_autocast(task):
    data, net = batch(many=task is MANY), model()
    with torch.autocast("cpu", torch.bfloat16):
        loss, logits = task.loss(net, data)
        predictions = task.predict(net, data)
    assert logits.dtype == torch.bfloat16
    assert loss.dtype == predictions.probs.dtype == torch.float32


def test_the_one_phase_moves_the_parameters_that_train():
    net = model()
    net[1].bias.requires_grad_(False)
    for task in (SINGLE, MANY):
        (phase,) = task.phases(net)
        assert phase.name == "train"
        assert [p is net[1].weight for p in phase.parameters] == [True]
        data = batch(many=task is MANY)
        assert torch.equal(phase.loss(net, data)[0], task.loss(net, data)[0])


def test_soft_labels_train_a_single_label_task():
    data, net = batch(), model()
    soft = ImageBatch(data.images, torch.eye(3)[data.targets], data.index)
    assert torch.allclose(SINGLE.loss(net, soft)[0], SINGLE.loss(net, data)[0])


class WithAuxiliary(nn.Module):
    """A net with one auxiliary classifier of weight 0.25."""

    def __init__(self):
        super().__init__()
        self.main, self.aux = nn.Linear(48, 3), nn.Linear(48, 3)

    def forward(self, images):
        return self.main(images.flatten(1))

    def training_logits(self, images):
        return self(images), ((0.25, self.aux(images.flatten(1))),)


@pytest.mark.parametrize("task", [SINGLE, MANY])
def test_auxiliary_classifiers_learn_in_training_and_are_unseen_in_eval(task):
    torch.manual_seed(0)
    net, data = WithAuxiliary(), batch(many=task is MANY)
    images = PREPROCESSING.normalise(data.images)
    main, aux = (task.loss_function(logits, data.targets) for logits in (net(images), net.aux(images.flatten(1))))
    loss, logits = task.loss(net.train(), data)
    torch.testing.assert_close(loss, main + 0.25 * aux)
    torch.testing.assert_close(logits, net(images))
    loss.backward()
    assert net.aux.weight.grad.abs().sum() > 0
    torch.testing.assert_close(task.loss(net.eval(), data)[0], main)


def test_googlenets_auxiliary_classifiers_learn():
    from visus.run.models import create_model

    torch.manual_seed(0)
    net = create_model("googlenet", num_classes=3).train()
    data = ImageBatch(torch.rand(2, 3, 64, 64), torch.tensor([0, 2]), torch.arange(2))
    SINGLE.loss(net, data)[0].backward()
    assert all(head.fc2.weight.grad.abs().sum() > 0 for head in (net.aux1, net.aux2))

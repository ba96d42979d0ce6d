"""The ladder of baselines: what memory, hand-made features and a small net reach on the same images, rung by rung.

The cheap rungs that know nothing or little (chance, class prior, softmax regression) are in visus.run.baselines and
always there. Those here see more of the images and cost seconds; each is begun while time is left. What a rung adds to
the one below is what its idea buys on these images; what the run's model adds to the highest is what its depth buys.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from visus.classical.fitted import Examples, Fitted
from visus.core.batch import ClassPredictions
from visus.core.errors import UserError
from visus.core.preprocessing import Preprocessing
from visus.core.seeds import permutation
from visus.core.weights import read_state_dict
from visus.data.loader import Loader
from visus.data.samples import Samples
from visus.losses.classification import get_loss
from visus.optim.build import build_optimizer
from visus.optim.schedules import Schedule, schedule
from visus.run.baselines import Baseline
from visus.run.display import Display
from visus.run.models import create_model
from visus.run.recipe import Recipe
from visus.tasks.classification import Classification, MultiLabel
from visus.train.checkpoint import BEST, CheckpointStore, seed_generators
from visus.train.trainer import Settings, Trainer

SIDE = 32  # pixels at most: the rungs see small images
TRAIN_IMAGES = 5000  # and at most so many of them
BATCH = 128
NET, NET_UPDATES, NET_RATE = "three_layer_convnet", 240, 2e-3


@dataclass(frozen=True)
class Rung:
    """A method of the ladder: make(view) gives a model that was fitted to the view's training images."""

    name: str
    description: str
    model: str
    make: Callable[[View], nn.Module]


@dataclass(frozen=True)
class View:
    """What all rungs see: at most TRAIN_IMAGES training images, at most SIDE pixels a side."""

    samples: Samples
    train: np.ndarray
    val: np.ndarray
    test: np.ndarray
    preprocessing: Preprocessing
    seed: int

    def loader(self, indices: np.ndarray, shuffle: bool = False) -> Loader:
        return Loader(self.samples, indices, self.preprocessing, batch_size=BATCH, shuffle=shuffle, seed=self.seed,
                      on_bad_image="skip")

    def batches(self, indices: np.ndarray) -> Callable[[], Iterator[tuple[Tensor, Tensor]]]:
        loader = self.loader(indices)
        return lambda: ((self.preprocessing.normalise(batch.images), batch.targets) for batch in loader.epoch(0))

    def build(self, model: str, **config: object) -> nn.Module:
        return create_model(model, num_classes=len(self.samples.classes), in_channels=self.preprocessing.channels,
                            image_size=self.preprocessing.size[0], **config)


def add_rungs(recipe: Recipe, samples: Samples, splits: dict[str, np.ndarray], preprocessing: Preprocessing,
              task: Classification | MultiLabel, display: Display) -> tuple[list[Baseline], list[dict[str, str]]]:
    """What `climb` gives within the recipe's report.ladder_s; nothing for several labels per image, or where the report
    is to hold the metrics alone (report.budget_s=0)."""
    if min(recipe.report.ladder_s, recipe.report.budget_s) <= 0 or not isinstance(task, Classification):
        return [], []
    with display.steps("ladder", len(RUNGS)) as advance:
        return climb(samples, splits, preprocessing, task, recipe.train.seed, recipe.report.ladder_s,
                     recipe.model.name, advance)


def climb(samples: Samples, splits: dict[str, np.ndarray], preprocessing: Preprocessing, task: Classification,
          seed: int, budget_s: float, chosen: str, advance: Callable[[], object] = lambda: None,
          ) -> tuple[list[Baseline], list[dict[str, str]]]:
    """The rungs, measured on the test split, and {"name", "why"} of those left out. chosen: the run's own model, whose
    rung would be the run again. budget_s: no rung is begun after so many seconds."""
    begun, made, left_out = time.monotonic(), [], []
    side = min(SIDE, *preprocessing.size)
    small = Preprocessing(size=(side, side), channels=preprocessing.channels, resize=preprocessing.resize,
                          crop_fraction=preprocessing.crop_fraction, mean=preprocessing.mean, std=preprocessing.std,
                          background=preprocessing.background, labels=preprocessing.labels)
    train = splits["train"]
    train = train[np.sort(permutation(len(train), seed, "ladder")[:TRAIN_IMAGES])]
    view = View(samples, train, splits["val"], splits["test"], small, seed)
    for rung in RUNGS:
        start = time.monotonic()
        if rung.model == chosen:
            left_out.append({"name": rung.name, "why": "it is this run's model"})
        elif start - begun >= budget_s:
            left_out.append({"name": rung.name, "why": f"the {budget_s:g} s for baselines were spent"})
        else:
            try:
                with torch.random.fork_rng(devices=[]):
                    seed_generators(seed)
                    found = _answers(rung.make(view), view, view.test)
                description = f"{rung.description}; {len(train):,} images of {side} x {side} px"
                made.append(Baseline(rung.name, description, task.evaluate(found, samples.classes, "test").metrics))
            except (UserError, RuntimeError, MemoryError) as error:  # the run is finished and must get its report
                why = error.problem if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
                left_out.append({"name": rung.name, "why": why})
        advance()
    return made, left_out


def _fitted(model: str, **config: object) -> Callable[[View], nn.Module]:
    def make(view: View) -> nn.Module:
        made = view.build(model, **config)
        assert isinstance(made, Fitted)
        made.fit(Examples(train=view.batches(view.train), val=view.batches(view.val), count=len(view.train),
                          num_classes=len(view.samples.classes), seed=view.seed, device=torch.device("cpu")))
        return made

    return make


def _small_net(view: View) -> nn.Module:
    """A short training of the first course's ConvNet, the best by validation kept."""
    model = view.build(NET, filter_size=3, weight_scale=0.02)
    task = Classification(preprocessing=view.preprocessing, loss_function=get_loss("cross_entropy"))
    batches = view.loader(view.train, shuffle=True)
    optimizer = build_optimizer("adamw", model.parameters(), lr=NET_RATE, weight_decay=0.05)
    epochs = -(-NET_UPDATES // max(1, len(batches)))
    steps = epochs * max(1, len(batches))

    def validate() -> dict[str, float]:
        found = _answers(model.eval(), view, view.val)
        return {"loss": float(nn.functional.nll_loss(found.probs.log(), found.targets)),
                task.headline: task.headline_value(found)}

    with tempfile.TemporaryDirectory() as folder:
        store = CheckpointStore(Path(folder))
        Trainer(model, task, batches, optimizer, Schedule(optimizer, schedule("cosine", steps)), Settings(
            epochs=epochs, log_steps=steps + 1), device=torch.device("cpu"), store=store, validate=validate,
            find=lambda finding: None).run()
        model.load_state_dict(read_state_dict(store.folder / BEST))
    return model.eval()


def _answers(model: nn.Module, view: View, indices: np.ndarray) -> ClassPredictions:
    task = Classification(preprocessing=view.preprocessing, loss_function=get_loss("cross_entropy"))
    parts = [task.predict(model, batch) for batch in view.loader(indices).epoch(0)]
    return ClassPredictions(torch.cat([part.probs for part in parts]), torch.cat([part.targets for part in parts]),
                            torch.cat([part.index for part in parts]))


RUNGS = (
    Rung("nearest neighbour", "the class of the training image with the closest pixels", "nearest_neighbour",
         _fitted("nearest_neighbour")),
    Rung("features and SVM", "gradient and colour histograms with a linear support vector machine", "hog_color_svm",
         _fitted("hog_color_svm")),
    Rung("small net", f"a convolution and two full layers, {NET_UPDATES} updates or a little more", NET, _small_net),
)

"""What an augmentation makes of a few images of a set, with all that is marked in them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from visus.core.errors import RecipeError
from visus.data.objects import IGNORED
from visus.data.samples import Samples
from visus.report.heat import picture
from visus.run.draw_data import draw_objects, draw_regions, labels_of

if TYPE_CHECKING:
    from visus.data.transforms import Augmentation
    from visus.data.transforms.scene import Scene

DRAWS = 5
AUTO = "auto"


def chosen_augmentation(samples: Samples, recipe: str | Path) -> tuple[Augmentation, tuple[int, int], str]:
    """(the augmentation, the (height, width) of the images that it gets, its steps in words).

    recipe: a file, the name of a shipped one, or 'auto' for what `visus train` would choose. Raises RecipeError for a
    recipe that cannot be used or that augments nothing.
    """
    import torch

    from visus.data.transforms import build_augmentation
    from visus.run.choose import choose
    from visus.run.recipe import Recipe
    from visus.run.recipes import find_recipe
    from visus.run.survey import facts_for_choice

    given = Recipe() if recipe == AUTO else Recipe.load(find_recipe(recipe))
    if given.augmentation == "auto" or given.data.image_size == "auto":
        given = choose(given, facts_for_choice(samples, np.arange(len(samples)), torch.device("cpu")))[0]
    assert given.augmentation != "auto", "chosen above"
    steps = list(given.augmentation)
    augmentation = build_augmentation(steps)
    if augmentation is None:
        raise RecipeError("augments nothing", where=f"{recipe}: augmentation=()", remedy="Give another recipe, or auto")
    size = given.data.image_size
    sides = (size, size) if isinstance(size, int) else size
    words = ", ".join(f"{step['name']}" + "".join(f" {k}={v}" for k, v in step.items() if k != "name")
                      for step in steps)
    return augmentation, (int(sides[0]), int(sides[1])), words


def draw_augmented(samples: Samples, index: int, augmentation: Augmentation, size: tuple[int, int], *, seed: int = 0,
                   draws: int = DRAWS, side_px: int = 150) -> list[Image.Image]:
    """The image as it is, then as it comes in the first `draws` epochs. Raises DataError when it cannot be read."""
    def other(number: int) -> Scene:
        return scene_of(samples, number % len(samples), size)

    scene = scene_of(samples, index, size)
    return [_drawn(made, samples, side_px) for made in (
        scene, *(augmentation.scene(scene, index, seed, epoch, other) for epoch in range(draws)))]


def scene_of(samples: Samples, index: int, size: tuple[int, int]) -> Scene:
    """An image with its marks. Images with nothing but a class are squashed to `size`, (height, width), as in training;
    the others keep their aspect and lie within it."""
    import torch

    from visus.core.preprocessing import Preprocessing
    from visus.data.transforms.carry import Carried
    from visus.data.transforms.placement import resizing
    from visus.data.transforms.scene import Scene

    pixels = samples.read(index)
    height, width = pixels.shape[:2]
    marked = samples.objects is not None or samples.label_maps is not None
    scale = min(size[0] / height, size[1] / width)
    new = (max(1, round(height * scale)), max(1, round(width * scale))) if marked else size
    channels = pixels.shape[2]
    image = Preprocessing(size=new, channels=channels, mean=(0.0,) * channels, std=(1.0,) * channels).resized(pixels)
    objects = None
    if samples.objects is not None:
        carried = Carried(samples.objects.of(index, height, width), height, width)
        carried.move(resizing(height, width, *new))
        objects = carried.objects()
    label_map = None
    labels = labels_of(samples, index)
    if labels is not None:
        places = [(np.arange(n) * (full / n)).astype(np.int64) for n, full in zip(new, labels.shape, strict=True)]
        small = labels[np.ix_(*places)].astype(np.int64)
        label_map = torch.from_numpy(np.where(small < 0, IGNORED, small))
    return Scene(image=image, objects=objects, label_map=label_map)


def _drawn(scene: Scene, samples: Samples, side_px: int) -> Image.Image:
    from visus.data.transforms import to_unit

    pixels = (255 * to_unit(scene.image).clamp(0, 1)).round().permute(1, 2, 0).byte().numpy()
    if scene.label_map is not None:
        labels = scene.label_map.numpy().astype(np.int64)
        return draw_regions(pixels, np.where(labels == IGNORED, -1, labels), samples.classes, side_px)
    if scene.objects is not None:
        return draw_objects(pixels, scene.objects, samples.classes, side_px)
    return picture(pixels, side_px)

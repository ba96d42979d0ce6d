"""Four scenes in one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from visus.core.seeds import hash64
from visus.data.masks import mask_runs, runs_mask
from visus.data.objects import Objects, Outlines
from visus.data.transforms import Draws, augmentations, check_interval, check_range, to_unit
from visus.data.transforms.placement import MIN_VISIBLE, check_fill, check_sizes, resizing, window
from visus.data.transforms.resize import side_size
from visus.data.transforms.scene import Scene, SceneTransform, after


@dataclass(frozen=True)
class Mosaic(SceneTransform):
    """The scene and three others about one corner, on a canvas of `size` (one number or height and width), with
    `probability` (Bochkovskiy et al., YOLOv4, 2020, section 3.3).

    The corner where they meet is drawn from the shares `centre` of width and height. Each is enlarged or shrunk until
    its long side is half of the canvas's, touches the corner, and is cut off at the canvas's edge; the rest is `fill`.
    A scene that is not chosen stays as it is. min_visible: objects of which less stays are dropped.
    """

    size: int | tuple[int, int] = 1280
    centre: tuple[float, float] = (0.25, 0.75)
    probability: float = 1.0
    fill: float | tuple[float, float, float] = 114 / 255
    min_visible: float = MIN_VISIBLE

    def __post_init__(self) -> None:
        check_sizes(self, "size", self.size)
        check_interval(self, "centre", self.centre, 0, 1)
        check_range(self, "probability", self.probability, 0, 1)
        check_fill(self, self.fill)
        check_range(self, "min_visible", self.min_visible, 0, 1)

    def on_scene(self, scene: Scene, draws: Draws, other: Callable[[int], Scene]) -> Scene:
        u = draws.uniform(3)[0]
        if u[2] >= self.probability:
            return scene
        height, width = check_sizes(self, "size", self.size)
        span = self.centre[1] - self.centre[0]
        middle_y = round(height * (self.centre[0] + u[0] * span))
        middle_x = round(width * (self.centre[0] + u[1] * span))
        scenes = alike([scene, *(other(number) for number in other_numbers(draws, 3))])
        parts = []
        for number, part in enumerate(scenes):
            below, right = divmod(number, 2)
            rows, columns = (height - middle_y if below else middle_y), (width - middle_x if right else middle_x)
            if rows and columns:
                parts.append((self._corner(part, rows, columns, bool(below), bool(right), max(height, width) // 2),
                              below * middle_y, right * middle_x))
        return on_canvas(parts, height, width)

    def _corner(self, scene: Scene, rows: int, columns: int, below: bool, right: bool, long: int) -> Scene:
        """The scene with its long side `long`, in a quarter of `rows` x `columns` whose inner corner it touches."""
        height, width = side_size(*scene.size, max(long, 1), "long")
        part = window(0 if below else height - rows, 0 if right else width - columns, rows, columns,
                      fill=check_fill(self, self.fill), min_visible=self.min_visible)
        return after(scene, (resizing(*scene.size, height, width), part))


def other_numbers(draws: Draws, count: int) -> list[int]:
    """`count` whole numbers of 62 bits that stand for other scenes, for the one image of `draws`."""
    places = draws.index[:1, None] * 16 + np.arange(count)
    return [int(n) >> 2 for n in hash64(places, draws.seed, draws.epoch, draws.stream, "others")[0]]


def alike(scenes: Sequence[Scene]) -> list[Scene]:
    """The scenes with images of one type and as many channels each, all with objects, and all with maps, where one
    has."""
    colour = max(scene.image.shape[0] for scene in scenes)
    unit = any(scene.image.is_floating_point() for scene in scenes)
    given = next((scene.objects for scene in scenes if scene.objects is not None), None)
    mapped = next((scene.label_map for scene in scenes if scene.label_map is not None), None)
    out = []
    for scene in scenes:
        image = to_unit(scene.image) if unit else scene.image
        objects = scene.objects
        if objects is None and given is not None:
            objects = given.take(np.array([], np.int64))
            objects = replace(objects, start=np.zeros(2, np.int64))
        labels = scene.label_map
        if labels is None and mapped is not None:
            labels = torch.full(scene.size, 255, dtype=mapped.dtype)
        out.append(Scene(image=image.expand(colour, -1, -1), objects=objects, label_map=labels))
    return out


def on_canvas(parts: Sequence[tuple[Scene, int, int]], height: int, width: int) -> Scene:
    """The scenes, each with the place (top, left) of its upper left corner, on `height` x `width` pixels that they
    cover."""
    first = parts[0][0]
    image = first.image.new_zeros(first.image.shape[0], height, width)
    labels = None if first.label_map is None else first.label_map.new_full((height, width), 255)
    for scene, top, left in parts:
        rows, columns = scene.size
        image[:, top:top + rows, left:left + columns] = scene.image
        if labels is not None and scene.label_map is not None:
            labels[top:top + rows, left:left + columns] = scene.label_map
    objects = [shifted(scene.objects, top, left, height, width) for scene, top, left in parts
               if scene.objects is not None]
    return Scene(image=image, label_map=labels, objects=joined(objects) if objects else None)


def shifted(objects: Objects, top: int, left: int, height: int, width: int) -> Objects:
    """The objects further down and right by whole pixels, in an image of `height` x `width`."""
    move = np.array([left, top], np.float64)
    outlines, points = objects.outlines, objects.keypoints
    if outlines is not None:
        runs = {}
        for m, code in outlines.runs.items():
            mask = np.zeros((height, width), bool)
            mask[top:top + code.height, left:left + code.width] = runs_mask(code)
            runs[m] = mask_runs(mask)
        outlines = replace(outlines, points=outlines.points + move, runs=runs)
    if points is not None:
        points = points.copy()
        points[..., :2] += np.where(points[..., 2:] > 0, move, 0)
    return replace(objects, boxes=objects.boxes + np.tile(move, 2), outlines=outlines, keypoints=points)


def joined(every: Sequence[Objects]) -> Objects:
    """The objects of several images as those of one. Outlines and keypoints where one of them has some."""
    count = sum(map(len, every))
    first = next((objects for objects in every if objects.keypoints is not None), every[0])
    outlines = joined_outlines(every) if any(objects.outlines is not None for objects in every) else None
    points = None
    if first.keypoints is not None:
        empty = (first.keypoints.shape[1], 3)
        points = np.concatenate([np.zeros((len(objects), *empty)) if objects.keypoints is None else objects.keypoints
                                 for objects in every])
    same_ids = all(objects.ids is not None for objects in every)
    return replace(first, start=np.array([0, count], np.int64), labels=np.concatenate([o.labels for o in every]),
                   boxes=np.concatenate([o.boxes for o in every]), crowd=np.concatenate([o.crowd for o in every]),
                   difficult=np.concatenate([o.difficult for o in every]), outlines=outlines, keypoints=points,
                   ids=np.concatenate([o.ids for o in every if o.ids is not None]) if same_ids else None)


def joined_outlines(every: Sequence[Objects]) -> Outlines:
    """The outlines of all objects in a row; of those without, none."""
    polygons, vertices, points, runs = [np.zeros(1, np.int64)], [np.zeros(1, np.int64)], [np.empty((0, 2))], {}
    count = rings = corners = 0
    for objects in every:
        outlines = objects.outlines
        if outlines is None:
            polygons.append(np.full(len(objects), rings, np.int64))
        else:
            polygons.append(outlines.polygons[1:] + rings)
            vertices.append(outlines.vertices[1:] + corners)
            points.append(outlines.points)
            runs.update({count + m: code for m, code in outlines.runs.items()})
            rings, corners = rings + len(outlines.vertices) - 1, corners + len(outlines.points)
        count += len(objects)
    return Outlines(polygons=np.concatenate(polygons), vertices=np.concatenate(vertices),
                    points=np.concatenate(points), runs=runs)


augmentations.add(Mosaic, {"mosaic": {}})

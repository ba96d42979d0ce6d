"""visus explain: what a finished model looks at, as pictures, charts and one page."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

import numpy as np
import torch

from visus.core.device import pick_device
from visus.core.errors import UserError, did_you_mean, printable
from visus.core.files import write_bytes, write_text
from visus.core.images import read_image
from visus.core.preprocessing import Preprocessing
from visus.deploy.frozen import frozen
from visus.explain import registry as methods
from visus.explain.explanation import Explanation, HeadDistances
from visus.explain.faithfulness import Faithfulness, Sanity, faithfulness, sanity_check
from visus.models import registry
from visus.run.averaged import Averaged
from visus.run.bundle import TrainedModel, load_model
from visus.run.models import make_model
from visus.run.predict import checked, expand
from visus.run.pretrained import is_origin, preprocessing_of
from visus.run.registered import is_fitted

if TYPE_CHECKING:
    from torch import Tensor

    from visus.explain.explanation import Method

MAX_CHECKED = 8  # images; the map of each is made again for networks of shuffled weights


MAX_THUMBNAILS = 400  # of a map of images: a page of a few megabytes


@dataclass(frozen=True)
class Explained:
    """What `explain` gives. images: their names, in the order of the maps. answers: the model's class of each with its
    probability, where the classes have names. files: what was written, the page first. faithfulness, sanity: where a
    check was asked for."""

    method: str
    model: str
    explanation: Explanation
    images: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()
    faithfulness: Faithfulness | None = None
    sanity: Sanity | None = None

    @property
    def checks(self) -> tuple[str, ...]:
        """What was measured of the map, in lines."""
        return tuple(line for one in (self.faithfulness, self.sanity) if one is not None for line in one.lines)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is wrong with the map, in lines."""
        return tuple(line for one in (self.faithfulness, self.sanity) if one is not None for line in one.warnings)


def explain(model: TrainedModel | str | os.PathLike[str], images: Iterable[Any] | str | Path = (),
            method: str = "auto", *, out: str | Path | Callable[[str, str], Path] | None = None,
            weights: str | Path | None = None, origin: str = "visus", image_size: int | None = None,
            device: str = "auto", check: bool = False, command: Sequence[str] = (), **options: Any) -> Explained:
    """Explain a model with a registered method; auto is attention for a transformer, else grad_cam, and says so.

    model: a run (or its folder), whose own preprocessing is used, or the name of a registered model with `weights` (a
    file whose tensors bear `origin`'s names, or a public origin); without weights it has random ones, which is said.
    images: paths, folders, globs, or uint8 arrays [H, W, 3]. out: a folder for the pictures, the charts and index.html,
    or a function that gives one for the names of model and method. options: of the method, such as layer, head, fusion.
    check: measure whether the maps show what the model goes by (visus/explain/faithfulness.py), on the first images.
    command: argv to note on the page.
    Raises UserError for an unknown method or option and for a method that does not fit the model.
    """
    if method != "auto":
        _method(method, options)  # a wrong option is refused before anything is loaded
    trained, notes = _subject(model, weights, origin, image_size)
    network = trained.model.to(pick_device(device))
    size, channels = trained.preprocessing.size, trained.preprocessing.channels
    where = next(chain(network.parameters(), network.buffers())).device
    blank = torch.zeros(1, channels, *size, device=where)
    if method == "auto":
        method, why = _default(trained.name, network, blank)
        notes = [*notes, why]
    if options.get("target") is not None:
        options["target"] = _class_number(options["target"], trained)
    chosen = _method(method, options)
    if "mean" in {field.name for field in fields(chosen)}:  # it draws pixels
        scale = {"mean": trained.preprocessing.mean, "std": trained.preprocessing.std}
        chosen = _method(method, scale | options)
    if getattr(chosen, "folded", False) and getattr(chosen, "layer", None) is None:
        network = frozen(network, tuple(blank.shape))  # the same answers in less time
    problem = chosen.problem(network, blank)
    if problem is not None:
        raise UserError(problem, where=f"{trained.name}, method={method}", remedy=_fitting(network, blank, method))
    names, pixels = _read(images, trained.preprocessing)
    if chosen.needs_images and not pixels:
        raise UserError("no images given", where=f"method={method}", remedy="Give images, folders or globs")
    parts, answers = [], []
    if not chosen.needs_images:
        parts.append(chosen(network, blank))
    elif getattr(chosen, "together", False):
        batch = trained.preprocessing.normalise(torch.stack(pixels).to(where).float() / 255)
        parts.append(chosen(network, batch))
        answers += [_answer(network, image[None], trained) for image in batch]
    else:
        for image in pixels:  # one by one: the weights of all heads and layers are held
            batch = trained.preprocessing.normalise(image[None].to(where).float() / 255)
            part = chosen(network, batch)
            if len(pixels) > 1:
                whose = Path(names[len(parts)]).name
                part = replace(part, picture_names=tuple(f"{whose}: {name}" for name in part.picture_names))
            parts.append(part)
            answers.append(_answer(network, batch, trained))
    shown = () if not chosen.needs_images else tuple(names)
    explained = Explained(method, trained.name, _joined(parts), shown, tuple(answers), tuple(notes))
    if check:
        explained = _checked(explained, chosen, network, trained, pixels[:MAX_CHECKED])
    if out is None:
        return explained
    if callable(out):
        out = out(trained.name if isinstance(model, TrainedModel) else os.fspath(model), method)
    seen = [image.permute(1, 2, 0).contiguous().numpy() for image in pixels]
    return replace(explained, files=_write(explained, seen, Path(out), command))


def _checked(explained: Explained, chosen: Any, network: Any, trained: TrainedModel,
             pixels: Sequence[Tensor]) -> Explained:
    """With the numbers of `faithfulness` and `sanity_check` for these images, the first of those explained."""
    heat = explained.explanation.heat
    if heat is None or not pixels:
        raise UserError("gives no map of an image that could be checked", where=f"method={explained.method}",
                        remedy="Leave the check out, or take a method that draws heat over images")
    images = trained.preprocessing.normalise(torch.stack(tuple(pixels)).to(heat.device).float() / 255)
    asked = frozen(network, (1, *images.shape[1:]))
    with torch.no_grad():
        one_of_many = trained.task != "multilabel" and network(images[:1]).shape[-1] > 1
    found = faithfulness(asked, images, getattr(chosen, "target", None), heat[:len(images)],
                         of="probability" if one_of_many else "logit")
    left = len(explained.images) - len(images)
    notes = (*explained.notes, f"the check took the first {len(images)} images") if left > 0 else explained.notes
    sanity = None if is_fitted(trained.name) else sanity_check(chosen, network, images)  # has no layers to shuffle
    return replace(explained, faithfulness=found, sanity=sanity, notes=notes)


def _method(name: str, options: Mapping[str, Any]) -> Method:
    entry = methods.get(name)
    known = [field.name for field in fields(entry.build)]
    for option, value in options.items():
        if option not in known:
            raise UserError(f"the method {name} has no such option", where=f"{option}={value!r}",
                            remedy=did_you_mean(option, known) if known else "It has none")
    types = get_type_hints(entry.build)
    for option, value in options.items():
        if types[option] in (int, int | None) and option != "target" and type(value) is not int:
            raise UserError("must be a whole number", where=f"{option}={value!r}")
    return entry.build(**options)


def _default(name: str, network: Any, blank: Tensor) -> tuple[str, str]:
    """The method that is taken where none is named, and why."""
    convolutional = registry.index().get(name, "").startswith("visus.models.cnn.")
    if not convolutional and methods.get("attention").build().problem(network, blank) is None:
        return "attention", "the method is attention, the default for a transformer; --method grad_cam asks what " \
                            "speaks for a class"
    if is_fitted(name):
        return "occlusion", "the method is occlusion: a model that was fitted has no maps, and may have no gradient"
    if isinstance(network, Averaged):
        return "integrated_gradients", "the method is integrated_gradients: several models in one share no maps that " \
                                       "grad_cam could weigh"
    return "grad_cam", "the method is grad_cam, the default for a model that is no transformer"


def _class_number(target: Any, trained: TrainedModel) -> int:
    """A class by its name, or by its number where no class has that name."""
    if str(target) in trained.labels:
        return trained.labels.index(str(target))
    if isinstance(target, int) and not isinstance(target, bool):
        return target
    raise UserError("the model knows no such class", where=f"target={target!r}",
                    remedy=did_you_mean(str(target), trained.labels) if trained.labels else "Give its number")


def _fitting(network: Any, blank: Tensor, but: str) -> str:
    fit = [name for name in methods.names() if name != but
           and methods.get(name).build().problem(network, blank) is None]
    if fit:
        return f"Methods that fit this model: {', '.join(fit)}"
    return "No other method fits this model"


def _subject(model: TrainedModel | str | os.PathLike[str], weights: str | Path | None, origin: str,
             image_size: int | None) -> tuple[TrainedModel, list[str]]:
    """The model with its preprocessing, and what was decided."""
    name = model.name if isinstance(model, TrainedModel) else os.fspath(model)
    if isinstance(model, TrainedModel) or os.path.isdir(name):
        if weights is not None or image_size is not None:
            raise UserError("a run has weights and an image size of its own", where=name,
                            remedy="Leave --weights and --image-size out, or name a registered model")
        return (model if isinstance(model, TrainedModel) else load_model(name)), []
    if os.sep in name or os.path.exists(name):
        raise UserError("is no run folder", where=name, remedy="Give a folder that `visus train` made, or the name of "
                        "a registered model: see `visus models`")
    preprocessing = Preprocessing(**preprocessing_of(name, None if weights is None else str(weights)))
    if weights is not None and not is_origin(name, weights) and not Path(weights).is_file():
        raise UserError("there is no such file, and no public weights of this name", where=f"weights={weights}",
                        remedy=did_you_mean(str(weights), sorted(registry.get(name).weights)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network, notes = make_model(name, image_size=image_size, weights=weights, origin=origin)
    if image_size is not None:
        preprocessing = replace(preprocessing, size=(image_size, image_size))
    if weights is None:
        notes = [*notes, f"{name} has random weights, it has learnt nothing: give it some with --weights, or a run"]
    return TrainedModel(network.eval(), name, registry.get(name).about["task"], preprocessing, {}), notes


def _read(images: Iterable[Any] | str | Path, preprocessing: Preprocessing) -> tuple[list[str], list[Tensor]]:
    """Names and the pixels that the model sees, uint8 [C, H, W]. Raises ImageError for a file that is no image."""
    if isinstance(images, str | Path | bytes | np.ndarray):
        images = [images]
    names, pixels = [], []
    for given in images:
        for item in expand(given) if isinstance(given, str | Path) else [given]:
            array = checked(item) if isinstance(item, np.ndarray) else \
                read_image(item, background=preprocessing.background).pixels
            names.append(printable(os.fspath(item)) if isinstance(item, Path) else f"image {len(names)}")
            pixels.append(preprocessing.resized(array))
    return names, pixels


@torch.no_grad()
def _answer(network: Any, image: Tensor, trained: TrainedModel) -> str:
    """'cat, 98.1 %'; nothing where the classes have no names."""
    if not trained.labels:
        return ""
    logits = network(image).float()[0]
    probs = logits.sigmoid() if trained.task == "multilabel" else logits.softmax(0)
    best = int(probs.argmax())
    return f"{trained.labels[best]}, {100 * float(probs[best]):.1f} %"


def _joined(parts: Sequence[Explanation]) -> Explanation:
    """Images put together: maps one after another, distances averaged."""
    first = parts[0]
    return replace(
        first,
        heat=None if first.heat is None else torch.cat([part.heat for part in parts]),  # type: ignore[misc]
        tiles=None if first.tiles is None else torch.cat([part.tiles for part in parts]),  # type: ignore[misc]
        pictures=None if first.pictures is None else torch.cat([part.pictures for part in parts]),  # type: ignore[misc]
        picture_names=tuple(name for part in parts for name in part.picture_names),
        distances=tuple(
            HeadDistances(layer=same[0].layer, pixels=torch.stack([one.pixels for one in same]).mean(0))
            for same in zip(*(part.distances for part in parts), strict=True)))


# -- drawing -------------------------------------------------------------------------------------------------------


def _write(explained: Explained, pixels: Sequence[np.ndarray], folder: Path,
           command: Sequence[str]) -> tuple[Path, ...]:
    """The pictures and charts, then the page that shows them. Each file is written in one step."""
    from visus.report import explanation as page
    from visus.report import heat
    from visus.report.embedding_chart import embedding_chart, embedding_svg
    from visus.run.thumbnails import thumbnail

    found, entry = explained.explanation, methods.get(explained.method)
    files: dict[str, bytes | str] = {}
    shown = []
    if found.heat is not None:
        maps = found.heat.float().cpu().numpy()
        tiles = None if found.tiles is None else found.tiles.float().cpu().numpy()
        for number, (name, image) in enumerate(zip(explained.images, pixels, strict=True)):
            stem = f"{number:03d}-{_file_stem(name)}"
            drawn = heat.png(heat.overlay(image, maps[number], signed=found.signed))
            small = None if tiles is None else heat.png(heat.tile_sheet(tiles[number], found.tile_names))
            files[f"{stem}.png"] = drawn
            if small is not None:
                files[f"{stem}-{found.tile_names[0].split()[0]}s.png"] = small
            shown.append(page.ExplainedImage(source=name, answer=explained.answers[number], overlay=drawn, tiles=small))
    chart = similarity = None
    if found.distances:
        layers = [(one.layer, one.pixels.tolist()) for one in found.distances]
        chart = page.distance_chart(layers, found.uniform_px)
        files["distance.svg"] = page.distance_svg(layers, found.uniform_px)
    if found.points is not None:
        places = found.points.float().cpu().tolist()
        named = [answer.rpartition(",")[0] for answer in explained.answers]
        small = [heat.png(thumbnail(image)) for image in pixels[:MAX_THUMBNAILS]]
        given = (places, named, explained.images, [*small, *[None] * (len(places) - len(small))])
        chart = embedding_chart(*given)
        files["embedding.svg"] = embedding_svg(*given)
    if found.similarity is not None:
        similarity = heat.png(heat.similarity_sheet(found.similarity.float().cpu().numpy()))
        files["positions.png"] = similarity
    pictures = []
    if found.pictures is not None:
        for number, (name, picture) in enumerate(zip(found.picture_names, found.pictures, strict=True)):
            pixels_of = (255 * picture.float().clamp(0, 1)).round().byte().permute(1, 2, 0).cpu().numpy()
            file = f"picture-{number:03d}-{_file_stem(name)}.png"
            files[file] = heat.png(heat.plain(pixels_of))
            pictures.append(page.MadePicture(name=name, picture=files[file]))
    kind = found.tile_names[0].split()[0] if found.tile_names else ""
    view = page.ExplanationView(
        method=explained.method, summary=entry.about["summary"], paper=entry.about["paper"], model=explained.model,
        sentence=found.sentence, command=command, notes=explained.notes, checks=explained.checks,
        warnings=explained.warnings, images=shown, chart=chart,
        chart_title="Map" if found.points is not None else "Distance",
        similarity=similarity, pictures=pictures,
        tiles_title=f"Each {kind} on a scale of its own; beside its name its largest value" if kind else "")
    for name, data in files.items():
        (write_bytes if isinstance(data, bytes) else write_text)(folder / name, data)  # type: ignore[arg-type]
    write_text(folder / "index.html", page.render_explanation(view))
    return folder / "index.html", *(folder / name for name in files)


def _file_stem(name: str) -> str:
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in Path(name).stem)[:80] or "image"


def free_folder(model: str, method: str) -> Path:
    """explained/MODEL-METHOD-N with the first N that is free."""
    name, number = _file_stem(Path(model).name), 1
    while (Path("explained") / f"{name}-{method}-{number}").exists():
        number += 1
    return Path("explained") / f"{name}-{method}-{number}"

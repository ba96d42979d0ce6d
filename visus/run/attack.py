"""visus attack: how a finished model stands small, chosen changes of its images."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from math import gcd
from pathlib import Path
from typing import Any, get_type_hints

import numpy as np
import torch
from torch import Tensor

from visus.attack import registry
from visus.attack.attack import NORMS, USUAL_EPS, Attack, Attacked, Classifier
from visus.attack.measures import (
    CurvePoint,
    Share,
    answers,
    attack_all,
    distance_curve,
    rho,
    robust_curve,
)
from visus.core.device import pick_device
from visus.core.errors import UserError, did_you_mean
from visus.core.files import finite, write_bytes, write_json, write_text
from visus.core.record import RunFolder
from visus.core.validate import natural, one_of
from visus.data.loader import Loader
from visus.data.opening import open_samples
from visus.deploy.frozen import frozen
from visus.run.bundle import TrainedModel, load_model
from visus.run.display import Display
from visus.run.evaluate import match_labels, own_split
from visus.run.recipe import Recipe

LIMIT = 1000  # images, where no other limit is given
SHOWN = 8  # rows of the sheet of pictures
STEPS_OF_CURVE = (0.0, 0.125, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)  # times eps


@dataclass(frozen=True)
class AttackReport:
    """What `attack` gives. norm, eps: of the attack; eps is None where it seeks the smallest perturbation and none was
    asked about. clean, robust: of all images; turned: of those answered rightly. distance: median in `norm` over those
    turned; rho: mean of |r| / |x| in l2 over them; queries: mean a sample. curve: robust accuracy by distance.
    attacked: of the images answered rightly, `indices` in the split, with `labels` and `originals`."""

    method: str
    model: str
    norm: str
    eps: float | None
    split: str
    clean: Share
    robust: Share
    turned: Share
    distance: float
    rho: float
    queries: float
    target: str | None = None
    curve: tuple[CurvePoint, ...] = ()
    notes: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()
    attacked: Attacked | None = field(default=None, repr=False)
    originals: Tensor | None = field(default=None, repr=False)
    labels: Tensor | None = field(default=None, repr=False)
    indices: Tensor | None = field(default=None, repr=False)

    def to_dict(self) -> dict[str, Any]:
        def share(one: Share) -> dict[str, Any]:
            return {"hits": one.hits, "count": one.count, "value": one.value, "low": one.interval[0],
                    "high": one.interval[1]}

        return finite({
            "method": self.method, "model": self.model, "norm": self.norm, "eps": self.eps, "split": self.split,
            "target": self.target, "clean": share(self.clean), "robust": share(self.robust),
            "turned": share(self.turned), "median_distance": self.distance, "rho_l2": self.rho,
            "mean_queries": self.queries, "curve": [{"eps": p.eps, **share(p.robust)} for p in self.curve],
            "notes": list(self.notes)})


def attack(run: TrainedModel | str | os.PathLike[str], path: str | Path | None = None, method: str = "pgd", *,
           eps: float | str | None = None, norm: str | None = None, target: str | int | None = None,
           curve: bool | Sequence[float | str] = False, split: str = "test", limit: int | None = LIMIT, seed: int = 0,
           format: str = "auto", device: str = "auto", batch_size: int = 128, progress: bool = False,
           out: str | Path | None = None, command: Sequence[str] = (), **options: Any) -> AttackReport:
    """Attack a run's model on its own split, or on the labelled images at `path`, and count how many answers stand.

    method: a registered attack, such as fgsm, pgd, deepfool, carlini_wagner. eps: how far an image may be changed, in
    `norm`, a number or a fraction such as "8/255"; for an attack that seeks the smallest change, the distance at which
    robust accuracy is read off. target: the class (name or number) that the model is to answer; images of that class
    are left out. curve: robust accuracy at several distances too; True, or the distances. limit: so many images, drawn
    with `seed`; None or 0: all. out: a folder for attack.json, the curve, a sheet of pictures and index.html.
    options: of the attack, such as steps, restarts, early_stop. The model is left as it was.
    Raises UserError for an unknown attack or option and for a model that does not answer with one class.
    """
    eps = None if eps is None else number_of(eps, "eps")
    natural(seed=seed, limit=0 if limit is None else limit)
    chosen = make_attack(method, eps=eps, norm=norm, **options)
    distances = None if curve is False else _distances(curve, getattr(chosen, "eps", eps), chosen.norm)
    images, labels, indices, trained, notes = subject_images(run, path, split, format, limit or None, seed)
    if target is not None and not chosen.targeted:
        raise UserError("this attack takes no target", where=f"method={method}",
                        remedy="Leave it out, or take fgsm, pgd or carlini_wagner")
    aimed = None if target is None else _class_number(target, trained)
    where = pick_device(device)
    network = trained.model.to(where)
    fast = frozen(network, (1, trained.preprocessing.channels, *trained.preprocessing.size))
    plain, quick = classifier_of(trained, network), classifier_of(trained, fast)
    images, labels = images.to(where), labels.to(where)
    with torch.no_grad():
        exact = torch.allclose(plain(images[:8]), quick(images[:8]), rtol=1e-3, atol=1e-3)
    if not exact:
        quick, notes = plain, [*notes, "the model's norms cannot be folded exactly: attacked as it is"]
    if aimed is not None:
        kept = labels != aimed
        images, labels, indices = images[kept], labels[kept], indices[kept.cpu()]
    if not len(images):
        raise UserError("no image is left to attack", where=f"target={target}")
    network_parameters = [p for p in network.parameters() if p.requires_grad]
    try:
        for parameter in network_parameters:  # gradients are asked for at the images alone
            parameter.requires_grad_(False)
        right = answers(plain, images, batch_size) == labels
        targets = None if aimed is None else torch.full_like(labels[right], aimed)
        with Display(progress).steps(f"attack {method}", int(right.sum())) as advance:
            if right.any():
                found = attack_all(chosen, quick, images[right], labels[right], targets=targets, batch_size=batch_size,
                                   generator=torch.Generator().manual_seed(seed), advance=advance)
            else:
                found = chosen(quick, images[:0], labels[:0])
        after = answers(plain, found.images, batch_size)  # the model itself has the last word
        won = after != labels[right] if aimed is None else after == aimed
        found = replace(found, success=won)
        bounded = getattr(chosen, "eps", None)
        limit_of = bounded if bounded is not None else eps
        fallen = won if bounded is not None or eps is None else won & (found.distances[chosen.norm] <= eps)
        points: tuple[CurvePoint, ...] = ()
        if distances is not None:
            if bounded is None:
                points = tuple(distance_curve(found, chosen.norm, distances, len(images)))
            else:
                with Display(progress).steps("curve", None) as advance:
                    points = tuple(robust_curve(lambda e: replace(chosen, eps=e), quick, images, labels,  # type: ignore
                                                distances, generator=torch.Generator().manual_seed(seed),
                                                batch_size=batch_size, advance=advance))
    finally:
        for parameter in network_parameters:
            parameter.requires_grad_(True)
    if any(p.eps == limit_of and p.robust.hits < int((~fallen).sum()) for p in points) and bounded is not None:
        notes = [*notes, "on the curve an image that a smaller distance fools counts as fooled at all larger ones: "
                 "it may lie below the robust accuracy of the one attack"]
    away = found.distances[chosen.norm][won]
    made = AttackReport(
        method=method, model=trained.name, norm=chosen.norm, eps=limit_of, split=split if path is None else "given",
        clean=Share(int(right.sum()), len(images)), robust=Share(int((~fallen).sum()), len(images)),
        turned=Share(int(fallen.sum()), int(right.sum())), target=None if aimed is None else str(target),
        distance=float(away.median()) if len(away) else float("nan"), rho=rho(images[right], found),
        queries=float(found.queries.double().mean()) if len(won) else float("nan"), curve=points, notes=tuple(notes),
        attacked=found, originals=images[right], labels=labels[right], indices=indices[right.cpu()])
    return made if out is None else replace(made, files=_write(made, after, trained, Path(out), command))


def make_attack(method: str, *, eps: float | None = None, norm: str | None = None, **options: Any) -> Attack:
    """The registered attack with these options; eps and norm are set where it has such fields. Text such as "2/255"
    becomes a number where one is asked for."""
    entry = registry.get(method)
    known = [one.name for one in fields(entry.build)]
    types = get_type_hints(entry.build)
    given = dict(options)
    if norm is not None:
        one_of(NORMS, norm=norm)
        if "norm" in known:
            given["norm"] = norm
        elif entry.build.norm != norm:
            raise UserError(f"{method} is an attack in {entry.build.norm} alone", where=f"norm={norm}",
                            remedy="Leave norm out, or take another attack, such as pgd")
    if eps is not None and "eps" in known:
        given["eps"] = eps
    for option, value in given.items():
        if option not in known:
            raise UserError(f"the attack {method} has no such option", where=f"{option}={value!r}",
                            remedy=did_you_mean(option, known))
        if isinstance(value, str) and types[option] in (float, float | None):
            given[option] = number_of(value, option)
    return entry.build(**{**entry.variant, **given})


def number_of(value: float | str, name: str) -> float:
    """A number, also from text: '0.03', or a fraction such as '8/255'."""
    if isinstance(value, str):
        above, slash, below = value.partition("/")
        try:
            value = float(above) / float(below) if slash else float(above)
        except (ValueError, ZeroDivisionError):
            raise UserError("is no number", where=f"{name}={value}",
                            remedy="Give a number or a fraction, such as 8/255") from None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise UserError("must be a number of at least 0", where=f"{name}={value!r}", remedy="For example 8/255")
    return float(value)


def classifier_of(trained: TrainedModel, network: torch.nn.Module) -> Classifier:
    """Images in [0, 1] -> logits: the run's normalisation and views, and `network` in eval mode."""
    network.eval()
    return lambda images: trained.preprocessing.answers(network, images).float()


def eps_text(eps: float) -> str:
    """'8/255' where it is a whole number of grey levels, else the number."""
    levels = eps * 255
    if 0 < round(levels) <= 255 and abs(levels - round(levels)) < 1e-6:
        return f"{round(levels)}/255" if gcd(round(levels), 255) < 255 else "1"
    return f"{eps:.4g}"


def _distances(curve: bool | Sequence[float | str], eps: float | None, norm: str) -> list[float]:
    if curve is True:
        largest = USUAL_EPS[norm] if eps is None else eps
        return [share * largest for share in STEPS_OF_CURVE]
    values = sorted({number_of(one, "curve") for one in curve})  # type: ignore[union-attr]
    return values if values[:1] == [0.0] else [0.0, *values]


def subject_images(run: TrainedModel | str | os.PathLike[str], path: str | Path | None, split: str, format: str,
                   limit: int | None, seed: int) -> tuple[Tensor, Tensor, Tensor, TrainedModel, list[str]]:
    """What an attack begins with: (images in [0, 1], labels, their positions in the split, the model, what was
    decided)."""
    trained = run if isinstance(run, TrainedModel) else load_model(run)
    if trained.task != "classification":
        raise UserError("attacks ask for one class an image", where=f"{trained.name}, task={trained.task}",
                        remedy="Take a run whose images have one label each")
    if path is None:
        if isinstance(run, TrainedModel):
            raise UserError("no images given", where="path=None", remedy="Give labelled images, or a run's folder")
        folder = RunFolder.open(os.fspath(run))
        samples, index = own_split(folder, Recipe.load(folder.path / "recipe.yaml"), split)
    else:
        samples = match_labels(open_samples(path, format), trained.labels, path)
        index = np.arange(len(samples))
    positions, notes = np.arange(len(index)), []
    if limit is not None and limit < len(index):
        positions = np.sort(np.random.default_rng(seed).choice(len(index), limit, replace=False))
        notes.append(f"{limit:,} of {len(index):,} images, drawn with seed {seed}: --limit 0 takes all")
    batches = list(Loader(samples, index[positions], trained.preprocessing, batch_size=256).epoch(0))
    return (torch.cat([batch.images for batch in batches]), torch.cat([batch.targets for batch in batches]),
            torch.from_numpy(positions), trained, notes)


def _class_number(target: str | int, trained: TrainedModel) -> int:
    if str(target) in trained.labels:
        return trained.labels.index(str(target))
    if str(target).isdecimal() and int(target) < len(trained.labels):
        return int(target)
    raise UserError("the model knows no such class", where=f"target={target!r}",
                    remedy=did_you_mean(str(target), trained.labels))


# -- drawing -------------------------------------------------------------------------------------------------------


def sentence(made: AttackReport) -> str:
    """What was found, in plain words."""
    within = f" within {eps_text(made.eps)} in {made.norm}" if made.eps is not None else ""
    what = f"answer {made.target} for" if made.target is not None else "turn"
    low, high = made.robust.interval
    text = (f"{made.method} makes the model {what} {made.turned.hits:,} of {made.turned.count:,} images that it "
            f"answered rightly{within}." if made.target is not None else
            f"{made.method} turns {made.turned.hits:,} of the {made.turned.count:,} right answers{within}.")
    text += (f" Accuracy falls from {made.clean.value:.1%} to {made.robust.value:.1%} "
             f"(95 % interval {low:.1%} to {high:.1%}).")
    if made.turned.hits and made.eps is None:
        text += f" The median {made.norm} distance of those turned is {made.distance:.4g}."
    return text


def _write(made: AttackReport, after: Tensor, trained: TrainedModel, folder: Path,
           command: Sequence[str]) -> tuple[Path, ...]:
    """attack.json, the curve, the sheet, then the page that shows them. Each file is written in one step."""
    from visus.report import attack as page

    assert made.attacked is not None and made.originals is not None
    assert made.labels is not None and made.indices is not None
    found, names = made.attacked, trained.labels or tuple(str(n) for n in range(int(after.max()) + 1))
    files: dict[str, bytes | str] = {}
    turned = found.success.nonzero()[:, 0]
    shown = turned[torch.linspace(0, len(turned) - 1, min(SHOWN, len(turned))).round().long()].tolist()
    rows = [page.Pair(original=_pixels(made.originals[n]), attacked=_pixels(found.images[n]),
                      difference=(found.images[n] - made.originals[n]).permute(1, 2, 0).cpu().numpy(),
                      before=names[int(made.labels[n])], after=names[int(after[n])],
                      distance=float(found.distances[made.norm][n])) for n in shown]
    sheet = page.sheet(rows, made.norm) if rows else None
    if sheet is not None:
        files["pictures.png"] = sheet
    points = [(point.eps, point.robust.value, *point.robust.interval) for point in made.curve]
    chart = None
    if len(points) > 1:
        chart = page.curve_chart(points, made.norm)
        files["curve.svg"] = page.curve_svg(points, made.norm)
    write_json(folder / "attack.json", made.to_dict() | {"images": [
        {"index": int(i), "label": names[int(y)], "answer": names[int(a)], "turned": bool(s), "queries": int(q),
         "steps": int(t), **{norm: round(float(d[n]), 6) for norm, d in found.distances.items()}}
        for n, (i, y, a, s, q, t) in enumerate(zip(made.indices, made.labels, after, found.success, found.queries,
                                                   found.steps, strict=True))]})
    entry = registry.get(made.method)
    view = page.AttackView(
        method=made.method, summary=entry.about["summary"], paper=entry.about["paper"], model=made.model,
        sentence=sentence(made), numbers=number_rows(made), notes=made.notes, command=command, chart=chart, sheet=sheet,
        points=[(eps_text(p.eps), f"{p.robust.value:.4f}", "{:.4f} to {:.4f}".format(*p.robust.interval))
                for p in made.curve], norm=made.norm)
    for name, data in files.items():
        (write_bytes if isinstance(data, bytes) else write_text)(folder / name, data)  # type: ignore[arg-type]
    write_text(folder / "index.html", page.render_attack(view))
    return folder / "index.html", folder / "attack.json", *(folder / name for name in files)


def number_rows(made: AttackReport) -> list[tuple[str, str, str]]:
    """(name, value, 95 % interval or nothing)."""
    def row(name: str, share: Share) -> tuple[str, str, str]:
        return name, f"{share.value:.4f}", "{:.4f} to {:.4f}".format(*share.interval)

    rows = [row("clean accuracy", made.clean), row("robust accuracy", made.robust)]
    if made.turned.count:
        rows.append(row("target reached" if made.target is not None else "right answers turned", made.turned))
    if np.isfinite(made.distance):
        rows += [(f"median {made.norm} distance", f"{made.distance:.4g}", ""), ("rho (l2)", f"{made.rho:.4g}", "")]
    if np.isfinite(made.queries):
        rows.append(("mean queries", f"{made.queries:.1f}", ""))
    return rows


def _pixels(image: Tensor) -> np.ndarray:
    """[C, H, W] in [0, 1] -> uint8 [H, W, C]."""
    return (255 * image.float()).round().byte().permute(1, 2, 0).cpu().numpy()


def free_folder(model: str, method: str) -> Path:
    """attacked/MODEL-METHOD-N with the first N that is free."""
    name, number = "".join(c if c.isalnum() or c in "._-" else "_" for c in Path(model).name)[:80], 1
    while (Path("attacked") / f"{name}-{method}-{number}").exists():
        number += 1
    return Path("attacked") / f"{name}-{method}-{number}"


def known_options(method: str) -> Mapping[str, Any]:
    """The options of an attack with their defaults, for a notebook or a help text."""
    built = make_attack(method)
    return {one.name: getattr(built, one.name) for one in fields(built)}  # type: ignore[arg-type]

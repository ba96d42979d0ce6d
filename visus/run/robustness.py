"""How a finished model stands what one attack does not show: other models' adversarial images, corruptions, and whether
its gradients can be trusted at all."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from visus.attack.corruptions import SEVERITIES, corrupt, corruption_generator, corruption_table
from visus.attack.masking import MaskingReport, masking_report
from visus.attack.measures import Transfer, transfer_table
from visus.core.device import pick_device
from visus.core.errors import UserError
from visus.core.files import finite, write_bytes, write_json
from visus.deploy.frozen import frozen
from visus.run.attack import LIMIT, classifier_of, make_attack, number_of, subject_images
from visus.run.bundle import TrainedModel, load_model

Run = TrainedModel | str | os.PathLike[str]
TRANSFER_LIMIT = 500  # images, for each pair of models
MASKING_LIMIT = 200
SHOWN_PX = 72
GAP = 4
NAME_PX = 150


@dataclass(frozen=True)
class Measured:
    """columns and rows of a table of texts, a sentence that says what it shows, the plain values, the files written."""

    sentence: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    record: dict[str, Any]
    notes: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()


def transfer(run: Run, others: Sequence[Run], path: str | Path | None = None, method: str = "pgd", *,
             eps: float | str | None = None, norm: str | None = None, split: str = "test",
             limit: int | None = TRANSFER_LIMIT, seed: int = 0, format: str = "auto", device: str = "auto",
             batch_size: int = 128, out: str | Path | None = None, **options: Any) -> Measured:
    """The cross-model table: each model attacked, and its adversarial images shown to every model. Papernot, McDaniel,
    Goodfellow 2016, arXiv:1605.07277.

    Images are those of `run`. A cell counts images that both models answer rightly and that fool the one attacked.
    Steps go on past success, which transfers better. Raises UserError for models of other classes or another size.
    """
    if not others:
        raise UserError("no other model is given", where="transfer", remedy="Give one run or more")
    images, labels, _, first, notes = subject_images(run, path, split, format, limit or None, seed)
    models = [first, *(other if isinstance(other, TrainedModel) else load_model(other) for other in others)]
    names = _names([run, *others], models)
    for name, model in zip(names[1:], models[1:], strict=True):
        _same_images(name, model, first)
    where = pick_device(device)
    attack = make_attack(method, eps=None if eps is None else number_of(eps, "eps"), norm=norm, **options)
    found = transfer_table(attack, {name: classifier_of(model, _quick(model, where)) for name, model in
                                    zip(names, models, strict=True)},
                           images.to(where), labels.to(where), generator=torch.Generator().manual_seed(seed),
                           batch_size=batch_size)
    rows = tuple((name, *(_share(cell) for cell in row)) for name, row in zip(names, found.rates, strict=True))
    record = {"method": method, "eps": getattr(attack, "eps", None), "norm": attack.norm, "models": list(names),
              "rows": [[{"hits": c.hits, "count": c.count, "value": c.value, "low": c.interval[0],
                         "high": c.interval[1]} for c in row] for row in found.rates], "notes": notes}
    return Measured(_transfer_sentence(found, method), ("attacked \\ shown to", *names), rows, record, tuple(notes),
                    _written(out, "transfer.json", record))


def corruptions(run: Run, path: str | Path | None = None, kinds: Sequence[str] = (), *, reference: Run | None = None,
                split: str = "test", limit: int | None = LIMIT, seed: int = 0, format: str = "auto",
                device: str = "auto", batch_size: int = 128, out: str | Path | None = None) -> Measured:
    """Accuracy under each kind of corruption at severities 1 to 5. Hendrycks, Dietterich, ICLR 2019, arXiv:1903.12261.

    kinds: all 15 where none are given. reference: another run, beside whose errors the mCE is taken (section 4.1 of the
    paper; AlexNet there). out: a folder for corruptions.json and a sheet that shows one image under each. Raises
    UserError for an unknown kind.
    """
    images, labels, _, trained, notes = subject_images(run, path, split, format, limit or None, seed)
    where = pick_device(device)
    images, labels = images.to(where), labels.to(where)
    table = corruption_table(classifier_of(trained, _quick(trained, where)), images, labels, names=kinds,
                             batch_size=batch_size, seed=seed)
    rows = tuple((name.replace("_", " "), *(f"{1 - error:.1%}" for error in errors))
                 for name, errors in table.errors.items())
    record: dict[str, Any] = {"images": len(images), "clean_error": table.clean, "mean_error": table.mean_error,
                              "errors": {name: list(errors) for name, errors in table.errors.items()}, "notes": notes}
    sentence = (f"Accuracy is {1 - table.clean:.1%} on {len(images):,} images as they are and "
                f"{1 - table.mean_error:.1%} on corrupted ones, the mean over kinds and severities.")
    if reference is not None:
        other = reference if isinstance(reference, TrainedModel) else load_model(reference)
        _same_images(other.name, other, trained)
        beside = corruption_table(classifier_of(other, _quick(other, where)), images, labels, names=kinds,
                                  batch_size=batch_size, seed=seed)
        record |= {"reference": other.name, "mce": table.mean_corruption_error(beside),
                   "relative_mce": table.relative_corruption_error(beside)}
        sentence += (f" Beside {other.name}: mCE {record['mce']:.1%}, relative mCE {record['relative_mce']:.1%} "
                     "(100 % is as good).")
    files = _written(out, "corruptions.json", record)
    if out is not None:
        from visus.report import heat

        sheet = Path(out) / "corruptions.png"
        write_bytes(sheet, heat.png(_sheet(images[:1].cpu(), tuple(table.errors), seed)))
        files = (sheet, *files)
    return Measured(sentence, ("accuracy at severity", *map(str, SEVERITIES)), rows, record, tuple(notes), files)


def masking(run: Run, path: str | Path | None = None, *, eps: float | str = "8/255", split: str = "test",
            limit: int | None = MASKING_LIMIT, seed: int = 0, format: str = "auto", device: str = "auto",
            out: str | Path | None = None) -> Measured:
    """Whether a robust accuracy is worth anything: attacks that must be stronger than others are compared, and where
    they are not the gradient is hidden. See `visus.attack.masking`. eps: in linf."""
    images, labels, _, trained, notes = subject_images(run, path, split, format, limit or None, seed)
    where = pick_device(device)
    found: MaskingReport = masking_report(classifier_of(trained, _quick(trained, where)), images.to(where),
                                          labels.to(where), number_of(eps, "eps"),
                                          generator=torch.Generator().manual_seed(seed))
    record = {"images": found.images, "eps": number_of(eps, "eps"), "success": dict(found.success), "notes": notes,
              "findings": [{"title": f.title, "evidence": f.evidence, "remedy": f.remedy} for f in found.findings]}
    sentence = (f"{len(found.findings)} sign{'s' if len(found.findings) != 1 else ''} of a hidden gradient: "
                + "; ".join(f"{f.title} ({f.evidence})" for f in found.findings) + f". {found.findings[0].remedy}."
                if found.findings else "No sign of a hidden gradient. That does not prove the model robust.")
    rows = tuple((name, f"{value:.1%}") for name, value in found.success.items())
    return Measured(sentence, ("attack", "turned"), rows, record, tuple(notes), _written(out, "masking.json", record))


def _quick(trained: TrainedModel, where: torch.device) -> torch.nn.Module:
    """The model's folded copy, which asks for no gradient of its weights."""
    copy = frozen(trained.model.to(where), (1, trained.preprocessing.channels, *trained.preprocessing.size))
    return copy.requires_grad_(False)


def _names(given: Sequence[Run], models: Sequence[TrainedModel]) -> tuple[str, ...]:
    names = [model.name if isinstance(run, TrainedModel) else Path(os.fspath(run)).name
             for run, model in zip(given, models, strict=True)]
    return tuple(name if names.count(name) == 1 else f"{name} ({n})" for n, name in enumerate(names, 1))


def _same_images(name: str, model: TrainedModel, first: TrainedModel) -> None:
    mine, theirs = first.preprocessing, model.preprocessing
    if model.labels != first.labels or (mine.size, mine.channels) != (theirs.size, theirs.channels):
        raise UserError("has other classes, or takes images of another size", where=name,
                        remedy="Compare models of the same classes and data.image_size")


def _share(cell: Any) -> str:
    return f"{cell.value:.1%} of {cell.count:,}" if cell.count else "none to show"


def _transfer_sentence(found: Transfer, method: str) -> str:
    across = [cell for i, row in enumerate(found.rates) for j, cell in enumerate(row) if i != j and cell.count]
    if not across:
        return f"{method} fooled no model, so nothing can transfer."
    hits, count = sum(cell.hits for cell in across), sum(cell.count for cell in across)
    return f"{hits / count:.1%} of the images that fool one model by {method} fool another too."


def _written(out: str | Path | None, name: str, record: dict[str, Any]) -> tuple[Path, ...]:
    if out is None:
        return ()
    write_json(Path(out) / name, finite(record))
    return (Path(out) / name,)


def _sheet(image: torch.Tensor, kinds: Sequence[str], seed: int) -> Image.Image:
    """A row for each kind: its name and the image at severities 1 to 5."""
    font = ImageFont.load_default(13)
    side = SHOWN_PX + GAP
    canvas = Image.new("RGB", (NAME_PX + len(SEVERITIES) * side + GAP, 22 + len(kinds) * side), "white")
    draw = ImageDraw.Draw(canvas)
    for column, severity in enumerate(SEVERITIES):
        draw.text((NAME_PX + column * side + SHOWN_PX // 2 - 3, 3), str(severity), fill="black", font=font)
    for row, kind in enumerate(kinds):
        top = 22 + row * side
        draw.text((GAP, top + SHOWN_PX // 2 - 8), kind.replace("_", " "), fill="black", font=font)
        for column, severity in enumerate(SEVERITIES):
            changed = corrupt(image, kind, severity, corruption_generator(kind, severity, seed))[0]
            pixels = (255 * changed).round().byte().permute(1, 2, 0).numpy()
            shown = Image.fromarray(np.repeat(pixels, 3, 2) if pixels.shape[2] == 1 else pixels)
            canvas.paste(shown.resize((SHOWN_PX, SHOWN_PX), Image.Resampling.NEAREST if shown.width < SHOWN_PX else
                                      Image.Resampling.LANCZOS), (NAME_PX + column * side, top))
    return canvas

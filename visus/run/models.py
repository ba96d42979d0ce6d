"""Look models up, build them, fill them with weights, describe them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visus.core.errors import CheckpointError, UserError, did_you_mean
from visus.core.passport import Passport, read_passports
from visus.models import registry
from visus.run.pretrained import is_origin, weights_file
from visus.run.registered import entry_of

if TYPE_CHECKING:
    from torch import Tensor, nn

    from visus.core.summary import ModelSummary

MAX_LISTED = 20
LOG = logging.getLogger("visus")


@dataclass(frozen=True, slots=True)
class ModelRow:
    """One registered model. image_size: (height, width) in pixels of its preprocessing; top1: published
    accuracy in percent on the data set `top1_data`; weights: origins of public checkpoints."""

    name: str
    family: str
    task: str
    params: int
    macs: int
    image_size: tuple[int, int]
    top1: float | None
    top1_data: str | None
    weights: tuple[str, ...]
    paper: str


def passports() -> dict[str, Passport]:
    """Every model's passport, by name. Loads no model and no torch."""
    return read_passports(registry.index_path.parent / "passports")


def list_models(task: str | None = None, family: str | None = None,
                search: str | None = None) -> list[ModelRow]:
    """The registered models of a task and a family whose name, family or paper contains `search` (any case),
    by family and size. Loads no torch. Raises UserError for a task or family that no model has."""
    rows = []
    for p in passports().values():
        height, width = p.preprocessing["size"]
        top1, data = p.top1 or (None, None)
        rows.append(ModelRow(p.name, p.family, p.task, p.params, p.macs, (height, width), top1, data,
                             tuple(p.weights), p.paper))
    for field, value in (("task", task), ("family", family)):
        known = sorted({getattr(row, field) for row in rows})
        if value is not None and value not in known:
            raise UserError(f"no model has this {field}", where=f"{field}={value!r}",
                            remedy=did_you_mean(value, known))
    needle = (search or "").lower()
    return sorted((row for row in rows if task in (None, row.task) and family in (None, row.family)
                   and needle in f"{row.name} {row.family} {row.paper}".lower()),
                  key=lambda row: (row.family, row.params, row.name))


def chart_models(out: str | Path, task: str | None = None, family: str | None = None, search: str | None = None,
                 by: str = "family") -> tuple[Path, int]:
    """Draw published ImageNet accuracy by operations and parameters of the models that `list_models` finds, as SVG.
    by: 'family', a hue for each group of families, or 'kind': ConvNets, transformers, hybrids and MLPs compared.
    Returns the path and how many are on it. Raises UserError where none of them states an ImageNet accuracy."""
    from visus.core.files import write_text
    from visus.report import kind_chart, model_chart

    if by not in ("family", "kind"):
        raise UserError("must be family or kind", where=f"by={by!r}")
    known = passports()
    chosen = [known[row.name] for row in list_models(task, family, search)]
    count = sum(map(kind_chart.drawn if by == "kind" else model_chart.shown, chosen))
    if not count:
        raise UserError("none of these models states a published ImageNet accuracy that could be drawn",
                        where=f"family={family!r}, search={search!r}", remedy="Leave the filters out")
    write_text(out, kind_chart.kind_chart(chosen) if by == "kind" else model_chart.model_chart(chosen))
    return Path(out), count


def create_model(name: str, *, num_classes: int | None = None, in_channels: int | None = None,
                 image_size: int | None = None, weights: str | Path | Mapping[str, Tensor] | None = None,
                 origin: str = "visus", normalisation: Mapping[str, str] | None = None,
                 surgery: Mapping[str, Any] | None = None, **config: Any) -> nn.Module:
    """Build a registered model; it carries its frozen `config`.

    None keeps the variant's value. image_size: side in pixels; a model that takes any size has no such field,
    and builds the same with or without it. config: any other field of the model's config. normalisation: another one
    than the model's, as fields of `visus.layers.normalise.Normalisation`: {"norm": "group"}. surgery: how its layers
    were changed since, as `visus compress` noted it (visus.deploy.surgery).
    weights: a file or state dict, whose tensors bear `origin`'s names, or the name of a public origin, such as
    'torchvision' or 'timm', whose file is fetched once into the cache; fields of the config that this file needs are
    then set, where they are not given. Where num_classes or in_channels is given and
    the weights have another, the classifier starts fresh and the first layer is adapted (`load_weights`, fit); what
    was changed is logged. Raises UserError for an unknown name or field or a wrong value, CheckpointError for weights
    that do not fit, DownloadError for ones that cannot be fetched.
    """
    model, notes = make_model(name, num_classes=num_classes, in_channels=in_channels, image_size=image_size,
                              weights=weights, origin=origin, normalisation=normalisation,
                              surgery=surgery, **config)
    for note in notes:
        LOG.warning("%s: %s", name, note)
    return model


def make_model(name: str, *, num_classes: int | None = None, in_channels: int | None = None,
               image_size: int | None = None, weights: str | Path | Mapping[str, Tensor] | None = None,
               origin: str = "visus", progress: Callable[[int, int | None], None] | None = None,
               normalisation: Mapping[str, str] | None = None, surgery: Mapping[str, Any] | None = None,
               **config: Any) -> tuple[nn.Module, list[str]]:
    """As `create_model`, and what was changed in the weights on the way. progress: of a download."""
    entry = entry_of(name)
    build: Any = entry.build
    public = weights is not None and is_origin(name, weights)
    known = {field.name for field in fields(build.Config)}
    asked = {"num_classes": num_classes, "in_channels": in_channels}
    if "image_size" in known:
        asked["image_size"] = image_size
    values = {**entry.variant, **{field: value for field, value in asked.items() if value is not None}}
    needed: Mapping[str, Any] = entry.weights[str(weights)].get("config", {}) if public else {}
    needed = {field: value for field, value in needed.items() if asked.get(field) is None}
    for field, value in (needed | config).items():
        if field not in known:
            raise UserError(f"{name} has no such config field", where=f"{field}={value!r}",
                            remedy=did_you_mean(field, sorted(known)))
        values[field] = tuple(value) if isinstance(value, list) else value
    model: nn.Module = build(build.Config(**values))
    if normalisation:
        from visus.layers.normalise import Normalisation, renormalise

        renormalise(model, Normalisation.of(normalisation))
    if surgery:
        from visus.deploy.surgery import operate

        operate(model, surgery)
    if weights is None:
        return model, []
    if public:
        if origin not in ("visus", weights):
            raise UserError(f"is not the origin of the weights {weights!r}", where=f"origin={origin!r}",
                            remedy="Leave origin out where weights is the name of one")
        origin = str(weights)
        weights = weights_file(name, origin, progress)
    fit = [what for what, value in (("classes", num_classes), ("channels", in_channels)) if value is not None]
    return model, load_weights(model, weights, origin, fit=fit)


def load_weights(model: nn.Module, source: str | Path | Mapping[str, Tensor],
                 origin: str = "visus", *, fit: Collection[str] = ()) -> list[str]:
    """Fill a model from a file or state dict whose tensors bear `origin`'s names; returns what was changed on
    the way.

    origin: 'visus', or one that the model states ('torchvision', 'timm'). Prefixes that DataParallel and
    torch.compile leave in names are taken off. Strict: raises CheckpointError with the missing and unexpected
    names and differing shapes, and for tensors that hold NaN or infinity; the model is then unchanged.
    fit: 'classes': where the file has another number of classes than the model, the tensors that depend on it keep
    the model's initial values. 'channels': where it has another number of input channels, the first layer's kernels
    are shared out in turn: channel i of the one belongs to channel i of the other, counted round. A grey image,
    repeated over the channels, gives the same maps as before.
    """
    from visus.core.weights import non_finite, read_state_dict

    where = None if isinstance(source, Mapping) else source
    state = dict(source) if isinstance(source, Mapping) else read_state_dict(source)
    state, notes = _without_prefixes(state)
    state = dict(_converter(model, origin)(state))
    adapt = getattr(model, "adapt", None)
    if adapt is not None:
        state, adapted = adapt(state)
        notes += adapted
    target = model.state_dict()
    for name in target.keys() - state.keys():
        if name.endswith("num_batches_tracked"):  # files older than torch 0.4.1 lack the counters
            state[name] = target[name]
    if any(name in state and state[name].shape != target[name].shape for name in target):
        for what in fit:
            state, fitted = _FIT[what](model, state, target)
            notes += fitted
    _refuse_mismatch(state, target, where)
    bad = non_finite(state)
    if bad:
        raise CheckpointError(f"holds NaN or infinity in {_listed(bad)}", where=where,
                              remedy="Use a checkpoint from before the run diverged")
    model.load_state_dict(state, strict=True)
    return notes


def _fit_classes(model: Any, state: dict[str, Tensor],
                 target: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    count = model.config.num_classes
    fresh = [name for name in _shaped_by(model, num_classes=count + 1)
             if name in state and state[name].shape != target[name].shape]
    if not fresh:
        return state, []
    found = state[fresh[0]].shape[0]
    return {**state, **{name: target[name] for name in fresh}}, [
        f"the weights have {found} classes, the model {count}: {_listed(fresh)} start fresh"]


def _fit_channels(model: Any, state: dict[str, Tensor],
                  target: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    count = model.config.in_channels
    import torch

    out, names = dict(state), []
    for name in _shaped_by(model, in_channels=count + 1):
        kernel = state.get(name)
        if kernel is None or kernel.shape == target[name].shape or kernel.ndim != 4:
            continue
        found = kernel.shape[1]
        share = torch.zeros(count, found, dtype=kernel.dtype)  # of each kernel's channel in each of the model's
        for i in range(max(count, found)):
            share[i % count, i % found] = 1
        out[name] = torch.einsum("dc,ocij->odij", share / share.sum(0), kernel)
        names.append(name)
    if not names:
        return state, []
    return out, [f"the weights take {found} channels, the model {count}: {_listed(names)} "
                 + ("was summed over them" if count < found else "was shared out among them")]


_FIT = {"classes": _fit_classes, "channels": _fit_channels}


def _shaped_by(model: Any, **changed: Any) -> list[str]:
    """The tensors whose shapes depend on a field of the config."""
    from visus.core.meta import on_meta
    from visus.layers.normalise import normalisation_of, renormalise

    with on_meta():
        built, plain = type(model)(replace(model.config, **changed)), model
        renormalise(built, normalisation_of(model))
        if getattr(model, "surgery", None):  # of sizes of its own: what its config builds is compared
            plain = type(model)(model.config)
            renormalise(plain, normalisation_of(model))
        other, own = built.state_dict(), plain.state_dict()
    return [name for name in model.state_dict() if name in own and other[name].shape != own[name].shape]


def model_config(model: Any) -> dict[str, Any]:
    """All that `create_model` needs to build the same again: the fields of its config and, where they were changed, the
    normalisation and the layers."""
    from visus.layers.normalise import normalisation_of

    found, surgery = normalisation_of(model), getattr(model, "surgery", None)
    return {**vars(model.config), **({"normalisation": asdict(found)} if found.changes else {}),
            **({"surgery": surgery} if surgery else {})}


def head_parameters(model: Any) -> list[str]:
    """The tensors of the classifier: those whose shapes depend on the number of classes, or on the widths of dense
    layers before it (config.head_dims)."""
    changed: dict[str, Any] = {"num_classes": model.config.num_classes + 1}
    if getattr(model.config, "head_dims", ()):
        changed["head_dims"] = tuple(dim + 1 for dim in model.config.head_dims)
    return _shaped_by(model, **changed)


def freeze_backbone(model: Any) -> str:
    """Let only the classifier train (`head_parameters`). Returns what was done."""
    head = set(head_parameters(model))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in head)
    frozen = sum(not parameter.requires_grad for parameter in model.parameters())
    return f"{frozen} parameter tensors are frozen; {_listed(sorted(head))} train"


def describe_model(model: str | nn.Module, image_size: int | None = None) -> ModelSummary:
    """Layers, shapes, parameters, MACs, activation memory and receptive fields for one square image.

    model: a registered name (built on the meta device, so at no cost) or a module. image_size: side in
    pixels; by default the config's, else the preprocessing's. Raises UserError when neither is known.
    """
    import torch

    from visus.core.meta import on_meta
    from visus.core.summary import summarise

    name = model if isinstance(model, str) else type(model).__name__
    entries = [registry.get(model)] if isinstance(model, str) else registry.of(type(model))
    if isinstance(model, str):
        with on_meta():
            model = create_model(name, image_size=image_size)
    config: Any = getattr(model, "config", None)
    size = image_size or getattr(config, "image_size", None) or next(
        (entry.about["preprocessing"]["size"][0] for entry in entries), None)
    if size is None:
        raise UserError(f"the image size of a {name} is not known", where="image_size=None",
                        remedy="Give image_size")
    channels = getattr(config, "in_channels", None) or next(
        (m.in_channels for m in model.modules() if isinstance(m, torch.nn.Conv2d)), 3)
    return summarise(model, (1, channels, size, size), name)


def _converter(model: nn.Module, origin: str) -> Any:
    origins: dict[str, Any] = {"visus": dict}
    for entry in registry.of(type(model)):
        origins |= entry.about.get("origins", {})
    if origin not in origins:
        raise UserError(f"{type(model).__name__} does not read weights of this origin",
                        where=f"origin={origin!r}",
                        remedy=did_you_mean(origin, origins))
    return origins[origin]


def _without_prefixes(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    notes = []
    out = dict(state)
    if any("_orig_mod." in name for name in out):
        out = {name.replace("_orig_mod.", ""): tensor for name, tensor in out.items()}
        notes.append("'_orig_mod.' (torch.compile) was taken off the names")
    if out and all(name.startswith("module.") for name in out):
        out = {name.removeprefix("module."): tensor for name, tensor in out.items()}
        notes.append("'module.' (DataParallel) was taken off the names")
    return out, notes


def _refuse_mismatch(state: Mapping[str, Tensor], target: Mapping[str, Tensor],
                     where: str | Path | None) -> None:
    missing = [name for name in target if name not in state]
    unexpected = [name for name in state if name not in target]
    shapes = [f"{name}: {list(state[name].shape)} in the file, {list(target[name].shape)} in the model"
              for name in target if name in state and state[name].shape != target[name].shape]
    parts = [f"{what} ({len(names)}): {_listed(names)}"
             for what, names in (("missing", missing), ("unexpected", unexpected), ("other shape", shapes))
             if names]
    if not parts:
        return
    if missing or unexpected:
        remedy = "Build the model that the file is of, or state the origin of its names, such as 'timm'"
    else:
        remedy = "Build the model with the file's num_classes, in_channels and sizes"
    raise CheckpointError("does not fit this model\n  " + "\n  ".join(parts) + "\n ", where=where,
                          remedy=remedy)


def _listed(names: list[str]) -> str:
    return ", ".join(names[:MAX_LISTED]) + (f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED
                                            else "")

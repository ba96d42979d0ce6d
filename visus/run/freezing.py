"""Which parts of a network keep the weights that they came with: partial fine-tuning by the names of its modules."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from visus.core.errors import RecipeError, did_you_mean
from visus.run.models import freeze_backbone


def freeze(model: nn.Module, what: str | Sequence[str]) -> str | None:
    """Keep the parameters of `what` from training; returns what was done in words, None for 'none'.

    what: 'none'; 'backbone', all but the classifier; or names of modules and parameters, such as ['stem', 'stages.0',
    'pos_embed']. Batch norms of a module that is frozen whole keep their statistics too (`visus.train.mode`). Raises
    RecipeError for a name that the model lacks, and where nothing would be left to train.
    """
    if what == "none":
        return None
    if what == "backbone":
        return freeze_backbone(model)
    modules, parameters = dict(model.named_modules()), dict(model.named_parameters())
    for name in what:
        if name not in parameters and (not name or name not in modules):
            known = [known for known in (*modules, *parameters) if known]
            same_depth = [other for other in known if other.count(".") == name.count(".")]
            raise RecipeError(f"{type(model).__name__} has no module of this name", where=f"model.freeze={list(what)}",
                              remedy=f"{name!r}: {did_you_mean(name, same_depth or known)}")
    for name in what:
        for parameter in [parameters[name]] if name in parameters else modules[name].parameters():
            parameter.requires_grad_(False)
    training = sum(p.numel() for p in model.parameters() if p.requires_grad)
    if not training:
        raise RecipeError("nothing is left to train", where=f"model.freeze={list(what)}",
                          remedy="Leave the classifier out of it, or use model.freeze=backbone")
    total = sum(p.numel() for p in model.parameters())
    return f"{', '.join(what)} frozen: {training:,} of {total:,} parameters train"

"""Losses of a student against its teacher. The teacher's side carries no gradient.

Papers: Hinton, Vinyals, Dean, Distilling the Knowledge in a Neural Network, 2015, arXiv:1503.02531 (`softened`); Ba and
Caruana, Do Deep Nets Really Need to be Deep?, NIPS 2014, arXiv:1312.6184 (`mimic`); Romero et al., FitNets, ICLR 2015,
arXiv:1412.6550 (`hint`); Touvron et al., ICML 2021, arXiv:2012.12877, equation 3 (`hard`).

Departures: `mimic` and `hint` are divided by the number of values that are compared, so that a learning rate fits nets
and layers of any size; `mimic` leaves the teacher's logits as they are, which Ba and Caruana standardise first.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from visus.core.errors import UserError


def softened(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 KL(softmax(teacher / T) || softmax(student / T)), the mean over the batch.

    student, teacher: logits, float [B, C]. temperature: above 0. -> scalar, at least 0. T^2 keeps the size of the
    gradients, which shrink by 1 / T^2 (Hinton et al., section 2); its gradient is that of the paper's cross-entropy.
    """
    _same_shape(student, teacher)
    wanted = (teacher.detach() / temperature).log_softmax(1)
    found = (student / temperature).log_softmax(1)
    return temperature**2 * F.kl_div(found, wanted, reduction="batchmean", log_target=True)


def mimic(student: Tensor, teacher: Tensor) -> Tensor:
    """Half the squared difference of the logits, the mean over batch and classes. student, teacher: float [B, C]."""
    _same_shape(student, teacher)
    return 0.5 * F.mse_loss(student, teacher.detach())


def hard(student: Tensor, teacher: Tensor) -> Tensor:
    """Cross-entropy with the class that the teacher decides for. student, teacher: logits, float [B, C]."""
    _same_shape(student, teacher)
    return F.cross_entropy(student, teacher.argmax(1))


def hint(student: Tensor, teacher: Tensor) -> Tensor:
    """Half the squared difference of two activations of any one shape, the mean over all values (FitNets, equation 3).
    student: what the regressor makes of the guided layer."""
    _same_shape(student, teacher)
    return 0.5 * F.mse_loss(student, teacher.detach())


def _same_shape(student: Tensor, teacher: Tensor) -> None:
    if student.shape != teacher.shape:
        raise UserError(f"the student gives {list(student.shape)}, the teacher {list(teacher.shape)}", where="distill",
                        remedy="Both need the same classes, or the same size of the layers that are compared")

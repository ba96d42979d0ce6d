"""The learning-rate range test: a copy makes some dozens of steps, each with a higher rate. The loss first stands
still, then falls, then rises: a good peak rate is one at which it falls, a tenth of where it is lowest.

The curve alone is rough, so a rate is called wrong only when a copy that learns one batch at that rate (overfit-batch)
says so too, and AdamW at 1e-3 learns it: too high, when the rate is near or beyond the bottom of the curve and the loss
climbs in the first steps; too low, when it is below 1 : 300 of the steepest place and the loss hardly falls in 200
steps. The curve is kept under "rate-range" for a picture.

Source: Smith, WACV 2017; reliability.md C5.
"""

from __future__ import annotations

from collections.abc import Iterator

from visus.core.record import Finding
from visus.doctor import add
from visus.doctor.first_pass import first_pass
from visus.doctor.patient import Patient
from visus.doctor.short_run import Overfit, RateCurve, overfit, rate_curve
from visus.doctor.thresholds import limit

NAME = "rate-range"


def rate_range(patient: Patient) -> Iterator[Finding]:
    if patient.optimizer is None or first_pass(patient).error is not None:
        return
    curve = rate_curve(patient)
    if curve is None or not curve.whole or curve.falls < limit("rate-range.falls"):
        return
    run = overfit(patient)
    if ((run.reached or run.cut_off) and not run.climbed) or not overfit(patient, own=False).sound:
        return
    if run.rate > curve.lowest / limit("rate-range.near") and run.climbed:
        yield Finding(
            check=NAME, severity="warning", title=f"The learning rate {run.rate:g} is too high",
            evidence=f"{_shape(curve)}; at {run.rate:g} the loss of one batch goes from {run.losses[0]:.3g} to "
                     f"{max(run.losses[:11]):.3g} within ten steps",
            remedy=f"Begin with {run.name} at {_good(curve):.1g}, or warm up to a higher rate")
    elif run.rate < curve.steepest / limit("rate-range.low") and _stands(run):
        yield Finding(
            check=NAME, severity="warning", title=f"The learning rate {run.rate:g} is too low",
            evidence=f"{_shape(curve)}; at {run.rate:g} the loss of one batch goes from {run.losses[0]:.3g} to "
                     f"{min(run.losses):.3g} in {len(run.losses) - 1} steps",
            remedy=f"Begin with {run.name} at {_good(curve):.1g}")


def _stands(run: Overfit) -> bool:
    return run.progress < limit("overfit-batch.started")


def _good(curve: RateCurve) -> float:
    """A tenth of the rate at which the loss is lowest."""
    return curve.lowest / 10


def _shape(curve: RateCurve) -> str:
    up = f", and rises from {curve.diverged:.2g} on" if curve.diverged is not None else ""
    return (f"over {len(curve.rates)} rising rates the loss falls fastest at {curve.steepest:.2g}, is lowest at "
            f"{curve.lowest:.2g}{up}")


add(rate_range, NAME, stage="before", rank=6,
    rule="The peak rate is below the bottom of the range test's curve and above 1 : 300 of its steepest place; "
         "told only when one batch cannot be learnt at that rate either, and can be with another",
    cost="64 steps of 16 samples, 18 of 8 for a large net; shares the steps of overfit-batch", course="18.12, C6.2")

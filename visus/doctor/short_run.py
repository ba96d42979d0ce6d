"""Short trainings of a copy, made once and read by several checks. The person's model is never stepped."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from visus.doctor.answers import Answers
from visus.doctor.first_pass import as_trained, first_pass
from visus.doctor.patient import Batch, Patient
from visus.doctor.thresholds import limit

STEPS = 5  # of `first_steps`
FEW = 8  # samples in them
SMALL, LARGE, PARTS = (64, 16), (18, 8), 4  # steps and samples of the range test by the size of the net; parts
HEAVY = 1_000_000  # parameters and outputs for a sample together, from which a net counts as large
PATIENCE = 5  # times as long for a small net: there only a busy machine makes the time run out
SMOOTH = 0.7  # weight of the past in the smoothed loss


@dataclass(frozen=True, kw_only=True)
class FirstSteps:
    """gradients: parameter -> norm of its gradient at each backward pass, None where it got none. alike: weights whose
    units (rows of axis 0) are all equal before and still all equal after. ran: modules whose forward was called."""

    gradients: dict[str, list[float | None]]
    alike: dict[str, float]
    ran: frozenset[str]


def first_steps(patient: Patient) -> FirstSteps:
    """Five steps with up to eight samples on a copy: what a zero at the very first step (a residual branch that begins
    at 0) does not tell. The steps are Adam's with rate 1e-3 over all parameters that ask for a gradient, whatever the
    person's optimizer is: the graph is looked at, not the rate. Cost: five passes of eight samples."""
    known = patient.remembered.get("first-steps")
    if known is None:
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            known = _first_steps(patient)
        patient.remembered["first-steps"] = known
    return known


def _first_steps(patient: Patient) -> FirstSteps:
    model, _ = patient.copy()
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    alike = {name: float(p.detach().abs().max()) for name, p in trained.items() if rows_alike(p)}
    optimizer = torch.optim.Adam(list(trained.values()), lr=1e-3) if trained else None
    gradients: dict[str, list[float | None]] = {name: [] for name in trained}
    ran: set[str] = set()
    handles = [module.register_forward_hook(lambda *_, name=name: ran.add(name))
               for name, module in model.named_modules()]
    inputs, targets = patient.pooled(FEW * STEPS)
    starts = [(FEW * step) % max(1, len(inputs) - FEW + 1) for step in range(STEPS)]
    with as_trained(model):
        for start in starts:
            model.zero_grad(set_to_none=True)
            part = slice(start, start + FEW)
            patient.loss(model(inputs[part].clone()), targets[part]).backward()
            for name, p in trained.items():
                gradients[name].append(None if p.grad is None else float(p.grad.detach().norm()))
            if optimizer is not None:
                optimizer.step()
    for handle in handles:
        handle.remove()
    return FirstSteps(gradients=gradients, ran=frozenset(ran),
                      alike={name: size for name, size in alike.items() if rows_alike(trained[name])})


def rows_alike(weight: Tensor) -> bool:
    """All units have the same weights. weight: [units, ...]."""
    if weight.ndim < 2 or weight.shape[0] < 2:
        return False
    rows = weight.detach().flatten(1)
    return bool((rows == rows[:1]).all())


@dataclass(frozen=True, kw_only=True)
class Overfit:
    """A batch learned by heart. losses: before each step. floor: the loss of right answers. name, rate: of the
    optimizer. reached: the loss fell below the bound. outputs: on the batch, before and after, where they are a tensor.
    cut_off: the time was over before `steps` were made.
    """

    losses: tuple[float, ...]
    floor: float
    name: str
    rate: float
    reached: bool
    cut_off: bool
    samples: int
    targets: Tensor
    before: Tensor | None = None
    after: Tensor | None = None
    seconds: float = 0.0

    @property
    def finite(self) -> bool:
        return all(map(math.isfinite, self.losses))

    @property
    def sound(self) -> bool:
        """The batch was learnt, or most of the way to it was made."""
        return self.reached or (self.finite and self.progress > limit("overfit-batch.stuck"))

    @property
    def climbed(self) -> bool:
        """The loss was far above the first one within the first ten steps, or is not finite."""
        return not self.finite or max(self.losses[:11]) > limit("rate-range.climb") * max(self.losses[0], 1e-12)

    @property
    def progress(self) -> float:
        """Share of the way from the first loss to the floor that the best one has gone, at most 1."""
        way = self.losses[0] - self.floor
        best = min((value for value in self.losses if math.isfinite(value)), default=math.inf)
        return (self.losses[0] - best) / way if way > 0 else 1.0


def overfit(patient: Patient, *, own: bool = True) -> Overfit:
    """One small batch trained on by a copy, without dropout and decay. own: with the person's optimizer at its peak
    rate; otherwise, or where there is none, with AdamW and rate 1e-3. Cost: at most 200 steps of 16 samples, and at
    most the seconds of the table."""
    key = "overfit" if own and patient.optimizer is not None else "overfit-adamw"
    known = patient.remembered.get(key)
    if known is None:
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            known = _overfit(patient, own=key == "overfit")
        patient.remembered[key] = known
    return known


def _overfit(patient: Patient, *, own: bool) -> Overfit:
    model, optimizer = patient.copy()
    if not own or optimizer is None:
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=1e-3, weight_decay=0.0)
    for group in optimizer.param_groups:
        if "weight_decay" in group:
            group["weight_decay"] = 0.0
    inputs, targets = patient.pooled(int(limit("overfit-batch.samples")))
    inputs, targets = (part[:int(limit("overfit-batch.samples"))] for part in (inputs, targets))
    rate = max(group["lr"] for group in optimizer.param_groups)
    losses: list[float] = []
    seconds = limit("overfit-batch.seconds") * (1 if _work(patient) > HEAVY else PATIENCE)
    start, before, after, floor, reached = time.perf_counter(), None, None, 0.0, False
    with as_trained(model):
        while len(losses) <= limit("overfit-batch.steps"):
            outputs, loss = step_on(model, optimizer, patient, (inputs, targets),
                                    move=len(losses) < limit("overfit-batch.steps"))
            losses.append(loss)
            after = outputs.detach() if isinstance(outputs, Tensor) else None
            if len(losses) == 1:
                before = after
                floor = Answers(patient.loss, after, targets).lowest() if after is not None else 0.0
            bound = max(limit("overfit-batch.loss"), limit("overfit-batch.share") * (losses[0] - floor))
            reached = math.isfinite(loss) and loss - floor <= bound
            if reached or not math.isfinite(loss) or time.perf_counter() - start > seconds:
                break
    return Overfit(losses=tuple(losses), floor=floor, name=type(optimizer).__name__, rate=rate, reached=reached,
                   cut_off=not reached and math.isfinite(losses[-1]) and len(losses) <= limit("overfit-batch.steps"),
                   samples=len(inputs), targets=targets, before=before, after=after,
                   seconds=time.perf_counter() - start)


def step_on(model: nn.Module, optimizer: torch.optim.Optimizer, patient: Patient, batch: Batch, *,
            move: bool = True) -> tuple[object, float]:
    """Outputs and loss of a batch, then, with `move`, one step. The step is left out where the loss is not finite."""
    found: list[object] = []

    def closure() -> Tensor:  # LBFGS asks for the loss again
        optimizer.zero_grad(set_to_none=True)
        outputs = model(batch[0].clone())
        loss = patient.loss(outputs, batch[1])
        if not found:
            found.extend((outputs, float(loss.detach())))
        loss.backward()
        return loss

    if not move:
        with torch.no_grad():
            outputs = model(batch[0].clone())
            return outputs, float(patient.loss(outputs, batch[1]))
    closure()
    value = float(found[1])  # type: ignore[arg-type]
    if math.isfinite(value):
        if isinstance(optimizer, torch.optim.LBFGS):
            optimizer.step(closure)
        else:
            optimizer.step()
    return found[0], value


@dataclass(frozen=True, kw_only=True)
class RateCurve:
    """A learning-rate range test. rates, losses: of each step. smoothed: of the losses. steepest, lowest: the rates at
    which the smoothed loss falls fastest and is smallest. diverged: where it is too large again, or None. whole: the
    test was not broken off for its time."""

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    steepest: float
    lowest: float
    diverged: float | None = None
    seconds: float = 0.0
    whole: bool = True

    @property
    def falls(self) -> float:
        """Share of the first loss by which the curve falls."""
        best = min((value for value in self.smoothed if math.isfinite(value)), default=self.smoothed[0])
        return (self.smoothed[0] - best) / abs(self.smoothed[0]) if self.smoothed[0] else 0.0


def rate_curve(patient: Patient) -> RateCurve | None:
    """Smith's range test on a copy, with the person's optimizer: each step a higher rate, from 1e-7 to 10 or ten times
    their own, and another of four parts, whose first losses are made equal. None without an optimizer. Cost: 64 steps
    of 16 samples, 18 of 8 for a large net; at most the seconds of the table."""
    known = patient.remembered.get("rate-range")
    if known is None and patient.optimizer is not None:
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            known = _rate_curve(patient)
        patient.remembered["rate-range"] = known
    return known


def _rate_curve(patient: Patient) -> RateCurve | None:
    model, optimizer = patient.copy()
    if optimizer is None or isinstance(optimizer, torch.optim.LBFGS):
        return None
    own = max(float(group["lr"]) for group in optimizer.param_groups)
    if own <= 0:
        return None
    shares = [float(group["lr"]) / own for group in optimizer.param_groups]
    inputs, targets = patient.pooled(sum(len(batch[0]) for batch in patient.batches))
    steps, size = LARGE if _work(patient) > HEAVY else SMALL
    size = min(size, len(inputs))
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(0)).to(inputs.device)
    parts = [part for part in order.split(size) if len(part) == size][:PARTS]
    rates, losses, smoothed = [], [], []
    start, average, low, high, whole = time.perf_counter(), 0.0, 1e-7, max(10.0, 10 * own), True
    with as_trained(model):
        firsts = [step_on(model, optimizer, patient, (inputs[part], targets[part]), move=False)[1] for part in parts]
        for number in range(steps):
            rate = low * (high / low) ** (number / (steps - 1))
            for group, share in zip(optimizer.param_groups, shares, strict=True):
                group["lr"] = rate * share
            part = parts[number % len(parts)]
            _, loss = step_on(model, optimizer, patient, (inputs[part], targets[part]))
            loss += sum(firsts) / len(firsts) - firsts[number % len(parts)]  # one part is harder than another
            rates.append(rate)
            losses.append(loss)
            average = SMOOTH * average + (1 - SMOOTH) * loss
            smoothed.append(average / (1 - SMOOTH ** (number + 1)))
            if not math.isfinite(loss) or smoothed[-1] - min(smoothed) > limit("rate-range.stop") * abs(losses[0]):
                break
            if time.perf_counter() - start > limit("rate-range.seconds"):
                whole = False
                break
    return _read(rates, losses, smoothed, time.perf_counter() - start, whole=whole)


def _work(patient: Patient) -> float:
    """Numbers that a step moves: weights, and outputs of layers for a sample."""
    outputs = sum(layer.units * layer.positions / layer.samples for layer in first_pass(patient).layers.values())
    return sum(p.numel() for p in patient.model.parameters()) + outputs


def _read(rates: list[float], losses: list[float], smoothed: list[float], seconds: float, *,
          whole: bool) -> RateCurve:
    """Where the curve falls fastest, is lowest, and has risen again."""
    finite = [i for i, value in enumerate(smoothed) if math.isfinite(value)]
    best = min(finite, key=lambda i: smoothed[i], default=0)
    before = [i for i in finite if 0 < i <= best]
    steepest = min(before, key=lambda i: smoothed[i] - smoothed[i - 1], default=best)
    bound = smoothed[best] + (limit("rate-range.rise") - 1) * abs(smoothed[best]) if finite else math.inf
    bound = max(bound, smoothed[best] + 0.2 * (smoothed[0] - smoothed[best])) if finite else math.inf
    diverged = next((rates[i] for i in range(best, len(rates))
                     if not math.isfinite(smoothed[i]) or smoothed[i] > bound), None)
    return RateCurve(rates=tuple(rates), losses=tuple(losses), smoothed=tuple(smoothed), steepest=rates[steepest],
                     lowest=rates[best], diverged=diverged, seconds=seconds, whole=whole)

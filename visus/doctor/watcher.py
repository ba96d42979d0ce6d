"""A watcher beside a person's own training loop: it sees each step through hooks and writes to nothing.

    with Watcher(model, optimizer, loss) as watcher:    # loss: an nn.Module, or call watcher.loss(value) in the loop
        for inputs, targets in loader:
            optimizer.zero_grad()
            loss(model(inputs), targets).backward()
            optimizer.step()
    print(watcher.diagnosis())

What it sees at a step: the forward pass of the model (input, mode, output), the start of the backward pass (a hook on
the output: gradients must be zero there, unless some are being accumulated), the gradients before the optimizer's step
and the weights after it. A full look measures every layer as well: norms of gradient and weights, the size of the
update, and what the layers give. Full looks come at each of the first ten steps, then ever more rarely, and otherwise
when the time they take has been earned: the watcher's own time stays below `share` of the training's, but for a quarter
of a second at the beginning. Where even the light look at each step is too dear, some steps are slept through.

No random number is drawn and nothing of the training is written: with and without, the weights are the same bits.
"""

from __future__ import annotations

import importlib
import math
import pkgutil
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from visus.core.record import Finding
from visus.doctor import registry
from visus.doctor.diagnosis import Diagnosis, checks, ranked, run_checks
from visus.doctor.history import History
from visus.doctor.layer_outputs import OutputStatistics
from visus.doctor.look import LayerLook, Look

EARLY = 10  # steps that are looked at in full from the start
KEPT = 200  # full looks that are kept: every second of the older half is dropped when there are more
LOGGED = 8000  # points of the loss curve that are kept: neighbours are averaged when there are more
SAMPLED = 16384  # entries of a large weight tensor of which the update is measured
GRAPHS = 60  # last passes of which it is known whether their graph is still held
HEAD_START_S = 0.25  # what looking may cost beyond its share, once a training
EARLY_COST = 0.5  # of a step: one of the first looks may cost this much even when the head start is spent
EARNED = 0.4  # of the share goes to light looks, and as much to full ones; the rest is for what no clock here sees
NOISY = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)  # train mode differs from eval mode

Parameters = list[tuple[str, nn.Parameter]]


class Watcher:
    """Watches one model that one optimizer trains, until `close` or the end of the `with` block.

    model: the module that the loop calls. loss: the nn.Module that gives the loss; with a plain function, or where it
    is computed otherwise, call `watcher.loss(value)` in the loop, or the loss is not seen.
    find(finding): called once for each finding, when it is made. share: of the training's time that it may take; with
    1 each step is looked at in full.
    scaler: of mixed precision, where there is one. step: updates made before (a resumed training). skip: names of
    checks to leave out. `findings`: ranked. `looks`: the full looks, bounded. `failed`: why it stopped by itself, or
    None: an error inside the watcher never reaches the training.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer,
                 loss: Callable[..., Any] | None = None, *,
                 find: Callable[[Finding], None] | None = None, share: float = 0.02,
                 scaler: torch.amp.GradScaler | None = None, step: int = 0, skip: Sequence[str] = ()):
        self.model, self.optimizer, self.scaler = model, optimizer, scaler
        self.step, self.share = step, share
        self.looks: list[Look] = []
        self.failed: str | None = None
        self.spent_s = self.watched_s = 0.0  # measured: its own time, and the training's with it
        self._find, self._begun_at = find, step
        self._found: dict[tuple[str, str | None], Finding] = {}
        self._rules = [(entry.name, entry.build()) for entry in rules() if entry.name not in skip]
        self._every = [(name, rule) for name, rule in self._rules if getattr(rule, "when", "step") != "full"]
        self._events = [(name, rule) for name, rule in self._rules if getattr(rule, "when", "step") == "event"]
        self._curve, self._epochs = _Curve(), list[Mapping[str, Any]]()
        self._compiled = type(model).__name__ == "OptimizedModule"  # of torch.compile: its layers run no hooks
        self._outputs = OutputStatistics(model)
        self._survey()
        self._closed = False
        self._handles: list[Any] = [
            model.register_forward_pre_hook(self._before_forward), model.register_forward_hook(self._after_forward),
            optimizer.register_step_pre_hook(self._before_step), optimizer.register_step_post_hook(self._after_step)]
        if isinstance(loss, nn.Module):
            self._handles.append(loss.register_forward_hook(self._after_loss))
        # the time account: what each kind of look costs (s), and what is left to spend
        self._costs = {"light": 0.0, "full": 0.0}
        self._credit = {"light": 0.0, "full": 0.0}
        self._grace = HEAD_START_S
        self._pace: float | None = None  # seconds of a step, smoothed
        self._planned = step + EARLY + 5
        self._dispatch_s = _dispatch_seconds()
        self._ended, self._ended_cpu = time.perf_counter(), time.process_time()
        self._asleep, self._full, self._granted = False, True, True  # granted: the head start pays for this step
        self._unsafe = 0  # forward passes without gradient while in train mode
        self._graphs: deque[tuple[int, weakref.ref[Any]]] = deque(maxlen=GRAPHS)
        self._trained = False
        self._scale: float | None = None
        # the last inputs: a weak reference, some of the values, the sum of all where it was needed
        self._seen: tuple[Any, Tensor | None, float | None] = (None, None, None)
        self._same: tuple[str, int] = ("", 0)
        self._now = _Step()

    # -- what a person calls -------------------------------------------------------------------------------------

    def loss(self, value: Tensor | float) -> None:
        """The loss of one batch, where `loss` is no nn.Module: call it before or after the backward pass."""
        if not (self._asleep or self._closed):
            self._now.losses.append(value.detach() if isinstance(value, Tensor) else float(value))

    def waited(self, seconds: float) -> None:
        """Time that this step waited for its batch, where the loop knows it; else the time between step and forward
        pass counts."""
        self._now.waited_s = seconds + (self._now.waited_s or 0.0 if self._now.told_wait else 0.0)
        self._now.told_wait = True

    def gradient_norm(self, value: float | Tensor) -> None:
        """The norm of the gradient before it was clipped, where the loop knows it."""
        self._now.unclipped = float(value)

    def epoch(self, train_loss: float | None = None, val_loss: float | None = None, **metrics: float) -> None:
        """The end of an epoch, with what the loop measured: accuracy=..., clean_train_loss=..., anything."""
        row: dict[str, Any] = {"epoch": len(self._epochs), "step": self.step, "train_loss": train_loss,
                               "val_loss": val_loss}
        row |= {name: metrics.pop(name) for name in ("clean_train_loss", "clean_train_accuracy") if name in metrics}
        self._epochs.append(row | {"metrics": {name: float(value) for name, value in metrics.items()}})
        self._now.gap = True

    def history(self, **known: Any) -> History:
        """The curves so far. known: other fields of `History`."""
        steps, losses, lrs = self._curve.columns()
        ends = [0, *(row["step"] for row in self._epochs)]
        known.setdefault("steps_per_epoch", ends[-1] // (len(ends) - 1) if ends[-1] else None)
        return History(steps=steps, losses=losses, lrs=lrs, epochs=tuple(self._epochs), **known)

    @property
    def findings(self) -> tuple[Finding, ...]:
        return tuple(ranked(self._found.values()))

    def diagnosis(self, **known: Any) -> Diagnosis:
        """What was found while training, and what its curves say. known: fields of `History`."""
        history = self.history(**known)
        after = run_checks(checks("after"), lambda entry: entry.build(history), budget_s=math.inf)
        seconds = dict.fromkeys((name for name, _ in self._rules), self.spent_s / max(1, len(self._rules)))
        left_out = dict(after.left_out)
        if self.failed is not None:
            left_out["watcher"] = f"stopped at step {self.step}: {self.failed}"
        return Diagnosis(findings=tuple(ranked([*self._found.values(), *after.findings])),
                         seconds=seconds | dict(after.seconds), left_out=left_out)

    def to_rows(self) -> list[dict[str, Any]]:
        """The full looks as plain values, one row each, for a .jsonl: None where nothing was measured."""
        return [row_of(look) for look in self.looks]

    def close(self) -> None:
        """Take every hook off. Findings and looks stay."""
        self._closed = True
        self._outputs.remove()
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def __getstate__(self) -> dict[str, bool]:
        """A copy of the model, or a file of it, has hooks that lead to a watcher that sees nothing."""
        return {"_closed": True}

    def __enter__(self) -> Watcher:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # -- hooks: none returns anything, so nothing is replaced ----------------------------------------------------

    def _before_forward(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if torch.compiler.is_compiling() or self._closed:
            return
        if not torch.is_grad_enabled():
            self._now.gap = True
            if module.training and self.step > self._begun_at:
                try:
                    self._unsafe_forward()
                except Exception as error:
                    self._fail(error)
            return
        if self._asleep:
            return
        start = time.perf_counter()
        try:
            if not self._now.sizes and not self._now.gap and not self._now.told_wait:
                self._now.waited_s = start - self._ended
            inputs = next((x for x in args if isinstance(x, Tensor) and x.ndim), None)
            if not self._now.sizes and inputs is not None:
                self._compare(inputs)
            self._now.sizes.append(len(inputs) if inputs is not None else 0)
            self._now.eval_mode = not module.training
            if self._full and not self._compiled:
                self._outputs.install()
        except Exception as error:
            self._fail(error)
        self._now.own += time.perf_counter() - start

    def _after_forward(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if torch.compiler.is_compiling() or self._closed or self._asleep or not torch.is_grad_enabled():
            return
        start = time.perf_counter()
        try:
            tensor = next((x for x in _tensors(output) if x.requires_grad), None)
            if self._full:
                self._now.own += self._outputs.settle(tensor)
            if tensor is not None:
                made = self.step

                def begun(gradient: Tensor) -> None:
                    self._at_backward(made, gradient)

                tensor.register_hook(begun)
                self._graphs.append((made, weakref.ref(begun)))  # autograd's graph holds it, and nothing else does
        except Exception as error:
            self._fail(error)
        self._now.own += time.perf_counter() - start

    def _after_loss(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if torch.compiler.is_compiling() or self._asleep or self._closed:
            return
        if isinstance(output, Tensor) and output.requires_grad and output.numel() == 1:
            self._now.losses.append(output.detach())

    def _at_backward(self, made: int, gradient: Tensor) -> None:
        """The start of a backward pass through the model. made: the step in which its forward pass was."""
        if self._closed or self._asleep:
            return
        start = time.perf_counter()
        now = self._now
        try:
            if now.passes == 0 or now.stale or self.scaler is not None:
                left = self._gradients_left()
                now.stale = left and (now.stale or (now.passes == 0 and self.step > self._begun_at))
                now.discarded += now.passes > 0 and not left
            if now.passes == 1 and self._full and now.sizes and self.scaler is None:  # the first of several
                norm = _total_norm(self._gradients())
                now.first_pass = (now.sizes[0], norm) if norm > 0 else None  # 0: a pass for the inputs' gradient
            now.passes += 1
            now.late += made < self.step
            if self._full:
                self._outputs.head_gradient(gradient)
        except Exception as error:
            self._fail(error)
        now.own += time.perf_counter() - start

    def _before_step(self, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._closed or self._asleep:
            return
        start = time.perf_counter()
        try:
            with torch.no_grad():
                self._see_gradients(any(x is not None for x in (*args[1:], kwargs.get("closure"))))
        except Exception as error:
            self._fail(error)
        self._now.own += time.perf_counter() - start

    def _after_step(self, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._closed:
            return
        start = time.perf_counter()
        self.step += 1
        self._unsafe = 0
        try:
            if not self._asleep:
                with torch.no_grad():
                    self._finish(start)
        except Exception as error:
            self._fail(error)
        now = time.perf_counter()
        self._now.own += now - start
        self._account(now - self._ended)
        self._ended = now
        self._now = _Step()

    # -- one step ------------------------------------------------------------------------------------------------

    def _survey(self) -> None:
        """Which tensors there are: again at each full look, for a model may be changed while it trains."""
        self._parameters: Parameters = [(n.removeprefix("_orig_mod."), p) for n, p in self.model.named_parameters()
                                        if p.requires_grad]
        self._held = {id(p) for group in self.optimizer.param_groups for p in group["params"]}
        self._smallest = [p for _, p in sorted(self._parameters, key=lambda item: item[1].numel())
                          if id(p) in self._held]  # what the optimizer does not hold, its zero_grad does not clear
        self._noisy = [m for m in self.model.modules() if isinstance(m, NOISY) and getattr(m, "p", 1.0) > 0]

    def _gradients(self) -> list[Tensor]:
        return [p.grad for p in self._smallest if p.grad is not None and p.grad.layout == torch.strided]

    def _gradients_left(self) -> bool:
        """Whether gradients are not zero; four of the smallest tensors tell."""
        return any(bool(torch.count_nonzero(g)) for g in self._gradients()[:4])

    def _compare(self, inputs: Tensor) -> None:
        """Whether these are the inputs of the last step: the same object, or a copy of it. Some values are compared,
        and where they are equal the sum of all."""
        sample = _sampled(inputs.detach(), 512).clone()
        known, before, total = self._seen
        kind, count = "", 0
        if before is not None and before.shape == sample.shape and before.dtype == sample.dtype \
                and torch.equal(before, sample) and not torch.equal(inputs[0], inputs[-1]):
            now = float(inputs.detach().sum(dtype=torch.float64))
            if total is None or now == total:
                kind, count = "object" if known is not None and known() is inputs else "copy", self._same[1] + 1
            total = now
        self._same = (kind, count)
        self._seen = (weakref.ref(inputs), sample, total if count else None)

    def _unsafe_forward(self) -> None:
        """A forward pass without gradient in train mode: told at the second in a row, for one may be a trial."""
        self._unsafe += 1
        if self._unsafe == 2:
            names = [type(m).__name__ for m in self._noisy if m.training]
            if names:
                look = Look(step=self.step, facts={"evaluated_in_train_mode": self._unsafe, "layers": tuple(names)})
                self._ask(self._events, look)

    def _see_gradients(self, closure: bool) -> None:
        """Before the update: norms of the gradients; for a full look also what the weights are now."""
        now = self._now
        scale = getattr(self.optimizer, "grad_scale", None)  # fused optimizers take scaled gradients
        factor = 1.0 / float(scale) if isinstance(scale, Tensor) else 1.0
        skipped = getattr(self.optimizer, "found_inf", None)
        gradients = self._gradients()
        now.norm = _total_norm(gradients) * factor if gradients else None
        now.facts |= {"closure": closure, "no_gradients": not gradients, "lr": max(
            (float(group["lr"]) for group in self.optimizer.param_groups), default=0.0)}
        if isinstance(skipped, Tensor) and float(skipped) > 0:
            now.discarded += 1
        if now.norm is not None and not math.isfinite(now.norm):
            now.facts["not_finite"] = next((n for n, p in self._parameters if p.grad is not None
                                            and not bool(torch.isfinite(p.grad).all())), "")
        if not self._full:
            return
        self._survey()
        kept = [(n, p, p.grad) for n, p in self._parameters
                if p.grad is not None and p.grad.layout == torch.strided]
        norms = [value * factor for value in _norms([g for _, _, g in kept])]
        sizes = dict(zip((n for n, _, _ in kept), norms, strict=True))
        now.facts["missing"] = tuple(n for n, p in self._parameters
                                     if sizes.get(n, 0.0 if p.grad is None else 1.0) == 0.0)
        now.facts["not_held"] = tuple(n for n, p in self._parameters if id(p) not in self._held)
        now.facts["weight_type"] = next((p.dtype for _, p in self._parameters if p.ndim > 1), None)
        if now.first_pass is not None and now.norm is not None:
            samples, norm = now.first_pass
            now.facts["noise"] = (samples, (norm * factor) ** 2, sum(now.sizes), (now.norm / now.passes) ** 2)
        elif (halves := self._outputs.halves()) is not None:
            now.facts["noise"] = halves
        weights = [(n, p) for n, p in self._parameters if p.ndim > 1]
        now.facts["entries"] = {n.removesuffix(".weight"): p.numel() for n, p in weights}
        for (name, p), norm in zip(weights, _norms([p.detach() for _, p in weights]), strict=True):
            part = _sampled(p.detach(), SAMPLED)
            now.before[name] = {"weight": norm, "gradient": sizes.get(name), "part": part, "copy": part.clone()}

    def _finish(self, end: float) -> None:
        """After the update: the look of this step, given to the rules."""
        now = self._now
        losses = [float(value) for value in now.losses]
        loss = sum(losses) / len(losses) if losses else None
        lr = float(self.optimizer.param_groups[0]["lr"]) if self.optimizer.param_groups else None
        cpu = time.process_time()
        now.facts |= {"passes": now.passes, "late": now.late, "stale": now.stale, "same": self._same,
                      "unclipped": now.unclipped, "evaluated": now.gap, "watched": bool(now.sizes),
                      "cpu_s": cpu - self._ended_cpu if not now.gap else None}
        self._ended_cpu = cpu
        if self.scaler is not None:
            before, self._scale = self._scale, self.scaler.get_scale()
            fell = before is not None and self._scale < before
            now.facts |= {"scale": self._scale, "skipped": max(now.discarded, int(fell))}
        quiet = bool(self._noisy) and not any(m.training for m in self._noisy)
        now.facts |= {"eval_mode": now.eval_mode and quiet, "was_in_train_mode": self._trained}
        self._trained |= bool(now.sizes) and not now.eval_mode
        look = Look(step=self.step, loss=loss, gradient_norm=now.norm, lr=lr, samples=sum(now.sizes),
                    seconds=0.0 if now.gap else end - self._ended, waited_s=None if now.gap else now.waited_s,
                    full=self._full, layers=self._layers() if self._full else {}, facts=now.facts)
        if loss is not None:
            self._curve.add(self.step, loss, float(now.facts.get("lr", lr or 0.0)))
        if self._full:
            now.facts |= self._outputs.facts()
            now.facts["memory_mb"] = _memory_mb(self._parameters)
            now.facts["graphs"] = sum(ref() is not None for made, ref in self._graphs if made < self.step - 5)
            self._keep(look)
        self._ask(self._rules if self._full else self._every, look)

    def _layers(self) -> dict[str, LayerLook]:
        """Of each weight tensor the update and the norms, of each layer what it gave; in the order of the forward
        pass. The name of a tensor called 'weight' is that of its layer."""
        moved, shrink, unchanged = {}, {}, {}
        names = list(self._now.before)
        changes = _norms([b["part"] - b["copy"] for b in self._now.before.values()])
        parts = _norms([b["copy"] for b in self._now.before.values()])
        for name, change, part in zip(names, changes, parts, strict=True):
            kept = self._now.before[name]
            short = name.removesuffix(".weight")
            ratio = change / part if part > 0 else None
            moved[short] = LayerLook(ratio=ratio, weight=kept["weight"], gradient=kept["gradient"])
            if change > 0 and part > 0:
                difference = (kept["part"] - kept["copy"]).double()
                shrink[short] = -float((difference * kept["copy"].double()).sum()) / (change * part)
            if kept["part"].dtype in (torch.bfloat16, torch.float16) and kept["gradient"]:
                unchanged[short] = float((kept["part"] == kept["copy"]).double().mean())
        self._now.facts |= {"shrink": shrink} | ({"unchanged": unchanged} if unchanged else {})
        given = self._outputs.measured()
        layers = {}
        for name in [*(n for n in given if n in moved), *(n for n in moved if n not in given),
                     *(n for n in given if n not in moved)]:
            one = moved.get(name, LayerLook())
            values = given.get(name, {})
            layers[name] = LayerLook(ratio=one.ratio, weight=one.weight, gradient=one.gradient, **values)
        return layers

    def _keep(self, look: Look) -> None:
        # the tensors of a look are in its numbers already: what only the rules read is not kept
        self.looks.append(Look(**{f.name: getattr(look, f.name) for f in fields(look) if f.name != "facts"}))
        if len(self.looks) > KEPT:
            half = KEPT // 2
            self.looks = self.looks[:EARLY] + self.looks[EARLY:half:2] + self.looks[half:]

    def _ask(self, asked: Sequence[tuple[str, Any]], look: Look) -> None:
        for _, rule in asked:
            for finding in rule(look):
                self._tell(finding)

    def _tell(self, finding: Finding) -> None:
        known = self._found.setdefault((finding.check, finding.layer), finding)
        if known is finding and self._find is not None:
            self._find(finding)

    def _fail(self, error: Exception) -> None:
        """An error of ours ends the watching, not the training."""
        self._closed, self.failed = True, f"{type(error).__name__}: {error}"
        self._outputs.remove()

    # -- its own time --------------------------------------------------------------------------------------------

    def _account(self, seconds: float) -> None:
        """Put down what this step cost and decide how the next is looked at. seconds: since the last step's end; of a
        pause (validation, a checkpoint) five steps count, so that it buys no looks."""
        own = self._now.own + self._dispatch_s
        kind = "full" if self._full else "light"
        self.spent_s += own
        if not self._asleep:
            known = self._costs[kind]
            own = own if known == 0.0 else min(own, 10 * known)  # more is the machine's doing: another process had it
            self._costs[kind] = own if known == 0.0 else 0.8 * known + 0.2 * min(own, 2 * known)
        self.watched_s += seconds
        if self._pace is None:
            self._pace = seconds
        seconds = min(seconds, 5 * self._pace)
        self._pace = 0.9 * self._pace + 0.1 * seconds
        earned = EARNED * self.share * seconds
        if self._granted:
            self._grace -= own
            own = 0.0
        for name in self._credit:
            rest = self._credit[name] + earned - (own if name == kind else 0.0)
            self._credit[name] = min(rest, 20 * self._costs["light"] if name == "light" else 2 * self._costs["full"])
        self._decide(self.step + 1)

    def _decide(self, step: int) -> None:
        if self.share >= 1:
            self._full, self._asleep, self._granted = True, False, False
            return
        number = step - self._begun_at
        full, light = self._costs["full"], self._costs["light"]
        due = number <= EARLY or step >= self._planned
        self._granted = False
        self._full = full <= self._credit["full"]
        if not self._full and due and (full <= self._grace or
                                       (number <= EARLY and full <= EARLY_COST * (self._pace or 0.0))):
            self._full = self._granted = True
        if self._full and number > EARLY:
            self._planned = step + max(5, number // 8)
        self._asleep = not self._full and light > self._credit["light"]
        if self._asleep and light <= self._grace - HEAD_START_S / 2:
            self._asleep, self._granted = False, True


def rules() -> list[Any]:
    """The registered checks of the stage `during`; only their files are imported."""
    during = importlib.import_module("visus.doctor.during")
    for info in pkgutil.iter_modules(during.__path__):
        importlib.import_module(f"visus.doctor.during.{info.name}")
    found = [entry for entry in registry.registered() if entry.about["stage"] == "during"]
    return sorted(found, key=lambda entry: (entry.about["symptom"], entry.about["rank"], entry.name))


def row_of(look: Look) -> dict[str, Any]:
    """A look as plain values, rounded to four digits; what was not measured is left out of a layer."""
    layers = {name: {f.name: _short(value) for f in fields(layer) if (value := getattr(layer, f.name)) is not None}
              for name, layer in look.layers.items()}
    return {"step": look.step, "loss": _short(look.loss), "gradient_norm": _short(look.gradient_norm),
            "lr": _short(look.lr), "samples": look.samples, "seconds": _short(look.seconds),
            "waited_s": _short(look.waited_s), "layers": layers}


@dataclass(slots=True)
class _Step:
    """What is seen between the ends of two updates. sizes: samples of each forward pass. late: backward passes of an
    output from before the last update. discarded: gradients that were cleared without an update. stale: those of the
    last update were still there. gap: something else came between, such as an evaluation. before: of each weight tensor
    what is needed after the update. own: seconds that the watcher took."""

    losses: list[Tensor | float] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    passes: int = 0
    late: int = 0
    discarded: int = 0
    stale: bool = False
    gap: bool = False
    eval_mode: bool = False
    told_wait: bool = False
    waited_s: float | None = None
    unclipped: float | None = None
    first_pass: tuple[int, float] | None = None
    norm: float | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    before: dict[str, dict[str, Any]] = field(default_factory=dict)
    own: float = 0.0


class _Curve:
    """The loss by step, in at most `LOGGED` points: when there are more, neighbours are averaged."""

    def __init__(self) -> None:
        self.points: list[tuple[int, float, float]] = []
        self.stride, self.open = 1, list[tuple[int, float, float]]()

    def add(self, step: int, loss: float, lr: float) -> None:
        self.open.append((step, loss, lr))
        if len(self.open) < self.stride:
            return
        self.points.append(self._mean(self.open))
        self.open = []
        if len(self.points) >= LOGGED:
            self.points = [self._mean(self.points[i:i + 2]) for i in range(0, len(self.points), 2)]
            self.stride *= 2

    @staticmethod
    def _mean(points: Sequence[tuple[int, float, float]]) -> tuple[int, float, float]:
        return points[-1][0], sum(p[1] for p in points) / len(points), points[-1][2]

    def columns(self) -> tuple[tuple[int, ...], tuple[float, ...], tuple[float, ...]]:
        points = self.points + ([self._mean(self.open)] if self.open else [])
        return tuple(p[0] for p in points), tuple(p[1] for p in points), tuple(p[2] for p in points)


def _tensors(output: Any) -> Iterator[Tensor]:
    """The tensors in what a model returns: itself, or those in tuples, lists, mappings, dataclasses."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from _tensors(value)
    elif isinstance(output, list | tuple):
        for value in output:
            yield from _tensors(value)
    elif is_dataclass(output):
        for part in fields(output):
            yield from _tensors(getattr(output, part.name))


def _sampled(tensor: Tensor, most: int) -> Tensor:
    """About `most` entries of `tensor`, evenly spaced in memory, as a view where that is possible; [n]. The step is
    odd: an even one would meet the same few places of each image."""
    dense = tensor.is_contiguous() or (tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last))
    flat = tensor.as_strided((tensor.numel(),), (1,)) if dense else tensor.reshape(-1)
    return flat[::(-(-tensor.numel() // most)) | 1]


def _norms(tensors: Sequence[Tensor]) -> list[float]:
    """The 2-norm of each."""
    if not tensors:
        return []
    first = tensors[0]
    return torch.stack([n.to(first.device, torch.float32) for n in torch._foreach_norm(list(tensors))]).tolist()


def _total_norm(tensors: Sequence[Tensor]) -> float:
    return math.sqrt(sum(value * value for value in _norms(tensors)))


def _dispatch_seconds() -> float:
    """What PyTorch takes in a step to call the hooks, which they cannot see themselves: three of modules, measured on
    a module that does nothing, and as much again for the optimizer's two."""
    plain, hooked = nn.Identity(), nn.Identity()
    hooked.register_forward_pre_hook(lambda *_: None)
    hooked.register_forward_hook(lambda *_: None)
    hooked.register_forward_hook(lambda *_: None)

    def seconds(module: nn.Module) -> float:
        start = time.perf_counter()
        for _ in range(10):
            module(None)
        return (time.perf_counter() - start) / 10

    return 2 * max(0.0, median(seconds(hooked) - seconds(plain) for _ in range(7)))


def _memory_mb(parameters: Parameters) -> tuple[str, float] | None:
    """What is in use now, in MiB: by PyTorch on a GPU, else by this process alone (where the system tells)."""
    if parameters and parameters[0][1].device.type == "cuda":
        return "gpu", torch.cuda.memory_allocated(parameters[0][1].device) / 2**20
    try:
        import resource

        _, resident, shared = map(int, Path("/proc/self/statm").read_bytes().split()[:3])
        pages = resident - shared  # without files that are mapped, such as a cache of the images
        return "process", pages * resource.getpagesize() / 2**20
    except (OSError, ImportError, IndexError, ValueError):
        return None


def _short(value: float | None) -> float | None:
    return None if value is None else value if isinstance(value, int) else float(f"{value:.4g}")

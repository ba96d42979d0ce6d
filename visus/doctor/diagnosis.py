"""Which checks run, in which order, within which time; and what they found, the likeliest cause first."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from visus.core.record import Finding
from visus.core.registry import Entry
from visus.doctor import Stage, registry
from visus.doctor.patient import Loss, Patient, as_patient, untouched

SEVERITIES = ("error", "warning", "note")


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """findings: ranked, the first is the likeliest cause. seconds: of each check that ran. left_out: check -> why it
    did not run."""

    findings: tuple[Finding, ...]
    seconds: Mapping[str, float] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def healthy(self) -> bool:
        """Nothing worse than a note."""
        return all(finding.severity == "note" for finding in self.findings)

    def __str__(self) -> str:
        count = len(self.seconds)
        ran = f"{count} check{'s' if count != 1 else ''} in {sum(self.seconds.values()):.1f} s"
        lines = [f"{ran}: " + (counted(self.findings) or "nothing found")]
        for finding in self.findings:
            lines.append(f"{finding.severity:7s}  {finding.title}" + (f"  [{finding.check}]"))
            lines += [f"         {text}" for text in (finding.evidence, finding.remedy) if text]
        lines += [f"left out: {name}: {why}" for name, why in self.left_out.items()]
        return "\n".join(lines)


def counted(findings: Sequence[Finding]) -> str:
    """'1 error, 2 warnings'."""
    counts = [(kind, sum(f.severity == kind for f in findings)) for kind in SEVERITIES]
    return ", ".join(f"{n} {kind}{'s' if n > 1 else ''}" for kind, n in counts if n)


def ranked(findings: Iterable[Finding]) -> list[Finding]:
    """Causes before symptoms, the severe before the mild, what names one cause before what many causes have; a note
    never stands before an error or a warning."""
    def place(finding: Finding) -> tuple[bool, bool, int, int]:
        about = registry.get(finding.check).about if finding.check in registry.index() else {}
        return (finding.severity == "note", bool(about.get("symptom", False)), SEVERITIES.index(finding.severity),
                int(about.get("rank", 5)))

    return sorted(findings, key=place)


def checks(*stages: Stage) -> list[Entry]:
    """The registered checks of these stages, cheap and specific ones first."""
    found = [entry for entry in registry.entries() if entry.about["stage"] in stages]
    return sorted(found, key=lambda entry: (stages.index(entry.about["stage"]), entry.about["symptom"],
                                            entry.about["rank"], entry.name))


def diagnose(model: nn.Module, loader: Iterable[Any], loss: Loss, *, optimizer: torch.optim.Optimizer | None = None,
             validation: Iterable[Any] | None = None, deep: bool = False, budget_s: float = 20.0,
             skip: Sequence[str] = (), **known: Any) -> Diagnosis:
    """What is wrong with a training before it begins. Nothing of yours is changed, not even a random number.

    loader, validation: yield (inputs, targets), as a DataLoader does. loss(outputs, targets) -> scalar.
    deep: also the controls that train (minutes). budget_s: no check begins after so many seconds. skip: names of
    checks to leave out. known: other fields of `Patient`.
    """
    with untouched(model, optimizer):
        patient = as_patient(model, loader, loss, optimizer=optimizer, validation=validation, **known)
        return examine(patient, deep=deep, budget_s=budget_s, skip=skip)


def examine(patient: Patient, *, deep: bool = False, budget_s: float = 20.0, skip: Sequence[str] = (),
            progress: Callable[[str], None] = lambda name: None) -> Diagnosis:
    """`diagnose` for a patient that is there already. progress(name): called before each check."""
    def look(entry: Entry) -> Iterator[Finding]:
        with untouched(patient.model, patient.optimizer):
            yield from entry.build(patient)

    return run_checks(checks("before", "deep") if deep else checks("before"), look,
                      budget_s=float("inf") if deep else budget_s, skip=skip, progress=progress)


def run_checks(entries: Iterable[Entry], look: Callable[[Entry], Iterable[Finding]], *, budget_s: float,
               skip: Sequence[str] = (), progress: Callable[[str], None] = lambda name: None) -> Diagnosis:
    """What these checks find, in their order. look(entry): runs one. A check that fails is left out, with the reason;
    none begins after `budget_s`."""
    for name in skip:
        registry.get(name)
    found: list[Finding] = []
    seconds: dict[str, float] = {}
    left_out: dict[str, str] = dict.fromkeys(skip, "as asked")
    begun = time.perf_counter()
    for entry in entries:
        if entry.name in skip:
            continue
        if time.perf_counter() - begun > budget_s:
            left_out[entry.name] = f"the {budget_s:g} s were over"
            continue
        progress(entry.name)
        start = time.perf_counter()
        try:
            found += look(entry)
        except Exception as error:  # whatever a person's model does, the other checks are made
            left_out[entry.name] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        seconds[entry.name] = time.perf_counter() - start
    return Diagnosis(findings=tuple(ranked(found)), seconds=seconds, left_out=left_out)

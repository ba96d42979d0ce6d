"""Which checks run, in which order, and what becomes of one that fails."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from visus.core.errors import UserError
from visus.core.record import Finding
from visus.doctor.diagnosis import Diagnosis, checks, diagnose, ranked, run_checks
from visus.doctor.patient import as_patient, untouched


def loader(count: int = 4):
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(16, 6, generator=generator), torch.arange(16) % 3) for _ in range(count)]


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 3))


def test_a_cause_stands_before_a_symptom_and_a_note_is_last():
    findings = [Finding("overfit-batch", "error", "symptom"), Finding("gradient-noise", "note", "note"),
                Finding("update-ratio", "warning", "mild"), Finding("softmax-twice", "error", "cause")]
    assert [f.title for f in ranked(findings)] == ["cause", "mild", "symptom", "note"]


def test_nothing_of_the_persons_own_is_changed():
    model, loss = net(), nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    loss(model(loader()[0][0]), loader()[0][1]).backward()
    optimizer.step()
    model[3].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    gradients = [p.grad.clone() for p in model.parameters()]
    moments = [state["exp_avg"].clone() for state in optimizer.state.values()]
    state = torch.get_rng_state()
    found = diagnose(model, loader(), loss, optimizer=optimizer, budget_s=600)
    assert len(found.seconds) == len(checks("before")) and not found.left_out
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), gradients, strict=True))
    assert all(torch.equal(s["exp_avg"], m) for s, m in zip(optimizer.state.values(), moments, strict=True))
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training and not model[3].training


def test_state_is_put_back_after_an_error():
    model = net()
    weight = model[0].weight.clone()
    with pytest.raises(ZeroDivisionError), untouched(model):
        with torch.no_grad():
            model[0].weight.zero_()
        raise ZeroDivisionError
    assert torch.equal(model[0].weight, weight)


def test_a_check_that_fails_is_left_out_and_the_others_are_made():
    entries = checks("before")[:2]

    def look(entry):
        if entry is entries[0]:
            raise AttributeError("no such thing")
        yield Finding(entry.name, "note", "seen")

    found = run_checks(entries, look, budget_s=60)
    assert found.left_out == {entries[0].name: "AttributeError: no such thing"}
    assert [f.check for f in found.findings] == [entries[1].name]


def test_no_check_begins_after_the_time():
    found = run_checks(checks("before"), lambda entry: [], budget_s=-1.0)
    assert not found.seconds and set(found.left_out) == {entry.name for entry in checks("before")}


def test_a_name_that_is_no_check_is_refused_with_the_nearest():
    with pytest.raises(UserError, match="softmax-twice"):
        diagnose(net(), loader(), nn.CrossEntropyLoss(), skip=["softmax-twce"])


@pytest.mark.parametrize("feed, words", [([], "gives no batch"), ([{"image": 1}], "not \\(inputs, targets\\)"),
                                         ([torch.randn(4, 6)], "not \\(inputs, targets\\)")])
def test_a_loader_of_something_else_is_refused(feed, words):
    with pytest.raises(UserError, match=words):
        as_patient(net(), feed, nn.CrossEntropyLoss())


def test_the_copy_has_its_own_weights_and_the_peak_rate():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.5, momentum=0.9)
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.0)
    other, twin = as_patient(model, loader(), nn.CrossEntropyLoss(), optimizer=optimizer).copy()
    assert optimizer.param_groups[0]["lr"] == 0.0 and twin.param_groups[0]["lr"] == 0.5
    assert {id(p) for p in twin.param_groups[0]["params"]} == {id(p) for p in other.parameters()}
    nn.functional.cross_entropy(other(loader()[0][0]), loader()[0][1]).backward()
    before = model[0].weight.clone()
    twin.step()
    assert torch.equal(model[0].weight, before) and not torch.equal(other[0].weight, before)


def test_it_says_what_it_found_in_words():
    found = Diagnosis(findings=(Finding("softmax-twice", "error", "Softmax twice", "rows sum to 1", "Remove it"),),
                      seconds={"softmax-twice": 0.25}, left_out={"slow-loader": "as asked"})
    assert str(found).splitlines() == [
        "1 check in 0.2 s: 1 error", "error    Softmax twice  [softmax-twice]", "         rows sum to 1",
        "         Remove it", "left out: slow-loader: as asked"]
    assert not found.healthy

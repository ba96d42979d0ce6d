"""Requests that schemathesis makes up from the server's own OpenAPI document: no 500, no status that is not documented,
and answers of the documented form. The case S11 of the reliability catalogue."""

from __future__ import annotations

import pytest

pytest.importorskip("schemathesis", reason="schemathesis is not installed")

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

MADE_UP = {"deadline": None, "derandomize": True, "database": None, "suppress_health_check": list(HealthCheck),
           "phases": (Phase.explicit, Phase.generate)}


def made_up(operation, mode: GenerationMode, examples: int) -> list[int]:
    """The statuses that so many requests get. Raises what schemathesis finds; that a well-formed request may still hold
    an unusable image no document can say."""
    statuses = []

    @settings(max_examples=examples, **MADE_UP)
    @given(case=operation.as_strategy(generation_mode=mode))
    def check(case):
        answer = case.call(timeout=30)
        statuses.append(answer.status_code)
        refused = [negative_data_rejection] if answer.status_code == 413 else []  # which it does not count as such
        case.validate_response(answer, excluded_checks=[positive_data_acceptance, *refused])

    check()
    return statuses


def asked(server, examples: int) -> dict[str, list[int]]:
    """The statuses for each operation; half of the requests contradict the document, where they can."""
    schema = schemathesis.openapi.from_url(f"http://127.0.0.1:{server.address[1]}/openapi.json")
    found: dict[str, list[int]] = {}
    for operation in (result.ok() for result in schema.get_all_operations()):
        against = operation.body or operation.path_parameters or operation.query
        modes = [GenerationMode.POSITIVE] + ([GenerationMode.NEGATIVE] if against else [])
        found[operation.label] = [status for mode in modes
                                  for status in made_up(operation, mode, -(-examples // len(modes)))]
    return found


def test_made_up_requests_find_no_failure_and_no_undocumented_answer(server):
    found = asked(server, 8)
    assert len(found) >= 6 and len(found["POST /predict"]) >= 4
    assert 500 not in {status for statuses in found.values() for status in statuses}


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_thousand_made_up_requests_of_each_operation_find_no_failure(server):
    found = asked(server, 1000)
    assert 500 not in {status for statuses in found.values() for status in statuses}


def test_the_document_names_the_paths_and_what_may_go_wrong(server):
    answer = server.get("/openapi.json")
    document = answer.json()
    assert answer.headers["content-type"].startswith("application/json") and document["openapi"].startswith("3.")
    assert {"/predict", "/v2", "/v2/health/live", "/v2/health/ready", "/metrics"} <= document["paths"].keys()
    answers = document["paths"]["/predict"]["post"]["responses"]
    assert {"200", "400", "401", "408", "413", "415", "422", "429", "503", "504"} <= answers.keys()

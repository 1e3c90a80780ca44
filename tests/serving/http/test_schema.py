"""Requests made from the API's own description, well-formed and malformed: none makes the server fail, each answer is documented."""

from __future__ import annotations

import hypothesis
import pytest
import schemathesis
from hypothesis import HealthCheck
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance, status_code_conformance

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


def try_all(served: str, mode: GenerationMode, examples: int) -> int:
    """Ask every operation `examples` times; return how many requests that were."""
    asked = 0
    for found in schemathesis.openapi.from_url(f"{served}/openapi.json").get_all_operations():
        operation = found.ok()

        @hypothesis.settings(max_examples=examples, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
        @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
        def ask(case: Case) -> None:
            nonlocal asked
            asked += 1
            case.call_and_validate(checks=CHECKS)

        if mode == GenerationMode.POSITIVE or operation.body or list(operation.iter_parameters()):
            ask()
    return asked


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
def test_no_request_makes_the_server_fail(served: str, mode: GenerationMode):
    assert try_all(served, mode, 12) > 50


@pytest.mark.slow
@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
def test_no_request_of_hundreds_makes_the_server_fail(served: str, mode: GenerationMode):
    assert try_all(served, mode, 200) > 800

"""Requests that schemathesis makes of the service's description: none is answered by an error of ours."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

pytest.importorskip("schemathesis", reason="schemathesis is not installed")

import schemathesis
from schemathesis.checks import not_a_server_error

from tbt_compile.serving.service import Service

EXAMPLES = 40


def test_no_request_is_answered_by_an_error_of_the_service(service: Service) -> None:
    schema = schemathesis.openapi.from_asgi("/openapi.json", service.app)
    operations = [found.ok() for found in schema.get_all_operations()]
    assert {operation.path for operation in operations} >= {
        "/v1/completions",
        "/v1/chat/completions",
        "/health",
    }
    for operation in operations:

        @given(case=operation.as_strategy())
        @settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck), deadline=None)
        def answered(case: Any) -> None:
            case.call_and_validate(checks=[not_a_server_error])

        answered()

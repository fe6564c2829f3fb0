"""The API holds what its description promises, whatever is sent: generated requests, every answer checked."""

import asyncio
import json

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from sds_server.admin.table import openapi_json
from sds_server.model import Scope
from tests.support.admin import HOST

EXAMPLES = 20
LONGEST = 8190  # of a request line, each character up to nine bytes when percent-encoded
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
SCHEMA = schemathesis.openapi.from_dict(json.loads(openapi_json()))
OPERATIONS = [result.ok() for result in SCHEMA.get_all_operations()]


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.label)
async def test_an_operation_answers_as_described(api, issuances, operation):
    await issuances.issue(await issuances.declare("1"))
    token = await api.token(Scope.ADMIN)
    ca = str(api.directory / "server-ca.pem")
    cases = st.one_of(
        operation.as_strategy(mode) for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
    )

    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=cases)
    def ask(case):
        # What is longer the HTTP parser refuses before there is a request, in its own words.
        assume(sum(map(len, map(str, [*case.query.values(), *case.path_parameters.values()]))) < LONGEST / 9)
        case.query.pop("wait", None)  # to wait takes time, and nothing else
        case.call_and_validate(
            base_url=f"https://{HOST}:{api.ports.api}",
            headers={"Authorization": f"Bearer {token}"},
            verify=ca,
            checks=CHECKS,
            timeout=20,
        )

    await asyncio.to_thread(ask)

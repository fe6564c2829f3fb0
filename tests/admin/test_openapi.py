"""The API's description is the one that is committed, and is an OpenAPI 3.1 document."""

import json
from pathlib import Path

from openapi_spec_validator import OpenAPIV31SpecValidator, validate

from sds_server.admin.table import ROUTES, openapi_json

COMMITTED = Path(__file__).parents[2] / "docs" / "reference" / "openapi.json"


def test_the_committed_description_is_that_of_the_code():
    assert COMMITTED.read_bytes() == openapi_json(), "the routes changed: write the document anew"


def test_it_is_an_openapi_document():
    validate(json.loads(openapi_json()), cls=OpenAPIV31SpecValidator)


def test_every_operation_has_a_name_of_its_own():
    names = [route.handler.__name__ for route in ROUTES]

    assert sorted(set(names)) == sorted(names)


async def test_it_is_served_to_whoever_asks(api):
    assert openapi_json() == (await api.remote("GET", "/openapi.json")).raw

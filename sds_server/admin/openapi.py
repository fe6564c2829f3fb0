"""The OpenAPI 3.1 document, made of the routes' table: it cannot say anything else than what is served."""

import re
from collections.abc import Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from sds_server.admin.idempotency import HEADER, PATTERN
from sds_server.admin.problem import CONTENT_TYPE, TITLES, Problem
from sds_server.admin.routes import Route

Json = dict[str, Any]

_PHRASES: dict[HTTPStatus, str] = {
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "Content Too Large",
    HTTPStatus.UNPROCESSABLE_ENTITY: "Unprocessable Content",
}
"""RFC 9110's, which Python has from 3.13 on: the document is the same whichever writes it."""

_KEY: Json = {
    "name": HEADER,
    "in": "header",
    "required": False,
    "description": "A key of your own, such as a UUID: asked again with it, a change is made once.",
    "schema": {"type": "string", "pattern": PATTERN},
}


def document(routes: Sequence[Route], *, version: str) -> Json:
    """Return the document; ``version`` is certvoy's."""
    models = sorted(_models(routes), key=lambda pair: (pair[0].__name__, pair[1]))
    references, schemas = models_json_schema(models, ref_template="#/components/schemas/{model}")
    components = schemas["$defs"]
    names = {route.query.__name__ for route in routes if route.query is not None}
    queries = {name: components.pop(name) for name in names}
    paths: dict[str, Json] = {}
    for route in routes:
        operations = paths.setdefault(route.path, {})
        operations[route.method.lower()] = _operation(route, references, queries)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "certvoy",
            "version": version,
            "description": "Certificates: declared, issued, rotated, delivered, and proved to be served.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer"},
                "certificate": {"type": "mutualTLS"},
            },
        },
    }


def _models(routes: Sequence[Route]) -> set[tuple[type[BaseModel], JsonSchemaMode]]:
    found: set[tuple[type[BaseModel], JsonSchemaMode]] = {(Problem, "serialization")}
    for route in routes:
        found |= {(shape, "validation") for shape in (route.query, route.body) if shape is not None}
        for shape in route.answers.values():
            if shape is not None and issubclass(shape, BaseModel):
                found.add((shape, "serialization"))
    return found


def _operation(route: Route, references: Mapping[Any, Json], queries: Mapping[str, Json]) -> Json:
    operation: Json = {
        "operationId": route.handler.__name__,
        "summary": route.summary,
        "tags": [route.path.split("/")[2 if route.path.startswith("/v1/") else 1]],
        "parameters": [
            *_path_parameters(route),
            *_query_parameters(route, queries),
            *([_KEY] if route.changes else ()),
        ],
        "responses": {str(int(status)): answer for status, answer in _answers(route, references)},
    }
    if route.body is not None:
        schema = references[route.body, "validation"]
        content: Json = {"application/json": {"schema": schema}}
        content |= {kind: {"schema": {"type": "string"}} for kind in route.reads}
        operation["requestBody"] = {"required": True, "content": content}
    if route.scope is not None:
        operation["security"] = [{"token": []}, {"certificate": []}]
        operation["x-scope"] = str(route.scope)
    elif route.peer:
        operation["security"] = [{"certificate": []}]
    return operation


def _path_parameters(route: Route) -> Iterator[Json]:
    for name in re.findall(r"{(\w+)}", route.path):
        yield {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}


def _query_parameters(route: Route, queries: Mapping[str, Json]) -> Iterator[Json]:
    if route.query is None:
        return
    schema = queries[route.query.__name__]
    for name, described in schema["properties"].items():
        inner = {key: value for key, value in described.items() if key not in {"title", "default"}}
        yield {"name": name, "in": "query", "required": name in schema.get("required", ()), "schema": inner}


def _answers(route: Route, references: Mapping[Any, Json]) -> Iterator[tuple[HTTPStatus, Json]]:
    for status, shape in route.answers.items():
        answer: Json = {"description": _phrase(status)}
        if shape is bytes:
            schema = {} if route.content_type == "application/json" else {"type": "string"}
            answer["content"] = {route.content_type: {"schema": schema}}
        elif shape is not None:
            answer["content"] = {"application/json": {"schema": references[shape, "serialization"]}}
            if route.also is not None and status is HTTPStatus.OK:
                answer["content"][route.also] = {"schema": {"type": "string"}}
        yield status, answer
    problem = {CONTENT_TYPE: {"schema": references[Problem, "serialization"]}}
    for status in sorted({status for status, _ in TITLES.values()} - set(route.answers)):
        yield status, {"description": _phrase(status), "content": problem}


def _phrase(status: HTTPStatus) -> str:
    return _PHRASES.get(status, status.phrase)

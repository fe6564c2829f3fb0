"""Every route, and who may not use it."""

import re

import pytest

from sds_server.admin.table import ROUTES
from sds_server.model import Scope

GUARDED = [route for route in ROUTES if route.scope is not None]
OPEN = {"/healthz", "/readyz", "/openapi.json", "/v1/enrolments", "/v1/authorities"}


def filled(path):
    return re.sub(r"{\w+}", "1", path)


def ids(route):
    return f"{route.method} {route.path}"


@pytest.mark.parametrize("route", GUARDED, ids=ids)
async def test_a_guarded_route_is_closed_to_the_nameless_and_to_every_other_scope(api, route):
    others = [scope for scope in Scope if scope not in {route.scope, Scope.ADMIN}]
    token = await api.token(*others)

    nameless = await api.remote(route.method, filled(route.path), json={})
    without = await api.remote(route.method, filled(route.path), token=token, json={})

    assert (401, 403) == (nameless.status, without.status)


def test_what_is_open_to_all_is_counted_on_one_hand():
    assert OPEN == {route.path for route in ROUTES if route.scope is None and not route.peer}


@pytest.mark.parametrize("route", [route for route in ROUTES if route.peer], ids=ids)
async def test_a_route_for_peers_is_closed_to_the_nameless(api, route):
    assert 401 == (await api.remote(route.method, filled(route.path), json={})).status

"""``/v1/issuers``: the CAs that secrets can name, and our accounts there.

They are configured, not called into being.
"""

from datetime import datetime
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel

from sds_server.admin.routes import Answer, Call, Route
from sds_server.model import Scope


class Issuer(BaseModel):
    """An ACME directory that secrets can name; ``account`` is our account's URL, once there is one."""

    name: str
    directory: str
    account: str | None = None
    paused: "Paused | None" = None


class Paused(BaseModel):
    """Since when nobody asks a CA, and why; ``until`` null: a person must act, then resume it."""

    since: datetime
    until: datetime | None
    error: dict[str, Any]


class Issuers(BaseModel):
    """The issuers that this replica's configuration declares."""

    items: list[Issuer]


async def list_issuers(call: Call) -> Answer:
    """Return those of this replica's configuration."""
    return Answer(Issuers(items=[await _described(call, name) for name in sorted(call.services.issuers)]))


async def change_key(call: Call) -> Answer:
    """Give our account another key; what is under way on other replicas is tried again with it."""
    await call.services.desk.change_key(call.path["name"], actor=call.caller.actor)
    return Answer(await _described(call, call.path["name"]))


async def tell_contact(call: Call) -> Answer:
    """Tell the CA the contacts of the configuration."""
    await call.services.desk.tell_contact(call.path["name"], actor=call.caller.actor)
    return Answer(await _described(call, call.path["name"]))


async def deactivate(call: Call) -> Answer:
    """End our account at the CA, for good; the next order begins another."""
    await call.services.desk.deactivate(call.path["name"], actor=call.caller.actor)
    return Answer(await _described(call, call.path["name"]))


async def resume_issuer(call: Call) -> Answer:
    """Let work go on that waited for a person, or for the CA's limit."""
    await call.services.desk.resume(call.path["name"], actor=call.caller.actor)
    return Answer(await _described(call, call.path["name"]))


async def _described(call: Call, name: str) -> Issuer:
    desk = call.services.desk
    pause = await desk.pause(name)
    return Issuer(
        name=name,
        directory=call.services.issuers[name],
        account=await desk.account_url(name),
        paused=None if pause is None else Paused(since=pause.since, until=pause.until, error=pause.error),
    )


ROUTES = (
    Route(
        method="GET",
        path="/v1/issuers",
        handler=list_issuers,
        summary="List the issuers that secrets can name, with our accounts there",
        scope=Scope.READ,
        answers={HTTPStatus.OK: Issuers},
    ),
    Route(
        method="POST",
        path="/v1/issuers/{name}/account/key",
        handler=change_key,
        summary="Give our account at the issuer another key",
        scope=Scope.ADMIN,
        answers={HTTPStatus.OK: Issuer},
    ),
    Route(
        method="POST",
        path="/v1/issuers/{name}/account/contact",
        handler=tell_contact,
        summary="Tell the issuer the contacts of the configuration",
        scope=Scope.ADMIN,
        answers={HTTPStatus.OK: Issuer},
    ),
    Route(
        method="POST",
        path="/v1/issuers/{name}/account/deactivation",
        handler=deactivate,
        summary="End our account at the issuer; the next order begins another",
        scope=Scope.ADMIN,
        answers={HTTPStatus.OK: Issuer},
    ),
    Route(
        method="POST",
        path="/v1/issuers/{name}/resume",
        handler=resume_issuer,
        summary="Let work go on at the issuer's CA, after what it waited for",
        scope=Scope.ROTATE,
        answers={HTTPStatus.OK: Issuer},
    ),
)

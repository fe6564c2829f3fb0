"""``/v1/kms``: which KEKs are in use, and keys brought from one to another, batch by batch."""

from datetime import datetime
from http import HTTPStatus
from uuid import UUID

from pydantic import BaseModel, Field

from sds_server.admin.routes import Answer, Call, Route, Shape
from sds_server.keys.custody import SAMPLE_MAX, Custody
from sds_server.model import KeyId, Scope


class Kek(BaseModel):
    """A version of a KEK, and how many keys it has wrapped.

    ``opens``: the replica that answers has it. ``left_at``: when the last keys were moved away from it, or
    destroyed; a backup from before that needs it. ``needed_until``: when the last such backup is gone, by
    ``kms.backups_kept``.
    """

    kek_uri: str
    kek_version: int | None
    keys: int
    current: bool
    opens: bool
    left_at: datetime | None
    needed_until: datetime | None


class Keks(BaseModel):
    """Who wraps data keys, and who has. ``behind``: so many keys are for ``POST /v1/kms/rewrap``.

    ``kek_version``: the newest, by which is wrapped now; null while the KMS does not say, for ``error``.
    """

    kek_uri: str
    kek_version: int | None
    behind: int
    error: str | None
    items: list[Kek]


class PostRewrap(Shape):
    """Which batch: the first, or the one behind ``after``. ``all``: also keys of the newest version.

    A KMS that does not tell its versions apart (AWS) is asked to wrap everything anew by ``all``.
    """

    after: UUID | None = None
    all: bool = False


class PostCheck(Shape):
    """How many keys are opened by chance."""

    sample: int = Field(20, ge=1, le=SAMPLE_MAX)


class Refusal(BaseModel):
    """A key that could not be rewrapped, and stays as it is, or that does not open."""

    key_id: UUID
    why: str


class Rewrapped(BaseModel):
    """What one batch did. ``after`` is where the next one begins; null: this was the last.

    ``passed_over``: changed or destroyed meanwhile.
    """

    rewrapped: int
    passed_over: int
    refused: list[Refusal]
    after: UUID | None


class Checked(BaseModel):
    """What a drill found: so many keys opened and are those of their certificates, and which are not."""

    opened: int
    refused: list[Refusal]


async def status(call: Call) -> Answer:
    """Say which KEKs and versions are in use."""
    return Answer(_shape(await call.services.rewrapper.custody()))


async def rewrap(call: Call) -> Answer:
    """Rewrap one batch."""
    wanted = call.body(PostRewrap)
    after = None if wanted.after is None else KeyId(wanted.after)
    batch = await call.services.rewrapper.step(after=after, every=wanted.all, actor=call.caller.actor)
    refused = [Refusal(key_id=key_id, why=why) for key_id, why in batch.refused.items()]
    return Answer(
        Rewrapped(
            rewrapped=batch.rewrapped, passed_over=batch.passed_over, refused=refused, after=batch.after
        )
    )


async def check(call: Call) -> Answer:
    """Open keys by chance; nothing of them is returned."""
    checked = await call.services.key_checks.sample(call.body(PostCheck).sample, actor=call.caller.actor)
    refused = [Refusal(key_id=key_id, why=why) for key_id, why in checked.refused.items()]
    return Answer(Checked(opened=checked.opened, refused=refused))


def _shape(custody: Custody) -> Keks:
    return Keks(
        kek_uri=custody.kek_uri,
        kek_version=custody.newest,
        behind=custody.behind,
        error=custody.error,
        items=[
            Kek(
                kek_uri=kek.kek_uri,
                kek_version=kek.kek_version,
                keys=kek.keys,
                current=kek.current,
                opens=kek.opens,
                left_at=kek.left_at,
                needed_until=kek.needed_until,
            )
            for kek in custody.keks
        ],
    )


ROUTES = (
    Route(
        method="GET",
        path="/v1/kms",
        handler=status,
        summary="Say which KEKs and versions are in use, by count",
        scope=Scope.READ,
        answers={HTTPStatus.OK: Keks},
    ),
    Route(
        method="POST",
        path="/v1/kms/rewrap",
        handler=rewrap,
        summary="Wrap a batch of data keys anew, by the newest version of the KEK",
        scope=Scope.ADMIN,
        body=PostRewrap,
        answers={HTTPStatus.OK: Rewrapped},
    ),
    Route(
        method="POST",
        path="/v1/kms/checks",
        handler=check,
        summary="Open keys by chance by the KMS, and say which do not open",
        scope=Scope.ADMIN,
        body=PostCheck,
        answers={HTTPStatus.OK: Checked},
    ),
)

"""What the routes work on; built by `app`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from sds_server.clock import Clock
from sds_server.inventory.database import Database
from sds_server.model import Identity
from sds_server.xds.catalog import Catalog
from sds_server.xds.session import Observer


class Health(StrEnum):
    """How a part is. ``degraded``: it does not work now, and serving goes on without it."""

    OK = "ok"
    DEGRADED = "degraded"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Check:
    """One part of a replica and how it is, in words where it is not well."""

    name: str
    health: Health
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Services:
    """What a call may need.

    ``declared``: the Secrets that this replica's configuration declares; ``issuers``: the directory's URL by
    the issuer's name; ``authorize``: whether an identity may see a Secret of that name; ``catalog`` and
    ``observer``: what this replica serves, and who is told of it, the same as on the streams;
    ``on_accepted``: told of a Secret that an agent has accepted; ``seen_for``: how long an agent counts from
    its report on.
    """

    database: Database
    clock: Clock
    declared: frozenset[str]
    issuers: Mapping[str, str]
    checks: Callable[[], Sequence[Check]]
    authorize: Callable[[Identity, str], bool]
    catalog: Catalog
    observer: Observer
    on_accepted: Callable[[str], None]
    seen_for: timedelta

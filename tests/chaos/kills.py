"""SIGKILL at named points, a last start, and what must be true then: nothing lost, nothing bought twice.

Each point belongs to a story that comes by it. In one story the process dies at several points, one after the
other: `chains` groups those that can follow each other.
"""

import tempfile
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from sds_server.crashpoint import POINTS
from sds_server.errors import CertvoyError
from sds_server.programs.postgres import EmbeddedPostgres
from tests.chaos.account_stories import Budgeted, Rekeyed
from tests.chaos.audit_story import Sealed
from tests.chaos.demand_story import AskedFor
from tests.chaos.dns_story import ByDns
from tests.chaos.fleet_stories import Outlived, Relapsed, Staged, TakenBack
from tests.chaos.payload_stories import Rooted, Ticketed, Unrooted
from tests.chaos.push_story import Pushed
from tests.chaos.rewrap_story import Rewrapped
from tests.chaos.staple_story import Stapled
from tests.chaos.stories import Broken, Ca, Delivered, Refused, Story
from tests.support.databases import empty_database
from tests.support.debian import Unavailable as NotHere

NAMES = list(POINTS)

STORIES: Mapping[str, type[Story]] = {
    "name.creating": AskedFor,
    "rotation.opening": Story,
    "budget.reserving": Budgeted,
    "order.answered": Story,
    "pair.loaded": Delivered,
    "secret.refused": Refused,
    "deliveries.writing": Delivered,
    "push.claimed": Pushed,
    "targets.looked": Delivered,
    "canaries.asking": Staged,
    "rotation.rolling_back": TakenBack,
    "delivery.staling": Relapsed,
    "key.destroying": Outlived,
    "account.key_planning": Rekeyed,
    "deks.rewrapped": Rewrapped,
    "certificate.refusing": Broken,
    "value.saved": ByDns,
    "staple.answered": Stapled,
    "payload.storing": Rooted,
    "payload.ending": Rooted,
    "payload.rejecting": Unrooted,
    "tickets.made": Ticketed,
    "audit.appended": Story,
    "audit.sealing": Sealed,
}
"""Which story comes by a point, and by those after it up to the next of these."""

BREAKS = {*STORIES, "order.created"}
"""What cannot follow the point before: an order that is saved is resumed, what is proved stays proved."""

CHAIN_MAX = 5


def chains() -> list[tuple[str, ...]]:
    """Return every point once, in groups of those at which one Rotation can die in turn."""
    groups: list[list[str]] = []
    for name in NAMES:
        if not groups or name in BREAKS or len(groups[-1]) == CHAIN_MAX:
            groups.append([])
        groups[-1].append(name)
    return [tuple(group) for group in groups]


def story(points: Sequence[str], seed: int, directory: Path, connect: Mapping[str, Any], ca: Ca) -> Story:
    """Return the story of one control plane that dies at each of these points, and comes back."""
    passed = NAMES[: NAMES.index(points[0]) + 1]
    kind = next(STORIES[name] for name in reversed(passed) if name in STORIES)
    return kind(points, seed, directory, connect, ca)


async def kill(seeds: int) -> list[str]:
    """Tell every story with so many seeds, on a database each; returns what was broken."""
    found = []
    with tempfile.TemporaryDirectory(prefix="certvoy-kills-") as name:
        directory = Path(name)
        postgres = EmbeddedPostgres(directory / "pg", durable=False)
        await postgres.start()
        (directory / "ca").mkdir()
        ca = await Ca.start(directory / "ca")
        try:
            for number, (seed, points) in enumerate(product(range(seeds), chains())):
                what = f"seed {seed}, killed at {' '.join(points)}"
                home = directory / f"story-{number}"
                home.mkdir()
                async with empty_database(postgres.connect) as connect:
                    try:
                        await story(points, seed, home, connect, ca).tell()
                    except (AssertionError, TimeoutError, CertvoyError, ExceptionGroup, NotHere) as e:
                        found.append(f"{what}: {e!r}")
                print(what, *(violation for violation in found if violation.startswith(what)), flush=True)
        finally:
            await ca.caddy.stop()
            postgres.kill()
    return found

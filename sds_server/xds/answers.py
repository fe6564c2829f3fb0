"""Which Secret answers for each name that one stream asks for, and what the stream has told of that.

Mostly the name is the Secret's own. Where a rule of names on demand governs it, the name came out of a
handshake: as the client spelt it, perhaps covered by a wildcard, perhaps made up.
"""

from collections.abc import Iterator
from typing import Final

from sds_server.model import Identity
from sds_server.on_demand.names import MaySee, Names, Standing, Wake
from sds_server.on_demand.rules import dns_name

MAX_SPELLINGS: Final = 16
"""Of one name, besides its own in lower case. Envoy 1.40 asks as the client spelt it, and keeps what it gets
until it is restarted: a name of 16 letters has 65,536 spellings, each a subscription."""


class Answers:
    """The names of one stream. ``wake`` is told of a name as asked when what there is under it changes."""

    def __init__(self, names: Names, wake: Wake, *, may_see: MaySee) -> None:
        self._names = names
        self._wake = wake
        self._may_see = may_see
        self._governed: set[str] = set()
        self._fresh: set[str] = set()
        self._spelt: dict[str, set[str]] = {}
        self._surplus: set[str] = set()
        self._heard: dict[str, str] = {}

    def subscribe(self, asked: str) -> bool:
        """Take the name in; True: a rule governs it, so that it is heard of only once something answers.

        Only now may it become a Secret: one that is deleted under a proxy that has it does not come back by
        itself, but by the next handshake.
        """
        if not self._names.governs(asked):
            return False
        self._governed.add(asked)
        self._fresh.add(asked)
        self._names.watch(asked, self._wake)
        self._count(asked)
        return True

    def unsubscribe(self, asked: str) -> None:
        """Leave nothing behind of the name."""
        if asked in self._governed:
            self._governed.discard(asked)
            self._fresh.discard(asked)
            self._names.unwatch(asked, self._wake)
            self._surplus.discard(asked)
            name = dns_name(asked) or asked
            spelt = self._spelt.get(name, set())
            spelt.discard(asked)
            if not spelt:
                self._spelt.pop(name, None)

    def close(self) -> None:
        """Leave nothing behind."""
        for asked in tuple(self._governed):
            self.unsubscribe(asked)

    def secret(self, asked: str) -> str:
        """Return the name of the Secret that answers now."""
        return self._names.answers(asked, self._may_see) if asked in self._governed else asked

    def governs(self, asked: str) -> bool:
        """Whether there being a Secret is known from memory."""
        return asked in self._governed

    def standing(self, identity: Identity, node_id: str, asked: str) -> Standing:
        """Say what there is under the name; the first time it may be wished for."""
        if asked not in self._governed:
            return Standing.SECRET
        if asked in self._surplus:
            return Standing.NOTHING
        standing = self._names.look(
            identity, node_id, asked, fresh=asked in self._fresh, may_see=self._may_see
        )
        if standing is not Standing.WISHED:
            self._fresh.discard(asked)
        return standing

    def _count(self, asked: str) -> None:
        name = dns_name(asked) or asked
        if asked == name:
            return
        spelt = self._spelt.setdefault(name, set())
        if len(spelt) < MAX_SPELLINGS:
            spelt.add(asked)
        else:
            self._surplus.add(asked)

    # What was told of whom

    def heard_as(self, asked: str) -> str | None:
        """Return under which Secret's name the subscription is heard of; None: it is not."""
        return self._heard.get(asked)

    def hear(self, asked: str, secret: str) -> None:
        """Note that the subscription is heard of."""
        self._heard[asked] = secret

    def unhear(self, asked: str) -> str | None:
        """Note that it is not any more; return as what it was."""
        return self._heard.pop(asked, None)

    def heard(self) -> Iterator[tuple[str, str]]:
        """Yield each name as asked with the Secret."""
        yield from self._heard.items()

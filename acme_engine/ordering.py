"""newOrder with all that it may ask for besides names, and what is done where the CA will not have that.

| asked for          | sent                                   | refused                                    |
|--------------------|----------------------------------------|--------------------------------------------|
| ``replaces``       | if the directory has ``renewalInfo``   | once more without it, whatever the CA said |
| profile, preferred | if the directory lists it              | once more without it                       |
| profile, required  | if the directory lists it, else failed | failed                                     |
| ``lifetime``       | as ``notAfter``                        | failed                                     |
| ``backdate``       | as ``notBefore``                       | failed                                     |

A CA that takes no dates must say so, and some do nothing of what they do not know: see `dates_ignored`.
A CA that is busy, or wants to be left alone, has refused nothing of that (RFC 9773 section 5).
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http import HTTPStatus

from acme_engine.client import Client
from acme_engine.errors import ProfileUnavailable, Refused
from acme_engine.messages import Directory, Order

_NOT_NOW = {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE}
_OF_THE_PROFILE = {"invalidProfile", "unauthorized", "malformed"}
"""An unknown profile, and one that the account may not have: CAs word the second as they like."""

_DATES = {"notBefore": "`backdate`", "notAfter": "`lifetime`"}
"""What is asked for, and what an operator calls it."""

_LEEWAY = timedelta(minutes=1)
"""Of a CA's clock, when dates are compared."""


@dataclass(frozen=True, slots=True)
class Profile:
    """A kind of certificate that a CA's directory lists; ``required``: no other will do."""

    name: str
    required: bool = False


@dataclass(frozen=True, slots=True)
class Terms:
    """What an order asks for besides its names.

    ``replaces`` is the ARI identifier of the certificate that it replaces (RFC 9773 section 5). ``lifetime``:
    the certificate shall end so long from now; ``backdate``: begin so long before now; the CA chooses where
    they are None. ``preferred_chain``: the common name of an issuer in the chain, its root by habit, or
    "smallest".
    """

    replaces: str | None = None
    profile: Profile | None = None
    lifetime: timedelta | None = None
    backdate: timedelta | None = None
    preferred_chain: str | None = None


NO_TERMS = Terms()

Admit = Callable[[bool], Awaitable[None]]
"""Asked before each newOrder, told whether it names a certificate that it replaces; raises to let none go."""


async def freely(replacing: bool) -> None:  # noqa: FBT001 - an `Admit`
    """Let every order go."""


async def place(
    client: Client,
    names: Sequence[str],
    terms: Terms,
    on_step: Callable[[str, Mapping[str, object]], None],
    admit: Admit = freely,
) -> Order:
    """Order a certificate for normalised names, if ``admit`` does.

    Raises:
        ProfileUnavailable: the directory does not list the profile that is required.
        Refused and others: as `Client.new_order`.
    """
    directory = await client.directory()
    asked = _asked(client, directory, terms, on_step)
    while True:
        await admit("replaces" in asked)
        try:
            return await client.new_order(names, asked)
        except Refused as e:
            dropped = _to_drop(e, asked, terms)
            if dropped is None:
                if e.problem.code == "malformed" and asked.keys() & _DATES.keys():
                    e.hint = f"if the CA takes no dates, leave out {_of(asked)} of the issuer"
                raise
            del asked[dropped]
            if dropped == "replaces":
                on_step("order.replaces_refused", {"problem": str(e.problem)})
            else:
                on_step("order.profile_refused", {"problem": str(e.problem)})


def _asked(
    client: Client,
    directory: Directory,
    terms: Terms,
    on_step: Callable[[str, Mapping[str, object]], None],
) -> dict[str, object]:
    asked: dict[str, object] = {}
    if terms.replaces is not None and directory.renewal_info is not None:
        asked["replaces"] = terms.replaces
    if terms.profile is not None:
        if terms.profile.name in directory.profiles:
            asked["profile"] = terms.profile.name
        else:
            offered = ", ".join(directory.profiles) or "none"
            said = f"the CA offers no profile {terms.profile.name}; it offers {offered}"
            if terms.profile.required:
                raise ProfileUnavailable(said)
            on_step("order.profile_refused", {"problem": said})
    now = client.clock().astimezone(UTC)
    if terms.backdate is not None:
        asked["notBefore"] = f"{now - terms.backdate:%FT%TZ}"
    if terms.lifetime is not None:
        asked["notAfter"] = f"{now + terms.lifetime:%FT%TZ}"
    return asked


def dates_ignored(terms: Terms, *, not_before: datetime, not_after: datetime, now: datetime) -> str | None:
    """Say which of the dates that were asked for a certificate does not have; None: it has them. Pure.

    "The server MUST return an error if it cannot fulfill the request as specified" (section 7.4); some issue
    as if there were no dates. When the order went out is not known of one that is resumed, but it was before
    ``now``: what begins or ends later than an order of now would have asked for was not asked for.
    """
    latest = now + _LEEWAY
    wrong = []
    if terms.backdate is not None and not_before > latest - terms.backdate:
        wrong.append(f"begins {not_before:%FT%TZ}")
    if terms.lifetime is not None and not_after > latest + terms.lifetime:
        wrong.append(f"ends {not_after:%FT%TZ}")
    return " and ".join(wrong) or None


def _of(asked: Mapping[str, object]) -> str:
    return " and ".join(name for field, name in _DATES.items() if field in asked)


def _to_drop(error: Refused, asked: Mapping[str, object], terms: Terms) -> str | None:
    """Return what the order goes without when it is sent once more; None: it is not."""
    problem = error.problem
    if problem.status in _NOT_NOW or problem.code in {"badNonce", "rateLimited"}:
        return None
    may_go = "profile" in asked and terms.profile is not None and not terms.profile.required
    if problem.code == "invalidProfile" and may_go:
        return "profile"
    if "replaces" in asked:
        return "replaces"
    return "profile" if may_go and problem.code in _OF_THE_PROFILE else None

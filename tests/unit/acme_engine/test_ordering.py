"""What an order asks for besides its names, and what is done where a CA will not have it."""

from datetime import UTC, datetime, timedelta

import pytest

from acme_engine.errors import OrderFailed, ProfileUnavailable, Refused
from acme_engine.ordering import Profile, Terms, dates_ignored, place
from tests.support.acme import MemoryJournal, Orderer, Tokens
from tests.support.fake_ca import problem

NAMES = ["www.example.test"]
ARI = "AQ.fw"


@pytest.fixture
def steps():
    return []


@pytest.fixture
def order(client, steps):
    async def order(**terms):
        return await place(client, NAMES, Terms(**terms), lambda name, _fields: steps.append(name))

    return order


@pytest.fixture
def new(ca):
    """A CA of today: it has ARI and profiles."""
    ca.directory = {
        "renewalInfo": f"{ca.url}/renewal-info",
        "meta": {"profiles": {"tlsserver": "45 days", "shortlived": "6 days"}},
    }
    return ca


def sent(ca):
    return [
        {name: value for name, value in request.payload.items() if name != "identifiers"}
        for request in ca.posts("/new-order")
    ]


async def test_an_order_names_what_it_replaces_and_its_profile(new, order, steps):
    await order(replaces=ARI, profile=Profile("tlsserver"))

    assert [{"replaces": ARI, "profile": "tlsserver"}] == sent(new)
    assert [] == steps


async def test_nothing_is_replaced_at_a_ca_without_ari(ca, order):
    await order(replaces=ARI)

    assert [{}] == sent(ca)


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (409, "alreadyReplaced"),
        (400, "malformed"),
        (403, "unauthorized"),
        (404, "malformed"),
        (400, "tomorrow"),
        (500, "serverInternal"),
    ],
)
async def test_whatever_a_ca_has_against_replaces_it_is_asked_once_more_without(
    new, order, steps, status, code
):
    """certmagic#361: a 409 that was met with the same order again let certificates expire."""
    for _ in range(7 if code == "serverInternal" else 1):  # a CA that fails is asked in place for a while
        new.next("/new-order", status, problem(code))
    await order(replaces=ARI)

    assert {"replaces": ARI} == sent(new)[0]
    assert {} == sent(new)[-1]
    assert ["order.replaces_refused"] == steps


@pytest.mark.parametrize(("status", "code"), [(429, "rateLimited"), (503, "rateLimited")])
async def test_a_ca_that_wants_to_be_left_alone_is_not_asked_without_replaces(
    new, order, steps, status, code
):
    for _ in range(3):
        new.next("/new-order", status, problem(code), Retry_After="7200")
    with pytest.raises(Refused):
        await order(replaces=ARI)

    assert [{"replaces": ARI}] == sent(new)
    assert [] == steps


async def test_one_that_is_refused_without_replaces_too_has_failed(new, order):
    for _ in range(2):
        new.next("/new-order", 403, problem("rejectedIdentifier"))
    with pytest.raises(Refused, match="rejectedIdentifier"):
        await order(replaces=ARI)

    assert 2 == len(sent(new))


async def test_a_profile_that_is_preferred_may_be_missing(new, order, steps):
    await order(profile=Profile("classic"))

    assert ([{}], ["order.profile_refused"]) == (sent(new), steps)


async def test_a_profile_that_is_required_may_not_and_nothing_is_asked(new, order):
    with pytest.raises(ProfileUnavailable, match="it offers tlsserver, shortlived"):
        await order(profile=Profile("classic", required=True))

    assert [] == sent(new)


@pytest.mark.parametrize("code", ["invalidProfile", "unauthorized", "malformed"])
async def test_a_preferred_profile_that_is_refused_is_left_out(new, order, code):
    new.next("/new-order", 400, problem(code))
    await order(profile=Profile("tlsserver"))

    assert [{"profile": "tlsserver"}, {}] == sent(new)


async def test_a_required_profile_that_is_refused_has_failed(new, order):
    new.next("/new-order", 403, problem("unauthorized"))
    with pytest.raises(Refused):
        await order(profile=Profile("tlsserver", required=True))

    assert 1 == len(sent(new))


async def test_a_refused_profile_leaves_replaces_in_place(new, order):
    new.next("/new-order", 400, problem("invalidProfile"))
    await order(profile=Profile("tlsserver"), replaces=ARI)

    assert {"replaces": ARI} == sent(new)[1]


async def test_a_lifetime_is_asked_for_as_the_end(ca, client, order):
    client.clock = lambda: datetime(2026, 11, 24, 8, 0, tzinfo=UTC)
    await order(lifetime=timedelta(days=7))

    assert [{"notAfter": "2026-12-01T08:00:00Z"}] == sent(ca)


async def test_a_beginning_before_the_order_is_asked_for_beside_the_end(ca, client, order):
    client.clock = lambda: datetime(2026, 11, 24, 8, 0, tzinfo=UTC)
    await order(lifetime=timedelta(days=7), backdate=timedelta(hours=1))

    assert [{"notBefore": "2026-11-24T07:00:00Z", "notAfter": "2026-12-01T08:00:00Z"}] == sent(ca)


async def test_a_ca_that_takes_no_dates_is_named_with_what_to_leave_out(ca, order):
    """Let's Encrypt's words; asked without them it would issue something that nobody wanted."""
    ca.next("/new-order", 400, problem("malformed", detail="NotBefore and NotAfter are not supported"))
    with pytest.raises(Refused, match="NotBefore and NotAfter are not supported") as refused:
        await order(lifetime=timedelta(days=7), backdate=timedelta(hours=1))

    assert "leave out `backdate` and `lifetime` of the issuer" in refused.value.hint
    assert 1 == len(sent(ca))


NOW = datetime(2026, 11, 24, 8, 0, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


@pytest.mark.parametrize(
    ("begins", "ends", "said"),
    [
        (-HOUR, 7 * DAY, None),
        (-HOUR - DAY, 6 * DAY, None),  # ordered a day ago, and resumed now
        (-HOUR, 6 * DAY, None),  # shorter: the CA's own limit, or an older order; it is renewed by its dates
        (timedelta(0), 7 * DAY, "begins 2026-11-24T08:00:00Z"),
        (-HOUR, 90 * DAY, "ends 2027-02-22T08:00:00Z"),
        (timedelta(0), 90 * DAY, "begins 2026-11-24T08:00:00Z and ends 2027-02-22T08:00:00Z"),
    ],
)
def test_dates_that_a_ca_passes_over_are_told(begins, ends, said):
    terms = Terms(lifetime=7 * DAY, backdate=HOUR)

    assert said == dates_ignored(terms, not_before=NOW + begins, not_after=NOW + ends, now=NOW)


def test_a_ca_that_was_asked_for_no_dates_has_passed_over_none():
    assert dates_ignored(Terms(), not_before=NOW, not_after=NOW + 90 * DAY, now=NOW) is None


async def test_a_name_that_was_not_asked_for_is_not_proved(ca, client):
    """A CA, or who has taken one over, would have us prove somebody else's."""
    ca.authorization = {"identifier": {"type": "dns", "value": "bank.example"}}
    tokens = Tokens()
    orderer = Orderer(client, NAMES, tokens)
    with pytest.raises(OrderFailed, match=r"bank\.example"):
        await orderer.obtain(MemoryJournal())

    assert (0, {}) == (len(ca.posts("/challenge")), tokens)


async def test_each_order_is_admitted_before_it_goes_out_also_the_one_without_replaces(new, client, steps):
    """A limit that does not count what is replaced counts the second order."""
    asked = []

    async def admit(replacing):
        asked.append((replacing, len(sent(new))))

    new.next("/new-order", 409, problem("alreadyReplaced"))
    await place(client, NAMES, Terms(replaces=ARI), lambda name, _fields: steps.append(name), admit)

    assert [(True, 0), (False, 1)] == asked


async def test_nothing_goes_out_that_is_not_admitted(new, client):
    class No(Exception):
        pass

    async def admit(_replacing):
        raise No

    with pytest.raises(No):
        await place(client, NAMES, Terms(), lambda _name, _fields: None, admit)

    assert [] == sent(new)

"""Tokens of Vault: had once, renewed before they end, had anew when they are refused."""

import asyncio
from datetime import timedelta

import pytest

from acme_engine.hidden import Hidden
from sds_server.errors import Unavailable
from sds_server.keys.vault_token import AppRole, TokenFile, Tokens
from tests.support.clocks import TurnedClock

HOUR = timedelta(hours=1)


class Server:
    """What Vault says of tokens: those that are valid, and how long a renewal makes them live."""

    def __init__(self):
        self.valid, self.logins, self.renewals = set(), 0, 0
        self.lives_s, self.renewed_s, self.away = 3600, 3600, False
        self.refuses_logins = False

    async def ask(self, method, path, body, token):
        if self.away:
            raise Unavailable("away")
        if path == "auth/approle/login":
            if self.refuses_logins:
                return 400, {"errors": ["invalid role or secret ID"]}
            self.logins += 1
            self.valid.add(f"t{self.logins}")
            return 200, {
                "auth": {"client_token": f"t{self.logins}", "lease_duration": self.lives_s, "renewable": True}
            }
        if token.reveal() not in self.valid:
            return 403, {"errors": ["permission denied"]}
        if path == "auth/token/renew-self":
            self.renewals += 1
            return 200, {"auth": {"lease_duration": self.renewed_s, "renewable": True}}
        return 200, {"data": {"ttl": self.lives_s, "renewable": True}}


@pytest.fixture
def server():
    return Server()


@pytest.fixture
def clock():
    return TurnedClock()


@pytest.fixture
def secret_id(tmp_path):
    (tmp_path / "secret-id").write_text("s\n")
    return tmp_path / "secret-id"


@pytest.fixture
async def tokens(server, clock, secret_id):
    tokens = Tokens(AppRole("role", secret_id), server.ask, clock)
    yield tokens
    await tokens.close()


@pytest.fixture
async def from_file(server, clock, tmp_path):
    (tmp_path / "token").write_text("mine\n")
    server.valid.add("mine")
    tokens = Tokens(TokenFile(tmp_path / "token"), server.ask, clock)
    yield tokens
    await tokens.close()


async def turned(clock, by):
    """Let time pass, and all that comes of it happen."""
    for _ in range(20):
        await asyncio.sleep(0)
    clock.turn(by)
    for _ in range(20):
        await asyncio.sleep(0)


async def test_many_who_ask_at_once_log_in_once(tokens, server):
    assert {"t1"} == {got.reveal() for got in await asyncio.gather(*(tokens.get() for _ in range(10)))}
    assert 1 == server.logins


async def test_a_token_is_renewed_before_it_ends(tokens, server, clock):
    await tokens.get()
    await turned(clock, HOUR * 0.6)
    assert 0 == server.renewals

    await turned(clock, HOUR * 0.1)
    assert (1, 1) == (server.renewals, server.logins)
    assert Hidden("t1") == await tokens.get()


async def test_one_that_can_hardly_be_renewed_any_more_is_replaced(tokens, server, clock):
    """Near its longest life a renewal gives less and less."""
    await tokens.get()
    server.renewed_s = 60
    await turned(clock, HOUR * 0.7)

    assert Hidden("t2") == await tokens.get()


async def test_a_server_that_is_away_is_asked_again_before_the_token_ends(tokens, server, clock):
    await tokens.get()
    server.away = True
    await turned(clock, HOUR * 0.7)
    server.away = False
    await turned(clock, HOUR * 0.25)

    assert (1, 1) == (server.renewals, server.logins)


async def test_one_that_is_refused_because_it_is_over_is_had_anew(tokens, server):
    server.valid.discard((await tokens.get()).reveal())

    assert Hidden("t2") == await tokens.after(Hidden("t1"))
    assert Hidden("t2") == await tokens.get()


async def test_one_that_is_good_and_may_not_is_not_had_anew(tokens, server):
    assert await tokens.after(await tokens.get()) is None
    assert 1 == server.logins


async def test_who_was_refused_by_an_older_token_takes_the_newer(tokens, server):
    server.valid.discard((await tokens.get()).reveal())
    await tokens.after(Hidden("t1"))

    assert Hidden("t2") == await tokens.after(Hidden("t1"))
    assert 2 == server.logins


async def test_a_refused_login_is_unavailable_with_what_to_do(tokens, server, secret_id):
    """What was opened until now may be used on."""
    server.refuses_logins = True

    with pytest.raises(Unavailable) as away:
        await tokens.get()
    assert str(secret_id) in away.value.next_step


async def test_a_new_token_in_the_file_is_taken_when_the_old_one_is_over(from_file, server, tmp_path):
    server.valid = {"next"}
    assert Hidden("mine") == await from_file.get()
    (tmp_path / "token").write_text("next")

    assert Hidden("next") == await from_file.after(Hidden("mine"))


async def test_a_token_that_is_over_while_the_file_has_no_other_is_unavailable(from_file, server):
    await from_file.get()
    server.valid.clear()

    with pytest.raises(Unavailable, match="not valid any more"):
        await from_file.after(Hidden("mine"))


async def test_a_token_of_a_file_is_renewed_as_well(from_file, server, clock):
    await from_file.get()
    await turned(clock, HOUR * 0.7)

    assert 1 == server.renewals


async def test_a_file_that_is_gone_is_named(server, clock, tmp_path):
    with pytest.raises(Unavailable, match="nowhere"):
        await Tokens(TokenFile(tmp_path / "nowhere"), server.ask, clock).get()


async def test_a_token_shows_in_no_repr(tokens):
    await tokens.get()

    assert "t1" not in repr(tokens._held)

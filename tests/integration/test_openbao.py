"""A real OpenBao with the policy of the how-to: who may, who may not, tokens that end, a server that dies."""

import asyncio

import pytest

from sds_server.errors import CustodyError, Unavailable
from sds_server.keys.vault import VaultKms
from sds_server.keys.vault_token import AppRole, Denied, TokenFile
from tests.support.openbao import OpenBao

DEK = bytes(range(32))
CONTEXT = {"key-id": "1"}


@pytest.fixture(scope="module")
def bao(tmp_path_factory):
    running = asyncio.run(OpenBao.start(tmp_path_factory.mktemp("bao")))
    asyncio.run(running.key("certvoy"))
    yield running
    asyncio.run(running.stop())


@pytest.fixture
async def by_role(bao, tmp_path):
    """A role that has the policy, and nothing else."""
    role_id, secret_id = await bao.role("certvoy", token_ttl="1h")
    (tmp_path / "secret-id").write_text(secret_id)
    kms = vault(bao, AppRole(role_id, tmp_path / "secret-id"))
    yield kms
    await kms.close()


@pytest.fixture
async def by_file(bao, tmp_path):
    (tmp_path / "token").write_text(await bao.token("certvoy"))
    kms = vault(bao, TokenFile(tmp_path / "token"))
    yield kms
    await kms.close()


def vault(bao, login, *, key="certvoy", ca_file=None):
    return VaultKms(address=bao.address, key=key, login=login, ca_file=ca_file or bao.ca_file)


async def unwrap(kms, wrapped):
    return await kms.unwrap(wrapped.ciphertext, kek_version=wrapped.kek_version, context=CONTEXT)


async def test_the_policy_of_the_how_to_is_enough(by_role):
    wrapped = await by_role.wrap(DEK, CONTEXT)
    again = await by_role.rewrap(wrapped.ciphertext, kek_version=wrapped.kek_version, context=CONTEXT)

    assert DEK == await unwrap(by_role, again)


async def test_a_key_that_binds_no_context_is_refused(bao, tmp_path):
    await bao.key("plain", derived=False)
    (tmp_path / "token").write_text(bao.root)
    kms = vault(bao, TokenFile(tmp_path / "token"), key="plain")

    with pytest.raises(CustodyError, match="no derived key"):
        await kms.wrap(DEK, CONTEXT)
    await kms.close()


async def test_a_token_without_the_policy_is_refused_for_ever_and_told_what_to_do(bao, tmp_path):
    (tmp_path / "token").write_text(await bao.token("default"))
    kms = vault(bao, TokenFile(tmp_path / "token"))

    with pytest.raises(Denied) as refused:
        await kms.wrap(DEK, CONTEXT)
    assert "docs/how-to/kms.md" in refused.value.next_step
    await kms.close()


async def test_a_key_that_is_not_there_is_named(bao, tmp_path):
    (tmp_path / "token").write_text(bao.root)
    kms = vault(bao, TokenFile(tmp_path / "token"), key="nowhere")

    with pytest.raises(CustodyError, match="transit/keys/nowhere"):
        await kms.wrap(DEK, CONTEXT)
    await kms.close()


async def test_a_revoked_token_is_had_anew_by_its_role(bao, by_role):
    wrapped = await by_role.wrap(DEK, CONTEXT)
    await bao.ask("POST", "auth/token/revoke", {"token": (await by_role._tokens.get()).reveal()})

    assert DEK == await unwrap(by_role, wrapped)


async def test_a_revoked_token_of_a_file_is_waited_for(bao, by_file, tmp_path):
    wrapped = await by_file.wrap(DEK, CONTEXT)
    await bao.ask("POST", "auth/token/revoke", {"token": (tmp_path / "token").read_text()})
    with pytest.raises(Unavailable, match="not valid any more"):
        await unwrap(by_file, wrapped)
    (tmp_path / "token").write_text(await bao.token("certvoy"))

    assert DEK == await unwrap(by_file, wrapped)


async def test_a_version_that_may_not_decrypt_any_more_opens_nothing(bao, tmp_path):
    await bao.key("retired")
    (tmp_path / "token").write_text(bao.root)
    kms = vault(bao, TokenFile(tmp_path / "token"), key="retired")
    wrapped = await kms.wrap(DEK, CONTEXT)
    await bao.rotate("retired")
    await bao.ask("POST", "transit/keys/retired/config", {"min_decryption_version": 2})

    with pytest.raises(CustodyError, match="kek"):
        await unwrap(kms, wrapped)
    await kms.close()


async def test_a_server_of_another_ca_is_not_told_the_token(bao, by_file, tmp_path):
    from tests.support.pki import authority

    kms = vault(
        bao, TokenFile(tmp_path / "token"), ca_file=authority("another").write(tmp_path / "another.pem")
    )

    with pytest.raises(Unavailable, match="certificate verify failed"):
        await kms.wrap(DEK, CONTEXT)
    await kms.close()


async def test_a_server_that_was_killed_opens_again_what_it_wrapped(bao, by_role):
    wrapped = await by_role.wrap(DEK, CONTEXT)
    bao.kill()
    with pytest.raises(Unavailable, match="does not answer"):
        await unwrap(by_role, wrapped)
    await bao.launch()

    assert DEK == await unwrap(by_role, wrapped)

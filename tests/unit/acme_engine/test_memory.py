"""What one process keeps in memory."""

import asyncio

from acme_engine import Http01Responder, MemoryJournal, MemoryTokens, TlsAlpn01Responder


async def test_a_token_is_there_until_it_is_deleted_or_its_time_is_over():
    tokens = MemoryTokens()
    await tokens.put("a", "a.print", ttl_s=3600)
    await tokens.put("late", "late.print", ttl_s=0)
    found = await tokens.get("a")
    await tokens.delete("a")
    await tokens.delete("a")

    assert "a.print" == found
    assert [None, None, None] == [await tokens.get(token) for token in ("a", "late", "never")]


async def test_a_journal_has_the_url_to_go_on_with():
    journal = MemoryJournal()
    await journal.ordered("https://ca.example/order/1")
    await journal.finalizing()
    await journal.issued("https://ca.example/certificate/1")

    assert "https://ca.example/order/1" == journal.order_url


async def test_responders_listen_for_as_long_as_they_are_entered():
    tokens = MemoryTokens()
    for responder in (Http01Responder, TlsAlpn01Responder):
        async with responder(tokens, host="127.0.0.1", port=0) as running:
            port = running._server.sockets[0].getsockname()[1]
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            await writer.wait_closed()

        assert running._server is None

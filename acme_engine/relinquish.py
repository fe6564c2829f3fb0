"""An order that nobody wants any more: what it asks us to prove is given up (RFC 8555 section 7.5.2)."""

from acme_engine.client import Client
from acme_engine.errors import Refused


async def relinquish(client: Client, order_url: str) -> int:
    """Deactivate the authorizations of an order that are pending; return how many.

    Else the CA counts them as pending for days, and looks at any time for an answer that is gone. Those that
    are valid stay: another order of the account may rest on them.

    Raises:
        Refused, Unreachable, Untrusted, BadReply: as `Client`.
    """
    given_up = 0
    for url in (await client.order(order_url)).authorizations:
        if (await client.authorization(url)).status != "pending":
            continue
        try:
            await client.give_up(url)
        except Refused:
            if (await client.authorization(url)).status == "pending":
                raise
            continue  # it was decided in the meantime
        given_up += 1
    return given_up

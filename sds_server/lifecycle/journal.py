"""The engine's journal of an order: each step committed under the Lease before the next is taken."""

from dataclasses import replace

from sds_server.crashpoint import crashpoint
from sds_server.inventory import orders
from sds_server.inventory.database import Database
from sds_server.inventory.orders import MadeBy, Order, OrderState
from sds_server.model import CertificateId, Lease


class Journal:
    """Keeps what the engine says of an order; ``url`` is the order's, once there is one.

    ``profile`` is what a new order asks for, until `went_without` one.
    """

    def __init__(
        self,
        database: Database,
        lease: Lease,
        order: Order,
        actor: str,
        *,
        account_url: str,
        replaces: CertificateId | None,
        profile: str | None = None,
    ) -> None:
        self._made_by = MadeBy(account_url, replaces, profile)
        self._database = database
        self._lease = lease
        self._order = order
        self.url = order.url
        self._actor = actor

    def went_without(self) -> None:
        """The profile that was preferred is not to be had: the order goes without."""
        self._made_by = replace(self._made_by, profile=None)

    async def ordered(self, order_url: str) -> None:
        """The CA has made the order."""
        self.url = order_url
        crashpoint("order.answered")
        await self._step(OrderState.ORDERED, url=order_url)
        crashpoint("order.saved")

    async def finalizing(self) -> None:
        """It is about to be finalized."""
        await self._step(OrderState.FINALIZING)
        crashpoint("finalize.saved")

    async def issued(self, certificate_url: str) -> None:
        """The certificate can be fetched."""
        crashpoint("finalize.answered")
        await self._step(OrderState.ISSUED, certificate_url=certificate_url)
        crashpoint("issued.saved")

    async def _step(
        self, state: OrderState, *, url: str | None = None, certificate_url: str | None = None
    ) -> None:
        await orders.step(
            self._database,
            self._lease,
            self._order,
            state,
            url=url,
            certificate_url=certificate_url,
            made_by=self._made_by,
            actor=self._actor,
        )

"""What one replica does towards a CA, in this process: it orders, and asks for renewals' times."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from random import Random

from acme_engine.http01 import Http01Responder
from acme_engine.ordering import NO_TERMS, Terms
from sds_server.clock import SystemClock
from sds_server.inventory.database import Database
from sds_server.inventory.tokens import Tokens
from sds_server.lifecycle.accounts import Accounts, Issuer, answers
from sds_server.lifecycle.patience import Patience
from sds_server.lifecycle.renewals import Renewals
from sds_server.lifecycle.scheduler import Scheduler
from sds_server.lifecycle.worker import Worker
from sds_server.limits import OFF, Preset
from tests.support.ca_front import CaFront
from tests.support.issuances import Issuances


class OneReplica:
    """A worker, a scheduler and the renewals of one issuer, ``internal``; nothing of it runs by itself."""

    def __init__(self, issuances: Issuances, issuer: Issuer) -> None:
        database, sealer, clock = issuances.database, issuances.sealer, SystemClock()
        issuers = {issuer.name: issuer}
        self.accounts = Accounts(database=database, sealer=sealer, actor="replica:test")
        self.worker = Worker(
            database=database,
            sealer=sealer,
            issuers=issuers,
            accounts=self.accounts,
            patience=Patience(database=database, issuers=issuers, answers=answers, actor="replica:test"),
            lease_for=timedelta(seconds=60),
            replica="test",
            clock=clock,
            rng=Random(1),
        )
        self.renewals = Renewals(
            database=database, issuers=issuers, clock=clock, rng=Random(1), actor="replica:test"
        )
        self.scheduler = Scheduler(
            database=database, tokens=Tokens(database), clock=clock, actor="replica:test"
        )


@asynccontextmanager
async def one_replica(
    database: Database,
    directory: Path,
    front: CaFront,
    *,
    http_port: int,
    terms: Terms = NO_TERMS,
    limits: Preset = OFF,
) -> AsyncIterator[OneReplica]:
    """Have one at the CA behind the door; HTTP-01 is answered on ``http_port``."""
    issuer = Issuer(
        name="internal",
        directory_url=front.directory_url,
        ca_file=front.ca_file,
        roots=(),
        contact=(),
        terms_agreed=True,
        eab=None,
        terms=terms,
        limits=limits,
    )
    responder = Http01Responder(Tokens(database), host="127.0.0.1", port=http_port)
    await responder.start()
    try:
        yield OneReplica(await Issuances.open(database, directory), issuer)
    finally:
        await responder.stop()

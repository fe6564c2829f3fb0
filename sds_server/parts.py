"""The composition root: builds every object of a control plane, and wires it to the others."""

import asyncio
import importlib.metadata
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from random import SystemRandom
from secrets import token_hex
from typing import Final

from acme_engine.http01 import Http01Responder
from acme_engine.tls_alpn01 import TlsAlpn01Responder
from sds_server import authority
from sds_server.admin.server import AdminServer
from sds_server.admin.services import Services
from sds_server.assembly import (
    WORKERS,
    build_accounts,
    build_agents,
    build_audit,
    build_bookkeeping,
    build_crl_reader,
    build_enrolment,
    build_fallback_looks,
    build_feed,
    build_issuers,
    build_lookouts,
    build_on_demand,
    build_pushing,
    build_renewals,
    build_stapler,
    resealed,
    watch_all,
)
from sds_server.clock import Clock
from sds_server.config.certvoy_yaml import Config
from sds_server.declared import declare
from sds_server.foundation import custody
from sds_server.instruments import (
    MeasuredKms,
    MeasuredStreams,
    watch_audit,
    watch_custody,
    watch_delivery,
    watch_on_demand,
    watch_types,
)
from sds_server.inventory.database import Database
from sds_server.inventory.tokens import Tokens
from sds_server.lifecycle.accounts import answers
from sds_server.lifecycle.admission import RELOAD, Admission
from sds_server.lifecycle.audit_sealer import EVERY as SEAL_EVERY
from sds_server.lifecycle.bookkeeper import Bookkeeper
from sds_server.lifecycle.census import EVERY, Census
from sds_server.lifecycle.heartbeat import EVERY as BEAT
from sds_server.lifecycle.heartbeat import Heartbeat
from sds_server.lifecycle.issuer_desk import IssuerDesk
from sds_server.lifecycle.key_checks import KeyChecks
from sds_server.lifecycle.loop import Loop
from sds_server.lifecycle.mass_revoker import MassRevoker
from sds_server.lifecycle.patience import Patience
from sds_server.lifecycle.payloads import Payloads
from sds_server.lifecycle.preflights import Preflights
from sds_server.lifecycle.publisher import Publisher
from sds_server.lifecycle.recorder import Recorder
from sds_server.lifecycle.revoker import Revoker
from sds_server.lifecycle.rewrapper import Rewrapper
from sds_server.lifecycle.scheduler import Scheduler
from sds_server.lifecycle.seal import FILE, Seal
from sds_server.lifecycle.uploads import Uploads
from sds_server.lifecycle.withdrawer import Withdrawer
from sds_server.lifecycle.worker import Worker
from sds_server.listeners import api, checks, https, responders, transports
from sds_server.log import get
from sds_server.metrics import ROLLED_BACK, Metrics
from sds_server.model import Kind
from sds_server.on_demand.ask import Asker
from sds_server.xds.catalog import Catalog
from sds_server.xds.limits import Limits
from sds_server.xds.rest import RestServer
from sds_server.xds.server import SdsServer
from sds_server.xds.service import Service

SWEEP: Final = timedelta(seconds=5)
"""How often the publisher looks at all that is watched (at what it is told of it looks at once), the
withdrawer at what is left in DNS, and who looks at CRLs and CAA whether one is due."""


STREAM_GRACE_S: Final = 5.0
LAST_WORDS_S: Final = 3.0
"""For what is to be written at the end: with the streams' grace less than the 10 s after which `docker stop`
kills."""

RECORD_EVERY: Final = timedelta(milliseconds=200)

_log = get("app")


@dataclass(frozen=True, slots=True)
class Parts:
    """What runs: the servers, and the loops around one database."""

    sds: SdsServer
    rest: RestServer | None
    admission: Admission
    admin: AdminServer
    responder: Http01Responder | None
    tls_responder: TlsAlpn01Responder | None
    recorder: Recorder
    bookkeeper: Bookkeeper
    heartbeat: Heartbeat
    withdrawer: Withdrawer
    worker: Worker
    asker: Asker
    loops: list[Loop]
    working: Sequence[Loop]
    """Those of ``loops`` that talk to CAs, and are stopped first."""

    @classmethod
    async def build(
        cls,
        config: Config,
        database: Database,
        clock: Clock,
        stack: AsyncExitStack,
        *,
        accept_fork: bool = False,
    ) -> "Parts":
        """Build them on an open inventory; nothing listens or runs yet. ``stack`` closes what is open.

        ``accept_fork``: somebody knows why the audit is not the one that was witnessed here.

        Raises:
            OperatorError: something that we depend on is not there.
        """
        actor, life = f"replica:{config.replica}", f"{config.replica}/{token_hex(8)}"
        metrics = Metrics(version=importlib.metadata.version("certvoy"))
        auditing = await build_audit(config, database, clock, life, actor, accept_fork=accept_fork)
        sealer, version_key = await custody(
            config, database, clock, stack, around=partial(MeasuredKms, to=metrics, clock=clock)
        )
        watch_custody(sealer, to=metrics)
        payloads = Payloads(database=database, sealer=sealer, clock=clock, actor=actor)
        await declare(config, database, payloads)
        catalog = Catalog()
        enroller, admission = build_enrolment(config, database, sealer, clock, actor)
        admission.kind_of = catalog.kind
        bookkeeper, booking = build_bookkeeping(config, database, sealer, admission)
        await admission.step()
        poll = config.rotation.poll
        prover, settler, lookouts = build_lookouts(config, database, clock, actor)
        publisher = Publisher(
            database=database,
            sealer=sealer,
            catalog=catalog,
            version_key=version_key,
            clock=clock,
            actor=actor,
            sweep_every=SWEEP,
        )
        accounts, skew = build_accounts(database, sealer, clock, actor, issuers=config.issuers, to=metrics)
        seal = Seal(
            path=config.state_dir / FILE,
            replica=config.replica,
            database=database,
            sealer=sealer,
            catalog=catalog,
            publisher=publisher,
            accounts=accounts,
            clock=clock,
        )
        (cas, withdrawer), stapler = (
            build_issuers(config, database),
            build_stapler(config, database, clock, actor, metrics),
        )
        patience = Patience(database=database, issuers=cas, answers=answers, actor=actor)
        revoker = Revoker(
            database=database,
            sealer=sealer,
            issuers=cas,
            accounts=accounts,
            patience=patience,
            clock=clock,
            rng=SystemRandom(),
            actor=actor,
        )
        worker = Worker(
            database=database,
            sealer=sealer,
            issuers=cas,
            accounts=accounts,
            patience=patience,
            lease_for=config.rotation.lease,
            replica=config.replica,
            clock=clock,
            rng=SystemRandom(),
            authorize=partial(admission.authorize, kind=Kind.TLS_CERTIFICATE),
            first_staple=stapler.first,
            clock_said=skew.said,
        )
        publishing = Loop("publisher", publisher.step, every=poll)
        working = [
            Loop("revoker", revoker.step, every=poll),
            *(Loop(f"worker-{number}", worker.step, every=poll) for number in range(WORKERS)),
        ]
        recorder = Recorder(
            database=database,
            authorize=admission.authorize,
            seen_for=config.rotation.seen_for,
            clock=clock,
            actor=actor,
            replica=life,
            on_written=prover.said,
        )
        heartbeat = Heartbeat(
            database=database,
            token=life,
            name=config.replica,
            clock=clock,
            actor=actor,
            on_lapsed=recorder.refresh,
            on_rolled_up=prover.said,
        )
        making = Loop("tickets", payloads.make_tickets, every=poll)
        admitting, recording = (
            Loop("admission", admission.step, every=RELOAD),
            Loop("recorder", recorder.step, every=RECORD_EVERY),
        )
        await recorder.load()
        streams, census = (
            MeasuredStreams(recorder, to=metrics, clock=clock),
            Census(database=database, clock=clock, issuers=cas),
        )
        agents = build_agents(config, enroller, admission, clock)
        pushing = build_pushing(
            config,
            database,
            catalog,
            agents,
            admission,
            clock=clock,
            actor=actor,
            prover=prover,
            metrics=metrics,
        )
        on_demand, demanding = build_on_demand(config, database, admission, clock, actor)
        await on_demand.step()

        def want(name: str) -> None:
            publisher.want(name)
            publishing.wake()

        catalog.on_want, recorder.on_news, publisher.on_declared = want, recording.wake, recorder.declared
        feed = build_feed(
            database,
            clock,
            publisher=publisher,
            publishing=publishing,
            admitting=admitting,
            worker=worker,
            working=[*working, making],
            proving=lookouts[0],
            pushing=pushing,
            on_demand=on_demand,
            demanding=demanding[0],
        )
        loops = [
            Loop("feed", feed.step, every=poll),
            publishing,
            recording,
            booking,
            Loop("heartbeat", heartbeat.step, every=BEAT),
            *lookouts,
            admitting,
            Loop(
                "scheduler",
                Scheduler(
                    database=database,
                    tokens=Tokens(database),
                    clock=clock,
                    actor=actor,
                    history=config.rotation.history,
                ).step,
                every=poll,
            ),
            Loop("renewals", build_renewals(database, cas, clock, actor, skew, to=metrics).step, every=poll),
            Loop("withdrawer", withdrawer.step, every=SWEEP),
            pushing,
            Loop("patience", patience.step, every=poll),
            Loop("census", census.step, every=EVERY),
            making,
            Loop("stapler", stapler.step, every=poll),
            Loop("fallback-looks", build_fallback_looks(database, cas).step, every=SWEEP),
            Loop("crl-reader", build_crl_reader(config, database, clock, actor, metrics).step, every=SWEEP),
            *demanding,
            *working,
            Loop("audit-sealer", auditing.step, every=SEAL_EVERY),
        ]
        service = Service(
            catalog=catalog,
            authorize=admission.authorize,
            observer=streams,
            refused=recorder,
            identifier=config.replica,
            clock=clock,
            rng=SystemRandom(),
            limits=Limits(clock, streams=config.sds.streams_per_identity),
            max_names=admission.max_names,
            refresh_s=config.sds.refresh.total_seconds(),
            require_node=config.sds.require_node,
            on_ignored=watch_types(metrics),
            names=on_demand.names,
        )
        sds, rest = transports(config, service, admission)
        watch_delivery(publisher, streams, prover, settler, recorder=recorder, sds=sds, to=metrics)
        watch_on_demand(on_demand, to=metrics)
        watch_audit(auditing, to=metrics)
        watch_all(metrics, config, clock, loops, feed=feed, worker=worker, census=census, patience=patience)
        admission.on_change = sds.recheck
        seal.on_change = partial(resealed, sds, publishing)
        services = Services(
            database=database,
            clock=clock,
            declared=frozenset(config.secrets),
            rules=frozenset(rule.name for rule in config.on_demand),
            issuers={name: issuer.directory for name, issuer in config.issuers.items()},
            over_dns=frozenset(name for name, issuer in config.issuers.items() if issuer.dns is not None),
            refuses=lambda issuer, names: cas[issuer].refuses(names),
            checks=partial(checks, loops, patience, skew, seal),
            metrics=metrics.exposition,
            authorize=admission.authorize,
            granted=admission.granted,
            enroller=enroller,
            agents=agents,
            reserved=authority.reserved(config.enrolment.trust_domain),
            admits=admission.admits,
            sds_port=lambda: sds.port,
            catalog=catalog,
            observer=streams,
            uploads=Uploads(database=database, sealer=sealer, clock=clock, replica=config.replica),
            payloads=payloads,
            preflights=Preflights(database=database, issuers=cas),
            rewrapper=Rewrapper(database=database, sealer=sealer, backups_kept=config.kms.backups_kept),
            key_checks=KeyChecks(database=database, sealer=sealer),
            seal=seal,
            mass_revoker=MassRevoker(database=database, issuers=cas),
            desk=IssuerDesk(database=database, accounts=accounts, issuers=cas),
            on_said=prover.said,
            on_rolled_back=partial(metrics.count, ROLLED_BACK),
            seen_for=config.rotation.seen_for,
            on_refused=bookkeeper.refused,
            clock_said=skew.said,
        )
        by_http, by_tls = responders(config, Tokens(database), to=metrics)
        return cls(
            admin=api(config, services, admission, https(config, admission)),
            sds=sds,
            rest=rest,
            admission=admission,
            responder=by_http,
            tls_responder=by_tls,
            recorder=recorder,
            bookkeeper=bookkeeper,
            heartbeat=heartbeat,
            withdrawer=withdrawer,
            worker=worker,
            asker=on_demand.asker,
            loops=loops,
            working=working,
        )

    async def record_last(self) -> None:
        """Write what the streams told last, if the database still answers, and that they count no more."""
        try:
            async with asyncio.timeout(LAST_WORDS_S):
                await self.recorder.step()
                await self.bookkeeper.step()
                await self.heartbeat.end()
        except Exception as e:  # noqa: BLE001 - stopping goes on, whatever is broken
            _log.warning("deliveries.unwritten", error=str(e))

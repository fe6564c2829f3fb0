"""The composition root: builds every object of a control plane, and wires it to the others."""

import asyncio
import importlib.metadata
import socket
from collections.abc import Mapping, Sequence
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
from sds_server.audit.signing import open_signer
from sds_server.audit.witness import Witness
from sds_server.clock import Clock
from sds_server.config import Config, OnDemandConfig
from sds_server.config_values import EVERY_HOST
from sds_server.declared import declare
from sds_server.foundation import custody, issuers
from sds_server.identity import Grant
from sds_server.instruments import (
    MeasuredKms,
    MeasuredStreams,
    watch_audit,
    watch_custody,
    watch_delivery,
    watch_issuers,
    watch_loops,
    watch_on_demand,
    watch_renewals,
    watch_skew,
    watch_types,
    watch_work,
)
from sds_server.inventory import deployment
from sds_server.inventory.database import Database
from sds_server.inventory.feed import Feed
from sds_server.inventory.tokens import Tokens
from sds_server.keys.kms import Sealer
from sds_server.lifecycle.accounts import Accounts, Issuer, answers
from sds_server.lifecycle.admission import RELOAD, Admission
from sds_server.lifecycle.audit_sealer import EVERY as SEAL_EVERY
from sds_server.lifecycle.audit_sealer import AuditSealer
from sds_server.lifecycle.bookkeeper import Bookkeeper
from sds_server.lifecycle.calling import CallerCredential
from sds_server.lifecycle.census import EVERY, Census
from sds_server.lifecycle.enroller import Enroller
from sds_server.lifecycle.heartbeat import EVERY as BEAT
from sds_server.lifecycle.heartbeat import Heartbeat
from sds_server.lifecycle.issuer_desk import IssuerDesk
from sds_server.lifecycle.key_checks import KeyChecks
from sds_server.lifecycle.loop import Loop
from sds_server.lifecycle.mass_revoker import MassRevoker
from sds_server.lifecycle.on_demand import OnDemand
from sds_server.lifecycle.patience import Patience
from sds_server.lifecycle.payloads import Payloads
from sds_server.lifecycle.preflights import Preflights
from sds_server.lifecycle.prover import Prover
from sds_server.lifecycle.publisher import Publisher
from sds_server.lifecycle.pusher import Pusher
from sds_server.lifecycle.recorder import Recorder
from sds_server.lifecycle.renewals import Renewals
from sds_server.lifecycle.revoker import Revoker
from sds_server.lifecycle.rewrapper import Rewrapper
from sds_server.lifecycle.scheduler import Scheduler
from sds_server.lifecycle.seal import FILE, Seal
from sds_server.lifecycle.settler import Settler
from sds_server.lifecycle.skew import Skew
from sds_server.lifecycle.stapler import Stapler
from sds_server.lifecycle.treasurer import Treasurer
from sds_server.lifecycle.uploads import Uploads
from sds_server.lifecycle.watcher import Watcher
from sds_server.lifecycle.withdrawer import Withdrawer
from sds_server.lifecycle.worker import Worker
from sds_server.listeners import api, checks, http01_responder, https, tls_responder, transports
from sds_server.log import get
from sds_server.metrics import PUSHED, ROLLED_BACK, STAPLE_ANSWERS, Metrics
from sds_server.model import Kind
from sds_server.on_demand.ask import Asker
from sds_server.on_demand.names import Names
from sds_server.on_demand.rules import Rule
from sds_server.targets.calls import Agents, Shown
from sds_server.xds.catalog import Catalog
from sds_server.xds.limits import Limits
from sds_server.xds.rest import RestServer
from sds_server.xds.server import SdsServer
from sds_server.xds.service import Service

WORKERS: Final = 4
"""Orders under way at once: a CA's answer takes seconds, ours microseconds."""

SWEEP: Final = timedelta(seconds=5)
"""How often the publisher looks at all that is watched (at what it is told of it looks at once), and the
withdrawer at what is left in DNS."""

HEARERS: Final = 4
"""Looks at what Targets said: while one waits for a slow Target, another takes what is said meanwhile."""

DECIDERS: Final = 8
"""Wishes for names that are found out at once: a question takes as long as the operator's URL does."""

STREAM_GRACE_S: Final = 5.0
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
        auditing = await _audit(config, database, clock, life, actor, accept_fork=accept_fork)
        sealer, version_key = await custody(
            config, database, clock, stack, around=partial(MeasuredKms, to=metrics, clock=clock)
        )
        watch_custody(sealer, to=metrics)
        payloads = Payloads(database=database, sealer=sealer, clock=clock, actor=actor)
        await declare(config, database, payloads)
        catalog = Catalog()
        enroller, admission = _enrolment(config, database, sealer, clock, actor)
        admission.kind_of = catalog.kind
        bookkeeper, booking = _bookkeeping(config, database, sealer, admission)
        await admission.step()
        poll = config.rotation.poll
        prover, settler, lookouts = _lookouts(config, database, clock, actor)
        publisher = Publisher(
            database=database,
            sealer=sealer,
            catalog=catalog,
            version_key=version_key,
            clock=clock,
            actor=actor,
            sweep_every=SWEEP,
        )
        seal = Seal(
            path=config.state_dir / FILE,
            replica=config.replica,
            database=database,
            sealer=sealer,
            catalog=catalog,
            publisher=publisher,
            clock=clock,
        )
        accounts, skew = _accounts(database, sealer, clock, actor)
        watch_skew(skew, to=metrics)
        (cas, withdrawer), stapler = (
            _issuers(config, database),
            _stapler(config, database, clock, actor, metrics),
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
        agents = _agents(config, enroller, admission, clock)
        pushing = _pushing(
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
        on_demand, demanding = _on_demand(config, database, admission, clock, actor)
        await on_demand.step()

        def want(name: str) -> None:
            publisher.want(name)
            publishing.wake()

        catalog.on_want, recorder.on_news, publisher.on_declared = want, recording.wake, recorder.declared
        feed = _feed(
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
            Loop("renewals", _renewals(database, cas, clock, actor, skew, to=metrics).step, every=poll),
            Loop("withdrawer", withdrawer.step, every=SWEEP),
            pushing,
            Loop("patience", patience.step, every=poll),
            Loop("census", census.step, every=EVERY),
            making,
            Loop("stapler", stapler.step, every=poll),
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
        _watch(metrics, config, clock, loops, feed=feed, worker=worker, census=census, patience=patience)
        admission.on_change = sds.recheck
        seal.on_change = partial(_resealed, sds, publishing)
        services = Services(
            database=database,
            clock=clock,
            declared=frozenset(config.secrets),
            rules=frozenset(rule.name for rule in config.on_demand),
            issuers={name: issuer.directory for name, issuer in config.issuers.items()},
            over_dns=frozenset(name for name, issuer in config.issuers.items() if issuer.dns is not None),
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
        )
        return cls(
            admin=api(config, services, admission, https(config, admission)),
            sds=sds,
            rest=rest,
            admission=admission,
            responder=http01_responder(config.http01.listen, Tokens(database)),
            tls_responder=tls_responder(
                None if config.tls_alpn01 is None else config.tls_alpn01.listen, Tokens(database)
            ),
            recorder=recorder,
            bookkeeper=bookkeeper,
            heartbeat=heartbeat,
            withdrawer=withdrawer,
            worker=worker,
            asker=on_demand.asker,
            loops=loops,
        )

    async def record_last(self) -> None:
        """Write what the streams told last, if the database still answers, and that they count no more."""
        try:
            async with asyncio.timeout(STREAM_GRACE_S):
                await self.recorder.step()
                await self.bookkeeper.step()
                await self.heartbeat.end()
        except Exception as e:  # noqa: BLE001 - stopping goes on, whatever is broken
            _log.warning("deliveries.unwritten", error=str(e))


def _bookkeeping(
    config: Config, database: Database, sealer: Sealer, admission: Admission
) -> tuple[Bookkeeper, Loop]:
    """Build what writes into the audit what no transaction would, and have it told."""
    bookkeeper = Bookkeeper(database=database, actor=f"replica:{config.replica}")
    loop = Loop("bookkeeper", bookkeeper.step, every=config.rotation.poll)
    bookkeeper.on_news = loop.wake
    sealer.on_turn = bookkeeper.kms
    admission.on_deny = partial(bookkeeper.deny, actor=f"config:{config.replica}")
    return bookkeeper, loop


def _accounts(database: Database, sealer: Sealer, clock: Clock, actor: str) -> tuple[Accounts, Skew]:
    """Build what talks to CAs in our name, and have their clocks held against ours."""
    admit = Treasurer(database=database).admit_account
    accounts, skew = Accounts(database=database, sealer=sealer, actor=actor, admit=admit), Skew(clock=clock)
    accounts.on_date = skew.measured
    return accounts, skew


def _pushing(
    config: Config,
    database: Database,
    catalog: Catalog,
    agents: Agents,
    admission: Admission,
    *,
    clock: Clock,
    actor: str,
    prover: Prover,
    metrics: Metrics,
) -> Loop:
    """Build what brings bundles to agents, and have its answers told."""
    pusher = Pusher(
        database=database,
        catalog=catalog,
        agents=agents,
        authorize=partial(admission.authorize, kind=Kind.TLS_CERTIFICATE),
        seen_for=config.rotation.seen_for,
        clock=clock,
        rng=SystemRandom(),
        actor=actor,
    )
    pusher.on_said, pusher.on_pushed = prover.said, partial(metrics.count, PUSHED)
    return Loop("pusher", pusher.step, every=config.rotation.poll)


async def _audit(
    config: Config, database: Database, clock: Clock, life: str, actor: str, *, accept_fork: bool
) -> AuditSealer:
    """Build what seals the audit, and hold the database's against what was witnessed here."""
    identity, _ = await deployment.identify(database)
    new = not config.audit.key.exists()
    signer = open_signer(config.audit.key, origin=f"certvoy/{identity}")
    sealer = AuditSealer(
        database=database,
        signer=signer,
        witness=Witness(config.audit.checkpoints),
        holder=life,
        actor=actor,
        clock=clock,
    )
    await sealer.begin(accept_fork=accept_fork)
    _log.info("audit.key_ready", key=str(signer.public), new=new)
    return sealer


def _resealed(sds: SdsServer, publishing: Loop) -> None:
    """End the streams of a replica that is sealed; have loaded what is wanted of one that no longer is."""
    sds.recheck()
    publishing.wake()


def _issuers(config: Config, database: Database) -> tuple[Mapping[str, Issuer], Withdrawer]:
    """Build the CAs, and what takes out of their names' DNS what is left there."""
    cas = issuers(config)
    over_dns = {name: ca.challenges.dns.provider for name, ca in cas.items() if ca.challenges.dns is not None}
    return cas, Withdrawer(database=database, providers=over_dns)


def _stapler(config: Config, database: Database, clock: Clock, actor: str, metrics: Metrics) -> Stapler:
    stapler = Stapler(
        database=database,
        allowed=config.push.allow,
        without=[name for name, issuer in config.issuers.items() if issuer.staple == "off"],
        clock=clock,
        rng=SystemRandom(),
        actor=actor,
    )
    stapler.on_answer = partial(metrics.count, STAPLE_ANSWERS)
    return stapler


def _lookouts(
    config: Config, database: Database, clock: Clock, actor: str
) -> tuple[Prover, Settler, Sequence[Loop]]:
    """Build what looks at Targets: the prover's loop, those that hear what they say, watcher's, settler's."""
    poll = config.rotation.poll
    prover = Prover(database=database, settle=config.rotation.settle, clock=clock, actor=actor, every=poll)
    watcher = Watcher(database=database, every=config.rotation.watch, clock=clock, actor=actor)
    settler = Settler(database=database, prover=prover, clock=clock, actor=actor, every=poll)
    settling = Loop("settler", settler.step, every=poll)
    hearing = [Loop(f"prover-{number}", prover.hear, every=poll) for number in range(HEARERS)]
    watching = Loop("watcher", watcher.step, every=poll)

    def wake() -> None:
        for loop in hearing:
            loop.wake()

    def idle(secret: str) -> None:
        """No Certificate is being rolled out: a payload may be, or somebody says yes late."""
        settler.said(secret)
        watcher.look_at(secret)

    prover.on_hint, prover.on_idle, watcher.on_hint = wake, idle, watching.wake
    settler.on_hint = settling.wake
    return prover, settler, [Loop("prover", prover.step, every=poll), *hearing, watching, settling]


def _renewals(
    database: Database, cas: Mapping[str, Issuer], clock: Clock, actor: str, skew: Skew, *, to: Metrics
) -> Renewals:
    """Build what asks CAs for renewals' times, counted."""
    renewals = Renewals(database=database, issuers=cas, clock=clock, rng=SystemRandom(), actor=actor)
    renewals.on_date = skew.measured
    watch_renewals(renewals, issuers=cas, clock=clock, to=to)
    return renewals


def _feed(
    database: Database,
    clock: Clock,
    *,
    publisher: Publisher,
    publishing: Loop,
    admitting: Loop,
    worker: Worker,
    working: Sequence[Loop],
    proving: Loop,
    pushing: Loop,
    on_demand: OnDemand,
    demanding: Loop,
) -> Feed:
    """Build what hears of changes, and wakes whom they concern."""

    def changed_secret(name: str) -> None:
        publisher.told(name)
        publishing.wake()
        pushing.wake()
        on_demand.told(name)
        demanding.wake()
        worker.told(name)

    def wake_workers() -> None:
        for loop in working:
            loop.wake()

    def wake_all() -> None:
        publisher.missed()
        on_demand.missed()
        worker.missed()
        for loop in (publishing, proving, pushing, admitting, demanding, *working):
            loop.wake()

    return Feed(
        database,
        clock=clock,
        on_secret=changed_secret,
        on_work=wake_workers,
        on_gap=wake_all,
        on_rights=admitting.wake,
    )


def _watch(
    metrics: Metrics,
    config: Config,
    clock: Clock,
    loops: Sequence[Loop],
    *,
    feed: Feed,
    worker: Worker,
    census: Census,
    patience: Patience,
) -> None:
    """Count what the loops do; the feed's step does not end, so that it says itself that it is well."""
    feed.on_beat = loops[0].succeeded
    watch_loops(loops, to=metrics, clock=clock)
    watch_work(worker, workers=WORKERS, issuers=config.issuers, to=metrics)
    watch_issuers(patience, issuers=config.issuers, to=metrics)
    census.tell(metrics)


def _enrolment(
    config: Config, database: Database, sealer: Sealer, clock: Clock, actor: str
) -> tuple[Enroller, Admission]:
    enroller = Enroller(
        database=database,
        sealer=sealer,
        trust_domain=config.enrolment.trust_domain,
        lifetime=config.enrolment.lifetime,
        clock=clock,
        actor=actor,
    )
    admission = Admission(
        database=database,
        enroller=enroller,
        configured=[
            Grant(grant.identity, grant.names, frozenset(grant.kinds), grant.issue, grant.max_names)
            for grant in config.grants
        ],
        trust_domain=config.enrolment.trust_domain,
        clock=clock,
        server_names=_server_names(config) if config.sds.certificate is None else (),
        own_ca=config.sds.client_ca is None,
        denied=config.sds.deny,
    )
    return enroller, admission


def _on_demand(
    config: Config, database: Database, admission: Admission, clock: Clock, actor: str
) -> tuple[OnDemand, Sequence[Loop]]:
    """Build what makes Secrets of names that are asked for: its loop, and those that hear of wishes."""
    rules = [_rule(rule) for rule in config.on_demand]
    names = Names(rules, clock=clock, may_issue=admission.may_issue)
    on_demand = OnDemand(database=database, names=names, asker=Asker(), clock=clock, actor=actor)
    poll = config.rotation.poll
    deciding = [
        Loop(f"on-demand-{number}", on_demand.decide, every=poll)
        for number in range(DECIDERS if rules else 0)
    ]

    def wake() -> None:
        for loop in deciding:
            loop.wake()

    names.on_wish = wake
    # Without a rule too: names of rules that are gone are to be removed.
    return on_demand, [Loop("on-demand", on_demand.step, every=poll), *deciding]


def _rule(rule: OnDemandConfig) -> Rule:
    return Rule(
        name=rule.name,
        issuer=rule.issuer,
        names=frozenset(rule.names or ()),
        suffix=None if rule.suffix is None else rule.suffix.removeprefix("*"),
        depth=rule.depth,
        ask=rule.ask,
        key_type=rule.key_type,
        proof=rule.proof,
        per_identity=rule.names_per_identity,
        per_domain=rule.names_per_domain,
        window=rule.window,
        max_names=rule.max_names,
        keep=rule.keep,
    )


def _agents(config: Config, enroller: Enroller, admission: Admission, clock: Clock) -> Agents:
    """Build what calls agents: as ourselves, where it may, and only who has a credential of ours."""

    def identify(certificate_pem: bytes) -> Shown:
        holder = admission.holder(certificate_pem)
        return Shown(holder.identity, enrolled=holder.enrolment is not None)

    credential = CallerCredential(enroller, clock)
    return Agents(allowed=config.push.allow, context=credential.context, identify=identify, clock=clock)


def _server_names(config: Config) -> Sequence[str]:
    """Return what our own server certificate is for: what is configured, else what is known of us."""
    if config.sds.server_names:
        return config.sds.server_names
    addresses = (config.sds.listen, config.sds.rest, config.sds.tokens, config.admin.listen)
    listens = [listen.host for listen in addresses if listen is not None]
    hosts = [socket.gethostname().lower(), *(host for host in listens if host not in EVERY_HOST)]
    return [*dict.fromkeys(["localhost", *(host for host in hosts if host.isascii())])]

"""Single parts, each built of the configuration, and wired to what it tells."""

import socket
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from random import SystemRandom
from typing import Final

from sds_server.audit.signing import open_signer
from sds_server.audit.witness import Witness
from sds_server.clock import Clock
from sds_server.config.certvoy_yaml import Config
from sds_server.config.secrets import OnDemandConfig
from sds_server.config.values import EVERY_HOST
from sds_server.foundation import issuers
from sds_server.identity import Grant
from sds_server.instruments import (
    watch_accounts,
    watch_issuers,
    watch_loops,
    watch_renewals,
    watch_skew,
    watch_work,
)
from sds_server.inventory import deployment
from sds_server.inventory.database import Database
from sds_server.inventory.feed import Feed
from sds_server.keys.kms import Sealer
from sds_server.lifecycle.accounts import Accounts, Issuer
from sds_server.lifecycle.admission import Admission
from sds_server.lifecycle.audit_sealer import AuditSealer
from sds_server.lifecycle.bookkeeper import Bookkeeper
from sds_server.lifecycle.calling import CallerCredential
from sds_server.lifecycle.census import Census
from sds_server.lifecycle.crl_reader import CrlReader
from sds_server.lifecycle.enroller import Enroller
from sds_server.lifecycle.fallback_looks import FallbackLooks
from sds_server.lifecycle.loop import Loop
from sds_server.lifecycle.on_demand import OnDemand
from sds_server.lifecycle.patience import Patience
from sds_server.lifecycle.prover import Prover
from sds_server.lifecycle.publisher import Publisher
from sds_server.lifecycle.pusher import Pusher
from sds_server.lifecycle.renewals import Renewals
from sds_server.lifecycle.settler import Settler
from sds_server.lifecycle.skew import Skew
from sds_server.lifecycle.stapler import Stapler
from sds_server.lifecycle.treasurer import Treasurer
from sds_server.lifecycle.watcher import Watcher
from sds_server.lifecycle.withdrawer import Withdrawer
from sds_server.lifecycle.worker import Worker
from sds_server.log import get
from sds_server.metrics import CRL_ANSWERS, PUSHED, STAPLE_ANSWERS, Metrics
from sds_server.model import Kind
from sds_server.on_demand.ask import Asker
from sds_server.on_demand.names import Names
from sds_server.on_demand.rules import Rule
from sds_server.targets.calls import Agents, Shown
from sds_server.xds.catalog import Catalog
from sds_server.xds.server import SdsServer

WORKERS: Final = 4
"""Orders under way at once: a CA's answer takes seconds, ours microseconds."""

HEARERS: Final = 4
"""Looks at what Targets said: while one waits for a slow Target, another takes what is said meanwhile."""

DECIDERS: Final = 8
"""Wishes for names that are found out at once: a question takes as long as the operator's URL does."""

_log = get("app")


def build_bookkeeping(
    config: Config, database: Database, sealer: Sealer, admission: Admission
) -> tuple[Bookkeeper, Loop]:
    """Build what writes into the audit what no transaction would, and have it told."""
    bookkeeper = Bookkeeper(database=database, actor=f"replica:{config.replica}")
    loop = Loop("bookkeeper", bookkeeper.step, every=config.rotation.poll)
    bookkeeper.on_news = loop.wake
    sealer.on_turn = bookkeeper.kms
    admission.on_deny = partial(bookkeeper.deny, actor=f"config:{config.replica}")
    return bookkeeper, loop


def build_accounts(
    database: Database, sealer: Sealer, clock: Clock, actor: str, *, issuers: Iterable[str], to: Metrics
) -> tuple[Accounts, Skew]:
    """Build what talks to CAs in our name, and have their clocks held against ours."""
    admit = Treasurer(database=database).admit_account
    accounts, skew = Accounts(database=database, sealer=sealer, actor=actor, admit=admit), Skew(clock=clock)
    accounts.on_date = skew.measured
    watch_skew(skew, to=to)
    watch_accounts(accounts, issuers=issuers, to=to)
    return accounts, skew


def build_pushing(
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


async def build_audit(
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


def resealed(sds: SdsServer, publishing: Loop) -> None:
    """End the streams of a replica that is sealed; have loaded what is wanted of one that no longer is."""
    sds.recheck()
    publishing.wake()


def build_issuers(config: Config, database: Database) -> tuple[Mapping[str, Issuer], Withdrawer]:
    """Build the CAs, and what takes out of their names' DNS what is left there."""
    cas = issuers(config)
    over_dns = {name: ca.challenges.dns.provider for name, ca in cas.items() if ca.challenges.dns is not None}
    return cas, Withdrawer(database=database, providers=over_dns)


def build_stapler(config: Config, database: Database, clock: Clock, actor: str, metrics: Metrics) -> Stapler:
    """Build what fetches staples."""
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


def build_crl_reader(
    config: Config, database: Database, clock: Clock, actor: str, metrics: Metrics
) -> CrlReader:
    """Build what looks into revocation lists."""
    reader = CrlReader(
        database=database,
        allowed=config.push.allow,
        without=[name for name, issuer in config.issuers.items() if issuer.crl == "off"],
        clock=clock,
        rng=SystemRandom(),
        actor=actor,
    )
    reader.on_answer = partial(metrics.count, CRL_ANSWERS)
    return reader


def build_lookouts(
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


def build_fallback_looks(database: Database, cas: Mapping[str, Issuer]) -> FallbackLooks:
    """Build what looks whether the CAs may issue that are fallen back on."""
    return FallbackLooks(database=database, issuers=cas, rng=SystemRandom())


def build_renewals(
    database: Database, cas: Mapping[str, Issuer], clock: Clock, actor: str, skew: Skew, *, to: Metrics
) -> Renewals:
    """Build what asks CAs for renewals' times, counted."""
    renewals = Renewals(database=database, issuers=cas, clock=clock, rng=SystemRandom(), actor=actor)
    renewals.on_date = skew.measured
    watch_renewals(renewals, issuers=cas, clock=clock, to=to)
    return renewals


def build_feed(
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


def watch_all(
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


def build_enrolment(
    config: Config, database: Database, sealer: Sealer, clock: Clock, actor: str
) -> tuple[Enroller, Admission]:
    """Build what lets proxies in, and says what each may see."""
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


def build_on_demand(
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


def build_agents(config: Config, enroller: Enroller, admission: Admission, clock: Clock) -> Agents:
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

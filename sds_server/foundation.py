"""What everything stands on: a deployment's database, its Sealer and its CAs, as its configuration says."""

import os
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from cryptography import x509

from acme_engine.dns.table import provider_of
from acme_engine.errors import Misconfigured
from acme_engine.hidden import Hidden
from acme_engine.jws import Eab
from acme_engine.ordering import Profile, Terms
from acme_engine.webroot import Webroot
from sds_server import limits, spacing
from sds_server.clock import Clock
from sds_server.config.certvoy_yaml import Config
from sds_server.config.dns import DnsConfig
from sds_server.config.issuers import EabConfig, IssuerConfig
from sds_server.config.values import EMBEDDED
from sds_server.errors import ConfigError
from sds_server.inventory import deployment
from sds_server.inventory.database import Database, open_database
from sds_server.inventory.schema import bring_up
from sds_server.keys.kms import Kms, Sealer
from sds_server.keys.providers import PROVIDERS
from sds_server.lifecycle.accounts import Issuer
from sds_server.lifecycle.challenges import Challenges, Dns
from sds_server.lifecycle.rewrapper import VERSION_PURPOSE
from sds_server.log import get
from sds_server.programs.postgres import EmbeddedPostgres
from sds_server.spacing import Spacing

VERSION_KEY_BYTES: Final = 32

FIXED_WAIT: Final = timedelta(seconds=60)
"""How long is waited where nobody is asked and no time is given."""

_URL_HINT: Final = "name a file that holds postgresql://user@host/database and nothing else"

ROLES_HINT: Final = "`certvoy migrate` says what to run; until then this login could change the audit"
"""Where a database has not its roles."""

_log = get("app")


async def open_inventory(config: Config, stack: AsyncExitStack) -> tuple[Database, EmbeddedPostgres | None]:
    """Open the deployment's database, migrated; an embedded one is started. ``stack`` closes both.

    Raises:
        OperatorError: it cannot be reached, started or migrated.
    """
    postgres = None
    if config.database == EMBEDDED:
        postgres = EmbeddedPostgres(postgres_directory(config))
        await postgres.start()
        stack.push_async_callback(postgres.stop)
    connect = connect_arguments(config)
    role = await prepare_schema(connect)
    database = await open_database(connect, role=role)
    stack.push_async_callback(database.close)
    return database, postgres


async def prepare_schema(connect: Mapping[str, Any]) -> str | None:
    """Migrate the database as far as its login may; return the role that may do all that is left to do.

    None: the login can be no less than it is.

    Raises:
        OperatorError: it cannot be reached, or is too old and the login may not migrate it.
    """
    database = await open_database(connect, size=1)
    try:
        schema = await bring_up(database)
    finally:
        await database.close()
    if schema.applied:
        _log.info("schema.migrated", migrations=schema.applied)
    if schema.hinders:
        _log.warning("roles.missing", reason=schema.hinders, hint=ROLES_HINT)
    return schema.become


async def custody(
    config: Config,
    database: Database,
    clock: Clock,
    stack: AsyncExitStack,
    *,
    around: Callable[[Kms], Kms] = lambda kms: kms,
) -> tuple[Sealer, bytes]:
    """Return the Sealer of this deployment and the key of its content hashes. ``stack`` closes its KMS.

    ``around`` may put something between the Sealer and the KMS.

    Raises:
        CustodyError: no KEK is the one that this deployment's keys are wrapped with.
        Unavailable: the KMS does not answer.
    """
    kms = around(PROVIDERS[config.kms.provider](config.kms))
    previous = [around(PROVIDERS[kek.provider](kek)) for kek in config.kms.previous]
    if kms.insecure:
        _log.warning(
            "kms.insecure", kek_uri=kms.kek_uri, hint="a local KEK is for trials: whoever has the disk has it"
        )
    identity, key = await deployment.identify(database)
    sealer = Sealer(kms, deployment=identity, clock=clock, previous=previous)
    stack.push_async_callback(sealer.close)
    if key is None:
        fresh = await sealer.wrap_key(os.urandom(VERSION_KEY_BYTES), purpose=VERSION_PURPOSE)
        key = await deployment.keep_version_key(database, deployment.VersionKey(fresh, sealer.kek_uri))
    return sealer, await sealer.unwrap_key(key.wrapped, purpose=VERSION_PURPOSE, kek_uri=key.kek_uri)


def issuers(config: Config) -> Mapping[str, Issuer]:
    """Return the CAs that secrets can name.

    Raises:
        ConfigError: a file that one of them names holds no PEM certificates, or its DNS cannot be set up.
    """
    return {name: _issuer(name, issuer, config) for name, issuer in config.issuers.items()}


def connect_arguments(config: Config) -> Mapping[str, Any]:
    """Return how a command beside a running server reaches its database.

    Raises:
        Unavailable: ``database: embedded``, and no server runs.
    """
    if config.database == EMBEDDED:
        return EmbeddedPostgres.connect_arguments(postgres_directory(config))
    return {"dsn": config.database}


def connect_arguments_in(file: Path) -> Mapping[str, Any]:
    """Return how a database is reached whose URL is all that a file holds.

    Raises:
        ConfigError: the file cannot be read, or holds something else. What it holds is not repeated.
    """
    try:
        url = file.read_text().strip()
    except (OSError, UnicodeDecodeError) as e:
        said = e.strerror if isinstance(e, OSError) else "it is not text"
        raise ConfigError(f"cannot read {file}: {said}", hint=_URL_HINT) from e
    if not url.startswith(("postgresql://", "postgres://")):
        raise ConfigError(f"{file} holds no PostgreSQL URL", hint=_URL_HINT)
    return {"dsn": url}


def postgres_directory(config: Config) -> Path:
    """Where the embedded PostgreSQL lives."""
    return config.state_dir / "postgres"


def _issuer(name: str, issuer: IssuerConfig, config: Config) -> Issuer:
    return Issuer(
        name=name,
        directory_url=issuer.directory,
        ca_file=issuer.ca_file,
        roots=_roots(name, issuer.roots_file),
        contact=issuer.contact,
        terms_agreed=issuer.terms_agreed,
        eab=None if issuer.eab is None else _eab(issuer.eab),
        challenges=Challenges(
            dns=None if issuer.dns is None else _dns(name, issuer.dns),
            tls_alpn=config.tls_alpn01 is not None,
            webroot=None if config.http01.webroot is None else Webroot(config.http01.webroot),
            default=issuer.challenge,
            choices=issuer.challenges,
        ),
        terms=Terms(
            profile=None
            if issuer.profile is None
            else Profile(issuer.profile.name, required=issuer.profile.required),
            lifetime=issuer.lifetime,
            backdate=issuer.backdate,
            preferred_chain=issuer.preferred_chain,
        ),
        limits=issuer.limits or limits.of_directory(issuer.directory),
        in_flight=issuer.in_flight,
        spacing=spacing.preset(urlsplit(issuer.directory).hostname)
        if issuer.spacing is None
        else Spacing(
            least=issuer.spacing.least,
            certificates=issuer.spacing.certificates,
            per=issuer.spacing.per,
            failures=issuer.spacing.failures_per_hour,
        ),
    )


def _dns(name: str, dns: DnsConfig) -> Dns:
    from acme_engine.dns.zones import Zones  # noqa: PLC0415
    from acme_engine.dns01 import Mode, Propagation  # noqa: PLC0415 - imported when chosen

    mode = Mode(dns.propagation)
    wait = dns.propagation_wait or (FIXED_WAIT if mode is Mode.WAIT else timedelta(0))
    try:
        provider = provider_of(dns.provider, dns.settings())
    except Misconfigured as e:
        raise ConfigError(f"issuers.{name}.dns: {e.message}", hint=e.hint) from e
    return Dns(
        provider=provider,
        zones=Zones(resolvers=dns.resolvers, servers=dns.nameservers),
        propagation=Propagation(
            mode=mode,
            wait_s=wait.total_seconds(),
            limit_s=dns.propagation_limit.total_seconds(),
            follow_aliases=dns.follow_aliases,
        ),
    )


def _eab(eab: EabConfig) -> Eab:
    return Eab(
        key_id=eab.kid, hmac_key=Hidden(eab.hmac_key_file.read_text().strip()), algorithm=eab.algorithm
    )


def _roots(name: str, path: Path | None) -> tuple[x509.Certificate, ...]:
    """Read the roots that an issuer's chains must build to; none: any will do."""
    try:
        return () if path is None else tuple(x509.load_pem_x509_certificates(path.read_bytes()))
    except ValueError as e:
        raise ConfigError(f"issuers.{name}.roots_file: {path} holds no PEM certificates: {e}") from e

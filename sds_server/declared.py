"""What the configuration declares, put into the inventory at each start."""

import hashlib
from collections.abc import Iterable
from typing import Final

from sds_server.config.certvoy_yaml import Config
from sds_server.config.secrets import SecretConfig
from sds_server.errors import Conflict, GateRefused
from sds_server.inventory import audit, declarations, freezes, secrets
from sds_server.inventory.database import Database
from sds_server.lifecycle.payloads import Payloads
from sds_server.log import get
from sds_server.model import Kind, Secret, SecretName
from sds_server.payloads.generic import GenericSecret
from sds_server.payloads.trust import TrustBundle

TOLD_MAX: Final = 200
"""So many grants are named in an entry of the audit."""

UNDECLARED: Final = (
    "declare it under `issuers:` and restart, or give each another by `certvoy issue --issuer`"
)

_log = get("app")


async def declare(config: Config, database: Database, payloads: Payloads) -> None:
    """Put what the configuration declares into the inventory; what it no longer names is left alone."""
    actor = f"config:{config.replica}"
    await _tell(config, database, actor)
    for name, secret in config.secrets.items():
        if secret.kind is not Kind.TLS_CERTIFICATE:
            await _declare_payload(name, secret, payloads, actor)
            continue
        try:
            changed = await declarations.put(
                database,
                Secret(
                    name=name,
                    kind=Kind.TLS_CERTIFICATE,
                    domains=secret.domains or (),
                    issuer=secret.issuer or "",
                    key_type=secret.key_type,
                    proof=secret.proof,
                    key_holder=secret.key_holder,
                    key_file=secret.key_file,
                    fallback=secret.fallback,
                ),
                actor=actor,
            )
        except Conflict as e:
            if await freezes.of(database, name) is None:
                raise
            # It goes on at the first start after it is resumed.
            _log.error("secret.undeclared", secret=name, error=e.message, hint=e.next_step)
            continue
        if changed:
            _log.info("secret.declared", secret=name, domains=secret.domains)
    # Else nobody hears of it before the first renewal.
    for issuer, count in (await secrets.undeclared_issuers(database, list(config.issuers))).items():
        _log.warning("issuer.undeclared", issuer=issuer, secrets=count, hint=UNDECLARED)


async def _tell(config: Config, database: Database, actor: str) -> None:
    """Audit who may come and what they may see by this configuration, where it is other than it was before.

    What is secret in a configuration is in none of it.
    """
    detail = {
        "grants": _listed(
            f"{grant.identity}: {', '.join(grant.names)} ({', '.join(sorted(grant.kinds))})"
            + (", issue" if grant.issue else "")
            + ("" if grant.max_names is None else f", {grant.max_names} names")
            for grant in config.grants
        ),
        "denied": _listed(config.sds.deny),
        "admin": _listed(
            f"{client.identity}: {', '.join(sorted(client.scopes))}" for client in config.admin.clients
        ),
        "sockets": _listed(f"{one.path}: {one.identity}" for one in config.sds.sockets),
        "on_demand": _listed(rule.name for rule in config.on_demand),
        "issuers": _listed(f"{name}: {issuer.directory}" for name, issuer in config.issuers.items()),
    }
    async with database.transaction() as tx:
        await audit.append_news(
            tx,
            action="config.read",
            actor=actor,
            subject=config.replica,
            detail=detail,
        )


def _listed(said: Iterable[str]) -> list[str] | dict[str, object]:
    """Return what is said, or of much how much it is, and its hash: an entry is read by people."""
    lines = sorted(said)
    if len(lines) <= TOLD_MAX:
        return lines
    return {"count": len(lines), "sha256": hashlib.sha256("\n".join(lines).encode()).hexdigest()}


async def _declare_payload(name: SecretName, secret: SecretConfig, payloads: Payloads, actor: str) -> None:
    """Put what is no certificate; a refusal keeps nobody from starting: the one before is served on."""
    try:
        if secret.rotate_every is not None:
            changed = await payloads.schedule(
                name, rotate_every=secret.rotate_every, keep=secret.keep, actor=actor
            )
        elif secret.ca_file is not None:
            crls = "" if secret.crl_file is None else secret.crl_file.read_text(errors="replace")
            bundle = TrustBundle.read(
                secret.ca_file.read_text(errors="replace"), crls, leaf_crl_only=secret.leaf_crl_only
            )
            changed = not (await payloads.put(name, bundle, actor=actor)).unchanged
        else:
            assert secret.file is not None  # noqa: S101 - one of the kinds
            held = GenericSecret(value=secret.file.read_bytes())
            changed = not (await payloads.put(name, held, actor=actor)).unchanged
    except (GateRefused, Conflict) as e:
        _log.error("secret.undeclared", secret=name, error=e.message, hint=e.next_step)
        return
    if changed:
        _log.info("secret.declared", secret=name, kind=secret.kind)

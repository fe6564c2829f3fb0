"""The content gate: what a pair must be before it is stored, and again before it leaves. Pure.

A CA can send anything, a row can be changed, and a proxy shows the world whatever it is given. So the same
rules are asked twice, and what breaks one goes nowhere.
"""

from collections.abc import Sequence
from datetime import datetime

from cryptography.x509 import Certificate, load_der_x509_certificate

from acme_engine import chain as chains
from acme_engine import keys
from acme_engine.chain import Chain
from acme_engine.errors import AcmeError, ChainError
from sds_server.errors import GateRefused
from sds_server.staples.response import Staple, judge, must_staple


def check_pair(
    *,
    chain_pem: bytes,
    key_pkcs8: bytes | None,
    spki_sha256: bytes,
    names: Sequence[str],
    now: datetime,
    roots: Sequence[Certificate] = (),
    previous_not_after: datetime | None = None,
) -> Chain:
    """Return the chain, parsed, if the pair may be served.

    ``spki_sha256`` is what the inventory stores of the public key; the leaf's and the private key's must be
    the same. ``key_pkcs8`` is None while the private key stays sealed. ``names`` are all the DNS names
    wanted, in normal form, and no more may be there. Without ``roots`` any root will do.

    ``previous_not_after`` is the end of the Certificate that this one replaces: a successor does not end
    earlier. Give it while issuer and profile stay the same; another issuer may have shorter lifetimes.

    Raises:
        GateRefused: ``rule`` is the first that is broken: pem, size, key, names, dates, usage, strength,
            order or root.
    """
    try:
        chain = chains.parse(chain_pem)
        chains.check(chain, spki_sha256=spki_sha256, names=names, now=now, roots=roots)
    except ChainError as e:
        raise GateRefused("pem" if e.rule == "empty" else e.rule, str(e)) from e
    if previous_not_after and chain.not_after < previous_not_after:
        ends = f"it ends at {chain.not_after:%FT%TZ}"
        raise GateRefused("dates", f"{ends}, before the one that it replaces: {previous_not_after:%FT%TZ}")
    if key_pkcs8 is not None:
        _check_key(key_pkcs8, spki_sha256)
    return chain


def check_staple(
    leaf: Certificate, *, issuer: bytes | None, staple: Staple | None, now: datetime
) -> tuple[Staple | None, str | None]:
    """Return the staple that may go out with the leaf, and if there is one that may not, why.

    ``issuer`` is the DER of who issued the leaf. A certificate that need not be stapled goes without.

    Raises:
        GateRefused: rule ``staple``: it must be stapled (RFC 7633), and cannot.
    """
    why: str | None = None
    if staple is not None and issuer is not None:
        judged = judge(staple.response, leaf=leaf, issuer=load_der_x509_certificate(issuer), now=now)
        if judged.staple is not None and (must_staple(leaf) or now < judged.staple.sent_until):
            return judged.staple, None
        if judged.staple is not None:
            return None, None  # it is about to end
        why = judged.reason
    if must_staple(leaf):
        said = f": {why}" if why is not None else ", and there is none"
        raise GateRefused("staple", f"the certificate must be stapled{said}")
    return None, why


def _check_key(key_pkcs8: bytes, spki_sha256: bytes) -> None:
    try:
        key = keys.load_pkcs8(key_pkcs8)
    except (ValueError, TypeError, AcmeError):
        # No cause: a parser's message about a key may quote it.
        raise GateRefused("key", "the private key cannot be read") from None
    if keys.spki_sha256(key.public_key()) != spki_sha256:
        raise GateRefused("key", "the private key is not the leaf's")

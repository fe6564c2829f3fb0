"""Which of the chains that a CA offers for one certificate (RFC 8555 section 7.4.2, "alternate")."""

from collections.abc import Callable, Mapping

from cryptography import x509
from cryptography.x509.oid import NameOID

from acme_engine import chain as chains
from acme_engine.chain import Chain
from acme_engine.client import Client
from acme_engine.errors import AcmeError

SMALLEST = "smallest"

MAX_ALTERNATES = 8
"""No known CA offers more than three."""


async def download(
    client: Client,
    url: str,
    *,
    preferred: str | None,
    on_step: Callable[[str, Mapping[str, object]], None],
) -> Chain:
    """Fetch the chain of which an issuer has the name ``preferred``, the smallest one, or the CA's own.

    Where none is as preferred it is the CA's own: a certificate with another chain is better than none.
    """
    if preferred is None:
        return chains.parse(await client.certificate(url))
    body, links = await client.certificate_and_alternates(url)
    default = chains.parse(body)
    if preferred != SMALLEST and _matches(default, preferred):
        return default
    others = []
    for link in links[:MAX_ALTERNATES]:
        try:
            chain = chains.parse(await client.certificate(link))
        except AcmeError as e:
            on_step("chain.unusable", {"url": link, "error": str(e)})
            continue
        if chain.leaf == default.leaf:
            others.append(chain)
    if preferred == SMALLEST:
        return min([default, *others], key=lambda chain: len(chain.pem))
    found = next((chain for chain in others if _matches(chain, preferred)), None)
    if found is None:
        on_step("chain.unmatched", {"preferred": preferred, "offered": 1 + len(others)})
    return found or default


def _matches(chain: Chain, name: str) -> bool:
    """Whether an issuer of the chain has the name: the root's is the last certificate's issuer."""
    return any(name in _common_names(certificate.issuer) for certificate in chain.certificates)


def _common_names(name: x509.Name) -> set[str]:
    return {str(attribute.value) for attribute in name.get_attributes_for_oid(NameOID.COMMON_NAME)}

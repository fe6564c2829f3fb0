"""``/v1/secrets/{name}/csr``: what a target that keeps its own private key wants signed next.

By the same door as the bundle: the client certificate whose identity is granted the name.
"""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Annotated

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from pydantic import BaseModel, Field

from acme_engine import keys
from acme_engine.chain import UNREADABLE
from sds_server import model
from sds_server.admin.bundles import check_grant
from sds_server.admin.routes import Answer, Call, Route, Shape
from sds_server.admin.targets import NodeId
from sds_server.errors import CallerError
from sds_server.inventory import key_requests
from sds_server.inventory.key_requests import Held, KeyRequest
from sds_server.xds.service import PeerNode

CSR_MAX = 64 * 1024
GENERATION_MAX = 2**31 - 1


class PutKeyRequest(Shape):
    """A signing request in PEM, for all names of the secret and no more; ``target`` as in fetches.

    Sent again it changes nothing; if it was ordered meanwhile, the answer names another key, or none.

    ``lost``: the generation whose private key the target has not, or not any more. If that is current, its
    successor is ordered at once.
    """

    csr: Annotated[str, Field(max_length=CSR_MAX)]
    target: NodeId | None = None
    lost: Annotated[int, Field(ge=1, le=GENERATION_MAX)] | None = None


class HeldKey(BaseModel):
    """A key that the target must have, as its certificate is served or was before."""

    generation: int
    spki_sha256: str


class WantedKey(BaseModel):
    """What a request must be for; ``spki_sha256``: the key (hex) of the one that waits to be ordered.

    Null: the last one was ordered, or none was brought. Bring the next, so that no renewal waits for it.
    ``held``: keys that the target must have, of what is served and of what was before that, newest first.
    """

    domains: list[str]
    key_type: model.KeyType
    spki_sha256: str | None
    held: list[HeldKey]


async def get_key_request(call: Call) -> Answer:
    """Say what a request must be for, and whether one waits."""
    check_grant(call.services, PeerNode(call.identity, call.identity), call.path["name"])
    secret, request = await key_requests.waiting(call.services.database, call.path["name"])
    held = await key_requests.held(call.services.database, secret.name)
    return Answer(_wanted(secret, request, held))


async def put_key_request(call: Call) -> Answer:
    """Take a request for the next order."""
    services, name, body = call.services, call.path["name"], call.body(PutKeyRequest)
    peer = PeerNode(call.identity, body.target or call.identity)
    check_grant(services, peer, name)
    secret, _ = await key_requests.waiting(services.database, name)
    request = _checked(body.csr, secret)
    waits = await key_requests.bring(
        services.database, secret, peer.peer, request, lost=body.lost, actor=call.caller.actor
    )
    return Answer(_wanted(secret, waits, await key_requests.held(services.database, name)))


def _checked(pem: str, secret: model.Secret) -> KeyRequest:
    """Return the request, if it is signed by its key and for what the Secret wants.

    Raises:
        CallerError: it is not.
    """
    hint = f"GET /v1/secrets/{secret.name}/csr says which names and which type of key are wanted"
    try:
        csr = x509.load_pem_x509_csr(pem.encode())
        signed = csr.is_signature_valid
        key_type = keys.type_of(csr.public_key())
        names = csr.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        common = [said.value for said in csr.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    except (*UNREADABLE, InvalidSignature, x509.ExtensionNotFound) as e:
        raise CallerError(f"csr: cannot be used: {e}", hint=hint) from None
    if not signed:
        raise CallerError("csr: its signature is not by its own key", hint=hint)
    for_names = sorted(names.get_values_for_type(x509.DNSName))
    if for_names != sorted(secret.domains) or len(list(names)) != len(for_names):
        raise CallerError(f"csr: is for {', '.join(for_names)}, not {', '.join(secret.domains)}", hint=hint)
    if not set(common) <= set(secret.domains):  # the CA would refuse it, and only once all names are proved
        raise CallerError(f"csr: its common name is none of {', '.join(secret.domains)}", hint=hint)
    if key_type is None or model.KeyType(key_type) is not secret.key_type:
        found = key_type or "of a type that we do not take"
        raise CallerError(f"csr: its key is {found}, not {secret.key_type}", hint=hint)
    return KeyRequest(csr=csr.public_bytes(Encoding.DER), spki_sha256=keys.spki_sha256(csr.public_key()))


def _wanted(secret: model.Secret, request: KeyRequest | None, held: Sequence[Held]) -> WantedKey:
    return WantedKey(
        domains=list(secret.domains),
        key_type=secret.key_type,
        spki_sha256=None if request is None else request.spki_sha256.hex(),
        held=[HeldKey(generation=key.generation, spki_sha256=key.spki_sha256.hex()) for key in held],
    )


ROUTES = (
    Route(
        method="GET",
        path="/v1/secrets/{name}/csr",
        handler=get_key_request,
        summary="Ask what a target that keeps its own key should have signed next",
        scope=None,
        peer=True,
        answers={HTTPStatus.OK: WantedKey},
    ),
    Route(
        method="PUT",
        path="/v1/secrets/{name}/csr",
        handler=put_key_request,
        summary="Bring the signing request that is ordered next; by client certificate, as the bundle",
        scope=None,
        peer=True,
        body=PutKeyRequest,
        answers={HTTPStatus.OK: WantedKey},
    ),
)

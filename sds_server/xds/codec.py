"""Envoy's protobuf messages to and from core values; the only importer of Envoy messages on the wire path.

xds-protos (upb) and not envoy-data-plane: Envoy's first request is 61 kB, 516 extension entries of its Node,
and takes 0.04 ms to decode with upb against 14 ms there. `tests/xds/test_codec.py` holds both to the same
bytes.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any, Final, assert_never

from envoy.config.core.v3.base_pb2 import ControlPlane
from envoy.extensions.transport_sockets.tls.v3.common_pb2 import (
    CertificateValidationContext,
    SubjectAltNameMatcher,
)
from envoy.extensions.transport_sockets.tls.v3.secret_pb2 import Secret
from envoy.service.discovery.v3.discovery_pb2 import (
    DeltaDiscoveryResponse,
    DiscoveryResponse,
)
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from sds_server.payloads.content import Content
from sds_server.payloads.generic import GenericSecret
from sds_server.payloads.tickets import TicketKeys
from sds_server.payloads.trust import Match, SanType, TrustBundle
from sds_server.xds.catalog import Resource
from sds_server.xds.stream import MAX_NAMES, Request, Response

TYPE_URL: Final = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
VERSION_BYTES: Final = 16
MAX_LISTED: Final = 2 * MAX_NAMES  # of a list of names: some may be there twice, or be none


def _messages(**kinds: Mapping[int, str]) -> list[type[Any]]:
    """Return message types of these fields: number -> ``name``, ``name*`` for repeated, ``name!`` for text.

    A field that is not text is bytes, whatever the sender has in it: read in turn, or not at all.
    """
    file = FileDescriptorProto(name="certvoy/requests.proto", package="certvoy", syntax="proto3")
    for kind, fields in kinds.items():
        message = file.message_type.add(name=kind)
        for number, spelt in fields.items():
            field = message.field.add(name=spelt.rstrip("*!"), number=number)
            field.type = field.TYPE_STRING if "!" in spelt else field.TYPE_BYTES
            field.label = field.LABEL_REPEATED if "*" in spelt else field.LABEL_OPTIONAL
            if not ("*" in spelt or "!" in spelt):  # has it been sent at all?
                field.proto3_optional, field.oneof_index = True, len(message.oneof_decl)
                message.oneof_decl.add(name=f"_{field.name}")
    pool = DescriptorPool()
    pool.Add(file)
    return [GetMessageClass(pool.FindMessageTypeByName(f"certvoy.{kind}")) for kind in kinds]


# Envoy's messages with what is needed of them alone, of the same numbers on the wire. The 2 MiB of a request
# can hold a Node with a million empty extensions, or 200,000 initial_resource_versions: to make objects of
# them takes a quarter of a second, in which no other stream is served.
_REQUEST, _DELTA_REQUEST, _NODE, _STATUS, _ENTRY = _messages(
    DiscoveryRequest={
        2: "node",
        3: "resource_names*!",
        4: "type_url!",
        5: "response_nonce!",
        6: "error_detail",
    },
    DeltaDiscoveryRequest={
        1: "node",
        2: "type_url!",
        3: "resource_names_subscribe*!",
        4: "resource_names_unsubscribe*!",
        5: "initial_resource_versions*",
        6: "response_nonce!",
        7: "error_detail",
    },
    Node={1: "id!"},
    Status={2: "message!"},
    Entry={1: "key!", 2: "value!"},
)

_SAN_TYPES: Final = {
    SanType.DNS: SubjectAltNameMatcher.DNS,
    SanType.URI: SubjectAltNameMatcher.URI,
    SanType.EMAIL: SubjectAltNameMatcher.EMAIL,
    SanType.IP: SubjectAltNameMatcher.IP_ADDRESS,
}


class Malformed(ValueError):
    """The bytes are not the message that the method takes."""


@dataclass(frozen=True, slots=True)
class Message:
    """A client message: the request, and what belongs to the stream rather than to it.

    ``node_id`` is empty where the message has no node: Envoy sends it first and need not repeat it.
    """

    type_url: str
    node_id: str
    request: Request


@dataclass(frozen=True, slots=True)
class Poll:
    """A request of the REST form; ``known`` is the version that the client has, empty for none."""

    type_url: str
    node_id: str
    names: tuple[str, ...]
    known: str


def decode(data: bytes, *, delta: bool) -> Message:
    """Read a DiscoveryRequest or DeltaDiscoveryRequest.

    Raises:
        Malformed: it is none. The message quotes nothing of it.
    """
    message = _read(_DELTA_REQUEST if delta else _REQUEST, data)
    node_id = _read(_NODE, message.node).id
    error = _read(_STATUS, message.error_detail).message if message.HasField("error_detail") else None
    nonce = message.response_nonce
    # Of long lists only the beginning is read, as `Stream` would leave the rest anyway: what a client sends
    # in one message must not keep other streams waiting.
    if delta:
        known = [_read(_ENTRY, entry) for entry in message.initial_resource_versions[:MAX_NAMES]]
        request = Request(
            subscribe=tuple(message.resource_names_subscribe[:MAX_LISTED]),
            unsubscribe=tuple(message.resource_names_unsubscribe[:MAX_LISTED]),
            known={entry.key: entry.value for entry in known},
            nonce=nonce,
            error=error,
        )
    else:
        request = Request(names=tuple(message.resource_names[:MAX_LISTED]), nonce=nonce, error=error)
    return Message(message.type_url, node_id, request)


def _read(kind: type[Any], data: bytes) -> Any:
    message = kind()
    try:
        message.ParseFromString(data)
    except DecodeError:
        raise Malformed(f"not a {message.DESCRIPTOR.name}") from None
    return message


def decode_json(data: bytes) -> Poll:
    """Read a DiscoveryRequest in JSON, its fields by their own names or in camelCase.

    Only what is needed is looked at: Envoy's is 77 kB, and almost all of it is its Node.

    Raises:
        Malformed: it is none. The message quotes nothing of it.
    """
    try:
        message = json.loads(data)
    except (ValueError, RecursionError):
        raise Malformed("not JSON") from None
    if not isinstance(message, dict):
        raise Malformed("not a DiscoveryRequest: expected a JSON object")
    node = message.get("node") or {}
    if not isinstance(node, dict):
        raise Malformed("node: expected an object")
    names = _field(message, "resource_names", "resourceNames", default=[])
    if not isinstance(names, list):
        raise Malformed("resource_names: expected a list of strings")
    del names[MAX_LISTED:]
    if not all(isinstance(name, str) and _is_text(name) for name in names):
        raise Malformed("resource_names: expected a list of strings")
    texts = (
        _field(message, "type_url", "typeUrl", default=""),
        _field(message, "version_info", "versionInfo", default=""),
        _field(node, "id", default=""),
    )
    if not all(isinstance(text, str) and _is_text(text) for text in texts):
        raise Malformed("type_url, version_info and node.id: expected strings")
    type_url, known, node_id = texts
    return Poll(type_url, node_id, tuple(names), known)


def _field(message: Mapping[str, Any], *spellings: str, default: object) -> Any:
    """Return the field under the first of its spellings that is there; null is its default."""
    return next((message[key] for key in spellings if message.get(key) is not None), default)


def _is_text(value: str) -> bool:
    """Whether it can be written as UTF-8, as protobuf's strings must: JSON can spell half a pair."""
    return value.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in value)


def encode(response: Response, *, delta: bool, identifier: str) -> bytes:
    """Write a DiscoveryResponse or DeltaDiscoveryResponse; ``identifier`` is shown in Envoy's stats."""
    message = DeltaDiscoveryResponse() if delta else DiscoveryResponse()
    message.type_url = TYPE_URL
    message.nonce = response.nonce
    message.control_plane.CopyFrom(ControlPlane(identifier=identifier))
    resource = response.resource
    if resource is None:
        message.removed_resources.append(response.name)
    elif delta:
        message.system_version_info = resource.version
        entry = message.resources.add(name=resource.name, version=resource.version)
        entry.resource.type_url, entry.resource.value = TYPE_URL, resource.body
    else:
        message.version_info = resource.version
        message.resources.add(type_url=TYPE_URL, value=resource.body)
    encoded: bytes = message.SerializeToString()
    return encoded


def encode_all(resources: Iterable[Resource], version_of_them: str, *, identifier: str) -> bytes:
    """Write the DiscoveryResponse of a fetch: all in one, and no nonce, as nothing answers it."""
    message = DiscoveryResponse(version_info=version_of_them, type_url=TYPE_URL)
    message.control_plane.identifier = identifier
    for resource in resources:
        message.resources.add(type_url=TYPE_URL, value=resource.body)
    encoded: bytes = message.SerializeToString()
    return encoded


def encode_json(resources: Iterable[Resource], version_of_them: str, *, identifier: str) -> bytes:
    """Write the same as JSON, under the fields' own names, as Envoy does."""
    secrets = [
        {"@type": TYPE_URL, **MessageToDict(Secret.FromString(one.body), preserving_proto_field_name=True)}
        for one in resources
    ]
    message = {
        "version_info": version_of_them,
        "type_url": TYPE_URL,
        "resources": secrets,
        "control_plane": {"identifier": identifier},
    }
    return json.dumps(message).encode()


def tls_certificate(
    name: str, chain_pem: bytes, key_pem: bytes, *, key_path: str | None = None, staple: bytes | None = None
) -> bytes:
    """Encode the Secret of a chain and its key, inline: a file name makes Envoy read its own disk.

    ``key_path``: it shall, as its key never leaves it; then there is no ``key_pem``. Envoy reads the file as
    it takes the Secret, and refuses what it cannot read or what does not fit the chain. ``staple`` is an OCSP
    response (DER), of the same Secret: one that came apart could be another's.
    """
    secret = Secret(name=name)
    secret.tls_certificate.certificate_chain.inline_bytes = chain_pem
    if key_path is None:
        secret.tls_certificate.private_key.inline_bytes = key_pem
    else:
        secret.tls_certificate.private_key.filename = key_path
    if staple is not None:
        secret.tls_certificate.ocsp_staple.inline_bytes = staple
    encoded: bytes = secret.SerializeToString(deterministic=True)
    return encoded


def renamed(resource: Resource) -> Resource:
    """Return a Resource whose Secret is called as the Resource is: Envoy takes none of another name."""
    secret = Secret.FromString(resource.body)
    secret.name = resource.name
    return replace(resource, body=secret.SerializeToString(deterministic=True))


def payload(name: str, content: Content) -> bytes:
    """Encode the Secret of a payload as the kind that it is, and never as another: see `payloads.trust`."""
    secret = Secret(name=name)
    match content:
        case TrustBundle():
            _trust(secret.validation_context, content)
        case TicketKeys():
            for key in content.keys:
                secret.session_ticket_keys.keys.add(inline_bytes=key)
        case GenericSecret():
            if content.value is not None:
                secret.generic_secret.secret.inline_bytes = content.value
            for part, value in content.parts.items():
                secret.generic_secret.secrets[part].inline_bytes = value
        case _:
            assert_never(content)
    encoded: bytes = secret.SerializeToString(deterministic=True)
    return encoded


def _trust(context: CertificateValidationContext, bundle: TrustBundle) -> None:
    context.trusted_ca.inline_bytes = "".join(bundle.cas).encode()
    if bundle.crls:
        context.crl.inline_bytes = "".join(bundle.crls).encode()
        context.only_verify_leaf_cert_crl = bundle.leaf_crl_only
    context.verify_certificate_spki.extend(bundle.spki_pins)
    context.verify_certificate_hash.extend(bundle.fingerprints)
    if bundle.max_depth is not None:
        context.max_verify_depth.value = bundle.max_depth
    for matcher in bundle.sans:
        san = context.match_typed_subject_alt_names.add(san_type=_SAN_TYPES[matcher.type])
        if matcher.match is Match.REGEX:
            san.matcher.safe_regex.regex = matcher.value
        else:
            setattr(san.matcher, matcher.match, matcher.value)


def salted(body: bytes, salt: int) -> bytes | None:
    """Return the same Secret as other bytes: Envoy judges anew what it has not seen; None: it cannot be that.

    What may differ without a meaning is a line's end behind PEM; ticket keys and generic secrets have none.
    """
    secret = Secret.FromString(body)
    match secret.WhichOneof("type"):
        case "tls_certificate":
            secret.tls_certificate.certificate_chain.inline_bytes += b"\n" * salt
        case "validation_context":
            secret.validation_context.trusted_ca.inline_bytes += b"\n" * salt
        case _:
            return None
    other: bytes = secret.SerializeToString(deterministic=True)
    return other


def chain_and_key(body: bytes) -> tuple[bytes, bytes]:
    """Return what `tls_certificate` encoded, as PEM each: for who does not speak Envoy's messages."""
    pair = Secret.FromString(body).tls_certificate
    return pair.certificate_chain.inline_bytes, pair.private_key.inline_bytes


def staple_of(body: bytes) -> bytes | None:
    """Return the staple that `tls_certificate` encoded; None: there is none."""
    return Secret.FromString(body).tls_certificate.ocsp_staple.inline_bytes or None


def version(key: bytes, body: bytes) -> str:
    """Return the version of a Secret's bytes: equal on all replicas that share ``key`` (64 bytes at most).

    Keyed, so that whoever reads a version cannot check a guess of the content against it.
    """
    return blake2b(body, key=key, digest_size=VERSION_BYTES).hexdigest()


def version_of_all(resources: Sequence[Resource]) -> str:
    """Return the version of several Resources together: of one its own, as on a stream."""
    if len(resources) == 1:
        return resources[0].version
    ordered = sorted((one.name, one.version) for one in resources)
    return blake2b(json.dumps(ordered).encode(), digest_size=VERSION_BYTES).hexdigest()

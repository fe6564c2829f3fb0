"""Both libraries write and read the same bytes; versions are keyed."""

import base64

import pytest
from envoy.service.discovery.v3 import discovery_pb2 as pb
from envoy_data_plane.envoy.config.core.v3 import Node
from envoy_data_plane.envoy.extensions.transport_sockets.tls.v3 import Secret, SubjectAltNameMatcherSanType
from envoy_data_plane.envoy.service.discovery.v3 import (
    DeltaDiscoveryRequest,
    DeltaDiscoveryResponse,
    DiscoveryRequest,
    DiscoveryResponse,
)
from envoy_data_plane.google.rpc import Status

from sds_server.payloads.generic import GenericSecret
from sds_server.payloads.tickets import TicketKeys
from sds_server.payloads.trust import Match, SanMatcher, SanType, TrustBundle
from sds_server.xds import codec
from sds_server.xds.catalog import Resource
from sds_server.xds.stream import Request, Response
from tests.support.pki import authority, crl

PAIR = authority().issue(dns=["a.test"])
BODY = codec.tls_certificate("a", PAIR.chain_pem, PAIR.key_pem)
RESOURCE = Resource("a", "abc", 1, BODY)


def test_a_tls_certificate_is_inline_and_named():
    secret = Secret.parse(BODY)

    assert secret.name == "a"
    assert secret.tls_certificate.certificate_chain.inline_bytes == PAIR.chain_pem
    assert secret.tls_certificate.private_key.inline_bytes == PAIR.key_pem
    assert bytes(secret) == BODY


def test_a_key_that_stays_on_its_host_is_named_by_its_path_and_nothing_of_it_is_sent():
    body = codec.tls_certificate("a", b"chain", b"", key_path="/keys/ab.pem")
    pair = codec.Secret.FromString(body).tls_certificate

    assert (b"chain", "/keys/ab.pem") == (pair.certificate_chain.inline_bytes, pair.private_key.filename)
    assert "filename" == pair.private_key.WhichOneof("specifier")
    assert (b"chain", b"") == codec.chain_and_key(body)


def test_other_bytes_of_the_same_secret_differ_in_a_line_s_end_alone():
    """So Envoy judges it anew; a path and a name stay as they are."""
    body = codec.tls_certificate("a", b"chain", b"", key_path="/keys/ab.pem")
    other = codec.Secret.FromString(codec.salted(body, 2))

    assert b"chain\n\n" == other.tls_certificate.certificate_chain.inline_bytes
    assert "/keys/ab.pem" == other.tls_certificate.private_key.filename
    assert codec.salted(codec.payload("t", TicketKeys((b"k" * 80,))), 1) is None


def test_a_trust_bundle_is_a_validation_context_with_all_that_it_asks_for():
    ca = authority("root")
    listed = crl(ca)
    pin, fingerprint = base64.b64encode(bytes(32)).decode(), "ab" * 32
    bundle = TrustBundle.read(
        ca.pem.decode(),
        listed,
        sans=(
            SanMatcher(SanType.URI, Match.PREFIX, "spiffe://mesh/"),
            SanMatcher(SanType.DNS, Match.REGEX, "a.*"),
        ),
        spki_pins=(pin,),
        fingerprints=(fingerprint,),
        leaf_crl_only=True,
        max_depth=0,
    )
    body = codec.payload("clients", bundle)
    secret = Secret.parse(body)
    context = secret.validation_context

    assert len(bytes(secret)) == len(body)  # they write the fields in another order
    assert (secret.name, context.trusted_ca.inline_bytes) == ("clients", ca.pem)
    assert (context.crl.inline_bytes, context.only_verify_leaf_cert_crl) == (listed.encode(), True)
    assert (context.verify_certificate_spki, context.verify_certificate_hash) == ([pin], [fingerprint])
    assert context.max_verify_depth == 0
    prefix, regex = context.match_typed_subject_alt_names
    assert (prefix.san_type, prefix.matcher.prefix) == (SubjectAltNameMatcherSanType.URI, "spiffe://mesh/")
    assert (regex.san_type, regex.matcher.safe_regex.regex) == (SubjectAltNameMatcherSanType.DNS, "a.*")


def test_ticket_keys_keep_their_order_and_a_generic_secret_its_bytes():
    tickets = Secret.parse(codec.payload("t", TicketKeys((b"b" * 80, b"a" * 80))))
    one = Secret.parse(codec.payload("g", GenericSecret(value=b"\x00\xff")))
    named = Secret.parse(codec.payload("g", GenericSecret(parts={"id": b"x", "secret": b"y"})))

    assert [key.inline_bytes for key in tickets.session_ticket_keys.keys] == [b"b" * 80, b"a" * 80]
    assert one.generic_secret.secret.inline_bytes == b"\x00\xff"
    found = {name: part.inline_bytes for name, part in named.generic_secret.secrets.items()}
    assert found == {"id": b"x", "secret": b"y"}


def test_a_state_of_the_world_request_is_read():
    data = bytes(
        DiscoveryRequest(
            node=Node(id="n"),
            type_url=codec.TYPE_URL,
            resource_names=["a", "b"],
            response_nonce="7",
            error_detail=Status(code=13, message="bad"),
        )
    )

    assert codec.decode(data, delta=False) == codec.Message(
        codec.TYPE_URL, "n", Request(names=("a", "b"), nonce="7", error="bad")
    )


def test_a_delta_request_is_read():
    data = bytes(
        DeltaDiscoveryRequest(
            type_url=codec.TYPE_URL,
            resource_names_subscribe=["a"],
            resource_names_unsubscribe=["b"],
            initial_resource_versions={"c": "v"},
        )
    )

    assert codec.decode(data, delta=True) == codec.Message(
        codec.TYPE_URL, "", Request(subscribe=("a",), unsubscribe=("b",), known={"c": "v"})
    )


def test_a_refusal_without_words_is_a_refusal():
    data = bytes(DiscoveryRequest(response_nonce="1", error_detail=Status()))

    assert codec.decode(data, delta=False).request.error == ""


def test_bytes_that_are_no_request_are_malformed():
    with pytest.raises(codec.Malformed, match="not a DiscoveryRequest"):
        codec.decode(b"\xff\xff", delta=False)


def test_a_state_of_the_world_response_is_written():
    data = codec.encode(Response("7", "a", RESOURCE), delta=False, identifier="replica-1")
    response = DiscoveryResponse.parse(data)

    assert (response.type_url, response.nonce, response.version_info) == (codec.TYPE_URL, "7", "abc")
    assert [(r.type_url, r.value) for r in response.resources] == [(codec.TYPE_URL, BODY)]
    assert response.control_plane.identifier == "replica-1"


def test_a_delta_response_is_written():
    response = DeltaDiscoveryResponse.parse(
        codec.encode(Response("7", "a", RESOURCE), delta=True, identifier="replica-1")
    )
    (resource,) = response.resources

    assert (resource.name, resource.version) == ("a", "abc")
    assert (resource.resource.type_url, resource.resource.value) == (codec.TYPE_URL, BODY)
    assert (response.nonce, response.removed_resources) == ("7", [])
    assert response.control_plane.identifier == "replica-1"


def test_a_delta_resource_has_no_alias_and_no_ttl():
    """Envoy ignores aliases of a Secret; after a TTL it still serves, and says that it has nothing."""
    data = codec.encode(Response("7", "a", RESOURCE), delta=True, identifier="replica-1")
    (resource,) = pb.DeltaDiscoveryResponse.FromString(data).resources

    assert [] == list(resource.aliases)
    assert not resource.HasField("ttl")


def test_a_removal_is_written():
    response = DeltaDiscoveryResponse.parse(
        codec.encode(Response("7", "a", None), delta=True, identifier="replica-1")
    )

    assert (response.resources, response.removed_resources) == ([], ["a"])


def test_equal_content_has_equal_versions_under_one_key_only():
    assert codec.version(b"k", BODY) == codec.version(b"k", bytes(BODY))
    assert codec.version(b"k", BODY) != codec.version(b"other", BODY)
    assert codec.version(b"k", BODY) != codec.version(b"k", BODY + b"x")


def test_of_long_lists_the_beginning_is_read():
    """A client may send 2 MiB; the whole of it would keep others waiting."""
    names = [str(number) for number in range(30_000)]
    delta = pb.DeltaDiscoveryRequest(
        node={"id": "n", "extensions": [{}] * 100_000},
        resource_names_subscribe=names,
        resource_names_unsubscribe=names,
        initial_resource_versions=dict.fromkeys(names, "v"),
    )
    message = codec.decode(delta.SerializeToString(), delta=True)
    state = codec.decode(pb.DiscoveryRequest(resource_names=names).SerializeToString(), delta=False)

    assert "n" == message.node_id
    assert tuple(names[:20_000]) == message.request.subscribe == message.request.unsubscribe
    assert 10_000 == len(message.request.known)
    assert tuple(names[:20_000]) == state.request.names


@pytest.mark.parametrize("delta", [True, False])
def test_a_node_that_is_none_is_malformed(delta):
    request = pb.DeltaDiscoveryRequest() if delta else pb.DiscoveryRequest()
    field = request.DESCRIPTOR.fields_by_name["node"].number
    with pytest.raises(codec.Malformed, match="not a Node"):
        codec.decode(bytes([field << 3 | 2, 2, 0xFF, 0xFF]), delta=delta)

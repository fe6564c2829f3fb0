"""Who a peer is, and what it may see."""

import ssl

import pytest
from cryptography.hazmat.primitives import serialization

from sds_server.errors import CallerError, ConfigError
from sds_server.identity import Grant, Grants, identify
from sds_server.model import Identity, Kind
from tests.support.pki import authority

CA = authority()


def test_one_spiffe_uri_is_the_identity_whatever_else_is_there():
    pair = CA.issue(uris=["spiffe://td.test/edge/1"], dns=["a.test"])

    assert identify(pair.chain_pem) == "spiffe://td.test/edge/1"


def test_without_a_uri_the_first_dns_name_is_the_identity_and_typed():
    assert identify(CA.issue(dns=["Edge.Test", "b.test"]).chain_pem) == "dns:edge.test"


def test_a_dns_name_that_looks_like_a_uri_is_no_spiffe_id():
    with pytest.raises(CallerError, match="not a host's DNS name"):
        identify(CA.issue(dns=["spiffe://td.test/edge"]).chain_pem)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"uris": ["spiffe://td.test/a", "spiffe://td.test/b"]}, "has 2 URI names"),
        ({"uris": ["https://td.test/a"], "dns": ["a.test"]}, "not the SPIFFE ID"),
        ({"ips": ["127.0.0.1"]}, "neither a URI nor a DNS name"),
        ({}, "no subject alternative name"),
        ({"dns": ["*.a.test"]}, "not a host's DNS name"),
    ],
)
def test_a_certificate_without_one_clear_name_is_refused(names, message):
    with pytest.raises(CallerError, match=message):
        identify(CA.issue(**names).chain_pem)


@pytest.mark.parametrize(
    "uri",
    [
        "spiffe://TD.test/a",
        "SPIFFE://td.test/a",
        "spiffe://td.test",
        "spiffe://td.test/",
        "spiffe:///a",
        "spiffe://td.test/a/",
        "spiffe://td.test//a",
        "spiffe://td.test/a/../b",
        "spiffe://td.test/./a",
        "spiffe://td.test/%61",
        "spiffe://td.test:443/a",
        "spiffe://user@td.test/a",
        "spiffe://td.test/a?b",
        "spiffe://td.test/a#b",
        "spiffe://td.test/a\n",
        "spiffe://td.test/" + "a" * 2048,
        "spiffe://" + "t" * 256 + "/a",
    ],
)
def test_a_spiffe_id_that_is_not_in_normal_form_is_refused_not_normalised(uri):
    with pytest.raises(CallerError, match="not the SPIFFE ID"):
        identify(CA.issue(uris=[uri]).chain_pem)


EDGE = Identity("spiffe://td.test/edge")


@pytest.mark.parametrize(
    ("pattern", "seen", "unseen"),
    [
        ("www", ["www"], ["ww", "www2", "WWW", "", "*"]),
        ("team/*", ["team/a", "team/a/b"], ["team", "team/", "teams/a", "other/team/a"]),
        (
            "*.example.com",
            ["a.example.com", "a.b.example.com", "*.example.com"],
            ["example.com", ".example.com", "aexample.com", "team/a.example.com", "a.example.com.evil"],
        ),
    ],
)
def test_a_grant_covers_what_it_says_and_nothing_else(pattern, seen, unseen):
    grants = Grants([Grant(EDGE, (pattern,))])

    assert dict.fromkeys(seen, True) == {name: grants.authorize(EDGE, name) for name in seen}
    assert dict.fromkeys(unseen, False) == {name: grants.authorize(EDGE, name) for name in unseen}


def test_grants_of_one_identity_add_up():
    grants = Grants([Grant(EDGE, ("a",)), Grant(EDGE, ("b",))])

    assert grants.authorize(EDGE, "a")
    assert grants.authorize(EDGE, "b")


def test_without_a_grant_nothing_is_seen():
    grants = Grants([Grant(EDGE, ("a",))])

    assert not grants.authorize(Identity("dns:edge.test"), "a")
    assert not grants.authorize(Identity("spiffe://td.test/edge/deeper"), "a")


CERTIFICATES = frozenset({Kind.TLS_CERTIFICATE})
BUNDLES = frozenset({Kind.VALIDATION_CONTEXT})


def test_a_grant_of_some_kinds_covers_no_other_and_by_its_name_alone_what_is_not_known_yet():
    grants = Grants([Grant(EDGE, ("team/*",), kinds=CERTIFICATES)])
    kinds = (Kind.TLS_CERTIFICATE, Kind.VALIDATION_CONTEXT, None)

    assert [True, False, True] == [grants.authorize(EDGE, "team/a", kind) for kind in kinds]


def test_kinds_of_one_grant_do_not_widen_another():
    grants = Grants([Grant(EDGE, ("www",), kinds=CERTIFICATES), Grant(EDGE, ("roots",), kinds=BUNDLES)])

    assert grants.authorize(EDGE, "www", Kind.TLS_CERTIFICATE)
    assert grants.authorize(EDGE, "roots", Kind.VALIDATION_CONTEXT)
    assert not grants.authorize(EDGE, "www", Kind.VALIDATION_CONTEXT)
    assert not grants.authorize(EDGE, "roots", Kind.TLS_CERTIFICATE)


def test_a_wish_has_nothing_issued_but_where_a_grant_of_certificates_says_so():
    grants = Grants(
        [
            Grant(EDGE, ("seen",)),
            Grant(EDGE, ("*.example.com",), issue=True),
            Grant(EDGE, ("roots",), kinds=BUNDLES, issue=True),
        ]
    )
    names = ("a.example.com", "seen", "roots", "other")

    assert [True, False, False, False] == [grants.may_issue(EDGE, name) for name in names]
    assert grants.authorize(EDGE, "a.example.com")
    assert not grants.may_issue(Identity("spiffe://td.test/other"), "a.example.com")


def test_of_several_limits_of_names_the_lowest_counts():
    grants = Grants(
        [Grant(EDGE, (name,), max_names=most) for name, most in zip("abc", (None, 7, 9), strict=True)]
    )

    assert 7 == grants.max_names(EDGE)
    assert Grants([Grant(EDGE, ("a",))]).max_names(EDGE) is None


def test_what_changes_of_one_identity_changes_its_terms_as_well():
    other = Identity("spiffe://td.test/other")
    before = Grants([Grant(who, ("a",), issue=True, max_names=5) for who in (EDGE, other)])
    after = before.changed([EDGE], [Grant(EDGE, ("a",), kinds=BUNDLES)])

    assert [None, 5] == [after.max_names(who) for who in (EDGE, other)]
    assert [False, True] == [after.may_issue(who, "a") for who in (EDGE, other)]
    assert not after.authorize(EDGE, "a", Kind.TLS_CERTIFICATE)
    assert before.authorize(EDGE, "a", Kind.TLS_CERTIFICATE)


def test_all_of_a_kind_is_what_grants_of_that_kind_say():
    grants = Grants(
        [
            Grant(EDGE, ("www", "team/*")),
            Grant(EDGE, ("*.example.com",), kinds=CERTIFICATES),
            Grant(EDGE, ("roots",), kinds=BUNDLES),
        ]
    )
    rule = grants.of(EDGE, Kind.TLS_CERTIFICATE)

    assert (frozenset({"www"}), ("team/",), (".example.com",)) == (rule.exact, rule.prefixes, rule.suffixes)
    assert not grants.of(Identity("spiffe://td.test/other"), Kind.TLS_CERTIFICATE).exact


@pytest.mark.parametrize("pattern", ["*", "", "a*", "*a", "*/a", "/*", "te*m/*", "*.*.com", "*."])
def test_a_pattern_that_says_too_much_or_nothing_is_refused(pattern):
    with pytest.raises(ConfigError, match="cannot grant"):
        Grants([Grant(EDGE, (pattern,))])


@pytest.mark.parametrize("identity", ["edge", "dns:", "dns:*.test", "spiffe://td.test", ""])
def test_an_identity_that_no_peer_can_have_is_refused(identity):
    with pytest.raises(ConfigError, match="grants: identity"):
        Grants([Grant(identity, ("a",))])


def test_a_certificate_that_cannot_be_read_to_its_end_names_nobody():
    leaf = CA.issue(dns=["edge.test"]).certificate.public_bytes(serialization.Encoding.DER)
    odd = leaf.replace(bytes.fromhex("0603551d25"), bytes.fromhex("0603551d11"))  # two of one extension

    with pytest.raises(CallerError, match="cannot be read"):
        identify(ssl.DER_cert_to_PEM_cert(odd).encode())

import pytest

from acme_engine.errors import BadIdentifier
from acme_engine.names import is_address, normalise, normalise_all, normalise_any

LABEL = "a" * 63
LONGEST = ".".join([LABEL, LABEL, LABEL, "b" * 61])


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("example.com", "example.com"),
        ("WWW.Example.COM.", "www.example.com"),
        ("*.Example.com", "*.example.com"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("*.Bücher.example", "*.xn--bcher-kva.example"),
        ("faß.de", "xn--fa-hia.de"),  # IDNA 2008, where 2003 said "fass.de"
        ("localhost", "localhost"),
        (LONGEST, LONGEST),
    ],
)
def test_a_name_is_written_in_one_way(given, expected):
    assert normalise(given) == expected


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("", "empty"),
        (".", "empty"),
        ("a..b", "empty label"),
        ("*", "letters, digits|wildcard"),
        ("a" * 64 + ".com", "64 bytes"),
        (LONGEST + "b", "254 bytes"),
        ("foo.*.com", "wildcard"),
        ("f*.com", "wildcard"),
        ("*.*.com", "wildcard"),
        ("under_score.com", "letters, digits"),
        ("-a.com", "letters, digits"),
        ("a-.com", "letters, digits"),
        ("a b.com", "letters, digits"),
        ("a.com\n", "letters, digits"),
        ("127.0.0.1", "IP address"),
        ("[::1]", "IP address"),
        ("::1", "IP address"),
        ("1.2.3.4.5", "number"),
        ("xn--zzzzzz-.com", "letters, digits"),
        ("xn--0.com", "A-label"),
        ("a\u2024b.com", "A-labels|letters"),
        ("☃☃.com", "A-labels"),
    ],
)
def test_what_no_ca_could_certify_is_refused_with_the_reason(given, reason):
    with pytest.raises(BadIdentifier, match=reason):
        normalise(given)


def test_repetitions_go_and_the_primary_stays_first():
    assert normalise_all(["www.b.com", "a.com", "WWW.B.com.", "a.com"]) == ("www.b.com", "a.com")


@pytest.mark.parametrize(
    ("text", "spelt"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:DB8:0:0::1", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("WWW.example.com.", "www.example.com"),
    ],
)
def test_an_address_has_one_spelling(text, spelt):
    """RFC 8738 section 3: of IPv6 that of RFC 5952."""
    assert spelt == normalise_any(text)
    assert (spelt != "www.example.com") is is_address(spelt)


@pytest.mark.parametrize("text", ["fe80::1%eth0", "192.0.2", "192.0.2.256", "1.2.3.4.5"])
def test_what_is_nearly_an_address_is_refused(text):
    with pytest.raises(BadIdentifier):
        normalise_any(text)


@pytest.mark.parametrize("text", ["www.example.com", "localhost", ""])
def test_one_text_is_no_list_of_names(text):
    with pytest.raises(BadIdentifier, match="is one text, where a list of names is wanted"):
        normalise_all(text)

"""What settings of providers of DNS may look like."""

import pytest

from acme_engine.dns.checks import address, base64_text, one_of, server, zone
from acme_engine.dns.zones import Zones
from acme_engine.errors import Misconfigured


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ns1.example.com", ("ns1.example.com", 53)),
        ("ns1.example.com:5353", ("ns1.example.com", 5353)),
        ("192.0.2.1", ("192.0.2.1", 53)),
        ("192.0.2.1:5353", ("192.0.2.1", 5353)),
        ("2001:db8::1", ("2001:db8::1", 53)),
        ("[2001:db8::1]:5353", ("2001:db8::1", 5353)),
    ],
)
def test_a_server_is_a_host_with_or_without_a_port(text, expected):
    assert expected == address(text)


@pytest.mark.parametrize(
    "text", ["", "ns1:0", "ns1:65536", "ns1:x", "2001:db8::1:x:5353", "[ns1]:53", "n s", "http://ns1/"]
)
def test_who_is_to_be_asked_and_is_no_server_is_told_at_once(text):
    """And not as a bare ValueError, once the order is made."""
    for given in ({"servers": [text]}, {"resolvers": ["192.0.2.1", text]}, {"servers": "192.0.2.1:53"}):
        with pytest.raises(Misconfigured, match="of DNS: ") as failure:
            Zones(**given)

        assert "host:port" in failure.value.hint


@pytest.mark.parametrize(
    "text", ["", "ns1:0", "ns1:65536", "ns1:x", "2001:db8::1:x:5353", "[ns1]:53", "n s", "http://ns1/"]
)
def test_anything_else_is_no_server(text):
    with pytest.raises(ValueError, match=r"must be|is empty|label"):
        server(text)


def test_a_zone_is_a_name():
    zone("example.com")
    with pytest.raises(ValueError, match="label"):
        zone("exa mple.com")


def test_a_secret_that_is_no_base64_is_not_repeated():
    base64_text("c2VjcmV0")
    with pytest.raises(ValueError, match="must be base64") as e:
        base64_text("s3cret!")

    assert "s3cret" not in str(e.value)


def test_a_choice_says_what_there_is():
    one_of("a", "b")("a")
    with pytest.raises(ValueError, match="one of a, b"):
        one_of("a", "b")("c")

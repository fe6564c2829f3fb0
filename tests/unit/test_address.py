"""Where a push may go: every kind of address by which the control plane reaches its own side is refused."""

from ipaddress import ip_address, ip_network

import pytest

from sds_server.errors import CallerError
from sds_server.targets.address import PushUrl, parse, refusal

EVERYTHING = (ip_network("0.0.0.0/0"), ip_network("::/0"))


def judged(address, *allowed):
    return refusal(ip_address(address), tuple(map(ip_network, allowed)))


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "192.31.196.1", "2606:4700::1111", "64:ff9b::808:808", "::ffff:8.8.8.8"]
)
def test_public_addresses_need_no_list(address):
    assert judged(address) is None


@pytest.mark.parametrize(
    ("address", "what"),
    [
        ("127.0.0.1", "loopback"),
        ("127.255.1.2", "loopback"),
        ("::1", "loopback"),
        ("10.1.2.3", "private"),
        ("172.31.255.255", "private"),
        ("192.168.0.1", "private"),
        ("fd12:3456::1", "private"),
        ("100.64.0.1", "carrier-grade NAT"),
        ("169.254.1.1", "link-local"),
        ("fe80::1", "link-local"),
        ("fe80::1%eth0", "link-local"),
        ("fec0::1", "site-local"),
        ("192.0.2.7", "documentation"),
        ("198.51.100.7", "documentation"),
        ("203.0.113.7", "documentation"),
        ("2001:db8::7", "documentation"),
        ("3fff::7", "documentation"),
        ("198.19.0.1", "benchmarks"),
        ("192.0.0.8", "IETF"),
        ("240.0.0.1", "reserved"),
        ("4000::1", "no public address"),
        ("::ffff:127.0.0.1", "loopback"),
        ("::ffff:10.0.0.1", "private"),
        ("::127.0.0.1", "no public address"),
        ("2002:7f00:1::", "6to4"),
        ("64:ff9b::10.0.0.1", "private"),
        ("64:ff9b::127.0.0.1", "loopback"),
        ("64:ff9b:1::10.0.0.1", "local NAT64"),
        ("2001:0:808:808::f5ff:fffe", "IETF"),
    ],
)
def test_special_addresses_are_refused_unless_a_range_lists_them(address, what):
    said = judged(address)

    assert said is not None
    assert what in said
    assert "`push.allow`" in said
    assert refusal(ip_address(address), EVERYTHING) is None


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254",
        "169.254.170.2",
        "100.100.100.200",
        "168.63.129.16",
        "fd00:ec2::254",
        "fd20:ce::254",
        "::ffff:169.254.169.254",
        "64:ff9b::169.254.169.254",
        "64:ff9b:1::169.254.169.254",
        "2002:a9fe:a9fe::1",
        "::169.254.169.254",
        "2001:0:a9fe:a9fe::",
        "2001:0:808:808::5601:5601",  # Teredo: the client's address, inverted
        "0.0.0.0",
        "0.1.2.3",
        "::",
        "255.255.255.255",
        "224.0.0.1",
        "ff02::1",
    ],
)
def test_metadata_and_what_is_nobodys_is_never_allowed(address):
    said = refusal(ip_address(address), EVERYTHING)

    assert said is not None
    assert "never" in said


def test_a_range_lists_what_is_in_it_and_nothing_else():
    assert judged("10.1.2.3", "10.1.0.0/16") is None
    assert judged("10.2.2.3", "10.1.0.0/16") is not None
    assert judged("fd12::1", "10.1.0.0/16", "fd12::/64") is None


def test_a_listed_outer_address_does_not_hide_the_one_that_it_holds():
    assert "loopback" in (judged("2002:7f00:1::", "2002::/16") or "")
    assert "private" in (judged("64:ff9b:1::10.0.0.1", "64:ff9b:1::/48") or "")


def test_an_address_that_holds_another_says_both():
    assert "64:ff9b::a00:1, which is 10.0.0.1," in (judged("64:ff9b::10.0.0.1") or "")


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("https://web-1.example.com:8446", PushUrl("web-1.example.com", 8446)),
        ("https://WEB-1:8446/", PushUrl("web-1", 8446)),
        ("https://192.0.2.1:443", PushUrl("192.0.2.1", 443)),
        ("https://[2001:db8::1]:443", PushUrl("2001:db8::1", 443)),
    ],
)
def test_a_url_is_a_host_and_a_port(text, url):
    assert url == parse(text)
    assert str(url) == str(parse(str(url)))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "web-1:8446",
        "http://web-1:8446",
        "https://web-1",
        "https://web-1:0",
        "https://web-1:65536",
        "https://web-1:8446/v1",
        "https://web-1:8446?x=1",
        "https://web-1:8446#x",
        "https://user:hunter2@web-1:8446",
        "https://web-1:8446@other:1",
        "https://web 1:8446",
        "https://web-1:8446\n",
        "https://[::1:8446",
        "https://::1:8446",
        "https://[10.0.0.1]:8446",
        "https://[fe80::1%25eth0]:8446",
        "https://wéb:8446",
        "file:///etc/passwd",
    ],
)
def test_anything_else_is_refused(text):
    with pytest.raises(CallerError) as refused:
        parse(text)

    assert "https://host:port" in str(refused.value)
    assert "hunter2" not in str(refused.value)

"""Registered domains, by the Public Suffix List that is installed."""

import pytest

from acme_engine.registered import registered_domain, registered_domains


@pytest.mark.parametrize(
    ("name", "domain"),
    [
        ("www.example.com", "example.com"),
        ("*.example.com", "example.com"),
        ("new.blog.example.co.uk", "example.co.uk"),
        ("co.uk", "co.uk"),
        ("a.b.example.github.io", "example.github.io"),
        ("www.example.test", "example.test"),
        ("localhost", "localhost"),
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
    ],
)
def test_the_registered_domain_of_a_name(name, domain):
    assert domain == registered_domain(name)


def test_each_domain_counts_once():
    names = ["www.example.com", "*.example.com", "www.example.org"]

    assert ("example.com", "example.org") == registered_domains(names)

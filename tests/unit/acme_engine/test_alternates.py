"""Which chain is taken where a CA offers several."""

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from acme_engine import chain as chains
from acme_engine.alternates import download
from tests.support import pki

URL = "/certificate"


@pytest.fixture
def steps():
    return []


@pytest.fixture
def offer(ca, client, steps):
    """A CA whose default chain is that of `Old Root`, with another of `New Root`, longer by one."""
    old, new = pki.authority("Old Root"), pki.authority("New Root")
    leaf = old.intermediate("Intermediate").issue(["www.example.test"])
    ca.chain = leaf.chain_pem
    crossed = pki.cert_pem(leaf.certificate) + pki.cert_pem(new.intermediate("Intermediate").certificate)

    async def get(preferred, *, alternates=(f"{URL}/1",), other=None):
        links = ", ".join(f'<{ca.url}{path}>;rel="alternate"' for path in alternates)
        ca.next(URL, 200, ca.chain, Link=links)
        ca.next(f"{URL}/1", 200, crossed + pki.cert_pem(new.certificate) if other is None else other)
        return await download(
            client, f"{ca.url}{URL}", preferred=preferred, on_step=lambda name, _fields: steps.append(name)
        )

    return get


async def test_the_ca_s_own_choice_is_taken_where_nothing_is_preferred(ca, offer):
    assert chains.parse(ca.chain).pem == (await offer(None)).pem
    assert [] == ca.posts(f"{URL}/1")


async def test_the_chain_of_a_preferred_issuer_is_taken(ca, offer):
    assert chains.parse(ca.chain).pem == (await offer("Old Root")).pem
    assert "New Root" in (await offer("New Root")).certificates[-1].issuer.rfc4514_string()


async def test_a_preference_that_no_chain_meets_is_told_and_costs_nothing(ca, offer, steps):
    assert chains.parse(ca.chain).pem == (await offer("Newest Root")).pem
    assert ["chain.unmatched"] == steps


async def test_the_smallest_is_that_of_the_fewest_bytes(ca, offer):
    bare = chains.parse(ca.chain).certificates[0].public_bytes(Encoding.PEM)

    assert chains.parse(ca.chain).pem == (await offer("smallest")).pem
    assert bare == (await offer("smallest", other=bare)).pem


async def test_another_certificate_is_no_alternate(ca, offer, steps):
    other = pki.authority("New Root").issue(["www.example.test"])

    assert chains.parse(ca.chain).pem == (await offer("New Root", other=other.chain_pem)).pem
    assert ["chain.unmatched"] == steps


async def test_an_alternate_that_cannot_be_read_is_passed_over(ca, offer, steps):
    assert chains.parse(ca.chain).pem == (await offer("New Root", other=b"nonsense")).pem
    assert ["chain.unusable", "chain.unmatched"] == steps


async def test_an_alternate_elsewhere_is_not_fetched(ca, client, offer, steps):
    ca.next(URL, 200, ca.chain, Link='<http://127.0.0.1:1/x>;rel="alternate"')
    got = await download(
        client, f"{ca.url}{URL}", preferred="New Root", on_step=lambda name, _fields: steps.append(name)
    )

    assert (chains.parse(ca.chain).pem, ["chain.unusable", "chain.unmatched"]) == (got.pem, steps)

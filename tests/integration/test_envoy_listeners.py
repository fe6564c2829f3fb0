"""What listeners of a real Envoy 1.40 make of secrets: after a refusal, and with two certificates."""

import asyncio
import ssl

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from sds_server.identity import Grant, Grants
from sds_server.xds.catalog import ABSENT
from tests.xds.edge import NODE, SITES, Edge, der, site, until
from tests.xds.sds import EDGE

FORMS = ("sds-sotw", "sds-delta", "ads-sotw", "ads-delta")
SIGNED_WITH = {"ecdsa": "ECDHE-ECDSA-AES128-GCM-SHA256", "rsa": "ECDHE-RSA-AES128-GCM-SHA256"}


@pytest.fixture(params=FORMS)
async def edge(request, tmp_path):
    edge = Edge(tmp_path, request.param)
    yield edge
    await edge.stop()


async def test_a_refusal_does_not_stop_later_listeners(edge):
    """Without the last good content back, Envoy refuses listeners too that use the secret (envoy#38246)."""
    first, second = site(), site()
    edge.server.publish("a", 1, first)
    await edge.start()
    await edge.until_served(first)
    edge.server.publish("a", 2, second, key_of=first)
    await edge.server.witness.until("refused", NODE, "a", 2)
    await edge.server.witness.until("accepted", NODE, "a", 1, times=2)
    edge.listen("https", "more")
    await edge.until_served(first, "more")
    stats = await edge.envoy.stats("listener_manager.lds.")

    assert 0 == stats["listener_manager.lds.update_rejected"]


class TwoCertificates(Edge):
    """A listener with one certificate on P-256 and one of RSA, each a secret of its own."""

    def __init__(self, directory, form):
        super().__init__(directory, form)
        self.server.grants = Grants([Grant(EDGE, ("ecdsa", "rsa"))])

    def configuration(self, *listeners):
        config = super().configuration(*listeners)
        for listener in config["static_resources"].get("listeners", []):
            (chain,) = listener["filter_chains"]
            context = chain["transport_socket"]["typed_config"]["common_tls_context"]
            (one,) = context["tls_certificate_sds_secret_configs"]
            context["tls_certificate_sds_secret_configs"] = [
                {**one, "name": name} for name in ("ecdsa", "rsa")
            ]
        return config

    async def shown_to(self, kind):
        """Return the DER of the leaf that is shown to who takes no other kind of signature; None: none."""
        context = ssl.create_default_context(cadata=SITES.pem.decode())
        context.maximum_version = ssl.TLSVersion.TLSv1_2  # whose ciphers name the kind of key
        context.set_ciphers(SIGNED_WITH[kind])
        try:
            port = await self.envoy.listener_port("https")
            _, writer = await asyncio.open_connection(
                "127.0.0.1", port, ssl=context, server_hostname="a.test"
            )
        except (OSError, ssl.SSLError):
            return None
        leaf = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.close()
        return leaf


def rsa_site():
    return SITES.issue(dns=["a.test"], key=rsa.generate_private_key(65537, 2048))


@pytest.fixture(params=["sds-delta", "ads-delta"])
async def two(request, tmp_path):
    edge = TwoCertificates(tmp_path, request.param)
    yield edge
    await edge.stop()


async def test_two_kinds_of_keys_are_two_secrets_and_each_client_gets_its_own(two):
    pairs = {"ecdsa": site(), "rsa": rsa_site()}
    for name, pair in pairs.items():
        two.server.publish(name, 1, pair)
    await two.start()
    for name, pair in pairs.items():
        await until(lambda name=name, pair=pair: shows(two, name, pair))
    listed = {
        int(leaf["serial_number"], 16) for entry in await two.envoy.certs() for leaf in entry["cert_chain"]
    }

    assert {pair.certificate.serial_number for pair in pairs.values()} <= listed

    pairs["rsa"] = rsa_site()
    two.server.publish("rsa", 2, pairs["rsa"])
    await until(lambda: shows(two, "rsa", pairs["rsa"]))
    assert der(pairs["ecdsa"]) == await two.shown_to("ecdsa")


async def shows(edge, kind, pair):
    return await edge.shown_to(kind) == der(pair)


async def test_where_one_of_two_is_missing_the_other_is_served(two):
    """Delta says at once that it is not there, so that the listener does not wait its 15 s for it."""
    pair, later = site(), rsa_site()
    two.server.publish("ecdsa", 1, pair)
    two.server.catalog.publish({"rsa": ABSENT})
    await two.start()
    await until(lambda: shows(two, "ecdsa", pair))

    assert await two.shown_to("rsa") is None
    two.server.publish("rsa", 1, later)
    await until(lambda: shows(two, "rsa", later))

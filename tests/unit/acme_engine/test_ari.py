"""ACME Renewal Information (RFC 9773): the identifier, the answer, the draw, the intervals, and bad CAs."""

import asyncio
import json
import random
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from acme_engine import ari
from acme_engine.errors import BadReply, Problem, Refused, Unreachable, Unsupported, Untrusted
from tests.support.fake_ca import problem

NOW = datetime(2026, 11, 24, 8, 0, tzinfo=UTC)
START, END = "2026-12-01T00:00:00Z", "2026-12-03T00:00:00Z"
ID = "aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE"


class Middle:
    def uniform(self, a, b):
        return (a + b) / 2


def certificate(serial, key_id):
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "www.example.test")])
    built = (
        x509.CertificateBuilder(name, name)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(NOW)
        .not_valid_after(NOW + timedelta(days=90))
    )
    if key_id is not None:
        identifier = x509.AuthorityKeyIdentifier(key_id, None, None)
        built = built.add_extension(identifier, critical=False)
    return built.sign(key, hashes.SHA256())


def window(start=START, end=END):
    return {"suggestedWindow": {"start": start, "end": end}}


def test_the_identifier_is_that_of_the_rfc_s_example():
    """Section 4.1: the serial number 0x8765432100-like keeps the zero byte that DER puts in front."""
    key_id = bytes.fromhex("69885b6b87464041e1b37b847ba0ae2cde01c8d4")

    assert ari.certificate_id(certificate(0x87654321, key_id)) == ID


def test_a_serial_number_below_the_sign_bit_has_no_zero_byte():
    assert ari.certificate_id(certificate(0x7F, b"\x01")) == "AQ.fw"


def test_a_certificate_without_its_ca_s_key_identifier_has_none():
    assert ari.certificate_id(certificate(1, None)) is None


@pytest.mark.parametrize(
    "document",
    [
        None,
        [],
        "window",
        {},
        {"suggestedWindow": []},
        {"suggestedWindow": {"start": START}},
        window(end=START),
        window(start=END, end=START),
        window(start=1),
        window(start="tomorrow"),
        window(start="2026-12-01T00:00:00"),  # of no zone
        window(end="9999-12-31T23:59:59-14:00"),
    ],
)
def test_what_is_no_window_is_no_answer(document):
    with pytest.raises(BadReply):
        ari.RenewalInfo.parse(document)


def test_times_are_read_in_utc_and_unknown_fields_passed_over():
    info = ari.RenewalInfo.parse(window(start="2026-12-01T02:00:00+02:00") | {"tomorrow": 1})

    assert datetime(2026, 12, 1, tzinfo=UTC) == info.window.start


@pytest.mark.parametrize("url", [None, 7, "javascript:alert(1)", "https://x\n.example"])
def test_an_explanation_that_is_no_page_is_left_out(url):
    assert ari.RenewalInfo.parse(window() | {"explanationURL": url}).explanation_url is None


def test_the_draw_is_even_over_the_window():
    info = ari.RenewalInfo.parse(window())
    drawn = [ari.pick(info.window, random.Random(seed)) for seed in range(300)]

    assert info.window.start <= min(drawn) < info.window.start + timedelta(hours=2)
    assert info.window.end - timedelta(hours=2) < max(drawn) <= info.window.end


@pytest.mark.parametrize(
    ("retry_after", "expected"),
    [
        (None, timedelta(hours=6)),
        (timedelta(0), timedelta(minutes=1)),
        (timedelta(hours=7), timedelta(hours=7)),
        (timedelta(days=9), timedelta(hours=24)),
    ],
)
def test_the_ca_is_asked_again_when_it_says_between_a_minute_and_a_day(retry_after, expected):
    assert expected == ari.next_question(retry_after, Middle())


def test_questions_are_spread_by_a_tenth_either_way():
    seen = [ari.next_question(None, random.Random(seed)) for seed in range(200)]

    assert timedelta(hours=5.4) <= min(seen) < timedelta(hours=5.5)
    assert timedelta(hours=6.5) < max(seen) <= timedelta(hours=6.6)


def test_a_ca_that_does_not_answer_is_asked_less_and_less():
    minutes = [ari.after_failure(n, None, Middle()) / timedelta(minutes=1) for n in (1, 2, 3, 4, 99)]

    assert [1, 10, 100, 360, 360] == minutes
    assert timedelta(hours=2) == ari.after_failure(1, timedelta(hours=2), Middle())


async def test_a_question_is_an_unsigned_get(ca):
    """Section 4.1: "unauthenticated GET"."""
    ca.directory = {"renewalInfo": f"{ca.url}/renewal-info"}
    ca.next(f"/renewal-info/{ID}", 200, json.dumps(window()), Retry_After="3600")
    async with ari.Inquiry(ca.directory_url, allow_http=True) as inquiry:
        info = await inquiry.ask(ID)

    assert (timedelta(hours=1), []) == (info.retry_after, ca.requests)
    assert datetime(2026, 12, 3, tzinfo=UTC) == info.window.end


async def test_a_ca_without_renewal_info_is_told_apart(ca):
    async with ari.Inquiry(ca.directory_url, allow_http=True) as inquiry:
        with pytest.raises(Unsupported, match="has no renewalInfo"):
            await inquiry.ask(ID)


@pytest.mark.parametrize(
    ("status", "body", "error", "useless"),
    [
        (404, problem("malformed"), Refused, True),
        (409, problem("alreadyReplaced"), Refused, True),
        (500, problem("serverInternal"), Refused, False),
        (429, problem("rateLimited"), Refused, False),
        (302, "", BadReply, True),
        (200, "<html>", BadReply, True),
        (200, b"x" * (1024 * 1024 + 1), BadReply, True),
    ],
)
async def test_a_bad_answer_is_an_error_that_says_whether_it_was_one(ca, status, body, error, useless):
    ca.directory = {"renewalInfo": f"{ca.url}/renewal-info"}
    ca.next(f"/renewal-info/{ID}", status, body)
    async with ari.Inquiry(ca.directory_url, allow_http=True) as inquiry:
        with pytest.raises(error) as failed:
            await inquiry.ask(ID)

    assert useless == ari.useless(failed.value)


async def test_a_ca_is_waited_for_a_while_and_not_longer(ca):
    async def swallow(reader, writer):
        await reader.read()
        writer.close()

    server = await asyncio.start_server(swallow, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with (
        server,
        ari.Inquiry(f"http://127.0.0.1:{port}/dir", allow_http=True, timeout_s=0.1) as inquiry,
    ):
        with pytest.raises(Unreachable, match=r"within 0.1 s"):
            await inquiry.ask(ID)


async def test_a_ca_that_leads_elsewhere_is_not_followed(ca):
    ca.directory = {"renewalInfo": "http://127.0.0.1:1/renewal-info"}
    async with ari.Inquiry(ca.directory_url, allow_http=True) as inquiry:
        with pytest.raises(BadReply, match="elsewhere"):
            await inquiry.ask(ID)


def test_no_answer_at_all_leaves_what_was_said_before():
    silent = [Unreachable("x"), Untrusted("x"), Refused("x", Problem(status=503))]

    assert not any(map(ari.useless, silent))

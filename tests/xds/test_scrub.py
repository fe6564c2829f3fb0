"""What Envoy 1.40 writes into `error_detail` is secret material until scrubbed."""

import base64
import json
import time

import pytest

from sds_server.xds.codec import tls_certificate
from sds_server.xds.scrub import MAX_DETAIL, MAX_LINE, scrub
from tests.support.pki import authority

PAIR = authority().issue(dns=["a.test"])
KEY = PAIR.key_pem.decode()
ESCAPED = KEY.replace("\n", "\\n")
PARTS = [line for line in KEY.splitlines() if "-----" not in line]
ANY = tls_certificate("a", PAIR.chain_pem, PAIR.key_pem).decode("latin-1").encode("unicode_escape").decode()
REASON = (
    "Proto constraint validation failed (SecretValidationError.TlsCertificate: embedded message failed"
    " validation | caused by CertificateValidationContextValidationError.VerifyCertificateSpki[0]: too short)"
)

RECORDED = {
    "certificate": f'tls_certificate {{\n  private_key {{\n    inline_bytes: "{ESCAPED}"\n  }}\n}}\n',
    "ticket keys": f'session_ticket_keys {{\n  keys {{\n    inline_bytes: "\\001\\"{PARTS[0]}"\n  }}\n}}\n',
    "generic secret": f'generic_secret {{\n  secret {{\n    inline_string: "{PARTS[0]}"\n  }}\n}}\n',
}
"""Dumps that Envoy 1.40 puts between protobuf's mark and the reason."""

OTHERS = {
    "text format in one line": f'{REASON}: private_key {{ inline_string: "{ESCAPED}" }}',
    "PEM as it is": f"{REASON} {KEY} end",
    "JSON": REASON + json.dumps({"private_key": {"inlineBytes": base64.b64encode(PAIR.key_pem).decode()}}),
    "bytes of an Any": f'{REASON}: type_url: "x" value: "{ANY}"',
    "cut in the middle of the key": f'{REASON}: inline_bytes: "{ESCAPED[:120]}',
    "cut before the key's end, without its beginning": f"{REASON}: {ESCAPED[40:]}",
    "escaped twice": f"{REASON}: " + KEY.replace("\n", "\\\\n"),
}


def holds_key(text):
    return [part for part in PARTS if part[:16] in text or part[-16:] in text] or (
        base64.b64encode(PAIR.key_pem).decode()[:16] in text
    )


@pytest.mark.parametrize("dump", RECORDED.values(), ids=RECORDED.keys())
def test_of_a_dump_only_the_reason_is_left(dump):
    assert scrub(f"goo.gle/debugproto   \n{dump}: {REASON}") == REASON


def test_a_dump_without_a_reason_after_it_leaves_what_stood_before_it():
    """A body that is no Secret at all."""
    scrubbed = scrub(f'Unable to unpack as v3.Secret: goo.gle/debugonly  \ntype_url: "x"\nvalue: "{ANY}"\n')

    assert scrubbed == "Unable to unpack as v3.Secret:"


@pytest.mark.parametrize("leak", OTHERS.values(), ids=OTHERS.keys())
def test_no_other_shape_leaves_anything_of_the_key(leak):
    scrubbed = scrub(leak)

    assert not holds_key(scrubbed)
    assert scrubbed.startswith(REASON)


def test_a_long_reason_is_cut():
    assert len(scrub("no good, " * 1000)) == MAX_DETAIL


@pytest.mark.parametrize(
    "reason",
    [
        "Failed to load private key from <inline>, Cause: error:0900006e:PEM routines:NO_START_LINE",
        "Data contained more than a single OCSP response",
        REASON,
        "",
    ],
)
def test_a_reason_is_kept_as_it_is(reason):
    assert scrub(reason) == reason


def test_control_characters_are_replaced():
    assert scrub("a\x1b[31mb") == "a [31mb"


def test_no_refusal_holds_up_the_streams_of_others():
    begun = time.thread_time()
    scrub("\\" * MAX_LINE)

    assert time.thread_time() - begun < 1.0

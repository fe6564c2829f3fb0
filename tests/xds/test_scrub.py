"""What Envoy 1.40 writes into `error_detail` is secret material until scrubbed."""

import base64
import json

import pytest

from sds_server.xds.codec import tls_certificate
from sds_server.xds.scrub import MAX_DETAIL, scrub
from tests.support.pki import authority

PAIR = authority().issue(dns=["a.test"])
KEY = PAIR.key_pem.decode()
ESCAPED = KEY.replace("\n", "\\n")
PARTS = [line for line in KEY.splitlines() if "-----" not in line]
REASON = "Proto constraint validation failed (SecretValidationError.TlsCertificate: embedded message failed"

LEAKS = {
    "text format over lines": f'{REASON}): name: "a"\ntls_certificate {{\n  private_key {{\n'
    f'    inline_bytes: "{ESCAPED}"\n  }}\n}}\n',
    "text format in one line": f'{REASON}): private_key {{ inline_string: "{ESCAPED}" }}',
    "PEM as it is": f"{REASON} {KEY} end",
    "JSON": REASON + json.dumps({"private_key": {"inlineBytes": base64.b64encode(PAIR.key_pem).decode()}}),
    "bytes of an Any": f'{REASON}: type_url: "x" value: "'
    + tls_certificate("a", PAIR.chain_pem, PAIR.key_pem).decode("latin-1").encode("unicode_escape").decode()
    + '"',
    "cut in the middle of the key": f'{REASON}: inline_bytes: "{ESCAPED[:120]}',
    "escaped twice": f"{REASON}: " + KEY.replace("\n", "\\\\n"),
    "ticket keys": f'{REASON}: session_ticket_keys {{ keys {{ inline_bytes: "\\001\\"{PARTS[0]}" }} }}',
}


@pytest.mark.parametrize("leak", LEAKS.values(), ids=LEAKS.keys())
def test_nothing_of_the_key_is_left_and_the_reason_is(leak):
    scrubbed = scrub(leak)

    assert not [part for part in PARTS if part[:16] in scrubbed]
    assert base64.b64encode(PAIR.key_pem).decode()[:16] not in scrubbed
    assert scrubbed.startswith(REASON)


def test_a_long_reason_is_cut():
    assert len(scrub("no good, " * 1000)) == MAX_DETAIL


def test_a_reason_is_kept_as_it_is():
    reason = "Failed to load private key from <inline>, Cause: error:0b000074:X.509:KEY_VALUES_MISMATCH"

    assert scrub(reason) == reason


def test_control_characters_are_replaced():
    assert scrub("a\x1b[31mb") == "a [31mb"


def test_no_reason_is_an_empty_one():
    assert scrub("") == ""

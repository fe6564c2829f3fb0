"""PEM: where its blocks begin and end, whatever stands around and between."""

import pytest

from sds_server.pem import BLOCK, PRIVATE_KEY

BODY = "MIIB+/abc\ndef==\n"
DEADLINE_S = 20
"""It takes milliseconds; walked again from each beginning it were an hour."""


def block(label, body=BODY):
    return f"-----BEGIN {label}-----\n{body}-----END {label}-----\n"


@pytest.mark.parametrize("label", ["CERTIFICATE", "X509 CRL", "EC PARAMETERS", "RSA PRIVATE KEY"])
def test_blocks_are_found_with_their_labels_in_any_prose(label):
    text = f"Subject: a - b\n{block(label)}--\n{block('CERTIFICATE')}- - -----\n"

    assert [label, "CERTIFICATE"] == [found[1] for found in BLOCK.finditer(text)]
    assert block(label).strip() == next(BLOCK.finditer(text))[0]


@pytest.mark.parametrize(
    "text",
    [
        "",
        block("certificate"),
        "-----BEGIN CERTIFICATE-----\n" + BODY,
        BODY + "-----END CERTIFICATE-----\n",
        "-----BEGIN CERTIFICATE-----\n" + BODY + "-----END X509 CRL-----\n",
        "-----BEGIN CERTIFICATE-----\n" + BODY + "------END CERTIFICATE-----\n",
    ],
)
def test_what_is_none_is_none(text):
    assert [] == [found[1] for found in BLOCK.finditer(text)]


def test_a_block_that_was_cut_does_not_take_the_next_one_with_it():
    text = "-----BEGIN CERTIFICATE-----\n" + BODY + block("CERTIFICATE", "AAAA\n")

    assert [block("CERTIFICATE", "AAAA\n").strip()] == [found[0] for found in BLOCK.finditer(text)]


@pytest.mark.parametrize("label", ["PRIVATE KEY", "EC PRIVATE KEY", "ENCRYPTED PRIVATE KEY"])
def test_private_keys_are_found_among_other_blocks(label):
    headers = "Proc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\n"
    text = block("EC PARAMETERS") + block(label, headers + BODY)

    assert [label.encode()] == [found[1] for found in PRIVATE_KEY.finditer(text.encode())]


@pytest.mark.timeout(DEADLINE_S)
@pytest.mark.parametrize("text", ["-----BEGIN A-----", "-----BEGIN A-----\n" + "-" * 4 + "a", "-" * 9 + "a"])
def test_beginnings_without_an_end_are_walked_once(text):
    many = text * 40_000

    assert None is BLOCK.search(many)
    assert None is PRIVATE_KEY.search(many.replace(" A", " PRIVATE KEY").encode())

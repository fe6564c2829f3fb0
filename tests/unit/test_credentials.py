"""The TLS of our listeners, from files and from the control plane's own CA."""

import pytest

from sds_server.credentials import Files, server_credentials
from sds_server.errors import OperatorError
from tests.support.pki import authority

CA = authority()


@pytest.fixture
def files(tmp_path):
    certificate, key = CA.issue(dns=["localhost"]).write(tmp_path, "server")
    return {"certificate": certificate, "private_key": key, "client_ca": CA.write(tmp_path / "ca.pem")}


def test_good_files_are_credentials(files):
    assert server_credentials(Files(**files))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.unlink(), "No such file"),
        (lambda path: path.write_text(" \n"), "is empty"),
        (lambda path: path.write_text("not PEM"), "in PEM that can be read"),
    ],
    ids=["missing", "empty", "garbage"],
)
@pytest.mark.parametrize(
    ("file", "setting"),
    [("client_ca", "sds.client_ca"), ("certificate", "sds.certificate"), ("private_key", "sds.key")],
)
def test_a_file_that_cannot_be_used_stops_the_start_and_is_named(files, file, setting, spoil, message):
    """There is no plaintext fallback."""
    spoil(files[file])

    with pytest.raises(OperatorError, match=message) as error:
        server_credentials(Files(**files))

    assert setting in str(error.value)
    assert str(files[file]) in str(error.value)


def test_a_key_of_another_certificate_stops_the_start(files, tmp_path):
    files["private_key"] = CA.issue(dns=["other"]).write(tmp_path, "other")[1]

    with pytest.raises(OperatorError, match="is not the key"):
        server_credentials(Files(**files))

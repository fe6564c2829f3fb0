"""The scan for private keys finds one in whatever form it is planted, and fails the run for it."""

import base64
import json
import subprocess
import sys
from pathlib import Path

import asyncpg
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from tests.support.keyscan import Keys, Scan, keys_in
from tests.support.pki import authority, key_pem

ROOT = Path(__file__).parents[2]
EC = ec.derive_private_key(7**40, ec.SECP256R1())
P384 = ec.derive_private_key(7**40, ec.SECP384R1())
ED = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
RSA = rsa.generate_private_key(65537, 2048)
FORMATS = serialization.PrivateFormat


def der(key, form=FORMATS.PKCS8):
    return key.private_bytes(serialization.Encoding.DER, form, serialization.NoEncryption())


PEM = key_pem(EC)
RAW = EC.private_numbers().private_value.to_bytes(32, "big")
PLANTED = {
    "PEM": PEM,
    "PEM of SEC 1": EC.private_bytes(
        serialization.Encoding.PEM, FORMATS.TraditionalOpenSSL, serialization.NoEncryption()
    ),
    "PEM in JSON": json.dumps({"key": PEM.decode()}).encode(),
    "PEM in JSON in JSON": json.dumps(json.dumps({"key": PEM.decode()})).encode(),
    "PEM in base64": base64.b64encode(PEM),
    "PEM in base64, further on": base64.b64encode(b"x" + PEM),
    "chain and PEM in base64": base64.b64encode(b"xy" + PEM),
    "DER": der(EC),
    "DER in hex": der(EC).hex().encode(),
    "DER in a repr": repr(der(EC)).encode(),
    "DER in base64": base64.b64encode(der(EC)),
    "DER of P-384 in base64": base64.b64encode(der(P384)),
    "DER of Ed25519 in base64": base64.b64encode(der(ED)),
    "DER of RSA in base64": base64.b64encode(der(RSA)),
    "DER of SEC 1 in base64": base64.b64encode(der(EC, FORMATS.TraditionalOpenSSL)),
    "JWK": json.dumps({"kty": "EC", "d": base64.urlsafe_b64encode(RAW).rstrip(b"=").decode()}).encode(),
    "bare in hex": b"\\x" + RAW.hex().encode(),
    "bare in base64": base64.b64encode(RAW),
    "bare in base64url": base64.urlsafe_b64encode(RAW).rstrip(b"="),
}


@pytest.fixture
def known():
    keys = Keys()
    keys.add(EC)
    return keys.known


@pytest.mark.parametrize("form", PLANTED)
def test_a_key_is_found_in_each_form(form, known):
    assert keys_in(b'{"event": "x", "y": "' + PLANTED[form] + b'"}', known)


def test_what_is_public_is_no_find(known):
    pair = authority().issue(dns=["a.test"])
    public = [pair.chain_pem, base64.b64encode(pair.chain_pem), pair.chain_pem.hex().encode()]
    said = b"-----BEGIN PRIVATE KEY----- is not allowed here: " + b"f" * 64 + b' {"d": "short"}'

    assert [] == keys_in(b" ".join([*public, said]), known)


async def test_a_key_in_a_row_is_found_whatever_its_column(bare):
    connection = await asyncpg.connect(**bare)
    found = []
    for kind, value in {
        "text": PEM.decode(),
        "jsonb": json.dumps({"k": PEM.decode()}),
        "bytea": der(EC),
    }.items():
        await connection.execute(f"CREATE TABLE planted (id int, value {kind})")
        await connection.execute(f"INSERT INTO planted VALUES (1, $1::{kind})", value)
        scan = Scan()
        await scan.look_at_database(bare, "here")
        found.append((scan.looked["rows"], bool(scan.found)))
        await connection.execute("DROP TABLE planted")
    await connection.close()

    assert [(1, True)] * 3 == found


TESTS = """
import asyncio, sys
import aiohttp, pytest
from aiohttp import web
from tests.support.pki import key_pem, new_key

async def answers(path, text):
    runner = web.AppRunner(web.Application())
    runner.app.router.add_get(path, lambda request: asyncio.sleep(0, web.Response(text=text)))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    async with aiohttp.ClientSession() as http, http.get(f"http://127.0.0.1:{port}{path}") as response:
        await response.text()
    await runner.cleanup()

@pytest.mark.parametrize("where", sys.argv[0] and ["log", "printed", "answer", "bundle", "nowhere"])
async def test_plants(where, tmp_path):
    key = key_pem(new_key()).decode()
    if where == "log":
        (tmp_path / "certvoy.log").write_text(key)
    elif where == "printed":
        print(key)
    elif where == "answer":
        await answers("/v1/secrets/www", key)
    elif where == "bundle":
        await answers("/v1/secrets/www/bundle", key)
"""
FOUND = ("certvoy.log", "Captured stdout", "GET /v1/secrets/www (")


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_run_that_leaves_a_key_somewhere_fails_and_says_where(workers, tmp_path):
    (tmp_path / "test_planted.py").write_text(TESTS)
    (tmp_path / "conftest.py").write_text(
        "from tests.support.keyscan_plugin import KeyScan\n"
        "def pytest_configure(config): config.pluginmanager.register(KeyScan(config), 'keyscan')\n"
    )

    def run(only):
        argv = [sys.executable, "-m", "pytest", "-q", "-n", workers, "-k", only, "--rootdir", str(tmp_path)]
        argv += ["-o", "asyncio_mode=auto", "--basetemp", str(tmp_path / "temporary"), "-p", "no:randomly"]
        environment = {"PYTHONPATH": str(ROOT), "PATH": "", "HOME": str(tmp_path)}
        run = subprocess.run(
            [*argv, str(tmp_path)], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        return run.returncode, run.stdout

    code, said = run("test_plants")
    clean, _ = run("bundle or nowhere")

    assert (1, 0) == (code, clean), said
    assert "5 passed" in said
    finds = [line for line in said.splitlines() if "a private key in" in line]
    assert len(FOUND) == len(finds)
    assert all(any(where in find for find in finds) for where in FOUND)
    assert "BEGIN" not in said

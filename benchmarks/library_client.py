"""The `acme` library's own client, for comparison: synchronous, one order after another."""

import threading
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Self

import josepy
from acme import challenges, client, crypto_util, messages
from acme.standalone import HTTP01RequestHandler, HTTP01Server
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec


class LibraryClient:
    """An account at a CA, and a responder of the library's own."""

    def __init__(self, directory_url: str, ca_file: Path, *, http_port: int) -> None:
        key = josepy.JWKEC(key=ec.generate_private_key(ec.SECP256R1()))  # type: ignore[attr-defined]
        net = client.ClientNetwork(key, alg=josepy.ES256, verify_ssl=str(ca_file))  # type: ignore[arg-type, attr-defined]
        self._client = client.ClientV2(client.ClientV2.get_directory(directory_url, net), net)
        self._key = key
        self._resources: set[HTTP01RequestHandler.HTTP01Resource] = set()
        self._server = HTTP01Server(("127.0.0.1", http_port), self._resources)
        self._serving = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    def __enter__(self) -> Self:
        """Register, and answer challenges from now on."""
        self._serving.start()
        self._client.new_account(messages.NewRegistration.from_data(terms_of_service_agreed=True))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._serving.join()
        self._server.server_close()

    def order(self, name: str) -> str:
        """Return the chain for one name."""
        key = ec.generate_private_key(ec.SECP256R1()).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        order = self._client.new_order(crypto_util.make_csr(key, [name]))
        for authorization in order.authorizations:
            (challenge,) = [
                body for body in authorization.body.challenges if isinstance(body.chall, challenges.HTTP01)
            ]
            response, validation = challenge.response_and_validation(self._key)
            self._resources.add(HTTP01RequestHandler.HTTP01Resource(challenge.chall, response, validation))
            self._client.answer_challenge(challenge, response)
        done = self._client.poll_and_finalize(order, deadline=datetime.now() + timedelta(seconds=30))  # noqa: DTZ005
        return str(done.fullchain_pem)

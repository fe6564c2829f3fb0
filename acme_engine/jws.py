"""Signing of requests (RFC 8555 section 6.2) and external account binding (section 7.3.4).

Requests are not signed with the `acme` library's JWS: it decodes and re-encodes the nonce, so that one it
finds odd is changed ("AB" becomes "AA") or refused. A nonce is the server's own and goes back as it came.
"""

import json
from dataclasses import dataclass

from acme.jws import JWS as Jws  # noqa: N811 - named as other classes are
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from josepy import b64, jwa, jwk
from josepy.util import ComparableECKey, ComparableRSAKey

from acme_engine.errors import Misconfigured
from acme_engine.hidden import Hidden
from acme_engine.keys import PrivateKey

_ES = {"secp256r1": jwa.ES256, "secp384r1": jwa.ES384}
_HS = {"HS256": jwa.HS256, "HS384": jwa.HS384, "HS512": jwa.HS512}


@dataclass(frozen=True, slots=True)
class Eab:
    """What a CA hands out to bind an ACME account to one of its own (section 7.3.4).

    ``hmac_key`` is base64url, with or without padding; ``algorithm`` HS256, HS384 or HS512.
    """

    key_id: str
    hmac_key: Hidden[str]
    algorithm: str = "HS256"


class Signer:
    """Signs with an account's key. It has no ``repr`` of its own, and so shows no key."""

    def __init__(self, key: PrivateKey) -> None:
        if isinstance(key, ec.EllipticCurvePrivateKey):
            if key.curve.name not in _ES:
                raise Misconfigured(f"an account key on curve {key.curve.name}: use P-256, P-384 or RSA")
            self._jwk: jwk.JWK = jwk.JWKEC(key=ComparableECKey(key))
            self._algorithm = _ES[key.curve.name]
        elif isinstance(key, ed25519.Ed25519PrivateKey):
            raise Misconfigured("an account key on Ed25519: use P-256, P-384 or RSA")
        else:
            self._jwk = jwk.JWKRSA(key=ComparableRSAKey(key))
            self._algorithm = jwa.RS256
        self._thumbprint = b64.b64encode(self._jwk.thumbprint()).decode("ascii")

    def sign(self, payload: bytes, *, url: str, nonce: str, account_url: str | None) -> bytes:
        """Return the body of one request: a flattened JWS, as JSON.

        The account's URL goes in as ``kid``; only without one, for newAccount, the public key itself:
        "the "jwk" and "kid" fields are mutually exclusive".
        """
        header: dict[str, object] = {"alg": self._algorithm.name, "nonce": nonce, "url": url}
        if account_url is None:
            header["jwk"] = self.public_jwk
        else:
            header["kid"] = account_url
        protected = b64.b64encode(json.dumps(header).encode())
        content = b64.b64encode(payload)
        signature = b64.b64encode(self._algorithm.sign(self._jwk.key, protected + b"." + content))
        return json.dumps(
            {
                "protected": protected.decode("ascii"),
                "payload": content.decode("ascii"),
                "signature": signature.decode("ascii"),
            }
        ).encode()

    @property
    def public_jwk(self) -> dict[str, object]:
        """The public half of our key, as JSON."""
        shown: dict[str, object] = self._jwk.public_key().to_json()
        return shown

    def vouch(self, old: "Signer", *, account_url: str, url: str) -> dict[str, object]:
        """Return what our key says when it takes the place of an account's old one (section 7.3.5).

        The inner JWS: signed by the new key, which it shows, and without a nonce.
        """
        content = json.dumps({"account": account_url, "oldKey": old.public_jwk}).encode()
        header = {"alg": self._algorithm.name, "jwk": self.public_jwk, "url": url}
        protected = b64.b64encode(json.dumps(header).encode())
        payload = b64.b64encode(content)
        signature = b64.b64encode(self._algorithm.sign(self._jwk.key, protected + b"." + payload))
        return {
            "protected": protected.decode("ascii"),
            "payload": payload.decode("ascii"),
            "signature": signature.decode("ascii"),
        }

    def bind(self, eab: Eab, *, url: str) -> dict[str, object]:
        """Return ``externalAccountBinding``: our public key, signed with the CA's MAC key."""
        try:
            mac_key = b64.b64decode(eab.hmac_key.reveal().rstrip("="))
        except (ValueError, TypeError):
            raise Misconfigured(
                f"EAB key {eab.key_id!r}: its HMAC key is not base64url", hint="copy it from the CA as it is"
            ) from None  # the cause quotes the key
        if (algorithm := _HS.get(eab.algorithm)) is None:
            raise Misconfigured(f"EAB key {eab.key_id!r}: {eab.algorithm!r} is none of {', '.join(_HS)}")
        public_key = self._jwk.public_key().json_dumps().encode()
        bound = Jws.sign(public_key, jwk.JWKOct(key=mac_key), algorithm, None, url, eab.key_id)
        document: dict[str, object] = bound.to_json()
        return document

    def key_authorization(self, token: str) -> str:
        """Return the token with our key's thumbprint (section 8.1)."""
        return f"{token}.{self._thumbprint}"

"""Signing of requests (RFC 8555 section 6.2) and external account binding (section 7.3.4).

Requests are not signed with the `acme` library's JWS: it decodes and re-encodes the nonce, so that one it
finds odd is changed ("AB" becomes "AA") or refused. A nonce is the server's own and goes back as it came.
"""

import json
import re
from base64 import urlsafe_b64encode
from collections.abc import Callable
from dataclasses import dataclass

from acme.jws import JWS as Jws  # noqa: N811 - named as other classes are
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from josepy import b64, jwa, jwk
from josepy.util import ComparableECKey, ComparableRSAKey

from acme_engine.errors import Misconfigured
from acme_engine.hidden import Hidden
from acme_engine.keys import PrivateKey

_ES = {"secp256r1": ("ES256", hashes.SHA256(), 32), "secp384r1": ("ES384", hashes.SHA384(), 48)}
"""Of a curve: the algorithm, its hash, and how many bytes each of the signature's two numbers has."""

_FLATTENED = '{{"protected":"{protected}","payload":"{payload}","signature":"{signature}"}}'

_BASE64URL = re.compile(r"[A-Za-z0-9_-]+")

_HS = {"HS256": jwa.HS256, "HS384": jwa.HS384, "HS512": jwa.HS512}


@dataclass(frozen=True, slots=True)
class Eab:
    """What a CA hands out to bind an ACME account to one of its own (section 7.3.4).

    ``hmac_key`` is base64url, with or without padding; ``algorithm`` HS256, HS384 or HS512.
    """

    key_id: str
    hmac_key: Hidden[str]
    algorithm: str = "HS256"

    def __post_init__(self) -> None:
        if not isinstance(self.hmac_key, Hidden):
            raise Misconfigured(
                f"EAB key {self.key_id!r}: its HMAC key is not hidden text", hint="give it as Hidden(text)"
            )


class Signer:
    """Signs with an account's key. It has no ``repr`` of its own, and so shows no key."""

    def __init__(self, key: PrivateKey) -> None:
        if isinstance(key, ec.EllipticCurvePrivateKey):
            if key.curve.name not in _ES:
                raise Misconfigured(f"an account key on curve {key.curve.name}: use P-256, P-384 or RSA")
            self._jwk: jwk.JWK = jwk.JWKEC(key=ComparableECKey(key))
            self._algorithm, self._sign = _ES[key.curve.name][0], _by_ecdsa(key)
        elif isinstance(key, rsa.RSAPrivateKey):
            self._jwk = jwk.JWKRSA(key=ComparableRSAKey(key))
            self._algorithm, self._sign = "RS256", _by_rsa(key)
        elif isinstance(key, ed25519.Ed25519PrivateKey):
            raise Misconfigured("an account key on Ed25519: use P-256, P-384 or RSA")
        else:
            raise Misconfigured(
                f"an account key cannot be a {type(key).__name__}: use P-256, P-384 or RSA",
                hint="`keys.generate` makes one, `keys.load_pem` reads one",
            )
        self._thumbprint = _b64(self._jwk.thumbprint())

    def sign(self, payload: bytes, *, url: str, nonce: str, account_url: str | None) -> bytes:
        """Return the body of one request: a flattened JWS, as JSON.

        The account's URL goes in as ``kid``; only without one, for newAccount, the public key itself:
        "the "jwk" and "kid" fields are mutually exclusive".
        """
        who = {"jwk": self.public_jwk} if account_url is None else {"kid": account_url}
        signed = self._signed({"alg": self._algorithm, "nonce": nonce, "url": url, **who}, payload)
        # All three are base64url: there is nothing that JSON would escape.
        return _FLATTENED.format_map(signed).encode("ascii")

    def _signed(self, header: dict[str, object], payload: bytes) -> dict[str, str]:
        """Return a flattened JWS (RFC 7515 section 7.2.2)."""
        protected, content = _b64(json.dumps(header).encode()), _b64(payload)
        signature = _b64(self._sign(f"{protected}.{content}".encode("ascii")))
        return {"protected": protected, "payload": content, "signature": signature}

    @property
    def public_jwk(self) -> dict[str, object]:
        """The public half of our key, as JSON."""
        shown: dict[str, object] = self._jwk.public_key().to_json()
        return shown

    def vouch(self, old: "Signer", *, account_url: str, url: str) -> dict[str, str]:
        """Return what our key says when it takes the place of an account's old one (section 7.3.5).

        The inner JWS: signed by the new key, which it shows, and without a nonce.
        """
        content = json.dumps({"account": account_url, "oldKey": old.public_jwk}).encode()
        return self._signed({"alg": self._algorithm, "jwk": self.public_jwk, "url": url}, content)

    def bind(self, eab: Eab, *, url: str) -> dict[str, object]:
        """Return ``externalAccountBinding``: our public key, signed with the CA's MAC key."""
        try:
            text = eab.hmac_key.reveal().rstrip("=")
            # Python passes over what is not of the alphabet: the key would be another one.
            mac_key = b64.b64decode(text) if _BASE64URL.fullmatch(text) else b""
        except (ValueError, TypeError):
            mac_key = b""
        if not mac_key:  # raised out here: the cause quotes the key
            raise Misconfigured(
                f"EAB key {eab.key_id!r}: its HMAC key is not base64url", hint="copy it from the CA as it is"
            )
        if (algorithm := _HS.get(eab.algorithm)) is None:
            raise Misconfigured(f"EAB key {eab.key_id!r}: {eab.algorithm!r} is none of {', '.join(_HS)}")
        public_key = self._jwk.public_key().json_dumps().encode()
        bound = Jws.sign(public_key, jwk.JWKOct(key=mac_key), algorithm, None, url, eab.key_id)
        document: dict[str, object] = bound.to_json()
        return document

    def key_authorization(self, token: str) -> str:
        """Return the token with our key's thumbprint (section 8.1)."""
        return f"{token}.{self._thumbprint}"


def _by_ecdsa(key: ec.EllipticCurvePrivateKey) -> Callable[[bytes], bytes]:
    _, digest, size = _ES[key.curve.name]
    algorithm = ec.ECDSA(digest)

    def sign(content: bytes) -> bytes:
        r, s = decode_dss_signature(key.sign(content, algorithm))
        return r.to_bytes(size, "big") + s.to_bytes(size, "big")  # RFC 7518 section 3.4

    return sign


def _by_rsa(key: rsa.RSAPrivateKey) -> Callable[[bytes], bytes]:
    return lambda content: key.sign(content, padding.PKCS1v15(), hashes.SHA256())


def _b64(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode("ascii")

"""An asyncio ACME client (RFC 8555): orders that survive a crash, and answers to challenges.

    tokens, key = MemoryTokens(), keys.generate(KeyType.ECDSA_P256)
    async with (
        Client(directory_url, account_key=keys.generate(KeyType.ECDSA_P256)) as client,
        Http01Responder(tokens, host="0.0.0.0", port=80),
    ):
        await client.register(terms_agreed=True)
        csr = keys.csr(key, ["www.example.com"])
        chain = await obtain(
            client, names=["www.example.com"], csr=csr, solver=Http01Solver(tokens), journal=MemoryJournal()
        )
    print((chain.pem + keys.pem(key)).decode())

`obtain` does the whole of it; `Client` has one coroutine for each operation. `chain`, `renewal` and `backoff`
judge what was issued, say when the next one is due, and how long to wait after a failure; `ari` asks the CA
when it would like that. It knows no database: a `Journal` keeps an order's steps, a `TokenStore` what the
responders serve; `MemoryJournal` and `MemoryTokens` are theirs in one process.

DNS-01 is in `acme_engine.dns01` and its providers in `acme_engine.dns`, imported by whoever wants them;
`Solvers` has a Solver for each name.
"""

from acme_engine import ari, backoff, chain, errors, keys, renewal
from acme_engine.chain import Chain
from acme_engine.client import Client
from acme_engine.errors import AcmeError, Actor, ChainError, OrderFailed, Problem, Refused, Unfinished
from acme_engine.hidden import Hidden
from acme_engine.http01 import Http01Responder
from acme_engine.issue import Journal, obtain
from acme_engine.jws import Eab
from acme_engine.keys import KeyType, PrivateKey
from acme_engine.memory import MemoryJournal, MemoryTokens
from acme_engine.messages import (
    Account,
    Authorization,
    Challenge,
    Directory,
    Identifier,
    Order,
    RevocationReason,
)
from acme_engine.names import normalise, normalise_all
from acme_engine.ordering import Profile, Terms
from acme_engine.solver import BatchReader, Http01Solver, Solver, Solvers, TokenReader, TokenStore
from acme_engine.tls_alpn01 import TlsAlpn01Responder, TlsAlpn01Solver

__all__ = [
    "Account",
    "AcmeError",
    "Actor",
    "Authorization",
    "BatchReader",
    "Chain",
    "ChainError",
    "Challenge",
    "Client",
    "Directory",
    "Eab",
    "Hidden",
    "Http01Responder",
    "Http01Solver",
    "Identifier",
    "Journal",
    "KeyType",
    "MemoryJournal",
    "MemoryTokens",
    "Order",
    "OrderFailed",
    "PrivateKey",
    "Problem",
    "Profile",
    "Refused",
    "RevocationReason",
    "Solver",
    "Solvers",
    "Terms",
    "TlsAlpn01Responder",
    "TlsAlpn01Solver",
    "TokenReader",
    "TokenStore",
    "Unfinished",
    "ari",
    "backoff",
    "chain",
    "errors",
    "keys",
    "normalise",
    "normalise_all",
    "obtain",
    "renewal",
]

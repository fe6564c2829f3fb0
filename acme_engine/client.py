"""One coroutine for each operation of the protocol (RFC 8555 section 7); the order of them is `issue`'s."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Self

from josepy.b64 import b64encode

from acme_engine import backoff, transport
from acme_engine.errors import (
    AccountUnusable,
    AcmeError,
    Action,
    BadReply,
    BindingRequired,
    Misconfigured,
    Refused,
    TermsNotAgreed,
    Unreachable,
    Unsupported,
)
from acme_engine.jws import Eab, Signer
from acme_engine.keys import PrivateKey
from acme_engine.looks import Habits
from acme_engine.messages import (
    Account,
    Authorization,
    Challenge,
    Directory,
    Identifier,
    Order,
    RevocationReason,
)
from acme_engine.pace import Pace
from acme_engine.transport import Repeat

USER_AGENT = "certvoy/0.1 (acme_engine)"


async def answers(
    directory_url: str, *, ca_file: Path | str | None = None, within_s: float = 5.0, allow_http: bool = False
) -> Directory:
    """Read a CA's directory once, to see whether the CA is there; returns it when it is.

    Raises:
        Unreachable, Untrusted, BadReply, Refused: it is not, and why.
    """
    try:
        async with (
            asyncio.timeout(within_s) as limit,
            transport.Transport(
                directory_url, user_agent=USER_AGENT, ca_file=ca_file, allow_http=allow_http, patience_s=0.0
            ) as exchange,
        ):
            return Directory.parse((await exchange.get(directory_url)).json())
    except TimeoutError as e:
        if not limit.expired():
            raise
        raise Unreachable(f"{directory_url}: no answer within {within_s:g} s") from e


DIRECTORY_S = 300.0
"""How soon what a CA changes in its directory counts, for a client that lives long."""


class Client:
    """An account at a CA. Used in ``async with``; many coroutines may share it, in one or each in its own."""

    def __init__(
        self,
        directory_url: str,
        *,
        account_key: PrivateKey,
        account_url: str | None = None,
        ca_file: Path | str | None = None,
        user_agent: str = USER_AGENT,
        allow_http: bool = False,
        clock: transport.Clock = transport.utc_now,
        sleep: transport.Sleep = asyncio.sleep,
        rng: backoff.Rng | None = None,
        patience_s: float = transport.PATIENCE_S,
        hands_up_limits: bool = False,
        pace: Pace | None = None,
        on_date: transport.OnDate | None = None,
        on_bad_nonce: Callable[[], None] | None = None,
    ) -> None:
        """Speak to the CA at ``directory_url``; nothing is sent yet.

        With ``ca_file`` the server's certificate must build to that file, without one to the system's CAs.
        ``account_url`` is what `register` returned before. ``allow_http`` is for tests, on loopback only.
        ``patience_s`` is how long a request is sent again in place. ``hands_up_limits``: what the CA says
        with a Retry-After is raised at once, for who can keep others from asking too. ``on_date`` hears of
        each answer how far our clock is ahead of the CA's, ``on_bad_nonce`` of each nonce that it refuses.
        """
        self.account_url = account_url
        self.clock = clock
        self.sleep = sleep
        self.habits = Habits()
        self._directory_url = directory_url
        self._directory: Directory | None = None
        self._read_at = 0.0
        self._reading = asyncio.Lock()
        self._failures = 0
        self._failure: AcmeError | None = None
        self._signer = Signer(account_key)
        self._transport = transport.Transport(
            directory_url,
            user_agent=user_agent,
            ca_file=ca_file,
            allow_http=allow_http,
            clock=clock,
            sleep=sleep,
            rng=rng,
            patience_s=patience_s,
            hands_up_limits=hands_up_limits,
            pace=pace,
            on_date=on_date,
            on_bad_nonce=on_bad_nonce,
        )

    async def __aenter__(self) -> Self:
        await self._transport.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._transport.__aexit__(kind, error, trace)

    async def directory(self) -> Directory:
        """Return the CA's directory, read once in `DIRECTORY_S` (section 7.1.1).

        Whoever wants it while it is read has the answer of that reading, also where it is that the CA does
        not answer, or wants to be left alone: asked by one after the other it would say so to each.
        """
        if (known := self._known()) is not None:
            return known
        failures = self._failures
        async with self._reading:
            if (known := self._known()) is not None:
                return known
            if self._failure is not None and self._failures != failures:
                raise self._failure
            try:
                reply = await self._transport.get(self._directory_url)
                self._directory = Directory.parse(reply.json())
            except AcmeError as e:
                self._failures, self._failure = self._failures + 1, e
                raise
            self._read_at, self._failure = asyncio.get_running_loop().time(), None
            return self._directory

    def _known(self) -> Directory | None:
        fresh = asyncio.get_running_loop().time() - self._read_at < DIRECTORY_S
        return self._directory if fresh else None

    async def register(
        self, *, contact: Sequence[str] = (), terms_agreed: bool, eab: Eab | None = None
    ) -> Account:
        """Create the account of our key, or find the one that the CA has for it (section 7.3).

        Raises:
            TermsNotAgreed, BindingRequired: before anything is sent that the CA would refuse.
            AccountUnusable: the CA knows the key, but not as a valid account.
        """
        directory = await self.directory()
        if directory.terms_of_service and not terms_agreed:
            raise TermsNotAgreed(f"{self._directory_url} has terms of service: {directory.terms_of_service}")
        if directory.external_account_required and eab is None:
            raise BindingRequired(f"{self._directory_url} wants an external account binding")
        payload: dict[str, object] = {}
        if terms_agreed:
            payload["termsOfServiceAgreed"] = True
        if contact:
            payload["contact"] = _contacts(contact)
        if eab is not None:
            payload["externalAccountBinding"] = self._signer.bind(eab, url=directory.new_account)
        return await self._new_account(directory, payload)

    async def find_account(self) -> Account:
        """Find the account of our key and create none (section 7.3.1).

        Raises:
            Refused: with ``accountDoesNotExist``.
        """
        return await self._new_account(await self.directory(), {"onlyReturnExisting": True})

    async def change_key(self, key: PrivateKey) -> None:
        """Give the account another key (section 7.3.5); from then on the client signs with it.

        Keep both until this has returned: where it is cut off, `find_account` with the new key says whether
        it was done. No order shall be on its way: what answers its challenges is made of the old key.

        Raises:
            Unsupported: the directory has no ``keyChange``.
            Refused: as `register`; also where another account has the key.
        """
        directory, account_url = await self.directory(), self._account()
        if directory.key_change is None:
            raise Unsupported(f"{self._directory_url} has no keyChange")
        signer = Signer(key)
        document = signer.vouch(self._signer, account_url=account_url, url=directory.key_change)
        await self._post(directory.key_change, document, repeat=Repeat.NOTHING)
        self._signer = signer

    async def update_contact(self, contact: Sequence[str]) -> Account:
        """Tell the CA to whom it may write (section 7.3.2); none: nobody."""
        return await self._update({"contact": _contacts(contact)})

    async def deactivate(self) -> Account:
        """End the account (section 7.3.6): no later request of it is taken. It cannot be undone."""
        return await self._update({"status": "deactivated"})

    async def _update(self, changes: dict[str, object]) -> Account:
        account_url = self._account()
        reply = await self._post(account_url, changes, repeat=Repeat.SILENCE)
        return Account.parse(reply.json(), url=account_url, created=False)

    async def _new_account(self, directory: Directory, payload: dict[str, object]) -> Account:
        # Two newAccount requests for one key are one account: it may be sent again.
        try:
            reply = await self._transport.post(
                directory.new_account,
                payload,
                signer=self._signer,
                account_url=None,
                new_nonce_url=directory.new_nonce,
                repeat=Repeat.SILENCE,
                resource="newAccount",
            )
        except Refused as e:
            self._may_have_moved(e)
            raise
        account = Account.parse(
            reply.json(), url=reply.location(), created=reply.status == HTTPStatus.CREATED
        )
        if account.status != "valid":
            raise AccountUnusable(f"the account {account.url} is {account.status}")
        self.account_url = account.url
        return account

    async def new_order(self, names: Sequence[str], more: Mapping[str, object] | None = None) -> Order:
        """Ask for a certificate for normalised names (section 7.4); ``more``: other fields of the order.

        A cut connection leaves open whether an order was made; it is not repeated, for CAs count orders.
        """
        wanted = [Identifier.of(name) for name in names]
        directory = await self.directory()
        payload = {"identifiers": [i.to_json() for i in wanted], **(more or {})}
        reply = await self._post(directory.new_order, payload, repeat=Repeat.FAILURE, resource="newOrder")
        return Order.parse(reply.json(), url=reply.location(), retry_after=reply.retry_after)

    def has(self, url: str) -> bool:
        """Whether a URL that was kept, an order's say, is one of this CA: it may be a former one's."""
        return self._transport.has(url)

    async def order(self, url: str) -> Order:
        """Read an order."""
        reply = await self._read(url)
        return Order.parse(reply.json(), url=url, retry_after=reply.retry_after)

    async def authorization(self, url: str) -> Authorization:
        """Read an authorization (section 7.5)."""
        reply = await self._read(url)
        return Authorization.parse(reply.json(), url=url, retry_after=reply.retry_after)

    async def give_up(self, url: str) -> Authorization:
        """Deactivate an authorization (section 7.5.2): the CA looks for no answer of it any more."""
        reply = await self._post(url, {"status": "deactivated"}, repeat=Repeat.SILENCE)
        return Authorization.parse(reply.json(), url=url, retry_after=reply.retry_after)

    async def answer(self, challenge: Challenge) -> Challenge:
        """Tell the CA that the challenge can be validated now (section 7.5.1)."""
        reply = await self._post(challenge.url, {}, repeat=Repeat.SILENCE)
        return Challenge.parse(reply.json(), retry_after=reply.retry_after)

    async def finalize(self, order: Order, csr: bytes) -> Order:
        """Hand in the signing request, DER, of an order that is ready (section 7.4)."""
        payload: dict[str, object] = {"csr": b64encode(csr).decode("ascii")}
        reply = await self._post(order.finalize, payload, repeat=Repeat.NOTHING)
        return Order.parse(reply.json(), url=order.url, retry_after=reply.retry_after)

    async def certificate(self, url: str) -> bytes:
        """Download a chain as PEM (section 7.4.2), as the CA sent it: `chain.parse` judges it."""
        return (await self._read(url)).body

    async def certificate_and_alternates(self, url: str) -> tuple[bytes, Sequence[str]]:
        """Download a chain, and return the URLs of the others that the CA has for the same certificate."""
        reply = await self._read(url)
        return reply.body, [link for relation, link in reply.links() if relation == "alternate"]

    async def revoke(
        self, der: bytes, *, reason: RevocationReason, certificate_key: PrivateKey | None = None
    ) -> None:
        """Revoke a certificate, DER (section 7.6); one that is revoked already is as it shall be.

        Our account may revoke what it ordered, or what is for names that it holds authorizations for. For any
        other, ``certificate_key`` signs instead: the private key of the certificate proves the right to it.

        Raises:
            Misconfigured: the directory has no ``revokeCert``.
            Refused: with ``unauthorized`` not by who signed, with ``badRevocationReason`` not for that.
        """
        directory = await self.directory()
        if directory.revoke_cert is None:
            raise Misconfigured(
                f"{self._directory_url} has no revokeCert: this CA revokes nothing over ACME",
                hint="revoke it by the CA's own means",
            )
        payload: dict[str, object] = {"certificate": b64encode(der).decode("ascii"), "reason": int(reason)}
        try:
            if certificate_key is None:
                await self._post(directory.revoke_cert, payload, repeat=Repeat.SILENCE, resource="revokeCert")
            else:
                await self._transport.post(
                    directory.revoke_cert,
                    payload,
                    signer=Signer(certificate_key),
                    account_url=None,
                    new_nonce_url=directory.new_nonce,
                    repeat=Repeat.SILENCE,
                    resource="revokeCert",
                )
        except Refused as e:
            if e.problem.rule.action is not Action.DONE:
                raise

    def key_authorization(self, challenge: Challenge) -> str:
        """Return what the CA must find (section 8.1)."""
        if challenge.token is None:
            raise BadReply(f"the {challenge.type} challenge has no usable token")
        return self._signer.key_authorization(challenge.token)

    async def _read(self, url: str) -> transport.Reply:
        return await self._post(url, None, repeat=Repeat.SILENCE)

    def _account(self) -> str:
        if self.account_url is None:
            raise Misconfigured("no account is known", hint="register first, or give the account's URL")
        return self.account_url

    async def _post(
        self, url: str, payload: Mapping[str, object] | None, *, repeat: Repeat, resource: str | None = None
    ) -> transport.Reply:
        account_url, directory = self._account(), await self.directory()
        try:
            return await self._transport.post(
                url,
                payload,
                signer=self._signer,
                account_url=account_url,
                new_nonce_url=directory.new_nonce,
                repeat=repeat,
                resource=resource,
            )
        except Refused as e:
            self._may_have_moved(e)
            raise

    def _may_have_moved(self, refusal: Refused) -> None:
        """Read the directory anew where something is not found: a CA that was set up anew has other URLs."""
        if refusal.problem.status in transport.NOT_HERE:
            self._directory = None


def _contacts(contact: Sequence[str]) -> list[str]:
    if isinstance(contact, str):  # each of its letters would be one
        raise Misconfigured(
            f"contact: {contact!r} is one text, where a list is wanted", hint="give it as [contact]"
        )
    return list(contact)

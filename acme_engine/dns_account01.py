"""dns-account-01 (draft-ietf-acme-dns-account-label): DNS-01 at a name that is our account's own.

So several clients prove one domain, each with a CNAME into a zone of its own, or with a credential for its
own name alone. All else is as in DNS-01: the value, and what is waited for.
"""

from acme_engine.dns01 import Dns01Solver
from acme_engine.dns_records import account_record_name
from acme_engine.errors import BadReply
from acme_engine.messages import Challenge, Identifier


class DnsAccount01Solver(Dns01Solver):
    """Writes the value at the account's label, which stands before DNS-01's."""

    challenge_type = "dns-account-01"

    def name_of(self, identifier: Identifier, challenge: Challenge) -> str:
        """Return ``_LABEL._acme-challenge.NAME``.

        Raises:
            BadReply: it is not known for which account.
        """
        if challenge.account is None:
            raise BadReply("the dns-account-01 challenge is for no account")
        return account_record_name(identifier.value, challenge.account)

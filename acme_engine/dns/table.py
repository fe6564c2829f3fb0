"""Every provider of DNS by its name, each imported when it is chosen; what a new one is entered into.

A provider's settings are texts, and known here before it is imported: whoever reads a configuration can say
what is wrong with it, and which of them are credentials.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from acme_engine.dns import checks
from acme_engine.dns.provider import DnsProvider
from acme_engine.errors import Misconfigured


@dataclass(frozen=True, slots=True)
class Setting:
    """One thing that a provider must or may be told."""

    name: str
    what: str
    """A sentence for the reference."""
    required: bool = False
    credential: bool = False
    """It is a secret: it comes from a file or the environment, and is in no message, log or `repr`."""
    default: str | None = None
    check: Callable[[str], object] | None = None
    """Raises `ValueError` that says what is wrong; for a credential without its text."""


@dataclass(frozen=True, slots=True)
class Registration:
    """A provider: what it takes, and what makes it."""

    what: str
    """A line for the reference."""
    settings: tuple[Setting, ...]
    make: Callable[[Mapping[str, str]], DnsProvider]
    """Takes what `validated` returned; connects to nobody. It imports the provider's module inside."""


def _rfc2136(settings: Mapping[str, str]) -> DnsProvider:
    from acme_engine.dns.rfc2136 import Rfc2136  # noqa: PLC0415 - imported when chosen

    return Rfc2136.of(settings)


def _httpreq(settings: Mapping[str, str]) -> DnsProvider:
    from acme_engine.dns.httpreq import Httpreq  # noqa: PLC0415

    return Httpreq.of(settings)


def _acme_dns(settings: Mapping[str, str]) -> DnsProvider:
    from acme_engine.dns.acme_dns import AcmeDns  # noqa: PLC0415

    return AcmeDns.of(settings)


def _accounts(text: str) -> None:
    from acme_engine.dns.acme_dns import accounts_of  # noqa: PLC0415

    accounts_of(text)


def _cloudflare(settings: Mapping[str, str]) -> DnsProvider:
    from acme_engine.dns.cloudflare import Cloudflare  # noqa: PLC0415

    return Cloudflare.of(settings)


def _route53(settings: Mapping[str, str]) -> DnsProvider:
    from acme_engine.dns.route53 import Route53  # noqa: PLC0415

    return Route53.of(settings)


def _lego(settings: Mapping[str, str]) -> DnsProvider:
    from acme_engine.dns.lego import Lego  # noqa: PLC0415

    return Lego.of(settings)


def _environment(text: str) -> None:
    from acme_engine.dns.lego import environment_of  # noqa: PLC0415

    environment_of(text)


def _powerdns(settings: Mapping[str, str]) -> DnsProvider:
    from acme_engine.dns.powerdns import PowerDns  # noqa: PLC0415

    return PowerDns.of(settings)


PROVIDERS: Final[Mapping[str, Registration]] = {
    "rfc2136": Registration(
        "DNS UPDATE signed by TSIG: BIND, Knot, PowerDNS and other servers of your own.",
        (
            Setting(
                "server",
                "The zone's primary server: its name or address, with a port if that is not 53.",
                required=True,
                check=checks.server,
            ),
            Setting("key_name", "The TSIG key's name.", required=True, check=checks.zone),
            Setting(
                "key_secret",
                "The TSIG key's secret in base64.",
                required=True,
                credential=True,
                check=checks.base64_text,
            ),
            Setting(
                "key_algorithm",
                "The TSIG key's algorithm.",
                default="hmac-sha256",
                check=checks.one_of("hmac-sha224", "hmac-sha256", "hmac-sha384", "hmac-sha512"),
            ),
            Setting(
                "zone",
                "The zone that is updated; found by its SOA where it is not named.",
                check=checks.zone,
            ),
        ),
        _rfc2136,
    ),
    "cloudflare": Registration(
        "Cloudflare, by an API token with the right DNS:Edit for the zone.",
        (
            Setting("api_token", "The API token.", required=True, credential=True, check=checks.one_line),
            Setting(
                "zone_id",
                "The zone's id; without it the zone is found by its name, and the token needs Zone:Read too.",
                check=checks.word,
            ),
            Setting(
                "endpoint",
                "Where the API is.",
                default="https://api.cloudflare.com/client/v4",
                check=checks.url,
            ),
        ),
        _cloudflare,
    ),
    "route53": Registration(
        "Amazon Route 53; needs the extra `aws`.",
        (
            Setting(
                "hosted_zone_id",
                "The zone's id; the closest public zone by default, for which zones are looked up by name.",
                check=checks.word,
            ),
            Setting(
                "access_key_id",
                "An access key; by default the SDK's own way: a role of the machine or pod, the environment.",
                check=checks.word,
            ),
            Setting("secret_access_key", "Its secret.", credential=True, check=checks.one_line),
            Setting("region", "Whose endpoint is asked.", default="us-east-1", check=checks.word),
            Setting("endpoint", "Another address of the service, such as a private one.", check=checks.url),
        ),
        _route53,
    ),
    "powerdns": Registration(
        "The HTTP API of PowerDNS Authoritative Server; `rfc2136` is the better way where it takes updates.",
        (
            Setting("endpoint", "Where the API is, without /api.", required=True, check=checks.url),
            Setting("api_key", "The API key.", required=True, credential=True, check=checks.one_line),
            Setting("server_id", "What the server calls itself.", default="localhost", check=checks.word),
            Setting("zone", "The zone that is changed; the closest one by default.", check=checks.zone),
        ),
        _powerdns,
    ),
    "acme-dns": Registration(
        "acme-dns, to a subdomain of which `_acme-challenge` is a CNAME; it keeps the last two values.",
        (
            Setting("endpoint", "Where acme-dns answers.", required=True, check=checks.url),
            Setting(
                "accounts",
                "What `/register` answered, as JSON: once, in a list, or by domain.",
                required=True,
                credential=True,
                check=_accounts,
            ),
        ),
        _acme_dns,
    ),
    "httpreq": Registration(
        "A webhook of your own, in lego's form: POST /present and /cleanup.",
        (
            Setting("endpoint", "What stands before /present and /cleanup.", required=True, check=checks.url),
            Setting("username", "Who we are, by HTTP basic authentication.", check=checks.one_line),
            Setting("password", "The password.", credential=True, check=checks.one_line),
            Setting(
                "mode",
                "What is sent: by `default` name and value, `raw` domain, token and key authorization.",
                default="default",
                check=checks.one_of("default", "raw"),
            ),
        ),
        _httpreq,
    ),
    "lego": Registration(
        "Any of lego's providers, about 218, each in a process of its own; needs the extra `lego`.",
        (
            Setting("service", "What lego calls it, such as `hetzner`.", required=True, check=checks.word),
            Setting(
                "environment",
                "What lego's documents list for it, a NAME=VALUE a line.",
                required=True,
                credential=True,
                check=_environment,
            ),
            Setting(
                "lego_resolvers",
                "Whom lego asks for zones, as host:port with spaces between; by default those of this host.",
                check=checks.servers,
            ),
        ),
        _lego,
    ),
}


def problems(name: str, settings: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield (setting, what is wrong with it), for each; a provider of that name must be there."""
    known = {setting.name: setting for setting in PROVIDERS[name].settings}
    for extra in settings.keys() - known.keys():
        yield extra, f"is not a setting of {name}; it has: {', '.join(known)}"
    for setting in known.values():
        value = settings.get(setting.name)
        if value is None:
            if setting.required:
                yield setting.name, "is missing"
        elif setting.check is not None:
            try:
                setting.check(value)
            except ValueError as e:
                yield setting.name, str(e)


def validated(name: str, settings: Mapping[str, str]) -> Mapping[str, str]:
    """Return the settings with their defaults.

    Raises:
        Misconfigured: no provider has this name, or a setting is wrong; says all that are.
    """
    if name not in PROVIDERS:
        known = ", ".join(PROVIDERS) or "none"
        raise Misconfigured(f"no provider of DNS is called {name!r}", hint=f"there are: {known}")
    wrong = [f"{setting}: {words}" for setting, words in problems(name, settings)]
    if wrong:
        raise Misconfigured(f"{name}: {'; '.join(wrong)}", hint="correct the provider's settings")
    defaults = {s.name: s.default for s in PROVIDERS[name].settings if s.default is not None}
    return {**defaults, **settings}


def provider_of(name: str, settings: Mapping[str, str]) -> DnsProvider:
    """Make the provider.

    Raises:
        Misconfigured: as `validated`; or the settings do not go together.
    """
    complete = validated(name, settings)
    return PROVIDERS[name].make(complete)

"""Which proxy the environment names for a CA: HTTPS_PROXY and NO_PROXY are how many networks reach one."""

from dataclasses import dataclass, field
from urllib.request import getproxies, proxy_bypass

import aiohttp
from yarl import URL

from acme_engine.errors import Misconfigured


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy, without its credential; ``headers`` is what it is told of us."""

    url: URL
    headers: dict[str, str] = field(repr=False)


def proxy_for(target: URL) -> Proxy | None:
    """Return the proxy of a target; None: asked without one.

    Read once for each client: aiohttp's own ``trust_env`` reads the environment, and ``~/.netrc``, anew at
    each request, by two hops to a thread that cost more than the signature. Nothing is taken from
    ``~/.netrc``: a credential belongs into the proxy's URL.

    Raises:
        Misconfigured: the proxy's URL cannot be used.
    """
    named = getproxies().get(target.scheme)
    if not named or proxy_bypass(str(target.host)):
        return None
    try:
        url = URL(named if "://" in named else f"http://{named}")
    except ValueError:
        url = URL()
    if url.scheme != "http" or not url.host:
        # What it is set to may hold a password.
        raise Misconfigured(
            f"{target.scheme.upper()}_PROXY is no URL of a proxy that we speak to",
            hint="give it as http://HOST:PORT, or http://USER:PASSWORD@HOST:PORT",
        )
    if not url.user:
        return Proxy(url, {})
    credential = aiohttp.encode_basic_auth(url.user, url.password or "")
    return Proxy(url.with_user(None), {"Proxy-Authorization": credential})

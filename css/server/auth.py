"""Who may ask, and from where. Pure: looks at a request's headers, reads no file and no clock.

Checked before anything else: `Host` (DNS rebinding), `Origin` (a browser's page from elsewhere), the bearer token.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress

from css.config import Config, Token
from css.errors import ConfigError
from css.server.failure import failure
from css.server.http import Request, Response

_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
_OPEN = frozenset({"/healthz"})
_CHALLENGE = (("WWW-Authenticate", 'Bearer realm="css"'),)


class Access:
    """What the configuration allows."""

    def __init__(
        self, hosts: tuple[str, ...], any_host: bool, origins: tuple[str, ...], tokens: tuple[Token, ...]
    ) -> None:
        self._hosts = frozenset(host.lower() for host in hosts)
        self._any_host = any_host
        self._origins = frozenset(origin.lower().rstrip("/") for origin in origins)
        self._digests = tuple(bytes.fromhex(token.sha256) for token in tokens)

    def __repr__(self) -> str:
        return f"<Access of {len(self._digests)} tokens, hosts {sorted(self._hosts)}>"

    @classmethod
    def of(cls, config: Config) -> Access:
        """A service on all addresses cannot know its names: there `Host` is checked only if `allowed_hosts` is set."""
        host = config.server.bind.rpartition(":")[0]
        listed = config.server.allowed_hosts
        any_host = not is_loopback(host) and not listed
        return cls((*_LOOPBACK, host, *listed), any_host, config.server.allowed_origins, config.auth.token)

    def check(self, request: Request) -> Response | None:
        """None: this request may be answered."""
        headers = request.headers
        host = headers.get("host", "").lower()
        is_open = request.path in _OPEN
        # Probes ask by address, and an open path tells a rebound page nothing.
        if not is_open and not self._any_host and host not in self._hosts and _name(host) not in self._hosts:
            return failure(403, "forbidden_host", f"not served under the name {host[:200]!r}; see server.allowed_hosts")
        origin = headers.get("origin")
        if origin is not None and not self._is_own(origin.lower(), host):
            return failure(403, "forbidden_origin", f"not for pages of {origin[:200]!r}; see server.allowed_origins")
        if self._digests and not is_open and not self._knows(headers.get("authorization", "")):
            return failure(401, "unauthorized", "a bearer token is needed", headers=_CHALLENGE)
        return None

    def _is_own(self, origin: str, host: str) -> bool:
        # An origin is a scheme and an authority, compared as text: there is nothing in it that may fail to parse.
        return origin in self._origins or (host != "" and origin.partition("://")[2] == host)

    def _knows(self, authorization: str) -> bool:
        scheme, _, secret = authorization.partition(" ")
        if scheme.lower() != "bearer":
            return False
        digest = hashlib.sha256(secret.strip().encode("latin-1", "replace")).digest()
        # All are compared: the time taken says nothing about which one nearly matched.
        return any([hmac.compare_digest(digest, known) for known in self._digests])  # noqa: C419


def is_loopback(host: str) -> bool:
    """Whether an address to listen on can be reached from this machine only."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def refuse_open(config: Config) -> None:
    """Raises `ConfigError` for an address that others can reach, when nobody would be asked who they are."""
    bind = config.server.bind
    if not is_loopback(bind.rpartition(":")[0]) and not config.auth.token and not config.auth.insecure:
        raise ConfigError(
            f"server.bind: {bind} can be reached from other machines and no [[auth.token]] is configured; "
            "add a token, listen on 127.0.0.1, or say --insecure (auth.insecure = true) if the network is trusted"
        )


def _name(host: str) -> str:
    """The host without its port."""
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdigit() else host

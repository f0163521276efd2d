"""What the messages of a watch mean to its client: how it stands, from where it resumes, which keys it holds.

Pure: no I/O, no clock. The objects themselves are not kept here.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Literal
from urllib.parse import urlsplit

import msgspec

from css import wire
from css.errors import ConfigError, Unavailable
from css.model import Key

DEFAULT_PORT = 3000


class State(msgspec.Struct, frozen=True):
    """How the connection stands.

    `live`: everything up to the last revision is here. `stale`: so it was, but the server has fallen silent.
    `waiting`: lost; tried again `retry_in` seconds after this was told. `refused`: not tried again.
    """

    phase: Literal["connecting", "syncing", "live", "stale", "waiting", "refused"]
    percent: int = 0
    """Of the snapshot, while `syncing`."""
    retry_in: float = 0.0
    attempt: int = 0
    """How many times in a row it was lost, while `connecting` and `waiting`."""
    reason: str = ""


Update = wire.ServerMessage | State


class Endpoint(msgspec.Struct, frozen=True):
    """Where a service listens. `host` is a name or an address without brackets; `path` a prefix without a last `/`."""

    host: str
    port: int
    secure: bool = False
    path: str = ""

    @classmethod
    def parse(cls, url: str) -> Endpoint:
        """Read `http://`, `https://`, `ws://`, `wss://` or `host[:port]` (then port 3000). Raises `ConfigError`."""
        expected = f"url: found {url!r}, expected http://, https://, ws:// or wss:// and host[:port]"
        try:
            parts = urlsplit(url if "://" in url else f"http://{url}")
            port = parts.port
        except ValueError as error:
            raise ConfigError(f"{expected} ({error})") from error
        if parts.scheme not in ("http", "https", "ws", "wss") or not parts.hostname or not url.isprintable():
            raise ConfigError(expected)
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ConfigError(f"{expected}; no user, password, query or fragment")
        secure = parts.scheme in ("https", "wss")
        usual = (443 if secure else 80) if "://" in url else DEFAULT_PORT
        return cls(parts.hostname, usual if port is None else port, secure, parts.path.rstrip("/"))

    @property
    def address(self) -> str:
        """`host:port`, as in a `Host` header."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Refused(Exception):
    """What no retry can mend; the text is for people."""


class OtherData(Exception):
    """The server holds another epoch than the one to resume: ask again, without a revision."""


class Position:
    """From where to resume: `revision` is the last state known completely (None: start with a snapshot)."""

    def __init__(self) -> None:
        self.epoch = ""
        self.revision: int | None = None
        self._received = 0
        self._greeted = False

    def __repr__(self) -> str:
        return f"<Position {self.revision} of {self.epoch[:8]!r}>"

    def connected(self) -> None:
        """What comes next is a hello."""
        self._greeted, self._received = False, 0

    def take(self, message: wire.ServerMessage) -> State | None:
        """Move on, and say how it stands then (None: as before).

        Raises when the connection is of no use any more: `Unavailable`, `OtherData`, `Refused`.
        """
        if isinstance(message, wire.Hello):
            return self._greet(message)
        if not self._greeted and not isinstance(message, wire.Failure):
            raise Unavailable("server", "it did not say hello")
        match message:
            case wire.Snapshot(revision=revision, items=items, done=done, total=total):
                self._received += len(items)
                self.revision = revision if done else None
                return State("live") if done else State("syncing", min(99, 100 * self._received // max(1, total)))
            case wire.Changes(revision=revision) | wire.Bookmark(revision=revision):
                if self.revision is not None and revision < self.revision:
                    self.revision = None
                    raise Unavailable("server", f"its revision went back to {revision}")
                self.revision = revision
                return State("live")
            case wire.Resync():
                self.revision, self._received = None, 0
                return State("syncing")
            case wire.Failure(code=code, message=text):
                raise Unavailable("server", f"{code}: {text}")

    def _greet(self, hello: wire.Hello) -> State | None:
        if hello.protocol != wire.PROTOCOL:
            raise Refused(f"the server speaks protocol {hello.protocol}, this client {wire.PROTOCOL}")
        resumed, same = self.revision is not None, hello.epoch == self.epoch
        self.epoch, self._greeted = hello.epoch, True
        if resumed and not same:
            # What follows would continue other data from a number that means nothing there.
            self.revision = None
            raise OtherData
        return State("live") if resumed else State("syncing")


class Known:
    """The keys that a subscriber holds: mark and sweep, so that nothing outlives a snapshot that lacks it."""

    def __init__(self) -> None:
        self._keys: set[Key] = set()
        self._marked: set[Key] | None = None
        """What the snapshot under way has brought; None when there is none."""

    def __len__(self) -> int:
        return len(self._keys)

    def take(self, message: Update) -> tuple[Sequence[wire.Item], Collection[Key]]:
        """What a message puts and what it removes. The two are disjoint, and no key is in one of them twice."""
        match message:
            case wire.Hello() | wire.Resync():
                self._marked = None
            case wire.Snapshot(items=items, done=done):
                return items, self._sweep(items, done)
            case wire.Changes(changes=changes):
                last = {change.key: change.item for change in changes}
                gone = {key for key, item in last.items() if item is None}
                self._keys.update(last)
                self._keys -= gone
                return [item for item in last.values() if item is not None], gone
        return (), ()

    def _sweep(self, items: Sequence[wire.Item], done: bool) -> Collection[Key]:
        if self._marked is None:
            self._marked = set()
        keys = {item.key for item in items}
        self._marked |= keys
        if not done:
            self._keys |= keys
            return ()
        ghosts, self._keys, self._marked = self._keys - self._marked, self._marked, None
        return ghosts

"""The messages of `/v2/watch`, as a tagged union: what the server says, decoded once by the client.

Pure: no I/O. The server writes most of them by joining bytes it already has (`server/stream.py`); these types are the
contract both sides are tested against. Source: the interface's description, docs/api.md.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from css.model import Key

PROTOCOL = 2


class Freshness(msgspec.Struct, frozen=True, rename="camel"):
    """How far behind the truth an answer may be. Times are RFC 3339 UTC; None means "not known yet"."""

    event_lag_seconds: float | None = None
    """Between the time of the last event in its envelope and its arrival here."""
    queue_depth: int | None = None
    last_event_at: str | None = None
    last_reconcile_at: str | None = None
    open_gaps: int = 0
    store_connected: bool = False


class Item(msgspec.Struct, frozen=True, rename="camel"):
    """One object. `detail` is the ECS object, complete, as JSON; `source` says who spoke last of it."""

    key: Key
    revision: int
    updated_at: str
    source: Literal["event", "reconcile"]
    detail: msgspec.Raw


class Hello(msgspec.Struct, frozen=True, tag="hello"):
    """Comes first, at once. A new `epoch` means other data: the next snapshot sweeps what the client holds."""

    protocol: int
    server: str
    epoch: str
    revision: int
    time: str
    region: str = ""


class Snapshot(msgspec.Struct, frozen=True, tag="snapshot"):
    """A piece (at most about 256 kB) of the state at `revision`; `done` on the last."""

    revision: int
    items: tuple[Item, ...]
    done: bool
    total: int = 0
    """How many items the whole snapshot has, for progress."""


class ItemChange(msgspec.Struct, frozen=True):
    """One object's change. "gone" has no item: it was removed, or has left the filter."""

    op: Literal["put", "gone"]
    key: Key
    revision: int
    time: str
    item: Item | None = None


class Changes(msgspec.Struct, frozen=True, tag="changes"):
    """Changes in revision order; `revision` is where to resume from afterwards."""

    revision: int
    changes: tuple[ItemChange, ...]


class Bookmark(msgspec.Struct, frozen=True, tag="bookmark"):
    """Nothing else changed up to `revision`; the line lives."""

    revision: int
    freshness: Freshness


class Resync(msgspec.Struct, frozen=True, tag="resync"):
    """What follows is a new snapshot: changes were lost to this subscriber."""

    reason: Literal["compacted", "slow"]


class Failure(msgspec.Struct, frozen=True, tag="error"):
    """The last message before the close."""

    code: str
    message: str


ServerMessage = Hello | Snapshot | Changes | Bookmark | Resync | Failure

_decoder: msgspec.json.Decoder[ServerMessage] = msgspec.json.Decoder(ServerMessage)
_encoder = msgspec.json.Encoder()


def decode(text: str | bytes) -> ServerMessage:
    """Raises `msgspec.MsgspecError` for anything that is not one of the messages (`RecursionError` when hostile)."""
    return _decoder.decode(text)


def encode(message: ServerMessage) -> bytes:
    """The message as JSON."""
    return _encoder.encode(message)

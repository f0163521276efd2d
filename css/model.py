"""The words that every part shares: what a thing is called, what is known of it, and how that changes.

Imports nothing of ours and does nothing: only frozen structs and the one rule that orders versions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol

import msgspec

Kind = Literal["task", "instance", "service", "cluster", "event", "quarantine"]
KINDS: tuple[Kind, ...] = ("task", "instance", "service", "cluster", "event", "quarantine")

NO_CLUSTER = "-"
"""The cluster segment of a key that belongs to no cluster (a deployment event without one, a quarantined message)."""

MAX_VERSION = 2**53 - 1
"""Larger versions are rejected: they are forged, and JSON readers elsewhere could not hold them exactly."""

FORGOTTEN = -1
"""The version of a `Record` of which not even a tombstone is left."""

TOMBSTONE_FORGOTTEN = -2
"""The version of a `Record` that says only that a tombstone is over: a live object of the same key stays.

In etcd the Go service may have put an object back beside its tombstone.
"""


class Key(msgspec.Struct, frozen=True, order=True, cache_hash=True):
    """Names one object. `cluster` is the cluster's name; `id` an ARN (with account and region) or event id."""

    kind: Kind
    cluster: str
    id: str

    @property
    def path(self) -> str:
        """`task/default/arn:aws:ecs:...`: the key below the store's prefix."""
        return f"{self.kind}/{self.cluster}/{self.id}"

    @classmethod
    def from_path(cls, path: str) -> Key | None:
        """The inverse of `path`; None for anything that is not one (a stranger's key in a shared etcd)."""
        kind, _, rest = path.partition("/")
        cluster, slash, id_ = rest.partition("/")
        if kind not in KINDS or not slash or not cluster or not id_:
            return None
        return cls(kind, cluster, id_)


class Put(msgspec.Struct, frozen=True):
    """A new state of an object. `body` is the event envelope as compact JSON (see `normalize`); `version` is ECS's."""

    key: Key
    version: int
    body: bytes


class Gone(msgspec.Struct, frozen=True):
    """An object that ECS no longer has. It applies only while the store still holds exactly `if_revision` of it.

    `version` is the last version seen: the tombstone keeps it, so that a late duplicate cannot bring the object back.
    """

    key: Key
    version: int
    if_revision: int


class Forget(msgspec.Struct, frozen=True):
    """Removes an entry without a tombstone (event log and quarantine entries, which expire); gated like `Gone`."""

    key: Key
    if_revision: int


Change = Put | Gone | Forget


class Record(msgspec.Struct, frozen=True):
    """What the store holds of a key since `revision`: an envelope, or with `body` None a tombstone of `version`.

    `version == FORGOTTEN` (body None too): the entry is gone altogether; with `TOMBSTONE_FORGOTTEN` its tombstone is,
    if it had one. Only a watch brings such records.
    """

    key: Key
    revision: int
    version: int
    body: bytes | None

    @property
    def forgets_tombstone(self) -> bool:
        """Whether it says no more than that a tombstone is over."""
        return self.body is None and self.version == TOMBSTONE_FORGOTTEN


class Write(msgspec.Struct, frozen=True):
    """A change and the revision its key is expected to have (0: the store knows nothing of it)."""

    change: Change
    expected: int


class Receipt(msgspec.Struct, frozen=True):
    """What became of a commit. `revision` names a state with all of it in (0: any); a watch comes that far.

    `lost` are the writes that expected wrongly, each with what the store really holds (None: nothing), so that they can
    be decided again.
    """

    revision: int
    lost: tuple[tuple[Write, Record | None], ...] = ()


class Batch(msgspec.Struct, frozen=True):
    """All that changed at one revision; brought by the store's watch, in revision order. At most one record per key."""

    revision: int
    records: tuple[Record, ...]


class Head(msgspec.Struct, frozen=True):
    """Which data (`epoch`: another value means other data) and how far (`revision`)."""

    epoch: str
    revision: int


def _nothing() -> None:
    """A source that keeps what it has."""


class Message(msgspec.Struct, frozen=True):
    """A raw message of a queue or stream. `settled()` is called once, when its change is durable: never before.

    `released()` instead of it leaves the message to its source, which will bring it again. Neither blocks nor raises.
    `source` names the queue, for people and metrics.
    """

    body: str | bytes
    settled: Callable[[], None]
    source: str
    released: Callable[[], None] = _nothing


class Delivery(msgspec.Struct, frozen=True):
    """Changes on their way to the writer, which calls `settled` when all of them are durable (or known to be old)."""

    changes: tuple[Change, ...]
    settled: Callable[[], None]


class HasVersion(Protocol):
    """A record, a row of the view, a tombstone: something known of a key."""

    @property
    def version(self) -> int: ...


def supersedes(version: int, known: HasVersion | None) -> bool:
    """The one rule of order: only a strictly higher version replaces what is known, be it live or a tombstone."""
    return known is None or version > known.version

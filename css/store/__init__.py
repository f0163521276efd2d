"""What a store is. Two exist, judged by one contract suite: `embedded` (SQLite) and `etcd`. Only the writer commits.

**Entries.** The store holds for each key at most one `Record`: live (a body) or a tombstone (none). Each commit that
changes anything takes the next revision, a single growing integer for the whole store; a record's `revision` is that of
the commit which wrote it. Revisions need not be consecutive.

**Promises of the watch** (`async with store.watch(after) as watch: batches = await watch.receive()`):
- *ordered*: revisions strictly increase, each batch is whole (all that the commit changed);
- *complete*: every batch with a revision above `after` comes, exactly once per watch;
- *resumable*: a new watch after the last revision seen continues without gap or repeat, also on another replica;
- *honest*: when `after` is below what is still held, or ahead of the head (other data), it raises `Compacted`; when the
  connection is lost, `Unavailable`, within seconds. It never falls silent while the store moves on.
A commit is seen by its own process through the watch only, like anybody else's.

**Retention.** Tombstones, event log entries and quarantine entries expire after their time; the watch then brings
`Record(version=FORGOTTEN, body=None)`, and of a tombstone `Record(version=TOMBSTONE_FORGOTTEN, body=None)`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import msgspec

from css.model import Batch, Change, Gone, Head, Put, Receipt, Record, Write


class Retention(msgspec.Struct, frozen=True):
    """How long entries that are no ECS state stay, in seconds."""

    tombstone: float = 14 * 86400.0
    """At least as long as the queue keeps messages (SQS: 14 days at most)."""
    event: float = 86400.0
    quarantine: float = 14 * 86400.0

    def of(self, change: Change) -> float | None:
        """Seconds until what this change leaves behind expires; None: it stays."""
        if isinstance(change, Gone):
            return self.tombstone
        if isinstance(change, Put):
            match change.key.kind:
                case "event":
                    return self.event
                case "quarantine":
                    return self.quarantine
        return None


class Watch(Protocol):
    """A position in the store's changes."""

    async def receive(self) -> Sequence[Batch]:
        """Wait for the next batches (one at least), in order. `Compacted` or `Unavailable` end the watch."""


class Store(Protocol):
    """See the module's text for the promises."""

    async def commit(self, writes: Sequence[Write]) -> Receipt:
        """Apply every write whose key still has its expected revision, atomically, and make it durable.

        At most one write per key and at most `max_writes` writes. After `Unavailable` it may or may not have been
        applied; committing the same writes again is safe: what was applied is then lost to itself, and the receipt
        shows it as such.

        What is too large for one request of the store goes in several, in the order given; the receipt's revision is
        then that of the last. `Rejected`: one of the writes can never be stored; others may have been.
        """

    async def snapshot(self, take: Callable[[Sequence[Record]], None]) -> Head:
        """Hand every record (tombstones too) to `take`, in pages of one revision, and return that revision.

        Raises `Unavailable`; `take` must then forget what it was given.
        """

    def watch(self, after: int) -> AbstractAsyncContextManager[Watch]:
        """Follow the changes with a revision above `after`."""

    async def compact(self, floor: int) -> None:
        """Let go of the changes up to `floor`; current records stay."""

    @property
    def max_writes(self) -> int:
        """The most writes one commit takes."""

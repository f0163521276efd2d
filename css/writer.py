"""The one way into the store: gathers changes, decides them against what is known, commits; settles what is seen.

Never acknowledges before the commit, nor before the watch has brought it back: what has left the queue can be read.
Never commits what is known to be late. An unavailable store stops it (and so, channel by channel, the queue reader)
until the store is back. Pure decisions first, the actors last.
"""

from __future__ import annotations

import heapq
import math
import time
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Protocol

import msgspec
import structlog
import trio

from css.backoff import Backoff
from css.config import Writer as Settings
from css.errors import Rejected, Unavailable
from css.follow import Live
from css.metrics import Metrics
from css.model import Change, Delivery, Forget, Gone, Key, Put, Receipt, Write, supersedes
from css.normalize import Policy, shelve
from css.status import Status, rfc3339
from css.store import Store

SHELF = 1000
"""The most entries of the quarantine; the oldest make room."""

# Own writes that the watch has not brought back yet: past this many, those it has brought back are swept.
_RECENT = 10_000

_log = structlog.get_logger()


class Known(Protocol):
    """What the store holds of a key: a row or tombstone of the view, a record, an own recent write."""

    @property
    def revision(self) -> int: ...
    @property
    def version(self) -> int: ...


def coalesce(changes: Iterable[Change]) -> dict[Key, Change]:
    """At most one change per key: the one of the highest version. The order of arrival does not matter."""
    latest: dict[Key, Change] = {}
    for change in changes:
        other = latest.get(change.key)
        if other is None or _rank(change) > _rank(other):
            latest[change.key] = change
    return latest


def _rank(change: Change) -> tuple[int, bool]:
    # A removal of the same version is later news than the state it removes.
    return (-1, False) if isinstance(change, Forget) else (change.version, isinstance(change, Gone))


def decide(change: Change, known: Known | None) -> Write | None:
    """The write that brings `change` about, given what is known of its key; None when it is late or overtaken."""
    if isinstance(change, Put):
        return Write(change, known.revision if known else 0) if supersedes(change.version, known) else None
    return Write(change, change.if_revision) if known and known.revision == change.if_revision else None


class Own(msgspec.Struct, frozen=True):
    """A write of this process: known before the watch brings it back."""

    revision: int
    version: int


class Writer:
    """Commits one batch at a time. `recent` bridges the time until the watch has brought back what was committed."""

    def __init__(
        self, store: Store, live: Live, settings: Settings, policy: Policy, status: Status, metrics: Metrics
    ) -> None:
        self._store = store
        self._live = live
        self._view = live.view
        self._size = min(settings.batch, store.max_writes)
        self._policy = policy
        self._status = status
        self._metrics = metrics
        self._recent: dict[Key, Known | None] = {}
        self._head = 0
        self._lock = trio.Lock()
        self._unseen: deque[tuple[int, Sequence[Delivery]]] = deque()
        self._committed = trio.Event()
        self._finished = False

    def __repr__(self) -> str:
        return f"<Writer at {self._head}, {len(self._recent)} writes not yet seen>"

    async def commit(self, deliveries: Sequence[Delivery]) -> None:
        """Make every change of the deliveries durable, or know it to be late; they are settled once that is seen."""
        async with self._lock:
            await self._settle_later(deliveries)

    async def _settle_later(self, deliveries: Sequence[Delivery]) -> None:
        self._sweep()
        given = [change for delivery in deliveries for change in delivery.changes]
        changes = [*coalesce(given).values()]
        self._metrics.changes.labels("any", "superseded").inc(len(given) - len(changes))
        changes += self._room_on_shelf(changes)
        for start in range(0, len(changes), self._size):
            await self._commit(changes[start : start + self._size])
        self._unseen.append((self._head, deliveries))
        self._announce()

    def finish(self) -> None:
        """Nothing more will be committed: `settle_seen` returns when all is settled."""
        self._finished = True
        self._announce()

    async def settle_seen(self) -> None:
        """Tell the sources of what the watch has brought back, until finished."""
        log = self._live.log
        while True:
            moved, committed = self._live.moved, self._committed  # taken before looking
            if self._live.log is not log:
                log = self._live.log
                await self._commit_again()
            while self._unseen and self._unseen[0][0] <= self._view.revision:
                _, deliveries = self._unseen.popleft()
                for delivery in deliveries:
                    delivery.settled()
            if self._unseen:
                await moved.wait()
            elif self._finished:
                return
            else:
                await committed.wait()

    async def _commit_again(self) -> None:
        """The store was listed again, perhaps restored from a backup: what was not seen by then is committed once more.

        What was known of it is forgotten, also by a commit that was under way.
        """
        async with self._lock:
            unseen = [*self._unseen]
            self._unseen.clear()
            self._recent.clear()
            self._head = 0
            for _, deliveries in unseen:
                await self._settle_later(deliveries)

    def _announce(self) -> None:
        self._committed.set()
        self._committed = trio.Event()

    async def _commit(self, changes: Sequence[Change]) -> None:
        """Commit until each change is applied or late; only those that lost their compare are decided again."""
        while writes := self._decide(changes):
            try:
                receipt = await self._insist(writes)
            except Rejected as rejected:
                await self._commit_apart(writes, rejected)
                return
            self._note(writes, receipt)
            changes = [write.change for write, _ in receipt.lost]

    def _decide(self, changes: Sequence[Change]) -> list[Write]:
        writes = []
        for change in changes:
            if write := decide(change, self._known(change.key)):
                writes.append(write)
            else:
                self._metrics.changes.labels(change.key.kind, "late").inc()
        return writes

    def _known(self, key: Key) -> Known | None:
        seen = self._view.known(key)
        if key not in self._recent:
            return seen
        own = self._recent[key]
        return seen if seen and own and seen.revision > own.revision else own

    def _note(self, writes: Sequence[Write], receipt: Receipt) -> None:
        lost = {write.change.key: current for write, current in receipt.lost}
        for write in writes:
            change = write.change
            if change.key in lost:
                continue
            self._metrics.changes.labels(change.key.kind, "applied").inc()
            version = -1 if isinstance(change, Forget) else change.version
            self._recent[change.key] = Own(receipt.revision, version)
        self._recent.update(lost)
        self._head = max(self._head, receipt.revision)

    def _sweep(self) -> None:
        if self._view.revision >= self._head:
            self._recent.clear()
        elif len(self._recent) > _RECENT:
            seen = self._view.revision
            self._recent = {key: own for key, own in self._recent.items() if own and own.revision > seen}

    async def _insist(self, writes: Sequence[Write]) -> Receipt:
        """Commit, waiting for the store as long as it takes: the gates make repeating an ambiguous commit safe."""
        backoff = Backoff()
        while True:
            begun = time.perf_counter()
            try:
                receipt = await self._store.commit(writes)
            except Unavailable as error:
                delay = backoff.next()
                self._metrics.store_errors.labels("commit").inc()
                if self._status.report("writer", False, str(error)):
                    _log.warning("cannot commit; nothing is acknowledged meanwhile", error=str(error))
                await trio.sleep(delay)
                continue
            self._metrics.commits.observe(time.perf_counter() - begun)
            if self._status.report("writer", True):
                _log.info("commits go through")
            return receipt

    async def _commit_apart(self, writes: Sequence[Write], rejected: Rejected) -> None:
        """The store refuses this batch for ever (too large): find the change it is about and shelve that one."""
        if len(writes) > 1:
            middle = len(writes) // 2
            for half in (writes[:middle], writes[middle:]):
                await self._commit([write.change for write in half])
            return
        change = writes[0].change
        _log.warning("the store refuses a change", reason=rejected.reason, key=change.key.path)
        self._metrics.rejected.labels(rejected.reason).inc()
        if isinstance(change, Put) and change.key.kind != "quarantine":
            at = rfc3339(time.time()) or ""
            await self._commit([shelve(change.body, rejected, source="store", time=at, policy=self._policy)])

    def _room_on_shelf(self, changes: Sequence[Change]) -> list[Change]:
        rows = self._view.rows("quarantine")
        arriving = sum(change.key.kind == "quarantine" for change in changes)
        excess = len(rows) + arriving - SHELF if arriving else 0
        given = {change.key for change in changes}
        oldest = heapq.nsmallest(excess, rows, key=lambda row: row.revision) if excess > 0 else ()
        return [Forget(row.key, row.revision) for row in oldest if row.key not in given]


async def write(deliveries: trio.MemoryReceiveChannel[Sequence[Delivery]], writer: Writer, settings: Settings) -> None:
    """The actor: gather, commit, again; ends when every sender has closed its end and all is settled.

    A change after a pause is committed at once; under load commits begin `linger_ms` apart, or as soon as a batch is
    full. What comes while one is under way gathers meanwhile.
    """
    begun = -math.inf
    async with deliveries, trio.open_nursery() as nursery:
        nursery.start_soon(writer.settle_seen)
        async for first in deliveries:
            gathered = await _gather(first, deliveries, settings.batch, begun + settings.linger_ms / 1000)
            begun = trio.current_time()
            await writer.commit(gathered)
        writer.finish()


async def _gather(
    first: Sequence[Delivery], deliveries: trio.MemoryReceiveChannel[Sequence[Delivery]], batch: int, until: float
) -> list[Delivery]:
    """`batch` changes, or what has come by the time `until`; in any case what is waiting already."""
    gathered = [*first]
    changes = sum(len(delivery.changes) for delivery in gathered)
    while changes < batch:
        more: Sequence[Delivery] = ()
        try:
            more = deliveries.receive_nowait()
        except trio.WouldBlock:
            with trio.move_on_at(until), suppress(trio.EndOfChannel):
                more = await deliveries.receive()
        except trio.EndOfChannel:
            pass
        if not more:
            break
        gathered += more
        changes += sum(len(delivery.changes) for delivery in more)
    return gathered

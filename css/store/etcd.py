"""The etcd store: for several replicas, and in the place of the Go service, whose keys and values it keeps.

The revision is etcd's. Only this package knows gRPC; calls are made in threads of their own limiter, each with a
deadline, and one thread reads each watch. A frozen or cut-off etcd is noticed within 15 s.
"""

from __future__ import annotations

import math
import queue
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar

import grpc
import trio
from etcd3 import etcdrpc

from css.config import Store as Settings
from css.errors import Compacted, Rejected, Unavailable
from css.model import FORGOTTEN, Batch, Head, Key, Receipt, Record, Write
from css.store import Retention
from css.store.etcd_gate import MAX_BYTES, MAX_WRITES, Keys, outcomes, transaction
from css.store.etcd_wire import Wire, prefix_end

_PAGE = 1000

# A silent watch is asked for its progress, then given up: 13 s in all.
_QUIET = 5.0
_SILENT = 8.0

# Entries that expire at about the same time share a lease: it lives a twentieth longer than asked.
_LEASE_SHARE = 0.05

T = TypeVar("T")


class EtcdStore:
    """See `css.store.Store` for what it promises."""

    max_writes = MAX_WRITES

    def __init__(self, settings: Settings, retention: Retention) -> None:
        self._keys = Keys(settings.etcd_prefix)
        self._wire = Wire(settings)
        self._retention = retention
        self._leases: dict[float, tuple[int, float]] = {}
        self._epoch = ""
        # Commits, pages and leases: never behind a watch, whose reader holds its thread for as long as it lives.
        self._calls = trio.CapacityLimiter(4)
        self._readers = trio.CapacityLimiter(math.inf)

    def __repr__(self) -> str:
        return f"<EtcdStore {self._keys.prefix!r} {self._wire!r}>"

    async def commit(self, writes: Sequence[Write]) -> Receipt:
        if len(writes) > self.max_writes or len({write.change.key for write in writes}) != len(writes):
            raise ValueError("at most one write per key, and at most max_writes of them")
        revision = 0
        lost: list[tuple[Write, Record | None]] = []
        for part in _parts(writes):
            receipt = await self._run(partial(self._commit, part))
            revision = receipt.revision
            lost += receipt.lost
        return Receipt(revision, tuple(lost))

    async def snapshot(self, take: Callable[[Sequence[Record]], None]) -> Head:
        start, revision, epoch = self._keys.prefix, 0, ""
        while True:
            answer, records = await self._run(partial(self._page, start, revision))
            revision, epoch = revision or answer.header.revision, f"{answer.header.cluster_id:x}"
            take(records)
            if not answer.more:
                self._epoch = epoch
                return Head(epoch, revision)
            start = answer.kvs[-1].key + b"\0"

    @asynccontextmanager
    async def watch(self, after: int) -> AsyncIterator[EtcdWatch]:
        head = (await self._run(self._head)).header
        if after > head.revision or (self._epoch and f"{head.cluster_id:x}" != self._epoch):
            raise Compacted  # other data: restored from a backup, or another cluster
        watch = EtcdWatch(self._wire, self._keys, after)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(trio.to_thread.run_sync, watch.read, limiter=self._readers))
            try:
                yield watch
            finally:
                watch.cancel()  # ends the reader thread, which the nursery waits for

    async def compact(self, floor: int) -> None:
        try:
            await self._run(partial(self._wire.kv, "Compact", etcdrpc.CompactionRequest(revision=floor)))
        except Compacted:
            return  # so far or further, by somebody else

    def close(self) -> None:
        self._wire.close()

    async def _run(self, call: Callable[[], T]) -> T:
        """Never abandoned once begun; every call has its deadline."""
        return await trio.to_thread.run_sync(call, limiter=self._calls)

    def _head(self) -> Any:
        return self._wire.kv("Range", etcdrpc.RangeRequest(key=self._keys.prefix, count_only=True))

    def _page(self, start: bytes, revision: int) -> tuple[Any, list[Record]]:
        end = prefix_end(self._keys.prefix)
        request = etcdrpc.RangeRequest(key=start, range_end=end, revision=revision, limit=_PAGE)
        try:
            answer = self._wire.kv("Range", request)
        except Compacted as error:  # between two pages
            raise Unavailable("etcd", "compacted during the listing") from error
        return answer, [record for pair in answer.kvs if (record := self._keys.record(pair))]

    def _commit(self, writes: Sequence[Write]) -> Receipt:
        for again in (True, False):
            try:
                answer = self._wire.kv("Txn", transaction(writes, self._keys, self._lease))
            except Unavailable as error:
                if again and "lease not found" in error.why:
                    self._leases.clear()  # revoked, or lost with a restore
                    continue
                raise
            return Receipt(answer.header.revision, tuple(outcomes(answer, writes, self._keys)))
        raise AssertionError("unreachable")

    def _lease(self, write: Write) -> int:
        age = self._retention.of(write.change)
        if age is None:
            return 0
        lease, since = self._leases.get(age, (0, 0.0))
        now = time.monotonic()
        if not lease or now - since > age * _LEASE_SHARE:
            lease = self._wire.grant(math.ceil(age * (1 + _LEASE_SHARE)))
            self._leases[age] = (lease, now)
        return lease


class EtcdWatch:
    """One watch stream. Its thread reads and hands over, one response at a time; `receive` waits for it."""

    def __init__(self, wire: Wire, keys: Keys, after: int) -> None:
        self._wire = wire
        self._keys = keys
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        create = etcdrpc.WatchCreateRequest(
            key=keys.prefix, range_end=prefix_end(keys.prefix), start_revision=after + 1
        )
        self._requests.put(etcdrpc.WatchRequest(create_request=create))
        self._stream = wire.watch(iter(self._requests.get, None))
        # One response waits here while the last one is applied; the thread then waits, and etcd with it.
        self._sender, self._receiver = trio.open_memory_channel[Any](1)

    def __repr__(self) -> str:
        return f"<EtcdWatch of {self._keys.prefix!r} at {self._wire.endpoint}>"

    async def receive(self) -> Sequence[Batch]:
        while True:
            response = await self._next()
            if isinstance(response, Exception):
                raise response
            if response.canceled:
                raise self._ended(response)
            if response.events:
                return self._batches(response.events)

    async def _next(self) -> Any:
        with trio.move_on_after(_QUIET):
            return await self._receiver.receive()
        self._requests.put(etcdrpc.WatchRequest(progress_request=etcdrpc.WatchProgressRequest()))
        with trio.move_on_after(_SILENT):
            return await self._receiver.receive()
        raise Unavailable("etcd", f"{self._wire.endpoint}: the watch is silent")

    def cancel(self) -> None:
        self._requests.put(None)
        self._stream.cancel()

    def read(self) -> None:
        """The thread: until the stream ends or is cancelled."""
        try:
            for response in self._stream:
                trio.from_thread.run(self._sender.send, response)
            last: Exception = Unavailable("etcd", f"{self._wire.endpoint}: the watch ended")
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.CANCELLED:
                return
            last = self._wire.translated(error)
        except trio.Cancelled:
            return
        trio.from_thread.run(self._sender.send, last)

    def _ended(self, response: Any) -> Exception:
        if response.compact_revision:
            return Compacted(response.compact_revision)
        # So etcd answers a token whose time is over, right at the start of a watch.
        self._wire.forget_token()
        return Unavailable("etcd", f"{self._wire.endpoint}: the watch was cancelled: {response.cancel_reason}")

    def _batches(self, events: Sequence[Any]) -> list[Batch]:
        """A response holds whole revisions, in order."""
        revisions: dict[int, dict[Key, Record]] = {}
        for event in events:
            revision = event.kv.mod_revision
            if event.type == event.PUT:
                record = self._keys.record(event.kv)
            else:
                parsed = self._keys.parse(event.kv.key)
                record = Record(parsed[0], revision, FORGOTTEN, None) if parsed else None
            if record is None:
                continue
            records = revisions.setdefault(revision, {})
            # A removal is two events, a tombstone put and a live key deleted: what was put is what there is now.
            if record.key not in records or record.version != FORGOTTEN:
                records[record.key] = record
        return [Batch(revision, tuple(records.values())) for revision, records in revisions.items()]


def _parts(writes: Sequence[Write]) -> Iterator[list[Write]]:
    """The writes in as many requests as their size needs. Raises `Rejected` for one that fits in none."""
    part: list[Write] = []
    size = 0
    for write in writes:
        weight = len(getattr(write.change, "body", b"")) + 1000
        if weight > MAX_BYTES:
            raise Rejected("too large", f"{weight:,} bytes; etcd takes {MAX_BYTES:,} in a request")
        if size + weight > MAX_BYTES:
            yield part
            part, size = [], 0
        part.append(write)
        size += weight
    if part:
        yield part


@asynccontextmanager
async def open_etcd(settings: Settings, retention: Retention) -> AsyncIterator[EtcdStore]:
    """The store at `settings.etcd_endpoints`. Raises `ConfigError` for wrong settings; connects on first use."""
    store = EtcdStore(settings, retention)
    try:
        yield store
    finally:
        store.close()

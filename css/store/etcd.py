"""The etcd store: for several replicas, and in the place of the Go service, whose keys and values it keeps.

The revision is etcd's. Only this module and its `etcd_*` parts know gRPC; calls are made in threads of their own
limiter, each with a deadline, and one thread reads each watch. A frozen or cut-off etcd is noticed within 15 s.
"""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar

import trio
from etcd3 import etcdrpc

from css.config import Store as Settings
from css.errors import Compacted, Unavailable
from css.model import Head, Key, Receipt, Record, Write
from css.store import Retention
from css.store.etcd_gate import MAX_WRITES, Keys, outcomes, parts, transaction
from css.store.etcd_watch import EtcdWatch
from css.store.etcd_wire import Wire

# Records of one answer: 750 kB of usual ones.
_PAGE = 500

# Entries that expire at about the same time share a lease, which lives a twentieth longer than asked. All that it
# holds goes at one revision: so it takes a bounded number of keys.
_LEASE_SHARE = 0.05
_LEASE_KEYS = 1000

T = TypeVar("T")


class EtcdStore:
    """See `css.store.Store` for what it promises."""

    max_writes = MAX_WRITES

    def __init__(self, settings: Settings, retention: Retention) -> None:
        self._keys = Keys(settings.etcd_prefix)
        self._wire = Wire(settings)
        self._retention = retention
        self._leases = _Leases(self._wire.grant)
        self._epoch = ""
        # One commit, one listing and what an operator asks for.
        self._calls = trio.CapacityLimiter(4)

    def __repr__(self) -> str:
        return f"<EtcdStore {self._keys.prefix!r} {self._wire!r}>"

    async def commit(self, writes: Sequence[Write]) -> Receipt:
        if len(writes) > self.max_writes or len({write.change.key for write in writes}) != len(writes):
            raise ValueError("at most one write per key, and at most max_writes of them")
        revision = 0
        lost: list[tuple[Write, Record | None]] = []
        for part in [*parts(writes)]:
            receipt = await self._run(partial(self._commit, part))
            revision = receipt.revision
            lost += receipt.lost
        return Receipt(revision, tuple(lost))

    async def snapshot(self, take: Callable[[Sequence[Record]], None]) -> Head:
        start, revision, live = self._keys.prefix, 0, set[Key]()
        while True:
            answer, records = await self._run(partial(self._page, start, revision, live))
            revision = revision or answer.header.revision
            take(records)
            if not answer.more:
                self._epoch = f"{answer.header.cluster_id:x}"
                return Head(self._epoch, revision)
            start = answer.kvs[-1].key + b"\0"

    @asynccontextmanager
    async def watch(self, after: int) -> AsyncIterator[EtcdWatch]:
        watch = EtcdWatch(self._wire, self._keys, after)
        try:
            await self._check(after, await watch.wait_created())
            yield watch
        finally:
            await watch.aclose()

    async def compact(self, floor: int) -> None:
        try:
            await self._run(partial(self._wire.kv, "Compact", etcdrpc.CompactionRequest(revision=floor)))
        except Compacted:
            return  # so far or further, by somebody else; or there is nothing so far yet

    def close(self) -> None:
        self._wire.close()

    async def _run(self, call: Callable[[], T]) -> T:
        """Never abandoned once begun; every call has its deadline."""
        return await trio.to_thread.run_sync(call, limiter=self._calls)

    async def _check(self, after: int, served: Head) -> None:
        """Other data (another cluster, a backup restored) must not be followed as if it were the same."""
        if self._epoch and served.epoch != self._epoch:
            raise Compacted
        if after > served.revision:
            # A member may lag behind; a listing asks the majority.
            request = etcdrpc.RangeRequest(key=self._keys.prefix, count_only=True)
            head = (await self._run(partial(self._wire.kv, "Range", request))).header
            if after > head.revision:
                raise Compacted

    def _page(self, start: bytes, revision: int, live: set[Key]) -> tuple[Any, list[Record]]:
        request = etcdrpc.RangeRequest(key=start, range_end=self._keys.end, revision=revision, limit=_PAGE)
        try:
            answer = self._wire.kv("Range", request)
        except Compacted as error:  # between two pages
            raise Unavailable("etcd", "compacted during the listing") from error
        records = []
        for pair in answer.kvs:
            record = self._keys.record(pair)
            # Tombstones are listed last of all: by then every live key is known.
            if record is None or (record.body is None and record.key in live):
                continue
            if record.body is not None:
                live.add(record.key)
            records.append(record)
        return answer, records

    def _commit(self, writes: Sequence[Write]) -> Receipt:
        for again in (True, False):
            try:
                answer = self._wire.kv("Txn", transaction(writes, self._keys, self._lease))
            except Unavailable as error:
                if again and "lease not found" in error.why:
                    self._leases.clear()  # revoked, or lost with a restore
                    continue
                raise
            lost = outcomes(answer, writes, self._keys)
            if len(lost) < len(writes):
                return Receipt(answer.header.revision, tuple(lost))
            # Nothing was written: the header has the revision of some neighbour's key, which no watch of ours brings.
            return Receipt(max((current.revision for _, current in lost if current), default=0), tuple(lost))
        raise AssertionError("unreachable")

    def _lease(self, write: Write) -> int:
        age = self._retention.of(write.change)
        return 0 if age is None else self._leases.take(age)


class _Leases:
    """The leases that new entries join, one per age. Used by one commit at a time."""

    def __init__(self, grant: Callable[[int], int]) -> None:
        self._grant = grant
        self._open: dict[float, tuple[int, float, int]] = {}

    def take(self, age: float) -> int:
        """The lease of an entry that is to stay for `age` seconds at least."""
        lease, since, room = self._open.get(age, (0, 0.0, 0))
        now = time.monotonic()
        if not room or now - since > age * _LEASE_SHARE:
            lease, since, room = self._grant(math.ceil(age * (1 + _LEASE_SHARE))), now, _LEASE_KEYS
        self._open[age] = lease, since, room - 1
        return lease

    def clear(self) -> None:
        self._open.clear()


@asynccontextmanager
async def open_etcd(settings: Settings, retention: Retention) -> AsyncIterator[EtcdStore]:
    """The store at `settings.etcd_endpoints`. Raises `ConfigError` for wrong settings; connects on first use."""
    store = EtcdStore(settings, retention)
    try:
        yield store
    finally:
        store.close()

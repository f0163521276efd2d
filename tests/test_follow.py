"""The way out of the store: what readers see when it comes and goes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from css.errors import Compacted, Unavailable
from css.follow import Live, follow
from css.metrics import Metrics
from css.model import Batch, Head, Key, Record
from css.status import Status


def rec(number: int, revision: int) -> Record:
    return Record(Key("task", "c", str(number)), revision, revision, b'{"detail":{"lastStatus":"RUNNING"}}')


class ScriptedStore:
    """A store whose snapshots and watches are written down: each step is a batch or an error."""

    def __init__(self, snapshots: list[object], watches: list[list[object]]) -> None:
        self.snapshots, self.watches = snapshots, watches
        self.watched_after: list[int] = []

    async def snapshot(self, take: Callable[[Sequence[Record]], None]) -> Head:
        await trio.lowlevel.checkpoint()
        step = self.snapshots.pop(0)
        if isinstance(step, Exception):
            raise step
        assert isinstance(step, int)
        take([rec(number, number) for number in range(1, step + 1)])
        return Head("epoch", step)

    @asynccontextmanager
    async def watch(self, after: int) -> AsyncIterator[ScriptedStore]:
        self.watched_after.append(after)
        if not self.watches:
            await trio.sleep_forever()
        self.steps = self.watches.pop(0)
        yield self

    async def receive(self) -> Sequence[Batch]:
        await trio.lowlevel.checkpoint()
        if not self.steps and not self.watches:
            await trio.sleep_forever()
        if not self.steps:
            raise Unavailable("store", "lost")
        step = self.steps.pop(0)
        if isinstance(step, Exception):
            raise step
        assert isinstance(step, int)
        return [Batch(step, (rec(step, step),))]


async def followed(store: ScriptedStore, status: Status, live: Live, until: int) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(follow, store, live, status, Metrics())
        while live.view.revision < until:
            await live.moved.wait()
        nursery.cancel_scope.cancel()


async def test_a_lost_connection_resumes_at_the_last_revision(autojump_clock: MockClock) -> None:
    """After `Unavailable` the watch goes on from what was last seen: no second listing, no gap in the log."""
    store, live = ScriptedStore([1], [[2, 3], [4]]), Live()
    await followed(store, Status(), live, 4)
    assert store.watched_after[:2] == [1, 3]
    assert [step.revision for step in live.log.read(1)] == [2, 3, 4]


async def test_a_compacted_store_is_listed_again(autojump_clock: MockClock) -> None:
    """After `Compacted` the view is loaded anew, and followers find themselves below the log's floor."""
    store, live = ScriptedStore([1, 7], [[2, Compacted(6)], [8]]), Live()
    await followed(store, Status(), live, 8)
    assert live.view.count("task") == 8
    with pytest.raises(Compacted):
        live.log.read(2)


async def test_an_unreachable_store_is_said_and_waited_for(autojump_clock: MockClock) -> None:
    """Readiness names the reason while the store is away, also at the very start, and returns by itself."""
    store, live, status = ScriptedStore([Unavailable("etcd", "refused")] * 3 + [2], [[3]]), Live(), Status(["store"])
    said: list[dict[str, str]] = []

    async def watch_status() -> None:
        while not status.ready:
            said.append(status.missing())
            await trio.sleep(0.05)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch_status)
        await followed(store, status, live, 3)
        nursery.cancel_scope.cancel()
    assert {"store": "etcd: refused"} in said
    assert status.ready

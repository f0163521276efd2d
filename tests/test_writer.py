"""The writer over a real embedded store, and its pure decisions."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, wait_all_tasks_blocked

from css import envelope
from css.config import Writer as Settings
from css.errors import Rejected, Unavailable
from css.follow import Live, follow
from css.metrics import Metrics
from css.model import Change, Delivery, Forget, Gone, Head, Key, Put, Receipt, Write
from css.normalize import Policy
from css.status import Status
from css.store import Retention, Store
from css.store.embedded import open_embedded
from css.writer import SHELF, Writer, coalesce, decide, write

QUICK = Settings(batch=20, linger_ms=1)


def key(number: int, kind: Any = "task") -> Key:
    return Key(kind, "default", f"arn:aws:ecs:us-east-1:111122223333:task/{number}")


def put(number: int, version: int, kind: Any = "task") -> Put:
    detail = {"version": version, "lastStatus": "RUNNING"}
    return Put(key(number, kind), version, envelope.encode(detail, detail_type="t", source="aws.ecs"))


class Flaky:
    """A store that fails before or after it has committed, as a lost connection does."""

    def __init__(self, store: Store, failures: Sequence[str]) -> None:
        self.store = store
        self.failures = [*failures]
        self.max_writes = store.max_writes
        self.largest: int | None = None

    async def commit(self, writes: Sequence[Write]) -> Receipt:
        failure = self.failures.pop(0) if self.failures else ""
        if failure == "before":
            raise Unavailable("store", "gone")
        changes = [w.change for w in writes]
        if self.largest and any(isinstance(c, Put) and len(c.body) > self.largest for c in changes):
            raise Rejected("too large")
        receipt = await self.store.commit(writes)
        if failure == "after":
            raise Unavailable("store", "the answer was lost")
        return receipt

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)


@asynccontextmanager
async def running(path: Path, failures: Sequence[str] = ()) -> AsyncIterator[tuple[Flaky, Live, Writer]]:
    status, metrics, live = Status(), Metrics(), Live()
    async with open_embedded(path / "css.db", Retention()) as embedded, trio.open_nursery() as nursery:
        store = Flaky(embedded, failures)
        await nursery.start(follow, store, live, status, metrics)
        writer = Writer(store, live, QUICK, Policy(), status, metrics)
        nursery.start_soon(writer.settle_seen)
        yield store, live, writer
        nursery.cancel_scope.cancel()


async def seen(live: Live, revision: int) -> None:
    with trio.fail_after(5):
        while live.view.revision < revision:
            await live.moved.wait()


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 6)), max_size=30))
def test_one_change_per_key_the_highest_version(pairs: list[tuple[int, int]]) -> None:
    """Within a batch only the highest version of each key is left, whatever the order."""
    latest = coalesce(put(number, version) for number, version in pairs)
    assert {k: c.version for k, c in latest.items() if isinstance(c, Put)} == {
        key(n): max(v for m, v in pairs if m == n) for n, _ in pairs
    }


def test_a_removal_beats_the_state_it_removes_and_loses_to_a_newer_one() -> None:
    """Order of arrival does not matter between a put and a removal of the same key."""
    gone = Gone(key(1), 5, if_revision=9)
    for changes in ([put(1, 5), gone], [gone, put(1, 5)]):
        assert coalesce(changes) == {key(1): gone}
    for changes in ([put(1, 6), gone], [gone, put(1, 6)]):
        assert coalesce(changes) == {key(1): put(1, 6)}


def test_only_a_strictly_higher_version_replaces() -> None:
    """Duplicates and late events are dropped; a removal applies to exactly the revision it saw."""
    known = Receipt(7)
    row = type("Row", (), {"revision": known.revision, "version": 4})()
    assert decide(put(1, 4), row) is None
    assert decide(put(1, 3), row) is None
    assert decide(put(1, 5), row) == Write(put(1, 5), 7)
    assert decide(put(1, 0), None) == Write(put(1, 0), 0)
    assert decide(Gone(key(1), 4, 7), row) == Write(Gone(key(1), 4, 7), 7)
    assert decide(Gone(key(1), 4, 6), row) is None
    assert decide(Forget(key(1), 3), None) is None


async def test_shuffled_and_duplicated_events_end_at_the_highest_version(tmp_path: Path) -> None:
    """Two writers on one store, each given all events in its own order, end at the truth; each event settles once."""
    rng = random.Random(7)
    events = [put(number, version) for number in range(40) for version in range(1, 9)] * 2
    settled: list[int] = []

    def deliver(change: Change, index: int) -> Delivery:
        return Delivery((change,), lambda: settled.append(index))

    async with running(tmp_path) as (store, live, _), trio.open_nursery() as replica:
        other = Live()
        one = Writer(store, live, QUICK, Policy(), Status(), Metrics())
        await replica.start(follow, store, other, Status(), Metrics())
        two = Writer(store, other, QUICK, Policy(), Status(), Metrics())

        async def feed(writer: Writer, base: int, seed: int) -> None:
            order = [*enumerate(events)]
            random.Random(seed).shuffle(order)
            sender, receiver = trio.open_memory_channel[Sequence[Delivery]](0)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(write, receiver, writer, QUICK)
                async with sender:
                    while order:
                        size = rng.randint(1, 30)
                        await sender.send([deliver(change, base + index) for index, change in order[:size]])
                        del order[:size]

        async with trio.open_nursery() as nursery:
            nursery.start_soon(feed, one, 0, 1)
            nursery.start_soon(feed, two, len(events), 2)
        head = await store.snapshot(lambda _: None)
        await seen(live, head.revision)
        replica.cancel_scope.cancel()
        assert sorted(settled) == [*range(2 * len(events))]
        assert {row.key: row.version for row in live.view.rows("task")} == {key(number): 8 for number in range(40)}


async def test_nothing_is_settled_while_the_store_is_away(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A commit that failed, or whose answer was lost, is repeated until it is in; only then is it settled."""
    async with running(tmp_path, ["before", "after", "before"]) as (store, live, writer):
        settled: list[int] = []

        def note() -> None:
            assert store.failures == []
            assert live.view.row(key(1)) is not None  # what is settled can be read
            settled.append(1)

        await writer.commit([Delivery((put(1, 1),), note)])
        await seen(live, 1)
        await wait_all_tasks_blocked()
        assert settled == [1]
        assert [row.version for row in live.view.rows("task")] == [1]


async def test_a_late_duplicate_cannot_bring_a_removed_object_back(tmp_path: Path) -> None:
    """The tombstone's version outlives the object: only a higher version is news."""
    async with running(tmp_path) as (_, live, writer):
        await writer.commit([Delivery((put(1, 5),), lambda: None)])
        await seen(live, 1)
        await writer.commit([Delivery((Gone(key(1), 5, 1),), lambda: None)])
        await writer.commit([Delivery((put(1, 5),), lambda: None)])
        await seen(live, 2)
        assert live.view.row(key(1)) is None
        await writer.commit([Delivery((put(1, 6),), lambda: None)])
        await seen(live, 3)
        assert live.view.rows("task")[0].version == 6


async def test_a_change_the_store_refuses_is_shelved_and_the_others_go_on(tmp_path: Path) -> None:
    """One value too large for the store ends on the quarantine shelf; its neighbours are committed."""
    async with running(tmp_path) as (store, live, writer):
        store.largest = 100_000
        huge = Put(key(5), 1, envelope.encode({"x": "y" * 200_000}, detail_type="t", source="aws.ecs"))
        settled: list[int] = []
        await writer.commit([Delivery((put(n, 1) if n != 5 else huge,), lambda: settled.append(1)) for n in range(9)])
        head = await store.snapshot(lambda _: None)
        await seen(live, head.revision)
        await wait_all_tasks_blocked()
        assert len(settled) == 9
        assert live.view.count("task") == 8
        assert b"too large" in live.view.rows("quarantine")[0].detail


async def test_the_shelf_is_bounded(tmp_path: Path) -> None:
    """Past its bound the shelf forgets its oldest entries."""
    async with running(tmp_path) as (store, live, writer):
        for start in range(0, SHELF + 50, 50):
            entries = [put(n, 0, "quarantine") for n in range(start, start + 50)]
            await writer.commit([Delivery(tuple(entries), lambda: None)])
            await seen(live, (await store.snapshot(lambda _: None)).revision)
        ids = {row.key for row in live.view.rows("quarantine")}
        assert len(ids) == SHELF
        assert key(SHELF + 49, "quarantine") in ids
        assert key(0, "quarantine") not in ids


async def test_a_store_put_back_by_a_backup_is_told_again(tmp_path: Path) -> None:
    """What was committed but not seen when the store went back in time is committed once more, then settled."""
    async with running(tmp_path) as (store, live, _):
        behind = Live()  # never sees anything by itself
        writer = Writer(store, behind, QUICK, Policy(), Status(), Metrics())
        settled: list[int] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(writer.settle_seen)
            await writer.commit([Delivery((put(1, 1),), lambda: settled.append(1))])
            await seen(live, 1)
            await store.commit([Write(Forget(key(1), 1), 1)])  # as if it had never been
            assert settled == []
            behind.load(Head("restored", 0), [])
            await wait_all_tasks_blocked(0.05)
            await seen(live, 3)
            behind.load(Head("restored", 3), [])
            await wait_all_tasks_blocked(0.05)
            nursery.cancel_scope.cancel()
        assert settled == [1]
        assert [row.version for row in live.view.rows("task")] == [1]


async def test_a_commit_that_waits_through_a_restore_loses_nothing(tmp_path: Path) -> None:
    """What was committed to the lost history, or waited meanwhile, is in the restored store before it is settled."""
    (tmp_path / "lost").mkdir()
    (tmp_path / "restored").mkdir()
    retention, live, settled = Retention(), Live(), list[str]()
    async with (
        open_embedded(tmp_path / "lost" / "css.db", retention) as lost,
        open_embedded(tmp_path / "restored" / "css.db", retention) as restored,
        trio.open_nursery() as nursery,
    ):
        store = Flaky(lost, [])
        writer = Writer(store, live, QUICK, Policy(), Status(), Metrics())
        nursery.start_soon(writer.settle_seen)
        for version in range(1, 6):
            await writer.commit([Delivery((put(1, version),), lambda: settled.append("one"))])
        store.failures = ["before"]
        nursery.start_soon(writer.commit, [Delivery((put(2, 1),), lambda: settled.append("two"))])
        await wait_all_tasks_blocked()
        store.store = restored
        live.load(Head("restored", 0), [])
        assert settled == []
        with trio.fail_after(5):
            async with restored.watch(0) as watch:
                while live.view.revision < 6:
                    for batch in await watch.receive():
                        live.apply(batch)
        await wait_all_tasks_blocked(0.05)
        assert sorted(settled) == ["one"] * 5 + ["two"]
        assert {row.key: row.version for row in live.view.rows("task")} == {key(1): 5, key(2): 1}
        nursery.cancel_scope.cancel()

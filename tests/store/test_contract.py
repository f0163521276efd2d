"""What `css/store/__init__.py` promises, of both stores: one embedded file, and a real etcd."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
import trio

from css import envelope
from css.errors import Compacted
from css.model import FORGOTTEN, TOMBSTONE_FORGOTTEN, Batch, Change, Forget, Gone, Key, Put, Record, Write
from css.store import Retention, Store
from tests.store.conftest import Open


def key(number: int, kind: Any = "task") -> Key:
    return Key(kind, "default", f"arn:aws:ecs:us-east-1:111122223333:task/default/{number}")


def put(number: int, version: int, kind: Any = "task", size: int = 0) -> Put:
    detail = {"version": version, "lastStatus": "RUNNING", "padding": "x" * size}
    return Put(key(number, kind), version, envelope.encode(detail, detail_type="t", source="aws.ecs"))


async def listed(store: Store) -> tuple[int, dict[Key, Record]]:
    records: list[Record] = []
    head = await store.snapshot(records.extend)
    assert len({record.key for record in records}) == len(records)
    return head.revision, {record.key: record for record in records}


async def write(store: Store, change: Put | Gone | Forget, expected: int = 0) -> int:
    receipt = await store.commit([Write(change, expected)])
    assert not receipt.lost
    return receipt.revision


async def received(store: Store, after: int, until: int) -> list[Batch]:
    batches: list[Batch] = []
    with trio.fail_after(10):
        async with store.watch(after) as watch:
            while not batches or batches[-1].revision < until:
                batches += await watch.receive()
    return batches


async def test_a_write_needs_the_revision_it_expects(open_store: Open) -> None:
    """Only a write whose key has its expected revision is applied; the others come back with what the store holds."""
    async with open_store() as store:
        first = await write(store, put(1, 1))
        receipt = await store.commit([Write(put(1, 9), 0), Write(put(2, 1), 0), Write(put(3, 1), first)])
        assert {w.change.key: current and current.version for w, current in receipt.lost} == {key(1): 1, key(3): None}
        assert receipt.lost[0][1] == Record(key(1), first, 1, put(1, 1).body)
        _, records = await listed(store)
        assert {k: r.version for k, r in records.items()} == {key(1): 1, key(2): 1}
        assert records[key(2)].revision == receipt.revision > first


async def test_the_life_of_a_key(open_store: Open) -> None:
    """Put, replace, remove (a tombstone keeps the version), put again, forget: each gated by the last revision."""
    async with open_store() as store:
        one = await write(store, put(1, 1))
        two = await write(store, put(1, 2), one)
        stale = await store.commit([Write(Gone(key(1), 1, one), one)])
        assert stale.lost[0][1] == Record(key(1), two, 2, put(1, 2).body)
        three = await write(store, Gone(key(1), 2, two), two)
        assert (await listed(store))[1] == {key(1): Record(key(1), three, 2, None)}
        blocked = await store.commit([Write(put(1, 5), 0)])
        assert blocked.lost[0][1] == Record(key(1), three, 2, None)
        four = await write(store, put(1, 3), three)
        assert (await listed(store))[1] == {key(1): Record(key(1), four, 3, put(1, 3).body)}
        five = await write(store, Forget(key(1), four), four)
        assert (await listed(store))[1] == {}
        six = await write(store, put(1, 4))
        seven = await write(store, Gone(key(1), 4, six), six)
        eight = await write(store, Forget(key(1), seven), seven)
        assert (await listed(store))[1] == {}
        batches = await received(store, one, eight)
        assert [(b.revision, [(r.version, r.body is None) for r in b.records]) for b in batches] == [
            (two, [(2, False)]),
            (three, [(2, True)]),
            (four, [(3, False)]),
            (five, [(FORGOTTEN, True)]),
            (six, [(4, False)]),
            (seven, [(4, True)]),
            (eight, [(TOMBSTONE_FORGOTTEN, True)]),
        ]


async def test_a_commit_repeated_after_a_lost_answer_changes_nothing(open_store: Open) -> None:
    """The same writes again lose to themselves: the state and its revision stay."""
    async with open_store() as store:
        writes = [Write(put(number, 1), 0) for number in range(5)]
        first = await store.commit(writes)
        again = await store.commit(writes)
        assert [current and current.revision for _, current in again.lost] == [first.revision] * 5
        assert {r.revision for r in (await listed(store))[1].values()} == {first.revision}


async def test_more_than_one_write_a_key_is_a_defect(open_store: Open) -> None:
    """A batch has one write per key and no more than `max_writes`."""
    async with open_store() as store:
        with pytest.raises(ValueError, match="one write per key"):
            await store.commit([Write(put(1, 1), 0), Write(put(1, 2), 0)])
        too_many = [Write(put(number, 1), 0) for number in range(store.max_writes + 1)]
        with pytest.raises(ValueError, match="max_writes"):
            await store.commit(too_many)
        full = await store.commit(too_many[:-1])
        assert not full.lost
        for make in (put, lambda number, version: Gone(key(number), version, 0)):
            full = await store.commit([Write(make(n, 2), full.revision) for n in range(store.max_writes)])
            assert not full.lost


async def test_large_batches_go_through(open_store: Open) -> None:
    """A full batch of large objects is committed, whatever a request of the store may hold."""
    async with open_store() as store:
        receipt = await store.commit([Write(put(number, 1, size=60_000), 0) for number in range(60)])
        assert not receipt.lost
        revision, records = await listed(store)
        assert (revision, len(records)) == (receipt.revision, 60)


@pytest.mark.parametrize("seed", range(2))
async def test_the_gate_does_what_a_dictionary_does(open_store: Open, seed: int) -> None:
    """Whatever is written and expected, right or wrong, live or removed: applied exactly where it was right."""
    rng = random.Random(seed)
    async with open_store() as store:
        model: dict[Key, Record] = {}
        seen = [0]
        for step in range(80):
            writes = []
            for number in rng.sample(range(5), rng.randint(1, 4)):
                current = model.get(key(number))
                right = current.revision if current else 0
                changes: list[Change] = [put(number, step), Gone(key(number), step, right), Forget(key(number), right)]
                writes.append(Write(rng.choice(changes), right if rng.random() < 0.7 else rng.choice(seen)))
            receipt = await store.commit(writes)
            wrong = [w for w in writes if w.expected != (model[k].revision if (k := w.change.key) in model else 0)]
            assert receipt.lost == tuple((w, model.get(w.change.key)) for w in wrong)
            for w in writes:
                if w not in wrong:
                    apply(model, w.change, receipt.revision)
            seen.append(receipt.revision)
            assert (await listed(store))[1] == model


def apply(model: dict[Key, Record], change: Change, revision: int) -> None:
    match change:
        case Put(k, version, body):
            model[k] = Record(k, revision, version, body)
        case Gone(k, version):
            model[k] = Record(k, revision, version, None)
        case Forget(k):
            model.pop(k, None)


@pytest.mark.parametrize("seed", range(3))
async def test_the_watch_is_ordered_complete_and_resumable(open_store: Open, seed: int) -> None:
    """From any revision the batches are all later ones, whole, in order, once; cut anywhere, a new watch goes on."""
    rng = random.Random(seed)
    async with open_store() as store:
        start, _ = await listed(store)
        known: dict[Key, Record] = {}
        expected: list[tuple[int, dict[Key, int]]] = []
        for _ in range(60):
            writes = []
            for number in rng.sample(range(6), rng.randint(1, 4)):
                current = known.get(key(number))
                revision, version = (current.revision, current.version) if current else (0, 0)
                live = current is not None and current.body is not None
                gone = live and rng.random() < 0.3
                change = Gone(key(number), version, revision) if gone else put(number, version + 1)
                writes.append(Write(change, revision))
            receipt = await store.commit(writes)
            assert not receipt.lost
            for w in writes:
                body = w.change.body if isinstance(w.change, Put) else None
                known[w.change.key] = Record(w.change.key, receipt.revision, w.change.version, body)  # type: ignore[union-attr]
            expected.append((receipt.revision, {w.change.key: known[w.change.key].version for w in writes}))
        head = expected[-1][0]
        assert (await listed(store))[1] == known

        def told(batches: Sequence[Batch]) -> list[tuple[int, dict[Key, int]]]:
            return [(b.revision, {r.key: r.version for r in b.records}) for b in batches]

        assert told(await received(store, start, head)) == expected
        for cut in rng.sample(range(len(expected) - 1), 5):
            after = expected[cut][0]
            assert told(await received(store, after, head)) == expected[cut + 1 :]


async def test_a_waiting_watch_sees_what_comes(open_store: Open) -> None:
    """A watch at the head waits, then brings each commit."""
    async with open_store() as store:
        revision = await write(store, put(1, 1))
        seen: list[int] = []

        async def watching(task_status: trio.TaskStatus[None]) -> None:
            async with store.watch(revision) as watch:
                task_status.started()
                while len(seen) < 3:
                    seen.extend(batch.revision for batch in await watch.receive())

        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                await nursery.start(watching)
                wanted = [await write(store, put(number, 1)) for number in (2, 3, 4)]
        assert seen == wanted


async def test_what_is_compacted_is_said(open_store: Open) -> None:
    """Below the floor, and ahead of the head (other data), a watch raises `Compacted`: never silence, never a gap."""
    async with open_store() as store:
        revisions = [await write(store, put(number, 1)) for number in range(5)]
        await store.compact(revisions[3])
        await store.compact(revisions[1])  # already done
        assert [b.revision for b in await received(store, revisions[3], revisions[4])] == [revisions[4]]
        for after in (revisions[0] - 1, revisions[2], revisions[-1] + 1000):
            with trio.fail_after(10), pytest.raises(Compacted):
                async with store.watch(after) as watch:
                    await watch.receive()
        assert len((await listed(store))[1]) == 5


async def test_what_expires_is_forgotten(open_store: Open) -> None:
    """Tombstones and event log entries end with their time, and the watch says so; state stays."""
    async with open_store(Retention(tombstone=1.0, event=1.0)) as store:
        kept = await write(store, put(1, 1))
        removed = await write(store, put(2, 1))
        await write(store, Gone(key(2), 1, removed), removed)
        last = await write(store, put(3, 0, "event"))
        forgotten: dict[Key, int] = {}
        with trio.fail_after(15):
            async with store.watch(last) as watch:
                while len(forgotten) < 2:
                    for batch in await watch.receive():
                        forgotten |= {r.key: r.version for r in batch.records if r.body is None}
        assert forgotten == {key(2): TOMBSTONE_FORGOTTEN, key(3, "event"): FORGOTTEN}
        assert {k: r.revision for k, r in (await listed(store))[1].items()} == {key(1): kept}


async def test_state_survives_reopening(open_store: Open) -> None:
    """What was committed is there after the process has gone, with its revisions and under the same epoch."""
    async with open_store() as store:
        revision = await write(store, put(1, 1))
        epoch = (await store.snapshot(lambda _: None)).epoch
    async with open_store() as store:
        head = await store.snapshot(lambda _: None)
        assert (head.epoch, head.revision) == (epoch, revision)
        assert (await listed(store))[1] == {key(1): Record(key(1), revision, 1, put(1, 1).body)}
        assert await write(store, put(1, 2), revision) > revision


async def test_a_large_snapshot_comes_in_pages_of_one_revision(open_store: Open) -> None:
    """However many pages, they are one state, whatever is committed meanwhile."""
    async with open_store() as store:
        for start in range(0, 2500, 100):
            await store.commit([Write(put(number, 1), 0) for number in range(start, start + 100)])
        pages: list[int] = []
        records: list[Record] = []

        def take(page: Sequence[Record]) -> None:
            pages.append(len(page))
            records.extend(page)

        async def disturb() -> None:
            for number in range(5000, 5010):
                await store.commit([Write(put(number, 1), 0)])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(disturb)
            head = await store.snapshot(take)
        assert len(pages) > 2
        assert all(record.revision <= head.revision for record in records)
        assert {r.key for r in records} >= {key(number) for number in range(2500)}

"""What only the etcd store promises: the Go service's keys, several handles, and a server that fails in every way."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import msgspec
import pytest
import trio
from etcd3 import etcdrpc
from etcd3.etcdrpc import kv_pb2
from hypothesis import given, settings
from hypothesis import strategies as st

from css.config import Store as Settings
from css.errors import Compacted, ConfigError, Rejected, Unavailable
from css.model import FORGOTTEN, Batch, Gone, Key, Put, Record, Write
from css.store import Retention
from css.store.etcd import EtcdStore, _Leases, open_etcd
from css.store.etcd_gate import MAX_BYTES, Keys
from css.store.etcd_watch import Assembly
from css.view import View
from tests.etcd_server import EtcdServer
from tests.store.test_contract import key, listed, put, received, write

PREFIX = "etcd-only/"


def at(*servers: EtcdServer, **more: Any) -> Settings:
    return Settings(etcd_endpoints=tuple(server.endpoint for server in servers), etcd_prefix=PREFIX, **more)


@pytest.fixture
def own_etcd(tmp_path: Path) -> Iterator[EtcdServer]:
    """One that a test may kill."""
    with EtcdServer(tmp_path / "etcd") as server:
        yield server


@pytest.fixture
def stranger(etcd: EtcdServer) -> Iterator[Any]:
    """Another client of the same etcd, which keeps no rules; it starts from nothing."""
    with grpc.insecure_channel(etcd.endpoint) as channel:
        kv = etcdrpc.KVStub(channel)
        kv.DeleteRange(etcdrpc.DeleteRangeRequest(key=b"\0", range_end=b"\0"))
        yield kv


async def insist(call: Callable[[], Any]) -> Any:
    with trio.fail_after(30):
        while True:
            try:
                return await call()
            except Unavailable:
                await trio.sleep(0.1)


async def test_a_store_of_the_go_service_is_taken_over(etcd: EtcdServer, stranger: Any) -> None:
    """Its events (`detail`) and its reconciler's records (`Detail`) are read; strangers' keys are not ours to see."""
    arn = "arn:aws:ecs:us-east-1:111122223333:task/12345678-1234-1234-1234-123456789012"
    values = {
        f"task/default/{arn}1": b'{"version":"0","id":"a","detail-type":"ECS Task","detail":{"version":7}}',
        f"task/default/{arn}2": b'{"ID":"b","Account":"1","Detail":{"TaskARN":"x","Version":9}}',
        f"task/default/{arn}3": b"not JSON",
        "task/default": b"{}",
        "lock/leader/1": b"{}",
        "task/\xff/x": b"{}",
        "tombstone/task/default/x": b"not a number",
    }
    for path, value in values.items():
        stranger.Put(etcdrpc.PutRequest(key=PREFIX.encode() + path.encode("latin-1"), value=value))
    stranger.Put(etcdrpc.PutRequest(key=b"etcd-onlz/task/default/x", value=b"{}"))
    async with open_etcd(at(etcd), Retention()) as store:
        head, records = await listed(store)
        assert {k.id: r.version for k, r in records.items()} == {f"{arn}1": 7, f"{arn}2": 9, f"{arn}3": 0, "x": 0}
        current = records[Key("task", "default", f"{arn}2")]
        revision = await write(store, put_as(current.key, 10), current.revision)
        stranger.Put(etcdrpc.PutRequest(key=b"etcd-only/lock/leader/1", value=b"more"))
        stranger.DeleteRange(etcdrpc.DeleteRangeRequest(key=PREFIX.encode() + current.key.path.encode()))
        batches = await received(store, head, revision + 2)
        assert [(b.revision, [r.version for r in b.records]) for b in batches] == [
            (revision, [10]),
            (revision + 2, [FORGOTTEN]),
        ]


async def test_our_keys_are_those_of_the_go_service(etcd: EtcdServer, stranger: Any) -> None:
    """A task is at `<prefix>task/<cluster>/<arn>` as its envelope; removed, nothing is left that reads as a task."""
    async with open_etcd(at(etcd), Retention()) as store:
        revision = await write(store, put(1, 3))

        def tasks() -> dict[bytes, bytes]:
            found = stranger.Range(etcdrpc.RangeRequest(key=b"etcd-only/task/", range_end=b"etcd-only/task0"))
            return {pair.key: pair.value for pair in found.kvs}

        assert tasks() == {b"etcd-only/" + key(1).path.encode(): put(1, 3).body}
        await write(store, Gone(key(1), 3, revision), revision)
        assert tasks() == {}


async def test_an_object_put_back_beside_its_tombstone_counts(etcd: EtcdServer, stranger: Any) -> None:
    """The Go service knows no tombstones: what it puts back is the record, and can be replaced and removed."""
    async with open_etcd(at(etcd), Retention()) as store:
        revision = await write(store, put(1, 3))
        await write(store, Gone(key(1), 3, revision), revision)
        back = stranger.Put(etcdrpc.PutRequest(key=PREFIX.encode() + key(1).path.encode(), value=put(1, 4).body))
        current = Record(key(1), back.header.revision, 4, put(1, 4).body)
        assert (await listed(store))[1] == {key(1): current}
        assert (await store.commit([Write(put(1, 5), 0)])).lost[0][1] == current
        last = await write(store, put(1, 5), current.revision)
        found = stranger.Range(etcdrpc.RangeRequest(key=PREFIX.encode(), range_end=b"etcd-only0"))
        assert [pair.mod_revision for pair in found.kvs] == [last]


async def test_an_object_put_back_outlives_its_tombstone(etcd: EtcdServer, stranger: Any) -> None:
    """When the tombstone expires beside what the Go service put back, the view keeps that, as the store does."""
    async with open_etcd(at(etcd), Retention(tombstone=1.0)) as store:
        view = View()
        start, _ = await listed(store)
        revision = await write(store, put(1, 3))
        await write(store, Gone(key(1), 3, revision), revision)
        back = stranger.Put(etcdrpc.PutRequest(key=PREFIX.encode() + key(1).path.encode(), value=put(1, 4).body))
        with trio.fail_after(15):
            async with store.watch(start) as watch:
                while view.revision <= back.header.revision:
                    for batch in await watch.receive():
                        step = view.apply(batch)
        assert step.changes == ()
        row = view.row(key(1))
        assert row is not None
        assert (await listed(store))[1] == {key(1): Record(key(1), row.revision, 4, put(1, 4).body)}


def test_of_two_removals_the_one_of_the_object_counts() -> None:
    """An object and its tombstone removed at one revision: nothing is left, in whatever order they are told."""
    keys = Keys("p/")
    names = [keys.live(key(1)), keys.tombstone(key(1))]
    for order in (names, names[::-1]):
        removals = [
            kv_pb2.Event(type=kv_pb2.Event.DELETE, kv=kv_pb2.KeyValue(key=name, mod_revision=5)) for name in order
        ]
        assert Assembly(keys, 0).add(removals, more=False) == [Batch(5, (Record(key(1), 5, FORGOTTEN, None),))]


def put_as(k: Key, version: int) -> Put:
    return Put(k, version, put(0, version).body)


async def test_two_handles_see_each_other(etcd: EtcdServer) -> None:
    """Replicas share one store: what one commits the other's watch brings, and gates hold between them."""
    async with open_etcd(at(etcd), Retention()) as one, open_etcd(at(etcd), Retention()) as two:
        start, _ = await listed(one)
        revision = await write(one, Put(key(7, "service"), 1, put(7, 1).body))
        assert [b.revision for b in await received(two, start, revision)] == [revision]
        assert (await two.commit([Write(Put(key(7, "service"), 2, b"{}"), 0)])).lost
        await write(two, Put(key(7, "service"), 2, b"{}"), revision)


async def test_catching_up_comes_in_fragments_yet_in_whole_batches(etcd: EtcdServer) -> None:
    """What is more than one message of etcd arrives in several; no batch is cut."""
    async with open_etcd(at(etcd), Retention()) as store:
        start, _ = await listed(store)
        numbers = range(10_000, 10_020)
        full = 0
        for version in range(1, 8):
            writes = [Write(Put(key(n, "cluster"), version, put(n, version, size=60_000).body), full) for n in numbers]
            full = (await store.commit(writes)).revision
        sizes: list[int] = []
        batches: list[Batch] = []
        with trio.fail_after(10):
            async with store.watch(start) as watch:
                while not batches or batches[-1].revision < full:
                    got = await watch.receive()
                    sizes.append(len(got))
                    batches += got
        assert [len(batch.records) for batch in batches] == [20] * 7
        assert len(sizes) > 2, "the test is too small to be about fragments"


events = st.lists(
    st.tuples(st.integers(1, 4), st.sampled_from(["live", "dead"]), st.booleans(), st.integers(0, 2)), max_size=12
)


@settings(deadline=None, max_examples=100)
@given(events, st.lists(st.integers(1, 4), max_size=12), st.integers(0, 4))
def test_batches_are_the_same_however_the_stream_is_cut(
    drawn: list[tuple[int, str, bool, int]], cuts: list[int], after: int
) -> None:
    """Fragments of any size make the batches that one message makes; no revision comes twice or out of order."""
    keys = Keys("p/")
    sent = []
    for revision, where, is_put, number in sorted(drawn, key=lambda event: event[0]):
        name = (keys.live if where == "live" else keys.tombstone)(Key("task", "c", str(number)))
        value = b'{"detail":{"version":3}}' if where == "live" else b"3"
        pair = kv_pb2.KeyValue(key=name, mod_revision=revision, value=value if is_put else b"")
        sent.append(kv_pb2.Event(type=kv_pb2.Event.PUT if is_put else kv_pb2.Event.DELETE, kv=pair))
    whole = Assembly(keys, after).add(sent, more=False)
    assembly, pieces, rest = Assembly(keys, after), [], sent
    for cut in cuts:
        pieces += assembly.add(rest[:cut], more=True)
        rest = rest[cut:]
    pieces += assembly.add(rest, more=False)
    assert pieces == whole
    assert [batch.revision for batch in whole] == sorted({e.kv.mod_revision for e in sent if e.kv.mod_revision > after})
    assert assembly.add(sent, more=False) == []


async def test_too_large_for_ever_is_rejected_before_anything_is_done(etcd: EtcdServer) -> None:
    """One object that no request can carry: `Rejected`, and none of its batch is applied; up to that it fits."""
    async with open_etcd(at(etcd), Retention()) as store:
        before, _ = await listed(store)
        huge = Put(key(1, "instance"), 1, b"x" * MAX_BYTES)
        with pytest.raises(Rejected) as rejected:
            await store.commit([Write(Put(key(2, "instance"), 1, b"{}"), 0), Write(huge, 0)])
        assert rejected.value.reason == "too large"
        assert (await listed(store))[0] == before
        fits = Put(key(1, "instance"), 1, b"x" * (MAX_BYTES - 10_000))
        assert not (await store.commit([Write(fits, 0)])).lost


async def test_a_lost_lease_is_replaced(etcd: EtcdServer) -> None:
    """A lease revoked behind our back costs nothing: the commit is made with a new one."""
    async with open_etcd(at(etcd), Retention()) as store:
        await write(store, put(1, 0, "event"))
        with grpc.insecure_channel(etcd.endpoint) as channel:
            for lease, _, _ in store._leases._open.values():
                etcdrpc.LeaseStub(channel).LeaseRevoke(etcdrpc.LeaseRevokeRequest(ID=lease))
        await write(store, put(2, 0, "event"))
        assert key(1, "event") not in (await listed(store))[1]


def test_leases_are_shared_yet_bounded() -> None:
    """Entries of one age share a lease, a thousand at most, since all of them go at one revision."""
    granted: list[int] = []

    def grant(seconds: int) -> int:
        granted.append(seconds)
        return len(granted)

    leases = _Leases(grant)
    taken = [leases.take(86400.0) for _ in range(2500)] + [leases.take(100.0)]
    assert [taken.count(lease) for lease in (1, 2, 3, 4)] == [1000, 1000, 500, 1]
    assert granted == [90720, 90720, 90720, 105]


@pytest.mark.parametrize("endpoint", ["", "localhost", "ftp://localhost:2379", "http://localhost:x", "http://h:1/path"])
async def test_malformed_endpoints_are_refused(endpoint: str) -> None:
    """`host:port`, `http://host:port` or `https://host:port`; anything else is a wrong setting."""
    with pytest.raises(ConfigError, match=r"store\.etcd_endpoints"):
        async with open_etcd(Settings(etcd_endpoints=(endpoint,)), Retention()):
            pass


async def test_unreadable_credentials_are_refused(tmp_path: Path) -> None:
    """A certificate or password file that cannot be read is a wrong setting, named in the error."""
    safe, missing = Settings(etcd_endpoints=("https://h:1",)), str(tmp_path / "missing")
    for name in ("etcd_ca", "etcd_cert", "etcd_key", "etcd_password_file"):
        with pytest.raises(ConfigError, match=rf"store\.{name}: cannot be read"):
            async with open_etcd(msgspec.structs.replace(safe, **{name: missing}), Retention()):
                pass


async def test_an_etcd_that_is_not_there_yet_is_unavailable(tmp_path: Path) -> None:
    """Opening needs no etcd; calls and watches are `Unavailable` until it is there, and then work by themselves."""
    server = EtcdServer(tmp_path / "etcd", fsync=False)
    async with open_etcd(at(server), Retention()) as store:
        with trio.fail_after(5):
            with pytest.raises(Unavailable, match="etcd: 127"):
                await listed(store)
            with pytest.raises(Unavailable, match="etcd: 127"):
                await write(store, put(1, 1))
            with pytest.raises(Unavailable, match="etcd: 127"):
                async with store.watch(0) as watch:
                    await watch.receive()
        with server:
            await insist(lambda: write(store, put(1, 1)))


async def test_the_next_endpoint_is_tried(etcd: EtcdServer, tmp_path: Path) -> None:
    """With one endpoint gone, calls and watches go to another one after a single failure."""
    gone = EtcdServer(tmp_path / "etcd")
    async with open_etcd(at(gone, etcd), Retention()) as store:
        with pytest.raises(Unavailable):
            await listed(store)
        revision, _ = await listed(store)
        new = await write(store, Put(key(1, "quarantine"), 1, b"{}"))
        assert [batch.revision for batch in await received(store, revision, new)] == [new]


class Progress:
    """A writer that counts up the version of one object, come what may, and a follower that resumes."""

    def __init__(self, store: EtcdStore) -> None:
        self.store = store
        self.version = 0
        self.seen: list[tuple[int, int]] = []

    async def count_to(self, last: int) -> None:
        known: Record | None = None
        while self.version < last:
            change = put(1, self.version + 1)
            receipt = await insist(partial(self.store.commit, [Write(change, known.revision if known else 0)]))
            known = receipt.lost[0][1] if receipt.lost else Record(key(1), receipt.revision, change.version, None)
            self.version = known.version if known else 0

    async def follow(self, after: int, last: int) -> None:
        while not self.seen or self.seen[-1][1] < last:
            with suppress(Unavailable):
                async with self.store.watch(self.seen[-1][0] if self.seen else after) as watch:
                    while not self.seen or self.seen[-1][1] < last:
                        self.seen += [(b.revision, r.version) for b in await watch.receive() for r in b.records]
            await trio.sleep(0.02)


async def test_a_watch_goes_on_without_gap_over_sigkill_of_etcd(own_etcd: EtcdServer) -> None:
    """Through restarts of etcd, a follower that resumes sees every version that was committed, in order, once."""
    async with open_etcd(at(own_etcd), Retention()) as store:
        start, _ = await listed(store)
        progress = Progress(store)
        with trio.fail_after(40):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(progress.follow, start, 150)
                for kills in range(2):
                    async with trio.open_nursery() as busy:
                        busy.start_soon(progress.count_to, 60 * (kills + 1))
                        await trio.sleep(0.05)
                        await trio.to_thread.run_sync(own_etcd.restart)
                await progress.count_to(150)
    revisions = [revision for revision, _ in progress.seen]
    assert revisions == sorted(set(revisions))
    assert [version for _, version in progress.seen] == list(range(1, 151))


@pytest.mark.parametrize("quiet", [None, 0.1])
async def test_a_frozen_etcd_is_noticed(
    own_etcd: EtcdServer, monkeypatch: pytest.MonkeyPatch, quiet: float | None
) -> None:
    """An etcd that keeps its connections but answers nothing: `Unavailable` within 15 s, by gRPC's pings or our own."""
    if quiet:
        monkeypatch.setattr("css.store.etcd_watch._QUIET", quiet)
        monkeypatch.setattr("css.store.etcd_watch._SILENT", quiet)
    async with open_etcd(at(own_etcd), Retention()) as store:
        head, _ = await listed(store)
        with trio.fail_after(15):
            async with store.watch(head) as watch:
                own_etcd.freeze()
                with pytest.raises(Unavailable, match="silent" if quiet else "etcd: 127"):
                    await watch.receive()
            with pytest.raises(Unavailable):
                await write(store, put(1, 1))
        own_etcd.thaw()
        receipt = await insist(lambda: store.commit([Write(put(1, 1), 0)]))
        # The commit that seemed to fail may have been applied: then this one was lost to it.
        assert not receipt.lost or receipt.lost[0][1] == Record(key(1), head + 1, 1, put(1, 1).body)


async def test_a_silent_watch_is_only_quiet_while_etcd_answers(
    etcd: EtcdServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing to tell for long is no fault: etcd is asked for its progress, and the watch goes on."""
    monkeypatch.setattr("css.store.etcd_watch._QUIET", 0.05)
    monkeypatch.setattr("css.store.etcd_watch._SILENT", 0.3)
    async with open_etcd(at(etcd), Retention()) as store:
        head, _ = await listed(store)
        async with store.watch(head) as watch:
            with trio.move_on_after(1.0) as waiting:
                await watch.receive()
            assert waiting.cancelled_caught
            revision = await write(store, Put(key(99), 1, put(99, 1).body))
            with trio.fail_after(5):
                assert [batch.revision for batch in await watch.receive()] == [revision]


async def test_other_data_under_the_same_name_is_not_followed(own_etcd: EtcdServer, tmp_path: Path) -> None:
    """An etcd that came back with older data, or none, is behind what was seen: `Compacted`, so that all is listed."""
    async with open_etcd(at(own_etcd), Retention()) as store:
        revision = await write(store, put(1, 1))
        own_etcd.stop()
        shutil.rmtree(tmp_path / "etcd" / "data")
        own_etcd.start()
        with pytest.raises(Compacted):
            async with store.watch(revision) as watch:
                await insist(watch.receive)
        assert (await insist(lambda: listed(store)))[1] == {}


async def test_tokens_are_renewed(own_etcd: EtcdServer, tmp_path: Path) -> None:
    """With user and password: a token that etcd no longer knows is replaced, for calls and for watches."""
    with grpc.insecure_channel(own_etcd.endpoint) as channel:
        auth = etcdrpc.AuthStub(channel)
        auth.UserAdd(etcdrpc.AuthUserAddRequest(name="root", password="secret"))
        auth.RoleAdd(etcdrpc.AuthRoleAddRequest(name="root"))
        auth.UserGrantRole(etcdrpc.AuthUserGrantRoleRequest(user="root", role="root"))
        auth.AuthEnable(etcdrpc.AuthEnableRequest())
    right, wrong = tmp_path / "right", tmp_path / "wrong"
    right.write_text("secret\n")
    wrong.write_text("guess")
    async with open_etcd(at(own_etcd, etcd_user="root", etcd_password_file=str(wrong)), Retention()) as store:
        with pytest.raises(Unavailable, match="invalid user ID or password"):
            await listed(store)
    async with open_etcd(at(own_etcd, etcd_user="root", etcd_password_file=str(right)), Retention()) as store:
        first = await write(store, put(1, 1))
        store._wire._token = "expired"
        with trio.fail_after(5):
            with pytest.raises(Unavailable, match="the watch was cancelled"):
                async with store.watch(first):
                    pass
            async with store.watch(first):
                pass
            store._wire._token = "expired"
            second = await write(store, put(2, 1))
        assert [batch.revision for batch in await received(store, first, second)] == [second]
        own_etcd.restart()  # forgets every token
        third = await insist(lambda: write(store, put(3, 1)))
        assert [batch.revision for batch in await received(store, second, third)] == [third]


async def test_a_closed_watch_leaves_no_thread_behind(etcd: EtcdServer) -> None:
    """However a watch ends, cancelled or in the middle of much, its thread ends with it, at once."""
    async with open_etcd(at(etcd), Retention()) as store:
        revision, _ = await listed(store)
        for number in range(20):
            await write(store, put(500 + number, 1))
        for after in (revision, revision + 20):
            with trio.move_on_after(0.1):
                async with store.watch(after) as watch:
                    await watch.receive()
                    await trio.sleep_forever()
            threads = [thread for thread in threading.enumerate() if thread.name == "etcd watch"]
            for thread in threads:
                thread.join(0.5)
            assert not any(thread.is_alive() for thread in threads)

"""What a listing means: the rules of repair and removal, against a world that changes while it is listed."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from css import envelope
from css.config import Reconcile as Settings
from css.config import Writer as WriterSettings
from css.corrections import corrections, held, merged, removals, vanished
from css.drift import ClusterDrift, DriftLedger
from css.ecs import PAGE, Described, EcsApi
from css.errors import Unavailable
from css.follow import Live, follow
from css.metrics import Metrics
from css.model import Batch, Delivery, Gone, Head, Key, Kind, Put, Record
from css.normalize import Policy
from css.reconcile import KINDS, Pass
from css.status import Status
from css.store import Retention
from css.store.embedded import open_embedded
from css.view import View
from css.writer import Writer, write

ACCOUNT = "111122223333"
NAMES = {"task": "task", "instance": "container-instance"}


def cluster_arn(name: str, account: str = ACCOUNT) -> str:
    return f"arn:aws:ecs:us-east-1:{account}:cluster/{name}"


def key(kind: Kind, cluster: str, number: int, account: str = ACCOUNT) -> Key:
    return Key(kind, cluster, f"arn:aws:ecs:us-east-1:{account}:{NAMES[kind]}/{cluster}/{number}")


def put(of: Key, version: int, **detail: Any) -> Put:
    body = envelope.encode({"version": version, **detail}, detail_type="t", source="css.reconcile")
    return Put(of, version, body)


def view_of(*puts: Put) -> View:
    view = View()
    records = [Record(each.key, number, each.version, each.body) for number, each in enumerate(puts, 1)]
    view.load(Head("e", len(puts)), records)
    return view


class World:
    """An ECS API of plain dictionaries. Before each of its answers `disturb` may change it or fail the call."""

    region = "us-east-1"

    def __init__(self) -> None:
        self.objects: dict[str, dict[Key, int]] = {}
        self.disturb: Callable[[str], None] = lambda cluster: None
        self.calls = 0

    async def clusters(self) -> list[str]:
        await self._before("")
        return [cluster_arn(name) for name in self.objects]

    async def arns(self, kind: Kind, cluster: str) -> list[str]:
        """As the real one: page by page, so that the world can change between two pages."""
        name = cluster.rpartition("/")[2]
        found: list[str] = []
        after = ""
        while True:
            await self._before(name)
            of_kind = sorted(k.id for k in self.objects.get(name, {}) if k.kind == kind and k.id > after)
            page = of_kind[:3]
            found += page
            if len(of_kind) <= 3:
                return found
            after = page[-1]

    async def describe(self, kind: Kind, cluster: str, arns: Sequence[str]) -> Described:
        assert len(arns) <= PAGE
        name = cluster.rpartition("/")[2]
        await self._before(name)
        objects = self.objects.get(name, {})
        keys = [Key(kind, name, text) for text in arns]
        return Described(tuple(put(k, objects[k]) for k in keys if k in objects), frozenset())

    async def _before(self, cluster: str) -> None:
        self.calls += 1
        await trio.lowlevel.checkpoint()
        self.disturb(cluster)


def test_only_a_higher_version_is_news() -> None:
    """What the view knows at the same or a higher version is not written; the rest counts as missed or stale."""
    one, two, three = (key("task", "c", number) for number in (1, 2, 3))
    drift = ClusterDrift()
    news = corrections([put(one, 5), put(two, 5), put(three, 5)], view_of(put(one, 5), put(two, 4)), drift)
    assert [change.key for change in news] == [two, three]
    assert (drift.stale, drift.missed) == (1, 1)


def test_a_tombstone_is_not_overruled_by_the_version_it_remembers() -> None:
    """A Describe that was under way when the object was removed cannot bring it back."""
    view = view_of(put(key("task", "c", 1), 5))
    view.apply(Batch(2, (Record(key("task", "c", 1), 2, 5, None),)))
    assert corrections([put(key("task", "c", 1), 5)], view, ClusterDrift()) == []


def test_removals_name_the_revision_that_was_seen() -> None:
    """A removal is for just what was seen before the listing; what ECS was unsure about stays."""
    view = view_of(put(key("task", "c", 1), 5), put(key("task", "c", 2), 6))
    absent = held(view, "task", cluster_arn("c"))
    unsure = frozenset({key("task", "c", 2).id})
    assert removals(absent, view, unsure) == [Gone(key("task", "c", 1), 5, 1)]
    view.apply(Batch(3, (Record(key("task", "c", 1), 3, 6, put(key("task", "c", 1), 6).body),)))
    assert removals(absent, view, unsure) == []


def test_rows_belong_to_an_account_and_a_region() -> None:
    """Clusters of one name in two accounts, in one store: each listing speaks of its own."""
    mine, theirs = key("task", "c", 1), key("task", "c", 1, "999999999999")
    view = view_of(put(mine, 1), put(theirs, 1))
    assert [row.key for row in held(view, "task", cluster_arn("c"))] == [mine]
    assert [row.key for rows in vanished(view.rows("task"), [cluster_arn("other")]).values() for row in rows] == [mine]
    assert vanished(view.rows("task"), []) == {}


def test_what_only_events_say_survives_and_nothing_else() -> None:
    """`accountType` comes with events alone and is kept; a field that has vanished at the API is gone."""
    of = key("instance", "c", 1)
    view = view_of(put(of, 1, accountType="x", statusReason="old"))
    detail = bytes(envelope.read(merged(put(of, 2, status="ACTIVE"), view.row(of)).body).detail)
    assert b'"accountType":"x"' in detail
    assert b"statusReason" not in detail
    assert b'"status":"ACTIVE"' in detail


async def one_pass(world: World, live: Live, deliveries: Any) -> Pass | Unavailable:
    one = Pass(cast(EcsApi, world), live, deliveries, (), Status())
    try:
        await one.run()
    except Unavailable as error:
        return error
    return one


@given(seed=st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_a_changing_world_is_never_lost_sight_of(seed: int, tmp_path_factory: Any) -> None:
    """Passes over a world that changes and fails meanwhile: no live object is removed wrongly, no version goes back;
    a complete pass over the world at rest ends equal to it."""
    trio.run(_changing_world, random.Random(seed), tmp_path_factory.mktemp("r"))


async def _changing_world(rng: random.Random, directory: Path) -> None:
    world, live, status, metrics = World(), Live(), Status(), Metrics()
    world.objects = {name: {} for name in "ab"}
    known: dict[Key, int] = {}  # the last version that each object ever had
    removed: set[Key] = set()
    failures = rng.random() < 0.5

    def change() -> None:
        name = rng.choice([*world.objects])
        k = key(rng.choice(KINDS), name, rng.randint(0, 6))
        if k in removed:
            return  # ECS never uses an id again
        if rng.random() < 0.3 and k in world.objects[name]:
            del world.objects[name][k]
            removed.add(k)
        else:
            known[k] = world.objects[name][k] = known.get(k, 0) + 1

    def disturb(cluster: str) -> None:
        if failures and rng.random() < 0.08:
            raise Unavailable("ecs", f"throttled in {cluster}")
        for _ in range(rng.randint(0, 2)):
            change()

    async with open_embedded(directory / "css.db", Retention()) as store, trio.open_nursery() as nursery:
        await nursery.start(follow, store, live, status, metrics)
        sender, receiver = trio.open_memory_channel[Sequence[Delivery]](4)
        chosen = WriterSettings(batch=5, linger_ms=0)
        nursery.start_soon(write, receiver, Writer(store, live, chosen, Policy(), status, metrics), chosen)
        async with sender:
            for _ in range(4):
                world.disturb = disturb
                for _ in range(5):
                    change()
                before = {row.key: row.version for kind in KINDS for row in live.view.rows(kind)}
                await one_pass(world, live, sender)
                for kind in KINDS:
                    for row in live.view.rows(kind):
                        assert row.version >= before.get(row.key, 0)
                alive = {k for objects in world.objects.values() for k in objects}
                assert not {k for k in before if k in alive and live.view.row(k) is None}
            world.disturb = lambda cluster: None
            done = await one_pass(world, live, sender)
            assert isinstance(done, Pass)
            truth = {k: version for objects in world.objects.values() for k, version in objects.items()}
            assert {row.key: row.version for kind in KINDS for row in live.view.rows(kind)} == truth
        nursery.cancel_scope.cancel()


async def test_a_cluster_that_fails_keeps_its_rows_and_the_others_results() -> None:
    """One cluster's error is in its drift: nothing of it is removed, and the other clusters are repaired."""
    world, live = World(), Live()
    world.objects = {"good": {key("task", "good", 1): 2}, "bad": {}}
    live.load(
        Head("e", 2), [Record(key("task", name, 9), 1, 1, put(key("task", name, 9), 1).body) for name in world.objects]
    )

    def disturb(cluster: str) -> None:
        if cluster == "bad":
            raise Unavailable("ecs", "AccessDenied")

    world.disturb = disturb
    sender, receiver = trio.open_memory_channel[Sequence[Delivery]](10)
    async with trio.open_nursery() as nursery:
        one = Pass(cast(EcsApi, world), live, sender, (), Status())
        nursery.start_soon(one.run)
        changes = []
        for _ in range(2):
            (delivery,) = await receiver.receive()
            changes += delivery.changes
            delivery.settled()
    assert {(type(change), change.key) for change in changes} == {
        (Put, key("task", "good", 1)),
        (Gone, key("task", "good", 9)),
    }
    assert (one.drift["bad"].error, one.drift["good"].error) == ("AccessDenied", "")


async def test_only_the_chosen_clusters_are_listed() -> None:
    """`reconcile.clusters` are globs of names; what they leave out is neither listed nor removed."""
    world, live = World(), Live()
    world.objects = {"prod-1": {}, "test-1": {}}
    rows = [key("task", name, 1) for name in ("prod-1", "test-1", "prod-gone", "test-gone")]
    live.load(Head("e", 9), [Record(k, number, 1, put(k, 1).body) for number, k in enumerate(rows, 1)])
    sender, receiver = trio.open_memory_channel[Sequence[Delivery]](10)
    one = Pass(cast(EcsApi, world), live, sender, Settings(clusters=("prod-*",)).clusters, Status())
    gone: set[str] = set()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(one.run)
        for _ in range(2):
            (delivery,) = await receiver.receive()
            gone |= {change.key.cluster for change in delivery.changes}
            delivery.settled()
    assert gone == {"prod-1", "prod-gone"}
    assert DriftLedger().reports.maxlen == 100


async def test_an_absence_is_asked_about_before_it_is_believed() -> None:
    """A listing that forgot an object which Describe still knows removes nothing: lists lag behind at ECS."""

    class Forgetful(World):
        async def arns(self, kind: Kind, cluster: str) -> list[str]:
            return (await super().arns(kind, cluster))[1:]

    world, live = Forgetful(), Live()
    keys = [key("task", "c", number) for number in (1, 2)]
    world.objects = {"c": {keys[0]: 1, keys[1]: 1}}
    live.load(Head("e", 2), [Record(k, number, 1, put(k, 1).body) for number, k in enumerate(keys, 1)])
    sender, receiver = trio.open_memory_channel[Sequence[Delivery]](10)
    one = Pass(cast(EcsApi, world), live, sender, (), Status())
    with trio.fail_after(1):
        await one.run()
    with pytest.raises(trio.WouldBlock):
        receiver.receive_nowait()
    assert one.drift["c"].gone == 0


async def test_a_cluster_made_during_the_listing_is_not_taken_for_gone() -> None:
    """Its first events come while the clusters are listed: what was not seen before the listing is not judged by it."""
    world, live = World(), Live()
    world.objects = {"old": {}}
    live.load(Head("e", 1), [])
    new = key("task", "new", 1)

    def disturb(cluster: str) -> None:
        if live.view.revision == 1:
            live.apply(Batch(2, (Record(new, 2, 3, put(new, 3).body),)))

    world.disturb = disturb
    sender, receiver = trio.open_memory_channel[Sequence[Delivery]](10)
    with trio.fail_after(1):
        await Pass(cast(EcsApi, world), live, sender, (), Status()).run()
    with pytest.raises(trio.WouldBlock):
        receiver.receive_nowait()

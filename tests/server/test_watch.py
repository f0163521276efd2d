"""/v2/watch over real sockets: what a subscriber is told equals what the view holds, whatever happens on the way."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection

from css import envelope, wire
from css.drift import DriftLedger
from css.follow import LOG_CAPACITY, Live
from css.metrics import Metrics
from css.model import Batch, Head, Key, Record
from css.server.http import Request, Response
from css.server.listener import listen, serve
from css.server.routes import Context, routes
from css.status import Status
from tests.websocket import connected


class Open:
    def check(self, request: Request) -> Response | None:
        return None


def key(number: int, cluster: str = "prod") -> Key:
    return Key("task", cluster, f"arn:aws:ecs:us-east-1:111122223333:task/{cluster}/{number}")


def record(number: int, revision: int, status: str = "RUNNING", cluster: str = "prod", padding: int = 0) -> Record:
    detail = {"version": revision, "lastStatus": status, "padding": "x" * padding}
    body = envelope.encode(detail, detail_type="t", source="aws.ecs", time="2026-01-01T00:00:00Z")
    return Record(key(number, cluster), revision, revision, body)


class Server:
    def __init__(self, live: Live, port: int, drain: trio.Event) -> None:
        self.live, self.port, self.drain = live, port, drain

    def apply(self, *records: Record) -> None:
        self.live.apply(Batch(records[0].revision, records))


@asynccontextmanager
async def serving(records: int = 3) -> AsyncIterator[Server]:
    live, drain = Live(), trio.Event()
    live.load(Head("first", records), [record(number, number + 1) for number in range(records)])
    handler = routes(Context(live, Status(), Metrics(), DriftLedger(), Open(), "1.0", "us-east-1"))
    listeners = await listen("127.0.0.1:0")
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(serve, handler, listeners, drain=drain))
        yield Server(live, listeners[0].socket.getsockname()[1], drain)
        nursery.cancel_scope.cancel()


class Mirror:
    """What a subscriber knows: applies messages as the interface says."""

    def __init__(self, socket: WebSocketConnection) -> None:
        self.socket = socket
        self.items: dict[Key, int] = {}
        self.revision = 0
        self.messages: list[wire.ServerMessage] = []
        self._fresh: dict[Key, int] | None = None

    async def until(self, revision: int, seconds: float = 5) -> None:
        """Read until that revision is known."""
        with trio.fail_after(seconds):
            while self.revision < revision:
                await self.read()

    async def read(self) -> wire.ServerMessage:
        text = await self.socket.get_message()
        assert len(text) < 300_000
        message = wire.decode(text)
        self.messages.append(message)
        match message:
            case wire.Snapshot(revision, items, done):
                self._fresh = (self._fresh or {}) | {item.key: item.revision for item in items}
                if done:
                    self.items, self.revision, self._fresh = self._fresh, revision, None
            case wire.Changes(revision, changes):
                last = self.revision
                for change in changes:
                    assert last <= change.revision <= revision
                    last = change.revision
                    if change.op == "put":
                        assert change.revision > self.items.get(change.key, 0)
                        self.items[change.key] = change.revision
                    else:
                        self.items.pop(change.key, None)
                assert revision > self.revision
                self.revision = revision
            case wire.Bookmark(revision):
                self.revision = max(self.revision, revision)
        return message


@asynccontextmanager
async def watching(server: Server, query: str = "interval=0") -> AsyncIterator[Mirror]:
    async with connected(server.port, query) as socket:
        yield Mirror(socket)


def held(live: Live, status: str = "") -> dict[Key, int]:
    return {row.key: row.revision for row in live.view.rows("task") if status in ("", row.fields.state)}


async def test_hello_then_a_snapshot_then_changes() -> None:
    """The order of the interface: hello at once, the whole state, then each change with its object complete."""
    async with serving() as server, watching(server) as mirror:
        await mirror.until(3)
        server.apply(record(7, 4))
        await mirror.until(4)
        hello, snapshot, changes = mirror.messages
        assert isinstance(hello, wire.Hello)
        assert (hello.protocol, hello.epoch, hello.revision, hello.region) == (2, "first", 3, "us-east-1")
        assert isinstance(snapshot, wire.Snapshot)
        assert (snapshot.total, snapshot.done) == (3, True)
        assert isinstance(changes, wire.Changes)
        item = changes.changes[0].item
        assert item is not None
        assert json.loads(bytes(item.detail))["lastStatus"] == "RUNNING"


async def test_an_empty_snapshot_is_a_snapshot() -> None:
    """Nothing to show is shown as nothing, with `done`."""
    async with serving(0) as server, watching(server) as mirror:
        await mirror.read()
        snapshot = await mirror.read()
        assert isinstance(snapshot, wire.Snapshot)
        assert (snapshot.items, snapshot.done) == ((), True)


async def test_large_snapshots_come_in_pieces() -> None:
    """No message grows past what clients take by default; the last says that it is the last."""
    async with serving() as server:
        server.live.load(Head("first", 900), [record(number, number + 1, padding=1500) for number in range(900)])
        async with watching(server) as mirror:
            await mirror.until(900)
            pieces = [message for message in mirror.messages if isinstance(message, wire.Snapshot)]
            assert len(pieces) > 4
            assert [piece.done for piece in pieces] == [False] * (len(pieces) - 1) + [True]
            assert mirror.items == held(server.live)


@pytest.mark.parametrize("seed", range(3))
async def test_subscribers_end_at_the_views_state(seed: int) -> None:
    """After random changes each subscriber holds what its filter keeps, each version told once and in order."""
    rng = random.Random(seed)
    async with serving() as server, watching(server) as every, watching(server, "status=stopped&interval=5") as stopped:
        for revision in range(4, 204):
            numbers = rng.sample(range(12), rng.randint(1, 4))
            changes = [
                Record(key(n), revision, revision, None)
                if rng.random() < 0.2
                else record(n, revision, rng.choice(["RUNNING", "STOPPED"]))
                for n in numbers
            ]
            server.apply(*changes)
            if rng.random() < 0.3:
                await trio.lowlevel.checkpoint()
        server.apply(record(99, 204, "STOPPED"))
        await every.until(204)
        await stopped.until(204)
        assert every.items == held(server.live)
        assert stopped.items == held(server.live, "STOPPED")


async def test_what_leaves_the_filter_is_gone() -> None:
    """An object that no longer matches is `gone`; one that never did is not mentioned."""
    async with serving() as server, watching(server, "status=running&interval=0") as mirror:
        await mirror.until(3)
        server.apply(record(0, 4, "STOPPED"), record(50, 4, "STOPPED"))
        server.apply(record(51, 5))
        await mirror.until(5)
        told = [(c.op, c.key) for m in mirror.messages if isinstance(m, wire.Changes) for c in m.changes]
        assert told == [("gone", key(0)), ("put", key(51))]


async def test_resuming_continues_exactly() -> None:
    """From the last revision seen there is neither a gap nor a repeat; `since` is exclusive."""
    async with serving() as server:
        async with watching(server) as mirror:
            server.apply(record(1, 4))
            await mirror.until(4)
        server.apply(record(1, 5))
        server.apply(record(2, 6))
        async with watching(server, "since=4&interval=0") as again:
            await again.until(6)
            assert [type(m) for m in again.messages] == [wire.Hello, wire.Changes]
            assert again.items == {key(1): 5, key(2): 6}


@pytest.mark.parametrize("since", [1, 10_000])
async def test_resuming_from_what_is_not_known_starts_over(since: int) -> None:
    """Below the log's floor, or ahead of it, a resume is answered by `resync` and a whole snapshot: never silently."""
    async with serving() as server, watching(server, f"since={since}") as mirror:
        await mirror.until(3)
        assert [type(m) for m in mirror.messages] == [wire.Hello, wire.Resync, wire.Snapshot]
        assert mirror.items == held(server.live)


async def test_from_now_on_without_a_snapshot() -> None:
    """`snapshot=false` tells only what happens from now on."""
    async with serving() as server, watching(server, "snapshot=false&interval=0") as mirror:
        await mirror.read()
        server.apply(record(5, 4))
        await mirror.until(4)
        assert mirror.items == {key(5): 4}


async def test_a_store_listed_again_is_a_resync_and_other_data_a_new_hello() -> None:
    """A new epoch is greeted before the snapshot that sweeps what the client held."""
    async with serving() as server, watching(server) as mirror:
        await mirror.until(3)
        server.live.load(Head("second", 1), [record(8, 1)])
        for _ in range(3):
            await mirror.read()
        hello, resync, snapshot = mirror.messages[-3:]
        assert isinstance(hello, wire.Hello)
        assert hello.epoch == "second"
        assert isinstance(resync, wire.Resync)
        assert isinstance(snapshot, wire.Snapshot)
        assert mirror.items == {key(8): 1}


async def test_a_follower_that_fell_off_the_log_starts_over() -> None:
    """More changes in one go than the log holds: `resync` with reason slow, then the state as it is."""
    async with serving() as server, watching(server) as mirror:
        await mirror.until(3)
        for revision in range(4, LOG_CAPACITY + 1000):
            server.apply(record(revision % 5, revision))
        await mirror.until(LOG_CAPACITY + 999, seconds=20)
        reasons = [m.reason for m in mirror.messages if isinstance(m, wire.Resync)]
        assert reasons == ["slow"]
        assert mirror.items == held(server.live)


async def test_bookmarks_come_though_nothing_changes() -> None:
    """Each heartbeat tells where to resume and how fresh it is, also past changes that the filter hides."""
    async with serving() as server, watching(server, "heartbeat=1000&cluster=other") as mirror:
        await mirror.until(3)
        server.apply(record(0, 4))
        with trio.fail_after(4):
            while not isinstance(await mirror.read(), wire.Bookmark):
                pass
        assert mirror.revision == 4


async def test_a_stopping_server_says_going_away() -> None:
    """At a drain websockets are closed with 1001."""
    async with serving() as server, watching(server) as mirror:
        await mirror.until(3)
        server.drain.set()
        with pytest.raises(ConnectionClosed) as caught, trio.fail_after(5):
            await mirror.until(10_000)
        assert caught.value.reason is not None
        assert caught.value.reason.code == 1001


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("kinds=pods", "kinds"),
        ("since=-1", "since"),
        ("since=x", "since"),
        ("since=" + "0" * 5000, "since"),
        ("since=" + "9" * 19, "since"),
        ("interval=1001", "interval"),
        ("heartbeat=10", "heartbeat"),
        ("snapshot=maybe", "snapshot"),
        ("colour=red", "colour"),
        ("status=a&status=b", "status"),
    ],
)
async def test_wrong_parameters_are_named(query: str, parameter: str) -> None:
    """A wrong parameter is a 400 before the upgrade, with its name."""
    head = (
        f"GET /v2/watch?{query} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    async with serving() as server:
        async with await trio.open_tcp_stream("127.0.0.1", server.port) as stream:
            await stream.send_all(head.encode())
            with trio.fail_after(5):
                answer = b"".join([piece async for piece in stream])
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["parameter"] == parameter

"""A small daemon for the tests of the client and the screen: `/v2/watch` over real sockets, with switches for faults.

It speaks with css.wire's own messages. `Region` is what it holds; a `Daemon` serves it, and may be started again.
"""

from __future__ import annotations

import contextlib
import random
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, WebSocketRequest, serve_websocket

from css import wire
from css.model import Key

TIME = "2024-11-13T20:55:49Z"
PIECE = 50
SERVICES = ("api-billing", "api-gateway", "web-frontend", "web-search", "worker-images", "worker-mail", "cron-report")


def task_key(number: int, cluster: str = "prod-01") -> Key:
    return Key("task", cluster, f"arn:aws:ecs:us-east-1:123456789012:task/{cluster}/{number:032x}")


def detail(number: int, status: str = "RUNNING", **more: Any) -> dict[str, Any]:
    return {
        "lastStatus": status,
        "desiredStatus": "RUNNING",
        "group": f"service:{SERVICES[number % len(SERVICES)]}",
        "taskDefinitionArn": f"arn:aws:ecs:us-east-1:123456789012:task-definition/{SERVICES[number % 7]}:{number % 9}",
        "availabilityZone": f"us-east-1{'abc'[number % 3]}",
        "healthStatus": "HEALTHY",
        "launchType": "FARGATE",
        "cpu": "256",
        "memory": "512",
        "createdAt": TIME,
        **more,
    }


def item(key: Key, revision: int, body: dict[str, Any]) -> wire.Item:
    return wire.Item(key, revision, TIME, "event", msgspec.Raw(msgspec.json.encode(body)))


class Region:
    """Objects with a revision, and all that ever changed."""

    def __init__(self, epoch: str = "one") -> None:
        self.epoch = epoch
        self.revision = 0
        self.floor = 0
        self.items: dict[Key, wire.Item] = {}
        self.log: list[wire.ItemChange] = []

    def put(self, key: Key, body: dict[str, Any]) -> None:
        self.revision += 1
        new = self.items[key] = item(key, self.revision, body)
        self.log.append(wire.ItemChange("put", key, self.revision, TIME, new))

    def remove(self, key: Key) -> None:
        self.revision += 1
        del self.items[key]
        self.log.append(wire.ItemChange("gone", key, self.revision, TIME))

    def fill(self, count: int, start: int = 0) -> None:
        for number in range(start, start + count):
            self.put(task_key(number), detail(number))


class Daemon:
    """Serves one region; what it is asked to do wrong, it does at the next step."""

    def __init__(self, region: Region) -> None:
        self.region = region
        self.host = "127.0.0.1"
        self.port = 0
        self._thawed = trio.Event()
        self._thawed.set()
        self.garbage: str | bytes | None = None
        """Sent once, in place of the next message."""
        self.refuse: int | None = None
        self.protocol = wire.PROTOCOL
        self.asked: list[dict[str, str]] = []
        self.headers: list[dict[str, str]] = []

    def freeze(self) -> None:
        """Say nothing more, on no connection, as a stopped process does."""
        self._thawed = trio.Event()

    def thaw(self) -> None:
        self._thawed.set()

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    async def serve(
        self, tls: ssl.SSLContext | None = None, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Until cancelled, which breaks every connection; always on the same port."""
        async with trio.open_nursery() as nursery:
            server = await nursery.start(serve_websocket, self._converse, self.host, self.port, tls)
            self.port = server.listeners[0].port
            task_status.started()

    async def _converse(self, request: WebSocketRequest) -> None:
        self.headers.append({name.decode().lower(): value.decode() for name, value in request.headers})
        if self.refuse is not None:
            await request.reject(self.refuse, body=b'{"error":{"code":"no","message":"because"}}')
            return
        parts = urlsplit(request.path)
        assert parts.path == "/v2/watch"
        asked = {name: values[0] for name, values in parse_qs(parts.query).items()}
        self.asked.append(asked)
        socket = await request.accept()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._discard, socket)
                await self._speak(socket, asked)
        except* ConnectionClosed:
            pass

    async def _discard(self, socket: WebSocketConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            while True:
                await socket.get_message()

    async def _send(self, socket: WebSocketConnection, message: wire.ServerMessage) -> None:
        await self._thawed.wait()
        if self.garbage is not None:
            garbage, self.garbage = self.garbage, None
            await socket.send_message(garbage)
            return
        await socket.send_message(wire.encode(message).decode())

    async def _speak(self, socket: WebSocketConnection, asked: dict[str, str]) -> None:
        region = self.region
        hello = wire.Hello(
            self.protocol, "test", region.epoch, region.revision, datetime.now(UTC).isoformat(), "us-east-1"
        )
        await self._send(socket, hello)
        since = int(asked["since"]) if "since" in asked else None
        if since is None or not region.floor <= since <= region.revision:
            if since is not None:
                await self._send(socket, wire.Resync("compacted"))
            since = await self._snapshot(socket)
        beat = trio.current_time()
        while True:
            changes = tuple(change for change in region.log[-2000:] if change.revision > since)
            if changes:
                since = changes[-1].revision
                await self._send(socket, wire.Changes(since, changes))
            elif trio.current_time() - beat >= int(asked["heartbeat"]) / 1000:
                beat = trio.current_time()
                await self._send(socket, wire.Bookmark(since, wire.Freshness(0.4)))
            await trio.sleep(0.02)

    async def _snapshot(self, socket: WebSocketConnection) -> int:
        revision, items = self.region.revision, list(self.region.items.values())
        for start in range(0, max(1, len(items)), PIECE):
            piece = tuple(items[start : start + PIECE])
            await self._send(socket, wire.Snapshot(revision, piece, start + PIECE >= len(items), len(items)))
        return revision


@contextlib.asynccontextmanager
async def running(daemon: Daemon, tls: ssl.SSLContext | None = None) -> AsyncIterator[None]:
    """The daemon up, and down again."""
    async with trio.open_nursery() as nursery:
        await nursery.start(daemon.serve, tls)
        yield
        nursery.cancel_scope.cancel()


class InThread:
    """A daemon in a thread of its own, for the screen's tests, which run on asyncio. Switches are plain attributes."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon
        self._up = threading.Event()
        self._scope = trio.CancelScope()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        self._up.clear()
        self._scope = trio.CancelScope()
        self._thread = threading.Thread(target=lambda: trio.run(self._main))
        self._thread.start()
        assert self._up.wait(5)

    def stop(self) -> None:
        if self._thread is None:
            return
        self._token.run_sync_soon(self._scope.cancel)
        self._thread.join(10)
        assert not self._thread.is_alive()
        self._thread = None

    def call(self, what: Callable[[], None]) -> None:
        """In the daemon's thread."""
        trio.from_thread.run_sync(what, trio_token=self._token)

    async def _main(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        with self._scope:
            async with running(self.daemon):
                self._up.set()
                await trio.sleep_forever()


@contextlib.contextmanager
def served(region: Region) -> Iterator[InThread]:
    thread = InThread(Daemon(region))
    thread.start()
    try:
        yield thread
    finally:
        thread.stop()


_CYCLE = ("RUNNING",) * 14 + ("PENDING", "PROVISIONING", "DEPROVISIONING", "STOPPED", "STOPPED", "ACTIVATING")
_STOPS = (
    ("EssentialContainerExited", "Essential container in task exited"),
    ("ServiceSchedulerInitiated", "Scaling activity initiated by deployment ecs-svc/2770844949256052681"),
    ("SpotInterruption", "Your Spot Task was interrupted."),
    ("UserInitiated", "Task stopped by user"),
)


def lively(count: int, now: float, seed: int = 7) -> Region:
    """A region of realistic variety, for pictures."""
    rng, region = random.Random(seed), Region()
    for _ in range(count):
        cluster = f"prod-{rng.randrange(12):02d}"
        status = rng.choice(_CYCLE)
        created = datetime.fromtimestamp(now - rng.expovariate(1 / 40_000), UTC).isoformat().replace("+00:00", "Z")
        service = f"{rng.choice(SERVICES)}-{rng.randrange(4)}"
        body = detail(rng.randrange(10**6), status, createdAt=created, group=f"service:{service}")
        body["taskDefinitionArn"] = (
            f"arn:aws:ecs:us-east-1:123456789012:task-definition/{service}:{rng.randrange(40, 52)}"
        )
        body["cpu"], body["memory"] = rng.choice((("256", "512"), ("512", "1024"), ("1024", "4096"), ("2048", "8192")))
        if status == "RUNNING" and rng.random() < 0.04:
            body["healthStatus"] = "UNHEALTHY"
        if status == "STOPPED":
            body["stopCode"], body["stoppedReason"] = rng.choice(_STOPS)
        if rng.random() < 0.1:
            body["group"] = "family:migrate-schema"
        region.put(task_key(rng.getrandbits(120), cluster), body)
    return region

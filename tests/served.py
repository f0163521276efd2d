"""The service without its edges: messages go through the real normalizer into a view, requests to the handler."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import trio
import trio.testing

from css import envelope
from css.drift import DriftLedger
from css.errors import Rejected
from css.follow import Live
from css.metrics import Metrics
from css.model import Batch, Change, Gone, Head, Key, Put, Record, supersedes
from css.normalize import Policy, normalize
from css.server.http import Pieces, Request, Response, Stream
from css.server.routes import Context, routes
from css.status import Status, rfc3339

ACCOUNT = "arn:aws:ecs:us-east-1:111122223333"


class Open:
    """Lets everybody in."""

    def check(self, request: Request) -> Response | None:
        return None


class Served:
    """One service's state and its handler. Every change is a revision of its own."""

    def __init__(self, access: Any = None) -> None:
        self.live, self.status, self.metrics, self.drift = Live(), Status(), Metrics(), DriftLedger()
        self.live.load(Head("", 0), [])
        self.policy = Policy(redact_environment=False)
        context = Context(self.live, self.status, self.metrics, self.drift, access or Open(), "1.2.3", "us-east-1", 0.0)
        self.handle = routes(context)

    def tell(self, body: str | bytes | dict[str, Any]) -> None:
        """A message arrives, and what it says is committed if it is news. Raises `Rejected`."""
        for change in normalize(json.dumps(body) if isinstance(body, dict) else body, self.policy):
            self.apply(change)

    def tell_task(self, number: int, *, cluster: str = "default", version: int = 1, **detail: Any) -> Key:
        """A task's event; returns the task's key."""
        name = f"{ACCOUNT}:task/{cluster}/{number:08x}"
        named = {"clusterArn": f"{ACCOUNT}:cluster/{cluster}", "taskArn": name, "version": version}
        self.tell(event(envelope.TASK_CHANGE, {"lastStatus": "RUNNING", **named, **detail}))
        return Key("task", cluster, name)

    def apply(self, change: Change) -> None:
        revision = self.live.view.revision + 1
        if isinstance(change, Put) and supersedes(change.version, self.live.view.known(change.key)):
            self.live.apply(Batch(revision, (Record(change.key, revision, change.version, change.body),)))
        elif isinstance(change, Gone):
            self.live.apply(Batch(revision, (Record(change.key, revision, change.version, None),)))

    def describe(self, cluster_arn: str, kind: str, described: dict[str, Any]) -> None:
        """What a reconcile pass learns from the ECS API: there, times are seconds and instances name no cluster."""
        detail: dict[str, Any] = {
            name: rfc3339(value) if name.endswith("At") else value for name, value in described.items()
        }
        detail["clusterArn"] = cluster_arn
        name = detail["taskArn" if kind == "task" else "containerInstanceArn"]
        kind_of_change = envelope.TASK_CHANGE if kind == "task" else envelope.INSTANCE_CHANGE
        body = envelope.encode(detail, detail_type=kind_of_change, source=envelope.RECONCILE_SOURCE)
        key = Key("task" if kind == "task" else "instance", cluster_arn.rpartition("/")[2], name)
        self.apply(Put(key, detail["version"], body))

    async def answer(self, target: str, method: str = "GET") -> Any:
        path, _, query = target.partition("?")
        return await self.handle(Request(method, path, query, {"host": "localhost:3000"}, b"", "127.0.0.1"))

    async def ask(self, target: str, method: str = "GET") -> Response:
        answer = await self.answer(target, method)
        assert isinstance(answer, Response)
        return answer

    async def json(self, target: str) -> Any:
        answer = await self.ask(target)
        assert answer.status == 200, whole(answer)
        return json.loads(whole(answer))

    async def follow(self, nursery: trio.Nursery, target: str) -> Follower:
        """Open a stream; returns once it waits for news."""
        stream = await self.answer(target)
        assert isinstance(stream, Stream), whole(stream)
        follower = Follower(stream)
        nursery.start_soon(follower.run)
        await trio.testing.wait_all_tasks_blocked()
        return follower


class Follower:
    """A client of a stream: what it got, and whether it was cut off. While `held`, it reads nothing."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.body = b""
        self.cut_off = False
        self._open = trio.Event()
        self._open.set()

    @contextmanager
    def held(self) -> Iterator[None]:
        self._open = trio.Event()
        yield
        self._open.set()

    async def run(self) -> None:
        try:
            await self.stream.produce(self._take)
        except trio.BrokenResourceError:
            self.cut_off = True

    async def _take(self, piece: bytes) -> None:
        await self._open.wait()
        self.body += piece

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.body.splitlines()]


def whole(answer: Response) -> bytes:
    body = answer.body
    if isinstance(body, Pieces):
        made = b"".join(body.make())
        assert len(made) == body.length
        return made
    return body if isinstance(body, bytes) else b"".join(body)


def header(answer: Response, name: str) -> str | None:
    return {name.lower(): value for name, value in answer.headers}.get(name.lower())


def event(detail_type: str, detail: dict[str, Any], **named: Any) -> dict[str, Any]:
    """An EventBridge envelope."""
    return {
        "version": "0",
        "id": "9bcdac79-b31f-4d3d-9410-fbd727c29fab",
        "detail-type": detail_type,
        "source": "aws.ecs",
        "account": "111122223333",
        "time": "2026-01-31T12:00:00Z",
        "region": "us-east-1",
        "resources": [],
        "detail": detail,
        **named,
    }


__all__ = ["ACCOUNT", "Follower", "Rejected", "Served", "event", "header", "whole"]

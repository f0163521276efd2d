"""An `SqsSource` at work as the service runs it, for tests: what it has brought, its status, and its orderly end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import trio

from css.config import Aws
from css.config import Source as Settings
from css.metrics import Metrics
from css.model import Message
from css.source.sqs import SqsSource
from css.status import Status


class Reading:
    """A source at work."""

    def __init__(self, source: SqsSource, status: Status, metrics: Metrics) -> None:
        self.source, self.status, self.metrics = source, status, metrics
        self.messages: list[Message] = []
        self.settles = False
        """Whether what comes is settled at once."""
        self._more = trio.Event()

    def add(self, messages: Sequence[Message]) -> None:
        self.messages += messages
        for message in messages if self.settles else ():
            message.settled()
        self._more.set()
        self._more = trio.Event()

    async def until(self, count: int, seconds: float = 10) -> list[str]:
        with trio.fail_after(seconds):
            while len(self.messages) < count:
                await self._more.wait()
        return [str(message.body) for message in self.messages]

    def settle(self) -> None:
        for message in self.messages:
            message.settled()

    @property
    def acknowledged(self) -> float:
        return float(self.metrics.acknowledged.labels("sqs")._value.get())

    @property
    def missing(self) -> str:
        return self.status.missing().get("queue", "")


@asynccontextmanager
async def reading(
    url: str, queue: str = "event_stream", *, region: str = "us-east-1", **settings: Any
) -> AsyncIterator[Reading]:
    """Receive in the background; at the end stop as the service does: cancel, finish, wait for the deletes."""
    status, metrics = Status(["queue"]), Metrics()
    chosen = Settings(**{"queue": queue, "wait": 1, "visibility_timeout": 10, **settings})
    source = SqsSource(chosen, Aws(endpoint_url=url, region=region), status, metrics)
    place = Reading(source, status, metrics)
    sender, receiver = trio.open_memory_channel[Sequence[Message]](0)
    async with trio.open_nursery() as nursery:
        receiving = trio.CancelScope()

        async def receive() -> None:
            with receiving:
                await source.receive(sender)

        async def collect() -> None:
            async for messages in receiver:
                place.add(messages)

        nursery.start_soon(receive)
        nursery.start_soon(collect)
        nursery.start_soon(source.acknowledge)
        yield place
        receiving.cancel()
        source.finish()


async def until(true: Callable[[], bool], seconds: float = 10) -> None:
    """Poll another process's or thread's state."""
    with trio.fail_after(seconds):
        while not await trio.to_thread.run_sync(true):  # noqa: ASYNC110 - another process has no events for us
            await trio.sleep(0.02)

"""Messages of an SQS queue: long polls side by side in threads, deletes in tens, visibility kept while we are behind.

What was received and is not yet deleted is bounded, so that a store or a queue that is away stops the reading. Every
call may be abandoned when we stop: what was not deleted is delivered again, and known to be late then.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import trio

from css.backoff import Backoff
from css.config import Aws
from css.config import Source as Settings
from css.errors import Unavailable
from css.metrics import Metrics
from css.model import Message
from css.source.sqs_health import Health
from css.source.sqs_queue import BATCH, Received, SqsQueue
from css.status import Status

T = TypeVar("T")

# Received and not yet deleted, give or take ten for each receiver: a thousand events of 1.5 kB, about a second's work
# of the writer. At worst (every message of the largest size) 1 GB, which only a hostile sender would make of it.
IN_FLIGHT = 1000
_DEPTH_INTERVAL = 30.0
# How long settled messages may gather until there are ten: deleting is charged by the request.
_DELETE_LINGER = 0.05
# Between two receives that bring nothing: only a short poll (`wait` 0) is answered sooner.
_EMPTY_INTERVAL = 0.25


class SqsSource:
    """See `css.source.Source` for what it promises."""

    def __init__(self, settings: Settings, aws_settings: Aws, status: Status, metrics: Metrics) -> None:
        """Raises `ConfigError`."""
        self._queue = SqsQueue(settings, aws_settings, metrics)
        self._settings = settings
        self._status = status
        self._metrics = metrics
        self._health = Health(status, settings.queue, settings.receivers)
        # Own limiters: a poll holds its thread for 20 s, and must starve neither the deletes nor anybody else.
        self._polls = trio.CapacityLimiter(settings.receivers)
        self._calls = trio.CapacityLimiter(settings.receivers + 2)
        # Receipt -> when its visibility was last granted (time.monotonic). Polling threads add to it, so that what an
        # abandoned poll brings is known too: whole dicts at once, and read here through copies.
        self._held: dict[str, float] = {}
        self._settled: deque[tuple[str, float]] = deque()
        self._deleting = 0
        self._wake = trio.Event()
        self._room = trio.Event()
        self._stopped = False
        self._finished = False

    def __repr__(self) -> str:
        waiting = f"{len(self._held)} held, {len(self._settled) + self._deleting} to delete"
        return f"<SqsSource {self._settings.queue} {waiting}>"

    async def receive(self, messages: trio.MemorySendChannel[Sequence[Message]]) -> None:
        async with messages:
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._measure_depth)
                    for receiver in range(self._settings.receivers):
                        nursery.start_soon(self._poll, f"receiver {receiver}", messages)
            finally:
                self._stopped = True

    async def acknowledge(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._extend_visibility)
            async with trio.open_nursery() as deleters:
                for _ in range(self._settings.receivers):
                    deleters.start_soon(self._delete_settled)
            nursery.cancel_scope.cancel()
        await self._give_back()

    def finish(self) -> None:
        self._finished = True
        self._announce()

    def _announce(self) -> None:
        self._wake.set()
        self._wake = trio.Event()

    def _settle(self, receipt: str) -> None:
        granted = self._held.pop(receipt, None)
        if granted is not None:
            self._settled.append((receipt, granted))
            if len(self._settled) == 1:
                self._announce()

    def _release(self, receipt: str) -> None:
        """Let go of a message without deleting it: it comes again after its visibility timeout."""
        self._held.pop(receipt, None)
        self._make_room()

    def _make_room(self) -> None:
        if self._in_flight < IN_FLIGHT:
            self._room.set()
            self._room = trio.Event()

    @property
    def _in_flight(self) -> int:
        return len(self._held) + len(self._settled) + self._deleting

    # --- receiving ------------------------------------------------------------------------------------------------

    async def _poll(self, me: str, messages: trio.MemorySendChannel[Sequence[Message]]) -> None:
        backoff = Backoff()
        # Short at first, and again after a failure: an empty queue shows at once that it can be read.
        wait = 0
        while True:
            while self._in_flight >= IN_FLIGHT:
                await self._room.wait()
            began = trio.current_time()
            try:
                received = await self._call(partial(self._take, wait), self._polls)
            except Unavailable as error:
                wait = 0
                self._health.failed(me, error.why)
                await trio.sleep(backoff.next())
                continue
            self._health.worked(me)
            backoff.reset()
            wait = self._settings.wait
            if not received:
                await trio.sleep_until(began + _EMPTY_INTERVAL)
                continue
            self._metrics.received.labels("sqs").inc(len(received))
            await messages.send([self._message(each) for each in received])

    def _message(self, received: Received) -> Message:
        settle, release = partial(self._settle, received.receipt), partial(self._release, received.receipt)
        return Message(received.body, settle, self._settings.queue, release)

    def _take(self, wait: int) -> list[Received]:
        """In a thread: one poll. If it was abandoned meanwhile, what it brings goes back at once."""
        received = self._queue.receive(wait)
        receipts = [each.receipt for each in received]
        self._held.update(dict.fromkeys(receipts, time.monotonic()))
        if self._stopped and receipts:
            self._queue.change_visibility(receipts, 0)
        return received

    async def _measure_depth(self) -> None:
        while True:
            try:
                depth = await self._call(self._queue.depth, self._calls)
            except Unavailable as error:
                self._status.queue_depth = None
                self._health.mention(error.why)  # not needed for reading: the receivers decide how the queue does
            else:
                self._status.queue_depth = depth
                self._metrics.queue_depth.set(depth)
            await trio.sleep(_DEPTH_INTERVAL)

    # --- deleting -------------------------------------------------------------------------------------------------

    async def _delete_settled(self) -> None:
        while True:
            wake = self._wake  # taken before looking: no wake-up is lost in between
            if not self._settled:
                if self._finished:
                    return
                await wake.wait()
                continue
            if len(self._settled) < BATCH and not self._finished:
                await trio.sleep(_DELETE_LINGER)
            batch = [self._settled.popleft() for _ in range(min(BATCH, len(self._settled)))]
            self._deleting += len(batch)
            try:
                await self._delete(dict(batch))
            finally:
                self._deleting -= len(batch)
                self._make_room()

    async def _delete(self, granted: dict[str, float]) -> None:
        """Delete, trying again until the visibility has run out: then the queue delivers once more, which is harmless.

        (A delete with the receipt of an earlier delivery may be answered well and do nothing.)
        """
        backoff = Backoff(most=5)
        while granted:
            receipts = [*granted]
            try:
                failed = await self._call(partial(self._queue.delete, receipts), self._calls)
            except Unavailable as error:
                self._health.failed("deletes", error.why)
                failed = receipts
            else:
                self._health.worked("deletes")
                self._metrics.acknowledged.labels("sqs").inc(len(receipts) - len(failed))
            expired = time.monotonic() - self._settings.visibility_timeout
            granted = {receipt: granted[receipt] for receipt in failed if granted[receipt] > expired}
            if granted:
                await trio.sleep(backoff.next())

    # --- visibility -----------------------------------------------------------------------------------------------

    async def _extend_visibility(self) -> None:
        """Extend the visibility of what is held for longer than half of it: the writer is behind, not gone."""
        timeout = self._settings.visibility_timeout
        while True:
            await trio.sleep(timeout / 8)
            now = time.monotonic()
            for receipts in _tens([each for each, granted in [*self._held.items()] if now - granted > timeout / 2]):
                held = [receipt for receipt in receipts if receipt in self._held]
                if not held:
                    continue
                extend = partial(self._queue.change_visibility, held, timeout)
                try:
                    failed = await self._call(extend, self._calls)
                except Unavailable as error:
                    self._health.mention(error.why)
                    break
                extended = set(held) - set(failed)
                self._held.update({receipt: now for receipt in extended if receipt in self._held})

    async def _give_back(self) -> None:
        """What nobody settled is visible again at once, for another replica or our next start. At best effort."""
        for receipts in _tens([*self._held]):
            try:
                await self._call(partial(self._queue.change_visibility, receipts, 0), self._calls)
            except Unavailable:
                return

    async def _call(self, call: Callable[[], T], limiter: trio.CapacityLimiter) -> T:
        return await trio.to_thread.run_sync(call, limiter=limiter, abandon_on_cancel=True)


def _tens(receipts: Sequence[str]) -> list[Sequence[str]]:
    return [receipts[start : start + BATCH] for start in range(0, len(receipts), BATCH)]

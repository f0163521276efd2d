"""Messages of an SQS queue: long polls side by side in threads, deletes in tens, visibility kept while we are behind.

At most `_IN_FLIGHT` messages are held unsettled, so that a store that is away stops the reading. Every call may be
abandoned when we stop: what was not deleted is delivered again, and known to be late then.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import structlog
import trio

from css.backoff import Backoff
from css.config import Aws
from css.config import Source as Settings
from css.errors import Unavailable
from css.metrics import Metrics
from css.model import Message
from css.source.sqs_queue import BATCH, Received, SqsQueue
from css.status import Status

_log = structlog.get_logger()
T = TypeVar("T")

# Received but not yet settled, over all receivers: a thousand events of 1.5 kB, a second's work of the writer.
_IN_FLIGHT = 1000
_DEPTH_INTERVAL = 30.0
_DELETE_LINGER = 0.02
_DELETE_TRIES = 3


class SqsSource:
    """See `css.source.Source` for what it promises."""

    def __init__(self, settings: Settings, aws_settings: Aws, status: Status, metrics: Metrics) -> None:
        self._queue = SqsQueue(settings, aws_settings, metrics)
        self._settings = settings
        self._status = status
        self._metrics = metrics
        # Own limiters: a poll holds its thread for 20 s, and must starve neither the deletes nor anybody else.
        self._polls = trio.CapacityLimiter(settings.receivers)
        self._calls = trio.CapacityLimiter(settings.receivers + 2)
        self._held: dict[str, float] = {}  # receipt -> when its visibility was last granted
        self._unclaimed: set[str] = set()  # received by a thread, not yet taken over from it
        self._settled: deque[str] = deque()
        self._wake = trio.Event()
        self._room = trio.Event()
        self._finished = False
        self._abandoned = False

    def __repr__(self) -> str:
        return f"<SqsSource {self._settings.queue} {len(self._held)} held, {len(self._settled)} to delete>"

    async def receive(self, messages: trio.MemorySendChannel[Sequence[Message]]) -> None:
        async with messages:
            try:
                await self._insist(self._queue.resolve, self._calls)
                _log.info("reading the queue", queue=self._settings.queue, receivers=self._settings.receivers)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._measure_depth)
                    nursery.start_soon(self._keep_visible)
                    for _ in range(self._settings.receivers):
                        nursery.start_soon(self._poll, messages)
            finally:
                self._abandoned = True  # a poll that still runs in its thread puts back what it brings

    async def acknowledge(self) -> None:
        async with trio.open_nursery() as nursery:
            for _ in range(self._settings.receivers):
                nursery.start_soon(self._delete_settled)
        # What nobody settled goes back at once, for another replica or our next start.
        for receipts in _tens([*self._held, *self._unclaimed]):
            await self._change_visibility(receipts, 0)

    def finish(self) -> None:
        self._finished = True
        self._announce()

    # What happens to a message, told from outside: never waits.

    def _settle(self, receipt: str) -> None:
        self._release(receipt)
        self._settled.append(receipt)
        if len(self._settled) == 1:
            self._announce()

    def _release(self, receipt: str) -> None:
        """Let go of a message without deleting it: it comes again after its visibility timeout."""
        self._held.pop(receipt, None)
        if len(self._held) < _IN_FLIGHT:
            self._room.set()
            self._room = trio.Event()

    def _announce(self) -> None:
        self._wake.set()
        self._wake = trio.Event()

    # The actors.

    async def _poll(self, messages: trio.MemorySendChannel[Sequence[Message]]) -> None:
        wait = 0  # the first answer comes at once: then it is known whether the queue can be read
        while True:
            while len(self._held) >= _IN_FLIGHT:
                await self._room.wait()
            received = await self._insist(partial(self._receive, wait), self._polls)
            wait = self._settings.wait
            if self._status.report("queue", True):
                _log.info("queue connected", queue=self._settings.queue)
            if received:
                self._metrics.received.labels("sqs").inc(len(received))
                await messages.send([self._take_over(each) for each in received])

    def _receive(self, wait: int) -> list[Received]:
        """In a thread: one poll. If it was abandoned meanwhile, what it brings goes back at once."""
        received = self._queue.receive(wait)
        receipts = [each.receipt for each in received]
        self._unclaimed.update(receipts)
        if self._abandoned and receipts:
            self._queue.change_visibility(receipts, 0)
        return received

    def _take_over(self, received: Received) -> Message:
        receipt = received.receipt
        self._held[receipt] = trio.current_time()
        self._unclaimed.discard(receipt)
        return Message(
            received.body, partial(self._settle, receipt), self._settings.queue, partial(self._release, receipt)
        )

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
            await self._delete([self._settled.popleft() for _ in range(min(BATCH, len(self._settled)))])

    async def _delete(self, receipts: Sequence[str]) -> None:
        """Delete, trying again what failed; given up after that, since the queue would only deliver it once more."""
        backoff = Backoff()
        for _ in range(_DELETE_TRIES):
            if not receipts:
                return
            try:
                failed = await self._call(partial(self._queue.delete, receipts), self._calls)
            except Unavailable:
                await trio.sleep(backoff.next())
                continue
            self._metrics.acknowledged.labels("sqs").inc(len(receipts) - len(failed))
            receipts = failed

    async def _keep_visible(self) -> None:
        """Extend the visibility of what is held for longer than half of it: the writer is behind, not gone."""
        half = self._settings.visibility_timeout / 2
        while True:
            await trio.sleep(half / 2)
            now = trio.current_time()
            for receipts in _tens([receipt for receipt, since in self._held.items() if now - since > half]):
                held = [receipt for receipt in receipts if receipt in self._held]
                if held and await self._change_visibility(held, self._settings.visibility_timeout):
                    self._held.update((receipt, now) for receipt in held if receipt in self._held)

    async def _change_visibility(self, receipts: Sequence[str], seconds: int) -> bool:
        try:
            await self._call(partial(self._queue.change_visibility, receipts, seconds), self._calls)
        except Unavailable:
            return False  # the messages come again: harmless, only dearer
        return True

    async def _measure_depth(self) -> None:
        while True:
            try:
                depth = await self._call(self._queue.depth, self._calls)
                self._metrics.queue_depth.set(depth)
                self._status.queue_depth = depth
            except Unavailable:
                self._status.queue_depth = None  # the receivers say why
            await trio.sleep(_DEPTH_INTERVAL)

    async def _insist(self, call: Callable[[], T], limiter: trio.CapacityLimiter) -> T:
        """Call until there is an answer, with backoff; says once that the queue is lost."""
        backoff = Backoff()
        while True:
            try:
                return await self._call(call, limiter)
            except Unavailable as error:
                delay = backoff.next()
                if self._status.report("queue", False, error.why):
                    _log.warning("cannot read the queue", error=error.why, retry_in=round(delay, 2))
                await trio.sleep(delay)

    async def _call(self, call: Callable[[], T], limiter: trio.CapacityLimiter) -> T:
        return await trio.to_thread.run_sync(call, limiter=limiter, abandon_on_cancel=True)


def _tens(receipts: Sequence[str]) -> list[Sequence[str]]:
    return [receipts[start : start + BATCH] for start in range(0, len(receipts), BATCH)]

"""Messages of an SQS queue: long polls side by side in threads, deletes in tens, visibility kept while we are behind.

A receive may be abandoned at any time (the queue delivers again); a delete never is. At most `_IN_FLIGHT` messages are
held unsettled, so that a store that is away stops the reading.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import msgspec
import structlog
import trio

from css import aws
from css.backoff import Backoff
from css.config import Aws
from css.config import Source as Settings
from css.errors import ConfigError, Unavailable
from css.metrics import Metrics
from css.model import Message
from css.status import Status

_log = structlog.get_logger()

# Received but not yet settled, over all receivers: a thousand events of 1.5 kB, a second's work of the writer.
_IN_FLIGHT = 1000
_DEPTH_INTERVAL = 30.0
_DELETE_LINGER = 0.02
_DELETE_TRIES = 3

_NAME = re.compile(r"[A-Za-z0-9_-]{1,80}(\.fifo)?")
_ARN = re.compile(r"arn:aws[a-z-]*:sqs:(?P<region>[a-z0-9-]+):(?P<account>[0-9]{12}):(?P<name>[A-Za-z0-9_.-]{1,80})")


class QueueName(msgspec.Struct, frozen=True):
    """Which queue is meant: by `url`, or by `name` (and `account`, `region`, where an ARN said so)."""

    name: str = ""
    url: str = ""
    account: str = ""
    region: str = ""


def parse_queue(text: str) -> QueueName:
    """A name, `sqs://name`, a URL or an ARN. Raises `ConfigError`."""
    if text.startswith(("http://", "https://")):
        return QueueName(url=text)
    if match := _ARN.fullmatch(text):
        return QueueName(match["name"], account=match["account"], region=match["region"])
    name = text.removeprefix("sqs://")
    if not _NAME.fullmatch(name):
        raise ConfigError(f"source.queue: expected a queue's name, sqs://name, URL or ARN, found {text!r}")
    return QueueName(name)


class SqsSource:
    """See `css.source.Source` for what it promises."""

    def __init__(self, settings: Settings, aws_settings: Aws, status: Status, metrics: Metrics) -> None:
        self._queue = parse_queue(settings.queue)
        self._settings = settings
        self._status = status
        self._metrics = metrics
        region = aws_settings.region or self._queue.region
        pool = 2 * settings.receivers + 2
        self._client = aws.client(
            msgspec.structs.replace(aws_settings, region=region), "sqs", pool=pool, read_timeout=settings.wait + 15.0
        )
        self._url = self._queue.url
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
                await self._resolve()
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

    def _announce(self) -> None:
        self._wake.set()
        self._wake = trio.Event()

    def _settle(self, receipt: str) -> None:
        self._held.pop(receipt, None)
        self._settled.append(receipt)
        if len(self._settled) == 1:
            self._announce()
        if len(self._held) < _IN_FLIGHT:
            self._room.set()

    async def _resolve(self) -> None:
        """The queue's URL; asked for until there is an answer."""
        if not self._url:
            owner = {"QueueOwnerAWSAccountId": self._queue.account} if self._queue.account else {}
            ask = partial(self._client.get_queue_url, QueueName=self._queue.name, **owner)
            self._url = (await self._insist("GetQueueUrl", ask, self._calls))["QueueUrl"]
        _log.info("reading the queue", queue=self._settings.queue, receivers=self._settings.receivers)

    def _receive(self) -> Sequence[Any]:
        """In a thread: one long poll. If it was abandoned meanwhile, what it brings goes back at once."""
        answer = self._client.receive_message(
            QueueUrl=self._url,
            MaxNumberOfMessages=10,
            WaitTimeSeconds=self._settings.wait,
            VisibilityTimeout=self._settings.visibility_timeout,
        )
        received: Sequence[Any] = answer.get("Messages", ())
        receipts = [each["ReceiptHandle"] for each in received]
        self._unclaimed.update(receipts)
        if self._abandoned and receipts:
            self._client.change_message_visibility_batch(QueueUrl=self._url, Entries=_visibility(receipts, 0))
        return received

    async def _poll(self, messages: trio.MemorySendChannel[Sequence[Message]]) -> None:
        while True:
            while len(self._held) >= _IN_FLIGHT:
                self._room = trio.Event()
                await self._room.wait()
            received = await self._insist("ReceiveMessage", self._receive, self._polls)
            if not received:
                continue
            now = trio.current_time()
            batch = []
            for each in received:
                receipt = each["ReceiptHandle"]
                self._held[receipt] = now
                self._unclaimed.discard(receipt)
                settled = partial(self._settle, receipt)
                batch.append(Message(unwrapped(each["Body"]), settled, self._settings.queue))
            self._metrics.received.labels("sqs").inc(len(batch))
            await messages.send(batch)

    async def _delete_settled(self) -> None:
        while True:
            wake = self._wake  # taken before looking: no wake-up is lost in between
            if not self._settled:
                if self._finished:
                    return
                await wake.wait()
                continue
            if len(self._settled) < 10 and not self._finished:
                await trio.sleep(_DELETE_LINGER)
            await self._delete([self._settled.popleft() for _ in range(min(10, len(self._settled)))])

    async def _delete(self, receipts: list[str]) -> None:
        """Delete, trying again what failed; given up after that, since the queue would only deliver it once more."""
        backoff = Backoff()
        for _ in range(_DELETE_TRIES):
            if not receipts:
                return
            entries = [{"Id": str(index), "ReceiptHandle": receipt} for index, receipt in enumerate(receipts)]
            delete = partial(self._client.delete_message_batch, QueueUrl=self._url, Entries=entries)
            try:
                answer = await self._call("DeleteMessageBatch", delete, self._calls)
            except Unavailable:
                await trio.sleep(backoff.next())
                continue
            failed = [receipts[int(entry["Id"])] for entry in answer.get("Failed", ())]
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
        entries = _visibility(receipts, seconds)
        change = partial(self._client.change_message_visibility_batch, QueueUrl=self._url, Entries=entries)
        try:
            await self._call("ChangeMessageVisibilityBatch", change, self._calls)
        except Unavailable:
            return False  # the messages come again: harmless, only dearer
        return True

    async def _measure_depth(self) -> None:
        ask = partial(
            self._client.get_queue_attributes, QueueUrl=self._url, AttributeNames=["ApproximateNumberOfMessages"]
        )
        while True:
            try:
                answer = await self._call("GetQueueAttributes", ask, self._calls, abandon=True)
                depth = int(answer["Attributes"]["ApproximateNumberOfMessages"])
                self._status.queue_depth = depth
                self._connected()  # known before the first long poll of an empty queue returns
                self._metrics.queue_depth.set(depth)
            except Unavailable:
                self._status.queue_depth = None  # the receivers say why
            await trio.sleep(_DEPTH_INTERVAL)

    async def _insist(self, operation: str, call: Callable[[], Any], limiter: trio.CapacityLimiter) -> Any:
        """Call until there is an answer, with backoff; says once when the queue is lost, and once when it is back."""
        backoff = Backoff()
        while True:
            try:
                answer = await self._call(operation, call, limiter, abandon=True)
            except Unavailable as error:
                delay = backoff.next()
                if self._status.report("queue", False, error.why):
                    _log.warning("cannot read the queue", error=error.why, retry_in=round(delay, 2))
                await trio.sleep(delay)
                continue
            if operation == "ReceiveMessage":
                self._connected()
            return answer

    def _connected(self) -> None:
        if self._status.report("queue", True):
            _log.info("queue connected", queue=self._settings.queue)

    async def _call(
        self, operation: str, call: Callable[[], Any], limiter: trio.CapacityLimiter, *, abandon: bool = False
    ) -> Any:
        """One call in a thread. Raises `Unavailable`."""
        try:
            return await trio.to_thread.run_sync(call, limiter=limiter, abandon_on_cancel=abandon)
        except aws.TRANSLATED as error:
            self._metrics.source_errors.labels(operation).inc()
            raise aws.unavailable("queue", error) from error


class _Notification(msgspec.Struct):
    """The wrapping of a queue that is subscribed to an SNS topic without raw delivery."""

    kind: str = msgspec.field(name="Type")
    message: str = msgspec.field(name="Message")


_notification = msgspec.json.Decoder(_Notification)


def unwrapped(body: str) -> str:
    """The message itself, when SNS has wrapped it."""
    if '"Type"' not in body or '"Message"' not in body:
        return body
    try:
        notification = _notification.decode(body)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return body
    return notification.message if notification.kind == "Notification" else body


def _visibility(receipts: Sequence[str], seconds: int) -> list[dict[str, Any]]:
    return [
        {"Id": str(index), "ReceiptHandle": receipt, "VisibilityTimeout": seconds}
        for index, receipt in enumerate(receipts)
    ]


def _tens(receipts: Sequence[str]) -> list[Sequence[str]]:
    return [receipts[start : start + 10] for start in range(0, len(receipts), 10)]

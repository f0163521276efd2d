"""One SQS queue: its name, and the five calls that are made to it. Blocking: made in threads.

Whatever goes wrong is `Unavailable`, also an answer that is not one of SQS (a proxy's page, say).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import msgspec

from css import aws
from css.config import Aws
from css.config import Source as Settings
from css.errors import ConfigError, Unavailable
from css.metrics import Metrics

T = TypeVar("T")

BATCH = 10
"""The most messages that a call receives, deletes or changes."""

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


class Received(msgspec.Struct, frozen=True):
    """A message; `receipt` is what it is deleted with."""

    receipt: str
    body: str


class SqsQueue:
    """The calls. Safe to use from many threads."""

    def __init__(self, settings: Settings, aws_settings: Aws, metrics: Metrics) -> None:
        self._name = parse_queue(settings.queue)
        self._visibility = settings.visibility_timeout
        self._metrics = metrics
        place = msgspec.structs.replace(aws_settings, region=aws_settings.region or self._name.region)
        pool = settings.receivers + 1
        self._polls = aws.client(place, "sqs", pool=pool, read_timeout=settings.wait + 15.0)
        # The other calls are answered at once or not at all; a hung queue must not hold up the stop.
        self._quick = aws.client(place, "sqs", pool=pool + 1, read_timeout=4.0, attempts=1)
        self.url = self._name.url

    def __repr__(self) -> str:
        return f"<SqsQueue {self.url or self._name.name}>"

    def resolve(self) -> None:
        """Find out the URL."""
        if not self.url:
            owner = {"QueueOwnerAWSAccountId": self._name.account} if self._name.account else {}
            call = partial(self._quick.get_queue_url, QueueName=self._name.name, **owner)
            self.url = self._ask("GetQueueUrl", call, lambda answer: str(answer["QueueUrl"]))

    def receive(self, wait: int) -> list[Received]:
        """Wait up to so many seconds for messages; they are ours for the visibility timeout."""
        call = partial(
            self._polls.receive_message,
            QueueUrl=self.url,
            MaxNumberOfMessages=BATCH,
            WaitTimeSeconds=wait,
            VisibilityTimeout=self._visibility,
        )
        return self._ask("ReceiveMessage", call, _received)

    def delete(self, receipts: Sequence[str]) -> list[str]:
        """Delete at most `BATCH`; returns the receipts that failed."""
        entries = [{"Id": str(index), "ReceiptHandle": receipt} for index, receipt in enumerate(receipts)]
        call = partial(self._quick.delete_message_batch, QueueUrl=self.url, Entries=entries)
        return self._ask(
            "DeleteMessageBatch", call, lambda answer: [receipts[int(each["Id"])] for each in answer.get("Failed", ())]
        )

    def change_visibility(self, receipts: Sequence[str], seconds: int) -> None:
        """At most `BATCH` messages come again after so many seconds from now."""
        entries = [
            {"Id": str(index), "ReceiptHandle": receipt, "VisibilityTimeout": seconds}
            for index, receipt in enumerate(receipts)
        ]
        call = partial(self._quick.change_message_visibility_batch, QueueUrl=self.url, Entries=entries)
        self._ask("ChangeMessageVisibilityBatch", call, lambda _: None)

    def depth(self) -> int:
        """About how many messages wait."""
        name = "ApproximateNumberOfMessages"
        call = partial(self._quick.get_queue_attributes, QueueUrl=self.url, AttributeNames=[name])
        return self._ask("GetQueueAttributes", call, lambda answer: int(answer["Attributes"][name]))

    def _ask(self, operation: str, call: Callable[[], Any], read: Callable[[Any], T]) -> T:
        try:
            return read(call())
        except aws.TRANSLATED as error:
            self._metrics.source_errors.labels(operation).inc()
            raise aws.unavailable("queue", error) from error
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            self._metrics.source_errors.labels(operation).inc()
            raise Unavailable("queue", f"{operation}: the answer is not one of SQS: {error!r}") from error


def _received(answer: Any) -> list[Received]:
    return [Received(each["ReceiptHandle"], unwrapped(each["Body"])) for each in answer.get("Messages") or ()]


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

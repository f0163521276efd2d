"""One SQS queue: its name, and the five calls that are made to it. Blocking: made in threads.

Whatever goes wrong is `Unavailable`, also an answer that is not one of SQS (a proxy's page, say).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

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
_ARN = re.compile(r"arn:aws[a-z-]*:sqs:(?P<region>[a-z0-9-]+):(?P<account>[0-9]{12}):(?P<name>.+)")
# The public endpoints, of today and of old queues; boto3 finds them by their region.
_PUBLIC = re.compile(r"sqs\.[a-z0-9-]+\.amazonaws\.com(\.cn)?|([a-z0-9-]+\.)?queue\.amazonaws\.com")
_REGION = re.compile(r"(?:^|\.)sqs(?:-fips)?\.([a-z0-9-]+)\.|^([a-z0-9-]+)\.queue\.amazonaws\.com$")

# Calls other than polls are answered at once or not at all; a poll is answered soon after its wait.
_CALL_TIMEOUT = 4.0
_POLL_MARGIN = 10.0


class QueueName(msgspec.Struct, frozen=True):
    """Which queue is meant: by `url`, or by `name` (and `account`). Where it said so: its region and its endpoint."""

    name: str = ""
    url: str = ""
    account: str = ""
    region: str = ""
    endpoint: str = ""


def parse_queue(text: str) -> QueueName:
    """A name, `sqs://name`, a URL or an ARN. Raises `ConfigError`."""
    if text.startswith(("http://", "https://")):
        return _parse_url(text)
    if text.startswith("arn:"):
        match = _ARN.fullmatch(text)
        if match and _NAME.fullmatch(match["name"]):
            return QueueName(match["name"], account=match["account"], region=match["region"])
        raise _misnamed("an ARN such as arn:aws:sqs:us-east-1:111122223333:event_stream", text)
    name = text.removeprefix("sqs://")
    if not _NAME.fullmatch(name):
        raise _misnamed("a queue's name, sqs://name, URL or ARN", text)
    return QueueName(name)


def _parse_url(text: str) -> QueueName:
    try:
        parts = urlsplit(text)
        host, name = parts.hostname or "", parts.path.rpartition("/")[2]
    except ValueError:
        host = name = ""
    if not host or not _NAME.fullmatch(name):
        raise _misnamed("a queue's URL such as https://sqs.us-east-1.amazonaws.com/111122223333/event_stream", text)
    region = _REGION.search(host)
    endpoint = "" if _PUBLIC.fullmatch(host) else f"{parts.scheme}://{parts.netloc}"
    return QueueName(url=text, region=(region[1] or region[2]) if region else "", endpoint=endpoint)


def _misnamed(expected: str, found: str) -> ConfigError:
    return ConfigError(f"source.queue: expected {expected}, found {found[:200]!r}")


class Received(msgspec.Struct, frozen=True):
    """A message; `receipt` is what it is deleted with."""

    receipt: str
    body: str


class SqsQueue:
    """The calls. Safe to use from many threads."""

    def __init__(self, settings: Settings, aws_settings: Aws, metrics: Metrics) -> None:
        self._name = name = parse_queue(settings.queue)
        self._visibility = settings.visibility_timeout
        self._metrics = metrics
        # What the queue's own name says goes before what is set for everything.
        place = msgspec.structs.replace(
            aws_settings,
            region=name.region or aws_settings.region,
            endpoint_url=aws_settings.endpoint_url or name.endpoint,
        )
        connect = partial(aws.client, place, "sqs", attempts=1)
        poll_timeout = settings.wait + _POLL_MARGIN
        # Two connections: a poll may take longer than a call may, and than a hung one may hold up the stop.
        self._polls = aws.Connection(partial(connect, pool=settings.receivers, read_timeout=poll_timeout))
        self._quick = aws.Connection(partial(connect, pool=settings.receivers + 2, read_timeout=_CALL_TIMEOUT))
        self._url = name.url

    def __repr__(self) -> str:
        return f"<SqsQueue {self._url or self._name.name}>"

    def receive(self, wait: int) -> list[Received]:
        """Wait up to so many seconds for messages; they are ours for the visibility timeout."""
        asked = {"MaxNumberOfMessages": BATCH, "WaitTimeSeconds": wait, "VisibilityTimeout": self._visibility}
        return self._ask("ReceiveMessage", self._polls, asked, _received)

    def delete(self, receipts: Sequence[str]) -> list[str]:
        """Delete at most `BATCH`; returns the receipts that failed."""
        entries = [{"Id": str(index), "ReceiptHandle": receipt} for index, receipt in enumerate(receipts)]
        return self._ask("DeleteMessageBatch", self._quick, {"Entries": entries}, partial(_failed, receipts))

    def change_visibility(self, receipts: Sequence[str], seconds: int) -> list[str]:
        """At most `BATCH` messages come again after so many seconds from now; returns the receipts that failed."""
        entries = [
            {"Id": str(index), "ReceiptHandle": receipt, "VisibilityTimeout": seconds}
            for index, receipt in enumerate(receipts)
        ]
        return self._ask("ChangeMessageVisibilityBatch", self._quick, {"Entries": entries}, partial(_failed, receipts))

    def depth(self) -> int:
        """About how many messages wait."""
        name = "ApproximateNumberOfMessages"
        return self._ask(
            "GetQueueAttributes",
            self._quick,
            {"AttributeNames": [name]},
            lambda answer: int(answer["Attributes"][name]),
        )

    def _find(self) -> str:
        """The URL; asked for at the first call."""
        if not self._url:
            owner = {"QueueOwnerAWSAccountId": self._name.account} if self._name.account else {}
            answer = self._quick.call("GetQueueUrl", {"QueueName": self._name.name, **owner})
            self._url = str(answer["QueueUrl"])
        return self._url

    def _ask(self, operation: str, connection: aws.Connection, asked: Mapping[str, Any], read: Callable[[Any], T]) -> T:
        try:
            return read(connection.call(operation, {"QueueUrl": self._find(), **asked}))
        except aws.TRANSLATED as error:
            self._metrics.source_errors.labels(operation).inc()
            if aws.code_of(error).rpartition("#")[2] == "InvalidAddress":
                raise ConfigError(f"source.queue: {error}, found {self._name.url or self._name.name!r}") from error
            raise aws.unavailable("queue", error) from error
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            self._metrics.source_errors.labels(operation).inc()
            raise Unavailable("queue", f"{operation}: the answer is not one of SQS: {error!r}") from error


def _failed(receipts: Sequence[str], answer: Any) -> list[str]:
    return [receipts[int(entry["Id"])] for entry in answer.get("Failed") or ()]


def _received(answer: Any) -> list[Received]:
    return [Received(each["ReceiptHandle"], unwrapped(each["Body"])) for each in answer.get("Messages") or ()]


class _Notification(msgspec.Struct):
    """The wrapping of a queue that is subscribed to an SNS topic without raw delivery."""

    kind: Literal["Notification"] = msgspec.field(name="Type")
    message: str = msgspec.field(name="Message")


_notification = msgspec.json.Decoder(_Notification)


def unwrapped(body: str) -> str:
    """The message itself, when SNS has wrapped it."""
    if '"Notification"' not in body:  # spares every other message the decoding
        return body
    try:
        return _notification.decode(body).message
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return body

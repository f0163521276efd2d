"""The SQS API over one queue: receiving with long polls, deleting, visibility, sending.

Waits for messages on the trio clock; everything else is decided by `queue`. Source: botocore's model of SQS
2012-11-05 and the SQS API reference.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec
import trio

from css.simulator.protocol import AwsError, Fields, texts
from css.simulator.queue import MOST_RECEIVED, Queue
from css.simulator.shapes import Place

_encode = msgspec.json.Encoder().encode

_PREFIX = "com.amazonaws.sqs#"
_LONGEST_WAIT = 20
_LARGEST = 1_048_576
_MOST_VISIBILITY = 43_200

Body = bytes | list[bytes]
Answered = dict[str, Any]


class SqsApi:
    """`call(operation, fields, base_url)` answers the body. `arrived` wakes the long polls."""

    def __init__(self, queue: Queue, name: str, place: Place) -> None:
        self._queue = queue
        self._name = name
        self._account = place.account
        self._arn = f"arn:{place.partition}:sqs:{place.region}:{place.account}:{name}"
        self._waiting = trio.lowlevel.ParkingLot()
        self._operations: Mapping[str, Callable[[Fields], Body]] = {
            "GetQueueAttributes": self._attributes,
            "DeleteMessage": self._delete,
            "DeleteMessageBatch": self._delete_batch,
            "ChangeMessageVisibility": self._change_visibility,
            "ChangeMessageVisibilityBatch": self._change_visibility_batch,
            "SendMessage": self._send,
            "SendMessageBatch": self._send_batch,
            "PurgeQueue": self._purge,
        }

    async def call(self, operation: str, fields: Fields, base_url: str) -> Body:
        """Raises `AwsError`."""
        url = f"{base_url}/{self._account}/{self._name}"
        if operation == "ListQueues":
            listed = [url] if self._name.startswith(str(fields.get("QueueNamePrefix", ""))) else []
            return _encode({"QueueUrls": listed})
        if operation == "GetQueueUrl":
            self._check(fields.get("QueueName"))
            return _encode({"QueueUrl": url})
        self._check(str(fields.get("QueueUrl", "")).rpartition("/")[2])
        if operation == "ReceiveMessage":
            return await self._receive(fields)
        act = self._operations.get(operation)
        if act is None:
            raise _error("UnsupportedOperation", f"{operation} is not simulated.")
        return act(fields)

    def arrived(self) -> None:
        """Something may have become visible."""
        self._waiting.unpark_all()

    # --- receiving ------------------------------------------------------------------------------------------------

    async def _receive(self, fields: Fields) -> Body:
        most = _number(fields, "MaxNumberOfMessages", 1, 1, MOST_RECEIVED)
        wait = _number(fields, "WaitTimeSeconds", 0, 0, _LONGEST_WAIT)
        visibility = _number(fields, "VisibilityTimeout", -1, 0, _MOST_VISIBILITY)
        attributes = set(texts(fields, "AttributeNames") + texts(fields, "MessageSystemAttributeNames"))
        if wait:
            await self._wait_visible(trio.current_time() + wait)
        messages = self._queue.receive(most, trio.current_time(), visibility if visibility >= 0 else None, attributes)
        return [b'{"Messages":[', b",".join(messages), b"]}"] if messages else b"{}"

    async def _wait_visible(self, deadline: float) -> None:
        while True:
            now = trio.current_time()
            due = self._queue.refresh(now)
            if not self._queue.is_empty or now >= deadline:
                return
            with trio.move_on_at(deadline if due is None else min(deadline, due)):
                await self._waiting.park()

    # --- settling -------------------------------------------------------------------------------------------------

    def _delete(self, fields: Fields) -> Body:
        if not self._queue.delete(_handle(fields), trio.current_time()):
            raise _error("ReceiptHandleIsInvalid", "The input receipt handle is invalid.")
        return b"{}"

    def _delete_batch(self, fields: Fields) -> Body:
        now = trio.current_time()

        def one(entry: Fields) -> Answered:
            if not self._queue.delete(_handle(entry), now):
                raise _error("ReceiptHandleIsInvalid", "The input receipt handle is invalid.")
            return {}

        return _batch(fields, one)

    def _change_visibility(self, fields: Fields) -> Body:
        seconds = _number(fields, "VisibilityTimeout", 0, 0, _MOST_VISIBILITY)
        if wrong := self._queue.change_visibility(_handle(fields), seconds, trio.current_time()):
            raise _error(wrong, "The message is not in flight, or its receipt handle is not valid.")
        self.arrived()
        return b"{}"

    def _change_visibility_batch(self, fields: Fields) -> Body:
        def one(entry: Fields) -> Answered:
            self._change_visibility(entry)
            return {}

        return _batch(fields, one)

    # --- sending --------------------------------------------------------------------------------------------------

    def _send(self, fields: Fields) -> Body:
        return _encode(self._put(fields))

    def _send_batch(self, fields: Fields) -> Body:
        return _batch(fields, self._put)

    def _put(self, fields: Fields) -> Answered:
        body = fields.get("MessageBody")
        if not isinstance(body, str) or not body:
            raise _error("InvalidMessageContents", "The message body must be a string that is not empty.")
        if len(body.encode()) > _LARGEST:
            raise _error("InvalidParameterValue", f"One or more parameters are invalid: longer than {_LARGEST} bytes.")
        if fields.get("MessageAttributes"):
            raise _error("UnsupportedOperation", "Message attributes are not simulated.")
        sent = self._queue.send(body, trio.current_time(), _number(fields, "DelaySeconds", 0, 0, 900))
        self.arrived()
        return {"MessageId": sent.id, "MD5OfMessageBody": sent.md5}

    # --- the queue itself -----------------------------------------------------------------------------------------

    def _attributes(self, fields: Fields) -> Body:
        self._queue.refresh(trio.current_time())
        counts = self._queue.counts()
        have = {
            "QueueArn": self._arn,
            "ApproximateNumberOfMessages": str(counts.visible),
            "ApproximateNumberOfMessagesNotVisible": str(counts.in_flight),
            "ApproximateNumberOfMessagesDelayed": str(counts.delayed),
            "VisibilityTimeout": str(math.ceil(self._queue.visibility_timeout)),
            "MaximumMessageSize": str(_LARGEST),
            "MessageRetentionPeriod": "345600",
            "DelaySeconds": "0",
            "ReceiveMessageWaitTimeSeconds": "0",
        }
        wanted = set(texts(fields, "AttributeNames"))
        if unknown := wanted - have.keys() - {"All"}:
            raise _error("InvalidAttributeName", f"Unknown Attribute {min(unknown)}.")
        chosen = {name: value for name, value in have.items() if name in wanted or "All" in wanted}
        return _encode({"Attributes": chosen} if chosen else {})

    def _purge(self, fields: Fields) -> Body:
        self._queue.purge()
        return b"{}"

    def _check(self, name: object) -> None:
        if name != self._name:
            raise AwsError(
                _PREFIX + "QueueDoesNotExist",
                "The specified queue does not exist.",
                legacy="AWS.SimpleQueueService.NonExistentQueue",
            )


def _batch(fields: Fields, act: Callable[[Fields], Answered]) -> bytes:
    """Up to ten entries, each of which succeeds or fails by itself."""
    entries = fields.get("Entries")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise _error("InvalidParameterValue", "Entries must be a list of objects.")
    _check_batch([str(entry.get("Id", "")) for entry in entries])
    successful: list[Answered] = []
    failed: list[Answered] = []
    for entry in entries:
        try:
            successful.append({"Id": entry["Id"], **act(entry)})
        except AwsError as error:
            code = error.code.removeprefix(_PREFIX)
            failed.append({"Id": entry["Id"], "Code": code, "Message": error.message, "SenderFault": True})
    answered: Answered = {"Successful": successful}
    return _encode(answered | {"Failed": failed} if failed else answered)


def _check_batch(ids: Iterable[str]) -> None:
    ids = list(ids)
    if not ids:
        raise _error("EmptyBatchRequest", "There should be at least one entry in the request.")
    if len(ids) > MOST_RECEIVED:
        raise _error("TooManyEntriesInBatchRequest", "Maximum number of entries per request are 10.")
    if "" in ids:
        raise _error("InvalidBatchEntryId", "A batch entry id can not be empty.")
    if len(set(ids)) < len(ids):
        raise _error("BatchEntryIdsNotDistinct", "Two or more batch entries have the same id.")


def _handle(fields: Fields) -> str:
    value = fields.get("ReceiptHandle")
    return value if isinstance(value, str) else ""


def _number(fields: Fields, name: str, default: int, least: int, most: int) -> int:
    value = fields.get(name)
    if value is None:
        return default
    if not isinstance(value, int) or not least <= value <= most:
        raise _error("InvalidParameterValue", f"Value {value} for parameter {name} is invalid.")
    return value


def _error(code: str, message: str) -> AwsError:
    return AwsError(_PREFIX + code, message, legacy=code)

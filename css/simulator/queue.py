"""A model of an SQS standard queue: at least once, visibility timeouts, receipt handles. Quick enough to load others.

Pure: the time is told to it, and nobody is woken by it. Every message is encoded once, when it is put in. Source: the
SQS developer guide, and botocore's model of SQS 2012-11-05.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Collection
from hashlib import md5
from itertools import count
from random import Random

import msgspec

MOST_RECEIVED = 10

_encode = msgspec.json.Encoder().encode


class _Message:
    """`head` is its unchanging part of a ReceiveMessage answer; `receipts` counts how often it was handed out."""

    __slots__ = ("first_received", "gone", "head", "id", "in_flight_until", "md5", "receipts", "sent")

    def __init__(self, number: int, body: str, sent: float) -> None:
        self.id = number
        self.md5 = md5(body.encode(), usedforsecurity=False).hexdigest()
        self.head = f'"MessageId":"{self.uuid}","MD5OfBody":"{self.md5}","Body":'.encode() + _encode(body)
        self.sent = sent
        self.receipts = 0
        self.first_received = 0.0
        self.in_flight_until: float | None = None
        self.gone = False

    @property
    def uuid(self) -> str:
        return f"00000000-0000-4000-8000-{self.id:012x}"

    @property
    def handle(self) -> str:
        """Only the newest handle deletes the message."""
        return f"AQEB{self.id:012x}{self.receipts:06x}"


class Sent(msgspec.Struct, frozen=True):
    """What SendMessage answers."""

    id: str
    md5: str


class Counts(msgspec.Struct, frozen=True):
    """How many messages there are, and what was done since the beginning."""

    visible: int
    in_flight: int
    delayed: int
    sent: int
    received: int
    redelivered: int
    deleted: int
    stale_deletes: int
    """Deletes with an old handle: they succeed and do nothing."""


class Queue:
    """See the module's text. `window` > 1 hands messages out in any order within so many (seeded).

    Times are in seconds of any clock that only grows; `epoch` is what to add for a time since 1970.
    """

    def __init__(self, *, visibility_timeout: float = 30.0, seed: int = 1, epoch: float = 0.0) -> None:
        self.visibility_timeout = visibility_timeout
        self.window = 0
        self._epoch = epoch
        self._rng = Random(seed)
        self._numbers = count(1)
        self._order = count()
        self._messages: dict[int, _Message] = {}
        self._ready: deque[_Message] = deque()
        self._delayed: list[tuple[float, int, _Message]] = []
        self._returning: list[tuple[float, int, _Message]] = []
        self._in_flight = 0
        self._sent = self._received = self._redelivered = self._deleted = self._stale = 0

    def __repr__(self) -> str:
        return f"<Queue {self.counts()!r}>"

    def send(self, body: str, now: float, delay: float = 0.0) -> Sent:
        """Put a message in; it can be received after `delay` seconds."""
        message = _Message(next(self._numbers), body, now)
        self._messages[message.id] = message
        self._sent += 1
        if delay > 0:
            heapq.heappush(self._delayed, (now + delay, next(self._order), message))
        else:
            self._ready.append(message)
        return Sent(message.uuid, message.md5)

    def receive(
        self, most: int, now: float, visibility: float | None = None, attributes: Collection[str] = ()
    ) -> list[bytes]:
        """Hand out up to `most` messages, as JSON objects; each is invisible for a while."""
        self._wake(now)
        until = now + (self.visibility_timeout if visibility is None else visibility)
        answers: list[bytes] = []
        while self._ready and len(answers) < most:
            message = self._pick()
            if message.gone:
                continue
            message.receipts += 1
            message.first_received = message.first_received or now
            message.in_flight_until = until
            heapq.heappush(self._returning, (until, next(self._order), message))
            self._in_flight += 1
            self._received += 1
            self._redelivered += message.receipts > 1
            tail = b',"ReceiptHandle":"%s"}' % message.handle.encode()
            if attributes:
                tail = b',"Attributes":' + _encode(self._attributes(message, attributes)) + tail
            answers.append(b"{" + message.head + tail)
        return answers

    def delete(self, handle: str, now: float) -> bool:
        """Delete by receipt handle; an old one succeeds without deleting. False: no handle at all."""
        self._wake(now)
        found = self._find(handle)
        if found is None:
            return False
        message, newest = found
        if message is None or not newest:
            self._stale += 1
            return True
        self._release(message)
        message.gone = True
        del self._messages[message.id]
        self._deleted += 1
        return True

    def change_visibility(self, handle: str, seconds: float, now: float) -> str:
        """Set when an invisible message is seen again. "": done; else the name of the error."""
        self._wake(now)
        found = self._find(handle)
        if found is None:
            return "ReceiptHandleIsInvalid"
        message, newest = found
        if message is None or not newest or message.in_flight_until is None:
            return "MessageNotInflight"
        message.in_flight_until = now + seconds
        heapq.heappush(self._returning, (now + seconds, next(self._order), message))
        self._wake(now)
        return ""

    def purge(self) -> None:
        """Delete everything."""
        for message in self._messages.values():
            message.gone = True
        self._messages.clear()
        self._ready.clear()
        self._delayed.clear()
        self._returning.clear()
        self._in_flight = 0

    def counts(self) -> Counts:
        """As of the last call that told the time."""
        delayed = len(self._delayed)
        return Counts(
            visible=len(self._messages) - self._in_flight - delayed,
            in_flight=self._in_flight,
            delayed=delayed,
            sent=self._sent,
            received=self._received,
            redelivered=self._redelivered,
            deleted=self._deleted,
            stale_deletes=self._stale,
        )

    def refresh(self, now: float) -> float | None:
        """Let what is due become visible. The time at which more will, if any."""
        self._wake(now)
        due = [heap[0][0] for heap in (self._delayed, self._returning) if heap]
        return min(due, default=None)

    @property
    def is_empty(self) -> bool:
        """Whether nothing can be received now."""
        return not self._ready

    def _pick(self) -> _Message:
        if self.window > 1 and len(self._ready) > 1:
            at = self._rng.randrange(min(self.window, len(self._ready)))
            self._ready[0], self._ready[at] = self._ready[at], self._ready[0]
        return self._ready.popleft()

    def _wake(self, now: float) -> None:
        while self._delayed and self._delayed[0][0] <= now:
            message = heapq.heappop(self._delayed)[2]
            if not message.gone:
                self._ready.append(message)
        while self._returning and self._returning[0][0] <= now:
            until, _, message = heapq.heappop(self._returning)
            # An entry whose time is not the message's own was overtaken by a delete or a new visibility.
            if message.in_flight_until == until and not message.gone:
                self._release(message)
                self._ready.append(message)

    def _release(self, message: _Message) -> None:
        if message.in_flight_until is not None:
            message.in_flight_until = None
            self._in_flight -= 1

    def _find(self, handle: str) -> tuple[_Message | None, bool] | None:
        """The message of a handle (None: deleted) and whether it is the newest handle; None: not a handle."""
        if len(handle) != 22 or not handle.startswith("AQEB"):
            return None
        try:
            message = self._messages.get(int(handle[4:16], 16))
        except ValueError:
            return None
        return message, message is not None and message.handle == handle

    def _attributes(self, message: _Message, wanted: Collection[str]) -> dict[str, str]:
        have = {
            "SenderId": "AIDAEVENTBRIDGE",
            "SentTimestamp": str(round((self._epoch + message.sent) * 1000)),
            "ApproximateReceiveCount": str(message.receipts),
            "ApproximateFirstReceiveTimestamp": str(round((self._epoch + message.first_received) * 1000)),
        }
        return {name: value for name, value in have.items() if name in wanted or "All" in wanted}

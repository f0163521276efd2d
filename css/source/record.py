"""Records the messages of a queue to a file that `replay` plays back; written and synced before it is settled."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import trio

from css.model import Message
from css.normalize import Policy, redacted
from css.source import Source
from css.source.replay import Line
from css.status import rfc3339


async def record(source: Source, path: Path, policy: Policy, *, delete: bool, said: Callable[[int], None]) -> None:
    """Append messages to `path` until cancelled; `said` is told how many there are.

    Without `delete` messages are left in the queue, and come again there after their visibility timeout: record from a
    queue of its own, subscribed to the same rule, so that a running daemon loses no time to it.
    """
    sender, receiver = trio.open_memory_channel[Sequence[Message]](0)
    count = 0
    with path.open("ab") as file:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(source.receive, sender)
            if delete:
                nursery.start_soon(source.acknowledge)
            async for messages in receiver:
                now = rfc3339(time.time()) or ""
                for message in messages:
                    file.write(msgspec.json.encode(Line(now, redacted(message.body, policy))) + b"\n")
                await trio.to_thread.run_sync(_sync, file.fileno(), file.flush)
                count += len(messages)
                said(count)
                for message in messages:
                    (message.settled if delete else message.released)()


def _sync(descriptor: int, flush: Callable[[], None]) -> None:
    flush()
    os.fsync(descriptor)

"""Records the messages of a source to a file that `replay` plays back; written and synced before it is settled."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO

import msgspec
import trio

from css.errors import ConfigError
from css.model import Message
from css.normalize import Policy, redacted
from css.source import Source
from css.source.replay import Line
from css.status import rfc3339

# Deletes of what is recorded already are finished so long after the end was asked for.
_FINISH = 5.0
# Digests of 16 bytes: about 10 MB. A queue that is not emptied brings each of its messages again and again.
_REMEMBERED = 100_000

_encode = msgspec.json.Encoder().encode


async def record(source: Source, path: Path, policy: Policy, *, delete: bool, said: Callable[[int], None]) -> None:
    """Append messages to `path` until cancelled or the source ends; `said` is told how many there are by now.

    Without `delete` messages are left in the queue, and come again there after their visibility timeout (nearer to a
    dead-letter queue each time): record from a queue of its own, a target of the same rule, so that a running daemon
    loses no time to it. What came before is not written again then. Raises `ConfigError` if `path` cannot be written.
    """
    sender, receiver = trio.open_memory_channel[Sequence[Message]](0)
    finishing = trio.CancelScope(shield=True)  # `_FINISH` from the end: what is on the disk should not come again

    async def acknowledge() -> None:
        with finishing:
            await source.acknowledge()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(acknowledge)
        try:
            async with trio.open_nursery() as reading:
                reading.start_soon(source.receive, sender)
                await _write(path, receiver, _Lines(policy, distinct=not delete), delete=delete, said=said)
        finally:
            source.finish()
            finishing.deadline = trio.current_time() + _FINISH


async def _write(
    path: Path,
    receiver: trio.MemoryReceiveChannel[Sequence[Message]],
    lines: _Lines,
    *,
    delete: bool,
    said: Callable[[int], None],
) -> None:
    count = 0
    try:
        with path.open("ab+", buffering=0) as file:
            _end_line(file)
            async for messages in receiver:
                text = [line for line in map(lines.make, messages) if line]
                if text:
                    await trio.to_thread.run_sync(_append, file, b"".join(text))
                    count += len(text)
                    said(count)
                for message in messages:
                    (message.settled if delete else message.released)()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from error


class _Lines:
    """Makes a message a line of the file; b"" for one that was made before, when only distinct ones are wanted."""

    def __init__(self, policy: Policy, *, distinct: bool) -> None:
        self._policy = policy
        self._distinct = distinct
        self._seen: dict[bytes, None] = {}

    def make(self, message: Message) -> bytes:
        text = _text(message.body, self._policy)
        if self._distinct and self._is_known(text):
            return b""
        return _encode(Line(rfc3339(time.time()) or "", text)) + b"\n"

    def _is_known(self, text: str) -> bool:
        digest = blake2b(text.encode(), digest_size=16).digest()
        if digest in self._seen:
            return True
        if len(self._seen) >= _REMEMBERED:
            del self._seen[next(iter(self._seen))]
        self._seen[digest] = None
        return False


def _text(body: str | bytes, policy: Policy) -> str:
    """As it came, to the byte, where there is nothing to redact and it is UTF-8."""
    raw = body if isinstance(body, bytes) else body.encode("utf-8", "replace")
    # Redacting writes the JSON anew. A backslash-u may spell any word.
    if policy.redact_environment and (b"environment" in raw or b"\\u" in raw):
        return redacted(raw, policy)
    return raw.decode("utf-8", "replace")


def _append(file: BinaryIO, text: bytes) -> None:
    """All of it, and on the disk. Unbuffered, so that nothing is written twice after an error."""
    view = memoryview(text)
    while view:
        view = view[file.write(view) :]
    os.fsync(file.fileno())


def _end_line(file: BinaryIO) -> None:
    """A recording that was killed may have ended within a line: what follows begins on its own."""
    if file.seek(0, os.SEEK_END):
        file.seek(-1, os.SEEK_END)
        if file.read(1) != b"\n":
            file.write(b"\n")

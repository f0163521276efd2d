"""A follower of the view: a cursor into the log that turns steps into the messages of /v2/watch. Knows no transport.

What a tick changed is encoded once for all followers that share a filter and a position; what was missed and snapshots
are encoded piece by piece as they are sent. Source of the messages: css/wire.py.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Literal

import msgspec
import trio

from css import query, wire
from css.errors import Compacted
from css.follow import Live
from css.log import RevisionLog
from css.metrics import Metrics
from css.model import Key, Kind
from css.query import Filter, InvalidFilter
from css.status import Status, rfc3339
from css.view import Fields, Row, RowChange, Step

PIECE = 256 * 1024
"""The most bytes of a snapshot's message (but for one larger object): clients take 1 MiB by default."""

# Of so many (filter, position) at most, and of so many bytes in all (but for one larger chunk), messages are kept.
_SHARED = 64
_SHARED_BYTES = 8 * 1024 * 1024

_LOOKED_AT = 2000  # changes in one go, some milliseconds: whoever looks for few among many lets others run in between

# Another replica may be ahead of this one for a moment: so long its word about the position is waited for.
_CATCH_UP = 2.0

Send = Callable[[bytes], Awaitable[None]]
_encode = msgspec.json.Encoder().encode


class Interest(msgspec.Struct, frozen=True):
    """What is to be followed: a filter for each kind. Hashable: equal interests share their messages."""

    filters: tuple[tuple[Kind, Filter], ...]

    def wants(self, key: Key, fields: Fields) -> bool:
        for kind, asked in self.filters:
            if kind == key.kind:
                return asked.matches(key, fields)
        return False


class Ask(msgspec.Struct, frozen=True):
    """What a subscriber asked for. `since` is exclusive; `interval` and `heartbeat` are in seconds."""

    interest: Interest
    since: int | None = None
    snapshot: bool = True
    interval: float = 0.05
    heartbeat: float = 5.0


def parse(params: Mapping[str, str], kinds: Mapping[str, Kind]) -> Ask:
    """The parameters of /v2/watch, decoded; `kinds` are the names that may be followed. Raises `InvalidFilter`."""
    rest = dict(params)
    names = rest.pop("kinds", "") or ",".join(kinds)
    wanted = names.split(",")
    for name in wanted:
        if name not in kinds:
            raise InvalidFilter("kinds", f"no kind {name[:80]!r}; there are: {', '.join(kinds)}")
    since = rest.pop("since", None)
    snapshot = rest.pop("snapshot", "true")
    if snapshot not in ("true", "false"):
        raise InvalidFilter("snapshot", "expected true or false")
    interval = _number("interval", rest.pop("interval", "50"), 0, 1000)
    heartbeat = _number("heartbeat", rest.pop("heartbeat", "5000"), 1000, 3_600_000)
    filters = tuple((kinds[name], query.parse(kinds[name], rest)) for name in sorted(set(wanted)))
    return Ask(
        Interest(filters),
        None if since is None else _number("since", since, 0, 2**63 - 1),
        snapshot == "true",
        interval / 1000,
        heartbeat / 1000,
    )


def _number(name: str, text: str, least: int, most: int) -> int:
    # Longer texts are no number of ours, and `int` refuses very long ones.
    if not text.isascii() or not text.isdigit() or len(text) > 19 or not least <= int(text) <= most:
        raise InvalidFilter(name, f"expected a whole number from {least} to {most}, found {text[:40]!r}")
    return int(text)


class Chunk(msgspec.Struct, frozen=True):
    """What happened up to the revision `upto`; no message when nothing of it is of interest."""

    upto: int
    message: bytes | None


class Shared:
    """The last chunks that were asked for, by interest and position, for those who come next to the same place."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._log = live.log
        self._chunks: dict[tuple[Interest, int], Chunk] = {}
        self._bytes = 0

    def __repr__(self) -> str:
        return f"<Shared of {len(self._chunks)} chunks, {self._bytes} bytes>"

    def changes(self, interest: Interest, after: int) -> Chunk:
        """The next chunk of what happened after a revision. Raises `Compacted`."""
        log = self._live.log
        if log is not self._log:  # the same revisions may mean other data
            self._log, self._bytes = log, 0
            self._chunks.clear()
        chunk = self._chunks.get((interest, after))
        if chunk is None:
            chunk = changes(log.read(after), interest, log.head)
            self._keep((interest, after), chunk)
        return chunk

    def _keep(self, place: tuple[Interest, int], chunk: Chunk) -> None:
        self._bytes += _size(chunk)
        while self._chunks and (len(self._chunks) >= _SHARED or self._bytes > _SHARED_BYTES):
            self._bytes -= _size(self._chunks.pop(next(iter(self._chunks))))
        self._chunks[place] = chunk


def _size(chunk: Chunk) -> int:
    return len(chunk.message or b"")


def changes(steps: Sequence[Step], interest: Interest, head: int) -> Chunk:
    """The first of some steps, whole ones, up to about `PIECE` bytes; `head` is where all of them lead."""
    pieces: list[bytes] = []
    size = seen = 0
    for step in steps:
        for change in step.changes:
            piece = _change(change, step.revision, interest)
            if piece is not None:
                pieces.append(piece)
                size += len(piece)
        seen += len(step.changes)
        if size >= PIECE or seen >= _LOOKED_AT:
            upto = step.revision
            break
    else:
        upto = head
    if not pieces:
        return Chunk(upto, None)
    return Chunk(upto, b'{"type":"changes","revision":%d,"changes":[%b]}' % (upto, b",".join(pieces)))


def _change(change: RowChange, revision: int, interest: Interest) -> bytes | None:
    key, row = change.key, change.after
    if row is not None and interest.wants(key, row.fields):
        head = b'{"op":"put","key":%b,"revision":%d,"time":%b,"item":' % (
            _encode(key),
            revision,
            _encode(row.updated_at),
        )
        return b"%b%b%b}}" % (head, row.head, row.detail)
    if change.before is None or not interest.wants(key, change.before):
        return None
    told = row.updated_at if row is not None else rfc3339(time.time())
    return b'{"op":"gone","key":%b,"revision":%d,"time":%b}' % (_encode(key), revision, _encode(told))


def snapshot(rows: Sequence[Row], revision: int) -> Iterator[bytes]:
    """The messages of a snapshot: one at least, the last with `done`."""
    head = b'{"type":"snapshot","revision":%d,"total":%d,"items":[' % (revision, len(rows))
    parts: list[bytes] = []
    size = 0
    for row in rows:
        weight = len(row.head) + len(row.detail) + 2
        if parts and size + weight > PIECE:
            yield b'%b%b],"done":false}' % (head, b"".join(parts[1:]))
            parts, size = [], 0
        parts += (b",", row.head, row.detail, b"}")
        size += weight
    yield b'%b%b],"done":true}' % (head, b"".join(parts[1:]))


class Follower:
    """One subscriber: sends the messages of the interface until it is cancelled or `send` raises."""

    def __init__(
        self, live: Live, shared: Shared, status: Status, metrics: Metrics, ask: Ask, server: str, region: str
    ) -> None:
        self._live = live
        self._shared = shared
        self._status = status
        self._metrics = metrics
        self._ask = ask
        self._server = server
        self._region = region
        self._after: int | None = None
        """The last revision that this subscriber knows; None: it needs a snapshot."""

    def __repr__(self) -> str:
        return f"<Follower after {self._after}>"

    async def run(self, send: Send) -> None:
        """Hello, then the snapshot or what was missed, then for ever what happens."""
        log, epoch = self._live.log, self._live.view.epoch
        await self._greet(send)
        await self._take_position(send)
        bookmark = trio.current_time() + self._ask.heartbeat
        while True:
            moved = self._live.moved  # taken before looking: no wake-up is lost in between
            if self._live.log is not log:  # the store was listed again: the steps between are not known
                log = self._live.log
                if self._live.view.epoch != epoch:
                    epoch = self._live.view.epoch
                    await self._greet(send)
                await self._start_over(send, "compacted")
            try:
                if self._after is None:
                    await self._send_snapshot(send)
                await self._send_changes(send, log)
            except Compacted:
                await self._start_over(send, "slow")
                continue
            if trio.current_time() >= bookmark:
                bookmark = trio.current_time() + self._ask.heartbeat
                await send(wire.encode(wire.Bookmark(self._after or 0, self._status.freshness())))
            with trio.move_on_at(bookmark):
                await moved.wait()
                await self._gather()

    async def _gather(self) -> None:
        """Until the next beat of the interval: all who share it wake together, and share what is encoded."""
        interval = self._ask.interval
        if interval:
            await trio.sleep_until((trio.current_time() // interval + 1) * interval)

    async def _greet(self, send: Send) -> None:
        view = self._live.view
        now = rfc3339(time.time()) or ""
        hello = wire.Hello(wire.PROTOCOL, self._server, view.epoch, view.revision, now, self._region)
        await send(wire.encode(hello))

    async def _take_position(self, send: Send) -> None:
        if self._ask.since is not None:
            with trio.move_on_after(_CATCH_UP):
                while self._live.log.head < self._ask.since:
                    await self._live.moved.wait()
            try:
                self._live.log.read(self._ask.since)
                self._after = self._ask.since
            except Compacted:
                await self._start_over(send, "compacted")
        elif not self._ask.snapshot:
            self._after = self._live.log.head

    async def _start_over(self, send: Send, reason: Literal["compacted", "slow"]) -> None:
        """What was missed is gone: say so; a snapshot shows how it is now."""
        self._metrics.resyncs.labels(reason).inc()
        self._after = None
        await send(wire.encode(wire.Resync(reason)))

    async def _send_snapshot(self, send: Send) -> None:
        view, revision = self._live.view, self._live.view.revision
        rows = [row for kind, asked in self._ask.interest.filters for row in query.select(view, kind, asked)]
        for message in snapshot(rows, revision):
            await send(message)
        self._after = revision

    async def _send_changes(self, send: Send, log: RevisionLog[Step]) -> None:
        """Chunk by chunk: a slow subscriber holds one of them, and its place in the log."""
        while self._after is not None and self._after < log.head and self._live.log is log:
            chunk = self._shared.changes(self._ask.interest, self._after)
            if chunk.message is not None:
                await send(chunk.message)
            self._after = chunk.upto
            await trio.lowlevel.checkpoint()

"""A recorded file of messages, played back: each line is `{"received": RFC 3339, "body": "..."}` (see record.py)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import msgspec
import structlog
import trio

from css.errors import ConfigError
from css.metrics import Metrics
from css.model import Message
from css.status import Status

_log = structlog.get_logger()

_BATCH = 10


class Line(msgspec.Struct, frozen=True):
    """One recorded message."""

    received: str
    body: str


_decoder = msgspec.json.Decoder(Line)


class ReplaySource:
    """`replay://FILE?speed=60`: sixty times as fast as it was recorded; speed 0: as fast as it is taken (default 1)."""

    def __init__(self, url: str, status: Status, metrics: Metrics) -> None:
        parts = urlsplit(url)
        self._path = Path(parts.netloc + parts.path)
        self._status = status
        self._metrics = metrics
        try:
            self._speed = float(parse_qs(parts.query).get("speed", ["1"])[-1])
        except ValueError as error:
            raise ConfigError(f"source.queue: expected a number for speed, found {parts.query!r}") from error
        if not self._path.is_file():
            raise ConfigError(f"source.queue: no such file to replay: {self._path}")

    def __repr__(self) -> str:
        return f"<ReplaySource {self._path} at {self._speed:g}x>"

    async def receive(self, messages: trio.MemorySendChannel[Sequence[Message]]) -> None:
        began, first, count = trio.current_time(), None, 0
        self._status.report("queue", True)
        async with messages:
            for lines in _grouped(self._path):
                at = _seconds(lines[0].received)
                first = at if first is None else first
                if self._speed > 0:
                    await trio.sleep_until(began + (at - first) / self._speed)
                await messages.send([Message(line.body, self._settle, str(self._path)) for line in lines])
                self._metrics.received.labels("replay").inc(len(lines))
                count += len(lines)
        _log.info("replay ended", file=str(self._path), messages=count)

    async def acknowledge(self) -> None:
        """A file keeps what it has."""

    def finish(self) -> None:
        """Nothing to finish."""

    def _settle(self) -> None:
        self._metrics.acknowledged.labels("replay").inc()


def _grouped(path: Path) -> Iterator[list[Line]]:
    """Lines received in the same second go together, ten at most; what is no record is skipped and said."""
    batch: list[Line] = []
    with path.open("rb") as file:
        for number, text in enumerate(file, 1):
            try:
                line = _decoder.decode(text)
                _seconds(line.received)
            except (msgspec.MsgspecError, UnicodeError, RecursionError, ValueError):
                _log.warning("not a recorded message", file=str(path), line=number)
                continue
            if batch and (len(batch) == _BATCH or line.received[:19] != batch[0].received[:19]):
                yield batch
                batch = []
            batch.append(line)
    if batch:
        yield batch


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()

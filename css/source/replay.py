"""A recorded file of messages, played back: each line is `{"received": RFC 3339, "body": "..."}` (see record.py)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from urllib.parse import parse_qsl

import msgspec
import structlog
import trio

from css.errors import ConfigError
from css.metrics import Metrics
from css.model import Message
from css.status import Status

_log = structlog.get_logger()

_SCHEME = "replay://"
_BATCH = 10


class Line(msgspec.Struct, frozen=True):
    """One recorded message."""

    received: str
    body: str


_decoder = msgspec.json.Decoder(Line)


class ReplaySource:
    """`replay://FILE?speed=60`: sixty times as fast as it was recorded; speed 0: as fast as it is taken (default 1)."""

    def __init__(self, url: str, status: Status, metrics: Metrics) -> None:
        """Raises `ConfigError`."""
        self._path, self._speed = parse_replay(url)
        self._status = status
        self._metrics = metrics
        try:
            self._path.open("rb").close()
        except OSError as error:
            raise ConfigError(f"source.queue: {self._path}: cannot be replayed: {error.strerror}") from error

    def __repr__(self) -> str:
        return f"<ReplaySource {self._path} at {self._speed:g}x>"

    async def receive(self, messages: trio.MemorySendChannel[Sequence[Message]]) -> None:
        began, first, count = trio.current_time(), None, 0
        self._status.report("queue", True)
        async with messages:
            for at, lines in _grouped(self._path, timed=self._speed > 0):
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


def parse_replay(url: str) -> tuple[Path, float]:
    """The file and the speed of `replay://FILE?speed=N`. Raises `ConfigError`."""
    path, _, query = url.removeprefix(_SCHEME).partition("?")
    settings = dict(parse_qsl(query, keep_blank_values=True))
    text = settings.pop("speed", "1")
    try:
        speed = float(text)
    except ValueError:
        speed = math.nan
    if settings or not path or not 0 <= speed < math.inf:
        raise ConfigError(f"source.queue: expected replay://FILE?speed=NUMBER (0: at once), found {url[:200]!r}")
    return Path(path), speed


def _grouped(path: Path, *, timed: bool) -> Iterator[tuple[float, list[Line]]]:
    """When (seconds since the epoch) and what: ten at most, that were received at one time if that matters.

    What is no record is skipped and said.
    """
    at, batch = 0.0, list[Line]()
    with path.open("rb") as file:
        for number, text in enumerate(file, 1):
            try:
                line = _decoder.decode(text)
                received = datetime.fromisoformat(line.received).timestamp()
            except (msgspec.MsgspecError, UnicodeError, RecursionError, ValueError, OverflowError):
                _log.warning("not a recorded message", file=str(path), line=number)
                continue
            if batch and (len(batch) == _BATCH or (timed and received != at)):
                yield at, batch
                batch = []
            at = at if batch else received
            batch.append(line)
    if batch:
        yield at, batch

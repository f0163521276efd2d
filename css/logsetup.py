"""How log records become lines: human on a terminal, JSON otherwise. One record is one line, whatever its values hold.

Never a way for data to forge a line or to reach a terminal: control, bidirectional and zero-width characters become
escapes, texts have a bound, bytes (a message's body) are never shown. A log that cannot be written loses lines and
stops nobody.
"""

from __future__ import annotations

import json
import logging
import math
import os
import sys
import threading
from collections.abc import Mapping, MutableMapping
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, Processor

from css.config import Log
from css.errors import ConfigError
from css.explain import printable

LONGEST = 2000
"""Characters of one text; what is beyond is counted."""
_LONGEST_TRACEBACK = 20_000
_MOST = 50
"""Entries of a list or table in a record."""
_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_COLOURS = {"debug": "2", "info": "32", "warning": "33", "error": "31", "critical": "1;31"}


def configure(log: Log) -> None:
    """Set up structlog and the standard library's logging for the process. Raises `ConfigError` (the file)."""
    lines = Lines(_open(log.file)) if log.file else Lines(sys.stderr)
    human = log.format == "human" or (log.format == "auto" and lines.isatty())
    render = _Human(colour=lines.isatty() and not os.environ.get("NO_COLOR")) if human else _json
    structlog.configure(
        processors=processors(render),
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[log.level]),
        logger_factory=lines,
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(handlers=[_Foreign()], level=logging.WARNING, force=True)
    logging.captureWarnings(True)
    # The C core of gRPC writes lines of its own form past all of this; what matters comes back as errors of calls.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")


def processors(render: Processor) -> list[Processor]:
    """The way of a record."""
    return [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        structlog.processors.format_exc_info,
        bound,
        render,
    ]


def bound(logger: Any, method: str, event: EventDict) -> EventDict:
    """Values as plain data of bounded size; of a traceback the end is kept, where the reason stands."""
    traceback = event.pop("exception", None)
    bounded = {printable(str(key)[:100]): _field(value) for key, value in event.items()}
    if traceback is not None:
        bounded["exception"] = str(traceback)[-_LONGEST_TRACEBACK:]
    return bounded


def _field(value: object) -> object:
    plain = _plain(value, depth=3)
    long = isinstance(plain, list | dict) and len(text := json.dumps(plain, default=repr)) > LONGEST
    return _plain(text, depth=0) if long else plain


def _plain(value: object, depth: int) -> object:
    match value:
        case None | bool():
            return value
        case int():
            return value if abs(value) < 2**64 else f"{hex(value)[:40]}..."
        case float():
            return value if math.isfinite(value) else str(value)
        case str():
            return value if len(value) <= LONGEST else f"{value[:LONGEST]}... ({len(value) - LONGEST} more)"
        case bytes() | bytearray() | memoryview():
            return f"<{len(value)} bytes>"
        case Mapping() if depth:
            return {str(key)[:100]: _plain(inner, depth - 1) for key, inner in list(value.items())[:_MOST]}
        case list() | tuple() | set() | frozenset() if depth:
            return [_plain(inner, depth - 1) for inner in list(value)[:_MOST]]
        case _:
            return _plain(str(value) if isinstance(value, BaseException | Path) else repr(value), depth)


def _json(logger: Any, method: str, event: EventDict) -> str:
    # ASCII: json then escapes every character that a terminal or a line-oriented reader could take for something else.
    head = {key: event.pop(key) for key in ("time", "level", "event") if key in event}
    return json.dumps({**head, **event}, ensure_ascii=True, default=repr)


class _Human:
    """`12:00:00 warning  queue unreachable  peer=sqs why=...`; a traceback follows, each line behind a bar."""

    def __init__(self, *, colour: bool) -> None:
        self._colour = colour

    def __call__(self, logger: Any, method: str, event: MutableMapping[str, Any]) -> str:
        time, level = str(event.pop("time", "")), str(event.pop("level", ""))
        title, traceback = printable(str(event.pop("event", ""))), event.pop("exception", "")
        values = " ".join(f"{self._paint('36', key)}={_value(value)}" for key, value in event.items())
        level = self._paint(_COLOURS.get(level, "0"), f"{level:<8}")
        line = f"{self._paint('2', time[:23] + 'Z')} {level} {self._paint('1', title)}  {values}".rstrip()
        return "\n".join([line, *(f"  | {printable(part)}" for part in traceback.splitlines())])

    def _paint(self, colour: str, text: str) -> str:
        return f"\x1b[{colour}m{text}\x1b[0m" if self._colour else text


def _value(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=repr)
    quoted = isinstance(value, str) and (not text or any(c in text for c in ' ="'))
    return printable(json.dumps(text, ensure_ascii=False) if quoted else text)


class Lines:
    """A structlog logger (and its factory) that writes whole lines to a stream, or to a file without a buffer."""

    def __init__(self, stream: TextIO | FileIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self.isatty = stream.isatty

    def __call__(self, *args: Any) -> Lines:
        return self

    def msg(self, line: str) -> None:
        # A full disk or a closed pipe must not end the service: it is the log that suffers.
        with self._lock, suppress(OSError, ValueError):
            if isinstance(self._stream, FileIO):
                self._stream.write(f"{line}\n".encode(errors="backslashreplace"))
            else:
                self._stream.write(line + "\n")
                self._stream.flush()

    debug = info = warning = warn = error = critical = fatal = exception = log = msg

    def close(self) -> None:
        """Let go of a file."""
        if isinstance(self._stream, FileIO):
            self._stream.close()


class _Foreign(logging.Handler):
    """Records of libraries (botocore, grpc, warnings), from `warning` on, join ours."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._log = structlog.get_logger()

    def emit(self, record: logging.LogRecord) -> None:
        level = max(known for known in (30, 40, 50) if known <= max(record.levelno, 30))
        self._log.log(level, record.getMessage(), logger=record.name, exc_info=record.exc_info or None)


def _open(path: str) -> FileIO:
    try:
        return FileIO(path, "a")
    except OSError as error:
        raise ConfigError(f"log.file: {path} cannot be opened: {error.strerror}") from error

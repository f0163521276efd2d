"""The words of HTTP: what a request and an answer are, and the limits. Knows no route and nothing of ECS; does no I/O.

`css/server/listener.py` serves them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

import msgspec
from trio_websocket import WebSocketConnection

Send = Callable[[bytes], Awaitable[None]]


class Request(msgspec.Struct, frozen=True):
    """One request. `path` and `query` are as sent (percent-encoded, ASCII); header names are lower case."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes
    peer: str
    """The client's address, for logs and limits."""


class Pieces(msgspec.Struct, frozen=True):
    """A body that is made while it is sent, so that a slow client holds one block of it and no copy of the whole.

    `make` yields `length` bytes in all, the same ones however late it is called.
    """

    length: int
    make: Callable[[], Iterable[bytes]]


class Response(msgspec.Struct, frozen=True):
    """An answer of a known length; pieces are joined into blocks of about 256 kB. HEAD sends the length alone."""

    status: int
    body: bytes | Sequence[bytes] | Pieces = b""
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()


class Stream(msgspec.Struct, frozen=True):
    """An answer without an end known before: `produce(send)` runs until it returns or the client leaves (chunked).

    Headers go out at once. `send` raises (trio.BrokenResourceError, trio.TooSlowError) when the client is gone or hung.
    """

    produce: Callable[[Send], Awaitable[None]]
    content_type: str
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()


class WebSocket(msgspec.Struct, frozen=True):
    """Accept the upgrade and run `converse` on the connection; when it returns the socket is closed (1000)."""

    converse: Callable[[WebSocketConnection], Awaitable[None]]
    subprotocol: str | None = None


Answer = Response | Stream | WebSocket
Handler = Callable[[Request], Awaitable[Answer]]


class Limits(msgspec.Struct, frozen=True):
    """What one client may take. Sizes in bytes, times in seconds."""

    connections: int = 2000
    head: int = 16 * 1024
    url: int = 8 * 1024
    body: int = 1024 * 1024
    head_time: float = 5.0
    """From the first byte of a request to the end of its head: a slower one is not worth a connection."""
    body_time: float = 30.0
    """From the same byte to the end of the request."""
    idle_time: float = 75.0
    """Between two requests; also for the making of an answer, and the sending of a short one."""
    send_time: float = 10.0
    """For each block of an answer (half a megabyte): a client that takes nothing for so long is gone."""
    message: int = 4096
    """Of what a websocket client says."""
    frames_per_second: float = 50.0
    """Pings and pieces of messages as well; four seconds' worth may come at once."""

"""The websocket side of a connection: the handshake, the conversation, the close. Guarded by its caller.

trio-websocket's reader task may raise for what a hostile client does; css/server/listener.py has the connection's guard
around the nursery that runs it, so that one malformed client never ends more than itself.
"""

from __future__ import annotations

import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_server_stream

from css.server.http import Limits, Request, WebSocket

_GOING_AWAY = 1001
_TOO_CHATTY = 1008
_CLOSE_TIME = 1.0


class Replayed(trio.abc.Stream):
    """A stream whose first bytes were read already."""

    def __init__(self, first: bytes, stream: trio.SocketStream) -> None:
        self._first = first
        self._stream = stream

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if self._first:
            await trio.lowlevel.checkpoint()
            count = len(self._first) if max_bytes is None else max_bytes
            piece, self._first = self._first[:count], self._first[count:]
            return piece
        return bytes(await self._stream.receive_some(max_bytes))

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._stream.aclose()


def handshake(request: Request) -> bytes:
    """The head again, of the headers that a handshake has: every one of them ASCII (the parser has seen to it)."""
    wanted = ("host", "upgrade", "connection")
    target = f"{request.path}?{request.query}" if request.query else request.path
    lines = [f"{request.method} {target} HTTP/1.1"]
    lines += [f"{n}: {v}" for n, v in request.headers.items() if n in wanted or n.startswith("sec-websocket-")]
    return "\r\n".join([*lines, "", ""]).encode("ascii")


async def converse(
    stream: trio.SocketStream, rest: bytes, request: Request, answer: WebSocket, limits: Limits, stop: trio.Event
) -> None:
    """Run the websocket to its end: the conversation's, the client's, or `stop` (closed with 1001)."""
    async with trio.open_nursery() as nursery:
        wrapped = Replayed(handshake(request) + rest, stream)
        with trio.fail_after(limits.head_time):
            asked = await wrap_server_stream(nursery, wrapped, max_message_size=limits.message)
            socket = await asked.accept(subprotocol=answer.subprotocol)
        code = await _until_over(socket, answer, limits, stop)
        with trio.move_on_after(_CLOSE_TIME):
            await socket.aclose(code)
        nursery.cancel_scope.cancel()


async def _until_over(socket: WebSocketConnection, answer: WebSocket, limits: Limits, stop: trio.Event) -> int:
    code = 1000

    async def listen() -> None:
        """Read on, so that pings and closes are dealt with; what a client says means nothing, but has its price."""
        nonlocal code
        while await _seconds_worth(socket, limits):
            pass
        code = _TOO_CHATTY
        over.cancel()

    async def heed_stop() -> None:
        nonlocal code
        await stop.wait()
        code = _GOING_AWAY
        over.cancel()

    async def speak() -> None:
        await answer.converse(socket)
        over.cancel()

    try:
        async with trio.open_nursery() as nursery:
            over = nursery.cancel_scope
            nursery.start_soon(heed_stop)
            nursery.start_soon(listen)
            nursery.start_soon(speak)
    except* (ConnectionClosed, trio.TooSlowError):
        pass  # the client left, or takes nothing any more
    return code


async def _seconds_worth(socket: WebSocketConnection, limits: Limits) -> bool:
    """Read what is said within a second; False when that is too much."""
    with trio.move_on_after(1.0):
        for _ in range(int(limits.messages_per_second)):
            await socket.get_message()
        return False
    return True

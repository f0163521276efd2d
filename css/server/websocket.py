"""The websocket side of a connection: the handshake, the conversation, the close. Guarded by its caller.

trio-websocket's reader task may raise for what a hostile client does; css/server/listener.py has the connection's guard
around the nursery that runs it, so that one malformed client never ends more than itself.
"""

from __future__ import annotations

import structlog
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_server_stream

from css.server.frames import FrameGate
from css.server.http import Limits, Request, WebSocket

_log = structlog.get_logger()

_GOING_AWAY = 1001
_CLOSE_TIME = 1.0


class Gated(trio.abc.Stream):
    """A stream that first tells the handshake, then what the client says within its limits.

    Beyond them `violated` is set (`violation`: the code to close with), and what comes is thrown away.
    """

    def __init__(self, handshake: bytes, rest: bytes, stream: trio.SocketStream, limits: Limits) -> None:
        self._handshake = handshake
        self._rest = rest
        self._stream = stream
        self._gate = FrameGate(limits, trio.current_time())
        self.violated = trio.Event()
        self.violation = 0

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if self._handshake:
            await trio.lowlevel.checkpoint()
            first, self._handshake = self._handshake, b""
            return first
        data, self._rest = self._rest, b""
        data = data or bytes(await self._stream.receive_some(max_bytes))
        self.violation = self._gate.feed(data, trio.current_time())
        if self.violation:
            self.violated.set()
            while data:
                data = bytes(await self._stream.receive_some(max_bytes))
        return data

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
        wrapped = Gated(handshake(request), rest, stream, limits)
        with trio.fail_after(limits.head_time):
            asked = await wrap_server_stream(nursery, wrapped, max_message_size=limits.message)
            socket = await asked.accept(subprotocol=answer.subprotocol)
        code = await _until_over(socket, answer, wrapped, stop)
        with trio.move_on_after(_CLOSE_TIME):
            await socket.aclose(code)
        nursery.cancel_scope.cancel()


async def _until_over(socket: WebSocketConnection, answer: WebSocket, wrapped: Gated, stop: trio.Event) -> int:
    code = 1000

    async def listen() -> None:
        """Read on, so that pings and closes are dealt with; what a client says means nothing."""
        while True:
            await socket.get_message()

    async def heed_limits() -> None:
        nonlocal code
        await wrapped.violated.wait()
        code = wrapped.violation
        over.cancel()

    async def heed_stop() -> None:
        nonlocal code
        await stop.wait()
        code = _GOING_AWAY
        over.cancel()

    async def speak() -> None:
        try:
            await answer.converse(socket)
        except (ConnectionClosed, trio.TooSlowError):
            pass  # the client left, or takes nothing any more
        except Exception:  # noqa: BLE001 - a defect here is one client's close, with its traceback in the log
            _log.exception("a conversation failed")
        over.cancel()

    try:
        async with trio.open_nursery() as nursery:
            over = nursery.cancel_scope
            nursery.start_soon(heed_stop)
            nursery.start_soon(heed_limits)
            nursery.start_soon(listen)
            nursery.start_soon(speak)
    except* ConnectionClosed:
        pass  # the client left
    return code

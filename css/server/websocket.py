"""The websocket side of a connection: the handshake, the conversation, the close. Guarded by its caller.

trio-websocket's reader task may raise for what a hostile client does, and waits for ever for a handshake that it cannot
read. So a handshake is judged here and told to it in our words, and the nursery that runs the reader belongs to one
connection: a malformed client never ends more than itself.
"""

from __future__ import annotations

import base64
import binascii

import structlog
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_server_stream
from wsproto.utilities import ProtocolError

from css.server.frames import FrameGate
from css.server.http import Limits, Request, WebSocket
from css.server.parser import BadRequest

_log = structlog.get_logger()

_GOING_AWAY = 1001
_CLOSE_TIME = 1.0
_VERSION = "13"


class Gated(trio.abc.Stream):
    """A stream that first tells the handshake, then what the client says within its limits.

    Beyond them `violated` is set (`violation`: the code to close with), and what comes is thrown away.
    """

    def __init__(self, handshake: bytes, rest: bytes, stream: trio.SocketStream, limits: Limits) -> None:
        self._handshake = handshake
        self._rest = rest
        self._stream = stream
        self._gate = FrameGate(limits, trio.current_time())
        self.accepted = trio.Event()
        """Until then nothing but the handshake is told: frames that came with it would lie unread until the next."""
        self.violated = trio.Event()
        self.violation = 0

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if self._handshake:
            await trio.lowlevel.checkpoint()
            first, self._handshake = self._handshake, b""
            return first
        await self.accepted.wait()
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


def check(request: Request) -> None:
    """Raises `BadRequest` for what is no handshake (RFC 6455, section 4.2.1) that the parser let pass."""
    headers = request.headers
    if request.method != "GET" or headers.get("upgrade", "").lower() != "websocket":
        raise BadRequest(400, "a websocket is asked for with GET and Upgrade: websocket")
    if headers.get("sec-websocket-version") != _VERSION:
        raise BadRequest(426, f"websocket version {_VERSION} is spoken here", (("Sec-WebSocket-Version", _VERSION),))
    try:
        key = base64.b64decode(headers.get("sec-websocket-key", ""), validate=True)
    except binascii.Error:
        key = b""
    if len(key) != 16:
        raise BadRequest(400, "Sec-WebSocket-Key must be 16 bytes in base64")


def handshake(key: str, subprotocol: str | None) -> bytes:
    """What trio-websocket must know of a handshake that is in order; the client's other headers are none of its."""
    lines = ["GET / HTTP/1.1", "Host: localhost", "Upgrade: websocket", "Connection: Upgrade"]
    lines += [f"Sec-WebSocket-Version: {_VERSION}", f"Sec-WebSocket-Key: {key}"]
    if subprotocol is not None:
        lines.append(f"Sec-WebSocket-Protocol: {subprotocol}")
    return "\r\n".join([*lines, "", ""]).encode("ascii")


async def converse(
    stream: trio.SocketStream, rest: bytes, request: Request, answer: WebSocket, limits: Limits, stop: trio.Event
) -> None:
    """Run the websocket to its end: the conversation's, the client's, or `stop` (closed with 1001).

    Raises `BadRequest` before anything was sent.
    """
    check(request)
    greeting = handshake(request.headers["sec-websocket-key"], answer.subprotocol)
    wrapped = Gated(greeting, rest, stream, limits)
    try:
        async with trio.open_nursery() as nursery:
            with trio.fail_after(limits.send_time):
                asked = await wrap_server_stream(nursery, wrapped, max_message_size=limits.message)
                socket = await asked.accept(subprotocol=answer.subprotocol)
            wrapped.accepted.set()
            code = await _until_over(socket, answer, wrapped, stop)
            with trio.move_on_after(_CLOSE_TIME):
                await socket.aclose(code)
            nursery.cancel_scope.cancel()
    except* (ConnectionClosed, ProtocolError, trio.TooSlowError):
        pass  # the client left, spoke out of turn or took nothing


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

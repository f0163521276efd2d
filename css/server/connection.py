"""One HTTP/1.1 connection: its requests, one after the other, and their answers. Knows no route and nothing of ECS.

One cancel scope holds the whole connection; its deadline moves with what is being waited for, so that a deadline costs
no task and no scope per request.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import suppress
from functools import lru_cache
from http import HTTPStatus

import structlog
import trio

from css.server import websocket
from css.server.failure import failure
from css.server.http import Handler, Limits, Pieces, Request, Response, Send, Stream, WebSocket
from css.server.parser import BadRequest, RequestParser

_log = structlog.get_logger()

_READ = 16 * 1024
# Pieces are joined into blocks of this size: one system call each, and no second copy of a whole list.
_BLOCK = 512 * 1024
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_NEVER = float("inf")
_SHORT = 16 * 1024


class Connection:
    """Runs until the client leaves, a deadline passes, an answer says so, or it is drained."""

    def __init__(self, stream: trio.SocketStream, handler: Handler, limits: Limits) -> None:
        self.peer = _address(stream)
        self._stream = stream
        self._handler = handler
        self._limits = limits
        self._parser = RequestParser(limits, self.peer)
        self._scope = trio.CancelScope()
        self._stop = trio.Event()
        self._waiting = True
        self._began = 0.0
        self._bad: BadRequest | None = None
        self._torn = False
        """The last chunk of a stream is not out whole."""

    def __repr__(self) -> str:
        return f"<Connection of {self.peer} {'waiting' if self._waiting else 'answering'}>"

    def drain(self) -> None:
        """Finish what has begun, then close; end streams and websockets."""
        self._stop.set()
        if self._waiting and not self._parser.begun:
            self._scope.cancel()

    async def run(self) -> None:
        """Serve requests; returns when the connection is over. The caller closes the stream."""
        with self._scope:
            try:
                while await self._next():
                    pass
            except BadRequest as bad:
                await self._refuse(bad)
            await linger(self._stream)
        if self._scope.cancelled_caught and self._waiting and self._parser.begun:
            with trio.move_on_after(1.0):
                await self._refuse(BadRequest(408, "the request did not come in time"))
                await linger(self._stream)

    async def _next(self) -> bool:
        """Answer one request; False when it was the last."""
        requests = self._parser.requests
        while not requests:
            if self._bad is not None:
                raise self._bad
            if not await self._read():
                return False
        arrived = requests.popleft()
        request = arrived.request
        self._waiting = False
        answer = await self._ask(request)
        # Only the last one can be an upgrade, and HTTP/1.0 has none.
        upgraded = self._parser.upgraded if arrived.chunks and not requests else None
        keep = arrived.keep and upgraded is None and not self._stop.is_set()
        if isinstance(answer, Response):
            await self._send(answer, request.method == "HEAD", keep)
        elif isinstance(answer, Stream):
            await self._send_stream(answer, request.method == "HEAD", arrived.chunks)
            return False
        elif upgraded is None:
            raise BadRequest(426, "this is a websocket: ask with Upgrade: websocket")
        else:
            self._scope.deadline = _NEVER
            await websocket.converse(self._stream, upgraded, request, answer, self._limits, self._stop)
            return False
        self._waiting = True
        return keep and not self._stop.is_set()  # a drain that came meanwhile found nothing waiting to cancel

    async def _read(self) -> bool:
        parser, limits = self._parser, self._limits
        begun = parser.begun
        if begun:
            # Counted from its first byte: a client that sends one now and then would wait for ever otherwise.
            self._scope.deadline = self._began + (limits.head_time if parser.in_head else limits.body_time)
        else:
            # It holds for a short answer too: only what has no end, or is long, has another.
            self._scope.deadline = trio.current_time() + limits.idle_time
        if parser.expects_continue():
            await self._stream.send_all(_CONTINUE)
        data = await self._stream.receive_some(_READ)
        if not data:
            return False
        try:
            parser.feed(bytes(data))
        except BadRequest as bad:
            self._bad = bad  # what came before it is answered first
        if parser.requests or not begun:
            self._began = trio.current_time()
            if begun:  # came in several pieces: the answer has its own time
                self._scope.deadline = self._began + limits.idle_time
        return True

    async def _ask(self, request: Request) -> Response | Stream | WebSocket:
        try:
            return await self._handler(request)
        except Exception:  # noqa: BLE001 - a defect in one route is one client's 500, with its traceback in the log
            _log.exception("a request failed", method=request.method, path=request.path[:200])
            return failure(500, "internal_error", "this is a defect of the service; its log says more")

    async def _send(self, answer: Response, head_only: bool, keep: bool) -> None:
        body = answer.body
        match body:
            case bytes():
                size = len(body)
            case Pieces():
                size = body.length
            case _:
                size = sum(map(len, body))
        framing = "Content-Length: "
        head = head_of(answer.status, answer.content_type, answer.headers, keep, framing) + b"%d\r\n\r\n" % size
        if head_only:
            await self._send_piece(head)
        elif isinstance(body, bytes):
            await self._send_piece(head + body)
        else:
            for block in blocks(head, body.make() if isinstance(body, Pieces) else body):
                await self._send_piece(block)

    async def _send_piece(self, piece: bytes) -> None:
        if len(piece) > _SHORT:
            self._scope.deadline = trio.current_time() + self._limits.send_time
        await self._stream.send_all(piece)

    async def _send_stream(self, answer: Stream, head_only: bool, chunks: bool) -> None:
        framing = "Transfer-Encoding: chunked\r\n\r\n" if chunks else "\r\n"
        await self._send_piece(head_of(answer.status, answer.content_type, answer.headers, False, framing))
        if head_only:
            return
        self._scope.deadline = _NEVER
        whole = True  # also when a drain ends it between two chunks
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._await_end, nursery.cancel_scope)
            whole = await self._produce(answer, self._send_chunk if chunks else self._send_in_time)
            nursery.cancel_scope.cancel()
        if chunks and whole and not self._torn:
            await self._send_piece(b"0\r\n\r\n")

    async def _produce(self, answer: Stream, send: Send) -> bool:
        """False when the stream must not look complete."""
        try:
            await answer.produce(send)
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
            return False  # the client left, or takes nothing any more
        except Exception:  # noqa: BLE001 - a defect here is one client's end, with its traceback in the log
            _log.exception("a stream failed", content_type=answer.content_type)
            return False
        return True

    async def _send_chunk(self, chunk: bytes) -> None:
        if chunk:
            await self._send_in_time(b"%x\r\n%b\r\n" % (len(chunk), chunk))

    async def _send_in_time(self, piece: bytes) -> None:
        self._torn = True
        with trio.fail_after(self._limits.send_time):
            await self._stream.send_all(piece)
        self._torn = False

    async def _await_end(self, produce: trio.CancelScope) -> None:
        """End a stream when its client leaves (or says more, which a stream has no answer for), or at a drain."""

        async def client() -> None:
            await self._stream.receive_some(1)
            produce.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(client)
            await self._stop.wait()
            produce.cancel()

    async def _refuse(self, bad: BadRequest) -> None:
        name = HTTPStatus(bad.status).phrase.lower().replace(" ", "_")
        await self._send(failure(bad.status, name, bad.why, headers=bad.headers), head_only=False, keep=False)


async def linger(stream: trio.SocketStream) -> None:
    """Let the client read what was sent last: closing while it still sends would reset the connection."""
    with trio.move_on_after(0.5), suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        await stream.send_eof()
        for _ in range(64):
            if not await stream.receive_some(_READ):
                return


def _address(stream: trio.SocketStream) -> str:
    try:
        name = stream.socket.getpeername()
    except OSError:  # it has gone already
        return ""
    return str(name[0]) if isinstance(name, tuple) else ""


def blocks(first: bytes, pieces: Iterable[bytes]) -> Iterable[bytes]:
    """The pieces joined into blocks of about 256 kB, `first` in front."""
    block, size = [first], len(first)
    for piece in pieces:
        block.append(piece)
        size += len(piece)
        if size >= _BLOCK:
            yield b"".join(block)
            block, size = [], 0
    if block:
        yield b"".join(block)


def head_of(status: int, content_type: str, headers: tuple[tuple[str, str], ...], keep: bool, framing: str) -> bytes:
    """The head up to `framing`: the name of Content-Length, or all that is left to say."""
    return _head(status, content_type, headers, keep, framing, int(time.time()))


@lru_cache(maxsize=256)
def _head(
    status: int, content_type: str, headers: tuple[tuple[str, str], ...], keep: bool, framing: str, now: int
) -> bytes:
    lines = [
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
        f"Date: {time.strftime('%a, %d %b %Y %H:%M:%S GMT', time.gmtime(now))}",
        *([f"Content-Type: {content_type}"] if content_type else []),
        *(f"{name}: {value}" for name, value in headers),
        *(() if keep else ["Connection: close"]),
        framing,
    ]
    return "\r\n".join(lines).encode("latin-1")

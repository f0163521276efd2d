"""One connection of a watch: TCP, TLS, the websocket, its messages one by one, and its end in plain words.

Never retries: what ends a conversation says whether that makes sense.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from typing import Any

import msgspec
import trio
from h11 import ProtocolError as HttpProtocolError
from trio_websocket import ConnectionClosed, ConnectionRejected, WebSocketConnection, wrap_client_stream
from wsproto.utilities import ProtocolError

from css import wire
from css.client.position import Endpoint, OtherData, Position, Refused, State, Update
from css.errors import Unavailable

CONNECT_TIME = 3.0
CLOSE_TIME = 0.5
HEARTBEAT_MS = 1000
"""How often the server is asked to give a sign of life."""
STALE_AFTER = 2.0
LOST_AFTER = 3.0
LOST_WHILE_SYNCING = 10.0
"""A piece of a snapshot may be 256 kB, on a line that carries no more than 30 kB/s."""
MAX_MESSAGE = 4 * 2**20
RECEIVE_BUFFER = 2**18


class Told:
    """Passes on to the subscriber what is said: each message, and each change of state once."""

    def __init__(self, deliver: Callable[[Update], None]) -> None:
        self.message: Callable[[wire.ServerMessage], None] = deliver
        self._deliver = deliver
        self._last: State | None = None
        self._live_since: float | None = None

    @property
    def syncing(self) -> bool:
        return self._last is not None and self._last.phase == "syncing"

    def state(self, state: State) -> None:
        if state == self._last:
            return
        if state.phase == "connecting":
            self._live_since = None
        elif state.phase == "live" and self._live_since is None:
            self._live_since = trio.current_time()
        self._last = state
        self._deliver(state)

    def lived_for(self) -> float:
        """Seconds since the present connection became live; 0 when it never did."""
        return 0.0 if self._live_since is None else trio.current_time() - self._live_since


async def converse(
    endpoint: Endpoint,
    resource: str,
    headers: list[tuple[bytes, bytes]],
    ssl_context: ssl.SSLContext | None,
    position: Position,
    told: Told,
) -> None:
    """Connect and pass on what the server says, to the end. Always raises: `Unavailable`, `OtherData` or `Refused`."""
    stream = await _connect(endpoint, ssl_context)
    failure: Exception | None = None
    try:
        async with trio.open_nursery() as nursery:
            # The deadline is inside the nursery of the reader task: one around it would corrupt the nursery.
            with trio.fail_after(CONNECT_TIME):
                socket = await wrap_client_stream(
                    nursery,
                    stream,
                    endpoint.address,
                    resource,
                    extra_headers=headers,
                    max_message_size=MAX_MESSAGE,
                    receive_buffer_size=RECEIVE_BUFFER,
                )
            position.connected()
            try:
                await _listen(socket, position, told)
            except (Unavailable, OtherData, Refused) as error:
                failure = error
            with trio.move_on_after(CLOSE_TIME):
                await socket.aclose()
            nursery.cancel_scope.cancel()
    except* trio.TooSlowError:
        failure = Unavailable("server", f"no answer to the websocket handshake within {CONNECT_TIME:g} s")
    except* ConnectionRejected as group:
        failure = _rejection(_first(group))
    except* (ProtocolError, HttpProtocolError) as group:
        # h11's own: wsproto answers a garbled handshake with a Response, which a client cannot send.
        failure = failure or Unavailable("server", f"it does not speak websocket: {_first(group)}")
    finally:
        await trio.aclose_forcefully(stream)
    raise failure or Unavailable("server", "connection lost")


async def _connect(endpoint: Endpoint, ssl_context: ssl.SSLContext | None) -> Any:
    """A stream, with TLS already agreed on. Raises `Unavailable`."""
    try:
        with trio.fail_after(CONNECT_TIME):
            if not endpoint.secure:
                return await trio.open_tcp_stream(endpoint.host, endpoint.port)
            stream = await trio.open_ssl_over_tcp_stream(
                endpoint.host, endpoint.port, ssl_context=ssl_context, https_compatible=True
            )
            try:
                await stream.do_handshake()
            except BaseException:
                await trio.aclose_forcefully(stream)
                raise
            return stream
    except trio.TooSlowError:
        raise Unavailable("server", f"no connection within {CONNECT_TIME:g} s") from None
    except (OSError, trio.BrokenResourceError) as error:
        raise Unavailable("server", _plainly(error)) from error


async def _listen(socket: WebSocketConnection, position: Position, told: Told) -> None:
    while True:
        text = await _next(socket, told)
        try:
            message = wire.decode(text)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise Unavailable("server", f"it sent what is no message: {error}") from error
        state = position.take(message)
        told.message(message)
        if state is not None:
            told.state(state)


async def _next(socket: WebSocketConnection, told: Told) -> str | bytes:
    """The next message; a silent server is told as stale, then given up."""
    patience = LOST_WHILE_SYNCING if told.syncing else LOST_AFTER
    try:
        with trio.move_on_after(STALE_AFTER):
            return await _message(socket)
        if not told.syncing:
            told.state(State("stale", reason=f"no word from the server for {STALE_AFTER:g} s"))
        with trio.fail_after(patience - STALE_AFTER):
            return await _message(socket)
    except trio.TooSlowError:
        raise Unavailable("server", f"no word from it for {patience:g} s") from None
    except ConnectionClosed as closed:
        raise Unavailable("server", _closing(closed)) from closed


async def _message(socket: WebSocketConnection) -> str | bytes:
    message: str | bytes = await socket.get_message()
    return message


# --- Foreign errors in plain words -------------------------------------------------------------------------------


def _plainly(error: BaseException) -> str:
    """`connection refused` of trio's "all attempts to connect to localhost:3000 failed", and the like."""
    root: BaseException = _first(error.__cause__ or error)
    text = str(root)
    if isinstance(root, ssl.SSLCertVerificationError):
        text = f"the server's certificate is not trusted: {root.verify_message}"
    elif isinstance(root, ssl.SSLError):
        text = f"no TLS: {root.reason or root}"
    elif isinstance(root, OSError) and root.errno is not None:
        # Numbers of the resolver are negative, and its words are already plain.
        text = os.strerror(root.errno) if root.errno > 0 else root.strerror or text
    return text[:1].lower() + text[1:]


def _closing(closed: ConnectionClosed) -> str:
    code, text = (closed.reason.code, closed.reason.reason) if closed.reason else (1006, None)
    said = {1001: "the server is stopping", 1006: "connection lost"}.get(code, f"closed by the server ({code})")
    return f"{said}: {text}" if text else said


def _first(error: BaseException) -> Any:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


class _Problem(msgspec.Struct):
    message: str = ""
    parameter: str = ""


class _Body(msgspec.Struct):
    error: _Problem = msgspec.field(default_factory=_Problem)


def _rejection(rejected: ConnectionRejected) -> Exception:
    """An answer that is no upgrade: retried only when the server says that it is a matter of time."""
    status: int = rejected.status_code
    try:
        problem = msgspec.json.decode(rejected.body or b"{}", type=_Body).error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        problem = _Problem()
    text = ": ".join(part for part in (problem.parameter, problem.message) if part)[:300]
    said = f": {text}" if text else ""
    if status == 429 or status >= 500:
        return Unavailable("server", f"it answered {status}{said}")
    match status:
        case 401:
            return Refused(f"401, a token is needed or was not accepted{said}")
        case 403:
            return Refused(f"403, not allowed{said}")
        case 400 | 426:
            return Refused(f"{status}, the server does not understand this client{said}")
    return Refused(f"not a cluster state service: it answered {status} instead of a websocket{said}")

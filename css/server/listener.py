"""HTTP/1.1 on sockets: the accept loop, and the guard around each connection. Knows no route and nothing of ECS.

One malformed, slow or vanished client ends its own connection, never the process: the accept loop survives a lack of
descriptors, and everything a connection runs (also a websocket's reader) is inside its one boundary.
"""

from __future__ import annotations

import errno
import os
import resource
import socket
from collections.abc import Sequence

import structlog
import trio
from trio_websocket import ConnectionClosed

from css.errors import ConfigError
from css.metrics import Metrics
from css.server.connection import Connection, linger
from css.server.http import Handler, Limits

_log = structlog.get_logger()

_DEFAULT = Limits()

_OUT_OF_SOMETHING = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS}
_REFUSAL = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nConnection: close\r\nContent-Type: text/plain\r\n"
    b"Content-Length: 22\r\n\r\ntoo many connections\r\n"
)

# A silent stream to a machine that has vanished would hold its descriptor for ever.
_KEEPALIVE = (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4))


async def listen(bind: str) -> list[trio.SocketListener]:
    """Listen on `host:port` (port 0: a free one). Raises `ConfigError` when the address cannot be had."""
    host, _, port = bind.rpartition(":")
    try:
        listeners = await trio.open_tcp_listeners(int(port), host=host.strip("[]") or None)
    except (OSError, ValueError, UnicodeError) as error:
        why = "is in use by another process" if getattr(error, "errno", 0) == errno.EADDRINUSE else str(error)
        raise ConfigError(f"cannot listen on {bind}: {why}; choose another with --bind HOST:PORT") from error
    for listener in listeners:  # what is accepted has the same options
        listener.socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, seconds in _KEEPALIVE:
            if hasattr(socket, name):  # not everywhere
                listener.socket.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), seconds)
    return listeners


def address(listeners: Sequence[trio.SocketListener]) -> str:
    """`http://host:port` of the first listener."""
    host, port = listeners[0].socket.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def serve(
    handler: Handler,
    listeners: Sequence[trio.SocketListener],
    *,
    limits: Limits = _DEFAULT,
    metrics: Metrics | None = None,
    drain: trio.Event | None = None,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until cancelled, or until `drain` is set and every answer begun is out.

    Draining stops accepting, closes idle connections and websockets (1001), ends streams and finishes answers. Callers
    set the deadline for that.
    """
    server = _Server(handler, limits, metrics)
    async with trio.open_nursery() as connections:
        try:
            async with trio.open_nursery() as accepting:
                for listener in listeners:
                    accepting.start_soon(server.accept, listener, connections)
                task_status.started()
                if drain is None:
                    return
                await drain.wait()
                accepting.cancel_scope.cancel()
        finally:
            for listener in listeners:
                listener.socket.close()
        server.drain()


class _Server:
    def __init__(self, handler: Handler, limits: Limits, metrics: Metrics | None) -> None:
        self._handler = handler
        self._limits = limits
        self._metrics = metrics
        self.open: set[Connection] = set()
        self._draining = False
        # Descriptors are kept for the store, the queue and the log: a flood of clients must not starve those.
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft == resource.RLIM_INFINITY:
            soft = 2**20
        self._most = min(limits.connections, max(8, soft - 256 if soft > 512 else soft // 2))
        # Of what is kept a part may go to those that are told to come again.
        self._refusals = min(64, max(1, (soft - self._most) // 4))

    def drain(self) -> None:
        self._draining = True
        for connection in self.open:
            connection.drain()

    async def accept(self, listener: trio.SocketListener, nursery: trio.Nursery) -> None:
        starved = False
        while True:
            try:
                stream = await listener.accept()
            except OSError as error:
                if error.errno not in _OUT_OF_SOMETHING:
                    raise
                if not starved:
                    _log.error("cannot accept connections", error=os.strerror(error.errno))
                starved = True
                await trio.sleep(0.1)
                continue
            starved = False
            nursery.start_soon(self._guard, stream)

    async def _guard(self, stream: trio.SocketStream) -> None:
        """The one boundary of a connection: whatever goes wrong inside is logged and ends just this."""
        connection = None
        try:
            if len(self.open) >= self._most:
                await self._refuse(stream)
                return
            connection = Connection(stream, self._handler, self._limits)
            self.open.add(connection)
            self._gauge()
            if not self._draining:  # accepted just before
                await connection.run()
        except* (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError, ConnectionClosed):
            pass  # the client went away, or takes nothing any more
        # By `except*` also what comes in one group with the cancellation of a shutdown.
        except* Exception as error:  # noqa: BLE001 - the boundary: hostile input must never reach the listener's nursery
            _log.error("a connection failed", peer=getattr(connection, "peer", ""), exc_info=error)
        finally:
            if connection is not None:
                self.open.discard(connection)
                self._gauge()
            await trio.aclose_forcefully(stream)

    async def _refuse(self, stream: trio.SocketStream) -> None:
        if self._refusals <= 0:
            return
        self._refusals -= 1
        try:
            with trio.move_on_after(1.0):
                await stream.send_all(_REFUSAL)
                await linger(stream)
        finally:
            self._refusals += 1

    def _gauge(self) -> None:
        if self._metrics is not None:
            self._metrics.connections.set(len(self.open))

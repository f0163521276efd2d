"""A websocket of /v2/watch that leaves nothing open behind it, however it ends."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
from trio_websocket import WebSocketConnection, wrap_client_stream


@asynccontextmanager
async def connected(port: int, query: str = "") -> AsyncIterator[WebSocketConnection]:
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    try:
        async with trio.open_nursery() as nursery:
            yield await wrap_client_stream(nursery, stream, "localhost", f"/v2/watch?{query}")
            nursery.cancel_scope.cancel()
    finally:
        await trio.aclose_forcefully(stream)

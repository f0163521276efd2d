"""Websocket subscribers of /v2/watch that note how old each change is when it arrives; run as a process of its own.

Prints JSON: the ages in milliseconds (p50, p99), and how many changes each subscriber saw. Frames are read by hand, so
that a hundred subscribers cost this process little: the daemon is measured, not its reader.
"""

from __future__ import annotations

import base64
import json
import os
import sys
import time
from datetime import datetime
from typing import Any

import msgspec
import trio


class _Item(msgspec.Struct):
    detail: dict[str, Any]


class _Change(msgspec.Struct):
    op: str
    item: _Item | None = None


class _Changes(msgspec.Struct):
    type: str
    changes: tuple[_Change, ...] = ()


_decoder = msgspec.json.Decoder(_Changes)


class Frames:
    """Whole text frames of a server (never masked), read from a trio stream."""

    def __init__(self, stream: trio.SocketStream, rest: bytes) -> None:
        self._stream = stream
        self._buffer = bytearray(rest)

    async def next(self) -> bytes:
        await self._need(2)
        length, start = self._buffer[1] & 0x7F, 2
        if length >= 126:
            start = 4 if length == 126 else 10
            await self._need(start)
            length = int.from_bytes(self._buffer[2:start], "big")
        await self._need(start + length)
        payload = bytes(self._buffer[start : start + length])
        del self._buffer[: start + length]
        return payload

    async def _need(self, count: int) -> None:
        while len(self._buffer) < count:
            data = await self._stream.receive_some(1 << 18)
            if not data:
                raise ConnectionError("the server closed")
            self._buffer += data


async def subscribe(port: int, ages: list[float] | None, counts: list[int], index: int) -> None:
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    key = base64.b64encode(os.urandom(16)).decode()
    await stream.send_all(
        f"GET /v2/watch?snapshot=false&kinds=tasks HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\n"
        f"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
    )
    head = b""
    while b"\r\n\r\n" not in head:
        head += await stream.receive_some(65536)
    if not head.startswith(b"HTTP/1.1 101"):
        raise ConnectionError(head[:200].decode())
    frames = Frames(stream, head.partition(b"\r\n\r\n")[2])
    while True:
        payload = await frames.next()
        if b'"changes"' not in payload[:24]:
            continue
        now = time.time()
        counts[index] += payload.count(b'"op":')
        for change in _decoder.decode(payload).changes if ages is not None else ():
            if change.item and (told := change.item.detail.get("updatedAt")):
                ages.append((now - datetime.fromisoformat(told).timestamp()) * 1000)


async def main(port: int, subscribers: int, seconds: float) -> None:
    """Every tenth subscriber (and the first) looks into what it gets; all count it."""
    ages: list[float] = []
    counts = [0] * subscribers
    async with trio.open_nursery() as nursery:
        for index in range(subscribers):
            nursery.start_soon(subscribe, port, ages if index % 10 == 0 else None, counts, index)
        await trio.sleep(2)  # a measurement's warm-up: everyone is connected by then
        ages.clear()
        counts[:] = [0] * subscribers
        await trio.sleep(seconds)
        nursery.cancel_scope.cancel()
    ages.sort()
    print(
        json.dumps(
            {
                "p50": ages[len(ages) // 2],
                "p99": ages[int(len(ages) * 0.99)],
                "changes": len(ages),
                "least": min(counts),
                "most": max(counts),
            }
        )
    )


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))

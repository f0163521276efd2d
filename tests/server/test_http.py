"""HTTP/1.1 over real sockets: keep-alive, limits, streams, draining; what malformed, slow, hostile clients get."""

from __future__ import annotations

import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial

import pytest
import structlog
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio_websocket import WebSocketConnection

from css.server.http import Answer, Limits, Pieces, Request, Response, Send, Stream, WebSocket
from css.server.listener import listen, serve

QUICK = Limits(
    connections=50, head=4096, url=1024, body=2048, head_time=0.3, body_time=0.5, idle_time=0.6, send_time=0.3
)
GET = b"GET /echo HTTP/1.1\r\nHost: x\r\n\r\n"
UPGRADE = (
    b"GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


class Place:
    """A server, and what its handlers saw."""

    def __init__(self, port: int, drain: trio.Event, ended: trio.Event) -> None:
        self.port, self.drain, self.ended = port, drain, ended
        self.gone = trio.Event()
        self.release = trio.Event()
        self.made = 0

    async def handle(self, request: Request) -> Answer:
        match request.path:
            case "/echo":
                return Response(200, f"{request.method} {request.query}".encode() + request.body, "text/plain")
            case "/pieces":
                return Response(200, [b"x" * 1000] * 2000)
            case "/made":
                return Response(200, Pieces(2_000_000, self.make))
            case "/large":
                return Response(200, [b"x" * 100_000] * 200)
            case "/defect":
                raise RuntimeError("a defect")
            case "/slow":
                await self.release.wait()
                return Response(200, b"at last")
            case "/stream":
                return Stream(self.produce, "text/plain")
            case "/flood":
                return Stream(self.flood, "text/plain")
            case "/ws":
                return WebSocket(self.converse)
        return Response(404)

    def make(self) -> Iterator[bytes]:
        for _ in range(2000):
            self.made += 1
            yield b"x" * 1000

    async def produce(self, send: Send) -> None:
        try:
            await send(b"first\n")
            await trio.sleep_forever()
        finally:
            self.gone.set()

    async def flood(self, send: Send) -> None:
        try:
            while True:
                await send(b"y" * 100_000)
        finally:
            self.gone.set()

    async def converse(self, socket: WebSocketConnection) -> None:
        try:
            await socket.send_message("welcome")
            await trio.sleep_forever()
        finally:
            self.gone.set()


@asynccontextmanager
async def serving(limits: Limits = QUICK) -> AsyncIterator[Place]:
    listeners = await listen("127.0.0.1:0")
    drain, ended = trio.Event(), trio.Event()
    place = Place(listeners[0].socket.getsockname()[1], drain, ended)

    async def until_ended(task_status: trio.TaskStatus[None]) -> None:
        await serve(place.handle, listeners, limits=limits, drain=drain, task_status=task_status)
        ended.set()

    async with trio.open_nursery() as nursery:
        await nursery.start(until_ended)
        yield place
        nursery.cancel_scope.cancel()


async def exchange(place: Place, data: bytes, *, half_close: bool = False) -> bytes:
    """Send, and read until the server closes."""
    async with await trio.open_tcp_stream("127.0.0.1", place.port) as stream:
        with trio.fail_after(5):
            try:
                await stream.send_all(data)
                if half_close:
                    await stream.send_eof()
                return b"".join([bytes(piece) async for piece in stream])
            except trio.BrokenResourceError:
                return b""


async def is_served(place: Place) -> bool:
    answer = await exchange(place, GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    return answer.startswith(b"HTTP/1.1 200 OK\r\n")


async def answers(stream: trio.SocketStream, until: Callable[[bytes], bool]) -> bytes:
    received = b""
    with trio.fail_after(5):
        while not until(received):
            received += await stream.receive_some()
    return received


async def test_requests_on_one_connection_are_answered_in_order() -> None:
    """Keep-alive and pipelining: as many answers as requests, each in its turn."""
    async with serving() as place, await trio.open_tcp_stream("127.0.0.1", place.port) as stream:
        await stream.send_all(b"".join(GET.replace(b"/echo", b"/echo?%d" % number) for number in range(20)))
        received = await answers(stream, lambda data: b"GET 19" in data)
        assert [received.index(b"\r\n\r\nGET %d" % number) for number in range(20)] == sorted(
            received.index(b"\r\n\r\nGET %d" % number) for number in range(20)
        )
        await stream.send_all(GET)
        assert b"200 OK" in await answers(stream, lambda data: b"GET " in data)


@pytest.mark.parametrize("path", [b"/pieces", b"/made"])
async def test_head_has_the_length_and_no_body(path: bytes) -> None:
    """HEAD answers as GET without the body, which is not even made."""
    async with serving() as place:
        answer = await exchange(place, b"HEAD " + path + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert b"Content-Length: 2000000\r\n" in answer
        assert answer.endswith(b"\r\n\r\n")
        assert place.made == 0


async def test_bodies_arrive_by_length_and_in_chunks() -> None:
    """Both ways of sending a body are read; a client that waits for leave to send it gets it."""
    async with serving() as place:
        by_length = b"POST /echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 5\r\n\r\nhello"
        assert (await exchange(place, by_length)).endswith(b"POST hello")
        chunked = b"POST /echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
        assert (await exchange(place, chunked + b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n")).endswith(b"POST hello")
        async with await trio.open_tcp_stream("127.0.0.1", place.port) as stream:
            await stream.send_all(by_length.replace(b"\r\n\r\nhello", b"\r\nExpect: 100-continue\r\n\r\n"))
            assert (await answers(stream, bool)).startswith(b"HTTP/1.1 100 Continue\r\n\r\n")
            await stream.send_all(b"hello")
            assert b"POST hello" in await answers(stream, lambda data: b"hello" in data)


@pytest.mark.parametrize("path", [b"/pieces", b"/made"])
async def test_a_large_answer_in_pieces_is_whole(path: bytes) -> None:
    """Pieces go out as one body of the length that was said."""
    async with serving(Limits()) as place:
        answer = await exchange(place, b"GET " + path + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert b"Content-Length: 2000000\r\n" in answer
        assert answer.partition(b"\r\n\r\n")[2] == b"x" * 2_000_000


async def test_a_defect_is_a_500_and_the_connection_lives() -> None:
    """What a handler raises is this request's 500, without a traceback for the client."""
    async with serving() as place, await trio.open_tcp_stream("127.0.0.1", place.port) as stream:
        await stream.send_all(GET.replace(b"/echo", b"/defect") + GET)
        received = await answers(stream, lambda data: b"GET " in data)
        assert received.startswith(b"HTTP/1.1 500 ")
        assert b"RuntimeError" not in received


async def test_a_stream_starts_at_once_and_ends_with_its_client() -> None:
    """Headers and first chunk come without waiting; a client that leaves ends the producer."""
    async with serving() as place:
        async with await trio.open_tcp_stream("127.0.0.1", place.port) as stream:
            await stream.send_all(GET.replace(b"/echo", b"/stream"))
            received = await answers(stream, lambda data: b"first" in data)
            assert b"Transfer-Encoding: chunked\r\n" in received
            assert b"6\r\nfirst\n\r\n" in received
        with trio.fail_after(3):
            await place.gone.wait()


@pytest.mark.parametrize("request_line", [GET.replace(b"/echo", b"/flood"), GET.replace(b"/echo", b"/pieces") * 40])
async def test_a_client_that_takes_nothing_is_cut_off(request_line: bytes) -> None:
    """A hung reader holds its connection for the sending time only, and nobody else."""
    async with serving() as place, await trio.open_tcp_stream("127.0.0.1", place.port) as stream:
        await stream.send_all(request_line)
        with trio.fail_after(5):
            await trio.sleep(QUICK.send_time * 3)
            assert await is_served(place)
            try:
                while await stream.receive_some(1 << 20):
                    pass  # what was in flight, then the end
            except trio.BrokenResourceError:
                return  # a reset is an end as well


async def test_draining_answers_what_was_begun_and_closes_the_rest() -> None:
    """At a drain: no new connection, idle ones closed, the request under way answered, streams ended, then the end."""
    async with serving(Limits()) as place:
        idle = await trio.open_tcp_stream("127.0.0.1", place.port)
        busy = await trio.open_tcp_stream("127.0.0.1", place.port)
        following = await trio.open_tcp_stream("127.0.0.1", place.port)
        async with idle, busy, following:
            await busy.send_all(GET.replace(b"/echo", b"/slow"))
            await following.send_all(GET.replace(b"/echo", b"/stream"))
            await answers(following, lambda data: b"first" in data)
            place.drain.set()
            with trio.fail_after(3):
                assert await idle.receive_some() == b""
                assert (await answers(following, lambda data: data.endswith(b"0\r\n\r\n"))) == b"0\r\n\r\n"
                place.release.set()
                assert b"Connection: close\r\n" in await answers(busy, lambda data: b"at last" in data)
                await place.ended.wait()
            with pytest.raises(OSError, match="connect"):
                await trio.open_tcp_stream("127.0.0.1", place.port)


async def test_too_many_connections_are_refused() -> None:
    """Past the cap a client gets 503 with Retry-After; others go on, and there is room again when one leaves."""
    async with serving(Limits(connections=2)) as place:
        first = await trio.open_tcp_stream("127.0.0.1", place.port)
        second = await trio.open_tcp_stream("127.0.0.1", place.port)
        async with first, second:
            for stream in (first, second):
                await stream.send_all(GET)
                await answers(stream, lambda data: b"GET " in data)
            refused = await exchange(place, b"")
            assert refused.startswith(b"HTTP/1.1 503 ")
            assert b"Retry-After" in refused
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert await is_served(place)


BIG = b"x" * 5000
PROBES: dict[str, tuple[bytes, bytes]] = {
    "garbage": (b"\x00\xff\x16garbage\r\n\r\n", b"400"),
    "TLS hello": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500), b"400"),
    "no host": (b"GET / HTTP/1.1\r\n\r\n", b"400"),
    "two hosts": (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", b"400"),
    "length and chunks": (
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"400",
    ),
    "two lengths": (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", b"400"),
    "negative length": (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", b"400"),
    "bare line feeds": (b"GET / HTTP/1.1\nHost: x\n\n", b"400"),
    "folded header": (b"GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n", b"400"),
    "space before colon": (b"GET / HTTP/1.1\r\nHost : x\r\n\r\n", b"400"),
    "absolute target": (b"GET http://evil/ HTTP/1.1\r\nHost: x\r\n\r\n", b"400"),
    "connect": (b"CONNECT evil:80 HTTP/1.1\r\nHost: x\r\n\r\n", b"400"),
    "target not ASCII": (b"GET /\xc3\xa9 HTTP/1.1\r\nHost: x\r\n\r\n", b"400"),
    "NUL in a header": (b"GET / HTTP/1.1\r\nHost: x\r\nA: \x00\r\n\r\n", b"400"),
    "long URL": (b"GET /" + BIG + b" HTTP/1.1\r\nHost: x\r\n\r\n", b"414"),
    "large head": (
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"".join(b"A%d: %b\r\n" % (n, b"y" * 500) for n in range(20)),
        b"431",
    ),
    "endless header": (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + BIG * 5, b"431"),
    "endless header name": (b"GET / HTTP/1.1\r\nHost: x\r\n" + BIG * 5, b"431"),
    "large body": (b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\n" + BIG, b"413"),
    "slow head": (b"GET / HTTP/1.1\r\nHost:", b"408"),
    "slow body": (b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\nabc", b"408"),
    "upgrade with bytes that are not ASCII": (UPGRADE.replace(b"Host: x", b"Host: \xe9"), b"400"),
    "subprotocol not ASCII": (UPGRADE[:-2] + b"Sec-WebSocket-Protocol: \xff\r\n\r\n", b"400"),
    "extension not ASCII": (UPGRADE[:-2] + b"Sec-WebSocket-Extensions: \xff\r\n\r\n", b"400"),
    "upgrade to something else": (UPGRADE.replace(b"websocket", b"h2c", 1), b""),
    "websocket without a key": (UPGRADE.replace(b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n", b""), b""),
    "old websocket version": (UPGRADE.replace(b"13", b"7"), b""),
    "unmasked frame": (UPGRADE + b"\x81\x02hi", b"101"),
    "reserved opcode": (UPGRADE + b"\x83\x80\x00\x00\x00\x00", b"101"),
    "reserved bits": (UPGRADE + b"\xf1\x80\x00\x00\x00\x00", b"101"),
    "large message, then a ping": (UPGRADE + b"\x81\xfe\x20\x00" + bytes(4 + 8192) + b"\x89\x80" + bytes(4), b"101"),
    "close, then a ping": (UPGRADE + b"\x88\x82\x00\x00\x00\x00\x03\xe8" + b"\x89\x80" + bytes(4), b"101"),
    "flood of messages": (UPGRADE + b"\x81\x80\x00\x00\x00\x00" * 3000, b"101"),
    "flood of empty continuations": (
        UPGRADE + b"\x01\x80\x00\x00\x00\x00" + b"\x00\x80\x00\x00\x00\x00" * 20_000,
        b"101",
    ),
}


@pytest.mark.parametrize("name", PROBES)
async def test_probes(name: str) -> None:
    """Malformed bytes get the right 4xx, or the end of that connection: everybody else is served."""
    data, status = PROBES[name]
    async with serving() as place:
        answer = await exchange(place, data, half_close=status == b"101")
        assert not answer.strip() or answer.startswith(b"HTTP/1.1 " + status)
        if status not in (b"", b"101"):
            assert answer
        assert await is_served(place)


@pytest.mark.parametrize("sent", [UPGRADE[:60], UPGRADE, GET.replace(b"/echo", b"/flood"), GET * 50])
async def test_a_reset_ends_one_connection(sent: bytes) -> None:
    """A client that resets, also in the middle of a handshake, ends itself alone, without a line in the log."""
    async with serving() as place:
        raw = socket.create_connection(("127.0.0.1", place.port))
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raw.sendall(sent)
        raw.close()
        with structlog.testing.capture_logs() as lines:
            assert await is_served(place)
            await trio.testing.wait_all_tasks_blocked(0.05)
        assert [line for line in lines if line["log_level"] != "debug"] == []


@pytest.mark.parametrize("path", [b"/stream", b"/flood", b"/ws", b"/stream and more"])
async def test_a_departure_is_no_error(path: bytes) -> None:
    """A client that resets its stream or websocket, or says more before it does, leaves nothing in the log."""
    with structlog.testing.capture_logs() as lines:
        async with serving() as place:
            stream = await trio.open_tcp_stream("127.0.0.1", place.port)
            sent = UPGRADE if path == b"/ws" else GET.replace(b"/echo", path.split()[0])
            await stream.send_all(sent)
            await stream.receive_some(50)
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            if b"more" in path:
                await stream.send_all(b"more")
            await trio.aclose_forcefully(stream)
            with trio.fail_after(5):
                await place.gone.wait()
            assert await is_served(place)
            await trio.testing.wait_all_tasks_blocked(0.05)
    assert [line for line in lines if line["log_level"] != "debug"] == []


def test_garbage_never_ends_the_server() -> None:
    """Whatever bytes come, in whatever pieces, the server answers the next client."""

    async def main(probes: list[bytes]) -> None:
        async with serving() as place:
            for probe in probes:
                await exchange(place, probe, half_close=True)
            assert await is_served(place)

    heads = st.sampled_from(
        [b"GET / HTTP/1.1\r\n", b"Host: x\r\n", b"\r\n", UPGRADE, GET, b"\x81\x85", b"Transfer-Encoding: chunked\r\n"]
    )
    pieces = st.lists(heads | st.binary(max_size=40), max_size=6).map(b"".join)

    @settings(max_examples=15, deadline=None)
    @given(st.lists(pieces, min_size=1, max_size=8))
    def attempt(probes: list[bytes]) -> None:
        trio.run(partial(main, probes))

    attempt()


async def test_a_lack_of_descriptors_is_survived() -> None:
    """An accept that fails for want of descriptors is tried again."""

    class Starved:
        def __init__(self, listener: trio.SocketListener) -> None:
            self.socket, self._accept, self._failures = listener.socket, listener.accept, 2

        async def accept(self) -> trio.SocketStream:
            self._failures -= 1
            if self._failures >= 0:
                raise OSError(24, "Too many open files")
            return await self._accept()

    (listener,) = await listen("127.0.0.1:0")
    place = Place(listener.socket.getsockname()[1], trio.Event(), trio.Event())
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(serve, place.handle, [Starved(listener)]))  # type: ignore[list-item]
        assert await is_served(place)
        nursery.cancel_scope.cancel()

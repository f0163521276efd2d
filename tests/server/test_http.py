"""HTTP/1.1 over real sockets: keep-alive, bodies, streams, draining, stopping. Hostile clients: test_probes.py."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import pytest
import trio
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
            case "/ws/bye":
                return WebSocket(self.leave)
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

    async def leave(self, socket: WebSocketConnection) -> None:
        await socket.send_message("bye")


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
            piece = await stream.receive_some()
            assert piece, received
            received += piece
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
            received = 0
            with suppress(trio.BrokenResourceError):  # a reset is an end as well
                async for piece in stream:
                    received += len(piece)
            assert received < 40_000_000  # what was in flight


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


async def test_draining_lets_a_request_arrive() -> None:
    """Of what has begun to arrive at a drain the rest is awaited, and answered as the last."""
    async with serving(Limits()) as place, await trio.open_tcp_stream("127.0.0.1", place.port) as stream:
        await stream.send_all(GET[:20])
        await trio.testing.wait_all_tasks_blocked(0.01)
        place.drain.set()
        await trio.testing.wait_all_tasks_blocked(0.01)
        await stream.send_all(GET[20:])
        received = await answers(stream, lambda data: b"GET " in data)
        assert received.startswith(b"HTTP/1.1 200 ")
        assert b"\r\nConnection: close\r\n" in received
        await stream.aclose()
        with trio.fail_after(3):
            await place.ended.wait()


async def test_draining_says_goodbye_to_websockets() -> None:
    """A websocket is closed with 1001: come again, to somebody else."""
    async with serving(Limits()) as place, await trio.open_tcp_stream("127.0.0.1", place.port) as stream:
        await stream.send_all(UPGRADE)
        await answers(stream, lambda data: b"welcome" in data)
        place.drain.set()
        assert await answers(stream, bool) == b"\x88\x02\x03\xe9"
        await stream.send_all(b"\x88\x82" + bytes(4) + b"\x03\xe9")
        with trio.fail_after(3):
            assert await stream.receive_some() == b""
            await place.ended.wait()


async def test_a_chunk_that_was_cut_is_not_the_end() -> None:
    """When a drain cuts a chunk in two, what follows must not pass for the end of the stream."""
    async with serving(Limits()) as place, await trio.open_tcp_stream("127.0.0.1", place.port) as stream:
        await stream.send_all(GET.replace(b"/echo", b"/flood"))
        received = await answers(stream, bool)
        await trio.testing.wait_all_tasks_blocked(0.05)  # until nothing more fits
        place.drain.set()
        with trio.fail_after(5):
            async for piece in stream:
                received += piece
        assert b"y" * 1000 in received
        assert not received.endswith(b"0\r\n\r\n")


async def test_cancelling_ends_everything_at_once() -> None:
    """Without a drain the server ends where it is: listener, idle connections, handlers, streams, websockets."""
    sent = [b"", GET[:20], *(GET.replace(b"/echo", path) for path in (b"/slow", b"/stream", b"/flood")), UPGRADE]
    async with AsyncExitStack() as stack:
        async with serving(Limits()) as place:
            streams = [
                await stack.enter_async_context(await trio.open_tcp_stream("127.0.0.1", place.port)) for _ in sent
            ]
            for stream, data in zip(streams, sent, strict=True):
                await stream.send_all(data)
            await trio.testing.wait_all_tasks_blocked(0.05)
        with trio.fail_after(1):
            for stream in streams:
                with suppress(trio.BrokenResourceError):
                    async for _ in stream:
                        pass
        with pytest.raises(OSError, match="connect"):
            await trio.open_tcp_stream("127.0.0.1", place.port)


async def test_an_idle_connection_is_closed() -> None:
    """A connection that says nothing for the idle time is closed without a word, before and after a request."""
    async with serving() as place:
        for sent in (b"", GET):
            async with await trio.open_tcp_stream("127.0.0.1", place.port) as stream:
                await stream.send_all(sent)
                begun = trio.current_time()
                received = await answers(stream, lambda data: b"GET " in data) if sent else b""
                with trio.fail_after(3):
                    assert await stream.receive_some() == b""
                assert trio.current_time() - begun > QUICK.idle_time * 0.9
                assert b"408" not in received


async def test_leave_to_send_a_body_is_given_in_its_turn() -> None:
    """`100 Continue` comes after the answers to the requests before it."""
    async with serving(Limits()) as place, await trio.open_tcp_stream("127.0.0.1", place.port) as stream:
        expecting = b"POST /echo HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
        await stream.send_all(GET.replace(b"/echo", b"/slow") + expecting)
        await trio.testing.wait_all_tasks_blocked(0.05)
        place.release.set()
        received = await answers(stream, lambda data: b" 100 Continue\r\n\r\n" in data)
        assert received.startswith(b"HTTP/1.1 200 ")
        await stream.send_all(b"hello")
        assert b"POST hello" in await answers(stream, lambda data: b"hello" in data)


async def test_the_last_answer_is_read_whatever_else_was_sent() -> None:
    """Input that nobody will read any more must not reset the connection under the last answer."""
    async with serving(Limits()) as place:
        for _ in range(5):
            last = GET.replace(b"/echo", b"/pieces").replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
            answer = await exchange(place, last + GET * 4000)
            assert len(answer.partition(b"\r\n\r\n")[2]) == 2_000_000


async def test_a_vanished_machine_is_noticed() -> None:
    """Connections are probed by TCP, so that a stream that is silent on both sides does not stay for ever."""
    (listener,) = await listen("127.0.0.1:0")
    host, port = listener.socket.getsockname()
    async with listener, await trio.open_tcp_stream(host, port), await listener.accept() as accepted:
        assert accepted.getsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_KEEPALIVE)


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

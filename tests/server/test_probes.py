"""Raw bytes from malformed, slow and hostile clients: each gets its answer or its end, and nobody else notices."""

from __future__ import annotations

import resource
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial

import msgspec
import pytest
import structlog
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from css.server.http import Limits
from tests.server.test_http import GET, QUICK, UPGRADE, Place, answers, is_served, serving

POST = b"POST /echo HTTP/1.1\r\nHost: x\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
CLOSE = b"\r\nConnection: close\r\n\r\n"
MASK = bytes(4)
LIMITS = msgspec.structs.replace(QUICK, idle_time=30.0)


def head(*headers: bytes, line: bytes = b"GET /echo HTTP/1.1") -> bytes:
    return b"".join(part + b"\r\n" for part in (line, *headers, b""))


def upgrade(name: bytes, value: bytes | None, line: bytes = b"GET /ws HTTP/1.1") -> bytes:
    """A handshake with one header replaced, added, or (None) left out."""
    headers = {
        b"Host": b"x",
        b"Connection": b"Upgrade",
        b"Upgrade": b"websocket",
        b"Sec-WebSocket-Version": b"13",
        b"Sec-WebSocket-Key": b"AAAAAAAAAAAAAAAAAAAAAA==",
        name: value,
    }
    return head(*(b"%b: %b" % (key, text) for key, text in headers.items() if text is not None), line=line)


@asynccontextmanager
async def bystanders(place: Place) -> AsyncIterator[None]:
    """A kept connection and a websocket that were there before, and are served after; and no defect in the log."""
    kept = await trio.open_tcp_stream("127.0.0.1", place.port)
    follower = await trio.open_tcp_stream("127.0.0.1", place.port)
    async with kept, follower:
        await follower.send_all(UPGRADE)
        await answers(follower, lambda data: b"welcome" in data)
        with structlog.testing.capture_logs() as lines:
            yield
            await kept.send_all(GET)
            assert b"200 OK" in await answers(kept, lambda data: b"GET " in data)
            await follower.send_all(b"\x89\x82" + MASK + b"hi")
            assert await answers(follower, bool) == b"\x8a\x02hi"
            assert await is_served(place)
        assert [line for line in lines if line["log_level"] in ("warning", "error")] == []


async def until_closed(stream: trio.SocketStream) -> bytes:
    """What comes until the server closes, or resets; within seconds."""
    received = b""
    with trio.fail_after(4), suppress(trio.BrokenResourceError):
        while data := await stream.receive_some():
            received += data
    return received


async def probed(place: Place, data: bytes, *, half_close: bool = False) -> bytes:
    async with await trio.open_tcp_stream("127.0.0.1", place.port) as stream:
        with suppress(trio.BrokenResourceError):
            await stream.send_all(data)
            if half_close:
                await stream.send_eof()
        return await until_closed(stream)


BIG = b"x" * 5000
HTTP: dict[str, tuple[bytes, int]] = {
    # What is no request.
    "garbage": (b"\x00\xff\x16garbage\r\n\r\n", 400),
    "TLS hello": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500), 400),
    "HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "HTTP/0.9": (b"GET /echo\r\n\r\n", 505),
    "method in lower case": (head(b"Host: x", line=b"get /echo HTTP/1.1"), 400),
    "long method": (head(b"Host: x", line=b"G" * 5000 + b" /echo HTTP/1.1"), 400),
    # Targets.
    "absolute target": (head(b"Host: x", line=b"GET http://evil/ HTTP/1.1"), 400),
    "connect": (head(b"Host: x", line=b"CONNECT evil:80 HTTP/1.1"), 400),
    "asterisk": (head(b"Host: x", line=b"OPTIONS * HTTP/1.1"), 400),
    "target not ASCII": (head(b"Host: x", line=b"GET /\xc3\xa9 HTTP/1.1"), 400),
    "NUL in the target": (head(b"Host: x", line=b"GET /\0 HTTP/1.1"), 400),
    "control in the target": (head(b"Host: x", line=b"GET /\x1b[2J HTTP/1.1"), 400),
    # Heads.
    "no host": (head(), 400),
    "two hosts": (head(b"Host: a", b"Host: b"), 400),
    "bare line feeds": (b"GET /echo HTTP/1.1\nHost: x\n\n", 400),
    "bare carriage return": (b"GET /echo HTTP/1.1\r\nHost: x\rA: b\r\n\r\n", 400),
    "folded header": (head(b"Host: x", b"A: b", b" c"), 400),
    "space before colon": (head(b"Host : x"), 400),
    "header without a name": (head(b"Host: x", b": y"), 400),
    "NUL in a header": (head(b"Host: x", b"A: \0"), 400),
    "two tokens": (head(b"Host: x", b"Authorization: Bearer a", b"Authorization: Bearer b"), 400),
    # Framing that two readers might understand in two ways.
    "length and chunks": (POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "two lengths": (POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab", 400),
    "the same length twice": (POST + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\nab", 400),
    "list of lengths": (POST + b"Content-Length: 2, 2\r\n\r\nab", 400),
    "negative length": (POST + b"Content-Length: -1\r\n\r\n", 400),
    "length with a sign": (POST + b"Content-Length: +2\r\n\r\nab", 400),
    "length beyond numbers": (POST + b"Content-Length: 99999999999999999999999\r\n\r\n", 400),
    "encoding not chunked": (POST + b"Transfer-Encoding: gzip\r\n\r\n2\r\nhi\r\n0\r\n\r\n", 400),
    "encoding after chunked": (POST + b"Transfer-Encoding: chunked, identity\r\n\r\n2\r\nhi\r\n0\r\n\r\n", 400),
    "chunks in HTTP/1.0": (CHUNKED.replace(b"1.1", b"1.0") + b"2\r\nhi\r\n0\r\n\r\n", 400),
    "chunk's size in C": (CHUNKED + b"0x2\r\nhi\r\n0\r\n\r\n", 400),
    "chunk's size beyond numbers": (CHUNKED + b"ffffffffffffffffff\r\nhi", 400),
    "chunks with bare line feeds": (CHUNKED + b"2\nhi\n0\n\n", 400),
    # Sizes and times.
    "long URL": (head(b"Host: x", line=b"GET /" + BIG + b" HTTP/1.1"), 414),
    "large head": (head(b"Host: x", *(b"A%d: " % number + b"y" * 500 for number in range(20))), 431),
    "endless header": (b"GET / HTTP/1.1\r\nHost: x\r\nA: " + BIG * 5, 431),
    "endless header name": (b"GET / HTTP/1.1\r\nHost: x\r\n" + BIG * 5, 431),
    "large body announced": (POST + b"Content-Length: 1000000000\r\n\r\n", 413),
    "large body announced with care": (POST + b"Expect: 100-continue\r\nContent-Length: 1000000000\r\n\r\n", 413),
    "large body": (POST + b"Content-Length: 5000\r\n\r\n" + BIG, 413),
    "large body in chunks": (CHUNKED + (b"400\r\n" + b"y" * 1024 + b"\r\n") * 5, 413),
    "slow head": (b"GET / HTTP/1.1\r\nHost:", 408),
    "slow body": (POST + b"Content-Length: 50\r\n\r\nabc", 408),
    # Handshakes.
    "host not ASCII": (upgrade(b"Host", b"\xe9"), 400),
    "connection not ASCII": (upgrade(b"Connection", b"Upgrade, \xe9"), 400),
    "upgrade not ASCII": (upgrade(b"Upgrade", b"websocket\xe9"), 400),
    "subprotocol not ASCII": (upgrade(b"Sec-WebSocket-Protocol", b"\xff"), 400),
    "extension not ASCII": (upgrade(b"Sec-WebSocket-Extensions", b"\xff"), 400),
    "key not ASCII": (upgrade(b"Sec-WebSocket-Key", b"\xe9" * 24), 400),
    "no key": (upgrade(b"Sec-WebSocket-Key", None), 400),
    "key too short": (upgrade(b"Sec-WebSocket-Key", b"AAAA"), 400),
    "key not in base64": (upgrade(b"Sec-WebSocket-Key", b"!" * 24), 400),
    "no version": (upgrade(b"Sec-WebSocket-Version", None), 426),
    "garbage as version": (upgrade(b"Sec-WebSocket-Version", b"\x7e;drop"), 426),
    "old version": (upgrade(b"Sec-WebSocket-Version", b"7"), 426),
    "no connection": (upgrade(b"Connection", None), 426),
    "no upgrade": (upgrade(b"Upgrade", None), 426),
    "upgrade to something else": (upgrade(b"Upgrade", b"h2c"), 400),
    "upgrade by POST": (upgrade(b"Host", b"x", line=b"POST /ws HTTP/1.1"), 400),
    "upgrade in HTTP/1.0": (upgrade(b"Host", b"x", line=b"GET /ws HTTP/1.0"), 426),
}


@pytest.mark.parametrize("name", HTTP)
async def test_what_is_no_request_gets_its_refusal(name: str) -> None:
    """One answer that says what is wrong, as JSON, and the end of the connection."""
    sent, status = HTTP[name]
    async with serving(LIMITS) as place, bystanders(place):
        answer = await probed(place, sent)
        assert answer[:13] == b"HTTP/1.1 %d " % status, answer
        assert answer.count(b"\r\nDate: ") == 1
        assert b"\r\nConnection: close\r\n" in answer
        assert b'{"error":{"code":' in answer


async def test_a_version_that_is_not_spoken_learns_which_is() -> None:
    """RFC 6455, section 4.4: a refused version is told the right one."""
    async with serving() as place:
        answer = await probed(place, upgrade(b"Sec-WebSocket-Version", b"7"))
        assert b"\r\nSec-WebSocket-Version: 13\r\n" in answer


@pytest.mark.parametrize(
    "sent",
    [
        upgrade(b"Host", b"a" * 70 + b".example"),
        upgrade(b"Host", b"a..b"),
        upgrade(b"Host", b"xn--99999999"),
        upgrade(b"Connection", b"keep-alive, Upgrade"),
        upgrade(b"Sec-WebSocket-Protocol", b"one, two"),
        upgrade(b"Sec-WebSocket-Extensions", b"permessage-deflate; client_max_window_bits"),
        upgrade(b"X-Long", b"y" * 3000),
    ],
)
async def test_an_odd_handshake_is_a_handshake(sent: bytes) -> None:
    """What other headers say is nobody's error: access has judged `Host`, extensions and subprotocols are declined."""
    async with (
        serving(LIMITS) as place,
        bystanders(place),
        await trio.open_tcp_stream("127.0.0.1", place.port) as stream,
    ):
        await stream.send_all(sent)
        received = await answers(stream, lambda data: b"welcome" in data)
        assert received.startswith(b"HTTP/1.1 101 ")
        assert b"Sec-WebSocket-Protocol" not in received
        assert b"Sec-WebSocket-Extensions" not in received


FRAMES: dict[str, bytes] = {
    "unmasked": b"\x81\x02hi",
    "reserved opcode": b"\x83\x80" + MASK,
    "reserved control opcode": b"\x8b\x80" + MASK,
    "reserved bits": b"\xf1\x80" + MASK,
    "length in more bytes than needed": b"\x81\xfe\x00\x01" + MASK + b"a",
    "length beyond numbers": b"\x81\xff\xff" + bytes(7) + MASK + b"a",
    "ping of 126 bytes": b"\x89\xfe\x00\x7e" + MASK + bytes(126),
    "ping in pieces": b"\x09\x80" + MASK,
    "continuation of nothing": b"\x80\x80" + MASK,
    "message inside another": b"\x01\x80" + MASK + b"\x81\x80" + MASK,
    "text that is no UTF-8": b"\x81\x82" + MASK + b"\xff\xff",
    "close with half a code": b"\x88\x81" + MASK + b"\x03",
    "close with a reserved code": b"\x88\x82" + MASK + b"\x03\xed",
    "close with a reason that is no UTF-8": b"\x88\x84" + MASK + b"\x03\xe8\xff\xff",
    "close, then a ping": b"\x88\x82" + MASK + b"\x03\xe8" + b"\x89\x80" + MASK,
    "two closes": (b"\x88\x82" + MASK + b"\x03\xe8") * 2,
    "message of 2 MiB, then a ping": b"\x81\xff" + struct.pack("!Q", 2**21) + MASK + bytes(2**21) + b"\x89\x80" + MASK,
    "empty pieces without end": b"\x01\x80" + MASK + (b"\x00\x80" + MASK) * 20_000,
}


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("name", FRAMES)
async def test_what_is_no_frame_ends_its_websocket(name: str, together: bool) -> None:
    """The websocket is closed at once, also when the frames came in one packet with the handshake."""
    async with serving(LIMITS) as place, bystanders(place):
        async with await trio.open_tcp_stream("127.0.0.1", place.port) as stream:
            with suppress(trio.BrokenResourceError):
                await stream.send_all(UPGRADE + FRAMES[name] * together)
                received = await answers(stream, lambda data: b"\r\n\r\n" in data)
                assert received.startswith(b"HTTP/1.1 101 ")
                await stream.send_all(FRAMES[name] * (not together))
            await until_closed(stream)
        with trio.fail_after(2):
            await place.gone.wait()


async def test_a_ping_after_the_servers_close_is_nothing() -> None:
    """A client that has not yet read the close may still say something."""
    async with (
        serving(LIMITS) as place,
        bystanders(place),
        await trio.open_tcp_stream("127.0.0.1", place.port) as stream,
    ):
        await stream.send_all(upgrade(b"Host", b"x", line=b"GET /ws/bye HTTP/1.1"))
        assert (await answers(stream, lambda data: b"\x88" in data)).endswith(b"\x88\x02\x03\xe8")
        with suppress(trio.BrokenResourceError):
            for _ in range(3):
                await stream.send_all(b"\x89\x80" + MASK)
        await until_closed(stream)


# --- Clients that leave -------------------------------------------------------------------------------------------


def reset(stream: trio.SocketStream) -> None:
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.socket.close()


@pytest.mark.parametrize(
    "sent", [b"", UPGRADE[:60], UPGRADE, UPGRADE + b"\x81", GET[:20], GET.replace(b"/echo", b"/flood"), GET * 50]
)
async def test_a_reset_ends_one_connection(sent: bytes) -> None:
    """A client that resets, also in the middle of a handshake, ends itself alone, without a line in the log."""
    async with serving(LIMITS) as place, bystanders(place):
        with structlog.testing.capture_logs() as lines:
            stream = await trio.open_tcp_stream("127.0.0.1", place.port)
            await stream.send_all(sent)
            reset(stream)
            assert await is_served(place)
            await trio.testing.wait_all_tasks_blocked(0.05)
        assert [line for line in lines if line["log_level"] != "debug"] == []


@pytest.mark.parametrize("path", [b"/stream", b"/flood", b"/ws", b"/stream and more"])
async def test_a_departure_is_no_error(path: bytes) -> None:
    """A client that resets its stream or websocket, or says more before it does, leaves nothing in the log."""
    with structlog.testing.capture_logs() as lines:
        async with serving() as place:
            stream = await trio.open_tcp_stream("127.0.0.1", place.port)
            await stream.send_all(UPGRADE if path == b"/ws" else GET.replace(b"/echo", path.split()[0]))
            await stream.receive_some(50)
            if b"more" in path:
                await stream.send_all(b"more")
            reset(stream)
            with trio.fail_after(5):
                await place.gone.wait()
            assert await is_served(place)
            await trio.testing.wait_all_tasks_blocked(0.05)
    assert [line for line in lines if line["log_level"] != "debug"] == []


@pytest.mark.parametrize(
    ("sent", "answer"), [(b"", b""), (GET[:20], b""), (GET, b"HTTP/1.1 200 "), (GET + GET[:9], b"HTTP/1.1 200 ")]
)
async def test_who_stops_talking_is_answered_and_let_go(sent: bytes, answer: bytes) -> None:
    """After a half-close the complete requests are answered, and the connection ends at once."""
    async with serving(Limits()) as place, bystanders(place):
        assert (await probed(place, sent, half_close=True))[:13] == answer


def test_garbage_never_ends_the_server() -> None:
    """Whatever bytes come, in whatever pieces, the server answers the next client."""

    async def main(probes: list[bytes]) -> None:
        async with serving(LIMITS) as place, bystanders(place):
            for probe in probes:
                await probed(place, probe, half_close=True)

    parts = [
        b"GET / HTTP/1.1\r\n",
        b"Host: x\r\n",
        b"\r\n",
        b"Content-Length: 3\r\n",
        b"Transfer-Encoding: chunked\r\n",
        UPGRADE,
        GET,
        b"\x81\x85",
        b"\x88\x80",
        MASK,
    ]
    pieces = st.lists(st.sampled_from(parts) | st.binary(max_size=40), max_size=6).map(b"".join)

    @settings(max_examples=15, deadline=None)
    @given(st.lists(pieces, min_size=1, max_size=8))
    def attempt(probes: list[bytes]) -> None:
        trio.run(partial(main, probes))

    attempt()


# --- Floods -------------------------------------------------------------------------------------------------------


async def test_a_flood_of_connections_is_refused_within_bounds() -> None:
    """Past the cap some are told to come again, the rest are closed; soon there is room, and nothing is left open."""
    async with serving(Limits(connections=2)) as place:
        async with trio.open_nursery() as nursery:
            streams = [await trio.open_tcp_stream("127.0.0.1", place.port) for _ in range(150)]
            served, refused = streams[:2], streams[2:]
            for stream in refused:
                nursery.start_soon(stream.aclose)
            for stream in served:
                await stream.send_all(GET)
                await answers(stream, lambda data: b"GET " in data)
        for stream in served:
            await stream.aclose()
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert await is_served(place)


async def test_the_refused_do_not_pile_up() -> None:
    """Refused clients that stay hold a few descriptors for about a second, not one each."""
    async with serving(Limits(connections=1)) as place, await trio.open_tcp_stream("127.0.0.1", place.port) as kept:
        await kept.send_all(GET)
        await answers(kept, lambda data: b"GET " in data)
        told = 0
        streams = [await trio.open_tcp_stream("127.0.0.1", place.port) for _ in range(150)]
        for stream in streams:
            told += (await until_closed(stream)).startswith(b"HTTP/1.1 503 ")
            await stream.aclose()
        assert 1 <= told < 150
        await kept.send_all(GET)
        assert b"200 OK" in await answers(kept, lambda data: b"GET " in data)


async def test_a_lack_of_descriptors_is_survived() -> None:
    """While the process has none left nobody is accepted; whoever waits is served when there are some again."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with serving() as place:
        client = trio.socket.socket()
        with structlog.testing.capture_logs() as lines:
            try:
                resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
                await client.connect(("127.0.0.1", place.port))
                await client.send(GET)
                with trio.move_on_after(0.35):
                    await client.recv(1)
                    pytest.fail("nobody can have been accepted")
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert [line["event"] for line in lines] == ["cannot accept connections"]
        async with trio.SocketStream(client) as stream:
            assert b"200 OK" in await answers(stream, lambda data: b"GET " in data)

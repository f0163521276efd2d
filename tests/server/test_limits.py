"""What a patient client may cost: time from a request's first byte on, bounded framing, bounded websocket frames."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from css.server.frames import POLICY_VIOLATION, TOO_BIG, FrameGate
from css.server.http import Limits
from tests.server.test_http import GET, UPGRADE, Place, answers, exchange, is_served, serving

CHUNKED = b"POST /echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
MASK = b"\0\0\0\0"


@asynccontextmanager
async def connected(place: Place) -> AsyncIterator[trio.SocketStream]:
    async with await trio.open_tcp_stream("127.0.0.1", place.port) as stream:
        yield stream


async def status_of(stream: trio.SocketStream) -> bytes:
    """The status line's code, once the server has ended the connection."""
    received = b""
    with suppress(trio.BrokenResourceError):
        while data := await stream.receive_some():
            received += data
    return received[9:12]


@pytest.mark.parametrize(
    "first",
    [
        b"GET /echo HTTP/1.1\r\nHost: x\r\nA: ",
        b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 2000\r\n\r\n",
        b"\r\n",
    ],
)
async def test_a_byte_now_and_then_buys_no_time(first: bytes) -> None:
    """A request's time runs from its first byte, however lively the client seems."""
    limits = Limits(head_time=0.3, body_time=0.5)
    async with serving(limits) as place, connected(place) as stream, trio.open_nursery() as nursery:

        async def drip() -> None:
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await stream.send_all(first)
                while True:
                    await trio.sleep(0.05)
                    await stream.send_all(b"\r\n" if first == b"\r\n" else b"a")

        nursery.start_soon(drip)
        with trio.fail_after(3):
            assert await status_of(stream) == b"408"
        nursery.cancel_scope.cancel()
        assert await is_served(place)


async def test_a_request_after_a_long_pause_has_its_whole_time() -> None:
    """The time of a request does not begin while its connection idles."""
    async with serving(Limits(head_time=0.3, idle_time=5)) as place, connected(place) as stream:
        await trio.sleep(0.5)
        await stream.send_all(GET + GET[:20])
        await answers(stream, lambda data: b"GET " in data)
        await trio.sleep(0.1)
        await stream.send_all(GET[20:])
        assert b"200 OK" in await answers(stream, lambda data: b"GET " in data)


@pytest.mark.parametrize("tail", [b"0\r\nX: ", b"0\r\n", b"1;extension="])
async def test_what_frames_a_body_is_bounded(tail: bytes) -> None:
    """A trailer, or a chunk's extension, that never ends is refused before it has cost much."""
    async with serving() as place, connected(place) as stream:
        with trio.fail_after(5), suppress(trio.BrokenResourceError):
            await stream.send_all(CHUNKED + tail)
            for _ in range(40):
                await stream.send_all(b"a" * 1000 if tail.endswith((b" ", b"=")) else b"A: b\r\n" * 200)
        assert await status_of(stream) in (b"413", b"431", b"400", b"")
        assert await is_served(place)


async def test_trailers_are_no_headers() -> None:
    """What follows a body is read and dropped: `Host` a second time would be refused as a header."""
    async with serving() as place:
        answer = await exchange(place, CHUNKED + b"2\r\nhi\r\n0\r\nHost: other\r\nAuthorization: b\r\n\r\n")
        assert answer.endswith(b"POST hi")


@pytest.mark.parametrize("version", [b"HTTP/2.0", b"HTTP/0.9"])
async def test_other_versions_are_refused(version: bytes) -> None:
    """Only HTTP/1.1 and 1.0 are spoken, also where the parser would take more."""
    async with serving() as place:
        assert (await exchange(place, b"GET /echo %b\r\nHost: x\r\n\r\n" % version)).startswith(b"HTTP/1.1 505 ")


async def test_http_1_0_gets_no_chunks() -> None:
    """A stream for a client that knows no chunks ends with the connection."""
    async with serving() as place, connected(place) as stream:
        await stream.send_all(b"GET /stream HTTP/1.0\r\n\r\n")
        received = await answers(stream, lambda data: b"first" in data)
        assert b"chunked" not in received
        assert received.endswith(b"\r\n\r\nfirst\n")
        place.drain.set()
        assert await stream.receive_some() == b""


async def test_white_space_around_a_value_is_not_part_of_it() -> None:
    """`Expect: 100-continue ` is `100-continue`."""
    async with serving() as place, connected(place) as stream:
        await stream.send_all(
            b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect:  100-continue \t\r\n\r\n"
        )
        assert (await answers(stream, bool)).startswith(b"HTTP/1.1 100 ")


async def test_what_came_before_a_malformed_request_is_answered() -> None:
    """Answers stay in order: the first request gets its own, then comes the refusal."""
    async with serving() as place:
        answer = await exchange(place, GET + GET + b"garbage\r\n\r\n")
        assert [part[:3] for part in answer.split(b"HTTP/1.1 ")[1:]] == [b"200", b"200", b"400"]


async def test_an_upgrade_waits_for_its_turn() -> None:
    """A request pipelined before an upgrade is answered, then the upgrade happens."""
    async with serving() as place, connected(place) as stream:
        await stream.send_all(GET + UPGRADE)
        received = await answers(stream, lambda data: b"welcome" in data)
        assert received.startswith(b"HTTP/1.1 200 ")
        assert b"HTTP/1.1 101 " in received


async def test_draining_does_not_wait_for_the_next_request() -> None:
    """A drain that comes while an answer is on its way ends the connection after it."""
    async with serving(Limits(idle_time=60)) as place, connected(place) as stream:
        stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_RCVBUF, 65536)
        await stream.send_all(GET.replace(b"/echo", b"/large"))
        await answers(stream, bool)
        place.drain.set()
        with trio.fail_after(10):
            while await stream.receive_some(1 << 20):
                pass
            await place.ended.wait()


def frame(opcode: int, payload: bytes = b"", *, final: bool = True) -> bytes:
    size = len(payload)
    first = opcode | (0x80 if final else 0)
    if size < 126:
        return struct.pack("!BB", first, 0x80 | size) + MASK + payload
    return struct.pack("!BBH", first, 0x80 | 126, size) + MASK + payload


@pytest.mark.parametrize(
    ("flood", "code"),
    [
        (frame(9), 1008),  # pings, each of which is answered
        (frame(0, final=False), 1008),  # empty pieces, which add up without ever being a message
        (frame(1, b"hi"), 1008),
        (frame(1, b"x" * 5000), 1009),
    ],
)
async def test_a_flood_of_frames_ends_its_websocket(flood: bytes, code: int) -> None:
    """A few thousand frames in a second are too many: closed with the reason, and soon."""
    async with serving(Limits()) as place, connected(place) as stream:
        await stream.send_all(UPGRADE + frame(1, b"a", final=False) * (flood == frame(0, final=False)))
        await answers(stream, lambda data: b"welcome" in data)
        received = b""
        with trio.fail_after(4):
            with suppress(trio.BrokenResourceError):
                await stream.send_all(flood * 1000)
                while data := await stream.receive_some():
                    received += data
            await place.gone.wait()
        assert b"\x88" + bytes([len(received.rpartition(b"\x88")[2][1:])]) + code.to_bytes(2, "big") in received
        assert await is_served(place)


async def test_a_client_that_pings_now_and_then_stays() -> None:
    """What an ordinary client does is far below the limits, and its pings are answered."""
    async with serving(Limits()) as place, connected(place) as stream:
        await stream.send_all(UPGRADE)
        await answers(stream, lambda data: b"welcome" in data)
        for number in range(100):
            await stream.send_all(frame(9, b"%03d" % number))
            assert await answers(stream, bool) == b"\x8a\x03%03d" % number


def test_the_gate_reads_frames_in_whatever_pieces() -> None:
    """Frames within the limits pass, one above them is seen, wherever the bytes were cut."""
    limits = Limits()
    within = st.tuples(st.sampled_from([1, 2, 8, 9, 10]), st.integers(0, 4096)).map(lambda f: frame(f[0], bytes(f[1])))

    @settings(max_examples=50, deadline=None)
    @given(st.lists(within, max_size=5), st.lists(st.integers(1, 300), min_size=1), st.booleans())
    def attempt(frames: list[bytes], cuts: list[int], one_too_large: bool) -> None:
        gate, data, seen = FrameGate(limits, 0), b"".join(frames), 0
        data += frame(2, bytes(4097)) * one_too_large
        while data and not seen:
            cut = cuts[len(data) % len(cuts)]
            seen, data = gate.feed(data[:cut], 0), data[cut:]
        assert seen == (TOO_BIG if one_too_large else 0)

    attempt()


def test_the_gate_forgives_with_time() -> None:
    """So many frames at once, then so many per second."""
    gate = FrameGate(Limits(frames_per_second=10), 0.0)
    assert gate.feed(frame(9) * 40, 0.0) == 0
    assert gate.feed(frame(9) * 10, 1.0) == 0
    assert gate.feed(frame(9), 1.0) == POLICY_VIOLATION

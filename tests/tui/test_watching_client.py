"""The client of /v2/watch against real sockets: resuming, telling how it stands, and giving up what is of no use."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from watched import Daemon, Region, detail, running, task_key

from css import wire
from css.client import Endpoint, Known, State, Update, watch
from css.errors import ConfigError
from css.model import Key


class Subscriber:
    """Keeps all it is told, and a replica made of it as the screen makes its own."""

    def __init__(self) -> None:
        self.told: list[Update] = []
        self.replica: dict[Key, int] = {}
        self.changes: list[tuple[Key, int]] = []
        self._known = Known()
        self._more = trio.Event()

    def deliver(self, update: Update) -> None:
        self.told.append(update)
        items, gone = self._known.take(update)
        for key in gone:
            del self.replica[key]
        for item in items:
            self.replica[item.key] = item.revision
        if isinstance(update, wire.Changes):
            self.changes += [(change.key, change.revision) for change in update.changes]
        self._more.set()
        self._more = trio.Event()

    async def until(self, condition: Callable[[], bool], within: float = 15.0) -> None:
        with trio.fail_after(within):
            while not condition():
                await self._more.wait()

    @property
    def state(self) -> State:
        return next(update for update in reversed(self.told) if isinstance(update, State))

    def is_in(self, phase: str) -> Callable[[], bool]:
        return lambda: self.state.phase == phase

    def holds(self, region: Region) -> Callable[[], bool]:
        return lambda: self.replica == {key: item.revision for key, item in region.items.items()}


async def test_a_snapshot_is_followed_by_every_change() -> None:
    """The states are connecting, syncing with its percentage, live; the replica equals the server's state."""
    region, subscriber = Region(), Subscriber()
    region.fill(120)
    daemon = Daemon(region)
    async with running(daemon), trio.open_nursery() as nursery:
        nursery.start_soon(lambda: watch(daemon.url, deliver=subscriber.deliver, params={"cluster": "prod-*"}))
        await subscriber.until(lambda: bool(subscriber.told) and subscriber.state.phase == "live")
        region.put(task_key(7), detail(7, "STOPPED"))
        region.remove(task_key(8))
        await subscriber.until(subscriber.holds(region))
        nursery.cancel_scope.cancel()
    phases = [(update.phase, update.percent) for update in subscriber.told if isinstance(update, State)]
    assert phases == [("connecting", 0), ("syncing", 0), ("syncing", 41), ("syncing", 83), ("live", 0)]
    assert daemon.asked == [{"kinds": "tasks", "heartbeat": "1000", "cluster": "prod-*"}]


async def test_it_resumes_without_gap_or_repeat_however_often_the_server_restarts() -> None:
    """After each restart the watch goes on from the last revision: every change comes once, in order."""
    region, subscriber = Region(), Subscriber()
    region.fill(10)
    first = region.revision
    daemon = Daemon(region)
    async with trio.open_nursery() as nursery:
        for round_ in range(4):
            async with running(daemon):
                if round_ == 0:
                    nursery.start_soon(lambda: watch(daemon.url, deliver=subscriber.deliver))
                for number in range(5):
                    region.put(task_key(number), detail(number))
                await subscriber.until(lambda: bool(subscriber.told) and subscriber.holds(region)())
                region.put(task_key(round_), detail(round_, "PENDING"))
            region.put(task_key(round_), detail(round_, "STOPPED"))
        async with running(daemon):
            await subscriber.until(subscriber.holds(region))
        nursery.cancel_scope.cancel()
    revisions = [revision for _, revision in subscriber.changes]
    snapshot = next(update.revision for update in subscriber.told if isinstance(update, wire.Snapshot))
    assert snapshot >= first
    assert revisions == list(range(snapshot + 1, region.revision + 1))
    assert sum(isinstance(update, wire.Snapshot) for update in subscriber.told) == 1
    assert all("since" in asked for asked in daemon.asked[1:])


async def test_a_new_epoch_sweeps_the_ghosts() -> None:
    """A server with other data is asked for a snapshot, and what that lacks is removed."""
    region, subscriber = Region("one"), Subscriber()
    region.fill(200)
    daemon = Daemon(region)
    async with trio.open_nursery() as nursery:
        async with running(daemon):
            nursery.start_soon(lambda: watch(daemon.url, deliver=subscriber.deliver))
            await subscriber.until(lambda: bool(subscriber.told) and subscriber.holds(region)())
        other = daemon.region = Region("two")
        # More revisions than the first: a client that trusted the number alone would go on from it.
        other.fill(300, start=1000)
        for number in range(1000, 1290):
            other.remove(task_key(number))
        async with running(daemon):
            await subscriber.until(subscriber.holds(other))
            await subscriber.until(subscriber.is_in("live"))
        nursery.cancel_scope.cancel()
    assert len(subscriber.replica) == 10


async def test_a_compacted_server_sweeps_the_ghosts_too() -> None:
    """After a resync the next snapshot replaces everything, also within one epoch."""
    region, subscriber = Region(), Subscriber()
    region.fill(60)
    daemon = Daemon(region)
    async with trio.open_nursery() as nursery:
        async with running(daemon):
            nursery.start_soon(lambda: watch(daemon.url, deliver=subscriber.deliver))
            await subscriber.until(lambda: bool(subscriber.told) and subscriber.holds(region)())
        for number in range(50):
            region.remove(task_key(number))
        region.log.clear()
        region.floor = region.revision
        async with running(daemon):
            await subscriber.until(subscriber.holds(region))
        nursery.cancel_scope.cancel()
    assert any(isinstance(update, wire.Resync) for update in subscriber.told)


async def test_a_frozen_server_is_noticed() -> None:
    """Two seconds of silence are told as stale, and after less than four the client is connecting anew."""
    region, subscriber = Region(), Subscriber()
    region.fill(3)
    daemon = Daemon(region)
    async with running(daemon), trio.open_nursery() as nursery:
        nursery.start_soon(lambda: watch(daemon.url, deliver=subscriber.deliver))
        await subscriber.until(lambda: bool(subscriber.told) and subscriber.state.phase == "live")
        daemon.freeze()
        frozen_at = trio.current_time()
        await subscriber.until(subscriber.is_in("stale"))
        await subscriber.until(subscriber.is_in("waiting"))
        assert trio.current_time() - frozen_at < 4.0
        assert "no word from it for 3 s" in subscriber.state.reason
        region.put(task_key(1), detail(1, "STOPPED"))
        daemon.thaw()
        await subscriber.until(subscriber.holds(region))
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("garbage", ["not json", '{"type":"unheard-of"}', b"\xff\xfe", "[" * 100_000, "x" * 5_000_000])
async def test_what_is_no_message_costs_the_connection_and_nothing_else(garbage: str | bytes) -> None:
    """The client says why, connects again, and misses nothing."""
    region, subscriber = Region(), Subscriber()
    region.fill(3)
    daemon = Daemon(region)
    async with running(daemon), trio.open_nursery() as nursery:
        nursery.start_soon(lambda: watch(daemon.url, deliver=subscriber.deliver))
        await subscriber.until(lambda: bool(subscriber.told) and subscriber.state.phase == "live")
        daemon.garbage = garbage
        region.put(task_key(1), detail(1, "STOPPED"))
        await subscriber.until(subscriber.is_in("waiting"))
        await subscriber.until(subscriber.holds(region))
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("status", "word"), [(401, "token"), (403, "not allowed"), (404, "not a cluster state"), (426, "understand")]
)
async def test_a_refusal_is_named_and_not_retried(status: int, word: str) -> None:
    """The watch ends, saying why; the server's own words are in it."""
    daemon, subscriber = Daemon(Region()), Subscriber()
    daemon.refuse = status
    async with running(daemon):
        with trio.fail_after(5):
            refused = await watch(daemon.url, deliver=subscriber.deliver, token="s3cret")
    assert refused == subscriber.state
    assert refused.phase == "refused"
    assert word in refused.reason
    assert "because" in refused.reason
    assert [headers["authorization"] for headers in daemon.headers] == ["Bearer s3cret"]


async def test_another_protocol_is_refused() -> None:
    """A server of another generation is not followed."""
    daemon, subscriber = Daemon(Region()), Subscriber()
    daemon.protocol = 3
    async with running(daemon):
        with trio.fail_after(5):
            assert "protocol 3" in (await watch(daemon.url, deliver=subscriber.deliver)).reason


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_a_busy_server_is_asked_again(status: int) -> None:
    """What is a matter of time is retried."""
    daemon, subscriber = Daemon(Region()), Subscriber()
    daemon.refuse = status
    async with running(daemon), trio.open_nursery() as nursery:
        nursery.start_soon(lambda: watch(daemon.url, deliver=subscriber.deliver))
        await subscriber.until(lambda: bool(subscriber.told) and subscriber.state.phase == "waiting")
        assert str(status) in subscriber.state.reason
        daemon.refuse = None
        await subscriber.until(subscriber.is_in("live"))
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    "answer", [b"SSH-2.0-OpenSSH_9.2\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", b"", b"\0" * 300]
)
async def test_a_stranger_on_the_port_does_no_harm(answer: bytes) -> None:
    """Whatever answers in place of the service: the client says so, as refused or to be retried, and never breaks."""
    subscriber = Subscriber()

    async def stranger(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(answer)
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, stranger, 0, host="127.0.0.1"))
        port = listeners[0].socket.getsockname()[1]
        nursery.start_soon(lambda: watch(f"127.0.0.1:{port}", deliver=subscriber.deliver))
        await subscriber.until(lambda: bool(subscriber.told) and subscriber.state.phase in ("waiting", "refused"))
        nursery.cancel_scope.cancel()


def _certificate(folder: Path) -> Path:
    """A key and a certificate for localhost that it signed itself, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    file = folder / "localhost.pem"
    file.write_bytes(private + certificate.public_bytes(Encoding.PEM))
    return file


async def test_a_trusted_certificate_is_needed(tmp_path: Path) -> None:
    """https and wss check whom they speak to, and say what is wrong with a stranger."""
    region = Region()
    region.fill(3)
    daemon, certificate = Daemon(region), _certificate(tmp_path)
    ours = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ours.load_cert_chain(certificate)
    async with running(daemon, ours), trio.open_nursery() as nursery:
        for context, phase in ((None, "waiting"), (ssl.create_default_context(cafile=certificate), "live")):
            subscriber = Subscriber()
            url = f"https://localhost:{daemon.port}"
            nursery.start_soon(partial(watch, url, deliver=subscriber.deliver, ssl_context=context))
            await subscriber.until(lambda: bool(subscriber.told) and subscriber.state.phase == phase)  # noqa: B023
            assert (subscriber.state.reason == "") == (phase == "live")
            assert "certificate is not trusted" in subscriber.state.reason or phase == "live"
        nursery.cancel_scope.cancel()


async def test_an_ipv6_address_is_reached() -> None:
    """It stands in brackets in the URL and in the `Host` header, and nowhere else."""
    daemon, subscriber = Daemon(Region()), Subscriber()
    daemon.host = "::1"
    async with running(daemon), trio.open_nursery() as nursery:
        nursery.start_soon(partial(watch, f"http://[::1]:{daemon.port}", deliver=subscriber.deliver))
        await subscriber.until(lambda: bool(subscriber.told) and subscriber.state.phase == "live")
        nursery.cancel_scope.cancel()


async def test_nobody_listening_is_said_plainly() -> None:
    """The reason is the system's own, and the delays grow, with the attempts counted."""
    subscriber = Subscriber()
    with trio.socket.socket() as unused:
        await unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: watch(f"http://127.0.0.1:{port}", deliver=subscriber.deliver))
            await subscriber.until(lambda: bool(subscriber.told) and subscriber.state.attempt == 2)
            nursery.cancel_scope.cancel()
    waits = [update for update in subscriber.told if isinstance(update, State) and update.phase == "waiting"]
    assert waits[0].reason == "connection refused"
    assert 0 < waits[0].retry_in <= 0.25
    assert 0.25 <= waits[1].retry_in <= 0.5


async def test_a_watch_ends_at_once_when_cancelled() -> None:
    """Connected, connecting or waiting: a cancelled watch is gone within the closing time."""
    daemon, subscriber = Daemon(Region()), Subscriber()
    async with running(daemon):
        for phase in ("live", "connecting"):
            with trio.fail_after(1.5):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(lambda: watch(daemon.url, deliver=subscriber.deliver))
                    await subscriber.until(lambda: bool(subscriber.told) and subscriber.state.phase == phase)  # noqa: B023
                    nursery.cancel_scope.cancel()
            subscriber.told.clear()
            daemon.freeze()


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://css.example:3000", Endpoint("css.example", 3000)),
        ("ws://css.example", Endpoint("css.example", 80)),
        ("https://css.example/ecs/", Endpoint("css.example", 443, secure=True, path="/ecs")),
        ("wss://css.example:8443", Endpoint("css.example", 8443, secure=True)),
        ("localhost", Endpoint("localhost", 3000)),
        ("127.0.0.1:4000", Endpoint("127.0.0.1", 4000)),
        ("http://[::1]:3000", Endpoint("::1", 3000)),
    ],
)
def test_urls_of_every_kind_are_understood(url: str, expected: Endpoint) -> None:
    """http and ws mean the same; a bare host has the service's own port."""
    assert Endpoint.parse(url) == expected
    assert "[" in expected.address or ":" not in expected.host


@pytest.mark.parametrize(
    "url",
    ["ftp://host", "http://", "http://host:99999", "http://user:pw@host", "http://host?token=x", "", "http://h\x1b"],
)
def test_a_wrong_url_is_refused(url: str) -> None:
    """Said at once and with the reason; in particular no secret belongs into a URL."""
    with pytest.raises(ConfigError):
        Endpoint.parse(url)

"""Recording messages to a file and playing them back."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from css.config import Aws, Config, Source
from css.errors import ConfigError
from css.metrics import Metrics
from css.model import Message
from css.normalize import Policy
from css.source import open_source
from css.source.record import record
from css.source.replay import ReplaySource, parse_replay
from css.status import Status
from tests.simulated_region import Region

REDACTING = Policy(True, "")
FAITHFUL = Policy(False, "")


class Given:
    """A source of given messages, one list per receive, that ends; notes what was settled and acknowledged."""

    def __init__(self, *received: Sequence[str | bytes], at_settling: Callable[[], object] = lambda: None) -> None:
        self._received = received
        self._at_settling = at_settling
        self._finished = trio.Event()
        self.settled: list[object] = []
        self.released = 0
        self.acknowledged = 0

    async def receive(self, messages: trio.MemorySendChannel[Sequence[Message]]) -> None:
        async with messages:
            for bodies in self._received:
                await messages.send([Message(body, self._settle, "given", self._release) for body in bodies])

    async def acknowledge(self) -> None:
        await self._finished.wait()
        await trio.sleep(0.1)
        self.acknowledged = len(self.settled)

    def finish(self) -> None:
        self._finished.set()

    def _settle(self) -> None:
        self.settled.append(self._at_settling())

    def _release(self) -> None:
        self.released += 1


async def recorded(path: Path, source: Given, policy: Policy = FAITHFUL, *, delete: bool = True) -> list[int]:
    counts: list[int] = []
    await record(source, path, policy, delete=delete, said=counts.append)
    return counts


async def replayed(url: str) -> list[tuple[float, list[str | bytes]]]:
    """When each list came, in seconds from the start, and what it brought."""
    source = ReplaySource(url, Status(["queue"]), Metrics())
    sender, receiver = trio.open_memory_channel[Sequence[Message]](0)
    began, came = trio.current_time(), []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(source.receive, sender)
        async for messages in receiver:
            came.append((round(trio.current_time() - began, 3), [message.body for message in messages]))
            for message in messages:
                message.settled()
        source.finish()
        await source.acknowledge()
    return came


def write(path: Path, *lines: tuple[str, str]) -> str:
    path.write_text("".join(json.dumps({"received": at, "body": body}) + "\n" for at, body in lines))
    return f"replay://{path}"


async def test_replay_keeps_the_recorded_time(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Messages come as far apart as they were received, whatever their offset from UTC; those of one time together."""
    url = write(
        tmp_path / "r",
        ("2026-01-31T12:00:00.000Z", "a"),
        ("2026-01-31T12:00:00.000Z", "b"),
        ("2026-01-31T12:00:00.250Z", "c"),
        ("2026-01-31T13:01:00.000+01:00", "d"),
    )
    assert await replayed(url) == [(0, ["a", "b"]), (0.25, ["c"]), (60, ["d"])]
    assert await replayed(url + "?speed=60") == [(0, ["a", "b"]), (0.004, ["c"]), (1, ["d"])]


async def test_replay_at_speed_zero_does_not_wait(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Speed 0: as fast as it is taken, in order, ten at a time."""
    url = write(tmp_path / "r", *((f"2026-01-31T12:{n:02}:00Z", str(n)) for n in range(25)))
    came = await replayed(url + "?speed=0")
    assert [len(bodies) for _, bodies in came] == [10, 10, 5]
    assert [body for _, bodies in came for body in bodies] == [str(n) for n in range(25)]
    assert {at for at, _ in came} == {0}


async def test_what_is_no_record_is_skipped(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A torn, foreign or hostile line costs that line alone."""
    path = tmp_path / "r"
    write(path, ("2026-01-31T12:00:00Z", "a"), ("2026-01-31T12:00:01Z", "z"))
    first, last = path.read_bytes().splitlines(keepends=True)
    other = [
        b"\n",
        b"\xff\xfe\n",
        b"[" * 100_000 + b"\n",
        b'{"received":"2026-01-31T12:00:00Z"}\n',
        b'{"received":"yesterday","body":"b"}\n',
        b'{"received":"0001-01-01T00:00:00","body":"b"}\n',
        b'{"received":"2026-01-31T12:00:00Z","body":7}\n',
    ]
    path.write_bytes(first + b"".join(other) + last[:-1])
    assert await replayed(f"replay://{path}") == [(0, ["a"]), (1, ["z"])]


@pytest.mark.parametrize(
    "url", ["replay://", "replay://f?speed=fast", "replay://f?speed=-1", "replay://f?speed=nan", "replay://f?sped=1"]
)
def test_wrong_replays_are_refused(url: str) -> None:
    """A wrong setting says what was expected and what was found."""
    with pytest.raises(ConfigError, match=r"source\.queue: expected replay://FILE\?speed=NUMBER"):
        parse_replay(url)


@pytest.mark.parametrize(("name", "why"), [("missing", "No such file"), ("", "Is a directory")])
def test_a_file_that_cannot_be_read_is_refused_at_the_start(tmp_path: Path, name: str, why: str) -> None:
    """Not when the first message is due."""
    with pytest.raises(ConfigError, match=why):
        ReplaySource(f"replay://{tmp_path / name}", Status(), Metrics())


async def test_replay_can_be_cancelled_while_it_waits(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Between two messages, and while nobody takes one; the channel is closed."""
    url = write(tmp_path / "r", ("2026-01-31T12:00:00Z", "a"), ("2026-01-31T13:00:00Z", "b"))
    for taken in (1, 0):
        sender, receiver = trio.open_memory_channel[Sequence[Message]](taken)
        with trio.move_on_after(10):
            await ReplaySource(url, Status(), Metrics()).receive(sender)
        async with receiver:
            assert len([message async for messages in receiver for message in messages]) == taken


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=50)


@given(st.lists(st.lists(TEXT | TEXT.map(json.dumps), min_size=1, max_size=10), max_size=4))
@settings(deadline=None, max_examples=40)
def test_bodies_come_back_to_the_byte(received: list[list[str]]) -> None:
    """What is recorded is replayed exactly, be it JSON or not; where nothing is to be redacted also with redaction."""

    async def there_and_back(policy: Policy) -> None:
        with TemporaryDirectory() as folder:
            path = Path(folder) / "r"
            await recorded(path, Given(*received), policy)
            came = await replayed(f"replay://{path}?speed=0")
        expected = [body for bodies in received for body in bodies]
        assert [body for _, bodies in came for body in bodies] == expected

    trio.run(there_and_back, FAITHFUL, clock=MockClock(autojump_threshold=0))
    if not any("\\u" in body for bodies in received for body in bodies):
        trio.run(there_and_back, REDACTING, clock=MockClock(autojump_threshold=0))


@pytest.mark.parametrize("key", ["environment", "\\u0065nvironment"])
async def test_environment_values_are_not_recorded(tmp_path: Path, key: str) -> None:
    """The recording holds the names of environment overrides, never their values, however they are spelled."""
    body = '{"detail": {"overrides": {"containerOverrides": [{"KEY": [{"name": "N", "value": "s3cret"}]}]}}}'
    path = tmp_path / "r"
    await recorded(path, Given([body.replace("KEY", key)]), REDACTING)
    text = path.read_text()
    assert "s3cret" not in text
    assert "<redacted>" in text


async def test_any_bytes_are_recorded(tmp_path: Path, autojump_clock: MockClock) -> None:
    """What is not UTF-8, or half of a character, ends nothing."""
    path = tmp_path / "r"
    await recorded(path, Given([b"\xff\x00", "\ud800", "fine"]), REDACTING)
    assert [len(bodies) for _, bodies in await replayed(f"replay://{path}?speed=0")] == [3]


async def test_written_before_settled(tmp_path: Path, autojump_clock: MockClock) -> None:
    """When a message is settled its line is in the file; what was settled is still acknowledged after the end."""
    path = tmp_path / "r"
    source = Given(["a", "b"], ["c"], at_settling=lambda: path.read_bytes().count(b"\n"))
    assert await recorded(path, source) == [2, 3]
    assert source.settled == [2, 2, 3]
    assert source.acknowledged == 3


async def test_recording_ends_orderly_when_cancelled(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Cancelled, it still acknowledges what is on the disk; a source that hangs then is left after some seconds."""

    class Endless(Given):
        hangs = False

        async def receive(self, messages: trio.MemorySendChannel[Sequence[Message]]) -> None:
            await messages.send([Message("a", self._settle, "endless")])
            await trio.sleep_forever()

        async def acknowledge(self) -> None:
            await super().acknowledge()
            if self.hangs:
                await trio.sleep_forever()

    for hangs, most in ((False, 1.2), (True, 6.2)):
        source = Endless()
        source.hangs = hangs
        began = trio.current_time()
        with trio.move_on_after(1):
            await recorded(tmp_path / "r", source)
        assert source.acknowledged == 1
        assert trio.current_time() - began < most


async def test_a_recording_is_continued(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A second recording is appended, on a line of its own even if the first was killed within one."""
    path = tmp_path / "r"
    await recorded(path, Given(["a"]))
    with path.open("ab") as file:
        file.write(b'{"received":"2026-')
    await recorded(path, Given(["b"]))
    came = await replayed(f"replay://{path}?speed=0")
    assert [body for _, bodies in came for body in bodies] == ["a", "b"]


async def test_what_is_left_in_the_queue_is_recorded_once(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Without `delete` messages are released, never settled, and come again: only the first time they are written."""
    path = tmp_path / "r"
    source = Given(["a", "b"], ["a"], ["c", "b"])
    assert await recorded(path, source, delete=False) == [2, 3]
    assert source.released == 5
    assert source.settled == []
    assert [json.loads(line)["body"] for line in path.read_text().splitlines()] == ["a", "b", "c"]


async def test_a_full_disk_ends_the_recording(autojump_clock: MockClock) -> None:
    """It says so, and nothing that was not written is settled."""
    source = Given(["a"])
    with pytest.RaisesGroup(
        pytest.RaisesExc(ConfigError, match="/dev/full: cannot be written: No space left"), flatten_subgroups=True
    ):
        await recorded(Path("/dev/full"), source)
    assert source.settled == []


@pytest.mark.parametrize("delete", [False, True])
async def test_a_queue_is_recorded_and_played_back(
    region: Callable[..., Region], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, delete: bool
) -> None:
    """Every message is in the file, more than are held at a time; without --delete they stay in the queue."""
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"):
        monkeypatch.setenv(f"AWS_{name}", "simulated")
    place = region(tasks=0, rate=0)
    secret = '{"containerOverrides":[{"environment":[{"name":"K","value":"canary"}]}]}'
    bodies = [json.dumps({"n": n, "detail": {"overrides": json.loads(secret)}}) for n in range(1100)]
    for start in range(0, 1100, 10):
        entries = [{"Id": str(n), "MessageBody": body} for n, body in enumerate(bodies[start : start + 10])]
        place.sqs.send_message_batch(QueueUrl=place.queue, Entries=entries)  # type: ignore[arg-type]
    config = Config(source=Source(queue="event_stream", wait=1), aws=Aws(endpoint_url=place.url, region="us-east-1"))
    path = tmp_path / "r.jsonl"
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:

            def said(count: int) -> None:
                if count >= 1100:
                    nursery.cancel_scope.cancel()

            await record(open_source(config, Status(), Metrics()), path, Policy(), delete=delete, said=said)
    assert "canary" not in path.read_text()
    numbers = [json.loads(body)["n"] for _, bodies in await replayed(f"replay://{path}?speed=0") for body in bodies]
    assert sorted(numbers) == [*range(1100)]
    queue = place.control("truth?only=queue")["queue"]
    left = queue["visible"] + queue["in_flight"]
    assert left == 1100 if not delete else left < 1100

"""Recording a queue to a file, and playing it back."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from css.errors import ConfigError
from css.metrics import Metrics
from css.model import Message
from css.normalize import Policy
from css.source import open_source
from css.source.record import record
from css.source.replay import ReplaySource
from css.status import Status
from tests.simulated_region import Region


def recording(path: Path, *seconds: int) -> Path:
    lines = [{"received": f"2026-01-01T00:{at // 60:02}:{at % 60:02}.000Z", "body": f"m{at}"} for at in seconds]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


async def played(url: str) -> list[tuple[str, float]]:
    """Each message with the second it came at."""
    source = ReplaySource(url, Status(), Metrics())
    sender, receiver = trio.open_memory_channel[Sequence[Message]](0)
    begun, got = trio.current_time(), list[tuple[str, float]]()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(source.receive, sender)
        async for messages in receiver:
            got += [(str(message.body), round(trio.current_time() - begun, 2)) for message in messages]
            for message in messages:
                message.settled()
    return got


@pytest.mark.parametrize(("speed", "pace"), [("", 1.0), ("?speed=60", 1 / 60), ("?speed=0", 0.0)])
async def test_messages_come_at_the_recorded_pace(
    tmp_path: Path, autojump_clock: MockClock, speed: str, pace: float
) -> None:
    """As they were recorded, so many times faster, or as fast as they are taken."""
    path = recording(tmp_path / "r.jsonl", 0, 0, 5, 90)
    assert await played(f"replay://{path}{speed}") == [
        ("m0", 0.0),
        ("m0", 0.0),
        ("m5", round(5 * pace, 2)),
        ("m90", round(90 * pace, 2)),
    ]


async def test_what_is_no_record_is_skipped(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A damaged line costs itself alone."""
    path = recording(tmp_path / "r.jsonl", 0, 1)
    path.write_bytes(b"garbage\n\xff\n" + path.read_bytes() + b'{"received": "never", "body": "x"}\n{"received"')
    assert [body for body, _ in await played(f"replay://{path}")] == ["m0", "m1"]


@pytest.mark.parametrize("url", ["replay:///nowhere/at/all", "replay://{path}?speed=fast"])
def test_wrong_recordings_are_refused(tmp_path: Path, url: str) -> None:
    """A missing file and a speed that is no number are wrong settings."""
    with pytest.raises(ConfigError, match=r"source\.queue"):
        ReplaySource(url.format(path=recording(tmp_path / "r.jsonl", 0)), Status(), Metrics())


@pytest.mark.parametrize("delete", [False, True])
async def test_a_queue_is_recorded_and_played_back(
    region: Callable[..., Region], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, delete: bool
) -> None:
    """Every message is in the file, more than are held at a time; without --delete they stay in the queue."""
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"):
        monkeypatch.setenv(f"AWS_{name}", "simulated")
    from css.config import Aws, Config, Source

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
    numbers = [json.loads(body)["n"] for body, _ in await played(f"replay://{path}?speed=0")]
    assert sorted(numbers) == [*range(1100)]
    queue = place.control("truth?only=queue")["queue"]
    left = queue["visible"] + queue["in_flight"]
    assert left == 1100 if not delete else left < 1100

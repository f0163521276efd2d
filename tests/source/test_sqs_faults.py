"""What an SQS queue seldom does, from a scripted endpoint: refusals, throttling, partial failures, slow answers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.lowlevel

from css.errors import ConfigError
from css.source.sqs import IN_FLIGHT
from tests.source.reading import reading, until
from tests.source.scripted_sqs import SIGNED_BY, Answer, ScriptedSqs, error, scripted


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "simulated")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "simulated")


@pytest.fixture
def sqs() -> Iterator[ScriptedSqs]:
    with scripted() as place:
        yield place


def leaf(error: BaseException) -> BaseException:
    return leaf(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error


def empty(operation: str, _parameters: dict[str, Any]) -> Answer | None:
    return (200, {}) if operation == "ReceiveMessage" else None


async def test_deletes_go_in_tens(sqs: ScriptedSqs) -> None:
    """A hundred settled messages cost ten requests, each receipt once."""
    async with reading(sqs.url, "q") as at_work:
        wanted = {body.replace("m", "r") for body in (await at_work.until(100))[:100]}
        for message in at_work.messages[:100]:
            message.settled()
        await until(lambda: at_work.acknowledged == 100)
    batches = [each["Entries"] for each in sqs.parameters("DeleteMessageBatch")]
    assert [len(batch) for batch in batches] == [10] * 10
    assert {entry["ReceiptHandle"] for batch in batches for entry in batch} == wanted


async def test_settled_messages_gather_for_a_moment(sqs: ScriptedSqs) -> None:
    """Messages settled one after the other within some milliseconds still share a request."""
    sqs.script = lambda *asked: empty(*asked) if sqs.parameters("ReceiveMessage")[1:] else None
    async with reading(sqs.url, "q", receivers=1) as at_work:
        await at_work.until(10)
        for message in at_work.messages[:5]:
            message.settled()
            await trio.lowlevel.checkpoint()
        await until(lambda: at_work.acknowledged == 5)
        assert [len(each["Entries"]) for each in sqs.parameters("DeleteMessageBatch")] == [5]


async def test_what_the_queue_did_not_delete_is_deleted_again(sqs: ScriptedSqs) -> None:
    """Of a batch only the failed entries are sent once more; throttled and failed calls are repeated whole."""
    told = iter([error(400, "RequestThrottled"), error(503, "ServiceUnavailable")])

    def script(operation: str, parameters: dict[str, Any]) -> Answer | None:
        if operation != "DeleteMessageBatch":
            return None
        if answer := next(told, None):
            return answer
        if len(parameters["Entries"]) == 10:
            failed = {"Id": "3", "Code": "InternalError", "SenderFault": False}
            return 200, {"Successful": [{"Id": str(n)} for n in range(10) if n != 3], "Failed": [failed]}
        return None

    sqs.script = script
    async with reading(sqs.url, "q") as at_work:
        await at_work.until(10)
        for message in at_work.messages[:10]:
            message.settled()
        await until(lambda: at_work.acknowledged == 10)
        sizes = [len(each["Entries"]) for each in sqs.parameters("DeleteMessageBatch")]
        assert sizes == [10, 10, 10, 1]
        last = sqs.parameters("DeleteMessageBatch")[-1]["Entries"]
        assert last[0]["ReceiptHandle"] == sqs.parameters("DeleteMessageBatch")[0]["Entries"][3]["ReceiptHandle"]
        assert at_work.status.ready


async def test_reading_stops_while_nothing_can_be_deleted(sqs: ScriptedSqs) -> None:
    """Messages that wait to be deleted count as in flight; the refusal is told, and all goes on once it is mended."""
    refuse = {"DeleteMessageBatch": error(403, "AccessDenied")}
    sqs.script = lambda operation, _parameters: refuse.get(operation)
    async with reading(sqs.url, "q", visibility_timeout=60) as at_work:
        at_work.settles = True
        await at_work.until(IN_FLIGHT)
        await until(lambda: "DeleteMessageBatch" in at_work.missing and "do not allow this" in at_work.missing)
        assert len(at_work.messages) <= IN_FLIGHT + 20
        refuse.clear()
        await at_work.until(2 * IN_FLIGHT, 20)
        assert at_work.status.ready
        sqs.script = empty


async def test_an_expired_delete_is_given_up(sqs: ScriptedSqs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Past the visibility the queue delivers again anyway: the delete is not tried for ever."""
    sqs.script = lambda operation, _parameters: error(500, "InternalError") if operation[:6] == "Delete" else None
    async with reading(sqs.url, "q") as at_work:
        await at_work.until(10)
        sqs.script, failing = empty, sqs.script
        later = time.monotonic() + 11
        monkeypatch.setattr(time, "monotonic", lambda: later)
        sqs.script = lambda *asked: failing(*asked) or empty(*asked)
        at_work.messages[0].settled()
        await until(lambda: len(sqs.parameters("DeleteMessageBatch")) == 1)
        with trio.fail_after(5):
            at_work.source.finish()
            await until(lambda: "0 to delete" in repr(at_work.source))
        assert len(sqs.parameters("DeleteMessageBatch")) == 1


async def test_a_wrong_queue_name_is_a_wrong_setting(sqs: ScriptedSqs) -> None:
    """What the queue calls an invalid address no retry can mend."""
    sqs.script = lambda _operation, _parameters: error(400, "InvalidAddress")
    with pytest.raises(ExceptionGroup) as raised:
        async with reading(sqs.url, "q", receivers=1):
            await trio.sleep(10)
    assert not raised.value.split(lambda error: not isinstance(error, ExceptionGroup | ConfigError))[0]
    assert "source.queue: " in str(leaf(raised.value))
    assert "found 'q'" in str(leaf(raised.value))


async def test_throttling_is_waited_for(sqs: ScriptedSqs) -> None:
    """Throttled polls are repeated with backoff, not in a storm; the first that succeeds ends the outage."""
    sqs.script = lambda operation, _parameters: (
        error(400, "RequestThrottled") if operation == "ReceiveMessage" else None
    )
    async with reading(sqs.url, "q", receivers=1) as at_work:
        await until(lambda: "RequestThrottled" in at_work.missing)
        await trio.sleep(1)
        assert len(sqs.parameters("ReceiveMessage")) <= 6
        sqs.script = lambda _operation, _parameters: None
        await at_work.until(1)
        assert at_work.status.ready


async def test_an_empty_queue_is_ready_at_once_and_polled_at_leisure(sqs: ScriptedSqs) -> None:
    """The first poll is a short one; short polls that bring nothing are paced, long ones ask for the set wait."""
    sqs.script = empty
    async with reading(sqs.url, "q", receivers=1, wait=20) as at_work:
        await until(lambda: at_work.status.ready, 2)
        await until(lambda: len(sqs.parameters("ReceiveMessage")) >= 2)
        await trio.sleep(1)
    asked = [each["WaitTimeSeconds"] for each in sqs.parameters("ReceiveMessage")]
    assert asked[:2] == [0, 20]
    assert len(asked) <= 7


async def test_depth_is_measured_but_not_needed(sqs: ScriptedSqs) -> None:
    """The queue's depth is told; who may not ask for it can read all the same."""
    sqs.script = empty
    async with reading(sqs.url, "q") as at_work:
        await until(lambda: at_work.status.queue_depth == 7)
        assert at_work.metrics.queue_depth._value.get() == 7
    sqs.script = lambda operation, _parameters: (
        error(403, "AccessDenied") if operation == "GetQueueAttributes" else None
    )
    async with reading(sqs.url, "q") as at_work:
        await at_work.until(1)
        assert at_work.status.ready
        assert at_work.status.queue_depth is None
        sqs.script = empty


async def test_what_is_released_is_neither_deleted_nor_in_the_way(sqs: ScriptedSqs) -> None:
    """Released messages stay in the queue, and reading goes on past the bound."""
    async with reading(sqs.url, "q") as at_work:
        done = 0
        while done < IN_FLIGHT + 100:
            await at_work.until(done + 1)
            for message in at_work.messages[done:]:
                message.released()
            done = len(at_work.messages)
        sqs.script = empty
    assert not sqs.parameters("DeleteMessageBatch")


async def test_credentials_may_come_later(sqs: ScriptedSqs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Started without credentials the daemon says what to do, and reads as soon as there are some."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    file = tmp_path / "credentials"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    async with reading(sqs.url, "q") as at_work:
        await until(lambda: "no AWS credentials: set a profile" in at_work.missing)
        write(file, "LATE")
        await at_work.until(1)
        await until(lambda: at_work.status.ready)


async def test_renewed_credentials_are_read_again(
    sqs: ScriptedSqs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """After `ExpiredToken` the credentials are looked for anew, not only once at the start."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    file = tmp_path / "credentials"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    sqs.script = lambda _operation, asked: error(403, "ExpiredToken") if asked[SIGNED_BY] == "OLD" else None
    write(file, "OLD")
    async with reading(sqs.url, "q") as at_work:
        await until(lambda: "the credentials have expired" in at_work.missing)
        write(file, "NEW")
        await at_work.until(1)
        assert sqs.parameters("ReceiveMessage")[-1][SIGNED_BY] == "NEW"


def write(credentials: Path, key: str) -> None:
    """At once: a daemon that reads meanwhile sees the old ones or the new."""
    draft = credentials.with_suffix(".draft")
    draft.write_text(f"[default]\naws_access_key_id = {key}\naws_secret_access_key = secret\n")
    draft.rename(credentials)

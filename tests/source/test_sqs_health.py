"""What the failures of single calls say about the queue as a whole."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from css.source.sqs_health import Health
from css.status import Status


@pytest.fixture
def status() -> Status:
    return Status(["queue"])


def test_it_is_ready_with_the_first_receiver(status: Status) -> None:
    """One receiver that works is enough to begin with; said once."""
    health = Health(status, "q", 2)
    with capture_logs() as said:
        health.worked("receiver 0")
        health.worked("receiver 1")
    assert status.ready
    assert [entry["event"] for entry in said] == ["queue connected"]


def test_one_failure_among_receivers_is_no_outage(status: Status) -> None:
    """While another works, and until it fails for the third time in a row."""
    health = Health(status, "q", 2)
    health.worked("receiver 0")
    for _ in range(2):
        health.failed("receiver 1", "x")
        health.worked("receiver 0")
        assert status.ready
    health.failed("receiver 1", "x")
    health.worked("receiver 0")
    assert status.missing() == {"queue": "x"}
    health.worked("receiver 1")
    assert status.ready


def test_all_receivers_failing_is_an_outage_at_once(status: Status) -> None:
    """Also when there is but one; the first that works again ends it."""
    for receivers in (1, 3):
        health = Health(status, "q", receivers)
        for receiver in range(receivers):
            health.failed(f"receiver {receiver}", "gone")
        assert status.missing() == {"queue": "gone"}
        health.worked("receiver 0")
        assert status.ready


def test_deletes_that_keep_failing_are_an_outage(status: Status) -> None:
    """Reading goes on to work then, but soon has to stop: people must know why."""
    health = Health(status, "q", 2)
    for _ in range(3):
        health.worked("receiver 0")
        health.failed("deletes", "refused")
    health.worked("receiver 0")
    assert status.missing() == {"queue": "refused"}
    health.worked("deletes")
    assert status.ready


def test_each_reason_is_told_once_an_outage(status: Status) -> None:
    """Not with every try; again in the next outage. What changes with every try is not told for ever."""
    health = Health(status, "q", 1)
    for _ in range(2):
        with capture_logs() as said:
            for why in ("a", "a", "b", "a", *map(str, range(100))):
                health.failed("receiver 0", why)
            health.worked("receiver 0")
        assert [entry.get("error") for entry in said[:2]] == ["a", "b"]
        assert len(said) <= 21


def test_what_reading_can_do_without_is_told_while_all_is_well(status: Status) -> None:
    """In an outage it would only say the same in other words."""
    health = Health(status, "q", 1)
    with capture_logs() as said:
        health.mention("depth")
        health.worked("receiver 0")
        health.mention("depth")
        health.mention("depth")
    assert [entry["event"] for entry in said] == ["queue connected", "a call to the queue failed"]
    assert status.ready

"""The knobs do what they say, by chance of their own and switchable at run time."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable

import pytest
from botocore.exceptions import ClientError

from css.simulator.faults import FaultPlan
from css.simulator.settings import Faults, Simulation
from css.simulator.world import LivingWorld
from tests.simulated_region import Region

Start = Callable[..., Region]


def test_nothing_goes_wrong_by_default() -> None:
    """Without knobs every event comes once, at once, and every request is served."""
    plan = FaultPlan(Faults(), seed=1)
    assert all(plan.deliveries() == [0.0] for _ in range(100))
    assert {plan.request(service, 0.0) for service in ("ecs", "sqs") for _ in range(100)} == {""}
    assert not plan.hangs("ecs")
    assert plan.latency("sqs") == 0.0


def test_events_are_lost_doubled_and_late_by_their_shares() -> None:
    """Each knob hits about its share of events; the same seed hits the same ones."""
    knobs = Faults(loss=0.1, duplicates=0.3, late=0.2, late_seconds=60)
    plan, again, other = FaultPlan(knobs, 1), FaultPlan(knobs, 1), FaultPlan(knobs, 2)
    found = [plan.deliveries() for _ in range(5000)]
    assert found == [again.deliveries() for _ in range(5000)] != [other.deliveries() for _ in range(5000)]
    copies = Counter(len(delays) for delays in found)
    assert 400 < copies[0] < 600
    assert 1200 < copies[2] < 1500
    delays = [delay for each in found for delay in each]
    assert 0.17 < sum(delay > 0 for delay in delays) / len(delays) < 0.23
    assert max(delays) <= 60
    assert (plan.counts.lost, plan.counts.duplicated) == (copies[0], copies[2])


def test_throttling_is_a_bucket_of_ecs_alone() -> None:
    """A burst passes, then so many calls per second; SQS is never throttled."""
    plan = FaultPlan(Faults(throttle=10, throttle_burst=5), seed=1)
    assert [plan.request("ecs", 100.0) for _ in range(7)] == [""] * 5 + ["throttled"] * 2
    assert plan.request("sqs", 100.0) == ""
    assert [plan.request("ecs", 100.2) for _ in range(3)] == ["", "", "throttled"]
    assert plan.counts.throttled == 3


def test_faults_do_not_change_the_world() -> None:
    """The world's chances are its own: with faults or without, the same things happen."""
    one = LivingWorld(Simulation(), 0.0)
    other = LivingWorld(Simulation(faults=Faults(loss=0.5, errors=0.5)), 0.0)
    assert [one.step(0.5) for _ in range(100)] == [other.step(0.5) for _ in range(100)]


def test_errors_are_answered_to_boto3(region: Start) -> None:
    """Errors and throttling look as AWS's do, and end when the knob is turned back."""
    aws = region(tasks=10, rate=0, faults=Faults(errors=1.0))
    with pytest.raises(ClientError) as error:
        aws.ecs.list_clusters()
    assert error.value.response["ResponseMetadata"]["HTTPStatusCode"] == 500
    with pytest.raises(ClientError, match="InternalFailure"):
        aws.sqs.get_queue_url(QueueName="event_stream")
    aws.control("faults", {"errors": 1.0, "services": ["sqs"], "throttle": 0.001, "throttle_burst": 1})
    aws.ecs.list_clusters()
    with pytest.raises(ClientError, match="ThrottlingException"):
        aws.ecs.list_clusters()
    assert aws.control("faults", {}) == aws.control("faults")
    aws.ecs.list_clusters()
    assert aws.queue
    assert (
        aws.control("truth?only=queue")["faults"] | {"throttled": 1, "errors": 2}
        == aws.control("truth?only=queue")["faults"]
    )


def test_describe_fails_for_what_exists(region: Start) -> None:
    """A failure entry is no proof of absence: the object is still listed."""
    aws = region(tasks=50, clusters=1, rate=0, faults=Faults(describe_failures=0.5))
    arns = aws.ecs.list_tasks(cluster="prod")["taskArns"]
    answer = aws.ecs.describe_tasks(cluster="prod", tasks=arns)
    assert 5 < len(answer["failures"]) < 45
    assert len(answer["failures"]) + len(answer["tasks"]) == 50


def test_events_suffer_on_their_way_to_the_queue(region: Start) -> None:
    """Duplicates are messages of their own with the same event; a lost event is in the truth only."""
    aws = region(tasks=50, clusters=1, rate=0, preload=500, faults=Faults(duplicates=0.5, loss=0.1, reorder=500))
    events = aws.drain()
    ids = Counter(event["id"] for event in events)
    assert set(ids.values()) == {1, 2}
    counts = aws.control("truth?only=queue")
    assert counts["faults"]["lost"] == counts["events"] - len(ids) > 0
    assert counts["queue"]["sent"] == len(events)
    versions = [event["detail"]["version"] for event in events if ":task/" in event["resources"][0]]
    assert versions != sorted(versions)


def test_late_events_come_later(region: Start) -> None:
    """A late event waits outside; it is neither visible nor lost."""
    aws = region(tasks=20, clusters=1, rate=0, preload=100, faults=Faults(late=1.0, late_seconds=3000))
    queue = aws.control("truth?only=queue")["queue"]
    assert queue["delayed"] >= 95
    assert queue["visible"] + queue["delayed"] == queue["sent"]


def test_latency_and_hanging(region: Start) -> None:
    """Latency delays an answer; while `hang` is set there is none, and when it is unset there is."""
    aws = region(tasks=10, rate=0, faults=Faults(latency=0.2))
    begun = time.monotonic()
    aws.ecs.list_clusters()
    assert time.monotonic() - begun >= 0.1
    aws.control("faults", {"hang": True, "services": ["ecs"]})
    answered = threading.Event()

    def ask() -> None:
        aws.ecs.list_clusters()
        answered.set()

    thread = threading.Thread(target=ask)
    thread.start()
    assert not answered.wait(0.3)
    assert aws.queue  # SQS answers meanwhile
    aws.control("faults", {})
    assert answered.wait(5)
    thread.join()


def test_pause_and_resume(region: Start) -> None:
    """A paused world says nothing; resumed it goes on."""
    aws = region(tasks=100, rate=500)
    while not aws.control("truth?only=queue")["events"]:
        time.sleep(0.01)
    aws.control("pause", {})
    before = aws.control("truth?only=queue")["events"]
    time.sleep(0.3)  # several ticks of the world's clock
    assert aws.control("truth?only=queue")["events"] == before
    aws.control("resume", {})
    deadline = time.monotonic() + 5
    while aws.control("truth?only=queue")["events"] == before:
        assert time.monotonic() < deadline
        time.sleep(0.01)

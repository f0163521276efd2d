"""The living world: the same for a seed, honest in its versions, complete in its fields."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from css.simulator import lifecycle
from css.simulator.engine import INSTANCE_CHANGE, TASK_CHANGE
from css.simulator.inventory import Detail
from css.simulator.settings import Simulation
from css.simulator.world import LivingWorld

START = 1_700_000_000.0


def live(world: LivingWorld, seconds: float, dt: float = 0.5) -> list[bytes]:
    return [event for _ in range(int(seconds / dt)) for event in world.step(dt)]


def states(events: list[bytes]) -> dict[str, list[Detail]]:
    """The states of each task and instance in the order of the events."""
    told = defaultdict(list)
    for event in map(json.loads, events):
        if event["detail-type"] in (TASK_CHANGE, INSTANCE_CHANGE):
            told[event["resources"][0]].append(event["detail"])
    return told


def test_the_same_seed_makes_the_same_world() -> None:
    """Two worlds of equal settings say the same, byte for byte, however their time is cut; another seed does not."""
    one, other = (LivingWorld(Simulation(rate=20), START) for _ in range(2))
    assert live(one, 120, dt=0.5) == live(other, 120, dt=2.0)
    assert (one.tasks(), one.instances()) == (other.tasks(), other.instances())
    assert live(LivingWorld(Simulation(rate=20, seed=2), START), 120) != live(
        LivingWorld(Simulation(rate=20), START), 120
    )


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10_000), rate=st.sampled_from([3.0, 30.0]), tasks=st.sampled_from([1, 30, 200]))
def test_versions_grow_by_one_and_statuses_only_go_forward(seed: int, rate: float, tasks: int) -> None:
    """Every change counts its object's version up by one; a task never returns to an earlier status."""
    world = LivingWorld(Simulation(seed=seed, rate=rate, tasks=tasks, clusters=2, services=3), START)
    told = states(live(world, 200) + world.settle())
    assert told
    for changes in told.values():
        versions = [change["version"] for change in changes]
        assert versions == list(range(versions[0], versions[0] + len(versions)))
        if "taskArn" in changes[0]:
            order = [lifecycle.STATUSES.index(change["lastStatus"]) for change in changes]
            assert order == sorted(order)
            desired = [change["desiredStatus"] for change in changes]
            assert desired == sorted(desired)  # RUNNING, then STOPPED


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10_000), rate=st.sampled_from([5.0, 40.0]))
def test_events_and_truth_agree_at_rest(seed: int, rate: float) -> None:
    """The last event of each object is the object as it is, once nothing changes any more."""
    world = LivingWorld(Simulation(seed=seed, rate=rate, tasks=60, clusters=2, services=3), START)
    told = states(live(world, 150) + world.settle())
    truth = world.tasks() | world.instances()
    assert {arn: changes[-1] for arn, changes in told.items()} == {arn: truth[arn] for arn in told}
    assert world.settle() == []
    assert {task["lastStatus"] for task in world.tasks().values()} == {"RUNNING", "STOPPED"}


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_at_rest_services_and_instances_add_up(seed: int) -> None:
    """A settled service runs its desired count; what an instance has left is what it registered less its tasks."""
    world = LivingWorld(Simulation(seed=seed, rate=20, tasks=100, clusters=2, services=6), START)
    live(world, 300)
    world.settle()
    running = Counter(
        (task["clusterArn"], task["group"]) for task in world.tasks().values() if task["lastStatus"] == "RUNNING"
    )
    for service in world.inventory.services():
        wanted = service.detail["desiredCount"]
        assert (service.detail["runningCount"], service.detail["pendingCount"]) == (wanted, 0)
        assert running[service.cluster_arn, f"service:{service.id}"] == wanted
        assert [entry["status"] for entry in service.detail["deployments"]] == ["PRIMARY"]
    for arn, instance in world.instances().items():
        on_it = [
            task
            for task in world.tasks().values()
            if task.get("containerInstanceArn") == arn and task["lastStatus"] == "RUNNING"
        ]
        assert (instance["runningTasksCount"], instance["pendingTasksCount"]) == (len(on_it), 0)
        for at, member in enumerate(("cpu", "memory")):
            used = sum(int(task[member]) for task in on_it)
            registered, left = (
                instance[f"{kind}Resources"][at]["integerValue"] for kind in ("registered", "remaining")
            )
            assert registered - left == used


def test_the_rate_is_kept_in_the_long_run() -> None:
    """So many changes per second as were asked for, by a fifth."""
    for rate, tasks in [(2.0, 50), (5.0, 200), (50.0, 1000)]:
        world = LivingWorld(Simulation(rate=rate, tasks=tasks), START)
        assert 0.8 * rate < len(live(world, 600)) / 600 < 1.2 * rate


def test_a_still_world_says_nothing() -> None:
    """At rate 0 nothing ever happens."""
    assert live(LivingWorld(Simulation(rate=0), START), 600) == []


def test_a_rested_world_goes_on_where_it_was() -> None:
    """While it rests nothing happens; what happens afterwards is the same, so much later."""
    one, other = (LivingWorld(Simulation(rate=20), START) for _ in range(2))
    live(one, 30)
    live(other, 30)
    other.rest(100.0)
    assert other.now == one.now + 100.0
    mine, theirs = (states(live(world, 30)) for world in (one, other))
    assert mine.keys() == theirs.keys()
    assert [[change["version"] for change in changes] for changes in mine.values()] == [
        [change["version"] for change in changes] for changes in theirs.values()
    ]


def test_many_things_befall_it() -> None:
    """All reasons for which tasks stop, all statuses and all kinds of events occur."""
    world = LivingWorld(Simulation(rate=30, tasks=300, seed=4), START)
    events = [json.loads(event) for event in live(world, 900)]
    stopped = [event["detail"] for event in events if event["detail"].get("lastStatus") == "STOPPED"]
    assert {task["stopCode"] for task in stopped} == {
        "EssentialContainerExited",
        "ServiceSchedulerInitiated",
        "SpotInterruption",
        "TaskFailedToStart",
        "TerminationNotice",
        "UserInitiated",
    }
    reasons = " ".join(task["stoppedReason"] for task in stopped)
    for words in ("CannotPullContainerError", "ELB health checks", "Spot Task", "Host EC2", "Scaling activity"):
        assert words in reasons
    containers = [container for task in stopped for container in task["containers"]]
    assert {0, 1, 137, 139, 143} <= {container.get("exitCode") for container in containers}
    assert any("OutOfMemoryError" in container.get("reason", "") for container in containers)
    assert {event["detail"].get("lastStatus") for event in events} >= set(lifecycle.STATUSES)
    assert {event["detail"].get("status") for event in events} >= {"REGISTERING", "ACTIVE", "DRAINING", "INACTIVE"}
    assert {event["detail"].get("agentConnected") for event in events} >= {True, False}
    assert {event["detail"].get("eventName") for event in events} >= {
        "SERVICE_DEPLOYMENT_IN_PROGRESS",
        "SERVICE_DEPLOYMENT_COMPLETED",
        "SERVICE_DEPLOYMENT_FAILED",
        "SERVICE_STEADY_STATE",
        "SERVICE_TASK_START_IMPAIRED",
        "SERVICE_DESIRED_COUNT_UPDATED",
    }


def test_tasks_have_the_fields_of_real_ones() -> None:
    """A stopped Fargate task's event has every field of the real one of 2024 that it can have, in the same types."""
    world = LivingWorld(Simulation(rate=20), START)
    events = [json.loads(event) for event in live(world, 120)]
    task = next(
        event["detail"]
        for event in events
        if event["detail"].get("lastStatus") == "STOPPED"
        and event["detail"]["launchType"] == "FARGATE"
        and event["detail"]["stopCode"] == "ServiceSchedulerInitiated"
        and "startedAt" in event["detail"]
    )
    real = json.loads((Path(__file__).parents[1] / "data/events/task-fargate-stopped-2024.json").read_text())
    assert _missing(real["detail"], task) == set()
    assert set(real) == set(events[0])
    assert re.fullmatch(r"....-..-..T..:..:..\.\d{3}Z", task["createdAt"])


def _missing(real: Any, ours: Any, at: str = "") -> set[str]:
    if isinstance(real, dict):
        absent = {f"{at}.{name}" for name in real if name not in ours} - {".containers.managedAgents"}
        return absent.union(*(_missing(real[name], ours[name], f"{at}.{name}") for name in real if name in ours))
    if isinstance(real, list) and real and at != ".attachments":
        return _missing(real[0], ours[0], at)
    return set() if type(real) is type(ours) else {f"{at}: {type(ours)}"}


def test_api_and_event_forms_differ_as_in_ecs() -> None:
    """The API gives epoch seconds, no `updatedAt`, and no cluster on instances; events give health to nobody."""
    world = LivingWorld(Simulation(), START)
    task = json.loads(next(iter(world.inventory.tasks())).api(tags=True))
    instance = json.loads(next(iter(world.inventory.instances())).api())
    assert isinstance(task["createdAt"], float)
    assert "updatedAt" not in task
    assert {"key": "environment", "value": "prod"} in task["tags"]
    assert not {"clusterArn", "updatedAt"} & set(instance)
    assert instance["tags"] == []
    event = world.tasks()[task["taskArn"]]
    assert "healthStatus" in task
    assert "healthStatus" not in event
    assert {"clusterArn", "updatedAt"} <= set(next(iter(world.instances().values())))


def test_what_the_api_says_follows_every_change() -> None:
    """An object is encoded once per change, and never answered as it was before."""
    world = LivingWorld(Simulation(rate=20), START)
    for _ in range(40):
        live(world, 3)
        for item in [*world.inventory.tasks(), *world.inventory.instances(), *world.inventory.services()]:
            assert json.loads(item.api()) == item.detail | {"tags": []}


def test_stopped_tasks_are_forgotten_after_the_retention() -> None:
    """ECS keeps a stopped task for about an hour, then no longer knows it; the running ones stay."""
    world = LivingWorld(Simulation(rate=20, retention=60), START)
    live(world, 300)
    for task in world.tasks().values():
        if task["lastStatus"] == "STOPPED":
            assert task["stoppedAt"] >= "2023-11-14T22:17:20"  # START + 300 s - 60 s
    assert sum(task["lastStatus"] == "RUNNING" for task in world.tasks().values()) > 150


def test_a_history_alone_tells_the_whole_world() -> None:
    """Whoever reads all events of `history`, in any order, knows every object as it is."""
    world = LivingWorld(Simulation(rate=0, tasks=300), START)
    events = world.history(3000)
    assert len(events) >= 3000
    newest: dict[str, Detail] = {}
    for arn, changes in states(events).items():
        newest[arn] = max(changes, key=lambda change: change["version"])
    assert newest == newest | world.tasks() | world.instances()
    assert live(world, 60) == []


def test_some_overrides_hold_values_of_the_environment() -> None:
    """There is something to redact."""
    tasks = LivingWorld(Simulation(), START).tasks().values()
    environments = [
        variable
        for task in tasks
        for container in task["overrides"]["containerOverrides"]
        for variable in container.get("environment", [])
    ]
    assert {"API_TOKEN", "DATABASE_URL"} <= {variable["name"] for variable in environments}
    assert all(variable["value"] for variable in environments)

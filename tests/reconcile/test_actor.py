"""The reconciler and the ECS API's edge, against the simulated region over HTTP, and against moto."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import boto3
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from moto.server import ThreadedMotoServer
from trio.testing import MockClock, wait_all_tasks_blocked

from css import envelope
from css.config import Aws, Reconcile
from css.config import Writer as WriterSettings
from css.drift import DriftLedger, DriftReport
from css.ecs import EcsApi, TokenBucket, as_told_by_events, described
from css.errors import Unavailable
from css.follow import Live, follow
from css.metrics import Metrics
from css.model import Delivery
from css.normalize import Policy
from css.reconcile import reconcile
from css.status import Status
from css.store import Retention
from css.store.embedded import open_embedded
from css.writer import Writer, write
from tests.simulated_region import Region

Start = Callable[..., Region]


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"):
        monkeypatch.setenv(f"AWS_{name}", "simulated")


class Repair:
    def __init__(self, live: Live, status: Status, metrics: Metrics, ledger: DriftLedger) -> None:
        self.live, self.status, self.metrics, self.ledger = live, status, metrics, ledger

    async def report(self, number: int, seconds: float = 20) -> DriftReport:
        """The number-th pass's report, when it has ended."""
        with trio.fail_after(seconds):
            while len(self.ledger.reports) < number:  # noqa: ASYNC110 - the ledger is plain data
                await trio.sleep(0.02)
        return self.ledger.reports[number - 1]

    def held(self, kind: str) -> dict[str, Any]:
        return {row.key.id: json.loads(row.detail) for row in self.live.view.rows(kind)}  # type: ignore[arg-type]


@asynccontextmanager
async def repairing(url: str, directory: Path, policy: Policy, **chosen: Any) -> AsyncIterator[Repair]:
    live, status, metrics, ledger = Live(), Status(["reconcile"]), Metrics(), DriftLedger()
    settings = Reconcile(**{"rate": 0, "interval": 3600.0, **chosen})
    api = EcsApi(Aws(endpoint_url=url, region="us-east-1"), settings, policy, metrics)
    quick = WriterSettings(linger_ms=1)
    async with open_embedded(directory / "css.db", Retention()) as store, trio.open_nursery() as nursery:
        await nursery.start(follow, store, live, status, metrics)
        sender, receiver = trio.open_memory_channel[Sequence[Delivery]](4)
        nursery.start_soon(write, receiver, Writer(store, live, quick, policy, status, metrics), quick)
        nursery.start_soon(reconcile, api, live, sender, settings, status, metrics, ledger)
        yield Repair(live, status, metrics, ledger)
        nursery.cancel_scope.cancel()


async def test_a_bootstrap_holds_the_whole_world(region: Start, tmp_path: Path) -> None:
    """After the first pass the view is what ECS says: every object, in the events' shape, with each field."""
    place = region(tasks=250, clusters=3, rate=0)
    async with repairing(place.url, tmp_path, Policy(redact_environment=False)) as repair:
        report = await repair.report(1)
        truth = await trio.to_thread.run_sync(place.control, "truth")
        assert (report.complete, report.bootstrap) == (True, True)
        assert report.corrections == len(truth["tasks"]) + len(truth["instances"])
        assert repair.status.ready
        for kind, collection in (("task", "tasks"), ("instance", "instances")):
            held = repair.held(kind)
            assert held.keys() == truth[collection].keys()
            for arn, detail in held.items():
                assert not lacking(detail, truth[collection][arn]) - {"updatedAt", "accountType"}


def lacking(have: Any, told: Any) -> set[str]:
    """The members that events tell and `have` has not, or has otherwise; what only the API knows does not count."""
    if isinstance(told, dict) and isinstance(have, dict):
        inner = [lacking(have[name], value) if name in have else {name} for name, value in told.items()]
        return set().union(*inner)
    if isinstance(told, list) and isinstance(have, list) and len(have) == len(told):
        return set().union(*(lacking(mine, theirs) for mine, theirs in zip(have, told, strict=True)))
    return set() if have == told else {f"{have!r} is not {told!r}"}


async def test_environment_values_are_redacted_here_too(region: Start, tmp_path: Path) -> None:
    """What Describe brings is stored without the values of environment overrides."""
    place = region(tasks=250, rate=0)
    async with repairing(place.url, tmp_path, Policy()) as repair:
        await repair.report(1)
        overrides = [
            variable["value"]
            for task in repair.held("task").values()
            for container in task.get("overrides", {}).get("containerOverrides", [])
            for variable in container.get("environment", [])
        ]
        assert set(overrides) == {envelope.REDACTED}


async def test_later_passes_repair_what_events_did_not_tell(region: Start, tmp_path: Path) -> None:
    """Changes without any event are found and counted: missed, stale and gone, with the calls that it took."""
    place = region(tasks=200, clusters=2, rate=200, retention=2.0)
    async with repairing(place.url, tmp_path, Policy(), interval=1.0) as repair:
        await repair.report(4, 30)
        await trio.to_thread.run_sync(place.control, "quiesce", {})
        await trio.sleep(2.5)  # ECS forgets what has stopped after the retention above
        passes = len(repair.ledger.reports)
        await repair.report(passes + 2, 30)
        truth = await trio.to_thread.run_sync(place.control, "truth")
        versions = {arn: detail["version"] for arn, detail in repair.held("task").items()}
        assert versions == {arn: detail["version"] for arn, detail in truth["tasks"].items()}
        later = [report for report in repair.ledger.reports if not report.bootstrap]
        assert all(
            sum(getattr(drift, what) for report in later for drift in report.clusters.values()) > 0
            for what in ("missed", "stale", "gone")
        )
        assert b'css_drift_total{kind="events",what="stale"}' in repair.metrics.render()


async def test_an_api_that_fails_is_named_and_waited_for(region: Start, tmp_path: Path) -> None:
    """Not ready while the API cannot be read, with its reason; a complete pass later it is, without a restart."""
    place = region(tasks=50, rate=0)
    place.control("faults", {"throttle": 3, "throttle_burst": 1})
    async with repairing(place.url, tmp_path, Policy()) as repair:
        with trio.fail_after(20):
            while b'outcome="throttled"' not in repair.metrics.render():  # noqa: ASYNC110 - counters have no event
                await trio.sleep(0.02)
        assert not repair.status.ready
        await trio.to_thread.run_sync(place.control, "faults", {})
        await repair.report(1, 60)
        await wait_all_tasks_blocked()
        assert repair.status.ready
        assert len(repair.held("task")) > 40


async def test_objects_that_cannot_be_described_are_not_removed(region: Start, tmp_path: Path) -> None:
    """A failure that is not MISSING says nothing about whether the object is there."""
    place = region(tasks=100, rate=0)
    async with repairing(place.url, tmp_path, Policy(), interval=0.5) as repair:
        await repair.report(1)
        before = repair.held("task").keys()
        await trio.to_thread.run_sync(place.control, "faults", {"describe_failures": 0.5})
        await repair.report(len(repair.ledger.reports) + 3)
        assert repair.held("task").keys() == before


def test_moto_is_bootstrapped(tmp_path: Path) -> None:
    """Against an ECS that others wrote: its clusters and tasks are held, though it knows no versions."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    try:
        wanted = set(_moto_tasks(url))
        trio.run(_bootstrap_moto, url, tmp_path, wanted)
    finally:
        server.stop()


def _moto_tasks(url: str) -> Iterator[str]:
    client = boto3.client("ecs", endpoint_url=url, region_name="us-east-1")
    client.register_task_definition(
        family="web", containerDefinitions=[{"name": "app", "image": "web:1", "memory": 128, "cpu": 10}]
    )
    ec2 = boto3.client("ec2", endpoint_url=url, region_name="us-east-1")
    subnet = ec2.describe_subnets()["Subnets"][0]["SubnetId"]
    for cluster in ("one", "two"):
        client.create_cluster(clusterName=cluster)
        network: Any = {"awsvpcConfiguration": {"subnets": [subnet]}}
        ran = client.run_task(
            cluster=cluster, taskDefinition="web", count=3, launchType="FARGATE", networkConfiguration=network
        )
        yield from (task["taskArn"] for task in ran["tasks"])
    client.close()
    ec2.close()


async def _bootstrap_moto(url: str, directory: Path, wanted: set[str]) -> None:
    async with repairing(url, directory, Policy()) as repair:
        report = await repair.report(1)
        assert report.complete
        assert repair.held("task").keys() == wanted


async def test_no_more_calls_than_the_rate_allows(autojump_clock: MockClock) -> None:
    """A burst at once, then one after the other at the rate, in order of arrival; a rate of 0 is no limit."""
    bucket, begun = TokenBucket(10, 5), trio.current_time()
    taken: list[tuple[int, float]] = []

    async def take(number: int) -> None:
        await bucket.take()
        taken.append((number, round(trio.current_time() - begun, 3)))

    async with trio.open_nursery() as nursery:
        for number in range(25):
            nursery.start_soon(take, number)
    times = sorted(at for _, at in taken)
    assert times[:5] == [0.0] * 5
    assert times[5:] == [round(0.1 * step, 3) for step in range(1, 21)]
    await trio.sleep(100)
    begun = trio.current_time()
    for number in range(6):
        await take(number)
    assert round(trio.current_time() - begun, 3) == 0.1
    free = TokenBucket(0, 1)
    for _ in range(100):
        await free.take()
    assert round(trio.current_time() - begun, 3) == 0.1


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "tasks",
                    "failures",
                    "taskArn",
                    "version",
                    "createdAt",
                    "managedAgents",
                    "lastStatus",
                    "arn",
                    "overrides",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=10,
)
CLUSTER = "arn:aws:ecs:us-east-1:111122223333:cluster/c"


@given(st.binary(max_size=50) | JSON.map(lambda value: json.dumps(value).encode()))
@settings(max_examples=200, deadline=None)
def test_any_answer_is_read_or_refused(body: bytes) -> None:
    """Whatever an endpoint answers, it is objects, or doubt, or `Unavailable`; nothing else is raised."""
    with suppress(Unavailable):
        described(body, "task", CLUSTER, "2026-01-01T00:00:00Z", Policy())


def test_unknown_fields_and_doubtful_objects() -> None:
    """Unknown members are kept as they are; an object that cannot be read leaves its ARN in doubt."""
    good = "arn:aws:ecs:us-east-1:111122223333:task/c/1"
    answer = {
        "tasks": [{"taskArn": good, "version": 3, "newThing": {"x": 1}}, {"taskArn": good + "2", "version": 2**60}],
        "failures": [{"arn": "a", "reason": "MISSING"}, {"arn": "b", "reason": "INTERNAL"}],
    }
    told = described(json.dumps(answer).encode(), "task", CLUSTER, "", Policy())
    assert [put.version for put in told.puts] == [3]
    assert b'"newThing":{"x":1}' in told.puts[0].body
    assert told.unsure == {good + "2", "b"}


def test_times_become_texts_wherever_they_stand() -> None:
    """Seconds since the epoch become RFC 3339 with milliseconds; an agent's status has the events' name as well."""
    value = {
        "createdAt": 1481042465.702,
        "containers": [{"managedAgents": [{"lastStatus": "RUNNING", "lastStartedAt": 0}]}],
        "version": 7,
        "stoppedAt": None,
    }
    as_told_by_events(value)
    assert value == {
        "createdAt": "2016-12-06T16:41:05.702Z",
        "containers": [
            {
                "managedAgents": [
                    {"lastStatus": "RUNNING", "status": "RUNNING", "lastStartedAt": "1970-01-01T00:00:00.000Z"}
                ]
            }
        ],
        "version": 7,
        "stoppedAt": None,
    }

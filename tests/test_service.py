"""The daemon as users run it, when what it depends on fails: its process, a real etcd, a simulated region over HTTP."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio
from trio_websocket import ConnectionClosed

from css import wire
from tests.daemon import Daemon, daemon, wait_for
from tests.etcd_server import EtcdServer
from tests.simulated_region import Region
from tests.websocket import connected

EVENTS = Path(__file__).parent / "data" / "events"
QUEUE = ("--queue=event_stream", "--reconcile-rate=0")
CANARY = "canary-5up3r-s3cret"


def queue_of(place: Region) -> dict[str, int]:
    return dict(place.control("truth?only=queue")["queue"])


def is_drained(place: Region) -> bool:
    queue = queue_of(place)
    return queue["visible"] == queue["in_flight"] == 0


def send(place: Region, *bodies: str) -> None:
    for body in bodies:
        place.sqs.send_message(QueueUrl=place.queue, MessageBody=body)


def difference(service: Daemon, place: Region) -> list[str]:
    """Where the service differs from the simulated world, by ARN."""
    truth = place.control("truth")
    found = []
    for kind in ("tasks", "instances"):
        served = {item["key"]["id"]: item["detail"] for item in service.json(f"/v2/{kind}")["items"]}
        found += [arn for arn, detail in truth[kind].items() if served.get(arn, {}).get("version") != detail["version"]]
    return found


@contextmanager
def events_only(tmp_path: Path, place: Region, *flags: str) -> Iterator[Daemon]:
    """A daemon without a reconciler: the events alone have to tell the world."""
    config = tmp_path / "css.toml"
    config.write_text("[reconcile]\nenabled = false\n[source]\nvisibility_timeout = 10\nwait = 1\n")
    with daemon([f"--config={config}", *QUEUE[:1], *flags], place.url, tmp_path / "log") as service:
        yield service


@pytest.fixture(params=["embedded", "etcd"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The flag of a store that is the test's own."""
    if request.param == "embedded":
        yield f"--store={tmp_path / 'css.db'}"
        return
    with EtcdServer(tmp_path / "etcd") as server:
        yield f"--etcd-endpoint={server.endpoint}"


def test_real_events_are_served_complete(region: Callable[..., Region], tmp_path: Path) -> None:
    """Every event of 2016-2024 that came through the queue is answered with each of its fields."""
    place = region(tasks=0, rate=0)
    bodies = [path.read_text() for path in sorted(EVENTS.glob("*.json"))]
    with events_only(tmp_path, place, f"--store={tmp_path / 'css.db'}") as service:
        send(place, *bodies)
        wait_for(lambda: is_drained(place))
        served = [
            item["detail"]
            for kind in ("tasks", "instances", "events")
            for item in service.json(f"/v2/{kind}")["items"]
            if item["source"] == "event"
        ]
    for body in bodies:
        assert json.loads(body)["detail"] in served


def test_poison_is_shelved_and_secrets_stay_out(region: Callable[..., Region], tmp_path: Path) -> None:
    """Nothing unreadable stops the daemon or is lost; environment values reach neither store, log nor answer."""
    task = json.loads((EVENTS / "task-ec2-2016.json").read_text())
    override = {"name": "web", "environment": [{"name": "TOKEN", "value": CANARY}]}
    task["detail"]["overrides"] = {"containerOverrides": [override]}
    wrong = json.loads(json.dumps(task))
    wrong["detail"] |= {"version": 2**62, "taskArn": task["detail"]["taskArn"] + "0"}
    poison = ["not json", "[" * 100_000, '"\\ud800"', "x" * 200_000, json.dumps(wrong), json.dumps(task)[:-9]]
    place = region(tasks=0, rate=0)
    file = tmp_path / "css.db"
    with events_only(tmp_path, place, f"--store={file}") as service:
        send(place, *poison, json.dumps(task))
        wait_for(lambda: is_drained(place))
        shelf = service.json("/v2/quarantine")["items"]
        assert len(shelf) == len(poison)
        assert {entry["detail"]["reason"] for entry in shelf} == {"not JSON", "bad version"}
        assert [item["detail"]["version"] for item in service.json("/v2/tasks")["items"]] == [task["detail"]["version"]]
        metrics = service.ask("/metrics")[2]
        assert b'css_messages_rejected_total{reason="not JSON"} 5.0' in metrics
        told = b"".join(service.ask(path)[2] for path in ("/v1/tasks", "/v2/tasks", "/v2/quarantine", "/v2/events"))
        assert b"TOKEN" in told
        assert service.end() == 0
    for text in (told, file.read_bytes(), (tmp_path / "log").read_bytes()):
        assert CANARY.encode() not in text


def test_a_lost_etcd_is_waited_for(region: Callable[..., Region], tmp_path: Path) -> None:
    """While etcd is away the reason is told, reads go on, nothing leaves the queue; then all goes on by itself."""
    place = region(tasks=0, rate=0)
    with (
        EtcdServer(tmp_path / "etcd") as etcd,
        events_only(tmp_path, place, f"--etcd-endpoint={etcd.endpoint}") as service,
    ):
        send(place, (EVENTS / "task-ec2-2016.json").read_text())
        wait_for(lambda: is_drained(place))
        etcd.kill()
        wait_for(lambda: service.ask("/readyz")[0] == 503)
        assert "etcd" in service.json("/readyz")["missing"]["store"]
        send(place, (EVENTS / "task-fargate-2020.json").read_text())
        wait_for(lambda: queue_of(place)["in_flight"] == 1)
        assert len(service.json("/v2/tasks")["items"]) == 1
        etcd.start()
        wait_for(service.is_ready)
        wait_for(lambda: is_drained(place))
        assert len(service.json("/v2/tasks")["items"]) == 2


def test_a_frozen_etcd_is_noticed(region: Callable[..., Region], tmp_path: Path) -> None:
    """An etcd that neither answers nor closes is found out within 15 s, and used again when it thaws."""
    place = region(tasks=0, rate=0)
    with (
        EtcdServer(tmp_path / "etcd") as etcd,
        events_only(tmp_path, place, f"--etcd-endpoint={etcd.endpoint}") as service,
    ):
        begun = time.monotonic()
        etcd.freeze()
        wait_for(lambda: service.ask("/readyz")[0] == 503, 20)
        assert time.monotonic() - begun < 16
        etcd.thaw()
        wait_for(service.is_ready)


def test_a_lost_queue_and_api_are_waited_for(region: Callable[..., Region], tmp_path: Path) -> None:
    """Errors of SQS and ECS are told by /readyz and mended without a restart; HTTP answers all the while."""
    place = region(tasks=50, rate=0)
    place.control("faults", {"errors": 1.0})
    service = Daemon([*QUEUE, f"--store={tmp_path / 'css.db'}"], place.url, tmp_path / "log")
    service.start()
    try:
        wait_for(lambda: {"queue", "reconcile"} <= service.json("/readyz")["missing"].keys())
        wait_for(lambda: "GetQueueUrl" in service.json("/readyz")["missing"]["queue"])
        assert service.ask("/v2/tasks")[0] == 200
        wait_for(lambda: "ListClusters" in service.json("/readyz")["missing"]["reconcile"])
        said = service.log.read_text()
        assert "cannot read the queue" in said
        assert "reconciled in part" in said
        place.control("faults", {})
        wait_for(service.is_ready, 60)
        assert not difference(service, place)
        assert service.end() == 0
    finally:
        assert service.process is not None
        service.process.kill()
        service.process.wait()


def test_what_cannot_start_says_why(region: Callable[..., Region], tmp_path: Path) -> None:
    """A file or port in use, an open address: one clear line and exit status 2."""
    place = region(tasks=0, rate=0)
    with events_only(tmp_path, place, f"--store={tmp_path / 'css.db'}") as first:
        for flags, said in [
            ([f"--store={tmp_path / 'css.db'}"], "in use by another process; two daemons cannot share"),
            (
                [f"--store={tmp_path / 'other.db'}", f"--bind=127.0.0.1:{first.port}"],
                f"127.0.0.1:{first.port}: is in use",
            ),
            ([f"--store={tmp_path / 'other.db'}", "--bind=0.0.0.0:0"], "--insecure"),
        ]:
            log = tmp_path / "second"
            log.unlink(missing_ok=True)
            second = Daemon([*QUEUE, *flags], place.url, log)
            second.start()
            assert second.process is not None
            assert second.process.wait(15) == 2
            assert said in log.read_text()
            assert "Traceback" not in log.read_text()


def test_killed_at_any_moment_nothing_is_lost(region: Callable[..., Region], tmp_path: Path, store: str) -> None:
    """SIGKILL while thousands of shuffled and duplicated events are drained: the end equals the world."""
    place = region(tasks=300, clusters=2, rate=0, preload=3000, seed=5)
    place.control("faults", {"duplicates": 0.3, "reorder": 500, "latency": 0.01, "services": ["sqs"]})
    for kept in (0.02, 0.2, 0.35):
        with events_only(tmp_path, place, store) as service:
            time.sleep(kept)
            service.end(signal.SIGKILL)
    place.control("faults", {})
    with events_only(tmp_path, place, store) as service:
        wait_for(lambda: is_drained(place), 60)
        assert not difference(service, place)


@contextmanager
def both(tmp_path: Path, place: Region, etcd: EtcdServer) -> Iterator[tuple[Daemon, Daemon]]:
    """Two daemons on one queue and one etcd."""
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    flag = f"--etcd-endpoint={etcd.endpoint}"
    with events_only(one, place, flag) as first, events_only(two, place, flag) as second:
        yield first, second


def test_two_replicas_share_a_queue_and_agree(region: Callable[..., Region], tmp_path: Path) -> None:
    """Both end at the same state, equal to the world; a watch goes on at the other without a gap or a repeat."""
    place = region(tasks=200, clusters=2, rate=0, preload=2500, seed=3)
    place.control("faults", {"duplicates": 0.3, "reorder": 300})
    with EtcdServer(tmp_path / "etcd", fsync=False) as etcd, both(tmp_path, place, etcd) as (first, second):
        seen = trio.run(_watch_in_turns, (first.port, second.port), place)
        wait_for(lambda: first.json("/version")["revision"] == second.json("/version")["revision"])
        assert not difference(first, place)
        assert first.json("/v2/tasks")["items"] == second.json("/v2/tasks")["items"]
        served = {item["key"]["id"]: item["revision"] for item in first.json("/v2/tasks")["items"]}
        assert seen == served
        received = [float(line.split()[-1]) for service in (first, second) for line in _received(service)]
        assert min(received) > 0


def _received(service: Daemon) -> list[str]:
    return [
        line
        for line in service.ask("/metrics")[2].decode().splitlines()
        if line.startswith("css_messages_received_total{")
    ]


async def _watch_in_turns(ports: tuple[int, int], place: Region) -> dict[str, int]:
    """Follow the tasks until the queue is empty, changing over to the other replica after every few messages."""
    items: dict[str, int] = {}
    position, turn, quiet = 0, 0, 0
    while quiet < 3:
        turn += 1
        query = f"kinds=tasks&heartbeat=1000&since={position}" if position else "kinds=tasks"
        async with connected(ports[turn % 2], query) as socket:
            for _ in range(4 if position else 1000):
                match wire.decode(await socket.get_message()):
                    case wire.Snapshot(revision, told, done):
                        items |= {item.key.id: item.revision for item in told}
                        if done:
                            position = revision
                            break
                    case wire.Changes(revision, changes):
                        for change in changes:
                            assert change.revision > max(position, items.get(change.key.id, 0))
                            items[change.key.id] = change.revision
                        position = revision
                    case wire.Bookmark():
                        quiet += await trio.to_thread.run_sync(is_drained, place)
                    case wire.Resync():
                        raise AssertionError("the other replica did not know the position")
    return items


def test_a_stop_under_load_loses_nothing(region: Callable[..., Region], tmp_path: Path, store: str) -> None:
    """SIGTERM while events pour in: websockets end with 1001, exit status 0 within 10 s, and a restart completes it."""
    place = region(tasks=300, clusters=2, rate=0, preload=3000, seed=9)
    with events_only(tmp_path, place, store) as service:
        begun, code = time.monotonic(), trio.run(_until_closed, service)
        assert service.process is not None
        assert service.process.wait(12) == 0
        assert time.monotonic() - begun < 12
    assert code == 1001
    with events_only(tmp_path, place, store) as service:
        wait_for(lambda: is_drained(place), 60)
        assert not difference(service, place)


async def _until_closed(service: Daemon) -> int:
    async with connected(service.port, "snapshot=false") as socket:
        await socket.get_message()
        service.send(signal.SIGTERM)
        try:
            with trio.fail_after(10):
                while await socket.get_message():
                    pass
        except ConnectionClosed as closed:
            return closed.reason.code if closed.reason else 0
    return 0


def test_a_store_that_is_away_from_the_start_is_told_of(region: Callable[..., Region], tmp_path: Path) -> None:
    """Started before its etcd: one clear line, 503 for lists (an empty one would be believed), then all by itself."""
    place = region(tasks=20, rate=0)
    etcd = EtcdServer(tmp_path / "etcd", fsync=False)
    service = Daemon([*QUEUE, f"--etcd-endpoint={etcd.endpoint}"], place.url, tmp_path / "log")
    service.start()
    try:
        wait_for(lambda: "etcd" in service.json("/readyz")["missing"]["store"])
        assert service.ask("/v1/tasks")[0] == service.ask("/v2/tasks")[0] == 503
        assert service.ask("/healthz")[0] == 200
        assert "store lost" in service.log.read_text()
        with etcd:
            wait_for(service.is_ready, 30)
            assert not difference(service, place)
            assert service.end() == 0
    finally:
        assert service.process is not None
        service.process.kill()
        service.process.wait()

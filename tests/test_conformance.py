"""The Go service's recorded answers, given by the running daemon on both stores, fed from a queue as it was."""

from __future__ import annotations

import http.client
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from css.simulator.inventory import StillWorld
from tests import conformance
from tests.daemon import Daemon, daemon, wait_for
from tests.etcd_server import EtcdServer
from tests.simulated_region import Region

SCENARIOS = conformance.load()
_numbers = itertools.count()


@pytest.mark.parametrize("store", ["embedded", "etcd"])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_the_daemon_answers_as_recorded(
    scenario: str, store: str, region: Callable[..., Region], etcd: EtcdServer, tmp_path: Path
) -> None:
    """Every recorded answer of /v1, over HTTP, after the same messages through SQS and the same ECS API."""
    steps = SCENARIOS[scenario]
    world = next((step["clusters"] for step in steps if step["op"] == "world"), {})
    place = region(world=StillWorld(world))
    config = tmp_path / "css.toml"
    config.write_text(f'[store]\netcd_prefix = "conformance{next(_numbers)}/"\n[source]\nwait = 1\n')
    flags = ["--queue=sqs://event_stream", f"--config={config}", "--reconcile-rate=0", "--keep-environment"]
    flags.append(f"--etcd-endpoint={etcd.endpoint}" if store == "etcd" else f"--store={tmp_path / 'css.db'}")
    versions: dict[str, str] = {}
    with daemon(flags, place.url, tmp_path / "log") as service:
        for step in steps:
            differences = play(step, service, place, versions)
            assert not differences, f"{step.get('path')}: " + "\n".join(differences)


def play(step: dict[str, Any], service: Daemon, place: Region, versions: dict[str, str]) -> list[str]:
    path = step.get("path", "").replace("$VERSION", versions.get("$VERSION", ""))
    match step["op"]:
        case "world":
            return []  # it was there from the start
        case "message":
            tell(place, step["body"])
        case "request":
            status, headers, body = service.ask(path, step["method"])
            return conformance.matches(step["answer"], status, headers.get("content-type", ""), body, headers)
        case "count":
            return conformance.count_matches(step["answer"], service.ask(path)[2])
        case "note-version":
            versions["$VERSION"] = service.json(path)["metadata"]["entityVersion"]
        case "stream":
            return stream(step, path, service, place)
        case op:
            return [f"no such step: {op}"]
    return []


def tell(place: Region, body: str) -> None:
    """Send a message and wait until it has been dealt with: it has left the queue."""
    place.sqs.send_message(QueueUrl=place.queue, MessageBody=body)
    wait_for(lambda: place.control("truth?only=queue")["queue"]["visible"] == 0)
    wait_for(lambda: place.control("truth?only=queue")["queue"]["in_flight"] == 0)


def stream(step: dict[str, Any], path: str, service: Daemon, place: Region) -> list[str]:
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=10)
    connection.request("GET", path)
    answer = connection.getresponse()
    for event in step["feed"]:
        tell(place, event if isinstance(event, str) else json.dumps(event))
    body = b"".join(answer.readline() for _ in step["answer"]["lines"])
    connection.close()
    recorded = {name: value for name, value in step["answer"].items() if name != "lines"}
    headers = {name.lower(): value for name, value in answer.getheaders()}
    found = conformance.matches(recorded, answer.status, headers.get("content-type", ""), b"", headers)
    return found + conformance.lines_match(step["answer"]["lines"], body)

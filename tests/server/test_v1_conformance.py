"""The Go service's recorded answers, given by our handler."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio
import trio.testing

from css.errors import Rejected
from tests import conformance
from tests.served import Served, whole

SCENARIOS = conformance.load()


@pytest.mark.parametrize("scenario", SCENARIOS)
async def test_answers_are_the_recorded_ones(scenario: str) -> None:
    """Status, content type, error text, field names, omitted and null fields: as the Go service answered."""
    served = Served()
    for step in SCENARIOS[scenario]:
        with trio.fail_after(5):
            differences = await _play(served, step)
        assert not differences, f"{step.get('path')}: " + "\n".join(differences)


def test_the_recording_is_complete() -> None:
    """All recorded answers are there: none is skipped by a change of the file."""
    answers = [step for steps in SCENARIOS.values() for step in steps if "answer" in step]
    assert len(answers) == 101


async def _play(served: Served, step: dict[str, Any]) -> list[str]:
    match step["op"]:
        case "world":
            for cluster, listed in step["clusters"].items():
                for task in listed["tasks"].values():
                    served.describe(cluster, "task", task)
                for instance in listed["instances"].values():
                    served.describe(cluster, "instance", instance)
        case "message":
            _tell(served, step)
        case "request":
            got = await served.ask(step["path"], step["method"])
            headers = {name.lower(): value for name, value in got.headers}
            return conformance.matches(step["answer"], got.status, got.content_type, whole(got), headers)
        case "stream":
            return await _stream(served, step)
        case op:
            return [f"no such step: {op}"]
    return []


def _tell(served: Served, step: dict[str, Any]) -> None:
    before = [*served.live.view.rows("task"), *served.live.view.rows("instance")]
    try:
        served.tell(step["body"])
    except Rejected:
        assert step.get("poison")
    if step.get("poison"):
        assert [*served.live.view.rows("task"), *served.live.view.rows("instance")] == before


async def _stream(served: Served, step: dict[str, Any]) -> list[str]:
    async with trio.open_nursery() as nursery:
        follower = await served.follow(nursery, step["path"])
        for message in step["feed"]:
            served.tell(json.dumps(message))
            await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    answer, stream = step["answer"], follower.stream
    return [
        *conformance.matches(
            {"status": answer["status"], "content_type": answer["content_type"]},
            stream.status,
            stream.content_type,
            b"",
            {},
        ),
        *conformance.lines_match(answer["lines"], follower.body),
    ]
